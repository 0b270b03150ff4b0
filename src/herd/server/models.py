"""Loaded models: on demand, kept alive for a while, restarted when their engine dies.

A model is loaded once, however many requests wait for it; it is never unloaded under a request. Where memory does not
hold another one, those that nobody uses go first, the one that idled longest before the others. One that cannot be
loaded is tried again for the next request; one whose engine died also by itself, ever more rarely. Where a name means
another version than the one that is loaded, that one takes its place without a request that fails (`switching`).
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from herd.chat_model import ChatModel
from herd.errors import DoesNotFit, EngineDied, FilesChanged, HerdError, NotReady, PassFailed
from herd.server.catalogue import Catalogue, CatalogueEntry
from herd.server.http.error_bodies import of_machine, words_of
from herd.server.loaded_model import LoadedModel, mark_of
from herd.server.log import Log
from herd.server.switching import take_over

Loader = Callable[[str], ChatModel]
"""The path of a model's files -> the loaded one; on a thread."""
FOREVER = float("inf")
WATCH_S = 1.0
"""Seconds between looks at the engines; and until the first new try to load a model again."""
RETRY_S = 60.0
"""The longest wait from one such try to the next."""


class Models:
    """All models of a service, on one event loop.

    keep_alive_s: how long an unused model stays (FOREVER: until the end).
    """

    def __init__(self, catalogue: Catalogue, load: Loader, *, keep_alive_s: float, log: Log) -> None:
        self.catalogue = catalogue
        self.keep_alive_s = keep_alive_s
        self._load = load
        self.log = log
        self._held: dict[str, LoadedModel] = {}
        self._failures: dict[str, HerdError] = {}
        """Name -> error of the last load, for models whose last load failed."""
        self._leaving: set[LoadedModel] = set()
        """Models that others took the place of, until their last requests have ended."""
        self.one_load = asyncio.Lock()
        """Held by whoever loads: one at a time."""
        self.closing = False
        """Whether the service stops."""

    def current(self, name: str) -> LoadedModel | None:
        """The model of a name that who asks gets; name: the model's own."""
        return self._held.get(name)

    def put(self, new: LoadedModel, old: LoadedModel) -> None:
        """Let who asks from now on get the new one; the old one goes with its last user."""
        if old.timer is not None:
            old.timer.cancel()
        new.keep_alive_s, new.used_s = old.keep_alive_s, old.used_s
        self._held[new.name] = new
        self._leaving.add(old)
        self._arm(new)

    @property
    def held(self) -> list[LoadedModel]:
        """Models that are loaded or being loaded."""
        return list(self._held.values())

    def failure(self, name: str) -> HerdError | None:
        """The error of the last load of this model, or of looking it up; None: there was none, or another load is under
        way."""
        try:
            base = self.catalogue.find(name).base
        except HerdError as error:
            return error
        return None if base in self._held else self._failures.get(base)

    @asynccontextmanager
    async def use(
        self, name: str, keep_alive_s: float | None = None, pins: list[LoadedModel] | None = None
    ) -> AsyncIterator[ChatModel]:
        """A context with the model of that name, loaded if need be; the model stays at least as long as the context.

        keep_alive_s: from its end on; None: as before, or the service's. pins: what one request uses, added to here: it
        keeps a model that it uses already, whatever the name means by now. Raises NotFound, what loading raises, and
        NotReady while the service stops.
        """
        base = self.catalogue.find(name).base
        mine = next((one for one in pins or () if one.name == base and one.users and one.model is not None), None)
        held = mine or self._hold(base)
        if pins is not None and mine is None:
            pins.append(held)
        if keep_alive_s is not None:
            held.keep_alive_s = keep_alive_s
        held.users += 1
        try:
            yield await self._ready(held)
        except EngineDied:
            self._restart(held)
            raise
        except FilesChanged as error:
            self._outdate(held, error)
            raise
        finally:
            held.users -= 1
            held.used_s = time.monotonic()
            if not held.users and self._held.get(held.name) is not held:
                await self.drop(held)
            self._arm(held)

    async def load(self, name: str, keep_alive_s: float | None = None) -> None:
        """Load a model now. See `use`."""
        async with self.use(name, keep_alive_s):
            pass

    async def unload(self, name: str) -> bool:
        """Unload a model as soon as nobody uses it; returns whether it was loaded. Raises NotFound."""
        held = self._held.get(self.catalogue.find(name).base)
        self._failures.pop(self.catalogue.find(name).base, None)
        if held is None:
            return False
        held.keep_alive_s = 0.0
        if held.users == 0:
            await self.drop(held)
        return True

    async def watch(self) -> None:
        """Reload models whose engine has died, also when nobody asks; runs until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            for held in self.held:
                if held.model is not None and not held.model.alive:
                    self._restart(held)
                else:
                    self._notice(held)

    async def close(self) -> None:
        """Unload everything; requests under way fail."""
        self.closing = True
        for held in (*self.held, *self._leaving):
            await self.drop(held)

    # -- loading -----------------------------------------------------------------------------------------------------

    def _hold(self, name: str) -> LoadedModel:
        if self.closing:
            raise NotReady("the service is stopping; ask again when it is back")
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = LoadedModel(name, self.keep_alive_s)
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        if held.task is None:
            held.task = asyncio.create_task(self._bring(held))
        self._notice(held)
        return self._held[name]

    def _notice(self, held: LoadedModel) -> None:
        """Begin to load what a name means, where that is another version than the one that is loaded."""
        if held.state != "ready" or held.next is not None or self.closing:
            return
        try:
            listed = self.catalogue.find(held.name)
        except HerdError:  # it was forgotten: who asks is told so
            return
        mark = mark_of(listed)
        if mark == held.mark:
            held.refused = None  # whoever switches to that version once more has mended it
        if mark in (None, held.mark) or held.has_refused(mark):
            return
        new = LoadedModel(held.name, held.keep_alive_s, mark=mark, load=self._load_of(listed))
        held.next = new
        new.task = asyncio.create_task(take_over(self, held, new))
        new.task.add_done_callback(_heard)

    async def _ready(self, held: LoadedModel) -> ChatModel:
        assert held.task is not None
        if held.state != "ready":
            await asyncio.shield(held.task)  # whoever gives up waiting does not end the load of the others
        if held.model is None:
            raise EngineDied(f"{held.name} was unloaded while this request waited for it; ask again")
        return held.model

    async def _bring(self, held: LoadedModel) -> None:
        """Load a model, and unload idle ones first if they are in the way."""
        try:
            listed = self.catalogue.find(held.name)
            held.mark, held.load = mark_of(listed), self._load_of(listed)
            async with self.one_load:
                held.model = await self.fit(held.load, self.idle_but(held))
                if self._held.get(held.name) is not held:  # nobody wanted it any more while it was loaded
                    await self.drop(held)
                    return
        except Exception as error:
            raise self.failed(held, error) from error
        except BaseException:  # the service stops
            self._forget(held)
            raise
        self.loaded(held)

    def loaded(self, held: LoadedModel) -> None:
        """A model is there: requests may have it."""
        assert held.model is not None
        self._failures.pop(held.name, None)
        held.state = "ready"
        seconds = time.monotonic() - held.began_s
        self.log.event("loaded", model=held.name, context=held.model.context, seconds=seconds)

    def failed(self, held: LoadedModel, error: Exception) -> HerdError:
        """A model could not be loaded: the error to tell those who wait for it."""
        self._forget(held)
        told = self._failures[held.name] = self.told(held.name, error)
        self.log.event("load failed", model=held.name, error=told.code, reason=words_of(told))
        return told

    def told(self, name: str, error: Exception) -> HerdError:
        """The error to tell of a model that could not be loaded."""
        if isinstance(error, HerdError) and not isinstance(error, PassFailed):
            return error
        if isinstance(error, MemoryError):
            return DoesNotFit(f"{name} could not be loaded: memory ran out")
        if not isinstance(error, HerdError | OSError):
            self.log.mistake("-", error)
        why = of_machine(error)
        what = str(error) if isinstance(error, HerdError) else type(error).__name__
        return why or EngineDied(f"{name} could not be loaded: {what}")

    def _load_of(self, listed: CatalogueEntry) -> Callable[[], ChatModel]:
        """The function that loads an entry of the catalogue."""
        return partial(self._load, str(listed.path)) if listed.registered is None else listed.registered.load

    async def fit(
        self, load: Callable[[], ChatModel], idle: "Callable[[], list[LoadedModel]]" = lambda: []
    ) -> ChatModel:
        """Load a model; where memory does not hold it, those that `idle` tells go first. Raises what loading raises."""
        while True:
            try:
                return await asyncio.to_thread(self._made, load)
            except DoesNotFit:
                others = idle()
                if not others:
                    raise
                await self.drop(min(others, key=lambda h: h.used_s))

    def idle_but(self, *kept: LoadedModel) -> Callable[[], list[LoadedModel]]:
        """What tells the models that nobody uses, these left out."""
        return lambda: [h for h in self.held if h not in kept and h.users == 0 and h.model is not None]

    def _made(self, load: Callable[[], ChatModel]) -> ChatModel:
        """Load a model and make it ready for requests; on a thread."""
        model = load()
        model.warm_up()
        gc.collect()
        gc.freeze()  # vocabularies are not garbage: looking through them again holds every thread up, 40 ms each time
        return model

    def _restart(self, held: LoadedModel) -> None:
        """Load a model again at once, whose engine has died."""
        if self._held.get(held.name) is not held or held.state != "ready" or self.closing:
            return
        self.log.event("restart", model=held.name, restarts=held.restarts + 1)
        dead, held.model = held.model, None
        held.state, held.began_s, held.restarts = "loading", time.monotonic(), held.restarts + 1
        held.task = asyncio.create_task(self._replace(held, dead))
        held.task.add_done_callback(_heard)

    async def _replace(self, held: LoadedModel, dead: ChatModel | None) -> None:
        if dead is not None:
            await asyncio.to_thread(_let_go, dead)
        try:
            await self._bring(held)
        except HerdError:
            self._try_later(held.name, WATCH_S)
            raise

    def _try_later(self, name: str, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(wait_s, lambda: loop.create_task(self._try_again(name, wait_s)))

    async def _try_again(self, name: str, wait_s: float) -> None:
        """Load a model that was there, unless that is done or nobody wants it any more."""
        if self.closing or name not in self._failures:
            return
        try:
            await self.load(name)
        except HerdError:
            self._try_later(name, min(2 * wait_s, RETRY_S))

    def _outdate(self, held: LoadedModel, error: FilesChanged) -> None:
        """Let whoever asks next load a model anew, whose files were replaced or could not be read."""
        if self._held.get(held.name) is held and held.state == "ready":
            self._forget(held)
            self.log.event("outdated", model=held.name, reason=words_of(error))

    # -- letting go --------------------------------------------------------------------------------------------------

    def _arm(self, held: LoadedModel) -> None:
        """Start the time-out of a model that nobody uses any more."""
        if held.users or self._held.get(held.name) is not held or held.keep_alive_s == FOREVER or self.closing:
            return
        loop = asyncio.get_running_loop()
        held.timer = loop.call_later(max(0.0, held.keep_alive_s), lambda: loop.create_task(self._expire(held)))

    async def _expire(self, held: LoadedModel) -> None:
        if held.users == 0 and self._held.get(held.name) is held:
            self.log.event("unloaded", model=held.name, idle_s=time.monotonic() - held.used_s)
            await self.drop(held)

    def _forget(self, held: LoadedModel) -> None:
        """Have the next who asks load it anew, and it goes with its last user; another one of its name stays."""
        if self._held.get(held.name) is held:
            self._held.pop(held.name)

    async def drop(self, held: LoadedModel) -> None:
        """Let go of a model."""
        self._forget(held)
        if held.timer is not None:
            held.timer.cancel()
        model, held.model = held.model, None
        if model is not None:
            await asyncio.to_thread(_let_go, model)
        self._leaving.discard(held)
        held.gone.set()


def _heard(task: "asyncio.Task[None]") -> None:
    """Take the exception of a restart that failed: it has been logged, and nobody awaits it."""
    if not task.cancelled():
        task.exception()


def _let_go(model: ChatModel) -> None:
    """Close a model and collect what is left of it."""
    model.close()
    gc.unfreeze()
