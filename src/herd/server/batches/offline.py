"""A file of requests answered by one model, without a service on the network: what `herd batch` calls.

    OneModel    a catalogue of the one model that is loaded
    answer_all  every line that has no result yet

What it is not: the batches of a service (`worker`).
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeAlias

from herd.backends.gate import Said
from herd.chat_model import ChatModel
from herd.errors import NotFound, fail
from herd.server.batches.index import Index
from herd.server.batches.results import Results
from herd.server.batches.running import Run
from herd.server.catalogue import CatalogueEntry, RegisteredModel
from herd.server.keys import Keyring
from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.models import FOREVER, Models
from herd.server.profiles import Profiles
from herd.server.service import Service
from herd.store.about import About

Load: TypeAlias = Callable[[], ChatModel]


class OneModel:
    """A catalogue with one model. Lines that name another one are refused."""

    def __init__(self, name: str, load: Load, *, said: Said | None = None) -> None:
        """said: what a route says of whether its requests may leave the house."""
        self.profiles = Profiles()
        registered = RegisteredModel(load, added_s=time.time(), said=lambda: said or Said(None))
        self._entry = CatalogueEntry(name, None, digest="", size_bytes=0, added_s=time.time(), registered=registered)

    def names(self) -> dict[str, CatalogueEntry]:
        """See Catalogue."""
        return {self._entry.name: self._entry}

    def find(self, name: str) -> CatalogueEntry:
        """See Catalogue."""
        if name.removesuffix(":latest") != self._entry.name:
            do = f"--model {self._entry.name} has it answer all lines"
            fail(NotFound, "model", got=name[:256], expected=self._entry.name, do=do)
        return self._entry

    def about(self, name: str) -> About | None:
        """See Catalogue."""
        self.find(name)
        return None


def answer_all(
    catalogue: OneModel,
    index: Index,
    results: Results,
    *,
    limits: Limits,
    at_once: int,
    all_by: str = "",
    leave: bool = False,
    told: Callable[[], None] = lambda: None,
) -> None:
    """Have a model answer all lines that have no result. all_by: its name, where it answers whatever lines name. leave:
    whether they may leave the house. Raises what ended the run; what has a result keeps it."""

    async def run() -> None:
        models = Models(catalogue, _no_file, keep_alive_s=FOREVER, log=Log("off"))
        service = Service(models, keyring=Keyring(leave=leave), limits=limits)
        watch = asyncio.create_task(models.watch())
        try:
            key = service.keyring.find("", "")
            for name in catalogue.names():
                await models.load(name)
            await Run(service, key, index, results, model=all_by, at_once=lambda: at_once, told=told).all()
        finally:
            watch.cancel()
            await models.close()

    asyncio.run(run())


def _no_file(path: str) -> ChatModel:
    raise AssertionError(f"{path}: the one model is registered")
