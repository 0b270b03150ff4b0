"""Write safetensors, tensor by tensor in bounded memory: one file, or shards with an index as Hugging Face names them.

Format: https://github.com/huggingface/safetensors (header length u64 little-endian, JSON header, data without holes).
What it is not: atomic by itself; write into `atomic.new_folder`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from herd.containers.safetensors_header import DTYPES
from herd.errors import UsageError, fail
from herd.formats.dtypes import Array
from herd.progress import Progress, silent

SHARD_BYTES = 5_000_000_000
_NUMPY = {kind: DTYPES[kind] for kind in ("F32", "F16", "BF16", "U8", "I8")}
FILE_DTYPE = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to write: `pieces` yields its data in row-major order, when its turn comes."""

    name: str
    dtype: str
    """F32, F16, BF16, U8 or I8."""
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[Array]]

    @property
    def num_bytes(self) -> int:
        """Size of its data in bytes."""
        return prod(self.shape) * _NUMPY[self.dtype].itemsize


def write_file(
    path: Path,
    tensors: Iterable[TensorToWrite],
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
    before: int = 0,
    total: int = 0,
) -> str:
    """Write one safetensors file; returns its SHA-256. Not atomic. progress: told of each tensor once it is written;
    before, total: bytes that other files had before, and that all of them have."""
    tensors = list(tensors)
    header: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    start = 0
    for t in tensors:
        if t.name in header:
            fail(UsageError, "two tensors of one name", got=t.name)
        header[t.name] = {
            "dtype": t.dtype,
            "shape": list(t.shape),
            "data_offsets": [start, start + t.num_bytes],
        }
        start += t.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)  # the data begin at a multiple of 8, as readers that map the file like it
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            file.write(part)
            digest.update(part)
        for t in tensors:
            written = 0
            for piece in t.pieces():
                assert piece.dtype == _NUMPY[t.dtype], (t.name, piece.dtype, t.dtype)
                data = np.ascontiguousarray(piece).data.cast("B")
                digest.update(data)
                written += file.write(data)
            assert written == t.num_bytes, (t.name, written, t.num_bytes)
            before += written
            progress(t.name, before, total)
    return digest.hexdigest()


def write_shards(
    folder: Path,
    tensors: Iterable[TensorToWrite],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = silent,
) -> dict[str, str]:
    """Write model.safetensors, or model-00001-of-0000N.safetensors and model.safetensors.index.json when there is more
    than `shard_bytes` of data. A tensor is never cut, so one larger than that has a shard of its own. Returns the
    SHA-256 of each file."""
    shards: list[list[TensorToWrite]] = [[]]
    size = total = 0
    for t in tensors:
        if shards[-1] and size + t.num_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(t)
        size += t.num_bytes
        total += t.num_bytes
    if len(shards) == 1:
        return {"model.safetensors": write_file(folder / "model.safetensors", shards[0], None, progress, 0, total)}
    digests: dict[str, str] = {}
    where: dict[str, str] = {}
    before = 0
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        digests[name] = write_file(folder / name, shard, None, progress, before, total)
        before += sum(t.num_bytes for t in shard)
        where |= {t.name: name for t in shard}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return digests
