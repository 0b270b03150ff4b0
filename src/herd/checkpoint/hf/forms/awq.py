"""AWQ as AutoAWQ writes it, version "gemm": 4 bits in groups, with zero points.

    X.qweight int32 [I, O / 8]    eight outputs in a word, in nibbles 0 to 7 the outputs 0, 2, 4, 6, 1, 3, 5, 7 of it
    X.qzeros  int32 [groups, O / 8]    packed alike
    X.scales  [groups, O]

w = scale * (q - zero).
"""

import numpy as np

from herd.checkpoint.coded import Coded, Grouped, unpack_words
from herd.checkpoint.hf.forms.form import Form
from herd.checkpoint.hf.stored import FLOATS
from herd.formats import to_float32
from herd.formats.dtypes import Array

_NIBBLE = np.array([0, 4, 1, 5, 2, 6, 3, 7])
"""The nibble that holds each output of a word."""


class Awq(Form):
    """See the top of this file. Groups come from the tensors."""

    def check(self) -> None:
        """See Form."""
        version = str(self.settings.get("version") or self.settings.get("format") or "gemm").lower()
        if version != "gemm":
            self.refuse("version of AWQ", version, "gemm", 'AutoAWQ writes it: quant_config {"version": "GEMM"}')
        bits = self.settings.get("bits", self.settings.get("w_bit", 4))
        if bits != 4:
            self.refuse("bits of AWQ", bits, "4", "AutoAWQ writes 4 bits")

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        if name + ".qweight" not in self.stored:
            return None
        self.stored.divides(name + ".qweight", outputs, 8, "outputs")
        words = self.stored.expect(name + ".qweight", "I32", (inputs, outputs // 8))
        groups = self.stored.groups(name + ".scales", inputs, axis=0)
        scales = self.stored.expect(name + ".scales", FLOATS, (groups, outputs))
        zeros = self.stored.expect(name + ".qzeros", "I32", (groups, outputs // 8))
        return Grouped(
            lambda i, j: _outputs(words, i, j),
            lambda i, j: to_float32(np.ascontiguousarray(scales[:, i:j].T)),
            outputs,
            inputs,
            groups,
            15,
            lambda i, j: _outputs(zeros, i, j).astype(np.int16),
        )


def _outputs(words: Array, start: int, stop: int) -> Array:
    """Codes of outputs start to stop, uint8 [n, rows], of words [rows, O / 8]."""
    first, last = start // 8, -(-stop // 8)
    part = words[:, first:last]
    codes = unpack_words(part, 4, part.shape[1] * 8).reshape(len(words), -1, 8)[:, :, _NIBBLE].reshape(len(words), -1)
    return np.ascontiguousarray(codes[:, start - first * 8 : stop - first * 8].T)
