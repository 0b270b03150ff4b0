"""A service over FakeModel, as an application and behind a real socket."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from helpers import PATIENCE_S, until
from herd.chat_model import ChatModel
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import NotFound
from herd.llm import LLM
from herd.server.app import create_app
from herd.server.catalogue import CatalogueEntry, RegisteredModel, StoreCatalogue
from herd.server.http.connection import uvicorn_options
from herd.server.keys import Key, Keyring
from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.models import FOREVER, Models
from herd.server.options import ServerOptions
from herd.server.profiles import Profiles
from herd.server.run import QUEUE, bind, policies_of
from herd.server.service import Service
from herd.store.about import About
from herd.text.chat import Llama4
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
END = BYTES.specials["<|eot|>"]


class FakeCatalogue:
    """Models without files."""

    def __init__(self, *names: str, folder: Path) -> None:
        self._names = names
        self.profiles = Profiles(folder / "profiles.json")

    def names(self) -> dict[str, CatalogueEntry]:
        found = {
            n: CatalogueEntry(n, Path("/nowhere") / n, digest="d" * 64, size_bytes=1, added_s=1e9) for n in self._names
        }
        for name, profile in self.profiles.read().items():
            base = found[profile.base]
            found[name] = CatalogueEntry(
                name, base.path, digest=base.digest, size_bytes=1, added_s=1e9, base=base.name, profile=profile
            )
        return found

    def find(self, name: str) -> CatalogueEntry:
        for tried in (name, name.removesuffix(":latest")):
            if tried in self.names():
                return self.names()[tried]
        raise NotFound(f"model: got {name!r}, expected one of {', '.join(self.names())}")

    def about(self, name: str) -> About:
        from herd import weights

        self.find(name)
        return About(
            name=name, path=Path("/nowhere"), versions=(), current=None, format="gguf", family="llama4", config=TINY,
            counts=weights.count(TINY), types={"q4_0": 1}, size_bytes=1, licence=None, licence_name=None,
        )  # fmt: skip


def fake_llm(
    answer: str | Callable[[list[int]], Any], name: str = "fake", tokenizer: Tokenizer = BYTES, **arguments: Any
) -> LLM:
    """A model that says `answer` to every chat, or what a function of all ids so far says."""
    open_header = Llama4(tokenizer)._open()

    def next_id(ids: list[int]) -> int:
        heads = [i for i in range(len(ids)) if ids[i : i + len(open_header)] == open_header]
        start = heads[-1] + len(open_header) if heads else len(ids)
        said = [*str(answer).encode(), END]
        return said[min(len(ids) - start, len(said) - 1)]

    model = FakeModel(next_id if isinstance(answer, str) else answer, **{"num_pages": 100_000, **arguments})
    return LLM(TINY, model, tokenizer, Llama4(tokenizer), name=name)


def fake_service(
    folder: Path,
    answer: str | Callable[[list[int]], Any] = "Hello there.",
    *,
    keys: tuple[Key, ...] = (),
    limits: Limits | None = None,
    log: Log | None = None,
    names: tuple[str, ...] = ("fake", "other"),
    strict: bool = False,
    load: Callable[[str], LLM] | None = None,
    **arguments: Any,
) -> Service:
    """A service with models that answer without weights."""
    log = log or Log("off")
    loader = load or (lambda path: fake_llm(answer, Path(path).name, **arguments))
    models = Models(FakeCatalogue(*names, folder=folder), loader, keep_alive_s=FOREVER, log=log)
    return Service(models, keyring=Keyring(keys), limits=limits, log=log, strict=strict)


def service_of(
    *models: ChatModel, keys: tuple[Key, ...] = (), mode: str = "off", strict: bool = False, log: Log | None = None
) -> Service:
    """A service whose catalogue holds these, and no file."""
    catalogue = StoreCatalogue(aliases={"alias": models[0].name})
    for model in models:
        catalogue.register(model.name, RegisteredModel(lambda model=model: model, added_s=1e9))  # type: ignore[misc]
    log = log or Log("off")
    held = Models(catalogue, lambda path: pytest.fail("there is no file"), keep_alive_s=FOREVER, log=log)
    return Service(held, keyring=Keyring(keys), log=log, policies=policies_of(mode, None), strict=strict)


@contextlib.contextmanager
def running(service: Service, **options: Any) -> Iterator[str]:
    """Its address while it runs on a thread, with real sockets."""
    listening = bind("127.0.0.1", 0)
    settings = ServerOptions(port=0, keys=tuple(service.keyring._keys), log="off", **options)
    config = uvicorn.Config(create_app(service, settings), **uvicorn_options(service.limits, service.keyring))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    until("the service did not start", lambda: server.started)
    listening.listen(QUEUE)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the service did not stop"


@contextlib.contextmanager
def client_of(service: Service, **options: Any) -> Iterator[httpx.Client]:
    """An HTTP client of a running service."""
    with running(service, **options) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        yield client
