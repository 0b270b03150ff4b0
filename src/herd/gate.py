"""What a model says on its way to people: what of it waits, and what a policy lets through.

    Gate          text, calls and tokens, past a policy
    GatedAnswer   one answer behind a gate: its events, and its reply

What it is not: where answers come from (`herd.llm.answers`: this engine; `herd.gated`: any stream), a policy.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from herd.events import DoneEvent, Event, FinishReason, HoldStats, Logprob, Note, Reply, TextEvent, Timings, Usage
from herd.messages import CutCall, ToolCall
from herd.policies import Cut, Edit, Editor, Policy
from herd.text.said import Passage, Said
from herd.text.stream import Offsets

AT_ONCE = 1024
"""Characters that a policy's rules read, in every reading, in a few milliseconds."""
NO_ID = -1
"""Stands for the id of a token whose id is not known."""


class GatedAnswer:
    """One answer: what has come of it, what of that is shown."""

    def __init__(
        self, policy: Policy | None, index: int = 0, parse: Callable[[str], Any] | None = None, begun: str = ""
    ) -> None:
        """parse: what a whole text means, for `Reply.parsed`. begun: what the answer goes on with: a policy reads both
        as one, what is shown is the answer alone."""
        self.index = index
        self.over = False
        self._policy, self._parse, self._begun_text = policy, parse, begun
        self._gate = Gate(policy, begun)
        self._called: list[ToolCall] = []
        self._cut_call: CutCall | None = None
        self._shown: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._offsets, self._start = Offsets(), 0
        self._length = 0  # characters that are shown

    @property
    def slow(self) -> bool:
        """Whether its policy asks a model, which takes longer than an event loop may wait."""
        return self._policy is not None and getattr(self._policy, "slow", False)

    def has_much_to_read(self, *, last: bool) -> bool:
        """Whether a policy has so much to read at the next step that an event loop may not wait for it."""
        return self._policy is not None and self._gate.unread(last=last) > AT_ONCE

    def _refused(self, text: str) -> TextEvent:
        """What is said instead of all of it."""
        self._gate.refused = True
        return self._show(text, [])

    def _release(self, *, last: bool) -> list[Event]:
        """What may be shown now; the policy looks at it first."""
        found: list[Event] = []
        for one in self._gate.release(last=last):
            if isinstance(one, Shown):
                found.append(self._show(one.text, one.tokens))
                continue
            found += one.events
            if isinstance(one.call, ToolCall):
                self._called.append(one.call)
            else:
                self._cut_call = one.call or self._cut_call
        return found

    def _ended(
        self, why: FinishReason, usage: Usage, timings: Timings, *, seed: int, stop: str | None, told: bool
    ) -> DoneEvent:
        """Its last event. told: whether log-probabilities were asked for."""
        self.over = True
        gate = self._gate
        last = self._keep(gate.rest())
        reason: FinishReason = "policy" if gate.refused else why
        if reason == "stop" and self._called:
            reason = "tool_calls"
        reply = Reply(
            text="".join(self._shown),
            finish_reason=reason,
            usage=usage,
            timings=timings,
            seed=seed,
            logprobs=tuple(self._logprobs) if told else None,
            ids=tuple(self._ids),
            stop=None if gate.refused or gate.stop_cut else stop,
            tool_calls=tuple(self._called),
            cut_call=self._cut_call,
            notes=tuple(gate.notes),
            held=gate.held,
        )
        judged = self._judged(reply)
        return DoneEvent(judged, self.index, last if judged.logprobs else None)

    def _judged(self, reply: Reply) -> Reply:
        """The reply after the policy's last look, with what it means."""
        instead = None
        if self._policy is not None and not self._gate.refused:
            instead = self._policy.after(replace(reply, text=self._begun_text + reply.text))
        if instead is not None:
            logprobs = None if reply.logprobs is None else ()
            reply = replace(reply, text=instead, finish_reason="policy", ids=(), logprobs=logprobs, stop=None)
            reply = replace(reply, tool_calls=(), cut_call=None)
        if isinstance(self._policy, Editor):
            reply = replace(reply, notes=self._policy.notes(reply, self._gate.said))
        if self._parse is not None and reply.finish_reason == "stop" and reply.stop is None and not self._gate.stop_cut:
            reply = replace(reply, parsed=self._parse(self._begun_text + reply.text))
        return reply

    def _show(self, text: str, tokens: "Sequence[GateToken]") -> TextEvent:
        self._shown.append(text)
        self._length += len(text)
        return TextEvent(text, self._keep(tokens), self.index)

    def _keep(self, tokens: "Sequence[GateToken]") -> tuple[Logprob, ...] | None:
        """Tokens that may be known; their logprobs, if any were asked for."""
        self._ids += [token.token_id for token in tokens if token.token_id != NO_ID]
        new = [self._placed(token.logprob, token.start) for token in tokens if token.logprob is not None]
        self._logprobs += new
        return tuple(new) or None

    def _placed(self, found: Logprob, start: int) -> Logprob:
        """A token with its place in the text that is shown. start: of the tokens whose text came with its own."""
        if start != self._start:
            self._start = self._offsets.next = start
        return replace(found, offset=min(self._offsets.place(found.token_bytes), self._length))


class GateToken(NamedTuple):
    """One that has come, and the characters of the output that came with it or with its next ones."""

    token_id: int
    logprob: Logprob | None
    start: int
    end: int


class Shown(NamedTuple):
    """Text that may be shown, and the tokens that may be known with it."""

    text: str
    tokens: "Sequence[GateToken]"


class Called(NamedTuple):
    """A call, whole or cut, the events that tell of it, and where it ends in the output. call: None: it is being made,
    and this is what is new of it."""

    call: ToolCall | CutCall | None
    events: Sequence[Event]
    end: int


