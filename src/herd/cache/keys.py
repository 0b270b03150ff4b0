"""What stands at a position, as bytes: a prefix-free code, so that two runs of keys are equal exactly where the bytes
are, and so that runs sorted by their bytes lie beside those with which they share most.

    token id                4 bytes, big-endian, below 2^31: the first bit is 0
    (digest, place)         of a tile; 0xFF (bytes) or 0xFE (str), 2 bytes: length of the digest, the digest, 8 bytes:
                            place. The digest must cover whatever makes features differ: pixels, shape, mode.
"""

import struct
from collections.abc import Hashable, Sequence

TOKEN_BYTES = 4


def encode(keys: Sequence[Hashable]) -> bytes:
    """The code of these keys, one after another. Raises TypeError for a key that is neither a token id nor a tile's
    row."""
    try:
        code = struct.pack(f">{len(keys)}i", *keys)
        if not any(byte >> 7 for byte in code[::TOKEN_BYTES]):
            return code
    except (struct.error, TypeError):
        pass
    return b"".join(map(_one, keys))


def shared(a: bytes, b: bytes) -> int:
    """Number of whole keys that two codes have in common at their start."""
    n = min(len(a), len(b))
    if a[:n] != b[:n]:
        differs = int.from_bytes(a[:n], "big") ^ int.from_bytes(b[:n], "big")
        n -= (differs.bit_length() + 7) // 8
    return count(a, n)


def count(code: bytes, end: int) -> int:
    """Number of whole keys in the first `end` bytes of a code."""
    found = at = 0
    while at < end:
        at += TOKEN_BYTES if code[at] < 0x80 else 11 + int.from_bytes(code[at + 1 : at + 3], "big")
        found += at <= end
    return found


def _one(key: Hashable) -> bytes:
    if isinstance(key, tuple) and len(key) == 2:
        digest, place = key
        if isinstance(digest, bytes | str) and isinstance(place, int) and len(digest) < 1 << 14:
            raw = digest if isinstance(digest, bytes) else digest.encode()
            mark = b"\xff" if isinstance(digest, bytes) else b"\xfe"
            return mark + struct.pack(">H", len(raw)) + raw + struct.pack(">q", place)
    elif hasattr(key, "__index__") and 0 <= key.__index__() < 1 << 31:
        return struct.pack(">i", key)
    raise TypeError(f"a key is a token id below 2^31 or (digest, place), not {key!r:.80}")
