"""What is known of a model that a service holds: its state, its users, and what its name meant when it was loaded."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from herd.chat_model import ChatModel
from herd.server.catalogue import CatalogueEntry

State = Literal["loading", "ready"]
Mark: TypeAlias = tuple[str, str]
"""A path, and which version of the store lies there."""
RETRY_S = 60.0
"""Seconds until a version is tried again that could not be loaded in the place of another one."""


@dataclass(eq=False)
class LoadedModel:
    """A model that is loaded, or being loaded."""

    name: str
    keep_alive_s: float
    state: State = "loading"
    model: ChatModel | None = None
    task: "asyncio.Task[None] | None" = None
    began_s: float = field(default_factory=time.monotonic)
    used_s: float = field(default_factory=time.monotonic)
    users: int = 0
    restarts: int = 0
    timer: asyncio.TimerHandle | None = None
    mark: Mark | None = None
    """What its name meant when its load began; None: it has no files."""
    load: Callable[[], ChatModel] | None = None
    """Loads the same once more."""
    next: "LoadedModel | None" = None
    """The version that is being loaded to take its place."""
    refused: tuple[Mark, float] | None = None
    """A version that could not be loaded in its place, and until when that is not tried again."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it is out of memory."""

    @property
    def expires_in_s(self) -> float:
        """Seconds until it is unloaded, if nobody uses it."""
        return self.keep_alive_s - (time.monotonic() - self.used_s)

    def refuse(self, mark: Mark | None) -> None:
        """Note that a version could not be loaded in its place."""
        if mark is not None:
            self.refused = mark, time.monotonic() + RETRY_S

    def has_refused(self, mark: Mark | None) -> bool:
        """Whether that version could not be loaded, a short while ago."""
        return self.refused is not None and self.refused[0] == mark and time.monotonic() < self.refused[1]


def mark_of(listed: CatalogueEntry) -> Mark | None:
    """What an entry of the catalogue means now; None: it is no file."""
    return None if listed.path is None else (str(listed.path), listed.version)
