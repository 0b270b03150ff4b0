"""The backends of this machine: what `herd backend add` was told, and models made of it.

    Backend     one of them, its key hidden
    Backends    all of them, by name: read, added, removed
    target_of   where requests of one go
    model_of    a ChatModel of one, within its spending limit

    $HERD_HOME/backends.json     {NAME: {"preset": ..., "model": ..., ...}}, for its owner alone (mode 600)

A key stands in that file, or in an environment variable that the file names; it is shown nowhere. What it is not: a
connection, a decision of what may leave.
"""

import os
import re
import secrets
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from herd.backends.gate import is_in_house
from herd.backends.ids_facts import Facts
from herd.backends.names import PREFIX
from herd.backends.presets import preset_of
from herd.backends.spending import NANO, Account, Rates
from herd.backends.target import Secret, Target, host_of, is_loopback
from herd.disk import small_files
from herd.disk.records import Records
from herd.errors import NotFound, UsageError, fail
from herd.planning.prices import MOST_DOLLARS, Price, listed
from herd.store import registry
from herd.store.named_records import NamedRecords

if TYPE_CHECKING:
    from herd.backends.model import BackendModel
    from herd.backends.paid import PaidModel

MOST_BYTES = 1 << 20
MOST_RECORD_BYTES = 64 << 10
MOST_LIMIT = 1e6
"""Dollars."""
LONGEST_MODEL = 256
BY_IDS = ("vllm", "sglang", "llama-server")
"""Presets of engines that take token ids."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
"""The name of an environment variable. It is shown, so what looks like a key (hf_..., gsk_...) is none."""


Lacking: TypeAlias = Literal["tools", "schemas"]


class Backend(msgspec.Struct, frozen=True, omit_defaults=True):
    """A backend as a person added it."""

    preset: str
    model: str
    """What the other side calls the model."""
    url: str = ""
    """Its address; empty: the preset's."""
    key: str = ""
    key_env: str = ""
    """The environment variable that holds the key."""
    house: Literal["", "in", "out"] = ""
    """Where it stands as the person says; empty: in the house where its address is this machine's."""
    context: int | None = None
    lacks: tuple[Lacking, ...] = ()
    """What its preset says it can do and it cannot, as `herd backend test --keep` found."""
    limit_dollars: float | None = None
    """What it may cost; None: it costs nothing."""
    dollars_in: float | None = None
    """Dollars per million tokens of prompts, as the person says; None: as the table of prices has it."""
    dollars_out: float | None = None
    by: Literal["chat", "ids"] = "chat"
    """Whether dialogs are sent, or token ids that are made of them here."""
    tokenizer: str = ""
    """The model of the store, folder or file whose tokenizer the other side has, too; where ids are sent."""
    facts: Facts | None = None
    """What the other side told of itself when it was added; where ids are sent."""
    account: str = ""
    """The name that its sums are kept by."""
    added_s: float = 0.0
    """Unix time."""

    def __repr__(self) -> str:
        return f"Backend({self.preset!r}, {self.model!r})"

    @property
    def address(self) -> str:
        """The address that requests go to. Raises UsageError for none."""
        found = self.url or preset_of(self.preset).base_url
        if not found:
            regional = preset_of(self.preset).regional_url
            fail(
                UsageError,
                f"preset {self.preset}",
                got="no address",
                expected="--region, or --url" if regional else "--url",
            )
        return found

    @property
    def shown_address(self) -> str:
        """The address for people. What follows a question mark may be anybody's key."""
        shown, mark, _ = self.address.partition("?")
        return f"{shown}?..." if mark else shown

    @property
    def in_house(self) -> bool:
        """Whether it stands in the house."""
        return self.house == "in" or (self.house == "" and is_loopback(host_of(self.address)))

    def secret(self, name: str) -> Secret | None:
        """Its key. Raises UsageError where the variable that should hold it does not."""
        if not self.key_env:
            return Secret(self.key) if self.key else None
        found = os.environ.get(self.key_env, "")
        if not found:
            fail(UsageError, f"backend {name}: its key", got=f"no {self.key_env} in the environment", do="set it")
        return Secret(found)


