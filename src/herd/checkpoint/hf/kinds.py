"""Which reader a config.json asks for: plain floats, Herd's packed form, or another quantised one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from herd.checkpoint.hf.quantized import METHODS, HfQuantized, check_method
from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.packed.form import METHOD, check_version
from herd.checkpoint.packed.source import PackedSource
from herd.config import Llama4Config
from herd.config.hf_keys import DENSE_FAMILIES
from herd.containers.safetensors import SafeFile
from herd.errors import BadCheckpoint, fail
from herd.weights import Source


class HfFiles(Source, Protocol):
    """A source of weights over the safetensors files of a folder."""

    files: list[SafeFile]
    config: Llama4Config
    """The one given, but for what the files say otherwise."""
    notes: list[str]
    """A line for each thing about the files that a person should know."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""

    def types(self) -> dict[str, int]:
        """Number format -> bytes of weights."""

    def close(self) -> None:
        """Unmap the files once nothing looks into them any more."""


def hf_source(path: Path, config: Llama4Config, data: Mapping[str, Any]) -> HfFiles:
    """Open the weights at `path`, whose config.json has the content `data`. Raises BadCheckpoint, BadConfig."""
    quantized = data.get("quantization_config")
    half_split = data.get("model_type") in DENSE_FAMILIES
    if quantized is None:
        return HfSource(path, config, half_split=half_split)
    method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
    if method == METHOD:
        check_version(path, quantized)
        return PackedSource(path, config)
    if method in METHODS and isinstance(quantized, dict):
        check_method(path, quantized)
        return HfQuantized(path, config, half_split=half_split)
    return fail(
        BadCheckpoint,
        f"{path} is quantised",
        got=method,
        expected=f"floats, {METHOD}, {', '.join(METHODS)}",
        do="use the model's bf16 form, or a GGUF",
    )
