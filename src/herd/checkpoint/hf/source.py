"""Weights of a Hugging Face folder, mapped: nodes look into the files, nothing is copied.

One exception: rows of q and k of a `llama` or `mistral` checkpoint stand in half-split order and are put in adjacent
pairs, a copy each. Llama 4 files need no such thing. Names: see `names`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from herd.checkpoint.hf.names import to_adjacent
from herd.checkpoint.walk import check_names, walk
from herd.config import Llama4Config
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_folder import not_as_indexed, open_files
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear

_PREFIX = "language_model."
# What is saved without its head (LlamaModel) lacks the first part of its names.
_BARE = ("embed_tokens.", "layers.", "norm.")
# Tables that old converters saved beside the weights; they follow from the config.
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_embedding.freqs_ci")
_FLOATS = ("F32", "F16", "BF16")
PIECE = 1 << 20
"""Numbers compared at a time."""
_TABLE, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_HEADLESS = "a model saved without its head (for vectors, or classes) writes no text: take the one of ...ForCausalLM"


class HfSource:
    """A `weights.Source` over safetensors files. Close it when its arrays are no longer used.

    The tensors of the files and those of the config must be the same: names and shapes are compared at once, so that
    `weights.build` cannot fail half-way. `half_split`: whether q and k stand in that order (`names`).
    Raises NotFound, BadCheckpoint.
    """

    config: Llama4Config
    """The config that is given, but for embeddings that config.json ties and files hold apart."""
    notes: list[str]
    """A line for each thing about the files that a person should know."""

    def __init__(self, path: Path, config: Llama4Config, *, half_split: bool = False) -> None:
        self.path = path
        self.config = config
        self.half_split = half_split
        self.files = open_files(path)
        self.notes = not_as_indexed(path, self.files)
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
        return Dense(self._ordered(name, ".weight"), self._ordered(name, ".bias") if bias else None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A mapped stack, input-major as the file has it."""
        return Experts(self._array(name), name)

    def close(self) -> None:
        """Unmap the files once nothing looks into them any more."""
        for file in self.files:
            file.close()

    def _ordered(self, name: str, ending: str) -> Array:
        """A matrix or its bias, rows of q and k in adjacent pairs."""
        array = self._array(name + ending)
        if self.half_split and name.endswith((".q_proj", ".k_proj")):
            return to_adjacent(array, self.config.head_size)
        return array

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
            if name.startswith(_BARE):
                name = "model." + name
            if self.half_split:
                name = name.replace(".mlp.", ".feed_forward.")
            if name in found:
                fail(BadCheckpoint, f"{self.path}: two tensors mean one", got=f"{found[name][1]} and {stored}")
            found[name] = (file, stored)
        return found

    def _check(self) -> None:
        self._settle_tied_head()
        wanted: dict[str, tuple[int, ...]] = {}
        for item in walk(self.config):
            wanted |= item.tensors
        have = self._where.keys()
        if wanted.keys() - have == {_HEAD}:
            check_names(self.path, wanted.keys(), have, do=_HEADLESS)
        check_names(self.path, wanted.keys(), have)
        for name, shape in wanted.items():
            file, stored = self._where[name]
            entry = file.entries[stored]
            if entry.shape != shape:
                fail(BadCheckpoint, f"{file.path.name}: shape of {name}", got=list(entry.shape), expected=list(shape))
            if entry.dtype not in _FLOATS:
                fail(BadCheckpoint, f"{file.path.name}: dtype of {name}", got=entry.dtype, expected=", ".join(_FLOATS))

    def _settle_tied_head(self) -> None:
        """Which table counts where config.json ties the embeddings, as transformers has it: the only one that there is;
        one where both are the same; each for itself, which is told, where they differ."""
        if not self.config.tied_embeddings or _HEAD not in self._where:
            return
        if _TABLE not in self._where:
            self._where[_TABLE] = self._where.pop(_HEAD)
            return
        if same_bits(self._array(_HEAD), self._array(_TABLE)):
            del self._where[_HEAD]
            return
        self.config = replace(self.config, tied_embeddings=False)
        self.notes.append(
            f"{self.path}: config.json ties the head to the embeddings, the files hold another: it is used"
        )


def same_bits(a: Array, b: Array) -> bool:
    """Whether two tables are the same bits, so that a NaN equals itself; read up to the first difference."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    bits = np.dtype(f"u{a.dtype.itemsize}")
    flat, other = a.reshape(-1).view(bits), b.reshape(-1).view(bits)
    return all(np.array_equal(flat[i : i + PIECE], other[i : i + PIECE]) for i in range(0, flat.size, PIECE))
