"""Herd's packed form: a Hugging Face-like folder whose matrices lie as kernels read them, mapped straight from disk.

    config.json                  as Hugging Face has it, with quantization_config {"quant_method": "herd", "version": 1}
    model-00001.safetensors ..   every tensor at a multiple of 64 bytes (`__pad__.N` fill the gaps: safetensors knows no
                                 holes); uint8 tensors are strips (`herd.formats.strips`), floats are as they were
    model.safetensors.index.json, herd.manifest.json, tokenizer and other companions

Names are those of `weights.build`, whatever the model's family, and rows of q and k stand in adjacent pairs. Gate and
up of routed experts are two tensors (`experts.gate_proj`, `experts.up_proj`, [E, F, D] each) unless a float stack was
saved as it is (`experts.gate_up_proj` [E, D, 2F]). The metadata of each file hold, under `herd.packed`, a JSON object:
tensor -> {"format", "shape", "layout"}: for strips the weights' shape [O, I] or [E, O, I]; for a float stack that is
output-major its own shape and layout "rows".

What it is: names, entries, sizes. What it is not: reading (`source`), writing (`write`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from herd import formats
from herd.containers.safetensors_header import TensorEntry
from herd.disk.small_files import parse_object
from herd.errors import BadCheckpoint, BadConfig, fail
from herd.formats import strips

METHOD = "herd"
VERSION = 1
KEY = "herd.packed"
PAD = "__pad__."
ALIGNMENT = 64
"""A cache line, and a vector of AVX-512."""

GATE_UP = ".experts.gate_up_proj"
HALVES = (".experts.gate_proj", ".experts.up_proj")
_FLOAT_FORMATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


@dataclass(frozen=True)
class PackedTensor:
    """The metadata of one tensor."""

    format: str
    shape: tuple[int, ...]
    """Shape of the weights: [O, I] or [E, O, I]."""
    layout: Literal["strips", "rows"]

    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the tensor in the file."""
        if self.layout == "rows":
            return self.shape
        *front, outputs, inputs = self.shape
        return (*front, strips.num_strips(outputs), strips.ROWS * formats.row_bytes(self.format, inputs))

    def to_json(self) -> dict[str, Any]:
        """The metadata as JSON values."""
        return {"format": self.format, "shape": list(self.shape), "layout": self.layout}


def halves(name: str) -> tuple[str, str]:
    """Tensor names of gate and up for the canonical name of a gate_up_proj."""
    stem = name.removesuffix(GATE_UP)
    return stem + HALVES[0], stem + HALVES[1]


def quantization_config() -> dict[str, Any]:
    """The quantization_config of a config.json of this form."""
    return {"quant_method": METHOD, "version": VERSION}


def check_version(path: object, quantized: Mapping[str, Any]) -> None:
    """Raise BadConfig for a version of the form that this Herd does not know."""
    if quantized.get("version") != VERSION:
        fail(
            BadConfig,
            f"{path}: version of Herd's packed form",
            got=quantized.get("version"),
            expected=VERSION,
            do="use the Herd that wrote it, or pack the model again",
        )


def to_metadata(tensors: Mapping[str, PackedTensor]) -> dict[str, str]:
    """The metadata of a file with these tensors."""
    table = {name: tensor.to_json() for name, tensor in tensors.items()}
    return {KEY: json.dumps(table, separators=(",", ":"))}


def from_metadata(
    file_name: str, metadata: Mapping[str, str], entries: Mapping[str, TensorEntry]
) -> dict[str, PackedTensor]:
    """The table of a file's metadata, checked against its header: every uint8 tensor is described, in its size, and
    nothing else.

    Raises BadCheckpoint: one line with file, tensor and field.
    """
    table = parse_object(metadata.get(KEY, "{}").encode(), f"{file_name}: metadata {KEY}", BadCheckpoint)
    found: dict[str, PackedTensor] = {}
    for name, value in table.items():
        if name not in entries:
            fail(BadCheckpoint, f"{file_name}: {KEY} names a tensor that the file does not hold", got=name)
        found[name] = _tensor(f"{file_name}: {KEY} of {name}", value, entries[name])
    for name, entry in entries.items():
        if name.startswith(PAD):
            if entry.dtype != "U8" or entry.end - entry.begin >= ALIGNMENT:
                what = f"{entry.dtype} of {entry.end - entry.begin} bytes"
                fail(BadCheckpoint, f"{file_name}: {name}", got=what, expected=f"under {ALIGNMENT} bytes of U8")
        elif name not in found and entry.dtype not in _FLOAT_FORMATS:
            fail(BadCheckpoint, f"{file_name}: {name} is {entry.dtype} and {KEY} does not say what it holds")
    return found


def _tensor(where: str, value: object, entry: TensorEntry) -> PackedTensor:
    if not isinstance(value, dict) or set(value) != {"format", "shape", "layout"}:
        keys = sorted(value) if isinstance(value, dict) else type(value).__name__
        fail(BadCheckpoint, where, got=keys, expected="format, shape and layout")
    name, shape, layout = value["format"], value["shape"], value["layout"]
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 40 for n in shape):
        fail(BadCheckpoint, f"{where}: shape", got=shape, expected="a list of whole numbers above 0")
    if len(shape) not in (2, 3):
        fail(BadCheckpoint, f"{where}: shape", got=f"{len(shape)} axes", expected="2, or 3 for experts")
    known = strips.UNITS if layout == "strips" else _FLOAT_FORMATS.values() if layout == "rows" else None
    if known is None:
        fail(BadCheckpoint, f"{where}: layout", got=layout, expected="strips, or rows of floats")
    if not isinstance(name, str) or name not in known or name not in formats.FORMATS:
        names = ", ".join(n for n in known if n in formats.FORMATS)
        fail(BadCheckpoint, f"{where}: format in {layout}", got=name, expected=names)
    if not formats.get(name).fits(shape[-1]):
        block = formats.get(name).block
        fail(BadCheckpoint, f"{where}: {name} row", got=f"{shape[-1]} weights", expected=f"a multiple of {block}")
    tensor = PackedTensor(name, tuple(shape), layout)
    dtype = "U8" if layout == "strips" else next(d for d, f in _FLOAT_FORMATS.items() if f == name)
    if entry.dtype != dtype or entry.shape != tensor.stored_shape():
        have, want = f"{entry.dtype} {list(entry.shape)}", f"{dtype} {list(tensor.stored_shape())}"
        fail(BadCheckpoint, f"{where}: the tensor", got=have, expected=want)
    return tensor
