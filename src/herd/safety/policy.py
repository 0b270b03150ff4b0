"""The layers as one `policies.Editor`: rules first, then a guard model. One object a request; it holds what that saw.

    observe   looks when everything is said; changes no byte, delays no token
    redact    what a rule finds leaves as its mark; 64 tokens wait, so that a find is seen before its first character
              leaves. A guard's finding cannot be cut out of a text: it blocks
    block     a find ends the reply, or keeps the request from the model

A mark would break what is not prose: names, arguments of a call that a tool is about to get, an answer that follows a
schema or a grammar. There redact is block. Several samples of one prompt may share a policy: `edit` decides by its
arguments alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Literal, TypeAlias

from herd.errors import UsageError, fail
from herd.events import Note, Reply
from herd.messages import Message, plain_text
from herd.policies import Cut, Edit, Prompt
from herd.safety.audit import Audit
from herd.safety.guard import Guard, GuardTurn
from herd.safety.places import TextPlace, places, rewritten
from herd.safety.reading import AdjacentText, Found, read
from herd.safety.rules import KINDS, SEVERITIES, Kind, Rule, Severity, Where
from herd.safety.table import chosen
from herd.safety.views import fold
from herd.text.said import Passage, Said
from herd.text.tools import dumps

Mode: TypeAlias = Literal["observe", "redact", "block"]
MODES: tuple[Mode, ...] = ("observe", "redact", "block")

HOLD_TOKENS = 64
"""Tokens that wait under redact and block."""

HOLD_CHARS = 96
"""Characters that wait at least, as rules read them: tokens of rare characters are pieces of one."""

BEFORE = 512
"""Characters before the window that a scan of it sees, for what a rule wants to its left, phrases begun there."""

RUN = 512
"""Most characters of a run without spaces at the end that wait for the rest of it: a long key shows late what it is."""

FAR = 4096
"""Characters from the end at which what waits is settled, however many of them no rule reads."""

GUARD_EVERY = 1024
"""Characters of output between two looks of the guard; they wait for it."""

MOST_NOTES = 100
"""Notes of a request, and of a reply; what is redacted or blocked beyond them still is."""


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
_RUN = "".join(chr(c) for c in range(160) if c not in b"\t\n\r \x85")
"""What stands in a run without spaces; control characters, which are left out, too."""


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
        self._turns: list[GuardTurn] = []
        self._seen: list[Note] = []  # of the input
        self._cleaned = False

    @property
    def slow(self) -> bool:
        """Whether a look takes as long as a model does; then it is made on a thread."""
        return self._guard is not None

    @property
    def only_looks(self) -> bool:
        """Whether the output is only looked at, once it is whole."""
        return self.mode == "observe"

    def without_guard(self) -> "Layers":
        """The rules alone, for another text of the same request."""
        return Layers(self.settings, audit=self._audit, request_id=self._request_id)

    # -- the input ---------------------------------------------------------------------------------------------------

    def cleaned(self, prompt: Prompt) -> Prompt:
        """What the model may see: under redact with marks, else as it is. Raises UsageError for arguments or
        definitions that nest too deep."""
        self._cleaned = True
        return self._look(prompt, may_mark=True)

    def before(self, messages: Sequence[Message]) -> str | None:
        """What was decided about a prompt that was `cleaned`; else looks at these turns now, and as nobody puts marks
        into them, redact is block."""
        if not self._cleaned:
            self._look(Prompt(messages), may_mark=False)
        self._cleaned = False
        blocked = next((note for note in self._seen if note.decision == "block"), None)
        if blocked is None and (blocked := self._judge_input()) is not None:
            self._seen.append(blocked)
        self._record("input", self._seen)
        return None if blocked is None or blocked.decision != "block" else refusal(blocked)

    def _judge_input(self) -> Note | None:
        """What a guard says of the last turn; where that is the assistant's, of the one before it, too: it is what is
        asked."""
        asked = self._turns[:-1] if self._turns and self._turns[-1].role == "assistant" else []
        return self._judge(asked, "input") or self._judge(self._turns, "input")

    def _look(self, prompt: Prompt, *, may_mark: bool) -> Prompt:
        """Find, decide and do it; notes are made of what is done."""
        texts = places(prompt)
        found = found_in(texts, self.settings.rules)
        decision = self.settings.mode
        if decision == "redact" and not (may_mark and all(texts[s.nth].markable for f in found for s in f.spans)):
            decision = "block"
        if found and decision == "redact":
            clean = iter(marked(texts, found))
            prompt = rewritten(prompt, lambda place: next(clean))
        self._seen = [_input_note(f, texts[f.first.nth], decision) for f in found[:MOST_NOTES]]
        self._turns = [GuardTurn(m.role, _said(m)) for m in prompt.messages]
        return prompt

    # -- the output --------------------------------------------------------------------------------------------------

    def window(self, text: str, shown: int) -> str | None:
        """Refuse what under redact and block may not leave, for a caller that knows no `edit`."""
        said = Said()
        said.add(text)
        edit = self.edit(said, shown, len(text))
        if edit.cuts:
            return refusal(replace(edit.notes[0], decision="block"))
        return edit.instead

    def edit(self, said: Said, shown: int, ready: int) -> Edit:
        """See `policies.Editor`."""
        if self.mode == "observe":
            return Edit(ready)
        last = ready == said.length
        if self._guard is not None and not last and ready - shown < GUARD_EVERY:
            return Edit(shown)
        near = said.since(max(0, shown - BEFORE))
        found = [f for f in _finds(near, self.settings.rules) if f.end > shown]
        stopping = found if self.mode == "block" else [f for f in found if not f.markable]
        if stopping:
            return _stop(shown, stopping[0].note("block"))
        limit = ready if last else _settled(near, shown, ready, found)
        if limit > shown and (note := self._judge_output(said)) is not None:
            return _stop(shown, note)
        leaving = [f for f in found if f.start < limit]
        notes = tuple(f.note("redact") for f in leaving[:MOST_NOTES])
        return Edit(limit, tuple(_cuts(leaving, shown, limit, said.begun)), notes)

    def _judge_output(self, said: Said) -> Note | None:
        if self._guard is None:
            return None
        before = self._turns[:-1] if said.begun else self._turns  # what is begun is in the answer
        return self._judge([*before, GuardTurn("assistant", _aloud(said.all()))], "output")

    def after(self, reply: Reply) -> str | None:
        """Nothing more: `edit` has seen the whole."""
        return None

    def notes(self, reply: Reply, said: Said) -> tuple[Note, ...]:
        """Notes of the input and of the output; under observe the output is looked at now. Written to the audit log."""
        output = list(reply.notes[:MOST_NOTES])
        if self.mode == "observe" and said.length:
            finds = (f for f in _finds(said.all(), self.settings.rules) if f.end > said.begun)
            output += [f.note("observe") for f in islice(finds, MOST_NOTES)]
            if (note := self._judge_output(said)) is not None:
                output.append(note)
        self._record("output", output, reply.text)
        return (*self._seen, *output)

    # -- both --------------------------------------------------------------------------------------------------------

    def _judge(self, turns: Sequence[GuardTurn], where: Literal["input", "output"]) -> Note | None:
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


def _stop(shown: int, note: Note) -> Edit:
    return Edit(shown, (), (note,), instead=refusal(note))


def refusal(note: Note) -> str:
    """What is said instead."""
    what = "request" if note.where != "output" else "reply"
    return f"This {what} was stopped by a safety policy ({note.layer}: {note.rule})."


# -- the input -------------------------------------------------------------------------------------------------------


def found_in(texts: Sequence[TextPlace], rules: tuple[Rule, ...]) -> list[Found]:
    """What rules find in the places of a request, in order. Definitions of tools are the application's: they are read
    for themselves, without what stands in two of their texts."""
    first = next((i for i, text in enumerate(texts) if text.message is not None), len(texts))
    found = read(texts[:first], rules, over_borders=False)
    return found + [f.moved(first) for f in read(texts[first:], rules)]


def marked(texts: Sequence[AdjacentText], found: Sequence[Found]) -> list[str]:
    """The texts with marks for finds, which are in order; of those that overlap, the first one's mark."""
    out: list[list[str]] = [[] for _ in texts]
    at = [0] * len(texts)
    for one in found:
        for nth, (i, start, end) in enumerate(one.spans):
            if start >= at[i]:
                out[i] += [texts[i].text[at[i] : start], "" if nth else one.rule.mark]
            at[i] = max(at[i], end)
    return ["".join(parts) + text.text[done:] for parts, text, done in zip(out, texts, at, strict=True)]


