"""Ollama's routes about models: tags, show, ps, version, copy, create, delete, pull, push, blobs."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from herd import __version__
from herd.chat_model import Capabilities
from herd.errors import BadFile, Busy, HerdError, MissingExtra, NotFound, UsageError, fail
from herd.server.catalogue import LATEST, CatalogueEntry
from herd.server.http.error_bodies import words_of
from herd.server.http.streams import Stream
from herd.server.http.wire import encode, json_line
from herd.server.ollama.chat import LINES
from herd.server.ollama.common import (
    FOREVER,
    OPTIONS_REPORTED,
    Options,
    details_of,
    sampling_of,
    stamp,
    tagged,
)
from herd.server.profiles import Profile, Profiles
from herd.server.requests.fields import FieldTable, Name, Refused, told
from herd.server.service import Caller, Service
from herd.server.shared.facts import Facts, facts_of
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_response
from herd.store import registry, stored
from herd.store.about import About

OLLAMA_VERSION = "0.12.0"
"""Its routes and fields are these. Clients refuse what is older than what they need (VS Code: 0.6.4)."""

WORDS = {"tools": "tools", "embeddings": "embedding", "images": "vision"}
"""Capabilities that Ollama's clients know, by their names here."""
UNKNOWN = "unknown"
"""Stands for the architecture of a model without files here."""
MOST_LINES = 100
"""Lines of progress that wait to be read; further ones are left out until somebody has read."""


class Named(msgspec.Struct, kw_only=True):
    """A model by either of the two names that clients use for it."""

    model: Name | None = None
    name: Name | None = None

    def chosen(self) -> str:
        """The model. Raises Refused for none."""
        found = self.model or self.name
        if not found:
            raise Refused("model: missing", "model")
        return found


class ShowRequest(Named, kw_only=True):
    """The fields that have an effect."""


class PullRequest(Named, kw_only=True):
    """The fields that have an effect."""

    stream: bool | None = None


class CopyRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    source: Name
    destination: Name


class CreateRequest(Named, kw_only=True):
    """The fields that have an effect."""

    from_: Name | None = msgspec.field(default=None, name="from")
    system: str | None = None
    parameters: Options | None = None
    private: bool | None = None
    """Herd's own: whether what it is asked stays in the house, whoever asks."""
    license: str | list[str] | None = None
    stream: bool | None = None


SHOW: FieldTable[ShowRequest] = FieldTable(
    "POST /api/show", ShowRequest, reported={"verbose": "there is no longer form"}
)
PULL: FieldTable[PullRequest] = FieldTable("POST /api/pull", PullRequest, reported={"insecure": "there is no such way"})
DELETE: FieldTable[ShowRequest] = FieldTable("DELETE /api/delete", ShowRequest)
COPY: FieldTable[CopyRequest] = FieldTable("POST /api/copy", CopyRequest)
CREATE: FieldTable[CreateRequest] = FieldTable(
    "POST /api/create",
    CreateRequest,
    reported={
        **{name.replace("options.", "parameters."): why for name, why in OPTIONS_REPORTED.items()},
    },
    refused={
        "files": "import files where they lie: herd import PATH",
        "modelfile": "send from, system and parameters",
        "adapters": "not supported yet",
        "messages": "send them with each request",
        "template": "chat formats are the model's own; leave it out",
        "renderer": "chat formats are the model's own; leave it out",
        "parser": "chat formats are the model's own; leave it out",
        "quantize": "herd quantize writes smaller types",
    },
)


async def root(service: Service, request: Request, caller: Caller) -> Response:
    """What Ollama's command line and Open WebUI ask for to see whether it is there."""
    return PlainTextResponse("Ollama is running")


async def version(service: Service, request: Request, caller: Caller) -> Response:
    """The version whose routes these are, which clients compare with what they need; Herd's own beside it."""
    return json_response({"version": OLLAMA_VERSION, "herd": __version__})


async def tags(service: Service, request: Request, caller: Caller) -> Response:
    """All models."""
    listed = service.models.catalogue.names().values()
    found = await service.compute(caller, lambda: [_tag(one, facts_of(service, one)) for one in listed])
    return json_response({"models": found})


def _tag(listed: CatalogueEntry, facts: Facts) -> dict[str, Any]:
    return {
        "name": tagged(listed.name),
        "model": tagged(listed.name),
        "modified_at": stamp(listed.added_s),
        "size": listed.size_bytes,
        "digest": listed.digest,
        "details": details_of(facts.about),
        "capabilities": capabilities(facts.capabilities),
    }


