"""The layers as one `replies.Editor`: rules first, then a guard model. One object a request; it holds what that saw.

    observe   looks when everything is said; changes no byte, delays no token
    redact    what a rule finds leaves as its mark; 64 tokens wait, so that a find is seen before its first character
              leaves. A guard's finding cannot be cut out of a text: it blocks
    block     a find ends the reply, or keeps the request from the model

In structured output (a schema, a grammar, tool calls) a mark would break the structure or change what a tool is told,
so redact is block there. Several samples of one prompt may share a policy: `edit` decides by its arguments alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, TypeAlias

from herd.errors import UsageError, fail
from herd.replies import Edit, Note, Reply
from herd.safety.audit import Audit
from herd.safety.guard import Guard, Turn
from herd.safety.rules import KINDS, SEVERITIES, Finding, Kind, Rule, Severity, Where, scan
from herd.safety.table import chosen
from herd.text.messages import Content, Message, TextPart, plain_text

Mode: TypeAlias = Literal["observe", "redact", "block"]
MODES: tuple[Mode, ...] = ("observe", "redact", "block")

HOLD_TOKENS = 64
"""Tokens that wait under redact and block."""

BEFORE = 512
"""Characters before the window that a scan of it sees, for what a rule wants to its left, phrases begun there."""

RUN = 512
"""Most characters of a run without spaces at the end that wait for the rest of it: a long key shows late what it is."""

GUARD_EVERY = 1024
"""Characters of output between two looks of the guard; they wait for it."""

MOST_NOTES = 100
"""Notes of one text; what is redacted or blocked beyond them still is."""

_PRINTABLE = "".join(map(chr, range(33, 127)))


@dataclass(frozen=True)
class Settings:
    """What an operator chooses, for a key or for all. kinds, least: which rules act."""

    mode: Mode = "observe"
    kinds: tuple[Kind, ...] = KINDS
    least: Severity = "low"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            fail(UsageError, "policy", got=self.mode, expected="one of " + ", ".join(MODES))
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            fail(UsageError, "policy: kinds", got=unknown[0], expected="among " + ", ".join(KINDS))
        if self.least not in SEVERITIES:
            fail(UsageError, "policy: least", got=self.least, expected="one of " + ", ".join(SEVERITIES))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that act."""
        return _chosen(self.kinds, self.least)


_chosen = cache(chosen)


