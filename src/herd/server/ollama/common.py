"""What Ollama's routes share: options, keep-alive, times, a model's details."""

import contextlib
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from herd.events import Reply
from herd.server.catalogue import LATEST
from herd.server.requests.fields import Refused
from herd.server.service import Caller
from herd.store.about import About

FOREVER = float("inf")
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""The last date that can be written: for ever, and whatever lies beyond it."""
LONGEST_TIME = 64
"""Characters of a time: looked at before anything reads it."""
_DURATION = re.compile(r"(-?+[0-9]++(?:\.[0-9]++)?+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Options(msgspec.Struct, kw_only=True):
    """Ollama's `options` that have an effect; None: the model's own."""

    num_ctx: int | None = None
    """A ceiling of prompt and answer; memory grows with use alone."""
    num_predict: int | None = None
    """0 or negative: to the end of the context, as Ollama's runners have it."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    """Negative: a fresh one."""
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    """-1: all; 0: no penalty."""
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


MACHINE = "the service decides how it computes"
SAMPLERS = "there is no such sampler; see top_p and min_p"
OPTIONS_REPORTED = {
    "options.num_keep": "the context is never shifted",
    "options.num_batch": MACHINE,
    "options.num_gpu": MACHINE,
    "options.main_gpu": MACHINE,
    "options.num_thread": MACHINE,
    "options.use_mmap": MACHINE,
    "options.use_mlock": MACHINE,
    "options.numa": MACHINE,
    "options.low_vram": MACHINE,
    "options.f16_kv": MACHINE,
    "options.tfs_z": SAMPLERS,
    "options.typical_p": SAMPLERS,
    "options.mirostat": SAMPLERS,
    "options.mirostat_eta": SAMPLERS,
    "options.mirostat_tau": SAMPLERS,
    "options.penalize_newline": SAMPLERS,
}


_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "stop": "stop",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
CALLED = {
    **{ours: f"options.{theirs}" for theirs, ours in _NAMES.items()},
    "max_tokens": "options.num_predict",
    "seed": "options.seed",
    "repetition_window": "options.repeat_last_n",
    "logprobs": "top_logprobs",
    "ceiling": "options.num_ctx",
}
"""Options of a request -> what Ollama calls them."""


def sampling_of(options: Options | None) -> dict[str, Any]:
    """Fields of SamplingOptions. Raises Refused for a num_ctx that is none."""
    if options is None:
        return {}
    found = {ours: value for theirs, ours in _NAMES.items() if (value := getattr(options, theirs)) is not None}
    if options.num_predict is not None and options.num_predict > 0:
        found["max_tokens"] = options.num_predict
    if options.seed is not None and options.seed >= 0:
        found["seed"] = options.seed
    if options.repeat_last_n is not None:
        if options.repeat_last_n == 0:
            found["repetition_penalty"] = 1.0
        else:
            found["repetition_window"] = max(options.repeat_last_n, 0)
    if options.num_ctx is not None and options.num_ctx < 1:
        raise Refused(f"options.num_ctx: got {options.num_ctx}, expected 1 or more", "options.num_ctx")
    return found


def keep_alive_of(value: float | str | None) -> float | None:
    """Seconds: 300, "5m", "1h30m"; negative: for ever. None: the service's own. Raises Refused."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        seconds = _seconds(value)
    else:
        try:
            seconds = float(value)
        except OverflowError:  # an integer beyond any double
            seconds = FOREVER
    if seconds != seconds:
        raise Refused("keep_alive: got NaN, expected seconds", "keep_alive")
    return FOREVER if seconds < 0 else seconds


def _seconds(text: str) -> float:
    """Seconds of a number, or of a time like 1h30m. Raises Refused."""
    if len(text) <= LONGEST_TIME:
        with contextlib.suppress(ValueError):
            return float(text)
        pieces = _DURATION.findall(text)
        if "".join(number + unit for number, unit in pieces) == text:
            sign = -1.0 if text.startswith("-") else 1.0
            return sign * sum(abs(float(number)) * _UNITS[unit] for number, unit in pieces)
    raise Refused(f"keep_alive: got {text[:40]!r}, expected seconds, or a time like 5m", "keep_alive")


def keep_alive_for(caller: Caller, value: float | str | None) -> tuple[float | None, tuple[str, ...]]:
    """(what `keep_alive_of` says, fields without effect): how long a model stays is for keys that may manage alone."""
    seconds = keep_alive_of(value)
    if seconds is None or "manage" in caller.key.rights:
        return seconds, ()
    return None, ("keep_alive",)


def format_of(form: Any) -> Mapping[str, Any] | bool | None:
    """What the answer must be: "json", or a schema. Raises Refused."""
    if form is None or form == "":
        return None
    if form == "json":
        return True
    if isinstance(form, dict):
        return form
    raise Refused('format: expected "json" or a JSON schema', "format")


def now() -> str:
    """RFC 3339, with microseconds."""
    return stamp(time.time())


def stamp(unix_s: float) -> str:
    """A time as RFC 3339."""
    at = LAST if unix_s >= LAST.timestamp() else datetime.fromtimestamp(unix_s, UTC)
    return at.isoformat().replace("+00:00", "Z")


def counts_of(reply: Reply, took_s: float) -> dict[str, Any]:
    """The members of a last line: counts, and nanoseconds."""
    t, usage = reply.timings, reply.usage
    return {
        "total_duration": int(took_s * 1e9),
        "load_duration": int(max(0.0, took_s - t.first_token_s - t.decode_s) * 1e9),
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int(t.prefill_s * 1e9),
        "eval_count": usage.output_tokens,
        "eval_duration": int(t.decode_s * 1e9),
    }


def done_of(reply: Reply) -> str:
    """Why it ended, in this dialect's words."""
    return "length" if reply.finish_reason == "length" else "stop"


def tagged(name: str) -> str:
    """A name with its tag."""
    return name if ":" in name else name + LATEST


def details_of(about: About | None) -> dict[str, Any]:
    """The `details` of a model."""
    if about is None:  # it has no files, or they are gone or broken
        return {
            "parent_model": "",
            "format": "",
            "family": "",
            "families": None,
            "parameter_size": "",
            "quantization_level": "",
        }
    return {
        "parent_model": "",
        "format": about.format,
        "family": about.family,
        "families": [about.family],
        "parameter_size": parameters(about.counts.total),
        "quantization_level": next(iter(about.types), "").upper(),
    }


def parameters(count: int) -> str:
    """As Ollama writes it: 135M, 109B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            number = count / size
            return f"{number:.0f}{letter}" if number >= 100 else f"{number:.1f}{letter}"
    return str(count)
