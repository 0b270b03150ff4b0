"""`herd backend`: other engines and hosts as models: add, list, test, limit, rm."""

import asyncio
import sys
from datetime import date
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from msgspec import structs

from herd.backends.presets import PRESETS
from herd.cli import console
from herd.cli.counts import Size
from herd.errors import Interrupted, NetworkError, UsageError, fail

if TYPE_CHECKING:
    from herd.backends.settings import Backend

MOST_KEY_BYTES = 16 << 10
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
leave_flag = click.option(
    "--leave", is_flag=True, help="Let what is asked leave the house, to a host or engine outside of it."
)


class PricePair(click.ParamType[tuple[float, float]]):
    """IN/OUT, dollars per million tokens."""

    name = "in/out"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Read what someone typed."""
        if isinstance(value, tuple):
            return value
        left, _, right = str(value).partition("/")
        try:
            return float(left), float(right)
        except ValueError:
            self.fail(f"{value!r} is not IN/OUT, like 0.10/0.30 dollars a million tokens", param, ctx)


@click.group("backend", no_args_is_help=False)
def backend() -> None:
    """Other engines and hosts as models. Nothing leaves the house unless --leave, or a key's right, says so."""


@backend.command("add")
@click.argument("name")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="openai", show_default=True)
@click.option("--model", required=True, metavar="ID", help="What the other side calls the model.")
@click.option(
    "--by",
    type=click.Choice(["chat", "ids"]),
    default="chat",
    show_default=True,
    help="ids: an engine in your house gets token ids; dialogs, tools and policies are made of them here.",
)
@click.option(
    "--tokenizer", default="", metavar="MODEL", help="By ids: a model, folder or file that has its tokenizer."
)
@click.option("--url", default="", help="Its address; without it the preset's.")
@click.option("--region", default="", metavar="REGION", help="Its region, for hosts that have one address in each.")
@click.option("--key-env", default="", metavar="VAR", help="The key stands in this environment variable.")
@click.option("--key", "asks", is_flag=True, help="Ask for a key where none is needed: on the terminal, or from stdin.")
@click.option("--in-house", is_flag=True, help="It stands in your own network: private texts may go there.")
@click.option("--outside", is_flag=True, help="It sends on to others, though its address is this machine's.")
@click.option("--ctx", "context", type=Size(), help="Tokens of prompt and answer together there.")
@click.option(
    "--limit", type=float, metavar="DOLLARS", help="What it may cost in all; wanted for one that costs money."
)
@click.option("--price", type=PricePair(), help="Dollars a million tokens, where the table of prices has no row.")
@as_json
def add(name: str, as_json: bool, **values: Any) -> None:
    """Add a backend by a NAME of yours. A key is asked for without being shown, and kept in a file of mode 600."""
    from herd.backends import routes, settings

    made = _made(values)
    routes.check_free(name)
    settings.Backends().check_new(name, made)  # before a key is typed
    made = structs.replace(made, key=_key(name, values))
    if made.by == "ids":
        made = _alike(name, made)
    found = settings.Backends().add(name, made)
    if as_json:
        console.print_json("backend add", {"name": name, **_told(found)})
        return
    console.note(f"{name}: {found.model} at {found.shown_address}, {_place(found)}")
    usual = PRESETS[found.preset].base_url or "/v1"
    if found.by == "chat" and found.url and not urlsplit(found.url).path.strip("/") and usual.endswith("/v1"):
        console.note(f"{name}: such an address mostly ends with /v1; herd backend test {name} tells whether it answers")
    if (end := settings.end_of(found)) is not None:
        past = "ended" if end <= date.today() else "ends"
        console.note(f"{found.preset} {past} {found.model} on {end}, as the table of prices has it")


