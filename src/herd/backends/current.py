"""The model that a name stands for, as the settings are now: each request looks whether they have changed.

Looking costs a stat of each file. A backend that was removed is NotFound from the next request on; what is under way
goes on. What it is not: the settings (`herd.backends.settings`, `herd.backends.routes`).
"""

import threading
from contextlib import suppress
from typing import Any, Unpack

from herd.backends.routes import Named, Routes, named
from herd.backends.settings import Backends
from herd.chat_model import Capabilities, ChatModel, ChatStream, Sizes, Turns
from herd.errors import HerdError, NotFound
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
        """See ChatModel. Raises NotFound where the name stands for nothing any more."""
        return self._now().astream(messages, **options)

    def _now(self) -> ChatModel:
        with self._lock:
            try:
                self._found = self._looked()
            except NotFound:  # which names others, and whoever asks a service need not know these
                raise NotFound(f"{self.name} is no longer in the settings, or a backend of its route is not") from None
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
