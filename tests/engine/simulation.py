"""Seeded schedules over the core and FakeModel: one number makes a whole day of requests.

Everything that can happen is drawn: arrivals, clients, priorities, deadlines, cancels, samples of one prompt, prompts
that share beginnings, images, ids that break a pass or make it not finite, tiny pools, budgets and places, chunks,
an exact pool. What must hold is checked on the way and at the end; FakeModel itself checks every page it reads.
"""

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from herd.engine.core import Core
from herd.engine.fake import FakeModel
from herd.engine.orders import Began, Ended, Order, Token
from herd.engine.request import SamplingOptions
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

    order: Order
    seed: int
    tokens: list[int] = field(default_factory=list)
    began: int = 0
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
        seen = iter(model.see(order.pixels_I3SS)[:, 0].tolist())
        ids = [i | next(seen) << 32 if i == PATCH else i for i in ids]
    from herd.engine.sampler import History, sample

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


CONTEXT = 40


class Day:
    """One seed's requests, model and core."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        size = rng.choice((1, 2, 4))
        chunk = rng.choice((None, 8, 16))
        enough = -(-CONTEXT // size)
        pages = enough + rng.choice((0, 1, 3, enough, 4 * enough))
        chunk_pages = (chunk or 0) // size + 2 + rng.choice((0, 1, 8, 40))
        budget = rng.choice((4, 7, 16, 64))
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
            bad={RAISES: "raise", NOT_FINITE: "nan"},
            cost=lambda rows: 0.01 + 0.001 * rows,
        )
        self.core = Core(
            self.model,
            budget=budget,
            places=rng.randint(1, min(6, budget)),
            most_waiting=rng.choice((4, 64)),
            clock=self.model.clock,
        )
        self.core.scheduler.turn = rng.choice((1, 8, 64))
        self.core.scheduler.queue.patience = rng.choice((5, 1000))
        self.base = [[rng.randrange(TEXT) for _ in range(CONTEXT)] for _ in range(2)]
        self.asked: dict[int, Asked] = {}
        self.busy = 0
        self.steps = 0

    def run(self, check_every: int = 1) -> None:
        """All of it, to the end."""
        rng = self.rng
        orders = [self._order(n) for n in range(rng.randint(2, 9))]
        number = 0
        while orders or self.core.busy:
            while orders and (rng.random() < 0.4 or not self.core.busy):
                number = self._add(orders.pop(), number)
            if rng.random() < 0.06 and self.asked:
                self._cancel(rng.choice(list(self.asked.values())))
            for event in self.core.step():
                self._heard(event)
            self.steps += 1
            if check_every and self.steps % check_every == 0:
                self.model.room.check()
            assert self.steps < 3000, "work does not end"
        self._close()

    def _order(self, n: int) -> dict[str, Any]:
        rng = self.rng
        keep = rng.randrange(0, 24)
        ids = [*rng.choice(self.base)[:keep], *(rng.randrange(TEXT) for _ in range(rng.randint(1, 8)))]
        pixels, digests = None, ()
        if rng.random() < 0.12:
            tiles = rng.randint(1, 6)
            values = [rng.randrange(3) for _ in range(tiles)]
            pixels = np.array(values, np.float32).reshape(tiles, 1, 1, 1)
            digests = tuple(bytes([v]) for v in values)
            at = rng.randrange(len(ids))
            ids[at:at] = [PATCH] * (2 * tiles)
            ids = ids[: max(len(ids), at + 2 * tiles)]
        if rng.random() < 0.06:
            ids.append(RAISES)
        elif rng.random() < 0.06:
            ids.append(NOT_FINITE)
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
        }

    def _add(self, fields: dict[str, Any], number: int) -> int:
        if len(fields["ids"]) > CONTEXT:
            return number
        n = self.rng.choice((1, 1, 1, 1, 3))
        seed = fields["seed"]
        samples = tuple((number + i, seed + i) for i in range(1, n))
        order = Order(number=number, samples=samples, **fields)
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
        held = self.model.room.free()
        self.core.cancel(number)
        if not asked.over:
            asked.cancelled = True
        free = self.model.room.free()
        assert free.whole >= held.whole and free.chunk >= held.chunk
        self.model.room.check()

    def _heard(self, event: Any) -> None:
        asked = self.asked[event.number]
        assert not asked.over, "something came after the end"
        if isinstance(event, Began):
            asked.began += 1
            assert asked.began == 1
            assert 0 <= event.cached < len(asked.order.ids)
        elif isinstance(event, Token):
            assert asked.began == 1
            asked.tokens.append(event.token_id)
            asked.reason = event.reason
            asked.over = event.reason is not None
        else:
            assert isinstance(event, Ended)
            asked.error, asked.over = event.error, True
        asked.over_at = self.steps

    def _close(self) -> None:
        room = self.model.room
        room.check()
        assert not self.core._entries
        assert not self.model.pager.leases
        room.forget()
        assert room.free() == room.total(), "pages lost"
        for asked in self.asked.values():
            assert asked.over, "somebody was forgotten"
            self._check(asked)

    def _check(self, asked: Asked) -> None:
        ids = asked.order.ids
        if isinstance(asked.error, TimedOut):
            assert asked.order.timeout_s is not None
        elif isinstance(asked.error, PassFailed):
            assert RAISES in ids
            assert not asked.tokens
            return
        elif isinstance(asked.error, BadCheckpoint):
            assert NOT_FINITE in ids
            assert "layer 1" in str(asked.error)
            return
        elif isinstance(asked.error, DoesNotFit):
            raise AssertionError("the pools hold a context")
        elif asked.reason is None:
            assert asked.cancelled
        if asked.tokens:
            found = alone(asked)
            assert asked.tokens == found[: len(asked.tokens)]
            assert asked.reason is None or len(asked.tokens) == len(found)
