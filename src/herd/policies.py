"""The door for checks of what goes into a model and what comes out, which a caller passes in.

    Policy    refuses, or lets go on
    Editor    also changes what is shown, and says what it saw
    Cleaner   also changes what the model is shown

`herd.safety` has some; this module knows none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from herd.events import Note, Reply
from herd.messages import Message
from herd.text.said import Said
from herd.text.tools import Tool


@dataclass(frozen=True)
class Prompt:
    """All that a model is to read: a dialog, definitions of tools, and what its chat template is told besides."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> Sequence[Message]:
        """The dialog for who reads turns alone: what the template is told is a user's turn before it."""
        told = "\n".join(f"{name}: {value}" for name, value in self.variables.items())
        return [Message("user", told), *self.messages] if told else self.messages


class Policy(Protocol):
    """Checks of what goes in and what comes out. Each method returns None to go on, or the text to answer instead;
    then the reply ends with finish_reason "policy". Where an answer goes on with one that is begun, the output is both
    as one, and the begun part is already out."""

    hold_tokens: int
    """How many tokens of output are held back until `window` has seen them; 0 or 1: each piece as it comes."""

    def before(self, messages: Sequence[Message]) -> str | None:
        """The dialog, before the first token."""

    def window(self, text: str, shown: int) -> str | None:
        """The output so far, calls of tools as their names and decoded arguments where they stand; text[:shown] is
        already out. Called before more of it is let out."""

    def after(self, reply: Reply) -> str | None:
        """The whole reply, before it is returned; a returned text stands for all of it (a stream has already shown
        what `window` let through)."""


@dataclass(frozen=True)
class Cut:
    """Characters start to end of the output do not leave; `mark` stands for them."""

    start: int
    end: int
    mark: str = ""


@dataclass(frozen=True)
class Edit:
    """What becomes of the output up to character `until`: it leaves but for the cuts, which are in order and apart.
    instead: said in place of what has not left; the reply ends."""

    until: int
    cuts: tuple[Cut, ...] = ()
    notes: tuple[Note, ...] = ()
    instead: str | None = None


@runtime_checkable
class Editor(Policy, Protocol):
    """A policy that may change what is shown, and says what it saw. `window` is then not called. Ids and logprobs of
    tokens whose text was changed or withheld are withheld, too."""

    def edit(self, said: Said, shown: int, ready: int) -> Edit:
        """said: the output so far, `said.begun` characters of it begun by others; what is before character `shown` is
        settled, what is before `ready` has `hold_tokens` tokens behind it, or is the whole at the end. Settles at most
        shown to ready; what it leaves comes again. A call leaves whole once all of it is settled, and no cut may touch
        one."""

    def notes(self, reply: Reply, said: Said) -> tuple[Note, ...]:
        """All notes of a reply: those of the request, then `reply.notes`. Called last, after `after`."""


@runtime_checkable
class Cleaner(Protocol):
    """A policy that changes what the model is shown."""

    def cleaned(self, prompt: Prompt) -> Prompt:
        """What to send instead. Called once, before `before`, which still gets the dialog that came."""
