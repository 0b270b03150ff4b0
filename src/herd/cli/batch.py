"""`herd batch`: a file of requests in OpenAI's form, answered by one model into a file of results."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from herd.cli import console, elsewhere, options
from herd.disk.small_files import regular_file
from herd.errors import Interrupted, NotFound, SomeFailed, StaysHere, UsageError, fail

if TYPE_CHECKING:
    from herd.backends.gate import Said
    from herd.chat_model import ChatModel
    from herd.server.batches.index import Index
    from herd.server.batches.results import Results
    from herd.server.limits import Limits

HERE = 16
"""Lines under way at once, unless said, where a model of files answers them."""
ELSEWHERE = 8
"""Lines under way at once, unless said, where another engine or a host answers them."""
TOLD = 3
"""Lines that are no requests and are told one by one."""
LINES, READ = "batch", "read"


class Answering(NamedTuple):
    """What answers a file."""

    name: str
    """What requests call it."""
    identity: str
    """What tells it from any other."""
    load: "Callable[[], ChatModel]"
    hosts: list[str]
    """Hosts out of the house that requests may go to."""
    price_names: "Callable[[], frozenset[str]]"
    """What the table of prices may call it."""
    said: "Said | None" = None
    here: bool = True
    """Whether somebody in the house may answer."""


@click.command("batch")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="Answers every line, whatever it names; a name, a path, or a backend.")
@click.option("--parallel", type=click.IntRange(1, 512), help="Lines under way at once.  [default: 16; of a backend 8]")
@click.option(
    "--errors", metavar="FILE", type=click.Path(path_type=Path), help="Lines that failed go there, not to OUT."
)
@click.option("--in-order", is_flag=True, help="In the end, put OUT in the order of IN.")
@click.option("--prices", metavar="FILE", type=click.Path(path_type=Path), help="Hosts' prices (TOML).")
@click.option("--leave", is_flag=True, help="With a backend outside of the house: let the requests leave it.")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@options.loading
def batch(source: Path, out: Path, quiet: bool, as_json: bool, **values: Any) -> int:
    """Answer a file of requests, one a line as OpenAI's batches have them, into a file of results.

    \b
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "smollm2", "messages": [...]}}
    herd batch IN OUT
    herd batch IN OUT --model backend:near

    Without --model the first line names the model, one of the store. Each result is on the disk before it counts: after
    a kill the same command goes on. A line that fails has its error as its result; the exit status is then 1.
    """
    from herd import planner
    from herd.server.batches.results import Results, job_of
    from herd.server.limits import Limits

    _check(source, out, values)
    prices = planner.host_prices(values["prices"])
    limits = Limits()
    index = _indexed(source, limits, quiet)
    by = _answering(values["model"], index.model, values, quiet)
    results = Results(index, job_of(by.identity, values["model"] or ""), out, values["errors"])
    try:
        left = len(index) - results.totals.lines
        if results.totals.lines:
            kept = f"{results.totals.lines} of {len(index)} lines are kept"
            console.note(f"{kept}; it goes on" if left else f"{kept}; nothing is left to do", quiet=quiet)
        began_s, before = time.monotonic(), results.totals.output_tokens
        if left:
            _check_leaving(by, index, results, leave=values["leave"], quiet=quiet)
            _run(by, index, results, limits, values, quiet)
        seconds, made = time.monotonic() - began_s, results.totals.output_tokens - before
        if values["in_order"]:
            results.in_order()
    finally:
        results.close()
    _tell(by, results, seconds, made, prices, as_json, quiet)
    if results.totals.failed:
        where = values["errors"] or out
        fail(SomeFailed, f"{results.totals.failed} of {len(index)} lines failed", do=f"{where} has the error of each")
    return 0


def _check(source: Path, out: Path, values: dict[str, Any]) -> None:
    """Raise what is wrong with names of files, before any is read."""
    regular_file(source)
    files: list[Path] = [source, out, *([] if values["errors"] is None else [values["errors"]])]
    if len({file.absolute().resolve() for file in files}) < len(files):
        fail(UsageError, "files", got="one twice", expected="IN, OUT and --errors, each another")
    for file in files[1:]:
        if not file.absolute().parent.is_dir():
            fail(NotFound, f"no folder {file.absolute().parent}", do="make it first")
    if values["leave"] and values["model"] is None:
        fail(UsageError, "--leave", got="no --model", expected="a backend as --model", do="leave it out")


def _indexed(source: Path, limits: "Limits", quiet: bool) -> "Index":
    """The lines of a file; the first ones that are no requests are told."""
    from herd.server.batches.index import Index, Problem, check_has_requests

    wrong: list[str] = []
    count = 0

    def hear(problem: Problem) -> None:
        nonlocal count
        count += 1
        if len(wrong) < TOLD:
            wrong.append(f"{source.name}, line {problem.line}: {problem.error}")

    with console.progress(quiet=quiet or source.stat().st_size < 1 << 24) as progress:
        index = Index(source, limits, seen=lambda done, total: progress(READ, done, total), wrong=hear)
    check_has_requests(index, wrong[0] if wrong else "")
    for said in wrong:
        console.note(said, quiet=quiet)
    if count > len(wrong):
        console.note(f"and {count - len(wrong)} more lines that are no requests", quiet=quiet)
    return index


def _answering(asked: str | None, named: str, values: dict[str, Any], quiet: bool) -> Answering:
    """What answers: what was asked for; else the model that the first line names, which is one of the store. Nothing is
    loaded. Raises NotFound, UsageError."""
    from herd.store import stored

    if asked is None:
        known = stored.entries()
        if named.removesuffix(":latest") not in known:
            got = f"{named[:256]!r}, which the first line names" if named else "none: no line names one"
            fail(
                NotFound, "model", got=got, expected="a model of the store", do="--model MODEL has one answer all lines"
            )
        return _of_files(named.removesuffix(":latest"), values, quiet)
    from herd.backends.routes import chosen

    if (found := chosen(asked)) is not None:
        return _of_backend(asked, found, values)
    if values["leave"]:
        fail(UsageError, "--leave", got=f"a model of files, {asked}", do="leave it out: nothing is sent anywhere")
    return _of_files(asked, values, quiet)


def _of_files(model: str, values: dict[str, Any], quiet: bool) -> Answering:
    """A model of files as what answers. Raises NotFound."""
    from herd.evals.identity import sampled
    from herd.llm import load
    from herd.llm.load_options import LoadOptions
    from herd.llm.loading import check_load
    from herd.planning.cost import names_by_shape
    from herd.store import stored
    from herd.store.about import describe
    from herd.store.registry import stem_of

    place = stored.look_up(model)
    check_load(place.path, LoadOptions(**options.load_arguments(values)))

    def make() -> "ChatModel":
        with console.progress(quiet=quiet) as progress:
            parallel = values["parallel"] or HERE
            return load(model, **options.load_arguments(values), parallel=parallel, progress=progress)

    name = place.name or stem_of(place.path.resolve())

    def names() -> frozenset[str]:
        return names_by_shape(name, describe(model).config)

    return Answering(name, " ".join([sampled(place.path), *options.changing(values)]), make, [], names)


def _of_backend(asked: str, found: tuple[str, str], values: dict[str, Any]) -> Answering:
    """A backend or a route as what answers. Nothing is connected. Raises NotFound, UsageError, StaysHere."""
    from herd.backends.gate import Said, strictest
    from herd.backends.members import hosts_outside, identity_of, members_of
    from herd.backends.routes import named
    from herd.llm import by_ids

    elsewhere.check_flags(asked)
    one = named(*found, by_ids=lambda name: by_ids(name, asks=False))
    if values["leave"] and not (decision := strictest(Said(True), one.said)).leave:
        fail(StaysHere, f"--leave: {decision.why}", do="leave it out, or choose another backend")
    targets = [getattr(each, "target", None) for each in members_of(one.model)]
    ids = frozenset(target.model.lower() for target in targets if target is not None)

    def load() -> "ChatModel":
        return named(*found, by_ids=by_ids).model

    one.model.close()  # it told what it is; the one that answers is made when it is wanted, and asked what it is then
    model = one.model
    here = any(target is None or target.in_house for target in targets)
    return Answering(model.name, identity_of(model), load, hosts_outside(model), lambda: ids, one.said, here)


def _check_leaving(by: Answering, index: "Index", results: "Results", *, leave: bool, quiet: bool) -> None:
    """Tell what would leave the house; without leave, refuse where nobody in it answers. Raises StaysHere."""
    if not by.hosts:
        return
    lines = int((~results.done).sum())
    size = int(index.lengths[~results.done].sum())
    what = f"{lines} requests, {size} bytes, to {', or '.join(by.hosts)}"
    if leave:
        console.note(what, quiet=quiet)
    elif not by.here:
        fail(StaysHere, f"{what}: out of the house", do="--leave lets them leave it")


def _run(
    by: Answering, index: "Index", results: "Results", limits: "Limits", values: dict[str, Any], quiet: bool
) -> None:
    from herd.server.batches.offline import OneModel, answer_all

    at_once = values["parallel"] or (HERE if not by.hosts and by.said is None else ELSEWHERE)
    catalogue = OneModel(by.name, by.load, said=by.said)
    with _drawn(index, results, quiet) as told:
        try:
            answer_all(
                catalogue,
                index,
                results,
                limits=limits,
                at_once=at_once,
                all_by=by.name if values["model"] is not None else "",
                leave=values["leave"],
                told=told,
            )
        except (Interrupted, KeyboardInterrupt):
            kept = f"{results.totals.lines} of {len(index)} lines are kept, the same command goes on"
            raise Interrupted(f"interrupted; {kept}") from None


@contextmanager
def _drawn(index: "Index", results: "Results", quiet: bool) -> "Iterator[Callable[[], None]]":
    """What draws how far it is, called after each result."""
    began_s, before = time.monotonic(), results.totals.output_tokens

    def speed() -> str:
        made, seconds = results.totals.output_tokens - before, time.monotonic() - began_s
        failed = f", {results.totals.failed} failed" if results.totals.failed else ""
        return (f"{made / seconds:.0f} tokens/s" if seconds > 1 else "") + failed

    with console.progress(quiet=quiet, units={LINES: "lines"}, beside=speed) as progress:
        progress(LINES, results.totals.lines, len(index))
        yield lambda: progress(LINES, results.totals.lines, len(index))


def _tell(
    by: Answering, results: "Results", seconds: float, made: int, prices: Any, as_json: bool, quiet: bool
) -> None:
    """What came of it, and what it would have cost."""
    import datetime

    from herd.planning.batch_cost import hosted_tokens
    from herd.planning.cost_words import dollars

    totals = results.totals
    today = datetime.datetime.now(datetime.UTC).date()
    hosts = hosted_tokens(by.price_names(), prices, today, totals.prompt_tokens, totals.output_tokens)
    if as_json:
        told = [
            {
                "host": one.price.host,
                "model": one.price.model,
                "dollars": one.dollars,
                "batch_dollars": one.batch_dollars,
                "listed": one.price.date,
            }
            for one in hosts
        ]
        found = {"model": by.name, "lines": totals.lines, "answered": totals.answered, "failed": totals.failed}
        tokens = {
            "prompt_tokens": totals.prompt_tokens,
            "cached_tokens": totals.cached_tokens,
            "output_tokens": totals.output_tokens,
        }
        console.print_json("batch", {**found, **tokens, "seconds": round(seconds, 3), "hosts": told})
        return
    read = f"{totals.prompt_tokens:,} tokens read ({totals.cached_tokens:,} of them from the cache)"
    speed = f" in {seconds:.0f} s, {made / seconds:.0f} tokens/s" if made and seconds > 1 else ""
    console.note(f"{totals.lines} lines: {read}, {totals.output_tokens:,} made{speed}", quiet=quiet)
    if quiet or not totals.answered or not hosts:
        return
    rows = []
    for one in hosts:
        in_batch = "-" if one.batch_dollars is None else dollars(one.batch_dollars)
        rows.append((one.price.host, one.price.model, dollars(one.dollars), in_batch, one.price.date))
    console.table(("THE SAME AT", "MODEL", "COSTS", "IN A BATCH", "LISTED"), rows)
