"""Write a config as GGUF keys, and keys as bytes.

GGUF's `llama4` says less than `Llama4Config`: chunk, temperature and the period of NoPE layers are fixed in llama.cpp,
and QK norm follows from the number of experts. What cannot be said is refused; what only Herd reads is written and
reported as a note. Sources: the format's specification; `llama4` and `llama` as llama.cpp loads them (2025-2026).
"""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from herd.config import DynamicScaling, Llama4Config, is_dense_llama
from herd.config.gguf import from_gguf
from herd.config.gguf_rope import rope_to_gguf
from herd.containers.gguf_header import ARRAY, BOOL, SCALARS, STRING
from herd.errors import UsageError, fail

FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
    "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32,
}  # fmt: skip
"""general.file_type, for people: what most tensors are (q3_k to q5_k: the "S" kinds, which are the least mixed)."""

FIXED: dict[str, Any] = {"chunk": 8192, "floor_scale": 8192, "attn_scale": 0.1, "nope_interval": 4}
"""The values that llama.cpp computes with for `llama4`, whatever a file says."""

_INSTEAD = "write safetensors"
_BY_DTYPE = {np.dtype(code): kind for kind, (_, code) in SCALARS.items() if kind != BOOL} | {np.dtype(np.bool_): BOOL}


def config_keys(c: Llama4Config) -> tuple[dict[str, Any], list[str]]:
    """The keys of a text model, and notes on where llama.cpp will compute something else than Herd.

    Raises UsageError, naming the field, when GGUF cannot say what the config says.
    """
    arch = "llama" if is_dense_llama(c) else "llama4"
    values: dict[str, Any] = {
        "vocab_size": c.vocab_size,
        "context_length": min(c.max_context, (1 << 32) - 1),
        "embedding_length": c.width,
        "block_count": c.num_layers,
        "feed_forward_length": c.dense_width,
        "attention.head_count": c.num_heads,
        "attention.head_count_kv": c.num_kv_heads,
        "attention.key_length": c.head_size,
        "attention.value_length": c.head_size,
        "attention.layer_norm_rms_epsilon": float(c.norm_eps),
        "rope.dimension_count": c.head_size,
        "rope.freq_base": float(c.rope_theta),
    }
    values |= rope_to_gguf(c.rope_scaling, theta=c.rope_theta, head_size=c.head_size)[0]
    notes: list[str] = []
    if arch == "llama4":
        more, notes = _llama4(c)
        values.update(more)
    if isinstance(c.rope_scaling, DynamicScaling):
        notes.append(f"GGUF cannot say how RoPE goes on beyond {c.max_context} tokens (dynamic): the file ends there")
    keys = {"general.architecture": arch} | {f"{arch}.{name}": value for name, value in values.items()}
    _check_same(c, keys)
    return keys, notes


def divisors(c: Llama4Config) -> npt.NDArray[np.float32] | None:
    """The content of rope_freqs.weight: the divisor of each frequency; None when keys say it all."""
    values = rope_to_gguf(c.rope_scaling, theta=c.rope_theta, head_size=c.head_size)[1]
    return None if values is None else np.array(values, np.float32)


def vision_keys(config: Llama4Config, type: str) -> dict[str, Any]:
    """The keys of an mmproj file in the number format `type`. Raises UsageError."""
    v = config.vision
    assert v is not None
    if v.rope_theta != 10000.0:
        fail(
            UsageError, "GGUF cannot say vision rope_theta", got=v.rope_theta, expected=10000.0, do="write safetensors"
        )
    return {
        "general.architecture": "clip",
        "general.file_type": FILE_TYPES[type],
        "clip.has_vision_encoder": True,
        "clip.projector_type": "llama4",
        "clip.use_gelu": True,
        "clip.vision.image_size": v.image_size,
        "clip.vision.patch_size": v.patch_size,
        "clip.vision.embedding_length": v.width,
        "clip.vision.feed_forward_length": v.mlp_width,
        "clip.vision.block_count": v.num_layers,
        "clip.vision.attention.head_count": v.num_heads,
        "clip.vision.attention.layer_norm_epsilon": float(v.norm_eps),
        "clip.vision.projection_dim": config.width,
        "clip.vision.projector.scale_factor": v.pixel_shuffle,
        "clip.vision.image_mean": np.full(3, 0.5, np.float32),
        "clip.vision.image_std": np.full(3, 0.5, np.float32),
        # For a text file whose vocabulary does not name them.
        "herd.image_start_id": config.image_start_id,
        "herd.image_end_id": config.image_end_id,
        "herd.patch_id": config.patch_id,
    }


def token_keys(c: Llama4Config) -> dict[str, Any]:
    """Keys for the ids of special tokens that the config knows. A checkpoint's own tokenizer keys take precedence.

    Llama 4 stops at end of text, of message and of turn, in this order in its config; GGUF has a key for each.
    """
    names = {1: ["eos"], 2: ["eos", "eot"], 3: ["eos", "eom", "eot"]}.get(len(c.eos_ids), ["eos"])
    ids = {name: c.eos_ids[i] for i, name in enumerate(names)} if c.eos_ids else {}
    found = {"bos": c.bos_id, "padding": c.pad_id, **ids}
    return {f"tokenizer.ggml.{name}_token_id": value for name, value in found.items() if value is not None}


