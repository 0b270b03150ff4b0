"""What a rule is, and where in a text it finds what it looks for.

A rule is data: what it finds in which view, and texts that it must and must not find, which its test runs. Rules know
shapes, not meaning; `docs/safety.md` says what they are not.

Cost: every repetition in a pattern is bounded and possessive, so an attempt at one place takes at most the pattern's
widest match in steps, and a text takes steps in proportion to its length, whatever it holds (`tests/safety` checks the
form of every pattern, and the count of checks).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

from herd.safety.checksums import Check, Span
from herd.safety.views import Name, Views, fold

Kind: TypeAlias = Literal["hidden", "personal", "secret", "injection"]
Severity: TypeAlias = Literal["low", "medium", "high"]
Where: TypeAlias = Literal["input", "output", "tool"]

KINDS: tuple[Kind, ...] = ("hidden", "personal", "secret", "injection")
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high")
WHERE: dict[Kind, tuple[Where, ...]] = {
    "hidden": ("input", "output", "tool"),
    "personal": ("input", "output", "tool"),
    "secret": ("input", "output", "tool"),
    "injection": ("input", "tool"),  # a model that quotes such a phrase injects nothing
}
"""Where findings of a kind mean something."""


class Finder(Protocol):
    """Looks for one thing."""

    def spans(self, views: Views) -> Iterator[Span]:
        """Where it stands in the raw text, in order."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression over a view.

    regex   repetitions bounded and possessive
    needs   texts of which one must occur, else the regex is not tried; empty: always
    check   which characters of a match count; None: it was none, and the search goes on one character later
    group   the part of the match that is found and checked
    """

    regex: str
    view: Name = "plain"
    needs: tuple[str, ...] = ()
    check: Check | None = None
    group: int = 0
    flags: int = 0

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The regex, compiled when first needed."""
        return re.compile(self.regex, self.flags)

    def spans(self, views: Views) -> Iterator[Span]:
        """Matches whose check holds."""
        view = views[self.view]
        if self.needs and not any(need in view.text for need in self.needs):
            return
        at = 0
        while (match := self.compiled.search(view.text, at)) is not None:
            start, end = match.span(self.group)
            part = (0, end - start) if self.check is None else self.check(view.text[start:end])
            if part is None:
                at = match.start() + 1
                continue
            yield view.span(start + part[0], start + part[1])
            at = max(start + part[1], match.start() + 1)


@dataclass(frozen=True)
class Phrases:
    """Phrases in the folded view: spelling, spacing, accents and common look-alikes do not matter."""

    phrases: tuple[str, ...]

    @cached_property
    def folded(self) -> tuple[str, ...]:
        """The phrases as the view has them."""
        return tuple(fold(phrase, "folded") for phrase in self.phrases)

    def spans(self, views: Views) -> Iterator[Span]:
        """Every occurrence of every phrase."""
        view = views["folded"]
        for phrase in self.folded:
            at = view.text.find(phrase)
            while at >= 0:
                yield view.span(at, at + len(phrase))
                at = view.text.find(phrase, at + len(phrase))


@dataclass(frozen=True)
class Rule:
    """One thing to find.

    mark      what a redacted span becomes; empty: it is left out
    positive  texts in which it is found; negative: near ones in which it is not
    """

    id: str
    kind: Kind
    severity: Severity
    finds: str
    finder: Finder = field(repr=False)
    mark: str
    positive: tuple[str, ...] = field(repr=False)
    negative: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Finding:
    """A rule's find: characters start to end of the raw text. It does not hold the text, so it can be logged."""

    rule: Rule
    start: int
    end: int
    where: Where = "input"


def scan(text: str, rules: tuple[Rule, ...], where: Where = "input") -> list[Finding]:
    """All finds in a text, by place; those of kinds that mean nothing `where` they stand are left out."""
    views = Views(text)
    found = [
        Finding(rule, start, end, where)
        for rule in rules
        if where in WHERE[rule.kind]
        for start, end in rule.finder.spans(views)
    ]
    return sorted(found, key=lambda f: (f.start, -f.end))
