"""The header of a GGUF file: limits, types, keys and the list of tensors. `gguf_parse.py` reads it."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from herd.errors import BadCheckpoint, fail

Buffer: TypeAlias = Any
"""bytes or an mmap."""

MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 15
MAX_STRINGS = 1 << 20
"""Strings in all arrays together: Llama 4's vocabulary and merges are 642,000, the largest known 777,000."""
MAX_STRING = 16 << 20
"""Bytes of one string; whole tokenizer.json files have been seen in a key."""
MAX_HEADER = 64 << 20
"""Bytes before the data; Llama 4's header takes 14 MB."""
MAX_NAME = 256
"""Bytes of a key or a tensor name. The specification allows tensors 64, and keys in use have under 80."""
MAX_ALIGNMENT = 1 << 16
MAX_AXES = 4

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
SCALARS = {
    0: ("u8", "<B"),
    1: ("i8", "<b"),
    2: ("u16", "<H"),
    3: ("i16", "<h"),
    UINT32: ("u32", "<I"),
    5: ("i32", "<i"),
    6: ("f32", "<f"),
    BOOL: ("bool", "<?"),
    10: ("u64", "<Q"),
    11: ("i64", "<q"),
    12: ("f64", "<d"),
}
"""Value type -> name, struct code."""

OTHER_FORMATS = {
    9: "q8_1", 15: "q8_k", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
"""Number formats that GGUF knows and Herd does not read, so that an error can name them."""

_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file. `shape` is row-major (the file lists axes reversed)."""

    name: str
    format: str
    shape: tuple[int, ...]
    start: int
    """Byte of the file at which its data begins."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Value:
    """The place and type of a key's value in the file; decoded on request."""

    type: int
    start: int
    count: int = 0
    """Elements of an array."""
    element: int = 0
    """The number of the elements' type."""


class Keys(Mapping[str, Any]):
    """The keys of a file. A scalar is returned as int, float, bool or str, an array of numbers as numpy array (a copy),
    an array of strings as list. Raises BadCheckpoint when a string turns out not to be UTF-8."""

    def __init__(self, path: str, buffer: Buffer, values: dict[str, Value]) -> None:
        self._path, self._buffer, self._values = path, buffer, values
        self.check: Callable[[], None] = lambda: None
        """Called before and after a value is read: whoever mapped the file checks here that it is still the same."""

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        self.check()
        try:
            return self._read(name, value)
        finally:
            self.check()

    def _read(self, name: str, value: Value) -> Any:
        if value.type == STRING:
            return self._strings(name, value.start, 1)[0]
        if value.type != ARRAY:
            return struct.unpack_from(SCALARS[value.type][1], self._buffer, value.start)[0]
        if value.element == STRING:
            return self._strings(name, value.start, value.count)
        return np.frombuffer(self._buffer, SCALARS[value.element][1], value.count, value.start).copy()

    def _strings(self, name: str, at: int, count: int) -> list[str]:
        buffer, length, found = self._buffer, _U64.unpack_from, []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length(buffer, at)[0]
                found.append(str(buffer[start:at], "utf-8"))
        except UnicodeDecodeError as e:
            fail(
                BadCheckpoint,
                f"{self._path}: key {name}, string {len(found)} is not UTF-8",
                got=f"byte {e.object[e.start]:#04x}",
                do="the file is damaged",
            )
        return found


@dataclass(frozen=True)
class GgufHeader:
    """The parsed header of one file."""

    version: int
    keys: Keys
    tensors: dict[str, TensorInfo]
    """The tensors, in file order."""
    alignment: int
