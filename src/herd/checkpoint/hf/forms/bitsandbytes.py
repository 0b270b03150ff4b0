"""bitsandbytes: 4 bits by a table (nf4, fp4) and int8.

    X.weight uint8 [O * I / 2, 1]    of the matrix in one row, the even element high (another dtype is the same bytes)
    X.weight.absmax float32 [blocks]    a scale for `blocksize` elements; or uint8, coded by the next three
    X.weight.quant_map float32 [16]    the value of each code
    X.weight.nested_absmax [..], .nested_quant_map float32 [256]    absmax = map[code] * nested_absmax + nested_offset
    X.weight.quant_state.bitsandbytes__nf4 uint8    JSON: blocksize, shape, nested_blocksize, nested_offset

    X.weight int8 [O, I], X.SCB float32 [O]    w = q * SCB / 127

w = quant_map[q] * absmax.
"""

from typing import Any

import numpy as np

from herd.checkpoint.coded import Coded, Decoded
from herd.checkpoint.hf.forms.form import Form
from herd.checkpoint.hf.stored import FLOATS
from herd.disk.small_files import parse_object
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array

_STATES = (".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4")
_OVER_127 = np.float32(1 / 127)
_LARGEST = float(np.finfo(np.float32).max)


class BitsAndBytes(Form):
    """See the top of this file. What it is comes from the tensors."""

    def coded(self, name: str, outputs: int, inputs: int) -> Coded | None:
        """See Form."""
        state = next((name + ending for ending in _STATES if name + ending in self.stored), None)
        if state is not None:
            return self._four_bits(name, state, outputs, inputs)
        if self.is_plain(name):
            return None
        q = self.stored.expect(name + ".weight", "I8", (outputs, inputs))
        scales = self.stored.expect(name + ".SCB", "F32", (outputs,))
        if name + ".weight_format" in self.stored and self.stored.array(name + ".weight_format").any():
            self.refuse(f"weight_format of {name}", self.stored.array(name + ".weight_format").tolist(), "0 (rows)")
        return Decoded(lambda i, j: q[i:j].astype(np.float32) * scales[i:j, None] * _OVER_127)

    def _four_bits(self, name: str, state: str, outputs: int, inputs: int) -> Decoded:
        said = self._state(state)
        if said.get("shape") != [outputs, inputs]:
            fail(BadCheckpoint, f"{self.stored.path}: {state} shape", got=said.get("shape"), expected=[outputs, inputs])
        block = _whole(self, state, said, "blocksize")
        count = outputs * inputs
        weight = self.stored.need(name + ".weight")
        whole = self.stored.expect(name + ".weight", ("U8", *FLOATS), weight.shape)
        data = np.ascontiguousarray(whole).reshape(-1).view(np.uint8)
        if len(data) != -(-count // 2):
            got = f"{len(data)} bytes"
            fail(BadCheckpoint, f"{self.stored.path}: {name}.weight", got=got, expected=-(-count // 2))
        table = self.stored.expect(name + ".weight.quant_map", "F32", (16,))
        absmax = self._absmax(name, state, said, -(-count // block))

        def floats(start: int, stop: int) -> Array:
            first, last = start * inputs, stop * inputs
            part = data[first // 2 : -(-last // 2)]
            codes = np.stack([part >> np.uint8(4), part & np.uint8(15)], axis=-1).reshape(-1)[first % 2 :]
            scales = absmax(first // block, -(-last // block))
            wide = np.repeat(scales, block)[first % block :][: last - first]
            values: Array = (table[codes[: last - first]] * wide).reshape(stop - start, inputs)
            return values

        return Decoded(floats)

    def _absmax(self, name: str, state: str, said: dict[str, Any], blocks: int) -> Any:
        codes = self.stored.expect(name + ".weight.absmax", ("F32", "U8"), (blocks,))
        if codes.dtype != np.uint8:
            return lambda first, last: codes[first:last]
        inner = _whole(self, state, said, "nested_blocksize")
        offset: Any = said.get("nested_offset")
        if type(offset) not in (float, int) or not abs(offset) <= _LARGEST:
            fail(BadCheckpoint, f"{self.stored.path}: {state} nested_offset", got=offset, expected="a float32")
        scales = self.stored.expect(name + ".weight.nested_absmax", "F32", (-(-blocks // inner),))
        table = self.stored.expect(name + ".weight.nested_quant_map", "F32", (256,))
        return lambda i, j: table[codes[i:j]] * scales[np.arange(i, j) // inner] + np.float32(offset)

    def _state(self, name: str) -> dict[str, Any]:
        data = self.stored.need(name)
        if data.dtype != "U8" or len(data.shape) != 1 or not 0 < data.shape[0] <= 65536:
            fail(BadCheckpoint, f"{self.stored.path}: {name}", got=f"{data.dtype} {list(data.shape)}", expected="JSON")
        return parse_object(data.read().tobytes(), f"{self.stored.path}: {name}", BadCheckpoint)


def _whole(form: Form, name: str, said: dict[str, Any], key: str) -> int:
    value = said.get(key)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        fail(BadCheckpoint, f"{form.stored.path}: {name} {key}", got=value, expected="a whole number")
    return value
