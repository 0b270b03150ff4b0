"""`herd use`: the versions of a model, which one its name means, and how it came to that."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from herd.cli import console
from herd.cli.models import as_json, tell_version, version_data
from herd.store import names, registry, stored
from herd.store.registry import ModelEntry, Switch


@click.command("use")
@click.argument("name", metavar="NAME")
@click.argument("version", required=False)
@as_json
def use(name: str, version: str | None, as_json: bool) -> None:
    """Show the versions of NAME; with a VERSION, make it the one that NAME means, for example to go back.

    \b
    herd use smollm2                  versions with dates and sizes, and how they followed each other
    herd use smollm2 b179c9523d0e     this one from now on; the first digits are enough
    """
    base, at, digest = names.expand(name).partition("@")
    if version is None and not at:
        _list(base, as_json)
        return
    found, chosen = stored.use(f"{base}@{version or digest}")
    tell_version("use", found, chosen, as_json)


def _list(name: str, as_json: bool) -> None:
    entry = stored.entries().get(name)
    if entry is None:
        names.unknown(name)
    if as_json:
        versions = [{**version_data(v), "in_use": v.id == entry.current} for v in entry.versions]
        console.print_json("use", {"name": name, "versions": versions, "history": history_data(entry)})
        return
    rows = [
        (v.id, console.size(v.size_bytes), day(v.added_s), "in use" if v.id == entry.current else "-", v.source)
        for v in entry.versions
    ]
    console.table(("VERSION", "SIZE", "ADDED", "NOW", "FROM"), rows)
    for switch in entry.history:
        console.line(history_line(switch), 4)


def remember(model: str, tasks: Sequence[str]) -> None:
    """Write down what a model of the store was evaluated on, for `herd upgrade`; nothing for a path. Raises OSError."""
    from herd.evals import built_in

    if names.as_path(model) is None and (name := names.called(model)) is not None:
        own = set(built_in())
        stored.remember_tasks(name, [one if one in own else str(Path(one).absolute()) for one in tasks])


def history_line(switch: Switch) -> str:
    """A line of a name's history, for people."""
    compared = f"; compared in {switch.compared}" if switch.compared else ""
    return f"{day(switch.when_s)}  {switch.before} -> {switch.to}  {switch.why}, by {switch.who}{compared}"


def history_data(entry: ModelEntry) -> list[dict[str, Any]]:
    """A name's history, as JSON."""
    return [{field: getattr(switch, field) for field in registry.Switch.__struct_fields__} for switch in entry.history]


def day(unix_s: float) -> str:
    """A moment by this machine's clock: date, hour and minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix_s))