class Backends:
    """The backends of this machine. Every read looks whether the file has changed."""

    def __init__(self) -> None:
        self._records: NamedRecords[Backend] = NamedRecords(
            "backends", Backend, _check, most_bytes=MOST_BYTES, most_record_bytes=MOST_RECORD_BYTES, secret=True
        )

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self._records.path

    def read(self) -> Records[Backend]:
        """All of them, not to be changed; broken records apart. Raises BadFile for a broken file, UsageError for one
        that others may read."""
        return self._records.read()

    def find(self, name: str) -> Backend:
        """A backend by its name. Raises NotFound with a few names that there are."""
        found = self.read()
        if name in found.good:
            return found.good[name]
        if name in found.broken:
            why = found.broken[name].why
            fail(NotFound, f"backend {name}: its record is broken ({why})", do=f"herd backend rm {name}, and add it")
        return fail(
            NotFound, "backend", got=name, expected=small_files.listed(found.good) or None, do="herd backend list"
        )

    def add(self, name: str, backend: Backend) -> Backend:
        """Add one; returns it as it was written. Raises UsageError for what cannot be used, or a name that is taken."""
        with self._records.edit() as records:
            self.check_new(name, backend, records)
            account, now = secrets.token_hex(8), time.time()
            records.good[name] = msgspec.structs.replace(backend, account=account, added_s=now)
        return records.good[name]

    def check_new(self, name: str, backend: Backend, records: Records[Backend] | None = None) -> None:
        """Raise UsageError for one that could not be added."""
        records = self.read() if records is None else records
        if name in records.good or name in records.broken:
            fail(UsageError, "backend", got=f"{name}, which there is", do=f"herd backend rm {name}, or another name")
        _check(name, backend)
        account_of(name, backend)  # it has a price

    def set_limit(self, name: str, dollars: float) -> Backend:
        """Set what one may cost in all, what it has cost included. Raises NotFound, UsageError."""
        self.find(name)
        with self._records.edit() as records:
            if name not in records.good:  # another program has removed it since
                self.find(name)
            found = records.good[name] = msgspec.structs.replace(records.good[name], limit_dollars=dollars)
            _check(name, found)
            account_of(name, found)  # it has a price
        return found

    def keep(self, name: str, *, context: int | None, lacks: tuple[Lacking, ...]) -> Backend:
        """Keep what was found of one: its context, where that is told, and what it cannot do. Raises NotFound."""
        self.find(name)
        with self._records.edit() as records:
            if name not in records.good:  # another program has removed it since
                self.find(name)
            before = records.good[name]
            found = msgspec.structs.replace(before, context=context or before.context, lacks=lacks)
            records.good[name] = found
            _check(name, found)
        return found

    def remove(self, name: str) -> None:
        """Remove one, broken or not. Raises NotFound."""
        if name not in self.read().broken:
            self.find(name)
        self._records.remove(name)


def check_name(name: str) -> str:
    """A name that a backend may have. Raises UsageError."""
    registry.check_name(name)
    if "/" in name:
        fail(UsageError, "backend name", got=name, expected="one without '/': NAME/MODEL names another model there")
    return name


def price_of(backend: Backend) -> Price | None:
    """The row of the table for what a backend answers with; None: there is none. Raises BadFile."""
    rows, model = listed(registry.home() / "prices.toml"), backend.model
    found = rows.at(backend.preset, model)
    if found is None and preset_of(backend.preset).form == "converse":  # a profile over regions of the USA, as listed
        found = rows.at(backend.preset, model.removeprefix("us."))
    return found


def rates_of(name: str, backend: Backend) -> Rates:
    """What a token of a backend costs: as the person said, else as the table has it. Raises UsageError."""
    if backend.dollars_in is not None and backend.dollars_out is not None:
        return Rates(backend.dollars_in, backend.dollars_out)
    row = price_of(backend)
    if row is None:
        what = f"backend {name}: the price of {backend.model} at {backend.preset}"
        fail(UsageError, what, got="none in the table", do="add it with --price IN/OUT, dollars a million tokens")
    return Rates(row.dollars_in, row.dollars_out)


def account_of(name: str, backend: Backend) -> Account | None:
    """What a backend may cost; None: it costs nothing. Raises UsageError."""
    if backend.limit_dollars is None:
        return None
    return Account(name, backend.account, round(backend.limit_dollars * NANO), rates_of(name, backend))


def target_of(name: str, backend: Backend, *, base_url: str = "", **more: Any) -> Target:
    """Where requests of a backend go; base_url: another address of the same server. Raises UsageError."""
    preset = preset_of(backend.preset)
    return Target(
        name=name,
        base_url=base_url or backend.address,
        model=backend.model,
        key=backend.secret(name),
        in_house=backend.in_house,
        context=backend.context or _listed_context(backend),
        capabilities=replace(preset.capabilities, **dict.fromkeys(backend.lacks, False)),
        options=preset.options,
        fields=preset.fields,
        key_header=preset.key_header,
        limit_field=preset.limit_field,
        names_choice=preset.names_choice,
        always_goes_on=preset.always_goes_on,
        choices=preset.choices,
        json_object=preset.json_object,
        form=preset.form,
        origins=preset.origins,
        **more,
    )


