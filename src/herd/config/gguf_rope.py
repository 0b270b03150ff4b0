"""RoPE as the keys of a GGUF file say it, read and written. Source: llama.cpp's loader and its converter.

The keys are those behind the architecture's name. A factor without a type is linear, and `rope.scale_linear` is the old
name of `rope.scaling.factor`; type none scales nothing, whatever the factor; divisors (rope_freqs.weight) come on top.
Under yarn, attention has YaRN's own factor for the stretch, times `rope.scaling.attn_factor`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from herd.config.checks import MAX_CONTEXT, positive, whole
from herd.config.rope import (
    DynamicScaling,
    LinearScaling,
    RopeDivisors,
    RopeRule,
    YarnScaling,
    attention_of,
    divisors_of,
    yarn_attention,
)
from herd.errors import BadConfig, fail

TYPES = ("none", "linear", "yarn")
BETAS = (32.0, 1.0)
"""beta_fast and beta_slow that llama.cpp computes with, whatever a file of ours says."""


def rope_from_gguf(
    keys: Mapping[str, Any], arch: str, *, theta: float, head_size: int, context: int, divisors: Sequence[float] | None
) -> RopeRule | None:
    """The rule of scaling; divisors: the content of rope_freqs.weight. Raises BadConfig."""

    def get(name: str) -> Any:
        return keys.get(f"{arch}.rope.{name}")

    def number(name: str, default: float) -> float:
        return default if get(name) is None else positive(f"{arch}.rope.{name}", get(name))

    kind = "linear" if get("scaling.type") is None else get("scaling.type")
    if kind not in TYPES:
        fail(BadConfig, f"{arch}.rope.scaling.type", got=kind, expected=", ".join(TYPES))
    name = "scale_linear" if get("scaling.factor") is None else "scaling.factor"
    factor = 1.0 if get(name) == 0 else number(name, 1.0)  # 0 is written for "not scaled"
    attention = yarn_attention(factor) if kind == "yarn" else 1.0
    said = number("scaling.yarn_attn_factor", attention)
    if not math.isclose(said, attention, rel_tol=1e-5):
        what = f"{arch}.rope.scaling.yarn_attn_factor, which programs compute differently,"
        fail(BadConfig, what, got=said, expected=f"{attention:.6g} or none")
    attention *= number("scaling.attn_factor", 1.0)
    rule: RopeRule | None = None
    if kind == "yarn":
        original = get("scaling.original_context_length") or context
        rule = YarnScaling(
            factor,
            whole(f"{arch}.rope.scaling.original_context_length", original, 1, MAX_CONTEXT),
            number("scaling.yarn_beta_fast", BETAS[0]),
            number("scaling.yarn_beta_slow", BETAS[1]),
            attention_factor=attention,
        )
    elif kind == "linear" and factor != 1.0:
        rule = LinearScaling(factor)
    if divisors is None and attention == attention_of(rule):
        return rule
    values = [1.0] * (head_size // 2) if divisors is None else [float(d) for d in divisors]
    if len(values) != head_size // 2:
        fail(BadConfig, "rope divisors", got=len(values), expected=head_size // 2)
    if rule is not None:
        values = [a * b for a, b in zip(values, divisors_of(rule, theta, head_size), strict=True)]
    return RopeDivisors(tuple(values), attention)


def rope_to_gguf(
    rule: RopeRule | None, *, theta: float, head_size: int
) -> tuple[dict[str, Any], tuple[float, ...] | None]:
    """The keys, without the architecture's name, and the divisors that say this rule to llama.cpp as well.

    llama.cpp's YaRN has fixed betas and whole dimensions for `llama` and `llama4`: another one is written as divisors.
    """
    match rule:
        case None | DynamicScaling():
            return {}, None
        case LinearScaling():
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rule.factor)}, None
        case YarnScaling() if rule.truncate and (rule.beta_fast, rule.beta_slow) == BETAS:
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(rule.factor),
                "rope.scaling.original_context_length": rule.original_context,
                **_attention_key(rule.attention_factor / yarn_attention(rule.factor)),
            }, None
        case _:
            return _attention_key(attention_of(rule)), divisors_of(rule, theta, head_size)


def _attention_key(factor: float) -> dict[str, Any]:
    return {} if math.isclose(factor, 1.0, rel_tol=1e-7) else {"rope.scaling.attn_factor": float(factor)}
