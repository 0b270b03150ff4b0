"""`herd eval`: how well a model does on tasks; two runs compared."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli import asking, console, counts, measures, options, versions
from herd.cli.asking import Asks
from herd.errors import SomeFailed, StaysHere, UsageError, fail

if TYPE_CHECKING:
    from herd.evals import Compared, Results


@click.command("eval")
@click.argument("model", metavar="MODEL")
@click.argument("tasks", nargs=-1, metavar="[TASK]...")
@click.option("--out", metavar="FOLDER", type=click.Path(), help="Keep results here, and go on where a run ended.")
@click.option("--limit", type=counts.Size(), help="Ask so many items of each task.")
@click.option("--seed", type=click.IntRange(0, 1 << 31), default=0, show_default=True, help="Of what answers draw.")
@click.option("--trust", is_flag=True, help="Run checkers that are Python files of a task, until these change.")
@click.option("--compare", "comparing", is_flag=True, help="Two runs' folders, or two models and then tasks: A B.")
@click.option("--allow", type=counts.FiniteRange(0, 100), help="With --compare: what a mean may lose.")
@click.option(
    "--no-measures", is_flag=True, help="With --compare of models: no size, memory, speed, KL and perplexity."
)
@click.option(
    "--hour",
    metavar="DOLLARS",
    type=counts.FiniteRange(0, 1e6),
    help="What an hour of this machine costs: measures say it.",
)
@click.option("--lm-eval", "harness", is_flag=True, help="TASK are lm-evaluation-harness's (the extra lm-eval).")
@click.option("--leave", is_flag=True, help="With a backend outside of the house: let the items leave it.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with pictures, too.")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@options.loading
def evaluate(
    model: str,
    tasks: Sequence[str],
    out: str | None,
    limit: int | None,
    seed: int,
    trust: bool,
    comparing: bool,
    allow: float | None,
    no_measures: bool,
    hour: float | None,
    harness: bool,
    leave: bool,
    html: Path | None,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Ask MODEL the items of each TASK: a .toml file, a smoke task by its name (all of these unless said),
    reasoning-gym:NAME or bfcl:KIND.

    \b
    herd eval smollm2 smoke-arithmetic --out runs/smollm2
    herd eval --compare runs/smollm2 runs/smollm2-q4
    herd eval --compare smollm2 small.gguf mine.toml --out runs

    --compare exits with 1 where the second one is worse. backend:NAME is another engine or a host (herd backend);
    outside of the house it wants --leave.
    """
    if html is not None:
        from herd.evals.page import check

        check(html)
    if comparing and not tasks:
        fail(UsageError, "--compare", expected="two folders of results, or two models and tasks", do="see --help")
    runs = [_is_run(one) for one in (model, *tasks[:1])] if comparing else []
    if any(runs):
        if not all(runs):
            other = (model, tasks[0])[runs.index(False)]
            fail(UsageError, "--compare", got=f"{other}, where no results lie", expected="two folders that --out wrote")
        if len(tasks) != 1 or out or limit or leave or hour is not None:
            fail(UsageError, "--compare", expected="two folders of results and nothing more", do="see --help")
        return _compare(model, tasks[0], allow or 0.0, as_json, html)
    for flag, value in (("--allow", allow), ("--hour", hour), ("--no-measures", no_measures or None)):
        if value is not None and not comparing:
            fail(UsageError, flag, expected="--compare before it")
    if harness:
        if not tasks or out or seed or comparing or trust or leave or html:
            fail(UsageError, "--lm-eval", expected="tasks, and neither --out nor --seed", do="see --help")
        return _harness(model, tasks, limit, values, quiet, as_json)
    from herd.cli import elsewhere
    from herd.evals import built_in

    for word in (model, tasks[0]) if comparing else ():
        if elsewhere.named(word) is not None or elsewhere.by_ids(word):
            do = "ask each with --out FOLDER, then --compare the two folders"
            fail(UsageError, "--compare", got=f"a backend, {word}", expected="models of files", do=do)
    named = None if comparing else elsewhere.named(model)
    if named is not None:
        elsewhere.check_flags(model)
    elif leave:
        fail(UsageError, "--leave", got=f"a model of files, {model}", do="leave it out: nothing is sent anywhere")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        fail(UsageError, "--out", got=out, expected="a folder")
    asks = Asks(asking.tasks_of(tasks[comparing:] or built_in()), limit, seed, quiet, out is not None, values)
    for task in asks.tasks:
        asking.try_checker(task, trust=trust, quiet=quiet)
    if comparing:
        _check_files(model, tasks[0])
        with _folder(out) as folder:
            rows = _of_models(model, tasks[0], asks, folder, allow or 0.0, html)
        return _tell_models(model, tasks[0], rows, asks, hour, measuring=not no_measures, as_json=as_json)
    with _folder(out) as folder:
        if named is not None:
            found = _elsewhere(named, asks, folder, leave=leave, chosen=bool(tasks))
        else:
            with asking.loaded(model, values, quiet=quiet) as llm:
                if tasks:
                    versions.remember(model, tasks)
                found = asking.ask(llm, asking.identity(llm, values, model), asks, folder)
    if html is not None:
        from herd.evals.page import run_page, write

        asked = {task.name: task for task in asks.tasks}
        write(html, run_page(model, [asked[one.job["name"]] for one in found], found))
        console.note(f"{html}: the page of it", quiet=quiet)
    _tell(model, found, as_json, quiet)
    return 0


