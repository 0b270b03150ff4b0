"""What an image file declares, read without decoding it: kind by magic bytes, size, and that it is whole.

A walk over each container's own blocks, so that a bomb is refused on its header and a truncated or damaged file
before a decoder sees it. Sources: PNG (W3C, 3rd edition), JPEG (ITU T.81 annex B), GIF89a, the WebP container
specification, the BITMAPINFOHEADER family. What it is not: a decoder; colour and metadata are not looked at.
"""

import re
import struct
import zlib
from collections.abc import Callable
from typing import NoReturn

from herd.errors import BadMedia, fail
from herd.media.limits import ImageLimits

Size = tuple[int, int]
"""width, height"""

ALLOWED = "PNG, JPEG, WebP, GIF or BMP"

# Other formats that are sent as images, by their first bytes, so that the refusal can name them. Several are programs
# (EPS, SVG, PDF) or have a history of decoder holes.
_REFUSED = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"8BPS", "PSD"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"SIMPLE  =", "FITS"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\x02\0", "CUR"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
)
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?+\s*+<(\?xml|!doctype|svg|html|!--)", re.IGNORECASE)


def sniff(data: bytes, name: str) -> str:
    """png, jpeg, webp, gif or bmp by the first bytes, whatever the file is called. Raises BadMedia for another."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith(b"BM"):
        return "bmp"
    found = next((kind for magic, kind in _REFUSED if data.startswith(magic)), None)
    if found is None and _MARKUP.match(data[:256]):
        found = "SVG or another markup"
    if found is None and data[4:8] == b"ftyp":
        found = "AVIF, HEIC or a video"
    if found is None:
        found = f"bytes {data[:8].hex(' ')}" if data else "no bytes"
    return fail(BadMedia, name, got=found, expected=ALLOWED, do="convert the image first")


def declared_size(kind: str, data: bytes, name: str, limits: ImageLimits) -> Size:
    """Width and height that the file declares, once its container is whole. Raises BadMedia."""
    try:
        width, height = _WALKS[kind](data, name, limits)
    except (struct.error, IndexError):
        _truncated(name)
    limits.check_size(name, width, height)
    return width, height


def _truncated(name: str) -> NoReturn:
    fail(BadMedia, f"{name} is truncated", do="send the whole file")


def _too_many(name: str, what: str, limit: int) -> NoReturn:
    fail(BadMedia, f"{name}: {what}", got=f"more than {limit}", expected=f"at most {limit}")


def _png(data: bytes, name: str, limits: ImageLimits) -> Size:
    """Every chunk has its checksum, and the last is IEND."""
    at, size, pictures = 8, None, 0
    for _ in range(limits.blocks):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        (checksum,) = struct.unpack_from(">I", data, end)
        if size is None:
            if kind != b"IHDR" or length != 13:
                fail(BadMedia, f"{name}: first PNG chunk", got=repr(kind), expected="IHDR of 13 bytes")
            size = struct.unpack_from(">II", data, at + 8)
            # before the checksums of what may be a bomb
            limits.check_size(name, *size)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != checksum:
            fail(BadMedia, f"{name}: PNG chunk {kind!r} at byte {at}", got="a wrong checksum", do="the file is damaged")
        pictures += kind == b"IDAT"
        if kind == b"IEND":
            if not pictures:
                fail(BadMedia, f"{name} has no picture in it")
            return size
        at = end + 4
    _too_many(name, "PNG chunks", limits.blocks)


# A marker is FF and a code; in scan data FF is followed by 00 (a data byte) or by D0..D7 (restart), which are neither.
# Of several FF the last one is the marker's: so no run of them is looked at twice.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended, progressive; each with Huffman coding."""


