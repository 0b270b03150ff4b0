"""`herd connect`: what a client is set to, so that it asks this service."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from herd.cli import console
from herd.cli.remote import ask, split_url, url_option
from herd.errors import HerdError, NetworkError, NotFound, UsageError, fail, printable

YOUR_KEY = "YOUR-KEY"
MOST_TOKENS = 1 << 40
"""More than any model holds, and any client counts."""


@click.command("connect")
@click.argument("name", required=False)
@url_option
@click.option("--model", help="The model that the client asks for; default: one that the service has.")
@click.option("--write", is_flag=True, help="Merge the settings into the client's file; the old one is kept beside it.")
def connect(name: str | None, url: str, model: str | None, write: bool) -> None:
    """Show how the client NAME is pointed at the service; without NAME list the clients that are known.

    The service is asked what it serves: that is told, a model that it holds in memory comes first, and clients that are
    told how much the model holds get what the service says of it. A key that stands in HERD_API_KEY is written by
    --write, and never shown.
    """
    from herd.integrations import clients as known
    from herd.integrations.settings_files import merge_file, shown

    if name is None:
        rows = [(n, c.title, f"~/{c.file}" if c.file else "") for n, c in known.CLIENTS.items()]
        console.table(("NAME", "CLIENT", "FILE"), rows)
        return
    client = known.find(name)
    split_url(url)
    if write and client.settings is None:
        fail(
            UsageError, f"{name} has no file that settings can be merged into", do=f"copy what herd connect {name} says"
        )
    key = os.environ.get("HERD_API_KEY", "").split()
    try:
        asked, context = _served(url, model, client.sized)
    except HerdError as error:
        if write:
            raise
        asked, context = model or _first_model(), None
        size = f" with {known.CONTEXT:,} tokens" if client.sized else ""
        console.note(f"shown for {asked}{size}, a guess: {error}")
    place = known.Placeholder(url, asked, YOUR_KEY if key else known.NO_KEY, context or known.CONTEXT)
    if client.settings is None:
        print(place.fill(client.text))
        return
    path = Path.home() / client.file
    if write:
        settings = (replace(place, key=key[0]) if key else place).fill_all(client.settings)
        backup = merge_file(path, settings, client.kind)
        console.note(f"{path} has the settings" + (f"; as it was: {backup}" if backup else ""))
    else:
        console.note(f"in {path} (or: herd connect {name} --write):")
        print(shown(place.fill_all(client.settings), client.kind))
    if client.then:
        console.note(f"then: {place.fill(client.then)}")


def _first_model() -> str:
    from herd.store import stored

    return next(iter(stored.entries()), "smollm2")


def _served(url: str, wanted: str | None, sized: bool) -> tuple[str, int | None]:
    """The model that a client is to ask for, and, if `sized`, how many tokens it holds. What the service has is told.

    Raises NotFound for a model that it does not have, NetworkError where it does not answer or does not say enough."""
    models = _listed(url)
    console.note(f"served at {url}: {_told(list(models)) or 'no model'}")
    loaded_first = sorted(filter(_is_plain, models), key=lambda name: models[name].get("loaded") is not True)
    name = wanted or next(iter(loaded_first), "")
    if not name:
        fail(NotFound, f"{url} has no model to choose", do="name one with --model")
    found = models.get(name) or ask("GET", f"/v1/models/{quote(name, safe='')}", url)  # it may have other names, too
    context = found.get("max_model_len")
    if not sized:
        return name, None
    if not isinstance(context, int) or isinstance(context, bool) or not 1 <= context <= MOST_TOKENS:
        fail(NetworkError, f"{url} does not say how many tokens {name} holds", do="see its log")
    return name, context


def _listed(url: str) -> dict[str, Mapping[str, Any]]:
    """The models that a service lists, by name. Raises NetworkError."""
    found = ask("GET", "/v1/models", url).get("data")
    try:
        return {str(one["id"]): dict(one) for one in found or ()}
    except (KeyError, TypeError, ValueError):
        fail(NetworkError, f"what answers at {url} lists no models", do="name another with --url")


def _told(names: list[str], most: int = 20) -> str:
    """Names that came over a network, the first of many, as part of a line."""
    shown = ", ".join(printable(name[:120]) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_plain(name: str) -> bool:
    """Whether a name that came over a network can stand in a command line as it is."""
    return name[:1].isalnum() and all(letter.isalnum() or letter in "-_.:/@+" for letter in name)
