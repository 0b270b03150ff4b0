"""Importance matrices as llama.cpp has them: both of its forms read, the newer one written.

    GGUF, general.type "imatrix"   NAME.in_sum2 [matrices, I] float32, the squares of a weight's inputs summed over the
                                   rows of a text; NAME.counts [matrices, 1] float32, how many rows those were
    binary (.dat, .imatrix)        i32 entries; each: i32 bytes, NAME, i32 calls, i32 values, float32 values (means
                                   times calls; all matrices one after the other); i32 chunks, i32 bytes, text's name

NAME is that of the tensor in a GGUF model; a stack of experts has a matrix for each. What it is not: what a model does
with it (`passes.imatrix`). Source: llama.cpp's imatrix tool (2026).
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from herd.checkpoint.gguf.keys import key_bytes, string_bytes
from herd.containers.gguf import Gguf, open_gguf
from herd.containers.gguf_header import MAX_NAME, MAX_TENSORS
from herd.disk.atomic import new_file
from herd.disk.small_files import regular_file
from herd.errors import BadCheckpoint, fail, printable

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

_SQUARES, _COUNTS = ".in_sum2", ".counts"
_ALIGNMENT = 32


@dataclass(frozen=True)
class InputSums:
    """Squares of one tensor's inputs [matrices, I], summed over so many rows [matrices]; a count of 0 says nothing."""

    squares: Floats
    counts: Floats


@dataclass(frozen=True)
class Imatrix:
    """What a file holds: sums by the tensor's name in GGUF, the texts that they come from, chunks of them read."""

    tensors: Mapping[str, InputSums]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0
    """Tokens of a chunk; 0: not known."""


def read_imatrix(path: Path) -> Imatrix:
    """Read a file of either form. Raises NotFound, BadCheckpoint: one line naming file and tensor."""
    size = regular_file(path, BadCheckpoint).st_size
    with path.open("rb") as file:
        is_gguf = file.read(4) == b"GGUF"
        file.seek(0)
        found = _read_gguf(path) if is_gguf else _Binary(path, file, size).read()
    for name, sums in found.tensors.items():
        for values in (sums.squares, sums.counts):
            if not np.isfinite(values).all() or (values < 0).any():
                fail(BadCheckpoint, f"{path}: {name}", got="a negative, NaN or infinite number", expected="0 or more")
    return found


def _read_gguf(path: Path) -> Imatrix:
    reader = open_gguf(path)
    if reader.keys.get("general.type") != "imatrix":
        fail(BadCheckpoint, f"{path}: general.type", got=reader.keys.get("general.type"), expected="imatrix")
    tensors: dict[str, InputSums] = {}
    for full in reader.tensors:
        if not full.endswith(_SQUARES):
            continue
        name = full.removesuffix(_SQUARES)
        counts = reader.array(name + _COUNTS).reshape(-1)
        squares = reader.array(full)
        if not len(counts) or squares.size % len(counts):
            fail(BadCheckpoint, f"{path}: {full}", got=f"{squares.size} numbers", expected=f"{len(counts)} equal rows")
        tensors[name] = InputSums(np.array(squares, np.float32).reshape(len(counts), -1), np.array(counts, np.float32))
    datasets = _key(reader, "imatrix.datasets", list, [])
    chunks, chunk_size = (_key(reader, f"imatrix.chunk_{x}", int, 0) for x in ("count", "size"))
    return Imatrix(tensors, tuple(map(str, datasets)), chunks, chunk_size)


def _key(reader: Gguf, name: str, kind: type[T], default: T) -> T:
    """A key of this type. Raises BadCheckpoint for another."""
    value = reader.keys.get(name, default)
    if type(value) is not kind:
        fail(BadCheckpoint, f"{reader.path}: {name}", got=type(value).__name__, expected=kind.__name__)
    return value


class _Binary:
    """The older form, read front to back; every length is compared with what is left of the file."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path, self._file, self._left = path, file, size

    def read(self) -> Imatrix:
        tensors: dict[str, InputSums] = {}
        for _ in range(self._int("number of entries", MAX_TENSORS)):
            name, sums = self._entry()
            if tensors.setdefault(name, sums) is not sums:
                fail(BadCheckpoint, f"{self._path}: a tensor stands twice", got=name)
        if not tensors:
            fail(BadCheckpoint, f"{self._path}: no importance matrix")
        if self._left < 8:  # the oldest files end here
            return Imatrix(tensors)
        chunks = self._int("chunks", 1 << 30, 0)
        return Imatrix(tensors, (self._text("text's name", 1 << 16, 0),), chunks)

    def _entry(self) -> tuple[str, InputSums]:
        name = self._text("name", MAX_NAME)
        calls = self._int(f"calls of {name}", 1 << 30, 0)
        count = self._int(f"values of {name}", 1 << 30)
        values = np.frombuffer(self._bytes(4 * count, f"values of {name}"), "<f4").reshape(1, -1)
        return name, InputSums(np.array(values, np.float32), np.full(1, calls, np.float32))

    def _text(self, what: str, most: int, least: int = 1) -> str:
        data = self._bytes(self._int(f"bytes of a {what}", most, least), what)
        return printable(data.decode("utf-8", "replace"))  # it comes into errors, and no tensor has another name

    def _int(self, what: str, most: int, least: int = 1) -> int:
        value = int(struct.unpack("<i", self._bytes(4, what))[0])
        if not least <= value <= most:
            do = "this is no importance matrix, or it is cut"
            fail(BadCheckpoint, f"{self._path}: {what}", got=value, expected=f"{least} to {most}", do=do)
        return value

    def _bytes(self, count: int, what: str) -> bytes:
        if count > self._left:
            fail(BadCheckpoint, f"{self._path}: {what}", got=f"{self._left} bytes", expected=f"{count} bytes more")
        self._left -= count
        return self._file.read(count)


def write_imatrix(path: Path, imatrix: Imatrix, *, overwrite: bool = False) -> None:
    """Write a file in the newer form. Raises what `new_file` raises."""
    arrays: dict[str, Floats] = {}
    for name, sums in sorted(imatrix.tensors.items()):
        arrays[name + _SQUARES] = np.asarray(sums.squares, "<f4")
        arrays[name + _COUNTS] = np.asarray(sums.counts, "<f4").reshape(-1, 1)
    keys = {
        "general.type": "imatrix",
        "imatrix.datasets": list(imatrix.datasets),
        "imatrix.chunk_count": imatrix.chunks,
        "imatrix.chunk_size": imatrix.chunk_size,
    }
    with new_file(path, overwrite=overwrite) as temp, temp.open("wb") as out:
        for piece in _gguf_pieces(keys, arrays):
            out.write(piece)


def _gguf_pieces(keys: Mapping[str, Any], arrays: Mapping[str, Floats]) -> Iterator[bytes]:
    head = [b"GGUF", struct.pack("<IQQ", 3, len(arrays), len(keys))]
    head += [key_bytes(name, value) for name, value in keys.items()]
    start = 0
    for name, array in arrays.items():
        head.append(string_bytes(name) + struct.pack("<IQQIQ", 2, *array.shape[::-1], 0, start))
        start += array.nbytes + -array.nbytes % _ALIGNMENT
    whole = b"".join(head)
    yield whole + bytes(-len(whole) % _ALIGNMENT)
    for array in arrays.values():
        yield array.tobytes() + bytes(-array.nbytes % _ALIGNMENT)
