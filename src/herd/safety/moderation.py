"""Scores of a text in the categories of OpenAI's moderation endpoint.

With a guard, its categories S1 to S14 are mapped; S6, S7, S8 and S13 have no counterpart there and are told in
`guard_categories` alone. Without one there are only the rules' finds: they know shapes, not content, so no category is
set and `judged` is False.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from herd.safety.guard import Guard, GuardTurn
from herd.safety.rules import RuleMatch, scan
from herd.safety.table import RULES

OPENAI: tuple[str, ...] = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

MAPPED: Mapping[str, tuple[str, ...]] = {
    "S1": ("violence", "illicit/violent", "illicit"),
    "S2": ("illicit",),
    "S3": ("sexual", "illicit"),
    "S4": ("sexual/minors", "sexual"),
    "S5": ("harassment",),
    "S6": (),
    "S7": (),
    "S8": (),
    "S9": ("illicit/violent", "illicit"),
    "S10": ("hate",),
    "S11": ("self-harm",),
    "S12": ("sexual",),
    "S13": (),
    "S14": ("illicit",),
}


@dataclass(frozen=True)
class Moderation:
    """flagged: the guard says unsafe, or could not answer. guard_categories: score of each one that was judged.
    judged: a guard has answered; False: nothing was said about the content."""

    flagged: bool
    categories: Mapping[str, bool]
    scores: Mapping[str, float]
    guard_categories: Mapping[str, float]
    findings: tuple[RuleMatch, ...]
    judged: bool


def moderate(text: str, guard: Guard | None = None, *, each: bool = False, shown: str | None = None) -> Moderation:
    """Judge a text as a user's message. each: ask for every category by itself, so that each gets its own score; that
    takes as many passes. Else the categories named share the one score, and the others have 0. shown: what the guard
    sees instead of the text that the rules read."""
    found = tuple(scan(text, RULES, "input"))
    if guard is None:
        return _moderation({}, {}, found, flagged=False, judged=False)
    keys = [(key,) for key in guard.categories] if each else [guard.categories]
    verdicts = [guard.judge([GuardTurn("user", text if shown is None else shown)], asked) for asked in keys]
    failed = any(verdict.failed is not None for verdict in verdicts)
    scores: dict[str, float] = {}
    unsafe: dict[str, bool] = {}
    for asked, verdict in zip(keys, verdicts, strict=True):
        for key in asked:
            hit = not verdict.safe and key in (verdict.categories or (asked if each else ()))
            unsafe[key] = hit
            named = hit or each
            scores[key] = (float(hit) if verdict.score is None else verdict.score) if named else 0.0
    flagged = any(not verdict.safe for verdict in verdicts)
    return _moderation(scores, unsafe, found, flagged=flagged, judged=not failed)


def _moderation(
    scores: Mapping[str, float],
    unsafe: Mapping[str, bool],
    found: tuple[RuleMatch, ...],
    *,
    flagged: bool,
    judged: bool,
) -> Moderation:
    from_guard = {name: [key for key in scores if name in MAPPED[key]] for name in OPENAI}
    return Moderation(
        flagged=flagged,
        categories={name: any(unsafe[key] for key in keys) for name, keys in from_guard.items()},
        scores={name: max((scores[key] for key in keys), default=0.0) for name, keys in from_guard.items()},
        guard_categories=dict(scores),
        findings=found,
        judged=judged,
    )
