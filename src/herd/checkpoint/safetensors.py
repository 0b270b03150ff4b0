"""Read safetensors files from a map of the file: everything is checked against the header before a tensor is touched.

Format: https://github.com/huggingface/safetensors: header length (u64, little-endian), a JSON object
{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {string: string}}, then the data.
Stricter than that text where parsers could disagree: no repeated names, no holes, no overlaps, no bytes at the end.
What it is not: a reader of pickles in any form.
"""

import contextlib
import json
import mmap
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from herd.checkpoint.floats import Array
from herd.checkpoint.small_files import parse_object, regular_file
from herd.errors import BadCheckpoint, fail

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
}
"""What Herd reads; BF16 comes as its uint16 bits."""

MAGICS = {
    b"PK\x03\x04": "a zip archive (a PyTorch .pth or .bin file)",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a numpy array",
    b"version https://git-lfs": "a git-lfs pointer: the file itself was not fetched",
    b"<!DOCTYPE": "a web page",
}


def _pattern(template: bytes) -> re.Pattern[bytes]:
    """A regular expression in which a space stands for any JSON white space, never backtracked."""
    return re.compile(template.replace(b" ", rb"[\x20\t\r\n]*+"), re.DOTALL)


_STRING = _pattern(rb' "((?:[^"\\\x00-\x1f]++|\\.)*+)"')
_COLON = _pattern(rb" : ")
_NEXT = _pattern(rb" ([,}])")
_OPEN = _pattern(rb"{ (})?")
# The order of keys that every known writer uses; any other order takes the slow way.
_ENTRY = _pattern(
    rb'{ "dtype" : "([A-Z0-9_]{1,16})" , "shape" : \[([0-9,\x20\t\r\n]{0,200}+)\] ,'
    rb' "data_offsets" : \[([0-9,\x20\t\r\n]{0,200}+)\] }'
)
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file; `begin` and `end` count from the first byte after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafeFile:
    """An open, mapped safetensors file. Raises NotFound, BadCheckpoint (one line: file, field, limit)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: dict[str, Entry] = {}
        self.metadata: dict[str, str] = {}
        regular_file(path, BadCheckpoint)
        with path.open("rb") as file:
            self._stamp = _stamp(os.fstat(file.fileno()))
            self.num_bytes = self._stamp[0]
            self._data_start = self._read_header(file.read(8), file.read)
            self._check_layout()
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, name: str) -> Array:
        """The tensor, without a copy, read-only; bfloat16 as uint16. (Copied if the file has it at an odd address.)"""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        start = self._data_start + entry.begin
        found = np.frombuffer(self._map, dtype, prod(entry.shape), start).reshape(entry.shape)
        return found if start % dtype.itemsize == 0 else np.require(found, requirements="A")

    def check_unchanged(self) -> None:
        """Raise BadCheckpoint when the file on disk is no longer the one that was opened: reading on from the map
        would give other bytes, or end the process when the file has become shorter."""
        try:
            now = _stamp(self.path.stat())
        except OSError:
            now = None
        if now != self._stamp:
            fail(BadCheckpoint, f"{self.path} was changed, replaced or removed while it was open", do="load it again")

    def close(self) -> None:
        """Give the map back, at once or when the last array that looks into it goes."""
        with contextlib.suppress(BufferError):
            self._map.close()

    # -- the header ------------------------------------------------------------------------------------------------

    def _read_header(self, first: bytes, read: Callable[[int], bytes]) -> int:
        name = self.path.name
        if len(first) < 8:
            self._explain(first)
            fail(BadCheckpoint, f"{name}: size", got=f"{self.num_bytes} bytes", expected="at least 10")
        length = int.from_bytes(first, "little")
        for most, whose in ((MAX_HEADER_BYTES, "the limit"), (self.num_bytes - 8, "what the file has")):
            if length > most:
                self._explain(first + read(32))
                fail(BadCheckpoint, f"{name}: header length", got=length, expected=f"at most {most} bytes, {whose}")
        data = read(length)
        if not data.startswith(b"{"):
            self._explain(first + data)
        self._parse(data)
        return 8 + length

    def _explain(self, start: bytes) -> None:
        """Refuse a file of another kind by its first bytes. Not asked of a file that may be good: any two bytes can
        begin the length of a header."""
        for magic, meaning in MAGICS.items():
            if start.startswith(magic):
                fail(BadCheckpoint, f"{self.path.name}: not safetensors", got=meaning)

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
                fail(BadCheckpoint, f"{self.path.name}: header names a tensor twice", got=name)
            pos = self._metadata(data, colon.end()) if name == "__metadata__" else self._entry(data, colon.end(), name)
            following = _NEXT.match(data, pos)
            if following is None:
                self._broken("has neither comma nor }", pos)
            pos, done = following.end(), following[1] == b"}"
        if data[pos:].strip(b" \t\r\n"):
            self._broken("goes on after its end", pos)

    def _entry(self, data: bytes, pos: int, name: str) -> int:
        """Take in the value of one tensor; returns the place after it."""
        if len(self.entries) >= MAX_TENSORS:
            fail(BadCheckpoint, f"{self.path.name}: header has more than {MAX_TENSORS} tensors")
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
                f"{self.path.name}: dtype of a tensor",
                got=f"{dtype} in {name}",
                expected=", ".join(DTYPES),
                do="convert the checkpoint to bf16",
            )
        if len(shape) > MAX_RANK:
            self._bad(name, "shape", f"{len(shape)} axes", f"at most {MAX_RANK}")
        if len(offsets) != 2:
            self._bad(name, "data_offsets", f"{len(offsets)} numbers", "2")
        begin, end = offsets
        available = self.num_bytes - 8 - len(data)
        if not begin <= end <= available:
            self._bad(name, "data_offsets", f"{begin} to {end}", f"within the {available} bytes of data: cut off?")
        needed = prod(shape) * DTYPES[dtype].itemsize
        if needed != end - begin:
            self._bad(name, "data_offsets", f"{end - begin} bytes", f"{needed} for {dtype} {list(shape)}")
        self.entries[name] = Entry(sys.intern(dtype), shape, begin, end)
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
        """The same from any JSON, for another order of keys or a precise complaint."""
        found = parse_object(data, f"{self.path.name}: header entry", BadCheckpoint)
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
                    BadCheckpoint, f"{self.path.name}: __metadata__ repeats a key or has over {MAX_METADATA}", got=word
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
        fail(BadCheckpoint, f"{self.path.name}: the header {how} (byte {pos + 8} of the file)", do="not safetensors")

    def _bad(self, tensor: str, field: str, got: object, expected: str) -> NoReturn:
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in tensor[:80])
        fail(BadCheckpoint, f"{self.path.name}: {field} of {shown}", got=got, expected=expected)

    def _check_layout(self) -> None:
        data_bytes = self.num_bytes - self._data_start
        place = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != place:
                how = "overlap" if entry.begin < place else "leave a hole"
                self._bad(name, "data_offsets", entry.begin, f"{place}: tensors {how}")
            place = entry.end
        if place != data_bytes:
            fail(
                BadCheckpoint,
                f"{self.path.name}: bytes after the last tensor",
                got=f"{data_bytes - place}",
                expected="none",
                do="the file holds something that its header does not name",
            )


def _stamp(found: os.stat_result) -> tuple[int, int, int, int]:
    return (found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)
