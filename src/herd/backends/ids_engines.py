"""Engines that take token ids: asked what they are, compared with a tokenizer here, made an executor.

    asked      what an engine tells of itself now
    compared   whether it encodes two hundred texts as a tokenizer here does
    executor   one that has it compute

What it is not: a model (`herd.llm.ids_loading`), a form (`herd.backends.ids_wire`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from herd.backends.alike_texts import texts
from herd.backends.failures import Broken, failure
from herd.backends.gate import allow
from herd.backends.ids_executor import IdsExecutor
from herd.backends.ids_facts import Facts
from herd.backends.ids_llama_server import LlamaServerWire
from herd.backends.ids_sglang import SglangWire
from herd.backends.ids_vllm import VllmWire
from herd.backends.ids_wire import Wire
from herd.backends.settings import Backend, target_of
from herd.backends.target import MOST_CONTEXT, Bounds, Target
from herd.backends.transport import Transport
from herd.errors import UsageError, fail
from herd.grammar.masks import Grammars
from herd.text.tokenizer import Tokenizer

ENGINES: Mapping[str, type[Wire]] = {"vllm": VllmWire, "sglang": SglangWire, "llama-server": LlamaServerWire}
"""Engines by their presets."""
BOUNDS = Bounds(body_bytes=1 << 30, whole_bytes=64 << 20, values=8_000_000, retries=1)
"""SGLang repeats an answer with each token; scores of a long text come as one JSON text; what is down in the house is
asked once more, so that a route goes on within a second."""


MOST_PLACES = 1 << 16
"""Answers at once that an engine may tell of."""


class Compared(NamedTuple):
    """How two tokenizers encode the same texts."""

    tried: int
    differing: int
    first: str = ""
    """The first text that they encode otherwise."""
    here: tuple[int, ...] = ()
    there: tuple[int, ...] = ()


def ids_target(name: str, backend: Backend) -> Target:
    """Where requests of a backend by ids go: the root of its server, whose paths begin with a slash."""
    root = backend.address.rstrip("/").removesuffix("/v1")
    return target_of(name, backend, base_url=root, bounds=BOUNDS)


async def asked(target: Target, engine: type[Wire]) -> Facts:
    """What an engine tells of itself. Raises errors of `herd.backends.failures`."""
    transport = Transport(target)

    async def get(path: str) -> Any:
        return await transport.get(path, allow(target, leave=False))

    found = await engine.ask(target, get, lambda path, body: _posted(transport, path, body))
    for what, told, most in (("context", found.context, MOST_CONTEXT), ("answers at once", found.places, MOST_PLACES)):
        if told is not None and (type(told) is not int or not 0 < told <= most):
            raise failure(Broken, target, f"tells of {what} what no count is: {str(told)[:40]!r}")
    return found


async def compared(target: Target, engine: type[Wire], tokenizer: Tokenizer) -> Compared:
    """How an engine and a tokenizer here encode the same texts. Raises errors of `herd.backends.failures`."""
    transport, author = Transport(target), tokenizer.for_author()
    control = [text for text, i in tokenizer.added.items() if i in tokenizer.control_ids]
    found, differing, first = texts(control), 0, Compared(0, 0)
    for text in found:
        here = author.encode(text)
        there = await engine.encode(target, lambda path, body: _posted(transport, path, body), text)
        if here != there:
            first = first if differing else Compared(0, 0, text, tuple(here), tuple(there))
            differing += 1
    return first._replace(tried=len(found), differing=differing)


def check_alike(name: str, tokenizer: str, found: Compared) -> None:
    """Raise UsageError where texts are encoded otherwise there."""
    if found.differing:
        got = f"{found.differing} of {found.tried} texts otherwise, first {found.first[:30]!r}: there "
        got += f"{list(found.there[:6])}, here {list(found.here[:6])}"
        what = f"backend {name}: it encodes as {tokenizer} does"
        fail(UsageError, what, got=got, expected="all alike", do="name the tokenizer of the model that it serves")


def executor(
    target: Target, engine: type[Wire], facts: Facts, tokenizer: Tokenizer, ends: frozenset[int], *, context: int,
    places: int | None = None,
) -> IdsExecutor:  # fmt: skip
    """An executor that has an engine compute. tokenizer: of prompts and answers; ends: ids that end an answer; context:
    of prompt and answer together; places: most answers at once, None: as many as the engine says."""
    return IdsExecutor(
        engine.over(target, facts, tokenizer),
        vocab_size=tokenizer.vocab_size,
        context=context,
        places=places,
        grammars=lambda: Grammars(tokenizer.for_grammar(), ends),
    )


async def _posted(transport: Transport, path: str, body: Mapping[str, Any]) -> Any:
    """The JSON that a path answers to a body."""
    import msgspec

    passed = allow(transport.target, leave=False)
    async for value in transport.post(path, msgspec.json.encode(body), passed):
        return value
    raise failure(Broken, transport.target, "sent nothing")
