"""Which reader a config.json asks for: plain floats, Herd's packed form, or a quantised one of others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from herd.checkpoint.hf.forms.awq import Awq
from herd.checkpoint.hf.forms.bitsandbytes import BitsAndBytes
from herd.checkpoint.hf.forms.compressed_tensors import CompressedTensors, FbgemmFp8
from herd.checkpoint.hf.forms.fine_fp8 import FineFp8
from herd.checkpoint.hf.forms.form import WRITTEN_BY, Form, Plain
from herd.checkpoint.hf.forms.gptq import Gptq
from herd.checkpoint.hf.forms.mlx import Mlx
from herd.checkpoint.hf.forms.modelopt import ModelOpt
from herd.checkpoint.hf.quantized import HfQuantized, floats_of
from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.packed.form import METHOD, check_version
from herd.checkpoint.packed.source import PackedSource
from herd.config import Llama4Config
from herd.config.hf_keys import DENSE_FAMILIES
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_folder import open_files
from herd.disk.small_files import read_json, safe_path
from herd.errors import BadCheckpoint, BadConfig, fail
from herd.weights import Source

FORMS: dict[str, type[Form]] = {
    "compressed-tensors": CompressedTensors,
    "fbgemm_fp8": FbgemmFp8,
    "fp8": FineFp8,
    "gptq": Gptq,
    "awq": Awq,
    "bitsandbytes": BitsAndBytes,
    "modelopt": ModelOpt,
    "mlx": Mlx,
}
"""quant_method of config.json -> its reader. MLX has no name there."""
BESIDE = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq"}
"""Files beside a config.json that says nothing, and what their folders hold; the second is AutoGPTQ's."""


class HfFiles(Source, Protocol):
    """A source of weights over the safetensors files of a folder."""

    files: list[SafeFile]
    config: Llama4Config
    """The config that is given, but for what the files say otherwise."""
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
    half_split = data.get("model_type") in DENSE_FAMILIES
    settings = quantization_of(path, data)
    if settings is None:
        if config.num_experts and _experts_apart(path):
            return HfQuantized(path, config, lambda stored: Plain(stored, {}))
        return HfSource(path, config, half_split=half_split)
    method = settings.get("quant_method")
    if method == METHOD:
        check_version(path, settings)
        return PackedSource(path, config)
    form = FORMS.get(str(method))
    if form is None:
        expected = f"floats, {METHOD}, {', '.join(FORMS)}"
        fail(BadCheckpoint, f"{path} is quantised", got=method, expected=expected, do=_do(method))
    source = HfQuantized(
        path, config, lambda stored: form(stored, settings), half_split=half_split, floats=floats_of(data)
    )
    if _of_cache(settings):
        source.notes.append(f"{path}: its form of keys and values is passed over; --kv says how they are kept")
    return source


def _experts_apart(path: Path) -> bool:
    """Whether routed experts stand one by one or stacked, as in folders of mlx-lm: only fused ones are mapped."""
    files = open_files(path)
    try:
        return any("." in name.partition(".experts.")[2] for file in files for name in file.entries)
    finally:
        for file in files:
            file.close()


def quantization_of(path: Path, data: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a folder says of its quantisation, with a quant_method; None: nothing. Raises BadConfig."""
    text = data.get("text_config")
    parts = (data, text if isinstance(text, Mapping) else {})
    for part in parts:
        if isinstance(mlx := part.get("quantization"), Mapping) and "bits" in mlx:
            return {**mlx, "quant_method": "mlx"}
    for key in ("quantization_config", "compression_config"):
        for said in (part[key] for part in parts if part.get(key) is not None):
            return said if isinstance(said, Mapping) else {"quant_method": said}
    folder = path if path.is_dir() else path.parent
    for name, method in BESIDE.items():
        if (folder / name).exists():
            return {**read_json(safe_path(folder, name), BadConfig), "quant_method": method}
    return None


def _of_cache(settings: Mapping[str, Any]) -> bool:
    """Whether something is said of how keys and values are kept."""
    inner = settings.get("quantization")
    parts = (settings, inner if isinstance(inner, Mapping) else {})
    return any(part.get(key) for part in parts for key in ("kv_cache_scheme", "kv_cache_quant_algo"))


def _do(method: object) -> str:
    if method in ("auto-round", "auto_round", "intel/auto-round"):
        return "auto-round writes a form that is read with --format auto_gptq, auto_awq or llm_compressor"
    return f"use the model's bf16 form or a GGUF; {WRITTEN_BY}"
