"""Read safetensors files from a map of the file: everything is checked against the header before a tensor is touched.

What it is: one open file, its arrays as views of the map. What it is not: the header's grammar
(`safetensors_header`), a folder of shards (`safetensors_folder`), a reader of pickles in any form.
"""

import os
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from herd.containers.safetensors_header import DTYPES, MAX_HEADER_BYTES, SafetensorsHeader
from herd.disk.mapping import MappedFile
from herd.disk.small_files import regular_file
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array

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


class SafeFile(MappedFile):
    """An open, mapped safetensors file. Raises NotFound, BadCheckpoint (one line: file, field, limit)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        regular_file(path, BadCheckpoint)
        with path.open("rb") as file:
            self.num_bytes = os.fstat(file.fileno()).st_size
            data = self._read_header(file.read(8), file.read)
            self._data_start = 8 + len(data)
            header = SafetensorsHeader(data, path.name, self.num_bytes - self._data_start)
            self.entries, self.metadata = header.entries, header.metadata
            size = self.num_bytes
            super().__init__(path, file.fileno())
            if self.num_bytes != size:
                fail(BadCheckpoint, f"{path.name}: became {self.num_bytes} bytes while it was read", do="load it again")

    def array(self, name: str) -> Array:
        """The tensor, without a copy, read-only; bfloat16 as uint16. (Copied if the file has it at an odd address.)"""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        start = self._data_start + entry.begin
        found = np.frombuffer(self.map, dtype, prod(entry.shape), start).reshape(entry.shape)
        return found if start % dtype.itemsize == 0 else np.require(found, requirements="A")

    # -- the header ------------------------------------------------------------------------------------------------

    def _read_header(self, first: bytes, read: Callable[[int], bytes]) -> bytes:
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
        if len(data) != length:
            fail(BadCheckpoint, f"{name}: became shorter while it was read", do="load it again")
        if not data.startswith(b"{"):
            self._explain(first + data)
        return data

    def _explain(self, start: bytes) -> None:
        """Refuse a file of another kind by its first bytes. Not asked of a file that may be good: any two bytes can
        begin the length of a header."""
        for magic, meaning in MAGICS.items():
            if start.startswith(magic):
                fail(BadCheckpoint, f"{self.path.name}: not safetensors", got=meaning)