def _is_run(path: str) -> bool:
    """Whether results of a run lie there."""
    from herd.evals.results import RESULTS

    return Path(path).is_dir() and any(Path(path).glob(f"*/{RESULTS}"))


def _check_files(*models: str) -> None:
    """Raise UsageError for a backend or route among models that are compared: it is asked by itself."""
    from herd.backends.names import may_name
    from herd.backends.routes import chosen

    for model in models:
        if may_name(model) and chosen(model) is not None:
            do = f"ask each with --out FOLDER ({model} too), then --compare the two folders"
            fail(UsageError, "--compare", got=f"a backend, {model}", expected="models of files", do=do)


def _of_models(first: str, second: str, asks: Asks, folder: Path, allow: float, html: Path | None) -> "list[Compared]":
    """Ask one model, then the other, the items of all tasks, and compare. html: where the page of it goes."""
    from herd.evals import compare
    from herd.evals.comparisons import FIRST, SECOND
    from herd.store import stored

    measures.check_both(stored.resolve(first), stored.resolve(second), asks.values)
    runs = []
    for model, place in ((first, FIRST), (second, SECOND)):
        console.note(f"asking {model}", quiet=asks.quiet)
        with asking.loaded(model, asks.values, quiet=asks.quiet) as llm:
            found = asking.ask(llm, asking.identity(llm, asks.values), asks, folder / place)
        runs.append({one.job["name"]: one for one in found})
    rows = compare(runs[0], runs[1], allow=allow)
    if html is not None:
        from herd.evals.page import comparison_page, write

        write(html, comparison_page(first, second, rows, (runs[0], runs[1]), allow))
    return rows


def _tell_models(
    first: str,
    second: str,
    rows: "Sequence[Compared]",
    asks: Asks,
    hour: float | None,
    *,
    measuring: bool,
    as_json: bool,
) -> int:
    """Show a comparison, and measures beside it."""
    from herd.store import stored

    if not as_json:
        asking.tell_compared(rows)
    found = (
        measures.measured(stored.resolve(first), stored.resolve(second), asks.values, quiet=asks.quiet)
        if measuring
        else None
    )
    if as_json:
        told = {"first": first, "second": second, "tasks": [row.to_dict() for row in rows]}
        console.print_json("eval", {**told, "measures": found and found.to_dict(hour)})
    elif found is not None:
        measures.tell_measures(found, hour, quiet=asks.quiet)
    return 1 if any(row.verdict == "worse" for row in rows) else 0


