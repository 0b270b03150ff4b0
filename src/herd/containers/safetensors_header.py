"""The header of a safetensors file, parsed in bounded memory and checked in full before a tensor is touched.

Format: https://github.com/huggingface/safetensors: {"name": {"dtype", "shape", "data_offsets": [begin, end]},
"__metadata__": {string: string}}. Stricter than that text where parsers could disagree: no repeated names, no holes, no
overlaps, no bytes at the end. The grammar is small enough to be matched in place, one entry at a time, so that a
hostile header cannot make a tree of objects first.
"""

import json
import re
import sys
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np

from herd.disk.small_files import parse_object
from herd.errors import BadCheckpoint, fail, printable

MAX_HEADER_BYTES = 8 << 20
MAX_TENSORS = 65_536
MAX_NAME_BYTES = 512
MAX_RANK = 8
MAX_METADATA = 10_000
"""Pairs of strings."""

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "I64": np.dtype("<i8"),
}
"""The types that Herd reads; BF16 comes as its uint16 bits, F8_E4M3 and F8_E8M0 as their uint8 ones."""


def _pattern(template: bytes) -> re.Pattern[bytes]:
    """A regular expression in which a space stands for any JSON white space, never backtracked."""
    return re.compile(template.replace(b" ", rb"[\x20\t\r\n]*+"), re.DOTALL)


