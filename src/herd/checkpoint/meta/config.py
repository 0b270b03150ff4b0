"""The config of Meta's own folder: params.json, and what only the tensors say.

params.json says neither widths of layers (they follow from the tensors), nor the context (262144 is assumed where there
are layers without RoPE, 131072 elsewhere), nor ids of tokens. Its attn_temperature_tuning is off by default in Meta's
code and on in every published config; absent means on here, which is the same below position 8191.
"""

from collections.abc import Callable, Mapping
from typing import Any

from herd.config import Llama4Config, RopeScaling, VisionConfig
from herd.errors import BadConfig, HerdError, fail

_TOKENS = 202048
_BOS, _EOS, _PAD = 200000, (200001, 200007, 200008), 200018

Rows = Callable[[str, int], int]
"""Size of a tensor along an axis, all files together; 0 when there is none of the name."""


def config_from_params(params: Mapping[str, Any], rows: Rows, where: str) -> Llama4Config:
    """The config that params.json and the shapes of tensors describe. Raises BadConfig, naming the key."""
    if "text_config" in params:
        fail(BadConfig, f"{where}: a config of another kind", expected="Meta's params.json")
    try:
        return _config(params, rows, where)
    except HerdError as problem:
        raise type(problem)(str(problem) if where in str(problem) else f"{where}: {problem}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError) as problem:
        fail(BadConfig, f"{where}: a key has a value of the wrong type ({problem})")


def _config(params: Mapping[str, Any], rows: Rows, where: str) -> Llama4Config:
    def need(name: str) -> int:
        value = params.get(name)
        if type(value) is not int or value < 1:
            fail(BadConfig, f"{where}: {name}", got=value, expected="a whole number from 1")
        return value

    width, num_layers, num_heads = need("dim"), need("n_layers"), need("n_heads")
    if num_layers > 4096:
        fail(BadConfig, f"{where}: n_layers", got=num_layers, expected="at most 4096")
    vocab_size = rows("tok_embeddings.weight", 0)
    moe_args = params.get("moe_args") or {}
    moe = [rows(f"layers.{i}.feed_forward.router_DE", 1) > 0 for i in range(num_layers)]
    num_experts = int(moe_args.get("num_experts", 0)) if any(moe) else 0
    first_moe = moe.index(True) if any(moe) else None
    shared = f"layers.{first_moe}.feed_forward.w_in_shared_FD.weight"
    first_dense = moe.index(False) if not all(moe) else None
    expert_width = rows(shared, 0) if any(moe) else 0
    dense_width = rows(f"layers.{first_dense}.feed_forward.mlp.fc1_weight", 0) // 2 if first_dense is not None else 0
    interval = params.get("nope_layer_interval") or 0
    scaling = None
    if params.get("use_scaled_rope"):
        factor, high = params.get("rope_scaling_factor") or 16, params.get("rope_high_freq_factor") or 1
        scaling = RopeScaling(float(factor), 1.0, float(high), 8192)
    tuning = params.get("attn_temperature_tuning")
    is_known = vocab_size == _TOKENS
    return Llama4Config(
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=params.get("n_kv_heads") or num_heads,
        head_size=params.get("head_dim") or width // num_heads,
        vocab_size=vocab_size,
        # a model whose layers all have experts says no dense width: as published configs have it
        dense_width=dense_width or 2 * expert_width,
        expert_width=expert_width,
        num_experts=num_experts,
        experts_per_token=int(moe_args.get("top_k", 1)) if any(moe) else 1,
        moe_pattern=tuple(moe),
        nope_interval=interval,
        chunk=params.get("attention_chunk_size"),
        use_qk_norm=bool(params.get("use_qk_norm", False)),
        rope_theta=float(params.get("rope_theta", 500000.0)),
        rope_scaling=scaling,
        temperature_tuning=bool(interval) if tuning is None else bool(tuning),
        floor_scale=int(params.get("floor_scale", 8192)),
        attn_scale=float(params.get("attn_scale", 0.1)),
        norm_eps=float(params.get("norm_eps", 1e-5)),
        max_context=262144 if interval else 131072,
        bos_id=_BOS if is_known else None,
        eos_ids=_EOS if is_known else (),
        pad_id=_PAD if is_known else None,
        vision=_vision(params["vision_args"], rows) if params.get("vision_args") else None,
        # of a vocabulary that is not Llama 4's: the last ones
        image_start_id=200080 if is_known else vocab_size - 3,
        image_end_id=200081 if is_known else vocab_size - 2,
        patch_id=200092 if is_known else vocab_size - 1,
        assumed=("max_context",),
    )


def _vision(v: Mapping[str, Any], rows: Rows) -> VisionConfig:
    for name in ("image_size", "patch_size"):
        if v[name]["height"] != v[name]["width"]:
            fail(BadConfig, f"vision_args {name}", got=dict(v[name]), expected="a square")
    adapter = "vision_embeddings.vision_adapter.mlp."
    return VisionConfig(
        image_size=v["image_size"]["height"],
        patch_size=v["patch_size"]["height"],
        width=v["dim"],
        num_layers=v["n_layers"],
        num_heads=v["n_heads"],
        mlp_width=int(v["dim"] * v["mlp_ratio"]),
        adapter_width=rows(adapter + "c_fc.weight", 0),
        output_width=rows(adapter + "c_proj.weight", -2),
        pixel_shuffle=round(1 / v["pixel_shuffle_ratio"]),
    )
