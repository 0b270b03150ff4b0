"""GPTQ as AutoGPTQ and GPTQModel write it: 2, 3, 4 or 8 bits in groups, with zero points.

    X.qweight int32 [I * bits / 32, O]    down the inputs of an output one stream of bits
    X.qzeros  int32 [groups, O * bits / 32]    along the outputs; less one ("gptq"), or as they are ("gptq_v2")
    X.scales  [groups, O]
    X.g_idx   int32 [I]    the group of each input; another order than one group after the other with `desc_act`

w = scale * (q - zero). Old files hold a bias of zeros for matrices that have none.
"""

import numpy as np

from herd.checkpoint.coded import Coded, Grouped, unpack_stream
from herd.checkpoint.hf.forms.form import Form
from herd.checkpoint.hf.stored import FLOATS
from herd.formats import to_float32
from herd.formats.dtypes import Array


class Gptq(Form):
    """See the top of this file. Bits and groups come from the tensors."""

    def check(self) -> None:
        """See Form."""
        form = self.settings.get("checkpoint_format") or self.settings.get("format") or "gptq"
        if form not in ("gptq", "gptq_v2"):
            self.refuse("checkpoint_format of GPTQ", form, "gptq or gptq_v2", "GPTQModel writes both")
        self._less = 1 if form == "gptq" else 0

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        if name + ".qweight" not in self.stored:
            return None
        shape = self.stored.need(name + ".qweight").shape
        bits = self.stored.bits(name + ".qweight", shape[0] if shape else 0, inputs, (4, 8, 3, 2))
        words = self.stored.expect(name + ".qweight", "I32", (inputs * bits // 32, outputs))
        self.stored.divides(name + ".qzeros", outputs * bits, 32, "bits")
        groups = self.stored.groups(name + ".scales", inputs, axis=0)
        scales = self.stored.expect(name + ".scales", FLOATS, (groups, outputs))
        packed = self.stored.expect(name + ".qzeros", "I32", (groups, outputs * bits // 32))

        def zeros(start: int, stop: int) -> Array:
            wide = unpack_stream(packed, bits, outputs)[:, start:stop].T
            return wide.astype(np.int16) + np.int16(self._less)

        return Grouped(
            lambda i, j: unpack_stream(words[:, i:j].T, bits, inputs),
            lambda i, j: to_float32(np.ascontiguousarray(scales[:, i:j].T)),
            outputs,
            inputs,
            groups,
            (1 << bits) - 1,
            zeros,
            group_of=self.stored.order(name + ".g_idx", inputs, groups),
        )
