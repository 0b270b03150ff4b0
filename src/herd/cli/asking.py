"""What `herd eval` and `herd upgrade` share: tasks by their names, a model that is asked them, a comparison shown.

What it is not: the runs themselves (`herd.evals.running`), flags.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from herd.cli import console, options
from herd.errors import Interrupted, UsageError, fail

if TYPE_CHECKING:
    from herd.chat_model import ChatModel
    from herd.evals import Compared, Results, Task
    from herd.llm import LLM


class Asks(NamedTuple):
    """What is asked of a model, or of one and then of another."""

    tasks: "Sequence[Task]"
    limit: int | None
    seed: int
    quiet: bool
    keeps: bool
    """Whether results lie where somebody keeps them, so that an interrupted run goes on there."""
    values: dict[str, Any]
    """Flags of loading."""


def tasks_of(names: Sequence[str]) -> "list[Task]":
    """Tasks by their names or files, read and checked. Raises UsageError for two of one name, NotFound, BadFile."""
    from herd.evals import find

    found = [find(name) for name in names]
    if len({task.name for task in found}) < len(found):
        fail(UsageError, "tasks", got="one name twice", expected="each once")
    return found


def try_checker(task: "Task", *, trust: bool, quiet: bool) -> None:
    """See that what judges a task's answers can be run, before a model is loaded. trust: keep that
    a checker of the person's own may be run. Raises UsageError, BadFile, MissingExtra, Unsupported."""
    from herd.evals import judging, programs

    if task.program is not None:
        if trust:
            programs.trust(task.program)
        programs.require_trust(task.program)
        console.note(f"{task.name}: runs {task.program.path} (SHA-256 {task.program.digest[:12]}...)", quiet=quiet)
    with judging.opened(task):
        pass


def loaded(model: str, values: dict[str, Any], *, quiet: bool) -> "LLM":
    """A model of files, or a backend by token ids, with progress. values: flags of loading."""
    from herd.llm import load

    with console.progress(quiet=quiet) as progress:
        return load(model, **options.load_arguments(values), progress=progress)


def identity(llm: "LLM", values: dict[str, Any], word: str = "") -> str:
    """What tells the model from any other: its files, and the flags that change what it says. word: what it was loaded
    by; where that names a backend by token ids, its engine counts in the place of files."""
    from herd.backends.members import identity_of
    from herd.cli import elsewhere
    from herd.evals.identity import sampled

    if word and elsewhere.by_ids(word):
        files = identity_of(llm)
    else:
        files = sampled(llm.path) if llm.path is not None else llm.name
    return " ".join([files, *options.changing(values)])


def ask(model: "ChatModel", identity: str, asks: Asks, folder: Path) -> "list[Results]":
    """Ask the items of all tasks. identity: what tells the model from any other, in the results."""
    from herd.evals.results import Written, job_of
    from herd.evals.running import check, run

    for task in asks.tasks:
        check(model, task)
    found = []
    with console.progress(quiet=asks.quiet, units={task.name: "items" for task in asks.tasks}) as progress:
        for task in asks.tasks:
            written = Written(folder / task.name, job_of(task, identity, asks.seed))
            try:
                done = set(written.results.found)
                if done:
                    console.note(f"{task.name}: goes on after {len(done)} items that are kept", quiet=asks.quiet)
                run(model, task, written.add, limit=asks.limit, seed=asks.seed, done=done, progress=progress)
            except (Interrupted, KeyboardInterrupt):
                kept = f"; {len(written.results.found)} items of {task.name} are kept, the same command goes on"
                raise Interrupted(f"interrupted{kept if asks.keeps else ''}") from None
            finally:
                written.close()
            found.append(written.results)
    return found


def tell_compared(rows: "Sequence[Compared]") -> None:
    """Show a comparison: a row for each task."""
    console.table(("task", "items", "metric", "A", "B", "B over A, 95%", "chance", "B is"), [_row(row) for row in rows])


def _row(row: "Compared") -> tuple[str, ...]:
    within = row.difference.interval
    return (
        row.task,
        str(row.difference.items),
        row.metric,
        f"{row.first:.4f}",
        f"{row.second:.4f}",
        f"{within.mean:+.4f} ({within.low:+.4f} to {within.high:+.4f})",
        f"{row.chance:.3g}",
        row.told,
    )
