"""A policy around a model that applies none itself: a ChatStream whose events have passed it.

The policy sees what `herd.llm` shows it: the prompt before the model does, what is said before anybody does, the whole
reply at the end. Tokens are counted by events, where a model does not tell their log-probabilities. What it is not: the
gate itself (`herd.gate`), a policy.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from herd.chat_model import ChatStream
from herd.event_stream import EventStream
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    FinishReason,
    Logprob,
    ProgressEvent,
    TextEvent,
    Timings,
    Usage,
)
from herd.gate import NO_ID, GatedAnswer
from herd.lanes import Lanes, computing, waiting
from herd.policies import Cleaner, Policy, Prompt


class Looked(NamedTuple):
    """What a policy made of a prompt. shown: instead of it; None: it is shown as it is. refusal: why none of it is."""

    shown: Prompt | None
    refusal: str | None


class GatedStreamAnswer(GatedAnswer):
    """One answer of any stream."""

    def __init__(self, policy: Policy, index: int, begun: str = "") -> None:
        super().__init__(policy, index, begun=begun)

    def take(self, event: Event, usage: Usage) -> list[Event]:
        """What may be shown after one more event; with its last one a DoneEvent. usage: so far, if a policy ends it."""
        match event:
            case TextEvent():
                self._say(event)
            case CallStartEvent() | CallArgumentsEvent():
                self._gate.tell(event)
            case CallEndEvent():
                self._gate.tell(event)
                self._gate.add_call(event.call)
                self._gate.add_token(NO_ID, None, placed=True)
            case DoneEvent():
                return self._finish(event)
        found = self._release(last=False)
        if self._gate.refused:
            found.append(self._ended("policy", usage, Timings(), seed=0, stop=None, told=False))
        return found

    def refuse(self, text: str) -> list[Event]:
        """The policy said no before the model saw anything."""
        refused = self._refused(text)
        return [refused, self._ended("policy", Usage(0, 0), Timings(), seed=0, stop=None, told=False)]

    def _say(self, event: TextEvent) -> None:
        self._gate.add(event.text)
        self._tell(event.logprobs or (None,))

    def _tell(self, told: Sequence[Logprob | None]) -> None:
        for i, one in enumerate(told):
            self._gate.add_token(NO_ID if one is None else one.token_id, one, placed=i == len(told) - 1)

    def _finish(self, event: DoneEvent) -> list[Event]:
        reply = event.reply
        if reply.cut_call is not None:
            self._gate.add_call(reply.cut_call)
        if reply.stop is not None:
            self._gate.add_stop(reply.stop)
        self._tell(event.logprobs or ())
        found = self._release(last=True)
        why: FinishReason = "stop" if reply.finish_reason == "tool_calls" else reply.finish_reason
        told = reply.logprobs is not None
        done = self._ended(why, reply.usage, reply.timings, seed=reply.seed, stop=reply.stop, told=told)
        return [*found, replace(done, reply=replace(done.reply, answered_by=reply.answered_by))]


class GatedStream(EventStream):
    """Events of a request past a policy; what the policy withholds never leaves.

    read: the prompt, as messages and tools; called on a thread. begin: the request, with what the policy shows of its
    prompt, or None for all of it. check: raises what is wrong with what it shows; called on a thread. owner: in whose
    lane the policy works. answers: samples that are asked for. is_text: whether the prompt is a text or ids. begun:
    what the answers go on with.
    """

    def __init__(
        self,
        policy: Policy,
        read: Callable[[], Prompt],
        begin: Callable[[Prompt | None], ChatStream],
        *,
        check: Callable[[Prompt], None] = lambda shown: None,
        owner: str = "",
        answers: int = 1,
        is_text: bool = False,
        begun: str = "",
    ) -> None:
        super().__init__(self._past())
        self._policy, self._read, self._begin, self._check = policy, read, begin, check
        self._owner, self._is_text = owner, is_text
        self._answers = {i: GatedStreamAnswer(policy, i, begun) for i in range(answers)}
        self._inner: ChatStream | None = None
        self._refusal: str | None = None

    @property
    def made_tokens(self) -> int:
        """See ChatStream: also those that the policy holds back."""
        return 0 if self._inner is None else self._inner.made_tokens

    async def prepare(self) -> None:
        """See ChatStream; the policy sees the prompt."""
        if self._inner is not None or self._refusal is not None or self._closed:
            return
        looked = await self._lanes.run(self._owner, self._look, self.size_bytes)
        if looked.refusal is not None:
            self._refusal, self.shown = looked.refusal, ""
            return
        if looked.shown is not None and self._is_text:
            self.shown = looked.shown.messages[0].text
        inner = self._inner = self._begin(looked.shown)
        inner.size_bytes = self.size_bytes
        inner.hold, self.hold = self.hold, lambda count: None  # what is kept is counted once
        await inner.prepare()
        self.prompt_tokens, self.most_tokens = inner.prompt_tokens, inner.most_tokens

    async def ready(self) -> None:
        """See ChatStream."""
        await self.prepare()
        if self._inner is not None:
            await self._inner.ready()
            self.answered_by = self._inner.answered_by
        await super().ready()

    async def aclose(self) -> None:
        """See ChatStream."""
        await super().aclose()
        if self._inner is not None:
            await self._inner.aclose()

    @property
    def _lanes(self) -> Lanes:
        """Where the policy looks: one that asks a model waits."""
        return waiting() if getattr(self._policy, "slow", False) else computing()

    def _look(self) -> Looked:
        prompt = self._read()
        shown = self._policy.cleaned(prompt) if isinstance(self._policy, Cleaner) else prompt
        same = list(shown.messages) == list(prompt.messages) and list(shown.tools) == list(prompt.tools)
        same = same and shown.variables == prompt.variables
        looked = Looked(None if same else shown, self._policy.before(prompt.turns))
        if looked.shown is not None and looked.refusal is None:
            self._check(looked.shown)
        return looked

    async def _past(self) -> AsyncGenerator[Event, None]:
        if self._refusal is not None:
            for answer in self._answers.values():
                for event in answer.refuse(self._refusal):
                    yield event
            return
        inner = self._inner
        assert inner is not None, "not prepared"
        async for event in inner:
            if isinstance(event, ProgressEvent):  # numbers: no policy has to see them
                yield event
                continue
            taken = self._answers[event.index]
            if not taken.over:
                for shown in await self._take(taken, event, inner):
                    yield shown
            if all(answer.over for answer in self._answers.values()):
                return

    async def _take(self, answer: GatedStreamAnswer, event: Event, inner: ChatStream) -> list[Event]:
        usage = Usage(inner.prompt_tokens, inner.made_tokens)
        if answer.slow or answer.has_much_to_read(last=isinstance(event, DoneEvent)):
            return await self._lanes.run(self._owner, partial(answer.take, event, usage))
        return answer.take(event, usage)
