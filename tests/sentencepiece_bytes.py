"""SentencePiece's own file, written here: pieces with scores and types, and what the specifications say."""

import struct
from collections.abc import Iterable

Piece = tuple[str, float, int]
BPE, IDENTITY = {3: 2, 35: 1}, {1: b"identity", 3: 1, 4: 0}
"""Fields of a trainer's and a normalizer's specification: kind BPE with byte fallback; texts stay as they are."""
START: list[Piece] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
BYTES: list[Piece] = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]


def varint(number: int) -> bytes:
    """As a protocol buffer has it."""
    number &= (1 << 64) - 1
    found = b""
    while number > 0x7F:
        found, number = found + bytes((number & 0x7F | 0x80,)), number >> 7
    return found + bytes((number,))


def field(number: int, value: int | float | bytes) -> bytes:
    """One field."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def message(fields: Iterable[tuple[int, int | float | bytes]]) -> bytes:
    """Several fields."""
    return b"".join(field(*one) for one in fields)


def model(
    pieces: Iterable[Piece],
    trainer: dict[int, int | float | bytes] | None = None,
    normalizer: dict[int, int | float | bytes] | None = None,
) -> bytes:
    """A whole file; by default of kind BPE with byte fallback, which leaves texts as they are."""
    told = [message(((1, text.encode()), (2, score), (3, kind))) for text, score, kind in pieces]
    specs = ((2, message({**BPE, **(trainer or {})}.items())), (3, message({**IDENTITY, **(normalizer or {})}.items())))
    return message([*((1, one) for one in told), *specs])
