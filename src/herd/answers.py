"""Steps of the engine -> events for people, past the policy that a caller passed in.

What it is not: generation (`engine`), a policy (`safety`).
"""

import secrets
import string
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from herd.engine.generate import Engine, Job
from herd.engine.request import Finish, Step, TokenLogprob
from herd.replies import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Edit,
    Editor,
    Event,
    FinishReason,
    Held,
    Likely,
    Logprob,
    Note,
    Policy,
    Reply,
    TextEvent,
)
from herd.text.calls import CallArguments, CallEnd, CallParser, CallStart, Piece, TextPiece
from herd.text.messages import ToolCall

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
        self._shown = ""
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []

    @property
    def slow(self) -> bool:
        """Whether its policy computes for longer than an event loop may wait."""
        return self._policy is not None and getattr(self._policy, "slow", False)

    def take(self, step: Step) -> list[Event]:
        """What may be shown after one more step; with its last one a DoneEvent."""
        found = self.add(step)
        found += self._release(last=step.finish is not None)
        finish = step.finish
        if finish is None and (self._gate.refused or self._has_called):
            finish = self.job.reading.finish("stop")
        return [*found, self._done(finish)] if finish is not None else found

    def add(self, step: Step) -> list[Event]:
        """One more step; what its calls are, and text before them."""
        logprob = None if step.logprob is None else self._named(step.logprob)
        if self._calls is None:
            self._gate.add(step.text, step.token_id, logprob)
            return []
        pieces = self._calls.push(step.token_id, step.text)
        if step.finish is not None:
            pieces += self._calls.finish(cut=step.finish.reason != "stop" or step.finish.stop is not None)
        found = [event for piece in pieces for event in self._piece(piece)]
        self._gate.add("", step.token_id, logprob)
        return found

    @property
    def _has_called(self) -> bool:
        """Whether the one call that it may make is made."""
        return self._one_call and bool(self._called)

    def _piece(self, piece: Piece) -> list[Event]:
        """Text waits for the policy; a call comes after all text before it."""
        if self._gate.refused or self._has_called:
            return []
        match piece:
            case TextPiece(text):
                self._gate.add(text, None, None)
                return []
            case CallStart(index, name):
                before = self._release(last=True)
                if self._gate.refused:
                    return before
                self._id = "call_" + "".join(secrets.choice(_LETTERS) for _ in range(24))
                return [*before, CallStartEvent(index, self._id, name, self.index)]
            case CallArguments(index, fragment):
                return [CallArgumentsEvent(index, fragment, self.index)]
            case CallEnd(index, call):
                self._called.append(replace(call, id=self._id))
                return [CallEndEvent(index, self._called[-1], self.index)]
        raise AssertionError(piece)

    def refuse(self, text: str) -> list[Event]:
        """The policy said no before the first token."""
        self._gate.refused = True
        return [self._show(text, []), self._done(self.job.reading.finish("stop"))]

    def interrupt(self) -> list[Event]:
        """Somebody ended it: what was said stays said."""
        pieces = [] if self._calls is None else self._calls.finish(cut=True)
        found = [event for piece in pieces for event in self._piece(piece)]
        return [*found, *self._release(last=True), self._done(self.job.reading.finish("interrupted"))]

    def _release(self, *, last: bool) -> list[Event]:
        """What may be shown now; the policy looks at it first."""
        found = self._gate.release(last=last)
        return [] if found is None else [self._show(*found)]

    def _done(self, finish: Finish) -> DoneEvent:
        self.over = True
        self._keep(self._gate.rest())
        refused = self._gate.refused
        reason: FinishReason = "policy" if refused else finish.reason
        if reason == "stop" and self._called:
            reason = "tool_calls"
        asked = self.job.request.options.logprobs is not None
        reply = Reply(
            text=self._shown,
            finish_reason=reason,
            usage=finish.usage,
            timings=replace(finish.timings, load_s=self._load_s),
            seed=self.job.request.seed,
            logprobs=tuple(self._logprobs) if asked else None,
            ids=tuple(self._ids),
            stop=finish.stop,
            tool_calls=tuple(self._called),
            notes=tuple(self._gate.notes),
            held=self._gate.held,
        )
        instead = self._policy.after(reply) if self._policy is not None and not refused else None
        if instead is not None:
            reply = replace(reply, text=instead, finish_reason="policy")
        if isinstance(self._policy, Editor):
            reply = replace(reply, notes=self._policy.notes(reply))
        if self._parse is not None and reply.finish_reason == "stop" and reply.stop is None:
            reply = replace(reply, parsed=self._parse(reply.text))
        return DoneEvent(reply, self.index)

    def _show(self, text: str, tokens: "list[_Token]") -> TextEvent:
        self._shown += text
        return TextEvent(text, self._keep(tokens), self.index)

    def _keep(self, tokens: "list[_Token]") -> tuple[Logprob, ...] | None:
        """Tokens that may be known; their logprobs, if any were asked for."""
        self._ids += [token.token_id for token in tokens]
        new = [token.logprob for token in tokens if token.logprob is not None]
        self._logprobs += new
        return tuple(new) or None

    def _named(self, x: TokenLogprob) -> Logprob:
        top = tuple(Likely(i, self._spell(i), value) for i, value in x.top)
        return Logprob(x.token_id, self._spell(x.token_id), x.logprob, top)


