"""RoPE as config.json says it, read and written: `rope_scaling` beside `rope_theta`, or `rope_parameters`.

Both are transformers' and mean the same; where a file has both, `rope_scaling` counts, as there. `rope_parameters` may
hold one object for each kind of layer: they must then say the same. What scales by the length of the text at hand
(dynamic, longrope) is computed up to the length where it begins, since pages of a cache are shared between texts.
"""

import math
from collections.abc import Mapping
from typing import Any

from herd.config.checks import MAX_CONTEXT, positive, whole
from herd.config.rope import (
    DynamicScaling,
    LinearScaling,
    RopeDivisors,
    RopeRule,
    RopeScaling,
    YarnScaling,
    divisors_of,
    plain_freqs,
    yarn_attention,
)
from herd.errors import BadConfig, fail

LAYER_TYPES = ("full_attention", "chunked_attention", "sliding_attention")
TYPES = ("default", "linear", "llama3", "yarn", "dynamic", "longrope")


def rope_from_hf(
    text: Mapping[str, Any], *, theta: float, head_size: int, max_context: int
) -> tuple[float, RopeRule | None]:
    """The base and the rule of scaling in the object of a text model; theta: the base of a file that says none.

    Raises BadConfig for a type of scaling that is not computed and for numbers that are none.
    """
    name, rope = rope_object(text)
    said = rope.get("rope_theta")
    said = text.get("rope_theta") if said is None else said
    theta = positive("rope_theta", theta if said is None else said)
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind == "default":
        if rope.get("factor") not in (None, 1, 1.0):
            fail(
                BadConfig, f"{name} has a factor ({rope['factor']}) and no rope_type", do=f"say one: {', '.join(TYPES)}"
            )
        return theta, None
    if not isinstance(kind, str) or kind not in TYPES:
        fail(BadConfig, f"{name} rope_type", got=kind, expected=", ".join(TYPES))
    original = text.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    original = whole(
        f"{name} original_max_position_embeddings", max_context if original is None else original, 1, MAX_CONTEXT
    )
    if kind == "longrope":
        return theta, _longrope(name, rope, original, max_context)
    factor = rope.get("factor")
    if kind == "yarn" and factor is None and "factor" in rope:
        factor = max_context / original
    factor = positive(f"{name} factor", factor)
    if kind == "linear":
        return theta, LinearScaling(factor) if factor != 1 else None
    if kind == "dynamic":
        return theta, DynamicScaling(factor)
    if kind == "yarn":
        return theta, _yarn(name, rope, factor, original)
    return theta, RopeScaling(
        factor,
        positive(f"{name} low_freq_factor", rope.get("low_freq_factor")),
        positive(f"{name} high_freq_factor", rope.get("high_freq_factor")),
        original,
    )


