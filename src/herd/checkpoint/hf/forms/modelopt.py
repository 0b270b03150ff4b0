"""NVIDIA modelopt's export: FP8 and NVFP4. Which of them is said in config.json, or in hf_quant_config.json beside it.

    X.weight float8_e4m3fn [O, I], X.weight_scale float32, one for all (or [O], [O, 1])
    X.weight uint8 [O, I / 2], the even input low; X.weight_scale e4m3 [O, I / 16]; X.weight_scale_2 float32, one

FP8: w = scale * q. NVFP4: w = scale * scale_2 * q. Experts are fused input-major: gate_up_proj [E, D / 2, 2F],
gate_up_proj_weight_scale [E, D / 16, 2F], gate_up_proj_weight_scale_2.
"""

from collections.abc import Mapping
from typing import Any

from herd.checkpoint.coded import E4M3, Coded
from herd.checkpoint.hf.forms.form import Form, fp4, fp8
from herd.checkpoint.hf.stored import FLOATS
from herd.formats import to_float32

_READ = ("FP8", "NVFP4")
_DO = "modelopt writes FP8 and NVFP4"


class ModelOpt(Form):
    """See the top of this file. Which of the two a matrix is comes from its tensors."""

    def check(self) -> None:
        """See Form."""
        inner = self.settings.get("quantization")
        said: Mapping[str, Any] = inner if isinstance(inner, Mapping) else self.settings
        algorithm = said.get("quant_algo")
        layers = said.get("quantized_layers")
        parts = layers.values() if isinstance(layers, Mapping) else ()
        each = [part.get("quant_algo") if isinstance(part, Mapping) else part for part in parts]
        for one in each if algorithm == "MIXED_PRECISION" else [algorithm]:
            if one not in _READ:
                self.refuse("quant_algo of modelopt", one, " or ".join(_READ), _DO)
        for name in self.stored.tensors:
            if name.endswith("pre_quant_scale"):
                self.refuse("scales of activations", name, "none", _DO)

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        if self.is_plain(name):
            return None
        if self.stored.dtype(name + ".weight") == "F8_E4M3":
            codes = self.stored.expect(name + ".weight", "F8_E4M3", (outputs, inputs))
            return fp8(codes, self.scale_rows(name + ".weight_scale", outputs))
        self.stored.divides(name + ".weight", inputs, 16, "inputs")
        data = self.stored.expect(name + ".weight", "U8", (outputs, inputs // 2))
        local = self.stored.expect(name + ".weight_scale", "F8_E4M3", (outputs, inputs // 16))
        whole = to_float32(self.stored.expect(name + ".weight_scale_2", FLOATS, (), (1,), (1, 1)).reshape(-1))
        return fp4(data, lambda i, j: E4M3[local[i:j]] * whole, 16)
