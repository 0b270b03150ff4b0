"""A GGUF file as bytes, by hand: every field can be a lie. Independent of our writer and of the gguf package."""

import struct
from collections.abc import Sequence

U8, BOOL, U32, F32, STRING, ARRAY, U64 = 0, 7, 4, 6, 8, 9, 10
Q4_0 = 2


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def u32(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def text(name: str, value: str) -> bytes:
    return key(name, STRING, string(value))


def array(name: str, element: int, count: int, content: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", element, count) + content)


def tensor(name: str | bytes, sizes: Sequence[int], format: int = 0, offset: int = 0, axes: int | None = None) -> bytes:
    """Sizes innermost first, as the file has them."""
    count = len(sizes) if axes is None else axes
    return string(name) + struct.pack(f"<I{len(sizes)}QIQ", count, *sizes, format, offset)


def gguf(
    keys: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: int = 0,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """The file, with `data` zero bytes of tensors."""
    head = magic + struct.pack("<I", version)
    head += struct.pack("<Q", len(tensors) if num_tensors is None else num_tensors)
    head += struct.pack("<Q", len(keys) if num_keys is None else num_keys)
    head += b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + bytes(data)
