"""Seeded schedules over the core and FakeModel: one number makes a whole day of requests.

Everything that can happen is drawn: arrivals, clients, priorities, deadlines, cancels, samples of one prompt, prompts
that share beginnings, scores and embeddings of texts, images, ids that break a pass or make it not finite, tiny pools,
budgets and places, chunks, an exact pool. What must hold is checked on the way and at the end; FakeModel itself checks
every page it reads.
"""

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from herd.cache import PageCounts
from herd.engine.core import Core
from herd.engine.fake import FakeModel
from herd.engine.messages import EndedEvent, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, TokenScore, Want
from herd.engine.sampler import History, sample
from herd.errors import BadCheckpoint, Busy, DoesNotFit, PassFailed, TimedOut

VOCAB = 32
RAISES, NOT_FINITE, END = 29, 30, 28
PATCH = 27
TEXT = 26
"""Ids below this are plain."""


def answer(ids: list[int]) -> int:
    """The next id: depends on every id, and on where it stands; a quarter of the time what is said repeats itself."""
    h = 0
    for t, i in enumerate(ids):
        h = (h * 1000003 ^ (i + 7 * t)) & 0xFFFFFFFF
    h ^= h >> 13
    if h % 4 == 0 and len(ids) > 4:
        return ids[-3] if ids[-3] < TEXT else 1
    return (h >> 3) % TEXT if h % 11 else END


def soft(ids: list[int]) -> list[float]:
    """Logits with several likely ids, for drawn samples."""
    best = answer(ids)
    return [
        4.0 * (i == best) + 3.0 * (i == (best * 7 + len(ids)) % TEXT) - 50.0 * (i >= TEXT) * (i != best)
        for i in range(VOCAB)
    ]


def next_logits(ids: list[int]) -> Any:
    """Greedy prompts (odd sum of the first two ids) get a sure id, the others a choice."""
    return answer(ids) if ids[0] % 2 else soft(ids)


@dataclass
class Asked:
    """One sequence, and what came of it."""

    order: Request
    seed: int
    tokens: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)
    began: int = 0
    read: int = 0
    reason: str | None = None
    error: Exception | None = None
    over: bool = False
    cancelled: bool = False
    asked_at: int = 0
    over_at: int = 0


def alone(asked: Asked) -> list[int]:
    """What a request gives by itself: no cache, no engine."""
    order, ids, out = asked.order, list(asked.order.ids), []
    if order.pixels_I3SS is not None:
        model = FakeModel(lambda ids: 0, patch_id=PATCH, tokens_per_tile=2)
        seen = iter(model.encode_images(order.pixels_I3SS)[:, 0].tolist())
        ids = [i | next(seen) << 32 if i == PATCH else i for i in ids]

    history = History(list(order.ids))
    while True:
        found = next_logits(ids)
        logits = [20.0 * (i == found) for i in range(VOCAB)] if isinstance(found, int) else found
        token = sample(np.asarray(logits, np.float32), order.options, history, asked.seed, len(out))
        out.append(token)
        ids.append(token)
        history.add(token)
        if token == END or len(out) == order.options.max_tokens or len(ids) > CONTEXT:
            return out


def logits_of(ids: list[int]) -> Any:
    """As float32, after these ids."""
    found = next_logits(ids)
    logits = [20.0 * (i == found) for i in range(VOCAB)] if isinstance(found, int) else found
    return np.asarray(logits, np.float32)


def score_of(ids: list[int], token_id: int, top: int) -> tuple[int, float, bool, list[int]]:
    """Of one id after others, by definition; an answer holds no patch."""
    logits = logits_of(ids).astype(np.float64)
    said = np.where(np.arange(VOCAB) == PATCH, -np.inf, logits)
    order = np.argsort(-logits, kind="stable")[:top].tolist()
    return token_id, logits[token_id] - np.log(np.exp(logits).sum()), int(np.argmax(said)) == token_id, order


def state_of(ids: list[int]) -> Any:
    """The mean over the positions of what FakeModel has there, added one after the other."""
    model, total = FakeModel(next_logits), np.zeros(16)
    for t in range(len(ids)):
        x_D = np.asarray(model._state(ids[: t + 1]), np.float64)
        total = total + x_D / (np.sqrt((x_D**2).mean()) + 1e-12)
    return (total / np.linalg.norm(total)).astype(np.float32)


CONTEXT = 40
LITTLE = "d"
"""The client of an endless day that asks for little, again and again."""


