"""A loaded model gives way to another version of it, without a request that fails.

    beside       the new version is loaded while the old one answers; then who asks gets the new one, and the old one
                 goes with its last request
    drained      where memory does not hold both: who asks waits, the old one's requests end, it goes, the new one is
                 loaded, and all who waited are answered

A version that cannot be loaded leaves the old one where it was, loaded again if it had to go; it is tried again after a
while, or when the name means another version. What it is not: the noticing (`Models`), which looks at the store's
records with each request and each second. Weights that are replaced between two steps (`LLM.update_weights`) would be
quicker for the same shape, but answers under way would go on with the new ones.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from herd.chat_model import ChatModel
from herd.errors import DoesNotFit, HerdError, NotReady
from herd.server.catalogue import Catalogue
from herd.server.http.error_bodies import words_of
from herd.server.loaded_model import LoadedModel, mark_of
from herd.server.log import Log


class Holder(Protocol):
    """What holds models by name: `herd.server.models.Models`."""

    catalogue: Catalogue
    one_load: asyncio.Lock
    closing: bool
    log: Log

    def current(self, name: str) -> LoadedModel | None:
        """The model that who asks for a name gets."""

    def put(self, new: LoadedModel, old: LoadedModel) -> None:
        """Let who asks from now on get the new one; the old one goes with its last user."""

    async def drop(self, held: LoadedModel) -> None:
        """Let go of a model."""

    async def fit(self, load: Callable[[], ChatModel], idle: Callable[[], list[LoadedModel]]) -> ChatModel:
        """Load a model; where memory does not hold it, those that `idle` tells go first."""

    def idle_but(self, *kept: LoadedModel) -> Callable[[], list[LoadedModel]]:
        """What tells the models that nobody uses, these left out."""

    def loaded(self, held: LoadedModel) -> None:
        """A model is there: requests may have it."""

    def failed(self, held: LoadedModel, error: Exception) -> HerdError:
        """A model could not be loaded: the error to tell those who wait for it."""

    def told(self, name: str, error: Exception) -> HerdError:
        """The error to tell of a model that could not be loaded."""


async def take_over(models: Holder, old: LoadedModel, new: LoadedModel) -> None:
    """Load `new` and let it take the place of `old`. Raises what loading both raises, to those who wait."""
    models.log.event("switching", model=old.name, version=_version(new))
    try:
        await _beside(models, old, new)
    except (DoesNotFit, MemoryError) as error:
        if models.current(old.name) is old and not models.closing:
            await _drained(models, old, new, models.told(old.name, error))
    except Exception as error:
        _refused(models, old, new, error)
    finally:
        old.next = None


async def _beside(models: Holder, old: LoadedModel, new: LoadedModel) -> None:
    """Load the new one while the old one answers. Raises what loading raises: DoesNotFit, too, where it gets less
    context than the old one because that one is there."""
    assert new.load is not None
    if old.model is None:
        return  # it was let go before this began
    context = old.model.context
    async with models.one_load:
        # an idle old one goes before other models do
        model = await models.fit(new.load, lambda: models.idle_but(old)() if old.users else [])
        new.model = model
        if model.context < context and model.context < await asyncio.to_thread(_most_context, models, old.name):
            await models.drop(new)
            raise DoesNotFit(f"beside the old version it holds {model.context} tokens, that one {context}")
    if not _is_wanted(models, old):
        await models.drop(new)
        return
    models.put(new, old)
    models.loaded(new)
    if not old.users:
        await models.drop(old)


def _is_wanted(models: Holder, old: LoadedModel) -> bool:
    """Whether the old one is still there, and its name means another version than that one."""
    try:
        return models.current(old.name) is old and mark_of(models.catalogue.find(old.name)) != old.mark
    except HerdError:  # it was forgotten
        return False


async def _drained(models: Holder, old: LoadedModel, new: LoadedModel, why: HerdError) -> None:
    """Have who asks wait until the old one's requests have ended and the new one is loaded in its place."""
    assert new.load is not None
    models.log.event("switch waits", model=old.name, requests=old.users, reason=words_of(why))
    models.put(new, old)
    if not old.users:
        await models.drop(old)
    await old.gone.wait()
    try:
        await _load(models, new)
    except Exception as error:
        if models.current(new.name) is not new or old.load is None:
            raise models.failed(new, error) from error
        _refused(models, new, new, error)
        new.mark, new.load = old.mark, old.load
        try:
            await _load(models, new)
        except Exception as again:
            raise models.failed(new, again) from again
    if models.current(new.name) is not new:
        await models.drop(new)
        return
    models.loaded(new)


async def _load(models: Holder, held: LoadedModel) -> None:
    """Load a model whose place is free. Raises what loading raises."""
    if models.closing:
        raise NotReady("the service is stopping; ask again when it is back")
    assert held.load is not None
    held.gone.clear()
    async with models.one_load:
        held.model = await models.fit(held.load, models.idle_but(held))


def _refused(models: Holder, held: LoadedModel, new: LoadedModel, error: Exception) -> None:
    """The new version could not be loaded: whoever asks goes on with what there was."""
    held.refuse(new.mark)
    told = models.told(held.name, error)
    models.log.event("switch failed", model=held.name, version=_version(new), error=told.code, reason=words_of(told))


def _most_context(models: Holder, name: str) -> int:
    """Tokens of context that a model could have; reads headers."""
    about = models.catalogue.about(name)
    return 0 if about is None else about.config.max_context


def _version(held: LoadedModel) -> str | None:
    return held.mark[1] or None if held.mark is not None else None