async def show(service: Service, request: Request, caller: Caller) -> Response:
    """One model: shape, licence, what it can do."""
    asked, ignored = await read_as(service, request, caller, lambda body: SHOW.read(body, strict=service.strict))
    listed = service.models.catalogue.find(asked.chosen())
    facts = await service.compute(caller, lambda: _shown(service, listed))
    about = facts.about
    profile = listed.profile or Profile(listed.base)
    options = "\n".join(f"{name} {value}" for name, value in profile.options.items())
    return json_response(
        {
            "license": profile.licence or (about.licence_name if about is not None else None) or "",
            "modelfile": f"FROM {listed.base}\n" + (f'SYSTEM """{profile.system}"""\n' if profile.system else ""),
            "parameters": options,
            "template": "",
            "system": profile.system,
            "details": details_of(about),
            "model_info": _unknown_info(listed, facts) if about is None else model_info(about),
            "capabilities": capabilities(facts.capabilities),
            "modified_at": stamp(listed.added_s),
        },
        headers=told(ignored),
    )


def _shown(service: Service, listed: CatalogueEntry) -> Facts:
    """What is known of a model. Raises BadFile for one whose files are broken."""
    service.models.catalogue.about(listed.name)
    return facts_of(service, listed)


def _unknown_info(listed: CatalogueEntry, facts: Facts) -> dict[str, Any]:
    """As much as is known of the shape of a model without files here."""
    context = {} if facts.context is None else {f"{UNKNOWN}.context_length": facts.context}
    return {"general.architecture": UNKNOWN, "general.basename": listed.base, **context}


def model_info(about: About) -> dict[str, Any]:
    """The shape under GGUF's keys, which clients search for `*.context_length`."""
    c, family = about.config, about.family
    return {
        "general.architecture": family,
        "general.basename": about.name or about.path.name,
        "general.parameter_count": about.counts.total,
        f"{family}.attention.head_count": c.num_heads,
        f"{family}.attention.head_count_kv": c.num_kv_heads,
        f"{family}.block_count": c.num_layers,
        f"{family}.context_length": c.max_context,
        f"{family}.embedding_length": c.width,
        f"{family}.expert_count": c.num_experts,
        f"{family}.vocab_size": c.vocab_size,
    }


def capabilities(able: Capabilities | None) -> list[str]:
    """The capabilities in Ollama's words, where completion is the answering of dialogs."""
    return ["completion", *(theirs for ours, theirs in WORDS.items() if able is not None and getattr(able, ours))]


async def ps(service: Service, request: Request, caller: Caller) -> Response:
    """What is in memory."""
    found = []
    for held in service.models.held:
        if held.model is None:
            continue
        listed, context = service.models.catalogue.find(held.name), held.model.context
        until = FOREVER if held.keep_alive_s == FOREVER else time.time() + max(0.0, held.expires_in_s)
        tag = _tag(listed, await service.compute(caller, partial(facts_of, service, listed)))
        del tag["modified_at"], tag["capabilities"]
        found.append({**tag, "expires_at": stamp(until), "size_vram": 0, "context_length": context})
    return json_response({"models": found})


async def copy(service: Service, request: Request, caller: Caller) -> Response:
    """Another name for a model; it takes no room."""
    asked, ignored = await read_as(service, request, caller, lambda body: COPY.read(body, strict=service.strict))
    listed = service.models.catalogue.find(asked.source)
    profile = listed.profile or Profile(listed.base)
    await _new_name(service, caller, asked.destination, profile)
    return Response(status_code=200, headers=told(ignored))


async def _new_name(service: Service, caller: Caller, name: str, profile: Profile, *, opened: bool = False) -> None:
    """Add a profile, or replace one, which stays private where it was. opened: unless somebody says otherwise."""
    name = name.removesuffix(LATEST)
    known = service.models.catalogue.names()
    if name in known:
        old = known[name].profile
        if old is None:
            fail(UsageError, "model", got=name, expected="a name that no model has", do="choose another")
        profile = msgspec.structs.replace(profile, private=profile.private or (old.private and not opened))
    await service.wait(caller, lambda: service.models.catalogue.profiles.add(name, profile))