def _input_note(found: Found, place: TextPlace, decision: Mode) -> Note:
    rule, (_, start, end) = found.rule, found.first
    where: Where = "tool" if place.where == "tool" else "input"
    at = (place.at + start, place.at + end) if place.kind == "text" and place.message is not None else (0, 0)
    return Note("rules", rule.id, rule.kind, decision, where, place.message, *at, place=place.place)


def _said(message: Message) -> str:
    """What a turn says, for a guard."""
    calls = [f"{call.name} {dumps(dict(call.arguments), ascii_only=False)}" for call in message.tool_calls]
    context = [] if message.context is None else [plain_text(message.context)]
    return "\n\n".join([message.text, *context, *calls])


# -- the output ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Find:
    """A find in the output: characters start to end of it. passage: in which it begins. markable: all of it is text."""

    rule: Rule
    start: int
    end: int
    passage: Passage
    markable: bool

    def note(self, decision: Mode) -> Note:
        """What is told of it."""
        rule, passage = self.rule, self.passage
        if passage.kind == "text":
            at = passage.own - passage.start  # notes leave calls out
            start, end = max(0, self.start + at), min(self.end, passage.end) + at
            return Note("rules", rule.id, rule.kind, decision, "output", None, start, end)
        place = "stop" if passage.kind == "stop" else f"calls[{passage.call}]"
        return Note("rules", rule.id, rule.kind, decision, "output", place=place)


