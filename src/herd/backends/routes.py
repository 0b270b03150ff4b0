"""The routes of this machine: backends in order under one name, as `herd route add` was told.

    RouteSettings    one of them
    Routes           all of them, by name: read, added, removed
    chosen           what `backend:NAME` or NAME/MODEL names
    named            the model that a backend's or a route's name stands for, and what it says of leaving the house

    $HERD_HOME/routes.json     {NAME: {"members": [...], "private": false}}

What it is not: how they fall over (`herd.backends.route`), what a backend is (`herd.backends.settings`).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from herd.backends.gate import Said
from herd.backends.names import PREFIX, may_name
from herd.backends.settings import Backends, check_name, model_of
from herd.chat_model import ChatModel
from herd.disk import small_files
from herd.disk.records import Records
from herd.errors import NotFound, UsageError, fail
from herd.store import registry
from herd.store.named_records import NamedRecords

ByIds: TypeAlias = Callable[[str], ChatModel]
"""The name of a backend that is asked by token ids -> its model."""
MOST_BYTES = 1 << 20
MOST_RECORD_BYTES = 64 << 10
MOST_MEMBERS = 64


class RouteSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """A route as a person added it."""

    members: tuple[str, ...]
    """Names of backends, the first one first."""
    private: bool = False
    """Whether what it is asked stays in the house, whoever asks."""
    added_s: float = 0.0
    """Unix time."""


class Routes:
    """The routes of this machine. Every read looks whether the file has changed."""

    def __init__(self) -> None:
        self._records: NamedRecords[RouteSettings] = NamedRecords(
            "routes", RouteSettings, _check, most_bytes=MOST_BYTES, most_record_bytes=MOST_RECORD_BYTES
        )

    def read(self) -> Records[RouteSettings]:
        """All of them, not to be changed; broken records apart. Raises BadFile."""
        return self._records.read()

    def find(self, name: str) -> RouteSettings:
        """A route by its name. Raises NotFound with a few names that there are."""
        found = self.read()
        if name not in found.good:
            known = small_files.listed(found.good) or None
            fail(NotFound, "route", got=name, expected=known, do="herd route list")
        return found.good[name]

    def add(self, name: str, members: Sequence[str], *, private: bool = False) -> RouteSettings:
        """Add one over backends that there are. Raises UsageError, NotFound."""
        made = RouteSettings(tuple(members), private, time.time())
        _check(name, made)
        for member in members:
            Backends().find(member)
        with self._records.edit() as records:
            if name in records.good or name in records.broken or name in Backends().read().good:
                fail(UsageError, "route", got=f"{name}, which there is", do=f"herd route rm {name}, or another name")
            records.good[name] = made
        return made

    def using(self, backend: str) -> list[str]:
        """Names of the routes that a backend is a member of."""
        return sorted(name for name, route in self.read().good.items() if backend in route.members)

    def leave_out(self, backend: str) -> list[str]:
        """Take a backend out of all routes; one without any other member is removed. Returns their names."""
        found = []
        with self._records.edit() as records:
            for name, route in list(records.good.items()):
                if backend not in route.members:
                    continue
                found.append(name)
                left = tuple(member for member in route.members if member != backend)
                if left:
                    records.good[name] = msgspec.structs.replace(route, members=left)
                else:
                    del records.good[name]
        return found

    def remove(self, name: str) -> None:
        """Remove one, broken or not; its backends stay. Raises NotFound."""
        if name not in self.read().broken:
            self.find(name)
        self._records.remove(name)


def check_free(name: str) -> None:
    """Raise UsageError for a name of a backend that a route has."""
    if name in Routes().read().good:
        fail(UsageError, "backend", got=f"{name}, which is a route", do=f"herd route rm {name}, or another name")


def said_of(name: str) -> Said:
    """What a backend's or a route's settings say now of whether what it is asked may leave the house."""
    route = Routes().read().good.get(name)
    return Said(False, f"the route {name} is private") if route is not None and route.private else Said(None)


class Named(NamedTuple):
    """A backend or a route by its name. added_s: Unix time."""

    model: ChatModel
    said: Said
    added_s: float


def chosen(text: str) -> tuple[str, str] | None:
    """The name of a backend or a route, and of another model of a backend or "", that a text names: `backend:NAME`,
    `backend:NAME/MODEL`; or NAME/MODEL by the backend's name or its preset, where no model of the store and no file is
    called so. None: it names none. Raises NotFound, BadFile."""
    if not may_name(text):
        return None
    is_named = text.startswith(PREFIX)
    name, _, model = text.removeprefix(PREFIX).partition("/")
    if not is_named and (Path(text).exists() or text in registry.read().models):
        return None
    if is_named and name in Routes().read().good:
        return name, model
    known = Backends().read().good
    if name not in known and model:
        name = next((one for one, backend in known.items() if backend.preset == name), name)
    if is_named:
        Backends().find(name)
    return (name, model) if name in known else None


def named(name: str, model: str = "", *, by_ids: ByIds | None = None) -> Named:
    """The model that a name stands for: a route's, or a backend's; `model`: another one there. by_ids: makes one that
    is asked by token ids, which needs a tokenizer; None: nobody here can. Nothing else is connected. Raises NotFound,
    UsageError, MissingExtra."""
    if name not in Routes().read().good:
        return Named(_model(name, model, by_ids), Said(None), Backends().find(name).added_s)
    if model:
        fail(UsageError, f"route {name}", got=f"another model, {model}", expected="a backend's name before it")
    from herd.backends.route import Route  # which needs an event loop; who loads a file needs none

    route = Routes().find(name)
    said = said_of(name)
    return Named(Route(name, [_model(member, "", by_ids) for member in route.members], said=said), said, route.added_s)


def _model(name: str, model: str, by_ids: ByIds | None) -> ChatModel:
    """The model of a backend."""
    if by_ids is None or Backends().find(name).by != "ids":
        return model_of(name, model)
    if model:
        fail(UsageError, f"backend {name}", got=f"another model, {model}", expected="its own: it is asked by token ids")
    return by_ids(name)


def has_ids(name: str) -> bool:
    """Whether a backend, or one of a route's, is asked by token ids: making its model asks it, and takes a while."""
    route, known = Routes().read().good.get(name), Backends().read().good
    members = (name,) if route is None else route.members
    return any(one in known and known[one].by == "ids" for one in members)


def _check(name: str, route: RouteSettings) -> None:
    check_name(name)
    members = route.members
    if not 1 <= len(members) <= MOST_MEMBERS or len(set(members)) < len(members):
        fail(UsageError, f"route {name}", got=", ".join(members) or "no backend", expected="one or more, each once")
