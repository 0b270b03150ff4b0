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
from herd.safety.cues import REACH, Cue, first_match
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
    cue     what every match holds, so that it is tried near that alone; None: it is tried everywhere
    check   which characters of a match count; None: it was none, and the search goes on one character later
    group   the part of the match that is found and checked. None: the last group that took part; a match without one
            is what the rule must not find, and is passed over whole
    """

    regex: str
    view: Name = "plain"
    cue: Cue | None = None
    check: Check | None = None
    group: int | None = 0
    flags: int = 0

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The regex, compiled when first needed."""
        return re.compile(self.regex, self.flags)

    @property
    def reach(self) -> int:
        """Characters that a match and what it looks ahead to have at most."""
        return REACH if self.cue is None else max(REACH, self.cue.after + 1024)

    def spans(self, views: Views) -> Iterator[Span]:
        """Matches whose check holds."""
        view = views[self.view]
        at = 0
        for start, end in [(0, len(view.text))] if self.cue is None else view.windows(self.cue):
            at = max(at, start)
            while (match := first_match(self.compiled, view.text, at, end, self.reach)) is not None:
                found, at = self._found(match)
                if found is not None:
                    yield view.span(*found)

    def _found(self, match: re.Match[str]) -> tuple[Span | None, int]:
        """What of a match is found, and where the search goes on."""
        group = match.lastindex if self.group is None else self.group
        if group is None:
            return None, max(match.end(), match.start() + 1)
        start, end = match.span(group)
        part = (0, end - start) if self.check is None else self.check(match.string[start:end])
        if part is None:
            return None, match.start() + 1
        return (start + part[0], start + part[1]), max(start + part[1], match.start() + 1)


@dataclass(frozen=True)
class Either:
    """What any of several patterns finds, each place once."""

    patterns: tuple[Pattern, ...]

    def spans(self, views: Views) -> Iterator[Span]:
        """Finds that overlap are one."""
        last: Span | None = None
        for start, end in sorted(span for pattern in self.patterns for span in pattern.spans(views)):
            if last is not None and start < last[1]:
                last = last[0], max(end, last[1])
                continue
            if last is not None:
                yield last
            last = start, end
        if last is not None:
            yield last


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

    @cached_property
    def _cue(self) -> tuple[Cue, Name] | None:
        """Words without which it finds nothing."""
        finder = self.finder
        return (finder.cue, finder.view) if isinstance(finder, Pattern) and finder.cue and finder.cue.words else None

    def worth(self, views: Views) -> bool:
        """Whether it can find anything: a quick look, as most texts hold no key of most issuers."""
        return self._cue is None or views[self._cue[1]].holds(self._cue[0])

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """Its regular expressions; none: it has phrases."""
        if isinstance(self.finder, Either):
            return self.finder.patterns
        return (self.finder,) if isinstance(self.finder, Pattern) else ()


@dataclass(frozen=True)
class RuleMatch:
    """A rule's find: characters start to end of the raw text. It does not hold the text, so it can be logged."""

    rule: Rule
    start: int
    end: int
    where: Where = "input"


def scan(text: str, rules: tuple[Rule, ...], where: Where = "input") -> list[RuleMatch]:
    """All finds in a text, by place; those of kinds that mean nothing `where` they stand are left out."""
    views = Views(text)
    found = [
        RuleMatch(rule, start, end, where)
        for rule in rules
        if where in WHERE[rule.kind] and rule.worth(views)
        for start, end in rule.finder.spans(views)
    ]
    return sorted(found, key=lambda f: (f.start, -f.end))