class Day:
    """One seed's requests, model and core."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        size = rng.choice((1, 2, 4))
        chunk = rng.choice((None, 8, 16))
        enough = -(-CONTEXT // size)
        self.endless = rng.random() < 0.06
        """Somebody asks for little for as long as others wait, so that one who starves never ends."""
        pages = enough + rng.choice((0, 1, 3) if self.endless else (0, 1, 3, enough, 4 * enough))
        chunk_pages = (chunk or 0) // size + 2 + rng.choice((0, 1, 8, 40))
        budget = rng.choice((4, 7, 16, 64))
        places = rng.randint(1, min(6, budget))
        # at least a pass of one sequence: its first page, and those that it goes through, one of them a copy
        exact = -(-budget // size) + 3 + rng.choice((0, places, 40)) if rng.random() < 0.4 else None
        self.model = FakeModel(
            next_logits,
            vocab_size=VOCAB,
            context=CONTEXT,
            chunk=chunk,
            patch_id=PATCH,
            tokens_per_tile=2,
            page_size=size,
            num_pages=pages,
            num_chunk_pages=chunk_pages,
            num_exact_pages=exact,
            bad={RAISES: "raise", NOT_FINITE: "nan"},
            cost=lambda rows: 0.01 + 0.001 * rows,
        )
        self.core = Core(
            self.model,
            budget=budget,
            places=places,
            most_waiting=rng.choice((4, 64)),
            clock=self.model.clock,
        )
        self.core.scheduler.turn = rng.choice((1, 8, 64))
        self.core.scheduler.alike = rng.choice((1, 3, 16))
        self.core.scheduler.headroom = rng.choice((0, 32))
        self.core.scheduler.queue.patience = rng.choice((5, 40, 1000) if self.endless else (5, 1000))
        self.base = [[rng.randrange(TEXT) for _ in range(CONTEXT)] for _ in range(2)]
        self.asked: dict[int, Asked] = {}
        self.busy = 0
        self.steps = 0
        self.waits: dict[int, int] = {}
        """How many others each has waited for."""
        self.lost: set[int] = set()
        """Numbers of measured sequences that gave up their place at some time."""

    def run(self, check_every: int = 1) -> None:
        """All of it, to the end."""
        rng = self.rng
        orders = [self._order(n) for n in range(rng.randint(2, 9))]
        number = 0
        while orders or self.core.busy:
            while orders and (rng.random() < 0.4 or not self.core.busy):
                number = self._add(orders.pop(), number)
            if self.asked and rng.random() < (0.0 if self.endless else 0.06):
                self._cancel(rng.choice(list(self.asked.values())))
            if self.endless and rng.random() < 0.7 and self._others_wait():
                number = self._add(self._little(), number)
            for event in self.core.step():
                self._heard(event)
            self.steps += 1
            self.waits.update((n, e.waits) for n, e in self.core._entries.items())
            self.lost.update(n for n, e in self.core._entries.items() if e.measure is not None and e.reached)
            if check_every and self.steps % check_every == 0:
                self.model.cache.check()
            assert self.steps < 3000, "work does not end"
        self._close()

    def _others_wait(self) -> bool:
        return any(a.order.client != LITTLE and not a.over for a in self.asked.values())

    def _order(self, n: int) -> dict[str, Any]:
        rng = self.rng
        if self.endless:  # two of them do not fit beside each other, and what one computed pushes out the other's
            ids = [rng.randrange(TEXT) for _ in range(rng.randint(1, 32))]
        else:
            shared = rng.choice(self.base)[: rng.randrange(0, 24)]
            ids = [*shared, *(rng.randrange(TEXT) for _ in range(rng.randint(1, 8)))]
        pixels, digests = None, ()
        if rng.random() < 0.12:
            tiles = rng.randint(1, 6)
            values = [rng.randrange(3) for _ in range(tiles)]
            pixels = np.array(values, np.float32).reshape(tiles, 1, 1, 1)
            digests = tuple(bytes([v]) for v in values)
            at = rng.randrange(len(ids))
            ids[at:at] = [PATCH] * (2 * tiles)
            ids = ids[: max(len(ids), at + 2 * tiles)]
        want = self._want(len(ids)) if pixels is None and rng.random() < 0.3 else Want()
        place = len(ids) if want.what == "tokens" else rng.randrange(len(ids) + 1)
        if rng.random() < 0.06:
            ids.insert(place, RAISES)
        elif rng.random() < 0.06:
            ids.insert(place, NOT_FINITE)
        if want.what == "logprobs" and rng.random() < 0.6:
            want = msgspec.structs.replace(want, others=self._others(ids[:CONTEXT], want.start))
        most = rng.randint(1, 12)
        return {
            "ids": ids[:CONTEXT] if pixels is None else ids,
            "options": SamplingOptions(
                temperature=rng.choice((0.0, 1.0)), max_tokens=most, repetition_penalty=rng.choice((1.0, 1.0, 1.3))
            ),
            "seed": rng.randrange(1000),
            "client": rng.choice("abc"),
            "priority": rng.choice((0, 0, 0, 1)),
            "timeout_s": rng.choice((None, None, None, 0.15)),
            "salt": rng.choice((b"", b"", b"x")),
            "pixels_I3SS": pixels,
            "digests": digests,
            "end_ids": (END,),
            "want": want,
            "progress": want.what == "tokens" and most % 2 == 0,
        }

    def _want(self, count: int) -> Want:
        """Numbers of so many ids of text."""
        rng = self.rng
        what: Any = rng.choice(("logprobs", "logprobs", "state", "logits") if count > 1 else ("state", "logits"))
        return Want(what=what, start=rng.randrange(1, max(count, 2)), top=rng.choice((0, 2)), keep=rng.random() < 0.5)

    def _others(self, ids: list[int], start: int) -> tuple[tuple[int, ...], ...]:
        """Other continuations, each alike the one before it for a while; now and then one that breaks a pass."""
        rng, found, last = self.rng, [], ids[start:]
        for _ in range(rng.randint(1, 5)):
            more = [rng.randrange(TEXT) for _ in range(rng.randint(1, 4))]
            last = [*last[: rng.randrange(len(last) + 1)], *more][: CONTEXT - start]
            if rng.random() < 0.03:
                last[rng.randrange(len(last))] = rng.choice((RAISES, NOT_FINITE))
            found.append(tuple(last))
        return tuple(found)

    def _little(self) -> dict[str, Any]:
        """A short request of a client of its own, often more urgent than the others."""
        rng = self.rng
        return {
            "ids": [rng.randrange(TEXT) for _ in range(rng.randint(1, 3))],
            "options": SamplingOptions(temperature=0.0, max_tokens=rng.randint(1, 3)),
            "client": LITTLE,
            "priority": rng.choice((0, 1, 1)),
            "end_ids": (END,),
        }

    def _add(self, fields: dict[str, Any], number: int) -> int:
        if len(fields["ids"]) > CONTEXT:
            return number
        n = self.rng.choice((1, 1, 1, 1, 3)) if fields.get("want", Want()).what == "tokens" else 1
        seed = fields.get("seed", 0)
        samples = tuple((number + i, seed + i) for i in range(1, n))
        order = Request(number=number, samples=samples, **fields)
        try:
            self.core.add(order)
        except Busy:
            self.busy += 1
            return number
        for i in range(n):
            self.asked[number + i] = Asked(order, seed + i, asked_at=self.steps)
        return number + n

    def _cancel(self, asked: Asked) -> None:
        number = next(n for n, a in self.asked.items() if a is asked)
        held = self.model.cache.free()
        self.core.cancel(number)
        if not asked.over:
            asked.cancelled = True
        free = self.model.cache.free()
        assert all(now >= before for now, before in zip(free, held, strict=True))
        self.model.cache.check()

    def _heard(self, event: Any) -> None:
        asked = self.asked[event.number]
        assert not asked.over, "something came after the end"
        if isinstance(event, StartedEvent):
            asked.began += 1
            assert asked.began == 1
            assert 0 <= event.cached < len(asked.order.ids)
            want = asked.order.want
            first = {"tokens": CONTEXT, "logprobs": want.start - 1, "state": 0, "logits": 0}[want.what]
            assert event.cached <= first
            asked.read = event.cached
        elif isinstance(event, ReadEvent):
            assert asked.order.progress and asked.began == 1 and not asked.tokens
            assert asked.read < event.read <= len(asked.order.ids), "more each time, whatever is computed again"
            asked.read = event.read
        elif isinstance(event, TokenEvent):
            assert asked.began == 1
            assert not asked.order.progress or asked.read == len(asked.order.ids), "all of a prompt, before an answer"
            asked.tokens.append(event.token_id)
            asked.reason = event.reason
            asked.over = event.reason is not None
        elif isinstance(event, MeasuredEvent):
            assert asked.began == 1
            asked.scores += event.scores
            asked.rows += [] if event.rows_RX is None else list(event.rows_RX)
            asked.reason = event.reason
            asked.over = event.reason is not None
        else:
            assert isinstance(event, EndedEvent)
            asked.error, asked.over = event.error, True
        asked.over_at = self.steps

    def _close(self) -> None:
        cache = self.model.cache
        cache.check()
        assert not self.core._entries
        assert not self.model.pager.leases
        evicted = self.model.cache.tree.evicted if self.model.cache.tree is not None else PageCounts()
        assert self.core.counters.evicted_pages == sum(evicted)
        self.happened = {
            **vars(self.core.counters),
            "refused": self.busy,
            **{f"evicted {pool}": n for pool, n in evicted._asdict().items()},
            **{f"copied {pool}": n for pool, n in self.model.memory.copied.items()},
            "endless": self.endless,
            "waited for another": sum(waits for waits in self.waits.values()),
            "continuations": sum(len(a.order.want.others) for a in self.asked.values() if a.reason is not None),
            "measured": sum(a.order.want.what != "tokens" and a.reason is not None for a in self.asked.values()),
            "measured again": sum(self.asked[n].reason is not None for n in self.lost),
        }
        cache.clear()
        assert cache.free() == cache.total(), "pages lost"
        self._counts()
        for asked in self.asked.values():
            assert asked.over, "somebody was forgotten"
            self._check(asked)

    def _counts(self) -> None:
        """Nobody is counted who is gone, and whatever was computed was somebody's."""
        queue, counters = self.core.scheduler.queue, self.core.counters
        assert queue.num_waiting == 0 and not list(queue)
        assert all(queue.running(client) == 0 for client in ("a", "b", "c", LITTLE))
        assert not self.core.scheduler.running
        passed = sum(len(ids) for p in self.model.passes for ids in p)
        assert counters.rows <= passed and (counters.failed_passes or counters.rows == passed)
        assert counters.kept <= counters.proposed
        assert counters.admitted + counters.forked >= sum(a.began for a in self.asked.values())
        assert counters.admitted - counters.preempted <= len(self.asked)
        ends = [(a.reason is not None) + (a.error is not None) + a.cancelled for a in self.asked.values()]
        assert ends == [1] * len(ends), "an end each"

    def _check(self, asked: Asked) -> None:
        ids = [*asked.order.ids, *itertools.chain(*asked.order.want.others)]
        if isinstance(asked.error, TimedOut):
            assert asked.order.timeout_s is not None
        elif isinstance(asked.error, PassFailed):
            assert RAISES in ids
            assert not asked.tokens
            return
        elif isinstance(asked.error, BadCheckpoint):
            assert NOT_FINITE in ids
            assert "layer 1" in str(asked.error)
            return  # what it was told before is as in any other
        elif isinstance(asked.error, DoesNotFit):
            raise AssertionError("the pools hold a context")
        elif asked.reason is None:
            assert asked.cancelled
        if asked.order.want.what != "tokens":
            self._check_numbers(asked)
        if asked.tokens:
            found = alone(asked)
            assert asked.tokens == found[: len(asked.tokens)]
            assert asked.reason is None or len(asked.tokens) == len(found)

    def _check_numbers(self, asked: Asked) -> None:
        """What a measured one was told is right; all of it, if it came to its end."""
        assert not asked.tokens
        ids, want, whole = asked.order.ids, asked.order.want, asked.reason is not None
        if want.what == "logprobs":
            texts = [ids, *([*ids[: want.start], *other] for other in want.others)]
            places = [(text, t) for text in texts for t in range(want.start, len(text))]
            assert len(asked.scores) == len(places) if whole else len(asked.scores) <= len(places)
            for (text, t), score in zip(places, asked.scores, strict=False):
                token_id, logprob, is_greedy, order = score_of(text[:t], text[t], want.top)
                assert (score.token_id, score.is_greedy) == (token_id, is_greedy)
                assert abs(score.logprob - logprob) < 1e-9
                assert [i for i, _ in score.top] == order
        elif want.what == "logits":
            assert len(asked.rows) == len(ids) if whole else len(asked.rows) < len(ids)
            for t, row in enumerate(asked.rows):
                assert row.tobytes() == logits_of(ids[: t + 1]).tobytes()
        elif whole:
            (row,) = asked.rows
            assert row.tobytes() == state_of(ids).tobytes()