def _llama4(c: Llama4Config) -> tuple[dict[str, Any], list[str]]:
    layers = c.layers
    notes: list[str] = []
    steps = [s for s in range(1, c.num_layers + 1) if all(x.moe == ((i + 1) % s == 0) for i, x in enumerate(layers))]
    if not steps:
        have = [i for i, x in enumerate(layers) if x.moe]
        fail(UsageError, "GGUF cannot say which layers have experts", got=have, expected="every n-th", do=_INSTEAD)
    values: dict[str, Any] = {
        "expert_feed_forward_length": c.expert_width,
        "expert_count": c.num_experts,
        "expert_used_count": c.experts_per_token,
        "interleave_moe_layer_step": steps[0],
    }
    if all(x.rope for x in layers) and not any(x.chunked and c.chunk and c.chunk < c.max_context for x in layers):
        values["attention.sliding_window"] = 0
        return values, notes
    periods = [p for p in range(1, c.num_layers + 2) if all(x.rope == ((i + 1) % p != 0) for i, x in enumerate(layers))]
    if not periods:
        without = [i for i, x in enumerate(layers) if not x.rope]
        fail(UsageError, "GGUF cannot say which layers have no RoPE", got=without, expected="every n-th", do=_INSTEAD)
    chunk = c.chunk if any(x.chunked for x in layers) and c.chunk else c.max_context
    # (field, this config's value, key, the length of text from which llama.cpp's fixed value gives other logits)
    own: list[tuple[str, Any, str, int]] = [
        ("chunk", chunk, "attention.chunk_size", min(chunk, FIXED["chunk"])),
        ("nope_interval", FIXED["nope_interval"] if FIXED["nope_interval"] in periods else periods[0],
         "attention.sliding_window_pattern", 1),
    ]  # fmt: skip
    if any(x.tuned for x in layers):
        turn = min(c.floor_scale, int(FIXED["floor_scale"])) - 1
        own += [
            ("floor_scale", c.floor_scale, "attention.temperature_length", turn),
            ("attn_scale", float(c.attn_scale), "attention.temperature_scale", turn),
        ]
    for field, value, key, start in own:
        if value == FIXED[field]:
            continue
        values[key] = value
        if start < c.max_context:
            notes.append(f"llama.cpp takes {field} {FIXED[field]} for {value}: other logits beyond {start} tokens")
    return values, notes


def _check_same(c: Llama4Config, keys: Mapping[str, Any]) -> None:
    """Read the keys back and check that they describe the same function."""
    scale = divisors(c)
    back = from_gguf(
        keys,
        vocab_size=c.vocab_size,
        tied=c.tied_embeddings,
        rope_divisors=None if scale is None else scale.tolist(),
        attention_bias=c.attention_bias,
        mlp_bias=c.mlp_bias,
    )

    def differs(name: str, ours: object, said: object) -> None:
        if ours != said:
            fail(UsageError, f"GGUF cannot say {name}", got=ours, expected=said, do=_INSTEAD)

    for i, (ours, said) in enumerate(zip(c.layers, back.layers, strict=True)):
        for name in ("moe", "rope", "qk_norm"):
            differs(f"{name} of layer {i}", getattr(ours, name), getattr(said, name))
        if ours.chunked != said.chunked and min(x for x in (c.chunk, back.chunk) if x) < c.max_context:
            differs(f"chunked of layer {i}", ours.chunked, said.chunked)
        differs(f"temperature of layer {i}", ours.tuned, said.tuned)
    if not np.allclose([*c.rope_freqs(), c.rope_attention], [*back.rope_freqs(), back.rope_attention], 1e-6, 0):
        differs("rope_scaling", c.rope_scaling, back.rope_scaling)
    differs("attention_bias", c.attention_bias, back.attention_bias)
    if not math.isclose(c.norm_eps, back.norm_eps, rel_tol=1e-5):
        differs("norm_eps", c.norm_eps, back.norm_eps)


# -- bytes --------------------------------------------------------------------------------------------------------


def string_bytes(text: str) -> bytes:
    """A string as GGUF has it: a length, then UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def key_bytes(name: str, value: Any) -> bytes:
    """One key as bytes. int becomes u32 where it fits, else i32, u64 or i64; float f32; a numpy scalar or array its own
    type; a list must hold strings, bools, ints (i32) or floats. Raises UsageError for anything else."""
    if isinstance(value, str):
        return string_bytes(name) + struct.pack("<I", STRING) + string_bytes(value)
    if isinstance(value, np.ndarray | list | tuple):
        return string_bytes(name) + struct.pack("<I", ARRAY) + _array_bytes(name, value)
    kind = _scalar_kind(name, value)
    return string_bytes(name) + struct.pack("<I", kind) + struct.pack(SCALARS[kind][1], value)


def _scalar_kind(name: str, value: Any) -> int:
    if isinstance(value, np.generic) and value.dtype in _BY_DTYPE:
        return _BY_DTYPE[value.dtype]
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, float):
        return 6
    if isinstance(value, int):
        for kind, low, high in ((4, 0, 1 << 32), (5, -(1 << 31), 0), (10, 0, 1 << 64), (11, -(1 << 63), 0)):
            if low <= value < high:
                return kind
    return fail(UsageError, f"key {name}", got=type(value).__name__, expected="a string, number, bool or array of such")


def _array_bytes(name: str, values: npt.NDArray[Any] | Sequence[Any]) -> bytes:
    if not isinstance(values, np.ndarray) and all(isinstance(v, str) for v in values):
        return struct.pack("<IQ", STRING, len(values)) + b"".join(string_bytes(v) for v in values)
    array = np.asarray(values)
    if not isinstance(values, np.ndarray):
        narrow = {"i": np.int32, "f": np.float32}.get(array.dtype.kind)
        array = array.astype(narrow) if narrow else array
    if array.ndim != 1 or array.dtype not in _BY_DTYPE:
        fail(UsageError, f"key {name}", got=f"{array.dtype} {array.shape}", expected="one axis of numbers or strings")
    kind = _BY_DTYPE[array.dtype]
    return struct.pack("<IQ", kind, len(array)) + array.astype(array.dtype.newbyteorder("<")).tobytes()