class Gate:
    """Output on its way to people: what waits, and what of it the policy lets through."""

    def __init__(self, policy: Policy | None, begun: str = "") -> None:
        """begun: what was shown before anything of the output."""
        self._policy = policy
        self._editor = policy if isinstance(policy, Editor) else None
        self._hold = 0 if policy is None else policy.hold_tokens
        self._free = policy is None or getattr(policy, "only_looks", False)
        self._every = max(1, self._hold // 8) if self._editor is not None else 1  # tokens from look to look
        self.refused = False
        self.stop_cut = False
        """Whether the stop string that ended it may not be told."""
        self.notes: list[Note] = []
        self.held = HoldStats() if self._hold > 1 else None
        self.said = Said(begun)
        self._fresh: list[str] = []  # text that has come since the last look
        self._settled = len(begun)  # characters that are decided
        self._cuts: tuple[Cut, ...] = ()  # of the last look
        self._gone: deque[Cut] = deque([Cut(0, self._settled, "")])  # of all looks, and calls, before tokens to come
        self._shift = 0  # from a place in what is said to that in what is shown, behind what was gone
        self._calls: deque[Called] = deque()
        self._telling: list[Event] = []  # of the call that is being made
        self._waiting: deque[GateToken] = deque()
        self._unplaced: list[tuple[int, Logprob | None]] = []  # tokens whose text is still to come
        self._placed = len(begun)  # characters whose tokens are known
        self._next = self._hold + self._every - 1 if self._editor is not None else self._hold
        self._longer = 0  # characters from which another look is worth it
        self._since: float | None = None  # when the first token came, until text has left

    def add(self, text: str) -> None:
        """Add text of the answer."""
        if text:
            self.said.add(text)
            self._fresh.append(text)

    def tell(self, event: Event) -> None:
        """What is told of a call that is being made: as soon as all before it has left where nobody may keep a call
        back, else with the whole of it."""
        self._telling.append(event)

    def add_call(self, call: ToolCall | CutCall) -> None:
        """The call is whole, or cut."""
        self.said.add_call(call)
        self._calls.append(Called(call, self._telling, self.said.length))
        self._telling = []

    def add_stop(self, stop: str) -> None:
        """A stop string has come."""
        self.said.add_stop(stop)

    def add_token(self, token_id: int | None, logprob: Logprob | None, *, placed: bool) -> None:
        """Add a token. placed: the text of all tokens so far has come; else it is held back somewhere."""
        if token_id is not None:
            self._unplaced.append((token_id, logprob))
        if placed and self._unplaced:
            start, self._placed = self._placed, self.said.length
            self._waiting += [GateToken(*token, start, self._placed) for token in self._unplaced]
            self._unplaced.clear()
        if self.held is not None:
            if self._settled == self.said.begun and self._since is None:
                self._since = time.perf_counter()
            if self._num_waiting > self.held.tokens:
                self.held = replace(self.held, tokens=self._num_waiting)

    def release(self, *, last: bool) -> list[Shown | Called]:
        """What may be shown now, in order."""
        found = self._release(last=last)
        if self._free and self._telling and not self.refused and self._settled == self.said.length:
            found.append(Called(None, self._telling, self._settled))
            self._telling = []
        return found

    def _release(self, *, last: bool) -> list[Shown | Called]:
        """What may be shown now, but for what is told of a call that is being made."""
        if self.refused or self._settled == self.said.length:
            return []
        fresh = "".join(self._fresh)
        self._fresh.clear()
        if self._free and self._settled + len(fresh) == self.said.length:  # nothing but text, and nobody to ask
            self._settled = self.said.length
            return [Shown(fresh, self.rest())]
        if not last and self._policy is not None and not self._is_due(self._num_waiting):
            return []
        edit = self._look(last=last)
        found = self._through(edit)
        self._next = self._num_waiting + self._every if self._editor is not None else self._hold
        # what waits is looked at again: only once it has grown by a part of itself, so that all looks together cost
        # steps in proportion to the text
        self._longer = self.said.length + (self.said.length - self._settled) // 16
        return found

    def rest(self) -> list[GateToken]:
        """Tokens all of whose text is settled and left as it was, by their places in what is shown; they wait no more.
        None of a refused answer."""
        found, i = [], 0
        while self._waiting and self._waiting[0].end <= self._settled:
            token = self._waiting.popleft()
            while i < len(self._cuts) and self._cuts[i].end <= token.start:
                i += 1
            if i == len(self._cuts) or self._cuts[i].start >= max(token.end, token.start + 1):
                found.append(token._replace(start=self._shown_at(token.start)))
        return [] if self.refused else found

    def _shown_at(self, place: int) -> int:
        """The place in the text that is shown, of one in what is said; each is behind the one asked for before."""
        while self._gone and self._gone[0].end <= place:
            cut = self._gone.popleft()
            self._shift += len(cut.mark) - (cut.end - cut.start)
        return place + self._shift

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

    def _through(self, edit: Edit) -> list[Shown | Called]:
        """What a look lets through: text between cuts, calls as they are."""
        self.notes += edit.notes
        self.refused = edit.instead is not None
        self._cuts = edit.cuts
        for cut in edit.cuts:
            if self._gone and self._gone[-1].start == cut.start:
                self._gone.pop()  # it was not over
            self._gone.append(cut)
        found: list[Shown | Called] = []
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
                self._gone.append(Cut(passage.start, passage.end, ""))
                text = []
        return [*found, *self._texts([*text, edit.instead or ""])]

    def _texts(self, text: Sequence[str]) -> list[Shown | Called]:
        joined = "".join(text)
        return [Shown(joined, self.rest())] if joined else []

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