def model_of(name: str, model: str = "", *, as_preset: bool = False) -> "BackendModel | PaidModel":
    """A model of a backend: its own, or another one there. as_preset: with all that its preset says it can do.
    Nothing is connected. Raises NotFound, UsageError, MissingExtra."""
    from herd.backends.model import BackendModel
    from herd.backends.paid import PaidModel

    backend = Backends().find(name)
    if backend.by == "ids":
        do = f'herd.load("{PREFIX}{name}")'
        fail(UsageError, f"backend {name}", got="one by token ids", expected="one by chat", do=do)
    if model:
        backend = msgspec.structs.replace(
            backend, model=model, context=None, lacks=(), dollars_in=None, dollars_out=None
        )
    if as_preset:
        backend = msgspec.structs.replace(backend, lacks=())
    found = BackendModel(target_of(name, backend))
    account = account_of(name, backend)
    return found if account is None else PaidModel(found, account)


def end_of(backend: Backend) -> date | None:
    """The day on which the host ends the model, or has; None: the table says of none."""
    row = price_of(backend)
    return None if row is None else row.ends


def _listed_context(backend: Backend) -> int | None:
    row = price_of(backend)
    return None if row is None else row.context


def _check(name: str, backend: Backend) -> None:
    """Raise UsageError for a record that makes no sense; without its key."""
    check_name(name)
    if not backend.model.isprintable() or len(backend.model) > LONGEST_MODEL:
        expected = f"the name of a model on one line, of at most {LONGEST_MODEL} characters"
        fail(UsageError, f"backend {name}: --model", got=backend.model[:40], expected=expected)
    _check_house(name, backend)
    _check_by(name, backend)
    if backend.key and backend.key_env:
        fail(UsageError, f"backend {name}", got="a key and --key-env", expected="one of them")
    if backend.key:
        Secret(backend.key)
    if backend.key_env and not _VARIABLE.fullmatch(backend.key_env):
        expected = "the name of an environment variable, in capitals; never a key"
        fail(UsageError, f"backend {name}: --key-env", got="something else", expected=expected)
    for what, value in (("price", backend.dollars_in), ("price", backend.dollars_out)):
        if value is not None and not 0 <= value <= MOST_DOLLARS:
            fail(UsageError, f"backend {name}: {what}", got=value, expected=f"0 to {MOST_DOLLARS:.0f}")
    limit = backend.limit_dollars
    if limit is not None and not 0 <= limit <= MOST_LIMIT:
        fail(UsageError, f"backend {name}: limit", got=limit, expected=f"0 to {MOST_LIMIT:.0f} dollars")
    if limit is None and preset_of(backend.preset).is_host:
        what = f"backend {name}: {preset_of(backend.preset).title} costs money"
        fail(UsageError, what, got="no limit", expected="--limit DOLLARS")
    Target(  # checks the address, and that a key goes over no open wire
        name=name,
        base_url=backend.address,
        model=backend.model,
        key=Secret("checked") if backend.key or backend.key_env else None,
        context=backend.context,
    )
    if limit is None and not backend.in_house and (backend.key or backend.key_env):
        what = f"backend {name}: one outside of the house that wants a key may cost money"
        free = "--limit 0 --price 0/0 where it costs nothing"
        fail(UsageError, what, got="no limit", expected="--limit DOLLARS and --price IN/OUT", do=free)


def _check_by(name: str, backend: Backend) -> None:
    """Raise UsageError where token ids are sent to what takes none, or out of the house."""
    if backend.by == "chat":
        if backend.tokenizer:
            fail(UsageError, f"backend {name}: --tokenizer", got=backend.tokenizer, expected="--by ids beside it")
        return
    if backend.preset not in BY_IDS:
        got, expected = f"--preset {backend.preset}", f"--preset {', '.join(BY_IDS)}"
        fail(UsageError, f"backend {name}: --by ids", got=got, expected=expected)
    if not backend.in_house:
        expected = "an address of this machine, or --in-house"
        fail(UsageError, f"backend {name}: --by ids", got="one outside of the house", expected=expected)
    if not backend.tokenizer:
        expected = "--tokenizer MODEL, a model of the store, a folder or a file with its tokenizer"
        fail(UsageError, f"backend {name}: --by ids", got="no tokenizer", expected=expected)
    if backend.limit_dollars is not None or backend.dollars_in is not None:
        fail(UsageError, f"backend {name}: --by ids", got="a limit or a price", expected="none: it is in your house")


def _check_house(name: str, backend: Backend) -> None:
    host = host_of(backend.address)
    numeric = host.replace(".", "").isdigit() or ":" in host
    if backend.house == "in" and (preset_of(backend.preset).is_host or (numeric and not is_in_house(host))):
        fail(UsageError, f"backend {name}: --in-house", got=host, expected="an address of your own network")