def _jpeg(data: bytes, name: str, limits: ImageLimits) -> Size:
    """Segments up to the end marker; one frame, 8 bits a sample."""
    at, size, scans = 2, None, 0
    for _ in range(limits.blocks):
        found = _MARKER.search(data, at)
        if found is None:
            _truncated(name)
        code, at = found[1][0], found.end()
        if code == 0xD9:
            if size is None or not scans:
                fail(BadMedia, f"{name} has no picture in it")
            return size
        if code in (0x01, 0xD8):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        if length < 2 or at + length > len(data):
            _truncated(name)
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            bits, height, width = struct.unpack_from(">BHH", data, at + 2)
            if code not in _FRAMES or bits != 8 or size is not None:
                got = "two frames" if size is not None else f"process {code - 0xC0}, {bits} bits"
                fail(BadMedia, f"{name}: JPEG", got=got, expected="one frame, baseline or progressive, 8 bits")
            size = (width, height)
            limits.check_size(name, *size)
        elif code == 0xDA:
            scans += 1
            work = scans * size[0] * size[1] if size else 0
            if scans > limits.scans or work > limits.scanned_pixels:
                got = f"{scans} or more over {size}"
                fail(
                    BadMedia, f"{name}: JPEG scans", got=got, expected=f"{limits.scans}, {limits.scanned_pixels} pixels"
                )
        at += length
    _too_many(name, "JPEG segments", limits.blocks)


def _gif(data: bytes, name: str, limits: ImageLimits) -> Size:
    """Check a file up to the end of its first picture; the rest of an animation is not looked at."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _table_bytes(flags)
    blocks = 0
    while (kind := data[at]) == 0x21:
        at, blocks = _after_sub_blocks(data, at + 2, name), blocks + 1
        if blocks > limits.blocks:
            _too_many(name, "GIF extensions", limits.blocks)
    if kind != 0x2C:
        fail(BadMedia, f"{name} has no picture in it", got=f"GIF block 0x{kind:02x}")
    left, top, w, h, flags = struct.unpack_from("<HHHHB", data, at + 1)
    # A picture that sticks out widens the screen, as decoders have it.
    size = max(width, left + w), max(height, top + h)
    limits.check_size(name, *size)
    _after_sub_blocks(data, at + 10 + _table_bytes(flags) + 1, name)
    return size


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, at: int, name: str) -> int:
    while length := data[at]:
        at += 1 + length
    return at + 1


def _webp(data: bytes, name: str, limits: ImageLimits) -> Size:
    """The first chunk says the size; all of them lie in the file."""
    (length,) = struct.unpack_from("<I", data, 4)
    end = 8 + length
    if end > len(data):
        _truncated(name)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(_bytes(data, at, 3), "little") for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (x & 0x3FFF for x in struct.unpack_from("<HH", data, 26))
    else:
        fail(BadMedia, f"{name}: first WebP chunk", got=repr(kind), expected="VP8X, VP8L or VP8")
    limits.check_size(name, width, height)
    at = 12
    for _ in range(limits.blocks):
        if at >= end:
            return width, height
        (length,) = struct.unpack_from("<I", data, at + 4)
        # chunks are padded to even lengths; the last one's padding may be missing
        if at + 8 + length > end:
            _truncated(name)
        at += 8 + length + (length & 1)
    _too_many(name, "WebP chunks", limits.blocks)


def _bytes(data: bytes, at: int, count: int) -> bytes:
    if at + count > len(data):
        raise IndexError
    return data[at : at + count]


def _bmp(data: bytes, name: str, limits: ImageLimits) -> Size:
    """Uncompressed, and all rows are there. (Run lengths would be decoded by a slow path, JPEG inside by nobody.)"""
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif 40 <= header <= 124:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        fail(BadMedia, f"{name}: BMP header", got=f"{header} bytes", expected="12 or 40 to 124")
    # a negative height means rows from the top
    size = width, abs(height)
    limits.check_size(name, *size)
    if compression not in (0, 3) or bits not in (1, 4, 8, 16, 24, 32):
        got = f"compression {compression}, {bits} bits"
        fail(BadMedia, f"{name}: BMP", got=got, expected="an uncompressed one of 1 to 32 bits")
    if offset + (width * bits + 31) // 32 * 4 * size[1] > len(data):
        _truncated(name)
    return size


_WALKS: dict[str, Callable[[bytes, str, ImageLimits], Size]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
    "gif": _gif,
    "bmp": _bmp,
}