class Layers:
    """Rules, then a guard. See the module."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        guard: Guard | None = None,
        audit: Audit | None = None,
        request_id: str = "",
        structured: bool = False,
    ) -> None:
        """guard: None: rules alone. structured: the reply follows a schema or a grammar, or may call tools."""
        self.settings = settings or Settings()
        self.mode: Mode = "block" if structured and self.settings.mode == "redact" else self.settings.mode
        """What is done to the output."""
        self.hold_tokens = 0 if self.mode == "observe" else HOLD_TOKENS
        self._guard, self._audit, self._request_id = guard, audit, request_id
        self._turns: list[Turn] = []
        self._seen: list[Note] = []  # of the input

    @property
    def slow(self) -> bool:
        """Whether a look takes as long as a model does; then it is made on a thread."""
        return self._guard is not None

    # -- the input ---------------------------------------------------------------------------------------------------

    def cleaned(self, messages: Sequence[Message]) -> list[Message]:
        """The dialog that the model may see: under redact with marks, else as it is. For a caller to send instead."""
        if self.settings.mode != "redact":
            return list(messages)
        return [self._cleaned(message) for message in messages]

    def _cleaned(self, message: Message) -> Message:
        where = _where(message)
        if where is None:
            return message

        def clean(content: Content) -> Content:
            if isinstance(content, str):
                return redacted(content, scan(content, self.settings.rules, where))
            return tuple(TextPart(str(clean(p.text))) if isinstance(p, TextPart) else p for p in content)

        context = None if message.context is None else clean(message.context)
        return replace(message, content=clean(message.content), context=context)

    def before(self, messages: Sequence[Message]) -> str | None:
        """Looks at what came from outside: turns of the user and results of tools."""
        self._turns = [Turn(m.role, _said(m)) for m in messages]
        self._seen = []
        for i, message in enumerate(messages):
            if (where := _where(message)) is not None:
                found = scan(_said(message), self.settings.rules, where)
                self._seen += [replace(note, message=i) for note in self._notes(found, self.settings.mode)]
        if self._seen and self.settings.mode == "block":
            return self._refuse_input(self._seen[0])
        if (note := self._judge(self._turns, "input")) is not None:
            self._seen.append(note)
            if note.decision == "block":
                return self._refuse_input(note)
        self._record("input", self._seen)
        return None

    def _refuse_input(self, note: Note) -> str:
        self._record("input", self._seen)
        return refusal(note)

    # -- the output --------------------------------------------------------------------------------------------------

    def window(self, text: str, shown: int) -> str | None:
        """For a caller that knows no `edit`: refuse what under redact and block may not leave."""
        if self.mode == "observe":
            return None
        found = self._found(text, shown)
        note = self._notes(found[:1], "block")[0] if found else self._judge_output(text)
        return None if note is None else refusal(note)

    def edit(self, text: str, shown: int, ready: int) -> Edit:
        """See `replies.Editor`."""
        if self.mode == "observe":
            return Edit(ready - shown, text[shown:ready])
        last = ready == len(text)
        if self._guard is not None and not last and ready - shown < GUARD_EVERY:
            return Edit(0, "")
        found = self._found(text, shown)
        if found and self.mode == "block":
            return _stop(self._notes(found[:1], "block")[0])
        limit = ready if last else _settled(text, shown, ready, found)
        if limit > shown and (note := self._judge_output(text)) is not None:
            return _stop(note)
        leaving = [f for f in found if f.start < limit]
        moved = [replace(f, start=max(f.start, shown) - shown, end=min(f.end, limit) - shown) for f in leaving]
        notes = self._notes(leaving, "redact")
        return Edit(limit - shown, redacted(text[shown:limit], moved), tuple(notes))

    def _found(self, text: str, shown: int) -> list[Finding]:
        """Finds that are not wholly out, with offsets of the whole text."""
        start = max(0, shown - BEFORE)
        found = scan(text[start:], self.settings.rules, "output")
        return [replace(f, start=f.start + start, end=f.end + start) for f in found if f.end + start > shown]

    def _judge_output(self, text: str) -> Note | None:
        return self._judge([*self._turns, Turn("assistant", text)], "output")

    def after(self, reply: Reply) -> str | None:
        """Nothing more: `edit` has seen the whole."""
        return None

    def notes(self, reply: Reply) -> tuple[Note, ...]:
        """Of the input, of the output; under observe the output is looked at now. Written to the audit log."""
        output = list(reply.notes)
        if self.mode == "observe" and reply.text:
            output += self._notes(scan(reply.text, self.settings.rules, "output"), "observe")
            if (note := self._judge_output(reply.text)) is not None:
                output.append(note)
        self._record("output", output, reply.text)
        return (*self._seen, *output)

    # -- both --------------------------------------------------------------------------------------------------------

    def _notes(self, found: Sequence[Finding], decision: Mode) -> list[Note]:
        return [
            Note("rules", f.rule.id, f.rule.kind, decision, f.where, None, f.start, f.end) for f in found[:MOST_NOTES]
        ]

    def _judge(self, turns: Sequence[Turn], where: Literal["input", "output"]) -> Note | None:
        if self._guard is None or not turns:
            return None
        verdict = self._guard.judge(turns)
        if verdict.safe:
            return None
        decision: Mode = "observe" if self.mode == "observe" else "block"
        return Note("guard", ",".join(verdict.categories) or verdict.failed or "unsafe", "content", decision, where)

    def _record(self, where: Where, notes: Sequence[Note], text: str | None = None) -> None:
        if self._audit is not None and notes:
            said = text if text is not None else "\n".join(turn.text for turn in self._turns)
            self._audit.write(self._request_id, where, said, notes)


def _stop(note: Note) -> Edit:
    return Edit(0, refusal(note), (note,), stop=True)


def refusal(note: Note) -> str:
    """What is said instead."""
    what = "request" if note.where != "output" else "reply"
    return f"This {what} was stopped by a safety policy ({note.layer}: {note.rule})."


def redacted(text: str, found: Sequence[Finding]) -> str:
    """The text with marks for finds, which are in order; of those that overlap, the first one's mark."""
    out, at = [], 0
    for finding in found:
        if finding.start >= at:
            out += [text[at : finding.start], finding.rule.mark]
        at = max(at, finding.end)
    return "".join(out) + text[at:]


def _settled(text: str, shown: int, ready: int, found: Sequence[Finding]) -> int:
    """How much of text[shown:ready] can leave: no find that goes beyond it is cut, nor a run of characters without a
    space that reaches the end of the text and may still become one."""
    limit = ready
    run = len(text[-RUN:]) - len(text[-RUN:].rstrip(_PRINTABLE))
    if run < RUN:
        limit = min(limit, len(text) - run)
    for finding in reversed(found):
        if finding.start < limit < finding.end:
            limit = finding.start
    return max(limit, shown)


def _where(message: Message) -> Where | None:
    """Whether it came from outside; the system's text and the model's own did not."""
    return "tool" if message.role == "tool" else "input" if message.role == "user" else None


def _said(message: Message) -> str:
    return message.text if message.context is None else f"{message.text}\n\n{plain_text(message.context)}"