def _made(values: "dict[str, Any]") -> "Backend":
    """The backend that flags describe, without its key. Raises UsageError."""
    from herd.backends.settings import Backend

    preset, url, region = PRESETS[values["preset"]], values["url"], values["region"]
    if url and region:
        fail(UsageError, "--region", got="--url as well", expected="one of them")
    if values["in_house"] and values["outside"]:
        fail(UsageError, "--in-house", got="--outside as well", expected="one of them")
    dollars_in, dollars_out = values["price"] or (None, None)
    wants = _wants_key(values) and not values["key_env"]
    return Backend(
        preset=values["preset"],
        key="to-come" if wants else "",
        model=values["model"],
        url=preset.at(region) if region else url,
        key_env=values["key_env"],
        house="in" if values["in_house"] else "out" if values["outside"] else "",
        context=values["context"],
        limit_dollars=values["limit"],
        by=values["by"],
        tokenizer=_place_of(values["tokenizer"]),
        dollars_in=dollars_in,
        dollars_out=dollars_out,
    )


def _alike(name: str, made: "Backend") -> "Backend":
    """A backend by ids with what its engine tells of itself, once that encodes texts as the tokenizer here does.
    Raises UsageError where it does not, errors of `herd.backends.failures`."""
    from herd.backends import ids_engines
    from herd.checkpoint.open import open_checkpoint
    from herd.store import stored

    with open_checkpoint(stored.resolve(made.tokenizer)) as checkpoint:
        tokenizer = checkpoint.load_tokenizer()
    target, engine = ids_engines.ids_target(name, made), ids_engines.ENGINES[made.preset]
    facts = asyncio.run(ids_engines.asked(target, engine))
    found = asyncio.run(ids_engines.compared(target, engine, tokenizer))
    ids_engines.check_alike(name, made.tokenizer, found)
    console.note(f"{name}: {found.tried} texts encoded there as {made.tokenizer} encodes them")
    lacks = "" if facts.grammars else f"; schemas and forced calls are refused: it is not {engine.guided}"
    console.note(f"{name}: {engine.engine}, context {facts.context}{lacks}")
    return structs.replace(made, facts=facts)


def _wants_key(values: "dict[str, Any]") -> bool:
    return values["asks"] or PRESETS[values["preset"]].is_host


def _key(name: str, values: "dict[str, Any]") -> str:
    """The key, asked for without being shown, or the first line of stdin; empty: none is wanted."""
    if values["key_env"] or not _wants_key(values):
        return ""
    if sys.stdin.isatty():
        from getpass import getpass

        try:
            found = getpass(f"key of {name} (not shown): ")
        except (EOFError, KeyboardInterrupt):
            raise Interrupted("interrupted") from None
    else:
        found = sys.stdin.readline(MOST_KEY_BYTES)
    if not found.strip():
        variable = PRESETS[values["preset"]].key_env or "VAR"
        do = f"type it, pipe it in, or give --key-env {variable}"
        fail(UsageError, f"backend {name}: its key", got="nothing", do=do)
    return found.strip()


@backend.command("list", short_help="Show the backends: place, limit, what each has cost.")
@as_json
def list_(as_json: bool) -> None:
    """Show the backends: place, key, what each may cost and has cost."""
    from herd.backends.settings import Backends

    records = Backends().read()
    for name, broken in records.broken.items():
        console.note(f"{name}: its record in backends.json is broken ({broken.why}); herd backend rm {name} forgets it")
    told = {name: _told(one) for name, one in sorted(records.good.items())}
    if as_json:
        console.print_json("backend list", {"backends": told})
        return
    if not told:
        console.note("no backends yet; herd backend add NAME --preset deepinfra --model ID --limit 5")
        return
    rows = [
        (n, f"{t['preset']}{' by ids' if t['by'] == 'ids' else ''}", t["model"], t["place"], t["key"], _cost(t))
        for n, t in told.items()
    ]
    console.table(("NAME", "PRESET", "MODEL", "PLACE", "KEY", "SPENT"), rows)


def _told(one: "Backend") -> "dict[str, Any]":
    """What is shown of a backend: never its key."""
    from herd.backends.spending import NANO, sums_of

    sums = sums_of(one.account)
    by_ids = {"by": one.by, "tokenizer": one.tokenizer} if one.by == "ids" else {"by": one.by}
    return {
        "preset": one.preset,
        "model": one.model,
        **by_ids,
        "address": one.shown_address,
        "place": _place(one),
        "key": f"in ${one.key_env}" if one.key_env else "kept" if one.key else "none",
        "limit_dollars": one.limit_dollars,
        "spent_dollars": sums.all / NANO,
    }


def _place(one: "Backend") -> str:
    return "in the house" if one.in_house else "outside"


