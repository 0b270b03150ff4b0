"""What a load may be told: one frozen struct from `herd.load` to whoever computes, in this process or in another."""

from typing import Literal

import msgspec

from herd.engine.engine import MOST_WAITING
from herd.errors import UsageError, fail
from herd.llm.grammar_trials import GRAMMAR_BYTES, GRAMMAR_S, check_limits
from herd.planning.layers import KV_DTYPES
from herd.value_checks import KnownFields, flag, text, whole

PARALLEL = 8
"""Answers at once. They share one context's worth of cache, and each further one adds a page of 256 positions to it
(Scout in bf16: 50 MB)."""
MAX_PARALLEL = 512
MAX_THREADS = 4096
MAX_QUEUE = 1 << 31
Context = int | Literal["auto"] | None
"""Tokens; auto: as many as fit in memory; None: the model's own, at most `planning.context.USUAL`."""


class LoadOptions(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    repr_omit_defaults=True,
    metaclass=KnownFields,
):
    """See `herd.load` for the fields. Raises UsageError naming the first that is outside its limits; what only the
    model can tell (whether it has so long a context) is checked when it is open."""

    context: Context = None
    chat_format: str | None = None
    threads: int | None = None
    ops: str = "auto"
    kv: str = "auto"
    seed: int | None = None
    force: bool = False
    pack: bool = True
    mmproj: str | None = None
    device: str = "cpu"
    parallel: int = PARALLEL
    engine: str = "thread"
    queue: int = MOST_WAITING
    grammar_s: float = GRAMMAR_S
    grammar_bytes: int = GRAMMAR_BYTES

    def __post_init__(self) -> None:
        check_limits(self.grammar_s, self.grammar_bytes)
        _choice("ops", self.ops, ("auto", "native", "torch"))
        _choice("kv", self.kv, ("auto", *KV_DTYPES))
        _choice("engine", self.engine, ("thread", "child"))
        if self.threads is not None:
            whole("threads", self.threads, 1, MAX_THREADS)
        whole("parallel", self.parallel, 1, MAX_PARALLEL)
        whole("queue", self.queue, 1, MAX_QUEUE)
        flag("force", self.force)
        flag("pack", self.pack)
        text("device", self.device)
        if self.chat_format is not None:
            text("chat_format", self.chat_format)
        if self.mmproj is not None:
            text("mmproj", self.mmproj)


def _choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        fail(UsageError, name, got=value, expected=", ".join(choices))
