"""compressed-tensors (llm-compressor), and fbgemm_fp8. A scale is one for all, an output, a group or a block.

    X.weight float8_e4m3fn [O, I], X.weight_scale                               FP8
    X.weight int8 [O, I], X.weight_scale, X.weight_zero_point                   int8
    X.weight_packed int32 [O, I / k], X.weight_scale [O, groups], X.weight_shape      int, k = 32 / bits a word
        X.weight_zero_point int32 [O / k, groups], packed down the outputs
        X.weight_g_idx [I], the group of each input (activation order)
    X.weight_packed uint8 [O, I / 2], X.weight_scale e4m3 [O, I / 16], X.weight_global_scale      NVFP4
    X.weight_packed uint8 [O, I / 2], X.weight_scale uint8 [O, I / 32], e8m0          MXFP4

Integers are signed; packed ones, and packed zero points, are stored with half their range added. w = scale * (q -
zero). NVFP4: w = scale / global scale * q. In fbgemm_fp8 experts are fused input-major.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from herd.checkpoint.coded import E4M3, Coded, Grouped, Rows, rows_of, unpack_words
from herd.checkpoint.hf.forms.form import Form, fp4, fp8, mxfp4, scales_of_blocks
from herd.checkpoint.hf.stored import FLOATS
from herd.errors import BadCheckpoint, fail
from herd.formats import to_float32

_FORMATS = (
    "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mixed-precision", "dense",
)  # fmt: skip
_REFUSED = {".weight_bitmask": "sparse", ".bitmask": "sparse", ".compressed": "sparse", ".meta": "marlin-24"}
_DO = "llm-compressor writes these formats without sparsity and transforms"


class CompressedTensors(Form):
    """See the top of this file. What it is comes from the tensors; config.json is checked."""

    _groups: Mapping[str, Any] = {}

    def check(self) -> None:
        """See Form."""
        s = self.settings
        self._check_format(s.get("format"), s.get("sparsity_config"), s.get("transform_config"))
        groups = s.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            self.refuse("config_groups", type(groups).__name__, "an object")
        for name, group in groups.items():
            w = group.get("weights") if isinstance(group, Mapping) else None
            if not isinstance(w, Mapping):
                fail(BadCheckpoint, f"{self.stored.path}: {name} has no weights")
            if group.get("format") is not None:
                self._check_format(group["format"], None, None)
            if (w.get("type", "int"), w.get("num_bits", 8)) not in (("int", 4), ("int", 8), ("float", 4), ("float", 8)):
                got = f"{w.get('type')} of {w.get('num_bits')} bits"
                self.refuse(f"weights of {name}", got, "int or float of 4 or 8 bits", _DO)
        self._groups = groups
        for name in self.stored.tensors:
            for ending, what in _REFUSED.items():
                if name.endswith(ending):
                    self.refuse(f"{what} weights are not read", name, "the dense form", _DO)

    def _check_format(self, form: object, sparsity: Any, transforms: Any) -> None:
        if form not in _FORMATS:
            self.refuse("format of compressed-tensors", form, ", ".join(_FORMATS), _DO)
        if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
            self.refuse("sparsity", sparsity.get("format"), "dense", _DO)
        if isinstance(transforms, Mapping) and transforms.get("config_groups"):
            self.refuse("transform_config", "transforms of activations", "none", _DO)

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        packed = name + ".weight_packed"
        if packed in self.stored:
            self._check_shape(name, [outputs, inputs])
            is_fp4 = self.stored.dtype(packed) == "U8"
            return self._fp4(name, outputs, inputs) if is_fp4 else self._packed(name, outputs, inputs)
        if self.is_plain(name):
            return None
        codes = self.stored.expect(name + ".weight", ("F8_E4M3", "I8"), (outputs, inputs))
        if self.stored.dtype(name + ".weight") == "F8_E4M3":
            if name + ".weight_zero_point" in self.stored:
                self.refuse("zero points of FP8", name, "none")
            return fp8(codes, self._scales_of_fp8(name + ".weight_scale", outputs, inputs))
        unsigned = codes.view(np.uint8)
        return self._grouped(name, lambda i, j: unsigned[i:j] ^ np.uint8(128), outputs, inputs, 8)

    def _check_shape(self, name: str, shape: list[int]) -> None:
        """Check that what stands beside a packed matrix says nothing else of it."""
        said = name + ".weight_shape"
        if said in self.stored and (have := self.stored.expect(said, ("I64", "I32"), (2,)).tolist()) != shape:
            fail(BadCheckpoint, f"{self.stored.path}: {said}", got=have, expected=shape)
        if name + ".weight" in self.stored:
            got = f"{name}.weight and {name}.weight_packed"
            fail(BadCheckpoint, f"{self.stored.path}: two tensors mean one", got=got)

    def _packed(self, name: str, outputs: int, inputs: int) -> Grouped:
        tensor = self.stored.need(name + ".weight_packed")
        words = tensor.shape[1] if len(tensor.shape) == 2 else 0
        bits = next((b for b in (4, 8) if words == -(-inputs // (32 // b))), 4)
        codes = self.stored.expect(name + ".weight_packed", "I32", (outputs, -(-inputs // (32 // bits))))
        return self._grouped(name, lambda i, j: unpack_words(codes[i:j], bits, inputs), outputs, inputs, bits)

    def _grouped(self, name: str, codes: Rows, outputs: int, inputs: int, bits: int) -> Grouped:
        scale = name + ".weight_scale"
        groups = self.stored.groups(scale, inputs)
        if groups == 1:
            scales = self.scale_rows(scale, outputs)
        else:
            scales = rows_of(self.stored.expect(scale, FLOATS, (outputs, groups)))
        zeros = self._zeros(name + ".weight_zero_point", outputs, groups, bits)
        order = self.stored.order(name + ".weight_g_idx", inputs, groups)
        return Grouped(codes, scales, outputs, inputs, groups, (1 << bits) - 1, zeros, group_of=order)

    def _zeros(self, name: str, outputs: int, groups: int, bits: int) -> Rows | int:
        """Zero points as codes are stored, with half the range added."""
        half = 1 << (bits - 1)
        if name not in self.stored:
            return half
        if self.stored.dtype(name) == "I8":
            shapes = ((outputs, groups), (outputs,), (), (1,)) if groups == 1 else ((outputs, groups),)
            signed = self.stored.expect(name, "I8", *shapes).reshape(-1, groups)
            every = np.broadcast_to(signed, (outputs, groups))
            return lambda start, stop: every[start:stop].astype(np.int16) + np.int16(half)
        packed = self.stored.expect(name, "I32", (-(-outputs // (32 // bits)), groups))
        return lambda start, stop: unpack_words(packed.T, bits, outputs).T[start:stop].astype(np.int16)

    def _scales_of_fp8(self, name: str, outputs: int, inputs: int) -> Rows:
        shape = self.stored.need(name).shape
        if len(shape) != 2 or shape in ((outputs, 1), (1, 1)):
            return self.scale_rows(name, outputs)
        found = self.stored.expect(name, FLOATS, shape)
        high, wide = self._block(name, outputs, inputs, shape)
        return scales_of_blocks(found, high, wide, inputs)

    def _block(self, name: str, outputs: int, inputs: int, shape: tuple[int, ...]) -> tuple[int, int]:
        """Outputs and inputs of a block with one scale: what config.json says, if the scales are as many."""
        found = []
        for group in self._groups.values():
            weights = group["weights"]
            block = weights.get("block_structure")
            if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
                found.append((block[0], block[1]))
            if type(weights.get("group_size")) is int and weights["group_size"] > 0:
                found.append((1, weights["group_size"]))
        for high, wide in found:
            if shape == (-(-outputs // high), -(-inputs // wide)):
                return min(high, outputs), min(wide, inputs)
        expected = f"one a row or a matrix{''.join(f', or blocks of {list(block)}' for block in found)}"
        return fail(BadCheckpoint, f"{self.stored.path}: scales {name}", got=list(shape), expected=expected)

    def _fp4(self, name: str, outputs: int, inputs: int) -> Coded:
        scale = name + ".weight_scale"
        is_mx = self.stored.dtype(scale) in ("U8", "F8_E8M0")
        self.stored.divides(name + ".weight_packed", inputs, 32 if is_mx else 16, "inputs")
        data = self.stored.expect(name + ".weight_packed", "U8", (outputs, inputs // 2))
        if is_mx:
            exponents = self.stored.expect(scale, ("U8", "F8_E8M0"), (outputs, inputs // 32))
            return mxfp4(data, exponents)
        local = self.stored.expect(scale, "F8_E4M3", (outputs, inputs // 16))
        whole = self.stored.expect(name + ".weight_global_scale", FLOATS, (1,), ())
        divisor = to_float32(np.asarray(whole).reshape(-1))
        return fp4(data, lambda i, j: E4M3[local[i:j]] / divisor, 16)


class FbgemmFp8(CompressedTensors):
    """FP8 with a scale an output; experts fused."""

    def check(self) -> None:
        """Every setting is read, or is of activations."""
