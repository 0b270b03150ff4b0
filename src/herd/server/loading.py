"""The one place of the service that knows `herd.llm`: what loading a model's files would give; and backends by name.

Everything else speaks to `herd.chat_model.ChatModel`. What it is not: when a model is loaded (`herd.server.models`).
"""

from collections.abc import Callable
from typing import TypeAlias

from herd.backends.current import CurrentModel, said_now
from herd.backends.routes import has_ids, named
from herd.chat_model import Capabilities
from herd.config import Llama4Config
from herd.llm import LLM, by_ids
from herd.llm.capabilities import capabilities
from herd.llm.load_options import Context
from herd.llm.loading import context_for
from herd.machine.memory import available_bytes
from herd.server.catalogue import RegisteredModel


def backend_of(name: str) -> RegisteredModel:
    """A backend or a route (`herd.backends.routes`) as a model that is no file. Nothing is connected. Raises NotFound,
    UsageError, MissingExtra."""
    found = named(name, by_ids=lambda one: by_ids(one, asks=False))
    made = found.model
    known = made.capabilities, made.context
    made.close()
    load = (lambda: named(name, by_ids=by_ids).model) if has_ids(name) else (lambda: CurrentModel(name))
    return RegisteredModel(load, *known, found.added_s, lambda: said_now(name))


FileLoader: TypeAlias = Callable[[str], LLM]
"""The path of a model's files -> the loaded one; on a thread."""


def expected_context(asked: Context, config: Llama4Config, weights_bytes: int) -> int:
    """Tokens of context that loading a model now would give, roughly: its cache may be of a smaller type."""
    return context_for(asked, config, weights_bytes, available_bytes())


def expected_capabilities(config: Llama4Config) -> Capabilities:
    """The capabilities that a model of this config has once it is loaded."""
    return capabilities(config)
