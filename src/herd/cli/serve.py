"""`herd serve`: the service over HTTP."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli import console, options
from herd.errors import NotFound, UsageError, fail
from herd.progress import silent

if TYPE_CHECKING:
    from herd.llm import LLM
    from herd.server.catalogue import RegisteredModel
    from herd.server.keys import Key
    from herd.server.options import ServerOptions

DURATION = re.compile(r"(-?+[0-9]++(?:\.[0-9]++)?+)(ms|s|m|h|d)?")
UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


class Duration(click.ParamType[float]):
    """Seconds: 90, 5m, 1.5h; -1: for ever."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read what someone typed."""
        if isinstance(value, float):
            return value
        found = DURATION.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a time like 90, 5m or 1h; -1: for ever", param, ctx)
        seconds = float(found[1]) * UNITS[found[2]]
        return float("inf") if seconds < 0 else seconds


class Alias(click.ParamType[tuple[str, str]]):
    """NAME=MODEL."""

    name = "name=model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read what someone typed."""
        if isinstance(value, tuple):
            return value
        left, equals, right = str(value).partition("=")
        if not (left and equals and right):
            self.fail(f"{value!r} is not NAME=MODEL, like gpt-4o=smollm2", param, ctx)
        return left, right


@click.command("serve")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8484, show_default=True)
@click.option(
    "--ollama-port", type=click.IntRange(0, 65535), default=11434, show_default=True, help="Bound too, if free."
)
@click.option("--no-ollama-port", is_flag=True, help="Listen on --port alone.")
@click.option("--api-key", "api_keys", multiple=True, envvar="HERD_API_KEY", help="A key that clients must send.")
@click.option(
    "--keys", "keys_file", type=click.Path(path_type=Path), help="A TOML file of keys with rights and quotas."
)
@click.option("--alias", "aliases", type=Alias(), multiple=True, help="Another name for a model: gpt-4o=smollm2.")
@click.option("--keep-alive", type=Duration(), default="30m", show_default=True, help="How long an unused model stays.")
@click.option("--parallel", type=click.IntRange(1, 512), default=8, show_default=True, help="Answers at once, a model.")
@click.option("--allow-origin", "origins", multiple=True, help="Web pages of this origin may ask: https://app.example.")
@click.option("--allow-host", "hosts", multiple=True, help="A name of this machine that clients use.")
@click.option("--remote-media", is_flag=True, help="Fetch images from http(s) addresses in requests.")
@click.option("--strict", is_flag=True, help="Refuse fields that have no effect, instead of reporting them.")
@click.option(
    "--policy", type=click.Choice(["off", "observe", "redact", "block"]), default="observe", show_default=True
)
@click.option("--guard", metavar="MODEL", help="A Llama Guard 4 that judges requests and replies, after the rules.")
@click.option("--audit", type=click.Path(path_type=Path), help="Write what policies decide to this file, by hash.")
@click.option("--backend", "backends", multiple=True, metavar="NAME", help="Another engine or a host (herd backend).")
@click.option("--leave", is_flag=True, help="Let what is asked leave the house, to backends outside of it.")
@click.option(
    "--files", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep clients' files and batches there."
)
@click.option("--no-page", is_flag=True, help="No web page at /.")
@click.option("--in-process", is_flag=True, help="Compute in this process, not in a child that can be restarted.")
@click.option("--log", type=click.Choice(["text", "json", "off"]), default="text", show_default=True)
@click.option("--limits", "show_limits", is_flag=True, help="Print all limits and stop.")
@options.loading
def serve(models: Sequence[str], show_limits: bool, **values: Any) -> None:
    """Serve MODELs (all that the store has can be asked for) to OpenAI, Ollama and Anthropic clients, and a browser.

    The first MODEL is loaded at once; without one, the only model that there is. Without --ctx each gets the largest
    context that fits in memory. Ctrl-C lets answers end, twice: stops.
    """
    if show_limits:
        _show_limits()
        return
    from herd.server.run import serve as run_service

    made, first = prepared(models, values)
    secrets: Sequence[str] = values["api_keys"]
    file: Path | None = values["keys_file"]
    run_service(
        made,
        lambda path: _load(path, values if path == str(first) else {**values, "mmproj": None}),
        console.note,
        None if file is None else lambda tell: _keys(secrets, file, tell, leave=values["leave"]),
        _registered(values["backends"]),
    )


