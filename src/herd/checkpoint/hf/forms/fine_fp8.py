"""Fine-grained FP8 (`quant_method` fp8, as DeepSeek and Qwen publish it): a scale a block of outputs and inputs.

    X.weight float8_e4m3fn [O, I]
    X.weight_scale_inv [O / 128, I / 128], rounded up; float32, or e8m0

w = scale * q, whatever the name says. config.json gives another block, or none for a scale a matrix.
"""

import numpy as np

from herd.checkpoint.coded import E8M0, Coded
from herd.checkpoint.hf.forms.form import Form, fp8, scales_of_blocks
from herd.checkpoint.hf.stored import FLOATS

BLOCK = (128, 128)
"""Outputs and inputs of a block where config.json does not say."""
MOST = 1 << 20
_DO = "these are float8_e4m3fn with blocks such as [128, 128]"


class FineFp8(Form):
    """See the top of this file."""

    _block: tuple[int, int] | None = BLOCK

    def check(self) -> None:
        """See Form. Schemes of activations are passed over."""
        if self.settings.get("fmt", "e4m3") != "e4m3":
            self.refuse("fmt", self.settings["fmt"], "e4m3", _DO)
        said = self.settings.get("weight_block_size", list(BLOCK))
        if said is None:
            self._block = None
        elif isinstance(said, list) and len(said) == 2 and all(type(n) is int and 0 < n <= MOST for n in said):
            self._block = (said[0], said[1])
        else:
            self.refuse("weight_block_size", str(said)[:80], "two whole numbers, or null", _DO)

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        if self.is_plain(name):
            return None
        codes = self.stored.expect(name + ".weight", "F8_E4M3", (outputs, inputs))
        high, wide = self._block or (outputs, inputs)
        blocks = (-(-outputs // high), -(-inputs // wide))
        shapes = (blocks, (), (1,)) if blocks == (1, 1) else (blocks,)
        scale = name + ".weight_scale_inv"
        found = np.asarray(self.stored.expect(scale, (*FLOATS, "F8_E8M0"), *shapes)).reshape(blocks)
        if self.stored.dtype(scale) == "F8_E8M0":
            found = E8M0[found]
        return fp8(codes, scales_of_blocks(found, min(high, outputs), min(wide, inputs), inputs))