def _harness(
    model: str, tasks: Sequence[str], limit: int | None, values: dict[str, Any], quiet: bool, as_json: bool
) -> int:
    """Have lm-evaluation-harness ask its tasks of the model."""
    from herd.evals import harness

    with asking.loaded(model, values, quiet=quiet) as llm:
        found = harness.evaluate(llm, tasks, limit=limit)
    if as_json:
        console.print_json("eval", {"model": model, "harness": found})
        return 0
    rows = [
        (task, name, f"{value:.4f}")
        for task, row in found.items()
        for name, value in row.items()
        if isinstance(value, float)
    ]
    console.table(("task", "metric", "value"), rows)
    return 0


@contextmanager
def _folder(out: str | None) -> Iterator[Path]:
    """Where results go; one that goes again where nobody wants to keep them."""
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="herd-eval-") as made:
        yield Path(made)


def _elsewhere(named: tuple[str, str], asks: Asks, folder: Path, *, leave: bool, chosen: bool) -> "list[Results]":
    """Ask a backend or a route; what leaves the house is told before. chosen: whether somebody named the tasks; else
    those that it cannot do are left out, and told."""
    from herd.backends.gate import Said, strictest
    from herd.backends.members import identity_of, require_some
    from herd.backends.routes import named as by_name
    from herd.evals.elsewhere import Patient, sending
    from herd.evals.running import check, lacks
    from herd.llm import by_ids

    found = by_name(*named, by_ids=by_ids)
    decision = strictest(Said(leave or None), found.said)
    model = Patient(found.model, leave=decision.leave)
    try:
        if not chosen:
            cannot = [task.name for task in asks.tasks if lacks(model, task)]
            if cannot:
                console.note(f"left out: {', '.join(cannot)}; {model.name} tells no log-probabilities of given texts")
            asks = asks._replace(tasks=[task for task in asks.tasks if task.name not in cannot])
        for task in asks.tasks:
            check(model, task)
        told = sending(found.model, asks.tasks, folder, asks.limit)
        try:
            with decision.explained():
                require_some(found.model, leave=decision.leave)
        except StaysHere:
            console.note(str(told))
            raise
        if decision.leave and told.hosts and told.items:
            console.note(str(told), quiet=asks.quiet)
        return asking.ask(model, identity_of(found.model), asks, folder)
    finally:
        model.close()


def _tell(model: str, found: "Sequence[Results]", as_json: bool, quiet: bool) -> None:
    rows = [results.summary for results in found]
    if as_json:
        console.print_json("eval", {"model": model, "tasks": [row.to_dict() for row in rows]})
    else:
        table = []
        for row in rows:
            value = "-" if row.interval is None else f"{row.interval.mean:.4f}"
            within = "-" if row.interval is None else f"{row.interval.low:.4f} to {row.interval.high:.4f}"
            table.append((row.task, row.metric, value, within, str(row.answered), str(sum(row.failed.values()))))
        console.table(("task", "metric", "mean", "95%", "items", "failed"), table)
    for row in rows:
        if len(row.answered_by) > 1:
            by = ", ".join(f"{name} {count}" for name, count in row.answered_by.items())
            console.note(f"{row.task}: items answered by {by}", quiet=quiet)
        if row.failed:
            console.note(f"{row.task}: {sum(row.failed.values())} items failed, the first: {row.why}", quiet=quiet)
    if lost := [row.task for row in rows if row.interval is None]:
        fail(SomeFailed, f"no item of {', '.join(lost)} was answered", do="see the note above")


def _compare(first: str, second: str, allow: float, as_json: bool, html: Path | None) -> int:
    from herd.evals import compare, read_all

    runs = read_all(Path(first)), read_all(Path(second))
    found = compare(*runs, allow=allow)
    if html is not None:
        from herd.evals.page import comparison_page, write

        write(html, comparison_page(first, second, found, runs, allow))
    if as_json:
        console.print_json("eval", {"first": first, "second": second, "tasks": [row.to_dict() for row in found]})
    else:
        asking.tell_compared(found)
    return 1 if any(row.verdict == "worse" for row in found) else 0
