"""Safetensors files that are written tensor by tensor and survive being killed: the writing half of the packed form.

Each file begins with room for its header, which is filled in last; every tensor stands at a multiple of 64 bytes. A
journal beside the files has one line a finished tensor, written after the tensor's bytes; what is not in the journal
was never finished and is written over.

    {"name", "file", "dtype", "shape", "begin", "end", "packed"}      one a tensor, in the order of the file

What it is not: which tensors a model has (`write`), atomic (the folder is renamed when all is done).
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from herd.checkpoint.packed.form import ALIGNMENT, PAD, PackedTensor, to_metadata
from herd.containers.safetensors_folder import INDEX
from herd.containers.safetensors_header import DTYPES
from herd.containers.safetensors_write import SHARD_BYTES
from herd.disk.atomic import sync
from herd.disk.hashing import sha256
from herd.disk.journal import JOURNAL, Journal
from herd.disk.mapping import IN_MEMORY, MappingGuard
from herd.formats.dtypes import Array

_PAGE = 4096


class TensorRecord(msgspec.Struct, frozen=True):
    """A finished tensor; `begin` and `end` count from the first byte of data of its file."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    packed: PackedTensor | None = None


class Shards:
    """The files of `folder`, to be filled. `room`: bytes that names and shapes take at most (see `header_room`).

    With `resume` a journal of the same job is taken up; of another, UsageError names what differs. Without it, files
    that a killed process left are not looked at. `durable`: each tensor is synced before its line in the journal, so
    that a journal is true even after a power cut. `guard`: of the files that the tensors come from; no line is written
    for what could not be read.
    """

    def __init__(
        self,
        folder: Path,
        job: Mapping[str, str],
        room: int,
        *,
        resume: bool = False,
        durable: bool = False,
        shard_bytes: int = SHARD_BYTES,
        guard: MappingGuard = IN_MEMORY,
    ) -> None:
        self.folder = folder
        self._guard = guard
        self.done: dict[str, TensorRecord] = {}
        self._start = -(-(8 + room) // _PAGE) * _PAGE
        self._shard_bytes = shard_bytes
        self._durable = durable
        self._file: BinaryIO | None = None
        self._open_name = ""
        self._journal = Journal(folder, job, self._believe if resume else None, durable=durable)

    def write(
        self, name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[Array], packed: PackedTensor | None = None
    ) -> int:
        """Write a tensor, given in row-major pieces; returns its bytes. A name that is finished already is skipped."""
        if name in self.done:
            return 0
        size = prod(shape) * DTYPES[dtype].itemsize
        file, begin = self._place(size)
        out = self._opened(file)
        out.seek(self._start + begin)
        written = 0
        for piece in pieces:
            assert piece.dtype == DTYPES[dtype], (name, piece.dtype, dtype)
            written += out.write(np.ascontiguousarray(piece).data.cast("B"))
        assert written == size, (name, written, size)
        out.flush()
        if self._durable:
            os.fsync(out.fileno())
        self._guard.check_readable()
        record = TensorRecord(name, file, dtype, shape, begin, begin + size, packed)
        self.done[name] = record
        self._journal.add(msgspec.json.encode(record))
        return size

    def finish(self) -> dict[str, str]:
        """Fill in the headers, write the index, delete the journal. Returns the SHA-256 of each file with weights."""
        files: dict[str, list[TensorRecord]] = {}
        for record in self.done.values():
            files.setdefault(record.file, []).append(record)
        for name, records in files.items():
            out = self._opened(name)
            out.truncate(self._start + records[-1].end)
            out.seek(0)
            out.write(self._header(records))
            out.flush()
        self.close()
        index = {
            "metadata": {"total_size": sum(r.end - r.begin for r in self.done.values())},
            "weight_map": {name: record.file for name, record in self.done.items()}
            | {pad: name for name, records in files.items() for pad, _ in _pads(records)},
        }
        (self.folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")
        with ThreadPoolExecutor(min(4, max(1, len(files)))) as pool:
            digests = dict(zip(files, pool.map(lambda name: sha256(self.folder / name), files), strict=True))
        (self.folder / JOURNAL).unlink()
        return digests

    def close(self) -> None:
        """Close the files as they are: what is finished was flushed; the rest is not tried again."""
        self._journal.close()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    # -- places ----------------------------------------------------------------------------------------------------

    def _place(self, size: int) -> tuple[str, int]:
        """The file that the next tensor goes to, and the place in its data."""
        last = next(reversed(self.done.values())) if self.done else None
        if last is None:
            return _file_name(1), 0
        begin = _aligned(last.end)
        if begin + size > self._shard_bytes:
            return _file_name(len({r.file for r in self.done.values()}) + 1), 0
        return last.file, begin

    def _opened(self, name: str) -> BinaryIO:
        if self._file is None or self._open_name != name:
            if self._file is not None:
                self._file.close()
            path = self.folder / name
            if not path.exists():
                path.touch()
                if self._durable:
                    sync(self.folder)
            self._file, self._open_name = path.open("r+b"), name
        return self._file

    def _header(self, records: list[TensorRecord]) -> bytes:
        header: dict[str, Any] = {
            "__metadata__": {"format": "pt", **to_metadata({r.name: r.packed for r in records if r.packed})}
        }
        pads = dict(_pads(records))
        for record in records:
            header[record.name] = _entry(record.dtype, list(record.shape), record.begin, record.end)
        for name, (begin, end) in pads.items():
            header[name] = _entry("U8", [end - begin], begin, end)
        text = json.dumps(header, separators=(",", ":")).encode()
        room = self._start - 8
        assert len(text) <= room, (len(text), room)
        return room.to_bytes(8, "little") + text + b" " * (room - len(text))

    # -- the journal -------------------------------------------------------------------------------------------------

    def _believe(self, line: bytes) -> bool:
        """Accept a line of the journal if its bytes are there."""
        try:
            record = msgspec.json.decode(line, type=TensorRecord)
        except msgspec.DecodeError:
            return False
        path = self.folder / record.file
        if not path.is_file() or path.stat().st_size < self._start + record.end:
            return False
        self.done[record.name] = record
        return True


def header_room(tensors: Iterable[str]) -> int:
    """The most bytes of header that tensors of these names take: an entry, an entry in the metadata, a pad."""
    return sum(2 * len(name) + 480 for name in tensors) + 128


def _aligned(place: int) -> int:
    return -(-place // ALIGNMENT) * ALIGNMENT


def _file_name(number: int) -> str:
    return f"model-{number:05d}.safetensors"


def _entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _pads(records: list[TensorRecord]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Gaps between the tensors of a file: a name, unique among all files, and the place."""
    number = int(records[0].file.split("-")[1].split(".")[0])
    for i, (a, b) in enumerate(pairwise(records)):
        if a.end != b.begin:
            yield f"{PAD}{number}.{i}", (a.end, b.begin)