def rope_object(text: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The object that says how RoPE is scaled, and the name of its key; an empty one where there is none."""
    for name in ("rope_scaling", "rope_parameters"):
        found = text.get(name)
        if found is None or found == {}:
            continue
        if not isinstance(found, Mapping):
            fail(BadConfig, f"config.json {name}", got=type(found).__name__, expected="an object")
        nested = {kind: found[kind] for kind in LAYER_TYPES if found.get(kind) is not None}
        for kind, part in nested.items():
            if not isinstance(part, Mapping):
                fail(BadConfig, f"config.json {name} {kind}", got=type(part).__name__, expected="an object")
        if any(part != next(iter(nested.values())) for part in nested.values()):
            fail(BadConfig, f"config.json {name} differs by kind of layer", got=", ".join(nested), expected="one RoPE")
        return name, next(iter(nested.values()), found)
    return "rope_scaling", {}


def _yarn(name: str, rope: Mapping[str, Any], factor: float, original: int) -> YarnScaling:
    attention, mscale, mscale_all = (rope.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is not None:
        attention = positive(f"{name} attention_factor", attention)
    elif mscale and mscale_all:
        numerator = yarn_attention(factor, positive(f"{name} mscale", mscale))
        attention = numerator / yarn_attention(factor, positive(f"{name} mscale_all_dim", mscale_all))
    else:
        attention = yarn_attention(factor)
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        fail(BadConfig, f"{name} truncate", got=truncate, expected="true or false")
    return YarnScaling(
        factor,
        original,
        positive(f"{name} beta_fast", rope.get("beta_fast") or 32.0),
        positive(f"{name} beta_slow", rope.get("beta_slow") or 1.0),
        truncate,
        attention,
    )


def _longrope(name: str, rope: Mapping[str, Any], original: int, max_context: int) -> RopeDivisors:
    short, long = rope.get("short_factor"), rope.get("long_factor")
    if not isinstance(short, list) or not isinstance(long, list):
        fail(BadConfig, f"{name} short_factor and long_factor", got=rope.get("short_factor"), expected="two lists")
    if short != long and original < max_context:
        fail(
            BadConfig,
            f"{name} longrope: texts beyond {original} tokens have other angles from their first token on",
            do=f"set max_position_embeddings to {original}",
        )
    factor = rope.get("factor")
    factor = max_context / original if factor is None else positive(f"{name} factor", factor)
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    values = tuple(positive(f"{name} short_factor", value) for value in short)
    return RopeDivisors(values, positive(f"{name} attention_factor", attention))


def rope_to_hf(rule: RopeRule | None, *, theta: float, head_size: int, max_context: int) -> dict[str, Any] | None:
    """The object `rope_scaling` that says this rule; None: nothing is scaled."""
    match rule:
        case None:
            return None
        case RopeScaling():
            return {
                "rope_type": "llama3",
                "factor": rule.factor,
                "low_freq_factor": rule.low_freq_factor,
                "high_freq_factor": rule.high_freq_factor,
                "original_max_position_embeddings": rule.original_context,
            }
        case LinearScaling():
            return {"rope_type": "linear", "factor": rule.factor}
        case DynamicScaling():
            return {"rope_type": "dynamic", "factor": rule.factor}
        case YarnScaling():
            return {
                "rope_type": "yarn",
                "factor": rule.factor,
                "original_max_position_embeddings": rule.original_context,
                "beta_fast": rule.beta_fast,
                "beta_slow": rule.beta_slow,
                "attention_factor": rule.attention_factor,
                **({} if rule.truncate else {"truncate": False}),
            }
        case RopeDivisors():
            return _divisors_to_hf(rule, theta, head_size, max_context)


def _divisors_to_hf(rule: RopeDivisors, theta: float, head_size: int, max_context: int) -> dict[str, Any] | None:
    """As "llama3" or linear where that says the same, else as a longrope that is the same for short and long texts."""
    if rule.attention_factor == 1.0:
        if all(d == 1.0 for d in rule.values):
            return None
        if len(set(rule.values)) == 1:
            return {"rope_type": "linear", "factor": rule.values[0]}
        found = llama3_from_divisors(rule, theta, head_size)
        if found is not None:
            return rope_to_hf(found, theta=theta, head_size=head_size, max_context=max_context)
    return {
        "rope_type": "longrope",
        "factor": 1.0,
        "attention_factor": rule.attention_factor,
        "short_factor": list(rule.values),
        "long_factor": list(rule.values),
        "original_max_position_embeddings": max_context,
    }


def llama3_from_divisors(divisors: RopeDivisors, theta: float, head_size: int) -> RopeScaling | None:
    """The "llama3" parameters that give these divisors to 1e-5; None when none do."""
    factor = max(divisors.values)
    freqs = plain_freqs(theta, head_size)
    # Where a step lies, any original context between two wavelengths says the same; published models use powers of two.
    kept = [f for f, d in zip(freqs, divisors.values, strict=True) if d == 1.0]
    stretched = [f for f, d in zip(freqs, divisors.values, strict=True) if d == factor]
    border = 2.0 * math.pi / math.sqrt((kept or [max(freqs)])[-1] * stretched[0])
    for original in (8192, *(1 << k for k in range(5, 21)), max(1, round(border))):
        for low, high in ((1.0, 1.0), (1.0, 4.0)):
            rule = RopeScaling(factor, low, high, original)
            said = divisors_of(rule, theta, head_size)
            if all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(said, divisors.values, strict=True)):
                return rule
    return None
