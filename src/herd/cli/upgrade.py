"""`herd upgrade`: a new version of a model compared with the one in use, on a person's own tasks, and switched to."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli import asking, console, counts, measures, options, versions
from herd.cli.asking import Asks
from herd.errors import UsageError, fail
from herd.store import stored

if TYPE_CHECKING:
    from herd.evals import Compared, Results, Task
    from herd.evals.measures import Measures
    from herd.evals.statistics import Verdict
    from herd.store.registry import ModelEntry, Version


@dataclass(frozen=True)
class _Found:
    """What a comparison found."""

    rows: "Sequence[Compared]"
    measures: "Measures | None"
    folder: Path

    def tell(self, hour: float | None, *, quiet: bool) -> None:
        """Show it."""
        asking.tell_compared(self.rows)
        if self.measures is not None:
            measures.tell_measures(self.measures, hour, quiet=quiet)

    def to_dict(self, hour: float | None) -> dict[str, Any]:
        """As JSON."""
        return {
            "tasks": [row.to_dict() for row in self.rows],
            "measures": self.measures and self.measures.to_dict(hour),
        }


@click.command("upgrade")
@click.argument("name", metavar="NAME")
@click.argument("new", metavar="NEW")
@click.option(
    "--task", "tasks", multiple=True, metavar="TASK", help="What herd eval takes as one; can be given several times."
)
@click.option("--limit", type=counts.Size(), help="Ask so many items of each task.")
@click.option("--seed", type=click.IntRange(0, 1 << 31), default=0, show_default=True, help="Of what answers draw.")
@click.option("--trust", is_flag=True, help="Run checkers that are Python files of a task, until these change.")
@click.option("--allow", type=counts.FiniteRange(0, 100), default=0.0, help="What a mean may lose.")
@click.option("--no-measures", is_flag=True, help="No size, memory, speed, KL and perplexity beside the tasks.")
@click.option(
    "--hour",
    metavar="DOLLARS",
    type=counts.FiniteRange(0, 1e6),
    help="What an hour of this machine costs: measures say it.",
)
@click.option("--yes", is_flag=True, help="Do not ask: switch unless NEW is worse.")
@click.option("--even-if-worse", is_flag=True, help="With --yes: switch whatever was found.")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@options.loading
def upgrade(
    name: str,
    new: str,
    tasks: Sequence[str],
    limit: int | None,
    seed: int,
    trust: bool,
    allow: float,
    no_measures: bool,
    hour: float | None,
    yes: bool,
    even_if_worse: bool,
    quiet: bool,
    as_json: bool,
    **values: Any,
) -> int:
    """Make NEW a version of NAME, compare it with the one in use, and switch to it if you say so.

    NEW is a file or folder, a model of the store, NAME@VERSION, or what herd pull takes. Tasks are those of the last
    time unless said; without any, the smoke tasks. Nothing is deleted: herd use NAME goes back.

    \b
    herd upgrade assistant new.gguf --task mine.toml
    herd upgrade assistant new.gguf --yes --allow 0.01

    Exits with 1 where NEW is worse and was not switched to.
    """
    if even_if_worse and not yes:
        fail(UsageError, "--even-if-worse", expected="--yes before it", do="without it you are asked anyway")
    if not yes and (as_json or not sys.stdin.isatty()):
        fail(UsageError, "upgrade", got="no terminal to ask on", do="--yes switches unless NEW is worse")
    base, old = stored.find(name)
    if base != name:
        fail(UsageError, "NAME", got=name, expected="the name alone: what it means now is compared")
    chosen, told = _tasks(base, tasks)
    for task in chosen:
        asking.try_checker(task, trust=trust, quiet=quiet)
    asks = Asks(chosen, limit, seed, quiet, True, values)
    with console.progress(quiet=quiet) as progress:
        version = _registered(base, new, progress, quiet=quiet)
    if version.id == old.id:
        fail(UsageError, f"{base} is {old.id} already", got=new, expected="another version")
    console.note(told, quiet=quiet)
    found = _compared(base, old, version, asks, allow, remember=bool(tasks), measuring=not no_measures)
    if not as_json:
        found.tell(hour, quiet=quiet)
    return _decide(base, old, version, found, hour, yes=yes, even_if_worse=even_if_worse, as_json=as_json, quiet=quiet)


def _tasks(name: str, given: Sequence[str]) -> "tuple[list[Task], str]":
    """The tasks that are meant, read and checked; and whose they are, in words."""
    from herd.evals import built_in

    entry: ModelEntry = stored.entries()[name]
    chosen, told = list(given or entry.tasks), f"tasks: {', '.join(given or entry.tasks)}"
    if not chosen:
        chosen = built_in()
        told = "no task of your own is known: smoke tasks are asked, which are no benchmark; --task FILE"
    return asking.tasks_of(chosen), told


def _registered(name: str, new: str, progress: Any, *, quiet: bool) -> "Version":
    """NEW as a version of NAME, which means what it meant."""
    from herd.store.pulling import Pull

    asked = Pull(progress=progress, tell=lambda line: console.note(line, quiet=quiet))
    version = stored.add_version(name, new, asked)
    console.note(f"{name}@{version.id}  {console.size(version.size_bytes)}  {version.location}", quiet=quiet)
    return version


def _compared(
    name: str, old: "Version", new: "Version", asks: Asks, allow: float, *, remember: bool, measuring: bool
) -> _Found:
    """Run the tasks for one version, then for the other, and compare. Never are both in memory."""
    from herd.evals import compare
    from herd.evals.comparisons import FIRST, SECOND, folder_of, save

    measures.check_both(old.location, new.location, asks.values)
    given = options.load_arguments(asks.values)
    if remember:
        versions.remember(name, click.get_current_context().params["tasks"])
    key = {
        "versions": [old.id, new.id],
        "tasks": [task.digest for task in asks.tasks],
        "seed": asks.seed,
        "flags": {flag: str(value) for flag, value in sorted(given.items())},
    }
    folder = folder_of(name, key)
    first = _run(f"{name}@{old.id}", old, asks, folder / FIRST)
    second = _run(f"{name}@{new.id}", new, asks, folder / SECOND)
    rows = compare(first, second, allow=allow)
    beside = measures.measured(old.location, new.location, asks.values, quiet=asks.quiet) if measuring else None
    found = _Found(rows, beside, folder)
    save(folder, {"name": name, "first": old.id, "second": new.id, "allow": allow, **found.to_dict(None)})
    return found


def _run(called: str, version: "Version", asks: Asks, folder: Path) -> "dict[str, Results]":
    """Ask one version the items of all tasks; what was asked before, in this comparison or another one, is kept."""
    from herd.evals.comparisons import take_over
    from herd.evals.results import job_of

    console.note(f"asking {called}", quiet=asks.quiet)
    with asking.loaded(str(version.location), asks.values, quiet=asks.quiet) as llm:
        identity = asking.identity(llm, asks.values)
        for task in asks.tasks:
            take_over(folder / task.name, job_of(task, identity, asks.seed))
        found = asking.ask(llm, identity, asks, folder)
    return {one.job["name"]: one for one in found}


def _decide(
    name: str,
    old: "Version",
    new: "Version",
    found: _Found,
    hour: float | None,
    *,
    yes: bool,
    even_if_worse: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Ask, and switch on yes."""
    from herd.evals.comparisons import overall

    verdict = overall(found.rows)
    if yes:
        switched = verdict != "worse" or even_if_worse
    else:
        question = f"{name}@{new.id} is {_words(verdict)}. Let {name} mean it from now on?"
        switched = click.confirm(question, default=verdict in ("better", "same"), err=True)
    if switched:
        stored.use(f"{name}@{new.id}", "upgrade", str(found.folder), instead_of=old.id)
    if as_json:
        data = {"name": name, "before": old.id, "new": new.id, "verdict": verdict, "switched": switched}
        console.print_json("upgrade", {**data, "folder": str(found.folder), **found.to_dict(hour)})
    elif switched:
        console.note(f"{name} is {new.id} now; herd use {name} {old.id} goes back", quiet=quiet)
    else:
        console.note(f"{name} stays {old.id}; herd use {name} {new.id} takes the other one", quiet=quiet)
    return 1 if verdict == "worse" and not switched else 0


def _words(verdict: "Verdict") -> str:
    return {
        "worse": "worse on some task",
        "better": "better on some task and worse on none",
        "same": "the same, within what is allowed",
        "cannot tell": "neither better nor worse as far as these items tell",
    }[verdict]