@dataclass(frozen=True)
class _Token:
    """One that has come. end: characters of the output when it had."""

    token_id: int
    logprob: Logprob | None
    end: int


class _Gate:
    """Output on its way to people: what waits, and what of it the policy lets through."""

    def __init__(self, policy: Policy | None) -> None:
        self._policy = policy
        self._editor = policy if isinstance(policy, Editor) else None
        self._hold = 0 if policy is None else policy.hold_tokens
        self._every = max(1, self._hold // 8) if self._editor is not None else 1  # tokens from look to look
        self.refused = False
        self.notes: list[Note] = []
        self.held = Held() if self._hold > 1 else None
        self._text = ""  # the model's own; text[:settled] is decided
        self._settled = 0
        self._waiting: list[_Token] = []
        self._next = self._hold + self._every - 1 if self._editor is not None else self._hold
        self._since: float | None = None  # when the first token came, until text has left

    def add(self, text: str, token_id: int | None, logprob: Logprob | None) -> None:
        """One more step's."""
        self._text += text
        if token_id is not None:
            self._waiting.append(_Token(token_id, logprob, len(self._text)))
        if self.held is not None:
            if not self._settled and self._since is None:
                self._since = time.perf_counter()
            self.held = replace(self.held, tokens=max(self.held.tokens, len(self._waiting)))

    def release(self, *, last: bool) -> tuple[str, list[_Token]] | None:
        """Text that may be shown now, and the tokens that may be known with it. None: nothing yet."""
        if self.refused or self._settled == len(self._text):
            return None
        if not last and self._policy is not None and len(self._waiting) < self._next:
            return None
        edit = self._look(last=last)
        taken = self._text[self._settled : self._settled + edit.taken]
        self._settled += len(taken)
        self.refused = edit.stop
        self.notes += edit.notes
        tokens = self.rest() if taken else []
        self._next = len(self._waiting) + self._every if self._editor is not None else self._hold
        if not edit.text:
            return None
        return edit.text, tokens if edit.text == taken else []

    def rest(self) -> list[_Token]:
        """Tokens all of whose text is settled; they wait no more. None of a refused answer."""
        count = sum(token.end <= self._settled for token in self._waiting)
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return [] if self.refused else out

    def _look(self, *, last: bool) -> Edit:
        if self._policy is None:
            return Edit(len(self._text) - self._settled, self._text[self._settled :])
        start = time.perf_counter()
        edit = self._ask(self._policy, last=last)
        if self.held is not None:
            now = time.perf_counter()
            first = self.held.first_s
            if self._since is not None and edit.text:
                first, self._since = now - self._since, None
            self.held = replace(self.held, first_s=first, check_s=self.held.check_s + now - start)
        return edit

    def _ask(self, policy: Policy, *, last: bool) -> Edit:
        if self._editor is not None:
            return self._editor.edit(self._text, self._settled, self._ready(last=last))
        held = self._text[self._settled :]
        refusal = policy.window(self._text, self._settled)
        return Edit(len(held), held) if refusal is None else Edit(0, refusal, stop=True)

    def _ready(self, *, last: bool) -> int:
        """Characters that have `hold_tokens` tokens behind them."""
        if last or not self._hold:
            return len(self._text)
        return self._waiting[-self._hold - 1].end if len(self._waiting) > self._hold else self._settled
