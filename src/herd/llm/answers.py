"""Steps of the engine -> events for people, past the policy that a caller passed in.

What it is not: generation (`engine`), a policy (`safety`).
"""

import secrets
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from herd.engine.engine import Engine, RequestHandle
from herd.engine.request import Finish, Step, TokenLogprob
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    Logprob,
)
from herd.gate import GatedAnswer
from herd.policies import Policy
from herd.text.calls import CallArguments, CallCut, CallEnd, CallParser, CallStart, Piece, TextPiece
from herd.text.calls_or_answer import CallsOrAnswer

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


class Sample(GatedAnswer):
    """One answer of the engine: what has come of it, what of that is shown."""

    def __init__(
        self,
        job: RequestHandle,
        named: Callable[[TokenLogprob], Logprob],
        *,
        index: int = 0,
        load_s: float = 0.0,
        policy: Policy | None = None,
        calls: CallParser | CallsOrAnswer | None = None,
        one_call: bool = False,
        parse: Callable[[str], Any] | None = None,
        begun: str = "",
        opens: bool = False,
    ) -> None:
        """named: a log-probability with its tokens by name. calls: finds calls of tools in the text; None: none are.
        one_call: the answer ends with its first call. parse, begun: see `GatedAnswer`. opens: a space at its beginning
        is what the vocabulary puts before any text, and not shown."""
        super().__init__(policy, index, parse, begun)
        if calls is not None:
            calls.begin(begun)
        self.job = job
        self._named, self._load_s = named, load_s
        self._calls, self._one_call = calls, one_call
        self._opens = opens
        self._id = ""

    def take(self, step: Step) -> list[Event]:
        """What may be shown after one more step; with its last one a DoneEvent."""
        if step.progress is not None:  # numbers: no policy has to see them
            return [replace(step.progress, index=self.index)]
        self.add(step)
        finish = step.finish
        found = self._release(last=finish is not None or self._has_called)
        if finish is None and (self._gate.refused or self._has_called):
            finish = self.job.reading.finish("stop")
        return [*found, self._done(finish)] if finish is not None else found

    def add(self, step: Step) -> None:
        """Hand one more step to the gate."""
        logprob = None if step.logprob is None else self._named(step.logprob)
        finish, text = step.finish, step.text
        if self._opens and text:
            text, self._opens = text.removeprefix(" "), False
        holding = not text or self.job.reading.holding
        if self._calls is None:
            self._gate.add(text)
        else:
            pieces = self._calls.push(step.token_id, text)
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
                self._gate.tell(CallStartEvent(index, self._id, name, self.index))
            case CallArguments(index, fragment):
                self._gate.tell(CallArgumentsEvent(index, fragment, self.index))
            case CallEnd(index, call):
                call = replace(call, id=self._id)
                self._gate.tell(CallEndEvent(index, call, self.index))
                self._gate.add_call(call)
                self._gate.add_token(None, None, placed=not self.job.reading.holding)  # those before this step's
            case CallCut(_, cut):
                self._gate.add_call(replace(cut, id=self._id))
                self._gate.add_token(None, None, placed=not self.job.reading.holding)  # those before this step's

    def is_long(self, step: Step) -> bool:
        """Whether a policy has so much to read at this step that an event loop may not wait for it."""
        return self.has_much_to_read(last=step.finish is not None)

    def refuse(self, text: str) -> list[Event]:
        """The policy said no before the first token."""
        return [self._refused(text), self._done(self.job.reading.finish("stop"))]

    def interrupt(self) -> list[Event]:
        """Somebody ended it: what was said stays said."""
        for piece in [] if self._calls is None else self._calls.finish(cut=True):
            self._piece(piece)
        self._gate.add_token(None, None, placed=not self.job.reading.holding)
        return [*self._release(last=True), self._done(self.job.reading.finish("interrupted"))]

    def _done(self, finish: Finish) -> DoneEvent:
        return self._ended(
            finish.reason,
            finish.usage,
            replace(finish.timings, load_s=self._load_s),
            seed=self.job.request.seed,
            stop=finish.stop,
            told=self.job.request.options.logprobs is not None,
        )