_STRING = _pattern(rb' "((?:[^"\\\x00-\x1f]++|\\.)*+)"')
_COLON = _pattern(rb" : ")
_NEXT = _pattern(rb" ([,}])")
_OPEN = _pattern(rb"{ (})?")
# The order of keys that every known writer uses; any other order takes the slow way.
_ENTRY = _pattern(
    rb'{ "dtype" : "([A-Z0-9_]{1,16}+)" , "shape" : \[([0-9,\x20\t\r\n]{0,200}+)\] ,'
    rb' "data_offsets" : \[([0-9,\x20\t\r\n]{0,200}+)\] }'
)
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a file; `begin` and `end` count from the first byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsHeader:
    """Entries and metadata of `data`, the header of a file of the given name with `data_bytes` bytes after it.

    Raises BadCheckpoint: one line with file, field and limit.
    """

    def __init__(self, data: bytes, file_name: str, data_bytes: int) -> None:
        self.file_name = file_name
        self.data_bytes = data_bytes
        self.entries: dict[str, TensorEntry] = {}
        self.metadata: dict[str, str] = {}
        self._parse(data)
        self._check_layout()

    def _parse(self, data: bytes) -> None:
        opened = _OPEN.match(data)
        if opened is None:
            self._broken("does not begin with {", 0)
        pos, done = opened.end(), opened[1] is not None
        while not done:
            key = _STRING.match(data, pos)
            colon = _COLON.match(data, key.end()) if key else None
            if key is None or colon is None:
                self._broken("has no name and colon", pos)
            name = self._text(key[1], pos)
            if name in self.entries or (name == "__metadata__" and self.metadata):
                fail(BadCheckpoint, f"{self.file_name}: header names a tensor twice", got=name)
            pos = self._metadata(data, colon.end()) if name == "__metadata__" else self._entry(data, colon.end(), name)
            following = _NEXT.match(data, pos)
            if following is None:
                self._broken("has neither comma nor }", pos)
            pos, done = following.end(), following[1] == b"}"
        if data[pos:].strip(b" \t\r\n"):
            self._broken("goes on after its end", pos)

    def _entry(self, data: bytes, pos: int, name: str) -> int:
        """Read the value of one tensor; returns the place after it."""
        if len(self.entries) >= MAX_TENSORS:
            fail(BadCheckpoint, f"{self.file_name}: header has more than {MAX_TENSORS} tensors")
        match = _ENTRY.match(data, pos)
        if match is not None:
            dtype = match[1].decode()
            shape = self._numbers(match[2], name, "shape")
            offsets = self._numbers(match[3], name, "data_offsets")
            after = match.end()
        else:
            after = data.find(b"}", pos, pos + 4096) + 1
            if not after or data[pos : pos + 1] != b"{":
                self._broken("has no object for a tensor", pos)
            dtype, shape, offsets = self._fields(data[pos:after], name)
        if dtype not in DTYPES:
            fail(
                BadCheckpoint,
                f"{self.file_name}: dtype of a tensor",
                got=f"{dtype} in {name}",
                expected=", ".join(DTYPES),
                do="convert the checkpoint to bf16",
            )
        if len(shape) > MAX_RANK:
            self._bad(name, "shape", f"{len(shape)} axes", f"at most {MAX_RANK}")
        if len(offsets) != 2:
            self._bad(name, "data_offsets", f"{len(offsets)} numbers", "2")
        begin, end = offsets
        available = self.data_bytes
        if not begin <= end <= available:
            self._bad(name, "data_offsets", f"{begin} to {end}", f"within the {available} bytes of data: cut off?")
        needed = prod(shape) * DTYPES[dtype].itemsize
        if needed != end - begin:
            self._bad(name, "data_offsets", f"{end - begin} bytes", f"{needed} for {dtype} {list(shape)}")
        self.entries[name] = TensorEntry(sys.intern(dtype), shape, begin, end)
        return after

    def _numbers(self, text: bytes, name: str, field: str) -> tuple[int, ...]:
        parts = [part.strip(b" \t\r\n") for part in text.split(b",")]
        if parts == [b""]:
            return ()
        for part in parts:
            if not _NUMBER.fullmatch(part):
                self._bad(name, field, text.decode(), "whole numbers from 0 to 2^63")
        return tuple(int(part) for part in parts)

    def _fields(self, data: bytes, name: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
        """Read an entry from any JSON object, for another order of keys or a precise complaint."""
        found = parse_object(data, f"{self.file_name}: header entry", BadCheckpoint)
        if set(found) != {"dtype", "shape", "data_offsets"}:
            self._bad(name, "keys", sorted(found), "dtype, shape, data_offsets")
        if not isinstance(found["dtype"], str):
            self._bad(name, "dtype", found["dtype"], "a string")
        for field in ("shape", "data_offsets"):
            value = found[field]
            if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
                self._bad(name, field, value, "a list of whole numbers from 0 to 2^63")
        return found["dtype"], tuple(found["shape"]), tuple(found["data_offsets"])

    def _metadata(self, data: bytes, pos: int) -> int:
        opened = _OPEN.match(data, pos)
        if opened is None:
            self._broken("has a __metadata__ that is no object", pos)
        pos, done = opened.end(), opened[1] is not None
        while not done:
            key = _STRING.match(data, pos)
            colon = _COLON.match(data, key.end()) if key else None
            value = _STRING.match(data, colon.end()) if colon else None
            following = _NEXT.match(data, value.end()) if value else None
            if key is None or value is None or following is None:
                self._broken("has a __metadata__ that is not strings", pos)
            word = self._text(key[1], pos)
            if word in self.metadata or len(self.metadata) >= MAX_METADATA:
                fail(
                    BadCheckpoint, f"{self.file_name}: __metadata__ repeats a key or has over {MAX_METADATA}", got=word
                )
            self.metadata[word] = self._text(value[1], pos, MAX_HEADER_BYTES)
            pos, done = following.end(), following[1] == b"}"
        return pos

    def _text(self, raw: bytes, pos: int, most: int = MAX_NAME_BYTES) -> str:
        if len(raw) > most:
            self._broken(f"has a name of over {most} bytes", pos)
        try:
            text = raw.decode("utf-8")
            if b"\\" in raw:
                text = json.loads(f'"{text}"')
                text.encode("utf-8")  # half a surrogate pair is no text
        except ValueError:
            self._broken("holds a string that is not UTF-8 or wrongly escaped", pos)
        return text

    def _broken(self, how: str, pos: int) -> NoReturn:
        fail(BadCheckpoint, f"{self.file_name}: the header {how} (byte {pos + 8} of the file)", do="not safetensors")

    def _bad(self, tensor: str, field: str, got: object, expected: str) -> NoReturn:
        fail(BadCheckpoint, f"{self.file_name}: {field} of {printable(tensor[:80])}", got=got, expected=expected)

    def _check_layout(self) -> None:
        place = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != place:
                how = "overlap" if entry.begin < place else "leave a hole"
                self._bad(name, "data_offsets", entry.begin, f"{place}: tensors {how}")
            place = entry.end
        if place != self.data_bytes:
            fail(
                BadCheckpoint,
                f"{self.file_name}: bytes after the last tensor",
                got=f"{self.data_bytes - place}",
                expected="none",
                do="the file holds something that its header does not name",
            )
