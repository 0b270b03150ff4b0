"""Files that torch.save wrote: the tensors of one dictionary, mapped. Nothing is unpickled (see `pickle_tensors`)."""

import zlib
from math import prod
from pathlib import Path

import numpy as np

from herd.containers.pickle_tensors import MAX_PICKLE_BYTES, TensorRef, read_tensors
from herd.containers.safetensors_header import DTYPES
from herd.containers.zip_records import ZipRecord, zip_records
from herd.disk.mapping import MappedFile, reading
from herd.disk.small_files import regular_file
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array

MAX_TENSORS = 65_536


class TorchFile(MappedFile):
    """An open, mapped file with a dictionary of tensors; other content that Meta keeps beside weights is skipped.

    Raises NotFound, BadCheckpoint: one line.
    """

    def __init__(self, path: Path) -> None:
        regular_file(path, BadCheckpoint)
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                fail(BadCheckpoint, f"{path.name}: not a zip archive", expected="what torch.save has written since 1.6")
            super().__init__(path, file.fileno())
        try:
            with reading(path, self.check_readable):
                self._records = zip_records(path.name, self.map)
                self._folder = self._only_folder()
                self.tensors = self._read_table()
        except BaseException:
            self.close()
            raise

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def dtype(self, name: str) -> str:
        """Type of a tensor, by its name in safetensors."""
        return self.tensors[name].dtype

    def array(self, name: str) -> Array:
        """A tensor as a read-only view; bfloat16 as uint16, float8 as uint8."""
        ref = self.tensors[name]
        dtype = DTYPES[ref.dtype]
        record = self._records[f"{self._folder}/data/{ref.key}"]
        start = record.start + ref.offset * dtype.itemsize
        count = _reach(ref)
        flat = np.frombuffer(self.map, dtype, count, start) if count else np.frombuffer(b"", dtype)
        if ref.strides == _contiguous(ref.shape):
            return flat.reshape(ref.shape)
        steps = tuple(s * dtype.itemsize for s in ref.strides)
        return np.lib.stride_tricks.as_strided(flat, ref.shape, steps, writeable=False)

    def check_sums(self) -> None:
        """Compare every record with its CRC-32. Raises BadCheckpoint naming the first that differs."""
        for name, record in self._records.items():
            crc = 0
            for start in range(record.start, record.start + record.size, 1 << 24):
                crc = zlib.crc32(self.map[start : min(start + (1 << 24), record.start + record.size)], crc)
            if crc != record.crc:
                self.check_readable()
                fail(BadCheckpoint, f"{self.path}: the content of {name} is not what was written", do="fetch it again")

    # -- at opening --------------------------------------------------------------------------------------------------

    def _only_folder(self) -> str:
        tables = [name for name in self._records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(tables) != 1:
            fail(BadCheckpoint, f"{self.path.name}: tables of tensors", got=len(tables), expected="one FOLDER/data.pkl")
        return tables[0].removesuffix("/data.pkl")

    def _read(self, name: str, most: int) -> bytes:
        record = self._records[f"{self._folder}/{name}"]
        if record.size > most:
            fail(BadCheckpoint, f"{self.path.name}: {name}", got=f"{record.size} bytes", expected=f"at most {most}")
        return self.map[record.start : record.start + record.size]

    def _read_table(self) -> dict[str, TensorRef]:
        if f"{self._folder}/byteorder" in self._records and self._read("byteorder", 16) != b"little":
            fail(BadCheckpoint, f"{self.path.name}: byte order", got="big", expected="little")
        table = read_tensors(self.path.name, self._read("data.pkl", MAX_PICKLE_BYTES))
        if not isinstance(table, dict):
            fail(
                BadCheckpoint, f"{self.path.name}: holds", got=type(table).__name__, expected="a dictionary of tensors"
            )
        found = {name: value for name, value in table.items() if isinstance(value, TensorRef)}
        if len(found) > MAX_TENSORS:
            fail(BadCheckpoint, f"{self.path.name}: tensors", got=len(found), expected=f"at most {MAX_TENSORS}")
        for name, ref in found.items():
            self._check(name, ref)
        return found

    def _check(self, name: str, ref: TensorRef) -> None:
        record: ZipRecord | None = self._records.get(f"{self._folder}/data/{ref.key}")
        size = DTYPES[ref.dtype].itemsize
        said = ref.storage_size * (1 if ref.is_untyped else size)
        if record is None or record.size != said:
            have = "no such record" if record is None else f"a record of {record.size} bytes"
            fail(BadCheckpoint, f"{self.path.name}: storage {ref.key} of {name}", got=have, expected=f"{said} bytes")
        if (ref.offset + _reach(ref)) * size > record.size or prod(ref.shape) * size > record.size:
            fail(
                BadCheckpoint,
                f"{self.path.name}: {name} reaches out of its storage",
                got=f"{list(ref.shape)} from {ref.offset}",
                expected=f"within {record.size} bytes",
            )


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _reach(ref: TensorRef) -> int:
    """Number of elements of the storage from the first of the tensor to behind its last."""
    if 0 in ref.shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(ref.shape, ref.strides, strict=True))
