"""Weights of a Hugging Face folder, mapped: nodes look into the files, nothing is copied.

One exception: rows of q and k of a `llama` checkpoint stand in half-split order and are put in adjacent pairs, a copy
each. Llama 4 files need no such thing. Names: see `names`.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.hf.names import to_adjacent
from herd.checkpoint.walk import check_names, walk
from herd.config import Llama4Config
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_folder import open_files
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear

log = logging.getLogger(__name__)

_PREFIX = "language_model."
# Tables that old converters saved beside the weights; they follow from the config.
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_embedding.freqs_ci")
_FLOATS = ("F32", "F16", "BF16")


class HfSource:
    """A `weights.Source` over safetensors files. Close it when its arrays are no longer used.

    The tensors of the files and those of the config must be the same: names and shapes are compared at once, so that
    `weights.build` cannot fail half-way. `half_split` says that config.json calls itself `llama`.
    Raises NotFound, BadCheckpoint.
    """

    def __init__(self, path: Path, config: Llama4Config, *, half_split: bool = False) -> None:
        self.path = path
        self.config = config
        self.half_split = half_split
        self.files = open_files(path)
        try:
            self._where = self._canonical()
            self._check()
        except BaseException:
            self.close()
            raise

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    def types(self) -> dict[str, int]:
        """Number format -> bytes of weights."""
        found: dict[str, int] = {}
        for file in self.files:
            for entry in file.entries.values():
                found[entry.dtype.lower()] = found.get(entry.dtype.lower(), 0) + entry.end - entry.begin
        return found

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """See weights.Source."""
        return self._array(name)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as a mapped Dense node."""
        w = self._array(name + ".weight")
        if self.half_split and name.endswith((".q_proj", ".k_proj")):
            w = to_adjacent(w, self.config.head_size)
        return Dense(w, self._array(name + ".bias") if bias else None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A mapped stack, input-major as the file has it."""
        return Experts(self._array(name), name)

    def close(self) -> None:
        """Unmap the files once nothing looks into them any more."""
        for file in self.files:
            file.close()

    # -- names -----------------------------------------------------------------------------------------------------

    def _array(self, name: str) -> Array:
        file, stored = self._where[name]
        return file.array(stored)

    def _stored_names(self) -> Iterator[tuple[SafeFile, str]]:
        for file in self.files:
            for name in file.entries:
                if not name.endswith(_COMPUTED):
                    yield file, name

    def _canonical(self) -> dict[str, tuple[SafeFile, str]]:
        """Canonical tensor name -> the file that has it, and its name there."""
        found: dict[str, tuple[SafeFile, str]] = {}
        for file, stored in self._stored_names():
            name = stored.removeprefix(_PREFIX)
            if self.half_split:
                name = name.replace(".mlp.", ".feed_forward.")
            if name in found:
                fail(BadCheckpoint, f"{self.path}: two tensors mean one", got=f"{found[name][1]} and {stored}")
            found[name] = (file, stored)
        return found

    def _check(self) -> None:
        wanted: dict[str, tuple[int, ...]] = {}
        for item in walk(self.config):
            wanted |= item.tensors
        if self.config.tied_embeddings:
            self._drop_tied_head()
        check_names(self.path, wanted.keys(), self._where.keys())
        for name, shape in wanted.items():
            file, stored = self._where[name]
            entry = file.entries[stored]
            if entry.shape != shape:
                fail(BadCheckpoint, f"{file.path.name}: shape of {name}", got=list(entry.shape), expected=list(shape))
            if entry.dtype not in _FLOATS:
                fail(BadCheckpoint, f"{file.path.name}: dtype of {name}", got=entry.dtype, expected=", ".join(_FLOATS))

    def _drop_tied_head(self) -> None:
        """With tied embeddings some files hold the table twice; that is harmless if both are the same."""
        if "lm_head.weight" not in self._where or "model.embed_tokens.weight" not in self._where:
            return
        head, table = self._array("lm_head.weight"), self._array("model.embed_tokens.weight")
        same: Any = (
            head.shape == table.shape and head.dtype == table.dtype and np.array_equal(_bits(head), _bits(table))
        )
        if not same:
            fail(BadCheckpoint, f"{self.path}: lm_head differs from embed_tokens although config.json ties them")
        del self._where["lm_head.weight"]


def _bits(x: Array) -> Array:
    """The values as integers, so that a NaN equals itself."""
    return x.view(np.dtype(f"u{x.dtype.itemsize}"))
