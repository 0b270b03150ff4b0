"""Steps of the engine -> events for people, past the policy that a caller passed in.

What it is not: generation (`engine`), a policy (`safety`).
"""

import secrets
import string
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from herd.engine.generate import Engine, Job
from herd.engine.request import Finish, Step, TokenLogprob
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    FinishReason,
    Held,
    Likely,
    Logprob,
    Note,
    Reply,
    TextEvent,
)
from herd.messages import ToolCall
from herd.policies import Cut, Edit, Editor, Policy
from herd.text.calls import CallArguments, CallEnd, CallParser, CallStart, Piece, TextPiece
from herd.text.said import Passage, Said

AT_ONCE = 1024
"""Characters that a policy's rules read, in every reading, in a few milliseconds."""

_LETTERS = string.ascii_letters + string.digits


def events(engine: Engine, samples: "Sequence[Sample]", refusal: Callable[[], str | None]) -> Iterator[Event]:
    """Run submitted samples of one prompt. `refusal`: what the policy says before the first token. Closing the iterator
    ends them."""
    instead = refusal()
    if instead is not None:
        for sample in samples:
            yield from sample.refuse(instead)
        return
    waiting = {sample.job.number: sample for sample in samples}
    steps = engine.streams([sample.job for sample in samples])
    last: list[Event] = []
    try:
        for job, step in steps:
            if job.number not in waiting:
                continue  # a policy has ended it
            sample = waiting[job.number]
            found = sample.take(step)
            if sample.over:
                del waiting[job.number]
                engine.leave(job)
            if waiting:
                yield from found
            else:
                last = found  # told when its place is free
                break
    except KeyboardInterrupt:  # it came outside the engine's own guard
        last = [event for sample in waiting.values() for event in sample.interrupt()]
    finally:
        steps.close()
    yield from last


