"""Steps of the engine -> events for people, past the policy that a caller passed in.

What it is not: generation (`engine`), a policy (`safety`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from herd.engine.generate import Engine, Job
from herd.engine.request import Finish, Step, TokenLogprob
from herd.replies import DoneEvent, Event, FinishReason, Likely, Logprob, Policy, Reply, TextEvent


def events(
    engine: Engine,
    job: Job,
    spell: Callable[[int], str],
    *,
    load_s: float = 0.0,
    policy: Policy | None = None,
    refusal: Callable[[], str | None] = lambda: None,
) -> Iterator[Event]:
    """Run a submitted job. `spell`: an id as text, for logprobs. `refusal`: what the policy says before the first
    token. Closing the iterator ends the job."""
    answer = _Answer(spell, policy)
    finish: Finish | None = None
    instead = refusal()
    if instead is not None:
        yield answer.refuse(instead)
        finish = job.finish("stop")
    steps = engine.stream(job)
    try:
        while finish is None:
            step = next(steps)
            answer.add(step)
            finish = step.finish
            piece = answer.release(last=finish is not None)
            if piece is not None:
                yield piece
            if answer.refused and finish is None:
                finish = job.finish("stop")
    except KeyboardInterrupt:
        finish = job.finish("interrupted")  # it came outside the engine's own guard
        piece = answer.release(last=True)
        if piece is not None:
            yield piece
    finally:
        steps.close()
    yield DoneEvent(answer.reply(finish, job, load_s))


class _Answer:
    """What has come, what of it is shown."""

    def __init__(self, spell: Callable[[int], str], policy: Policy | None) -> None:
        self._spell, self._policy = spell, policy
        self.refused = False
        self._shown = ""
        self._held = ""
        self._held_tokens = 0
        self._ids: list[int] = []
        self._logprobs: list[Logprob] = []
        self._new_logprobs = 0

    def add(self, step: Step) -> None:
        """One more step."""
        self._held += step.text
        if step.token_id is not None:
            self._ids.append(step.token_id)
            self._held_tokens += 1
        if step.logprob is not None:
            self._logprobs.append(self._named(step.logprob))
            self._new_logprobs += 1

    def release(self, *, last: bool) -> TextEvent | None:
        """What may be shown now; the policy looks at it first."""
        if self.refused or not self._held:
            return None
        if self._policy is not None:
            if not last and self._held_tokens < self._policy.hold_tokens:
                return None
            refusal = self._policy.window(self._shown + self._held, len(self._shown))
            if refusal is not None:
                return self.refuse(refusal)
        return self._show(self._held)

    def refuse(self, text: str) -> TextEvent:
        """Say this instead of what is held back."""
        self.refused = True
        return self._show(text)

    def reply(self, finish: Finish, job: Job, load_s: float) -> Reply:
        """The whole, once it is over."""
        reason: FinishReason = "policy" if self.refused else finish.reason
        asked = job.request.options.logprobs is not None
        reply = Reply(
            text=self._shown,
            finish_reason=reason,
            usage=finish.usage,
            timings=replace(finish.timings, load_s=load_s),
            seed=job.request.seed,
            logprobs=tuple(self._logprobs) if asked else None,
            ids=tuple(self._ids),
        )
        instead = self._policy.after(reply) if self._policy is not None and not self.refused else None
        return reply if instead is None else replace(reply, text=instead, finish_reason="policy")

    def _show(self, text: str) -> TextEvent:
        self._shown += text
        self._held, self._held_tokens = "", 0
        new = tuple(self._logprobs[len(self._logprobs) - self._new_logprobs :])
        self._new_logprobs = 0
        return TextEvent(text, new or None)

    def _named(self, x: TokenLogprob) -> Logprob:
        top = tuple(Likely(i, self._spell(i), value) for i, value in x.top)
        return Logprob(x.token_id, self._spell(x.token_id), x.logprob, top)