def _cost(told: "dict[str, Any]") -> str:
    if told["limit_dollars"] is None:
        return "-"
    return f"${told['spent_dollars']:.4f} of ${told['limit_dollars']:g}"


@backend.command("limit", short_help="Set what a backend may cost in all.")
@click.argument("name")
@click.argument("dollars", type=float)
def limit(name: str, dollars: float) -> None:
    """Set what a backend may cost in all, past costs included."""
    from herd.backends.settings import Backends

    found = Backends().set_limit(name, dollars)
    console.note(f"{name}: {_cost(_told(found))} spent")


@backend.command("rm")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also where a route has it: it is taken out there.")
def rm(name: str, force: bool) -> None:
    """Forget a backend and its key."""
    from herd.backends.routes import Routes
    from herd.backends.settings import Backends

    routes = Routes().using(name)
    if routes and not force:
        do = f"herd route rm {routes[0]}, or --force, which takes it out there"
        one = "a route that has" if len(routes) == 1 else f"{len(routes)} routes that have"
        fail(UsageError, f"backend {name}", got=f"{one} it, {', '.join(routes)}", expected="none", do=do)
    Backends().remove(name)
    console.note(f"removed {name}")
    if left := Routes().leave_out(name):
        console.note(f"taken out of {', '.join(left)}")


@backend.command("test")
@click.argument("name")
@leave_flag
@click.option("--keep", is_flag=True, help="Keep what was found: its context, and what it cannot do.")
@as_json
def test(name: str, leave: bool, keep: bool, as_json: bool) -> None:
    """Try a backend, a line for each thing that it can do.

    Reached, key, model, streams, usage, tools, schema. What is sent are a few words of Herd's own. To a host outside
    of the house they go with --leave alone.
    """
    from herd.backends.probing import NEEDED, Findings, plan_of, probe
    from herd.backends.settings import Backends, model_of

    if Backends().find(name).by == "ids":
        if keep:
            fail(
                UsageError,
                "--keep",
                got=f"{name}, a backend by token ids",
                do="leave it out: it is asked at each start",
            )
        _test_by_ids(name, as_json)
        return
    model, findings = model_of(name, as_preset=keep), Findings()
    plan = plan_of(model)
    console.note(f"{name}: {plan.requests} requests of together {plan.size_bytes} bytes to {plan.host}")
    found = asyncio.run(probe(model, leave=leave, tell=_silent if as_json else _tell_line, findings=findings))
    if as_json:
        console.print_json("backend test", {"name": name, "checks": found})
    if failed := [check for check in NEEDED if found.get(check, {}).get("result") == "failed"]:
        fail(NetworkError, f"{name} answers nothing", got=f"{failed[0]}: failed", do="see the lines above")
    if keep:
        kept = Backends().keep(name, context=findings.context, lacks=findings.lacks)
        context = f"{kept.context} tokens of context" if kept.context else "no context, which nobody tells"
        console.note(f"kept of {name}: {context}{''.join(f'; no {one}' for one in kept.lacks)}")
    elif findings.context or findings.lacks:
        console.note(f"herd backend test {name} --keep keeps that in its settings")


def _test_by_ids(name: str, as_json: bool) -> None:
    """Try a backend by token ids."""
    from herd.cli.ids_probing import NEEDED, probe

    found = probe(name, _silent if as_json else _tell_line)
    if as_json:
        console.print_json("backend test", {"name": name, "checks": found})
    if failed := [check for check in NEEDED if found.get(check, {}).get("result") == "failed"]:
        fail(NetworkError, f"{name} answers nothing", got=f"{failed[0]}: failed", do="see the lines above")


def _place_of(tokenizer: str) -> str:
    """A tokenizer as it is kept: a path as a whole one, wherever the next command is called."""
    from pathlib import Path

    is_path = tokenizer and ("/" in tokenizer or Path(tokenizer).suffix) and Path(tokenizer).exists()
    return str(Path(tokenizer).absolute()) if is_path else tokenizer


def _tell_line(check: str, result: str, words: str) -> None:
    console.line(f"{check:<9} {result:<7} {words}".rstrip(), 18)


def _silent(check: str, result: str, words: str) -> None:
    """Nothing is told."""
