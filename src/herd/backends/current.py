"""The model that a name stands for, as the settings are now: each request looks whether they have changed.

Looking costs a stat of each file. A backend that was removed is NotFound from the next request on; what is under way
goes on. What it is not: the settings (`herd.backends.settings`, `herd.backends.routes`).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Unpack

from herd.backends.gate import Said
from herd.backends.routes import Named, Routes, named, said_of
from herd.backends.settings import Backends
from herd.chat_model import Capabilities, ChatModel, ChatStream, Sizes, Turns
from herd.errors import BadFile, HerdError, NotFound, NotReady, UsageError
from herd.request_options import DialogRequest


class CurrentModel(ChatModel):
    """A backend or a route of this machine by its name, which may be changed meanwhile. Raises what `named` raises."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._routes, self._backends = Routes(), Backends()
        self._settings: Any = None
        self._found = self._looked()
        self.context = self._found.model.context

    @property
    def capabilities(self) -> Capabilities:
        """See ChatModel. Of one that is gone by now, those that it had: lists of all models go on, and who asks this
        one is told."""
        with suppress(HerdError):
            self._now()
        return self._found.model.capabilities

    @property
    def sizes(self) -> Sizes:
        """See ChatModel."""
        return self._found.model.sizes

    @property
    def alive(self) -> bool:
        """See ChatModel."""
        return self._found.model.alive

    def warm_up(self) -> None:
        """See ChatModel."""
        self._found.model.warm_up()

    def close(self) -> None:
        """See ChatModel."""
        self._found.model.close()

    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> ChatStream:
        """See ChatModel. Raises NotFound where the name stands for nothing any more, NotReady where settings are broken
        or of a kind that a service has to be started anew for."""
        return self._now().astream(messages, **options)

    def _now(self) -> ChatModel:
        with self._lock:
            with _usable(self.name):
                self._found = self._looked()
            self.context = self._found.model.context
            return self._found.model

    def _looked(self) -> Named:
        """What the name stands for: the same as before, unless one of its records is another."""
        route = self._routes.read().good.get(self.name)
        known = self._backends.read().good
        settings = route, [known.get(name) for name in ((self.name,) if route is None else route.members)]
        if settings == self._settings:
            return self._found
        found = named(self.name)
        self._settings = settings
        return found


def said_now(name: str) -> Said:
    """What a backend's or a route's settings say now of whether what it is asked may leave the house. Raises NotReady
    for settings that are broken."""
    with _usable(name):
        return said_of(name)


@contextmanager
def _usable(name: str) -> Iterator[None]:
    """A context in which settings are read for somebody who can do nothing for them, and need not know other names."""
    try:
        yield
    except NotFound:
        raise NotFound(f"{name} is no longer in the settings, or a backend of its route is not") from None
    except (UsageError, BadFile) as error:
        raise NotReady(f"{name}: its settings cannot be used now: {error}") from None
