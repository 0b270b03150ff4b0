"""Weights of Hugging Face folders that others quantised: compressed-tensors (FP8 a row, int4 in groups) and fbgemm_fp8.

    compressed-tensors float-quantized   X.weight float8_e4m3fn [O, I], X.weight_scale [O, 1] (or one for all)
    compressed-tensors pack-quantized    X.weight_packed int32 [O, I / 8], X.weight_scale [O, I / group], X.weight_shape
    fbgemm_fp8                           X.weight and X.weight_scale as above; experts fused, input-major:
                                         gate_up_proj [E, D, 2F] with gate_up_proj_scale [E, 1, 2F],
                                         down_proj [E, F, D] with down_proj_scale [E, D, 1]

Routed experts may stand one by one (`experts.3.gate_proj.weight`) or fused. What is not quantised is as in any folder.
Which numbers come out: see `fp8_int4`. What has zero points, an order of groups of its own or scales of activations
baked into weights is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.fp8_int4 import E4M3, Coded, Fp8, Int4, node_of, unpack_int32
from herd.checkpoint.hf.names import to_adjacent
from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.packed.form import GATE_UP, halves
from herd.checkpoint.walk import check_names, walk
from herd.containers.lazy_rows import LazyArray
from herd.errors import BadCheckpoint, fail
from herd.formats import bf16_from_float32, to_float32
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear, Pair

METHODS = ("compressed-tensors", "fbgemm_fp8")
_FORMS = ("float-quantized", "pack-quantized")
_FLOATS = ("F32", "F16", "BF16")
_ACTIVATIONS = (".input_scale", ".output_scale", ".k_scale", ".v_scale", ".input_scale_ub", ".weight_shape")
"""Beside the weights: of activations (computed as they come), or said twice."""
_REFUSED = {
    ".weight_zero_point": "zero points",
    ".weight_g_idx": "groups in an order of their own",
    ".weight_global_scale": "scales of scales",
    ".bitmask": "sparse weights",
}


def check_method(path: Path, quantized: Mapping[str, Any]) -> None:
    """Raise BadCheckpoint, naming the setting, when config.json describes a form that this module does not read."""
    if quantized.get("quant_method") == "fbgemm_fp8":
        return
    form = str(quantized.get("format"))
    if form not in _FORMS:
        fail(BadCheckpoint, f"{path}: format of compressed-tensors", got=form, expected=" or ".join(_FORMS))
    sparsity = quantized.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        fail(BadCheckpoint, f"{path}: sparsity", got=sparsity.get("format"), expected="dense")
    groups = quantized.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        fail(BadCheckpoint, f"{path}: config_groups", got=type(groups).__name__, expected="an object")
    for name, group in groups.items():
        w = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(w, Mapping):
            fail(BadCheckpoint, f"{path}: {name} has no weights")
        have = (w.get("type"), w.get("num_bits"), w.get("strategy"), w.get("symmetric", True))
        known = have[0] == "float" and have[1] == 8 and have[2] in ("channel", "tensor")
        known = known or (have[0] == "int" and have[1] == 4 and have[2] in ("channel", "group"))
        if not known or not have[3]:
            symmetric = "symmetric" if have[3] else "with zero points"
            fail(
                BadCheckpoint,
                f"{path}: weights of {name}",
                got=f"{have[0]} of {have[1]} bits a {have[2]}, {symmetric}",
                expected="float of 8 bits a channel, or int of 4 bits a group, symmetric",
            )


@dataclass(frozen=True)
class _Shape:
    outputs: int
    inputs: int


class HfQuantized(HfSource):
    """A `weights.Source` over a folder that others quantised. See HfSource for what is checked and raised."""

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as Dense, mapped or decoded when asked for; or as Packed q4_0 (see `fp8_int4`)."""
        coded = self._coded(name, _Shape(outputs, inputs))
        if coded is None:
            return super().matrix(name, outputs, inputs, bias=bias)
        order: Array | None = None
        if self.half_split and name.endswith((".q_proj", ".k_proj")):
            order = to_adjacent(np.arange(outputs), self.config.head_size)
        node = node_of([coded], outputs, inputs, name, stack=False, order=order)
        return replace(node, bias=self._ordered(name, ".bias")) if bias else node

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A stack as it is stored: fused input-major, or one node of all experts that stand alone."""
        if name in self._where:
            return self._fused(name, num_experts, inputs, outputs)
        node: Linear
        if name.endswith(GATE_UP):
            gate, up = (self._stack(half, num_experts, outputs // 2, inputs) for half in halves(name))
            node = Pair(replace(gate, name=name), replace(up, name=name), name)
        else:
            node = self._stack(name, num_experts, outputs, inputs)
        return node

    # -- one tensor --------------------------------------------------------------------------------------------------

    def _coded(self, name: str, shape: _Shape) -> Coded | None:
        """The quantised matrix; None when it is plain. Raises BadCheckpoint."""
        if name + ".weight_packed" in self._where:
            return self._int4(name, shape)
        if self._dtype(name + ".weight") in _FLOATS:
            return None
        self._expect(name + ".weight", "F8_E4M3", (shape.outputs, shape.inputs))
        return Fp8(self._array(name + ".weight"), self._scales(name + ".weight_scale", (shape.outputs, 1)))

    def _int4(self, name: str, shape: _Shape) -> Int4:
        words = self._expect(name + ".weight_packed", "I32", (shape.outputs, -(-shape.inputs // 8)))
        stored = self._need(name + ".weight_scale")
        groups = stored[1] if len(stored) == 2 else 1
        if not groups or shape.inputs % groups:
            fail(BadCheckpoint, f"{self.path}: groups of {name}", got=groups, expected=f"a divisor of {shape.inputs}")
        scales = self._scales(name + ".weight_scale", (shape.outputs, groups)).reshape(shape.outputs, groups)
        said = name + ".weight_shape"
        if said in self._where and self._array(said).tolist() != [shape.outputs, shape.inputs]:
            have = self._array(said).tolist()
            fail(BadCheckpoint, f"{self.path}: {said}", got=have, expected=[shape.outputs, shape.inputs])
        return Int4(lambda start, stop: unpack_int32(words[start:stop], shape.inputs), scales, shape.inputs)

    def _stack(self, name: str, num_experts: int, outputs: int, inputs: int) -> Any:
        """The stack `experts.proj` [E, O, I] of the matrices `experts.N.proj`."""
        stem, _, which = name.rpartition(".")
        names = [f"{stem}.{e}.{which}" for e in range(num_experts)]
        coded = [self._coded(n, _Shape(outputs, inputs)) for n in names]
        if all(part is not None for part in coded):
            return node_of([p for p in coded if p is not None], outputs, inputs, name, stack=True)
        if any(part is not None for part in coded):
            fail(BadCheckpoint, f"{self.path}: some experts of a stack are quantised and some are not", got=name)
        arrays = [self._array(n + ".weight") for n in names]
        if len({a.dtype for a in arrays}) > 1:
            fail(BadCheckpoint, f"{self.path}: experts of a stack in several number formats", got=name)
        stack = LazyArray((num_experts, outputs, inputs), arrays[0].dtype, lambda at, i, j: arrays[at[0]][i:j])
        return Dense(stack, None, name)

    def _fused(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        shape = (num_experts, inputs, outputs)
        if self._dtype(name) in _FLOATS:
            return super().experts(name, num_experts, inputs, outputs)
        codes = self._expect(name, "F8_E4M3", shape)
        scales = to_float32(self._scales(name + "_scale", (num_experts, outputs))).reshape(num_experts, 1, outputs)

        def bits(at: tuple[int, ...], start: int, stop: int) -> Array:
            return bf16_from_float32(E4M3[codes[at[0], start:stop]] * scales[at[0]])

        return Experts(LazyArray(shape, np.uint16, bits), name)

    def _dtype(self, name: str) -> str:
        self._need(name)
        file, stored = self._where[name]
        return file.entries[stored].dtype

    def _need(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor. Raises BadCheckpoint when it is not there."""
        if name not in self._where:
            fail(BadCheckpoint, f"{self.path}: a tensor is missing", got=name)
        file, stored = self._where[name]
        return file.entries[stored].shape

    def _expect(self, name: str, dtype: str, shape: tuple[int, ...]) -> Array:
        have = f"{self._dtype(name)} {list(self._need(name))}"
        if have != f"{dtype} {list(shape)}":
            fail(BadCheckpoint, f"{self.path}: {name}", got=have, expected=f"{dtype} {list(shape)}")
        return self._array(name)

    def _scales(self, name: str, shape: tuple[int, int]) -> Array:
        """Scales, flat: one for each of `shape`, or one for all when there is one a matrix."""
        have, count = self._need(name), shape[0] * shape[1]
        size = int(np.prod(have, dtype=np.int64)) if have else 1
        if self._dtype(name) not in _FLOATS or size not in ({count, 1} if shape[1] == 1 else {count}):
            got = f"{self._dtype(name)} {list(have)}"
            fail(BadCheckpoint, f"{self.path}: {name}", got=got, expected=f"{count} floats")
        return self._array(name).reshape(-1)

    # -- all of them -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        for name in self._where:
            for ending, what in _REFUSED.items():
                if name.endswith(ending):
                    fail(BadCheckpoint, f"{self.path}: {what} are not read", got=name, do="use another form of it")
        self._settle_tied_head()
        known: set[str] = set()
        for w in walk(self.config):
            if w.kind == "vector":
                self._plain(w.name, w.shape)
                known.add(w.name)
            elif w.kind == "matrix":
                known |= self._check_matrix(w.name, *w.shape)
                if w.bias:
                    self._plain(w.name + ".bias", w.shape[:1])
                    known.add(w.name + ".bias")
            else:
                known |= self._check_experts(w.name, *w.shape)
        have = {n for n in self._where if not n.endswith(_ACTIVATIONS)}
        # what is missing was found on the way; `known` has names, too, that not every form holds
        check_names(self.path, known & have, have)

    def _check_matrix(self, name: str, outputs: int, inputs: int) -> set[str]:
        coded = self._coded(name, _Shape(outputs, inputs))
        if coded is None:
            self._plain(name + ".weight", (outputs, inputs))
            return {name + ".weight"}
        weight = ".weight" if isinstance(coded, Fp8) else ".weight_packed"
        return {name + weight, name + ".weight_scale"}

    def _check_experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> set[str]:
        if name in self._where:
            self._fused(name, num_experts, inputs, outputs)
            if self._dtype(name) in _FLOATS:
                self._plain(name, (num_experts, inputs, outputs))
            return {name, name + "_scale"}
        names, width = ((name,), outputs) if not name.endswith(GATE_UP) else (halves(name), outputs // 2)
        known: set[str] = set()
        for one in names:
            stem, _, which = one.rpartition(".")
            for e in range(num_experts):
                known |= self._check_matrix(f"{stem}.{e}.{which}", width, inputs)
        return known

    def _plain(self, name: str, shape: tuple[int, ...]) -> None:
        if self._dtype(name) not in _FLOATS:
            fail(BadCheckpoint, f"{self.path}: dtype of {name}", got=self._dtype(name), expected=", ".join(_FLOATS))
        if self._need(name) != shape:
            fail(BadCheckpoint, f"{self.path}: shape of {name}", got=list(self._need(name)), expected=list(shape))