async def create(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """A model made of another one, a system text and options."""
    asked, ignored = await read_as(service, request, caller, lambda body: CREATE.read(body, strict=service.strict))
    if not asked.from_:
        raise Refused("from: missing: the model that it is made of", "from")
    listed = service.models.catalogue.find(asked.from_)
    old = listed.profile or Profile(listed.base)
    licence = asked.license if isinstance(asked.license, str) else "\n".join(asked.license or ())
    profile = Profile(
        base=listed.base,
        system=old.system if asked.system is None else asked.system,
        options={**old.options, **sampling_of(asked.parameters)},
        licence=licence or old.licence,
        private=old.private or asked.private is True,
    )
    await _new_name(service, caller, asked.chosen(), profile, opened=asked.private is False)
    return _status_lines(service, [{"status": "success"}], stream=asked.stream is not False, ignored=ignored)


async def delete(service: Service, request: Request, caller: Caller) -> Response:
    """Forget a model: its files, if they were pulled; never files that were imported."""
    asked, ignored = await read_as(service, request, caller, lambda body: DELETE.read(body, strict=service.strict))
    profiles, name = service.models.catalogue.profiles, asked.chosen().removesuffix(LATEST)
    if await service.wait(caller, lambda: _forgotten(profiles, name)):
        return Response(status_code=200, headers=told(ignored))
    listed = service.models.catalogue.find(asked.chosen())
    if listed.profile is not None:
        await service.wait(caller, lambda: profiles.remove(listed.name))
        return Response(status_code=200, headers=told(ignored))
    if listed.registered is not None:
        do = "whoever runs the service takes it out of its settings"
        fail(UsageError, f"{listed.name} is no model of the store", do=do)
    if any(held.base == listed.name for held in service.models.catalogue.names().values() if held.profile):
        fail(UsageError, f"{listed.name} is what other models are made of", do="delete those first")
    if any(held.name == listed.name and held.users for held in service.models.held):
        fail(Busy, f"{listed.name} is answering requests", do="ask again when they are done")
    await service.models.unload(listed.name)
    await service.wait(caller, lambda: stored.rm(listed.name))
    return Response(status_code=200, headers=told(ignored))


def _forgotten(profiles: Profiles, name: str) -> bool:
    """Whether there was a broken record of that name, which is no model; it is gone."""
    if profiles.is_broken(name):
        return profiles.remove(name)
    try:
        broken = name in registry.read().broken
    except BadFile:
        return False
    if broken:
        stored.rm(name)
    return broken


async def pull(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Fetch a model into the store, with its progress."""
    asked, ignored = await read_as(service, request, caller, lambda body: PULL.read(body, strict=service.strict))
    name = asked.chosen().removesuffix(LATEST)
    listed = service.models.catalogue.names().get(name)
    if listed is not None and listed.registered is not None:  # it is no file: nothing is missing
        return _status_lines(service, [{"status": "success"}], stream=asked.stream is not False, ignored=ignored)
    if asked.stream is False:
        await service.wait(caller, lambda: stored.pull(name))
        return json_response({"status": "success"}, headers=told(ignored))
    return Stream(
        _pulling(service, caller, name), LINES, headers=told(ignored), write_timeout_s=service.limits.write_timeout_s
    )


async def _pulling(service: Service, caller: Caller, name: str) -> AsyncGenerator[bytes, None]:
    """Lines of progress. A reader that goes away does not stop what has begun: it is in the store for the next one."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    told_s = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > 0.2 or done == total:
            told_s = time.monotonic()
            line = {"status": what, "digest": what, "total": total, "completed": done}
            if lines.qsize() < MOST_LINES or done == total:
                loop.call_soon_threadsafe(lines.put_nowait, line)

    yield json_line(encode({"status": "pulling manifest"}))
    task = asyncio.ensure_future(service.wait(caller, lambda: stored.pull(name, progress=progress)))
    while not task.done() or not lines.empty():
        wanted = asyncio.ensure_future(lines.get())
        await asyncio.wait({wanted, task}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            yield json_line(encode(wanted.result()))
        else:
            wanted.cancel()
    try:
        task.result()
        yield json_line(encode({"status": "success"}))
    except (HerdError, OSError) as error:
        yield json_line(encode({"error": words_of(error)}))


async def push(service: Service, request: Request, caller: Caller) -> Response:
    """There is nowhere to push to."""
    fail(MissingExtra, "push: not supported", do="copy the model's files; herd show says where they lie")


async def blob(service: Service, request: Request, caller: Caller) -> Response:
    """Blobs are how Ollama's clients upload files; here files are imported where they lie."""
    if request.method == "POST":
        fail(MissingExtra, "blobs: not supported", do="import the file where it lies: herd import PATH")
    fail(NotFound, "no blob of this digest")


def _status_lines(
    service: Service, lines: list[dict[str, Any]], *, stream: bool, ignored: Sequence[str]
) -> Response | Stream:
    if not stream:
        return json_response(lines[-1], headers=told(ignored))

    async def written() -> AsyncGenerator[bytes, None]:
        for line in lines:
            yield json_line(encode(line))

    return Stream(written(), LINES, headers=told(ignored), write_timeout_s=service.limits.write_timeout_s)
