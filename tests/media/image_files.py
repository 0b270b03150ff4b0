"""Image files for tests: ordinary ones by Pillow, odd and hostile ones written byte by byte."""

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

SAVED = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    """A file's bytes, by Pillow."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    out = BytesIO()
    image.save(out, SAVED[kind], **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of raw rows (without filter bytes); `before` and `after` are chunks around the picture."""
    row = len(rows) // height if height else 0
    filtered = b"".join(b"\0" + rows[i : i + row] for i in range(0, len(rows), row)) if row else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    picture = chunk(b"IDAT", zlib.compress(filtered))
    return b"\x89PNG\r\n\x1a\n" + header + before + picture + after + chunk(b"IEND", b"")


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of zeros: a few kilobytes for gigabytes. Its rows are compressed piece by piece."""
    squeeze, piece = zlib.compressobj(9), bytes(1 << 20)
    total = height * (width + 1)
    packed = b"".join(squeeze.compress(piece) for _ in range(min(total >> 20, 256))) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP container."""
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8x(width: int, height: int) -> tuple[bytes, bytes]:
    """The chunk that declares a WebP's canvas, with the animation flag."""
    return b"VP8X", b"\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def segment(code: int, data: bytes) -> bytes:
    """One JPEG segment."""
    return bytes([0xFF, code]) + struct.pack(">H", len(data) + 2) + data


def jpeg_header(width: int, height: int, code: int = 0xC0, bits: int = 8) -> bytes:
    """Start of a JPEG with its frame segment, one component."""
    return b"\xff\xd8" + segment(code, struct.pack(">BHHB", bits, height, width, 1) + b"\1\x11\0")


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, header: int = 40, rows: bytes = b"") -> bytes:
    """A BMP with its plain header."""
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(rows), 0, 0, 14 + len(info)) + info + rows


def gif_header(width: int, height: int) -> bytes:
    """Start of a GIF with a two-colour table."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
