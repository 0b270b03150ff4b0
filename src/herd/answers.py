"""Steps of the engine -> events for people, past the policy that a caller passed in.

What it is not: generation (`engine`), a policy (`safety`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from herd.engine.generate import Engine, Job
from herd.engine.request import Finish, Step, TokenLogprob
from herd.replies import DoneEvent, Event, FinishReason, Likely, Logprob, Policy, Reply, TextEvent


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
    ) -> None:
        """spell: an id as text, for logprobs."""
        self.job = job
        self.index = index
        self.over = False
        self._spell, self._policy, self._load_s = spell, policy, load_s
        self._refused = False
        self._shown = ""
        self._held = ""
        self._held_tokens = 0
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._new_logprobs = 0

    def take(self, step: Step) -> list[Event]:
        """What may be shown after one more step; with its last one a DoneEvent."""
        self.add(step)
        found = self._release(last=step.finish is not None)
        finish = step.finish
        if self._refused and finish is None:
            finish = self.job.reading.finish("stop")
        return [*found, self._done(finish)] if finish is not None else found

    def add(self, step: Step) -> None:
        """One more step."""
        self._held += step.text
        if step.token_id is not None:
            self._ids.append(step.token_id)
            self._held_tokens += 1
        if step.logprob is not None:
            self._logprobs.append(self._named(step.logprob))
            self._new_logprobs += 1

    def refuse(self, text: str) -> list[Event]:
        """The policy said no before the first token."""
        return [self._say(text), self._done(self.job.reading.finish("stop"))]

    def interrupt(self) -> list[Event]:
        """Somebody ended it: what was said stays said."""
        return [*self._release(last=True), self._done(self.job.reading.finish("interrupted"))]

    def _release(self, *, last: bool) -> list[Event]:
        """What may be shown now; the policy looks at it first."""
        if self._refused or not self._held:
            return []
        if self._policy is not None:
            if not last and self._held_tokens < self._policy.hold_tokens:
                return []
            refusal = self._policy.window(self._shown + self._held, len(self._shown))
            if refusal is not None:
                return [self._say(refusal)]
        return [self._show(self._held)]

    def _say(self, text: str) -> TextEvent:
        """This instead of what is held back."""
        self._refused = True
        return self._show(text)

    def _done(self, finish: Finish) -> DoneEvent:
        self.over = True
        reason: FinishReason = "policy" if self._refused else finish.reason
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
        )
        instead = self._policy.after(reply) if self._policy is not None and not self._refused else None
        if instead is not None:
            reply = replace(reply, text=instead, finish_reason="policy")
        return DoneEvent(reply, self.index)

    def _show(self, text: str) -> TextEvent:
        self._shown += text
        self._held, self._held_tokens = "", 0
        new = tuple(self._logprobs[len(self._logprobs) - self._new_logprobs :])
        self._new_logprobs = 0
        return TextEvent(text, new or None, self.index)

    def _named(self, x: TokenLogprob) -> Logprob:
        top = tuple(Likely(i, self._spell(i), value) for i, value in x.top)
        return Logprob(x.token_id, self._spell(x.token_id), x.logprob, top)
