"""A backend that is asked by token ids as all that an LLM consists of: the tokenizer and chat format lie here, the
weights compute in another engine.

What it is not: what an engine is sent (`herd.backends.ids_wire`), a load of weights (`herd.llm.loading`).
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from herd.backends.failures import Absent, Full
from herd.checkpoint.open import open_checkpoint
from herd.errors import UsageError, fail
from herd.llm.load_options import LoadOptions
from herd.llm.loading import ModelParts, Opened, defaults_of, end_ids, format_of, words_of

if TYPE_CHECKING:
    from herd.backends.ids_facts import Facts
    from herd.backends.ids_wire import Wire
    from herd.backends.target import Target

OURS = ("context", "chat_format", "seed", "parallel", "queue", "grammar_s", "grammar_bytes", "pack", "force")
"""Options of a load that say something where another engine computes, or that it is free to leave aside."""


def read_by_ids(
    name: str,
    options: LoadOptions,
    check: Callable[[Opened], None] | None = None,
    *,
    asks: bool | None = None,
) -> ModelParts:
    """What a backend by ids consists of. asks: whether the engine is asked what it is now; None: it is, and where it is
    away, what it told when it was added holds. Raises NotFound, BadFile and its kinds, UsageError for an option that
    says how weights are computed, errors of `herd.backends.failures`, MissingExtra."""
    from herd.backends.ids_engines import ENGINES, executor, ids_target
    from herd.backends.settings import Backends
    from herd.store import stored

    began_s = time.monotonic()
    backend = Backends().find(name)
    _check_options(name, options)
    target, engine = ids_target(name, backend), ENGINES[backend.preset]
    facts = _facts(target, engine, backend.facts, asks)
    place = stored.look_up(backend.tokenizer)
    with open_checkpoint(place.path) as checkpoint:
        config, tokenizer = replace(checkpoint.config, vision=None), checkpoint.load_tokenizer()
        advice = checkpoint.advice
    chat = format_of(tokenizer, options.chat_format)
    words = words_of(tokenizer, chat)
    asked = options.context if isinstance(options.context, int) else backend.context
    context = facts.context if asked is None else min(asked, facts.context)
    if check is not None:
        check(Opened(name, config, tokenizer, chat, context))
    runner = executor(
        target,
        engine,
        facts,
        words,
        end_ids(config, words, chat),
        context=context,
        places=options.parallel if options.parallel != LoadOptions().parallel else None,
    )
    return ModelParts(
        config=config,
        runner=runner,
        tokenizer=tokenizer,
        chat=chat,
        name=name,
        path=place.path,
        defaults=runner.defaults(defaults_of(advice, chat, options.seed)),
        size_bytes=0,
        load_s=time.monotonic() - began_s,
        checkpoint=None,
        parallel=options.parallel,
        queue=options.queue,
        grammar_s=options.grammar_s,
        grammar_bytes=options.grammar_bytes,
        pack=False,
        ops=f"{runner.engine} by ids",
    )


def _facts(target: "Target", engine: "type[Wire]", kept: "Facts | None", asks: bool | None) -> "Facts":
    """What an engine tells of itself, now or when it was added."""
    from herd.backends.ids_engines import asked
    from herd.backends.loop_thread import LoopThread

    if asks is False and kept is not None:
        return kept
    loop = LoopThread()
    try:
        return loop.run(lambda: asked(target, engine))
    except (Absent, Full):
        if asks or kept is None:
            raise
        return kept
    finally:
        loop.close()


def _check_options(name: str, options: LoadOptions) -> None:
    """Raise UsageError for an option that says how weights are computed: they are another engine's."""
    for field in msgspec.structs.fields(LoadOptions):
        if field.name not in OURS and getattr(options, field.name) != field.default:
            got = f"{getattr(options, field.name)} for a backend, {name}"
            fail(UsageError, field.name, got=got, expected="a model of files", do="leave it out")
