"""How one kind of other side is spoken with, apart from all that is the same for each of them.

    WireForm   writes requests and reads answers in one form (`herd.backends.forms` has them all)
    Sending    one request on its way

Whatever the form, gate, transport, bounds, retries, spending and the checks of an answer are one code: a form tells
what it reads as chunks of OpenAI's chat completions, which `herd.backends.openai_stream` checks. What it is not: a
connection, a model.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from herd.backends.gate import Pass
from herd.backends.target import Target
from herd.backends.transport import Transport
from herd.chat_model import Capabilities, Turns


class ListedModels(tuple[str, ...]):
    """Names of models that are listed, and how many tokens of context each has as far as that is told."""

    contexts: Mapping[str, int]

    def __new__(cls, names: Iterable[str], contexts: Mapping[str, int]) -> "ListedModels":
        """contexts: tokens, by name."""
        found = super().__new__(cls, names)
        found.contexts = contexts
        return found


@dataclass(frozen=True)
class Sending:
    """One request on its way."""

    transport: Transport
    body: bytes
    """What the form has written, as JSON."""
    passed: Pass
    options: Mapping[str, Any]
    """What was asked for beside the dialog."""

    @property
    def leave(self) -> bool:
        """Whether it may leave the house, for whoever needs a pass to a second address."""
        return self.options.get("leave") is True

    @property
    def timeout_s(self) -> float | None:
        """Seconds of the whole request."""
        found: float | None = self.options.get("timeout_s")
        return found


class WireForm(Protocol):
    """Writes requests and reads answers in one form."""

    def can(self, capabilities: Capabilities) -> Capabilities:
        """What of those the form has words for."""

    def forces(self, target: Target) -> bool:
        """Whether a call of a tool may be forced upon the model."""

    def body_of(self, target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request. Raises UsageError and its kinds for what is wrong with it, Unsupported naming what
        the form or the other side lacks."""

    def images_in(self, body: Mapping[str, Any]) -> int:
        """How many images a body has."""

    def talk(self, sending: Sending) -> AsyncGenerator[Any, None]:
        """Send a request; chunks of the answer in the form of OpenAI's chat completions, None at their end. Closing it
        ends the request at the other side. Raises errors of `herd.backends.failures`, StaysHere, TimedOut."""

    async def models(self, transport: Transport, passed: Pass) -> tuple[str, ...] | None:
        """Names of the models that the other side lists; None: it has no list. Raises errors of
        `herd.backends.failures`."""