def _finds(near: Sequence[Passage], rules: tuple[Rule, ...]) -> Iterator[_Find]:
    """Finds in passages, by place."""
    texts = [AdjacentText(p.text, p.kind, where="output") for p in near]
    for found in read(texts, rules):
        first, last = found.first, found.spans[-1]
        markable = all(near[span.nth].kind in ("text", "stop") for span in found.spans)
        passage = near[first.nth]
        start, end = passage.start + first.start, near[last.nth].start + last.end
        yield _Find(found.rule, start, end, passage, markable)


def _aloud(passages: Sequence[Passage]) -> str:
    """An answer for a guard: what stands in calls on lines of its own."""
    return "".join(p.text if p.kind in ("text", "stop") else f"\n{p.text}\n" for p in passages)


def _cuts(leaving: Sequence[_Find], shown: int, limit: int, begun: int) -> Iterator[Cut]:
    """What is left out up to `limit`, apart; of finds that overlap, the first one's mark. begun: characters that are no
    output; the mark of a find that begins in them stands behind them."""
    at = shown
    for find in leaving:
        start, end = max(find.start, at), min(find.end, limit)
        if start < end:
            yield Cut(start, end, find.rule.mark if find.start >= at or start == begun else "")
        at = max(at, end)


def _settled(near: Sequence[Passage], shown: int, ready: int, found: Sequence[_Find]) -> int:
    """How much of what is ready can leave: no find that goes beyond it is cut, and what may still become one stays."""
    tail = "".join(p.text for p in near)[-FAR:]
    end = near[-1].end if near else shown
    limit = min(ready, end - len(tail) + _open_from(tail))
    for find in reversed(found):
        if find.start < limit < find.end:
            limit = find.start
    return max(limit, shown)


def _open_from(tail: str) -> int:
    """The character of an output's end from which on something may still become a find: its last HOLD_CHARS, and up to
    RUN of a run without spaces, both counted as rules read them."""
    if tail.isascii():
        last = tail[-RUN:]
        return len(tail) - max(HOLD_CHARS, len(last) - len(last.rstrip(_RUN)))
    count, in_run = 0, True
    for i in range(len(tail), 0, -1):
        plain = fold(tail[i - 1], "plain")
        in_run = in_run and not plain.strip(_RUN)
        if count >= HOLD_CHARS and not (in_run and count < RUN):
            return i
        count += len(plain)
    return 0
