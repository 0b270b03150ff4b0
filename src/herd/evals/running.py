"""A task's items asked of a model, many at once: what comes of each is kept as it comes.

Over `ChatModel` alone, so any model may be asked. An item that cannot be answered fails by itself, and is counted as
failed; what ends the model ends the run, which goes on later where it was. What it is not: files
(`herd.evals.results`).
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from math import isfinite, log
from typing import Any

import msgspec

from herd.chat_model import CANNOT, ChatModel, Pair
from herd.errors import (
    ContextTooLong,
    GrammarStuck,
    Interrupted,
    MissingExtra,
    NoVision,
    PassFailed,
    TimedOut,
    Unsupported,
    UsageError,
    fail,
)
from herd.evals import judging, templates
from herd.evals.judging import Judge
from herd.evals.results import Result
from herd.evals.tasks import Task, images_of
from herd.events import Score
from herd.progress import Progress, silent

TOGETHER = {"bits_per_byte": 8, "choices": 16, "answer": 16}
"""Items of a kind that are under way at once: enough to fill passes."""
SAID = 4096
"""Characters of an answer that are kept."""
OWN = (ContextTooLong, TimedOut, PassFailed, GrammarStuck, UsageError)
"""Errors of one item: they would come again. Any other ends the run."""


def run(
    model: ChatModel,
    task: Task,
    keep: Callable[[Result], None],
    *,
    limit: int | None = None,
    seed: int = 0,
    done: Collection[int] = (),
    progress: Progress = silent,
) -> None:
    """Ask what of a task is not done, and hand each result to `keep` as it comes.

    limit: of so many items. seed: of what is drawn in answers. progress: told items. Raises Unsupported where the model
    cannot do this kind of task, and what ended the run.
    """
    check(model, task)
    chosen = task.chosen(limit)
    left = [i for i in chosen if i not in done]
    progress(task.name, len(chosen) - len(left), len(chosen))

    async def asked() -> None:
        with judging.opened(task) as judge:  # closed before the loop waits for threads that judge
            await _Run(model, task, seed, keep, progress, len(chosen), judge).all(left)

    asyncio.run(asked())


def check(model: ChatModel, task: Task) -> None:
    """Raise Unsupported, naming the task, where a model cannot do this kind of task."""
    if missing := lacks(model, task):
        error = NoVision if missing == "images" else Unsupported
        what = f"task {task.name} ({task.head.kind}): {model.name} cannot {CANNOT[missing]}"
        fail(error, what, do="choose a model that can, or other tasks")


def lacks(model: ChatModel, task: Task) -> str:
    """The capability that a task of this kind needs and a model lacks; "": none."""
    needed = ["scores"] if task.head.kind != "answer" else []
    needed += ["tools"] if task.head.checker in ("tool_call", "tool_call_any") else []
    needed += ["images"] if task.images else []
    return next((one for one in needed if not getattr(model.capabilities, one)), "")


class _Run:
    def __init__(
        self,
        model: ChatModel,
        task: Task,
        seed: int,
        keep: Callable[[Result], None],
        progress: Progress,
        total: int,
        judge: Judge,
    ) -> None:
        self._judge = judge
        self._model, self._task, self._seed = model, task, seed
        self._keep, self._progress, self._total = keep, progress, total
        self._asks = {"bits_per_byte": self._document, "choices": self._choices, "answer": self._answer}

    async def all(self, left: list[int]) -> None:
        """Ask these items. The first one goes alone: what all of them begin with is in the cache then."""
        order = sorted(left, key=lambda i: self._begins(self._task.items[i]))
        waiting = iter(order)
        done = self._total - len(left)

        async def some(waiting: Iterator[int]) -> None:
            nonlocal done
            for number in waiting:
                about = _about(self._task.items[number])
                self._keep(msgspec.structs.replace(await self._one(number), **about))
                done += 1
                self._progress(self._task.name, done, self._total)

        await some(iter(order[:1]))
        next(waiting, None)
        workers = [asyncio.ensure_future(some(waiting)) for _ in range(min(TOGETHER[self._task.head.kind], len(order)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _begins(self, item: templates.Item) -> str:
        """What items are ordered by: those that begin alike follow each other, and are read once."""
        return (
            item["text"] if self._task.head.kind == "bits_per_byte" else templates.filled(self._task.head.prompt, item)
        )

    async def _one(self, number: int) -> Result:
        try:
            return await self._asks[self._task.head.kind](number, self._task.items[number])
        except (Unsupported, MissingExtra):
            raise
        except OWN as error:
            return Result(item=number, error=error.code, why=str(error)[:SAID])

    async def _scores(self, pairs: Sequence[Pair]) -> list[Score]:
        """Scores of an item. Raises PassFailed for what is no number."""
        scores = await self._model.ascore(pairs)
        for score in scores:
            if not isfinite(score.logprob):
                fail(PassFailed, "a log-probability", got=score.logprob, expected="a number")
        return scores

    async def _document(self, number: int, item: templates.Item) -> Result:
        text: str = item["text"]
        size = len(text.encode())
        try:
            (score,) = await self._scores([("", text)])
        except ContextTooLong:
            raise
        except UsageError:  # the vocabulary has no first token: nothing is before the text's own first one
            self._model.capabilities.require(self._model.name, "ids")
            ids = self._model.tokenize(text)
            (score,) = await self._scores([(ids[:1], ids[1:])])
            size -= len(self._model.detokenize(ids[:1]).encode())
        bits = -score.logprob / log(2) / max(1, size)
        return Result(item=number, value=bits, logprobs=(score.logprob,), tokens=(len(score.tokens),))

    async def _choices(self, number: int, item: templates.Item) -> Result:
        head = self._task.head
        pairs = templates.choices(head.prompt, head.separator, self._task.shots, item)
        scores = await self._scores(pairs)
        likely = [likelihood(head.metric, score, pair[1]) for score, pair in zip(scores, pairs, strict=True)]
        best = max(range(len(likely)), key=likely.__getitem__)
        return Result(
            item=number,
            value=float(best == item["answer"]),
            logprobs=tuple(score.logprob for score in scores),
            tokens=tuple(len(score.tokens) for score in scores),
        )

    async def _answer(self, number: int, item: templates.Item) -> Result:
        head = self._task.head
        dialog: list[dict[str, Any]] = [*templates.turns(head.system, head.prompt, self._task.shots, item)]
        if names := images_of(item):
            images = [{"type": "image", "image": self._task.images[name].read_bytes()} for name in names]
            dialog[-1]["content"] = [*images, {"type": "text", "text": dialog[-1]["content"]}]
        options: dict[str, Any] = {"max_tokens": head.max_tokens, "temperature": head.temperature}
        if head.temperature:
            options["seed"] = self._seed + number
        if "tools" in item:
            options["tools"] = item["tools"]
        reply = await self._model.achat(dialog, **options)
        if reply.finish_reason == "interrupted":
            raise Interrupted("somebody ended the request")
        right = await asyncio.to_thread(self._judge.value, reply, item)
        calls = tuple({"name": call.name, "arguments": dict(call.arguments)} for call in reply.tool_calls)
        said, by = reply.text[:SAID], reply.answered_by
        return Result(item=number, value=right, said=said, calls=calls, answered_by=by)


def _about(item: templates.Item) -> dict[str, Any]:
    """What a result says of its item."""
    numbers = {name: item[name] for name in ("length", "depth") if type(item.get(name)) in (int, float)}
    group = {"group": item["group"][:SAID]} if isinstance(item.get("group"), str) else {}
    return numbers | group


def likelihood(metric: str, score: Score, continuation: str) -> float:
    """How likely a choice is: its log-probability, of all of it, of a byte or of a token, as the metric says."""
    if metric == "accuracy_per_byte":
        return score.logprob / len(continuation.encode())
    return score.logprob / len(score.tokens) if metric == "accuracy_per_token" else score.logprob