class Sample:
    """One answer: what has come of it, what of that is shown."""

    def __init__(
        self,
        job: Job,
        spell: Callable[[int], str],
        *,
        index: int = 0,
        load_s: float = 0.0,
        policy: Policy | None = None,
        calls: CallParser | None = None,
        one_call: bool = False,
        parse: Callable[[str], Any] | None = None,
    ) -> None:
        """spell: an id as text, for logprobs. calls: finds calls of tools in the text; None: there are none.
        one_call: the answer ends with its first call. parse: what a whole text means, for `Reply.parsed`."""
        self.job = job
        self.index = index
        self.over = False
        self._spell, self._policy, self._load_s = spell, policy, load_s
        self._gate = _Gate(policy)
        self._calls, self._one_call, self._parse = calls, one_call, parse
        self._called: list[ToolCall] = []
        self._id = ""
        self._begun: list[Event] = []  # what is told of the call that is being made
        self._shown: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []

    @property
    def slow(self) -> bool:
        """Whether its policy asks a model, which takes longer than an event loop may wait."""
        return self._policy is not None and getattr(self._policy, "slow", False)

    def is_long(self, step: Step) -> bool:
        """Whether a policy has so much to read at this step that an event loop may not wait for it."""
        return self._policy is not None and self._gate.unread(last=step.finish is not None) > AT_ONCE

    def take(self, step: Step) -> list[Event]:
        """What may be shown after one more step; with its last one a DoneEvent."""
        self.add(step)
        finish = step.finish
        found = self._release(last=finish is not None or self._has_called)
        if finish is None and (self._gate.refused or self._has_called):
            finish = self.job.reading.finish("stop")
        return [*found, self._done(finish)] if finish is not None else found

    def add(self, step: Step) -> None:
        """One more step, to the gate."""
        logprob = None if step.logprob is None else self._named(step.logprob)
        finish = step.finish
        holding = not step.text or self.job.reading.holding
        if self._calls is None:
            self._gate.add(step.text)
        else:
            pieces = self._calls.push(step.token_id, step.text)
            if finish is not None:
                pieces += self._calls.finish(cut=finish.reason != "stop" or finish.stop is not None)
            for piece in pieces:
                self._piece(piece)
            holding = holding or self._calls.holding
        if finish is not None and finish.stop is not None:
            self._gate.add_stop(finish.stop)
        self._gate.add_token(step.token_id, logprob, placed=finish is not None or not holding)

    @property
    def _has_called(self) -> bool:
        """Whether the one call that it may make is made."""
        return self._one_call and self._gate.said.num_calls > 0

    def _piece(self, piece: Piece) -> None:
        """Text and calls wait for the policy, in their order."""
        if self._gate.refused or self._has_called:
            return
        match piece:
            case TextPiece(text):
                self._gate.add(text)
            case CallStart(index, name):
                self._id = "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))
                self._begun = [CallStartEvent(index, self._id, name, self.index)]
            case CallArguments(index, fragment):
                self._begun.append(CallArgumentsEvent(index, fragment, self.index))
            case CallEnd(index, call):
                call = replace(call, id=self._id)
                self._gate.add_call(call, [*self._begun, CallEndEvent(index, call, self.index)])
                self._gate.add_token(None, None, placed=not self.job.reading.holding)  # those before this step's

    def refuse(self, text: str) -> list[Event]:
        """The policy said no before the first token."""
        self._gate.refused = True
        return [self._show(text, []), self._done(self.job.reading.finish("stop"))]

    def interrupt(self) -> list[Event]:
        """Somebody ended it: what was said stays said."""
        for piece in [] if self._calls is None else self._calls.finish(cut=True):
            self._piece(piece)
        self._gate.add_token(None, None, placed=not self.job.reading.holding)
        return [*self._release(last=True), self._done(self.job.reading.finish("interrupted"))]

    def _release(self, *, last: bool) -> list[Event]:
        """What may be shown now; the policy looks at it first."""
        found: list[Event] = []
        for one in self._gate.release(last=last):
            if isinstance(one, _Text):
                found.append(self._show(one.text, one.tokens))
            else:
                self._called.append(one.call)
                found += one.events
        return found

    def _done(self, finish: Finish) -> DoneEvent:
        self.over = True
        gate = self._gate
        self._keep(gate.rest())
        reason: FinishReason = "policy" if gate.refused else finish.reason
        if reason == "stop" and self._called:
            reason = "tool_calls"
        asked = self.job.request.options.logprobs is not None
        reply = Reply(
            text="".join(self._shown),
            finish_reason=reason,
            usage=finish.usage,
            timings=replace(finish.timings, load_s=self._load_s),
            seed=self.job.request.seed,
            logprobs=tuple(self._logprobs) if asked else None,
            ids=tuple(self._ids),
            stop=None if gate.refused or gate.stop_cut else finish.stop,
            tool_calls=tuple(self._called),
            notes=tuple(gate.notes),
            held=gate.held,
        )
        return DoneEvent(self._judged(reply), self.index)

    def _judged(self, reply: Reply) -> Reply:
        """The reply after the policy's last look, with what it means."""
        refused = self._gate.refused
        instead = self._policy.after(reply) if self._policy is not None and not refused else None
        if instead is not None:
            logprobs = None if reply.logprobs is None else ()
            reply = replace(
                reply, text=instead, finish_reason="policy", tool_calls=(), ids=(), logprobs=logprobs, stop=None
            )
        if isinstance(self._policy, Editor):
            reply = replace(reply, notes=self._policy.notes(reply, self._gate.said))
        if self._parse is not None and reply.finish_reason == "stop" and reply.stop is None and not self._gate.stop_cut:
            reply = replace(reply, parsed=self._parse(reply.text))
        return reply

    def _show(self, text: str, tokens: "Sequence[_Token]") -> TextEvent:
        self._shown.append(text)
        return TextEvent(text, self._keep(tokens), self.index)

    def _keep(self, tokens: "Sequence[_Token]") -> tuple[Logprob, ...] | None:
        """Tokens that may be known; their logprobs, if any were asked for."""
        self._ids += [token.token_id for token in tokens]
        new = [token.logprob for token in tokens if token.logprob is not None]
        self._logprobs += new
        return tuple(new) or None

    def _named(self, x: TokenLogprob) -> Logprob:
        top = tuple(Likely(i, self._spell(i), value) for i, value in x.top)
        return Logprob(x.token_id, self._spell(x.token_id), x.logprob, top)


