"""Folders of mlx-lm and mlx-vlm: any matrix, embeddings and routers too, in groups along the inputs.

    X.weight uint32 [O, I * bits / 32]    one stream of bits a row
    affine    X.scales, X.biases [O, groups]    w = scale * q + bias; 2 to 6 or 8 bits
    mxfp4     X.scales uint8 [O, I / 32], e8m0    w = 2^(scale - 127) * e2m1
    nvfp4     X.scales uint8 [O, I / 16], e4m3    w = scale * e2m1
    mxfp8     X.scales uint8 [O, I / 32], e8m0    w = 2^(scale - 127) * e4m3

Experts are stacked output-major: experts.gate_proj.weight [E, F, ..].
"""

from collections.abc import Mapping

import numpy as np

from herd.checkpoint.coded import E4M3, E8M0, Coded, Decoded, Grouped, rows_of, unpack_stream
from herd.checkpoint.hf.forms.form import Form, fp4, mxfp4
from herd.checkpoint.hf.stored import FLOATS
from herd.formats.dtypes import Array

_MODES = ("affine", "mxfp4", "nvfp4", "mxfp8")
_DO = "mlx_lm.convert writes affine groups"


class Mlx(Form):
    """See the top of this file. Bits, groups and mode of a matrix come from its tensors: each may have its own."""

    def check(self) -> None:
        """See Form."""
        for part in (self.settings, *(v for v in self.settings.values() if isinstance(v, Mapping))):
            if part.get("mode", "affine") not in _MODES:
                self.refuse("mode of MLX quantization", part.get("mode"), ", ".join(_MODES), _DO)

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        if self.is_plain(name):
            return None
        shape = self.stored.need(name + ".weight").shape
        bits = self.stored.bits(name + ".weight", shape[-1] if shape else 0, inputs, (4, 8, 3, 2, 5, 6))
        words = self.stored.expect(name + ".weight", "U32", (outputs, inputs * bits // 32))
        groups = self.stored.groups(name + ".scales", inputs)
        if self.stored.dtype(name + ".scales") == "U8":
            scales = self.stored.expect(name + ".scales", "U8", (outputs, groups))
            return self._by_float(name, words, scales, bits, inputs)
        parts = [self.stored.expect(name + end, FLOATS, (outputs, groups)) for end in (".scales", ".biases")]
        return Grouped(
            lambda i, j: unpack_stream(words[i:j], bits, inputs),
            rows_of(parts[0]),
            outputs,
            inputs,
            groups,
            (1 << bits) - 1,
            bases=rows_of(parts[1]),
        )

    def _by_float(self, name: str, words: Array, scales: Array, bits: int, inputs: int) -> Coded:
        data = np.ascontiguousarray(words).view(np.uint8)
        group = inputs // scales.shape[1]
        if (bits, group) == (4, 32):
            return mxfp4(data, scales)
        if (bits, group) == (4, 16):
            return fp4(data, lambda i, j: E4M3[scales[i:j]], 16)
        if (bits, group) == (8, 32):
            return Decoded(lambda i, j: E4M3[data[i:j]] * np.repeat(E8M0[scales[i:j]], 32, axis=1))
        return self.refuse(f"scales of {name}", f"{bits} bits in groups of {group}", ", ".join(_MODES), _DO)