def prepared(models: Sequence[str], values: Mapping[str, Any]) -> "tuple[ServerOptions, Path | None]":
    """What the flags make of a service, and the model of the start where one is named: checked as far as that can be
    done before anything is packed, loaded or bound. Raises HerdError."""
    from herd.llm.load_options import LoadOptions
    from herd.llm.loading import check_load
    from herd.server.options import ServerOptions
    from herd.store import stored

    served, preload = _models(models, needed=not values["backends"])
    _registered(values["backends"])
    if values["leave"] and values["keys_file"] is not None:
        do = "name leave among the rights of those keys that may"
        fail(UsageError, "--leave", got="--keys as well: keys of a file have rights of their own", do=do)
    first = stored.resolve(models[0]) if models else None
    if values["mmproj"] and first is None:
        fail(UsageError, "--mmproj", do="name the model that it belongs to")
    made = ServerOptions(
        host=values["host"],
        port=values["port"],
        ollama_port=None if values["no_ollama_port"] else values["ollama_port"],
        keys=_keys(values["api_keys"], values["keys_file"], leave=values["leave"]),
        leave=values["leave"],
        served=served,
        preload=preload,
        aliases=dict(values["aliases"]),
        keep_alive_s=values["keep_alive"],
        context=values["context"] or "auto",
        allow_hosts=values["hosts"],
        allow_origins=values["origins"],
        remote_media=values["remote_media"],
        strict=values["strict"],
        policy=values["policy"],
        guard=None if values["guard"] is None else stored.resolve(values["guard"]),
        audit=values["audit"],
        files=values["files"],
        page=not values["no_page"],
        log=values["log"],
    )
    if models and isinstance(values["context"], int):
        _check_context(models[0], values["context"])
    if preload:
        start = first or stored.resolve(preload[0])
        check_load(start, LoadOptions(**{**options.load_arguments(values), "context": None}))
    if made.guard is not None:
        check_load(made.guard, LoadOptions())
    files = made.files
    if files is not None and (not files.absolute().parent.is_dir() or (files.exists() and not files.is_dir())):
        fail(NotFound, f"--files: no folder {files}, nor one to make it in", do="name a folder")
    if made.audit is not None and not made.audit.absolute().parent.is_dir():
        fail(NotFound, f"--audit: no folder {made.audit.absolute().parent}", do="make it first")
    return made, first


def _show_limits() -> None:
    from herd.server.holders import holders, sum_of
    from herd.server.limits import Limits, table

    console.table(("LIMIT", "VALUE", "OF"), [(row.name, str(row.value), row.where) for row in table(Limits())])
    print()
    held = [(one.name, str(one.most_bytes), one.of) for one in holders(Limits())]
    said = "all that clients can fill in the service's process; a model and its cache are beside it"
    console.table(("IN MEMORY", "BYTES", "OF"), [*held, ("sum", str(sum_of(Limits())), said)])


def _models(models: Sequence[str], *, needed: bool) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Models given by path, by name; and the names to load at the start. needed: whether there has to be one."""
    from herd.store import stored
    from herd.store.registry import stem_of

    served: dict[str, Path] = {}
    names = []
    for model in models:
        place = stored.look_up(model)
        name = model
        if place.name is None:
            name = stem_of(place.path.resolve())
            served[name] = place.path
        names.append(name)
    if not names:
        known = list(stored.entries())
        if not known and needed:
            fail(UsageError, "no model to serve", do="herd pull smollm2 (98 MB), or herd serve PATH")
        names = known if len(known) == 1 else []
    return served, tuple(names[:1])


def _registered(names: Sequence[str]) -> "dict[str, RegisteredModel]":
    """Backends as models that are no files. Nothing is connected. Raises NotFound, UsageError."""
    from herd.server.loading import backend_of

    return {name: backend_of(name) for name in names}


def _keys(
    secrets: Sequence[str], file: Path | None, tell: Callable[[str], None] = console.note, *, leave: bool = False
) -> "tuple[Key, ...]":
    from herd.server.keys import plain_key, read_keys

    given = [plain_key(secret, f"key{i}" if i else "key", leave=leave) for i, secret in enumerate(secrets)]
    return (*given, *(read_keys(file, tell) if file is not None else ()))


def _check_context(model: str, asked: int) -> None:
    """The model that is loaded at the start has to hold as much as is asked: said now, not in a log line later."""
    from herd.store.about import describe

    most = describe(model).config.max_context
    if asked > most:
        fail(UsageError, "--ctx", got=asked, expected=f"at most what {Path(model).name} has, {most}")


def _load(path: str, values: dict[str, Any]) -> "LLM":
    """A model as the options have it. Of models that hold less than --ctx it is a ceiling."""
    from herd.llm import load
    from herd.server.limits import Limits
    from herd.store.about import describe

    arguments, limits = options.load_arguments(values), Limits()
    context = arguments["context"] or "auto"
    if isinstance(context, int):
        context = min(context, describe(path).config.max_context)
    return load(
        path,
        **{**arguments, "context": context},
        parallel=values["parallel"],
        engine="thread" if values["in_process"] else "child",
        queue=limits.queue,
        grammar_s=limits.grammar_s,
        grammar_bytes=limits.grammar_bytes,
        progress=console.phases() if values["log"] == "text" else silent,
    )