class _Token(NamedTuple):
    """One that has come, and the characters of the output that came with it or with its next ones."""

    token_id: int
    logprob: Logprob | None
    start: int
    end: int


class _Text(NamedTuple):
    """Text that may be shown, and the tokens that may be known with it."""

    text: str
    tokens: "Sequence[_Token]"


class _Call(NamedTuple):
    """A call, the events that tell of it, and where it ends in the output."""

    call: ToolCall
    events: Sequence[Event]
    end: int


class _Gate:
    """Output on its way to people: what waits, and what of it the policy lets through."""

    def __init__(self, policy: Policy | None) -> None:
        self._policy = policy
        self._editor = policy if isinstance(policy, Editor) else None
        self._hold = 0 if policy is None else policy.hold_tokens
        self._free = policy is None or getattr(policy, "only_looks", False)
        self._every = max(1, self._hold // 8) if self._editor is not None else 1  # tokens from look to look
        self.refused = False
        self.stop_cut = False
        """Whether the stop string that ended it may not be told."""
        self.notes: list[Note] = []
        self.held = Held() if self._hold > 1 else None
        self.said = Said()
        self._fresh: list[str] = []  # text that has come since the last look
        self._settled = 0  # characters of it that are decided
        self._cuts: tuple[Cut, ...] = ()  # of the last look
        self._calls: deque[_Call] = deque()
        self._waiting: deque[_Token] = deque()
        self._unplaced: list[tuple[int, Logprob | None]] = []  # tokens whose text is still to come
        self._placed = 0  # characters whose tokens are known
        self._next = self._hold + self._every - 1 if self._editor is not None else self._hold
        self._longer = 0  # characters from which another look is worth it
        self._since: float | None = None  # when the first token came, until text has left

    def add(self, text: str) -> None:
        """More text."""
        if text:
            self.said.add(text)
            self._fresh.append(text)

    def add_call(self, call: ToolCall, events: Sequence[Event]) -> None:
        """A whole call, and what is told of it."""
        self.said.add_call(call)
        self._calls.append(_Call(call, events, self.said.length))

    def add_stop(self, stop: str) -> None:
        """A stop string has come."""
        self.said.add_stop(stop)

    def add_token(self, token_id: int | None, logprob: Logprob | None, *, placed: bool) -> None:
        """One more. placed: the text of all tokens so far has come; else it is held back somewhere."""
        if token_id is not None:
            self._unplaced.append((token_id, logprob))
        if placed and self._unplaced:
            start, self._placed = self._placed, self.said.length
            self._waiting += [_Token(*token, start, self._placed) for token in self._unplaced]
            self._unplaced.clear()
        if self.held is not None:
            if not self._settled and self._since is None:
                self._since = time.perf_counter()
            if self._num_waiting > self.held.tokens:
                self.held = replace(self.held, tokens=self._num_waiting)

    def release(self, *, last: bool) -> list[_Text | _Call]:
        """What may be shown now, in order."""
        if self.refused or self._settled == self.said.length:
            return []
        fresh = "".join(self._fresh)
        self._fresh.clear()
        if self._free and self._settled + len(fresh) == self.said.length:  # nothing but text, and nobody to ask
            self._settled = self.said.length
            return [_Text(fresh, self.rest())]
        if not last and self._policy is not None and not self._is_due(self._num_waiting):
            return []
        edit = self._look(last=last)
        found = self._through(edit)
        self._next = self._num_waiting + self._every if self._editor is not None else self._hold
        # what waits is looked at again: only once it has grown by a part of itself, so that all looks together cost
        # steps in proportion to the text
        self._longer = self.said.length + (self.said.length - self._settled) // 16
        return found

    def rest(self) -> list[_Token]:
        """Tokens all of whose text is settled and left as it was; they wait no more. None of a refused answer."""
        found, i = [], 0
        while self._waiting and self._waiting[0].end <= self._settled:
            token = self._waiting.popleft()
            while i < len(self._cuts) and self._cuts[i].end <= token.start:
                i += 1
            if i == len(self._cuts) or self._cuts[i].start >= max(token.end, token.start + 1):
                found.append(token)
        return [] if self.refused else found

    def unread(self, *, last: bool) -> int:
        """Characters that a policy has to read at the next step."""
        if self._free:
            return self.said.length if last else 0
        return self.said.length - self._settled if last or self._is_due(self._num_waiting + 1) else 0

    def _is_due(self, num_waiting: int) -> bool:
        """Whether so many tokens, and the characters that have come, are worth a look."""
        return num_waiting >= self._next and self.said.length >= self._longer

    @property
    def _num_waiting(self) -> int:
        return len(self._waiting) + len(self._unplaced)

    def _through(self, edit: Edit) -> list[_Text | _Call]:
        """What a look lets through: text between cuts, calls as they are."""
        self.notes += edit.notes
        self.refused = edit.instead is not None
        self._cuts = edit.cuts
        found: list[_Text | _Call] = []
        text: list[str] = []
        start, self._settled = self._settled, max(self._settled, edit.until)
        for passage in self.said.since(start) if self._settled > start else ():
            if passage.start >= self._settled:
                break
            if passage.kind == "text":
                text += _kept(passage, min(passage.end, self._settled), edit.cuts)
            elif passage.kind == "stop":
                self.stop_cut = any(cut.start < passage.end and passage.start < cut.end for cut in edit.cuts)
            elif self._calls and self._calls[0].end <= min(passage.end, self._settled):
                found += [*self._texts(text), self._calls.popleft()]
                text = []
        return [*found, *self._texts([*text, edit.instead or ""])]

    def _texts(self, text: Sequence[str]) -> list[_Text | _Call]:
        joined = "".join(text)
        return [_Text(joined, self.rest())] if joined else []

    def _look(self, *, last: bool) -> Edit:
        if self._policy is None:
            return Edit(self.said.length)
        start = time.perf_counter()
        edit = self._ask(self._policy, last=last)
        if self.held is not None:
            now = time.perf_counter()
            first = self.held.first_s
            if self._since is not None and (edit.until > self._settled or edit.instead):
                first, self._since = now - self._since, None
            self.held = replace(self.held, first_s=first, check_s=self.held.check_s + now - start)
        return edit

    def _ask(self, policy: Policy, *, last: bool) -> Edit:
        if self._editor is not None:
            return self._editor.edit(self.said, self._settled, self._ready(last=last))
        refusal = policy.window(self.said.text, self._settled)
        return Edit(self.said.length) if refusal is None else Edit(self._settled, instead=refusal)

    def _ready(self, *, last: bool) -> int:
        """Characters that have `hold_tokens` tokens behind them."""
        if last or not self._hold:
            return self.said.length
        behind = self._hold - len(self._unplaced)
        if behind <= 0:
            return self._placed
        return self._waiting[-behind - 1].end if len(self._waiting) > behind else self._settled


def _kept(passage: Passage, until: int, cuts: Sequence[Cut]) -> list[str]:
    """What is shown of a text up to `until`: marks in place of cuts. A cut's mark stands where the cut begins."""
    found, at = [], passage.start
    for cut in cuts:
        if passage.start <= cut.start < until:
            found += [passage.text[at - passage.start : cut.start - passage.start], cut.mark]
        if cut.start < until and cut.end > at:
            at = min(cut.end, until)
    return [*found, passage.text[at - passage.start : until - passage.start]]
