"""Weights of Hugging Face folders that others quantised; what each form stores is said in `forms`.

What is not quantised is as in any folder. Routed experts may stand one by one, stacked or fused (see `stored`). Which
numbers come out, and as which nodes: `checkpoint.coded`. Nothing is decoded until it is asked for.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.coded import Coded, Floats, node_of
from herd.checkpoint.hf.forms.form import Form
from herd.checkpoint.hf.names import to_adjacent
from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.hf.stored import FLOATS, Stored
from herd.checkpoint.packed.form import GATE_UP, halves
from herd.checkpoint.walk import check_names, walk
from herd.config import Llama4Config
from herd.containers.lazy_rows import LazyArray
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array
from herd.weights import Dense, Linear, Packed, Pair

_NOT_WEIGHTS = (
    "input_scale", "output_scale", "input_scale_ub", "input_zero_point", "output_zero_point", "input_global_scale",
    ".k_scale", ".v_scale", ".q_scale", ".prob_scale", ".k_zero_point", ".v_zero_point", ".k_global_scale",
    ".v_global_scale", "activation_scale",
)  # fmt: skip
"""Endings of what belongs to activations and caches, which are computed as they come."""


class HfQuantized(HfSource):
    """A `weights.Source` over a folder that others quantised. See HfSource for what is checked and raised.

    form: reads the folder's quantised form, given its tensors. floats: the type of what is decoded.
    """

    def __init__(
        self,
        path: Path,
        config: Llama4Config,
        form: Callable[[Stored], Form],
        *,
        half_split: bool = False,
        floats: Floats = "bf16",
    ) -> None:
        self._make_form, self._floats = form, floats
        super().__init__(path, config, half_split=half_split)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as Dense, mapped or decoded when asked for; or as Packed (see `checkpoint.coded`)."""
        coded = self._form.coded(name, outputs, inputs)
        if coded is None:
            return super().matrix(name, outputs, inputs, bias=bias)
        order: Array | None = None
        if self.half_split and name.endswith((".q_proj", ".k_proj")):
            order = to_adjacent(np.arange(outputs), self.config.head_size)
        floats: Floats = "f32" if name.endswith(".router") else self._floats
        node = node_of([coded], outputs, inputs, name, stack=False, order=order, floats=floats)
        return replace(node, bias=self._ordered(name, ".bias")) if bias else node

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A stack of floats as it is stored; else one node of all experts, or gate and up as two."""
        if name in self._stored:
            return super().experts(name, num_experts, inputs, outputs)
        if not name.endswith(GATE_UP):
            return self._stack(name, num_experts, outputs, inputs)
        gate, up = (self._stack(half, num_experts, outputs // 2, inputs) for half in halves(name))
        return Pair(gate, up, name)

    def _stack(self, name: str, num_experts: int, outputs: int, inputs: int) -> Dense | Packed:
        """The stack `experts.proj` [E, O, I] of the matrices `experts.N.proj`."""
        names = _experts_of(name, num_experts)
        coded = [self._form.coded(n, outputs, inputs) for n in names]
        parts: list[Coded] = [part for part in coded if part is not None]
        if len(parts) == len(coded):
            return node_of(parts, outputs, inputs, name, stack=True, floats=self._floats)
        if parts:
            fail(BadCheckpoint, f"{self.path}: some experts of a stack are quantised and some are not", got=name)
        arrays = [self._array(n + ".weight") for n in names]
        if len({a.dtype for a in arrays}) > 1:
            fail(BadCheckpoint, f"{self.path}: experts of a stack in several number formats", got=name)
        stack = LazyArray((num_experts, outputs, inputs), arrays[0].dtype, lambda at, i, j: arrays[at[0]][i:j])
        return Dense(stack, None, name)

    def _array(self, name: str) -> Array:
        return self._stored.array(name)

    # -- all of them -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        self._stored = Stored(self.path, self._where, self.config.num_experts)
        self._settle_tied_head()
        self._stored = Stored(self.path, self._where, self.config.num_experts)
        self._form = self._make_form(self._stored)
        zeros = {name for name in self._stored.tensors if name.endswith(".bias") and self._is_zero(name)}
        for w in walk(self.config):
            if w.kind == "vector":
                self._plain(w.name, w.shape)
            elif w.kind == "matrix":
                self._check_matrix(w.name, *w.shape)
                if w.bias:
                    self._plain(w.name + ".bias", w.shape[:1])
            else:
                self._check_experts(w.name, *w.shape)
        have = {n for n in self._stored.tensors if not n.endswith(_NOT_WEIGHTS)} - zeros
        # what is missing was found on the way
        check_names(self.path, self._stored.asked & have, have)

    def _is_zero(self, name: str) -> bool:
        """Whether a bias adds nothing: old GPTQ files have some that the config does not know."""
        return not self._stored.tensors[name].read().any()

    def _check_matrix(self, name: str, outputs: int, inputs: int) -> None:
        if self._form.coded(name, outputs, inputs) is None:
            self._plain(name + ".weight", (outputs, inputs))

    def _check_experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> None:
        if name in self._stored:
            self._plain(name, (num_experts, inputs, outputs))
            return
        names, width = ((name,), outputs) if not name.endswith(GATE_UP) else (halves(name), outputs // 2)
        for one in names:
            for expert in _experts_of(one, num_experts):
                self._check_matrix(expert, width, inputs)

    def _plain(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._stored.need(name)
        if found.dtype not in FLOATS:
            fail(BadCheckpoint, f"{self.path}: dtype of {name}", got=found.dtype, expected=", ".join(FLOATS))
        if found.shape != shape:
            fail(BadCheckpoint, f"{self.path}: shape of {name}", got=list(found.shape), expected=list(shape))


def _experts_of(name: str, count: int) -> list[str]:
    """The names of the matrices of the stack `experts.proj`."""
    stem, _, which = name.rpartition(".")
    return [f"{stem}.{e}.{which}" for e in range(count)]


def floats_of(data: Mapping[str, Any]) -> Floats:
    """The type that decoded matrices get by a config.json's content: float16 where the model's is, else bfloat16."""
    text = data.get("text_config")
    for part in (data, text if isinstance(text, Mapping) else {}):
        said = part.get("dtype") or part.get("torch_dtype")
        if said is not None:
            return "f16" if said == "float16" else "bf16"
    return "bf16"
