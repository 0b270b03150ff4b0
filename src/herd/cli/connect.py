"""`herd connect`: what a client is set to, so that it asks this service."""

import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import click

from herd.cli import console
from herd.cli.remote import ask, split_url, url_option
from herd.errors import HerdError, NetworkError, UsageError, fail

YOUR_KEY = "YOUR-KEY"


@click.command("connect")
@click.argument("name", required=False)
@url_option
@click.option("--model", help="The model that the client asks for; default: the first of herd list.")
@click.option("--write", is_flag=True, help="Merge the settings into the client's file; the old one is kept beside it.")
def connect(name: str | None, url: str, model: str | None, write: bool) -> None:
    """Show how the client NAME is pointed at the service; without NAME list the clients that are known.

    A key that stands in HERD_API_KEY is written by --write, and never shown. Clients that are told how much the model
    holds get what the service says of it.
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
    asked = model or _first_model()
    context = _context(url, asked, None if write else known.CONTEXT) if client.sized else known.CONTEXT
    place = known.Placeholder(url, asked, YOUR_KEY if key else known.NO_KEY, context)
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


def _context(url: str, model: str, otherwise: int | None) -> int:
    """How many tokens the model holds, as the service has it; where it does not say, `otherwise` and a word, or what it
    does say is raised: a guess is shown, never written."""
    try:
        found = ask("GET", f"/v1/models/{quote(model, safe='')}", url).get("max_model_len")
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            fail(NetworkError, f"{url} does not say how many tokens {model} holds", do="see its log")
        return found
    except HerdError as error:
        if otherwise is None:
            raise
        console.note(f"the context is shown as {otherwise:,} tokens, a guess: {error}")
        return otherwise
