"""Two runs of the same tasks, compared item by item: whether to change from the first model to the second.

What it is not: statistics (`herd.evals.statistics`), or a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from herd.errors import UsageError, fail
from herd.evals.results import Results
from herd.evals.statistics import Difference, Verdict, differ, holm

UNPAIRED = 0.02
"""The most of a task's items that may have failed in one run alone, as a part: with more of them nobody can tell."""


@dataclass(frozen=True)
class Compared:
    """One task in two runs."""

    task: str
    metric: str
    first: float
    """Mean of the first run, over the items that both have."""
    second: float
    difference: Difference
    verdict: Verdict
    chance: float
    """How likely a difference as large is where there is none, over all tasks (Holm)."""
    needed: int | None
    """About how many items would tell, where these do not; None: these do, or no number of them would."""
    unpaired: int
    """Items that one run alone answered; they are in neither mean."""

    @property
    def told(self) -> str:
        """The verdict, and what a reader has to know beside it."""
        found: str = self.verdict
        if self.needed is not None:
            found += f"; about {self.needed} items would"
        if self.unpaired:
            found += f"; {self.unpaired} items failed or are missing in one run"
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        found = self.difference
        return {
            "task": self.task,
            "metric": self.metric,
            "items": found.items,
            "unpaired": self.unpaired,
            "first": self.first,
            "second": self.second,
            "difference": found.interval.mean,
            "low": found.interval.low,
            "high": found.interval.high,
            "chance": self.chance,
            "verdict": self.verdict,
            "items_needed": self.needed,
        }


def compare(first: Mapping[str, Results], second: Mapping[str, Results], *, allow: float = 0.0) -> list[Compared]:
    """Compare two runs, by task. allow: what a mean may lose. Raises UsageError where they have no task in common, or
    where one of a name is not the same task."""
    names = [name for name in first if name in second]
    if not names:
        fail(UsageError, "the second run", got=", ".join(second), expected="a task of " + ", ".join(first))
    paired = {name: _paired(name, first[name], second[name]) for name in names}
    chances = holm([difference.chance for _, _, difference, _ in paired.values()])
    return [_told(name, first[name], *paired[name], chance, allow) for name, chance in zip(names, chances, strict=True)]


def _paired(name: str, a: Results, b: Results) -> tuple[float, float, Difference, int]:
    if a.job["task"] != b.job["task"]:
        fail(UsageError, f"task {name}", got="another task of this name", expected="the same one in both runs")
    one, other = a.values, b.values
    both = sorted(one.keys() & other.keys())
    if not both:
        fail(UsageError, f"task {name}", got="no item that both runs answered", expected="the same items")
    values_a, values_b = [one[i] for i in both], [other[i] for i in both]
    difference = differ(values_a, values_b, higher=a.job["higher"] == "yes")
    return sum(values_a) / len(both), sum(values_b) / len(both), difference, len(one.keys() ^ other.keys())


def _told(
    name: str,
    a: Results,
    first: float,
    second: float,
    difference: Difference,
    unpaired: int,
    chance: float,
    allow: float,
) -> Compared:
    verdict = difference.verdict(allow, chance)
    if unpaired > UNPAIRED * (difference.items + unpaired):
        verdict = "cannot tell"
    needed = difference.needed(allow) if verdict == "cannot tell" else None
    return Compared(name, a.job["metric"], first, second, difference, verdict, chance, needed, unpaired)
