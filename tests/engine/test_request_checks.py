"""What came past the door of the engine costs itself alone: orders with anything in any field, between good ones, end
with an error or an answer, and every other sequence says what it says alone. Fields come from the structs."""

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from herd.engine.core import Core
from herd.engine.engine import Engine
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fake import FakeModel
from herd.engine.messages import EndedEvent, Event, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.speculative import Guessable, PromptLookup
from herd.engine.tiles import Tiles
from herd.errors import HerdError
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
PATCH = 266
TILES = np.zeros((1, 3, 2, 2), np.float32)
ANYTHING: list[Any] = [
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 1.5, math.nan, math.inf, -math.inf, "", "x", b"", b"x", (), (1,),
    (-1,), ("x",), ((5, 1),), ((5, "x"),), ((5,),), (b"x",), [], [1], [PATCH], [320], [-1], [None], [10**30], ["x"],
    [[1]], {}, {1: 1.0}, {1: math.nan}, {999: 1.0}, {"x": 1}, {1: None}, set(), object(), print, TILES, np.zeros(3),
    np.array(["x"]), np.zeros((2, 3, 2, 2)), np.full((1, 3, 2, 2), math.nan),
]  # fmt: skip
OPTIONS = SamplingOptions(max_tokens=6)


def next_id(ids: list[int]) -> int:
    return (sum(i % 1000 for i in ids) * 7 + len(ids)) % 90


def model() -> FakeModel:
    return FakeModel(next_id, patch_id=PATCH, context=256)


def order(which: int, **fields: Any) -> Request:
    """A good one, but for these fields."""
    ids = [1, *[PATCH] * 4, which % 50, 3]
    made = Request(number=which, ids=ids, options=OPTIONS, pixels_I3SS=TILES, digests=(which.to_bytes(32, "big"),))
    made = msgspec.structs.replace(made, options=msgspec.structs.replace(OPTIONS))
    for name, value in fields.items():
        msgspec.structs.force_setattr(made, name, value)
    return made


def bad_orders() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in Request.__struct_fields__:
        for value in ANYTHING:
            yield name, {name: value}
    for name in SamplingOptions.__struct_fields__:
        for value in ANYTHING:
            options = msgspec.structs.replace(OPTIONS)
            msgspec.structs.force_setattr(options, name, value)
            yield f"options.{name}", {"options": options}


def test_no_order_ends_what_others_say() -> None:
    heard: list[Event] = []
    worker = ThreadExecutor(model(), piece=16, places=4)
    engine = Engine(worker, lambda: StreamDecoder(BYTES))
    post = worker._deliver
    worker.connect(lambda events: (heard.extend(events), post(events))[1])
    good = Request([1, 2, 3], SamplingOptions(max_tokens=8))
    alone = [step.token_id for step in engine.stream(engine.submit(good))]
    number = 1000
    engine._number = 10**6  # none of theirs is one of these
    for name, fields in bad_orders():
        number += 10
        stream = engine.stream(engine.submit(good))
        said = [next(stream).token_id]
        with contextlib.suppress(HerdError, AttributeError):  # on the thread of whoever sent it
            worker.submit(order(number, **fields))
        said += [step.token_id for step in stream]
        assert said == alone, (name, fields)
        assert worker.over is None, (name, fields, worker.over and worker.over.__cause__)
    ended = [event for event in heard if isinstance(event, EndedEvent)]
    assert len(ended) > 500
    assert all(isinstance(event.error, HerdError) for event in ended)
    engine.close()


def test_sequences_that_fail_in_every_way_leave_the_pages_and_the_others_whole() -> None:
    """At random: matchers, proposers, images and logits that raise anything, even what is no Exception."""

    class Panic(BaseException):
        pass

    class Bad:
        """A matcher, or guesses for a sequence, that fail at their nth use."""

        end_id = 257

        def __init__(self, after: int, error: BaseException) -> None:
            self.after, self.error = after, error

        def _use(self) -> None:
            self.after -= 1
            if self.after < 0:
                raise self.error

        @property
        def is_over(self) -> bool:
            self._use()
            return False

        def allowed(self) -> Any:
            self._use()
            return np.arange(90)

        def num_allowed(self, ids: Sequence[int]) -> int:
            self._use()
            return len(ids)

        def accept(self, token_id: int) -> None:
            self._use()

        def copy(self) -> "Bad":
            return Bad(self.after, self.error)

        def propose(self, ids: Sequence[int], most: int) -> Sequence[int]:
            self._use()
            return [PATCH, *ids[:most]] if len(ids) % 2 else list(ids[:most])

    class Guesses(PromptLookup):
        """Some sequences have bad ones."""

        def __init__(self) -> None:
            super().__init__()
            self.bad: dict[int, Bad] = {}

        def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
            good = super().propose(entries)
            return [
                self.bad[entry.number].propose(entry.ids, entry.wanted) if entry.number in self.bad else found
                for entry, found in zip(entries, good, strict=True)
            ]

        def drop(self, number: int) -> None:
            super().drop(number)
            if number in self.bad:
                self.bad[number]._use()

    rng = random.Random(3)
    errors = [
        ValueError("x"),
        RuntimeError("two\nlines"),
        Panic("rust"),
        MemoryError(),
        AssertionError(),
        RecursionError(),
    ]
    for _ in range(60):
        guesses = Guesses()
        core = Core(model(), budget=16, places=4, proposer=guesses)
        kinds: dict[int, str] = {}
        for number in range(6):
            bad = Bad(rng.randrange(8), rng.choice(errors))
            kind = kinds[number] = rng.choice(["good", "good", "matcher", "proposer", "see"])
            if kind == "proposer":
                guesses.bad[number] = bad
            core.add(order(number))
            if kind == "see":
                core._entries[number].tiles = Tiles(_Unseen(bad.error))
            if kind == "matcher":
                core._entries[number].matcher = bad  # type: ignore[assignment]
        said: dict[int, list[int]] = {n: [] for n in kinds}
        ends: dict[int, Any] = {}
        for _ in range(400):
            for event in core.step():
                if isinstance(event, TokenEvent):
                    said[event.number].append(event.token_id)
                if isinstance(event, EndedEvent) or (isinstance(event, TokenEvent) and event.reason):
                    ends[event.number] = event
            if not core.busy:
                break
        assert set(ends) == set(kinds), "each ended"
        for number, kind in kinds.items():
            if kind in ("good", "proposer"):
                assert said[number] == _alone(number), kind
            elif kind == "see":
                assert isinstance(ends[number].error, HerdError)
        core.runner.cache.check()
        core.runner.cache.clear()
        assert core.runner.cache.free() == core.runner.cache.total()


class _Unseen:
    """Tiles that cannot be looked at."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, at: Any) -> Any:
        raise self.error


def _alone(number: int) -> list[int]:
    core = Core(model(), budget=16, places=4)
    core.add(order(number))
    said: list[int] = []
    while core.busy:
        said += [event.token_id for event in core.step() if isinstance(event, TokenEvent)]
    return said


@pytest.mark.parametrize("reach", ["digests", "samples", "end_ids", "pixels_I3SS", "ids"])
def test_what_is_refused_changes_nothing(reach: str) -> None:
    core = Core(model(), budget=16, places=4)
    with pytest.raises(HerdError):
        core.add(order(1, **{reach: ["x"]}))
    assert not core.busy
    assert not core._entries
    core.add(order(1))
    with pytest.raises(HerdError, match="number: got 1"):
        core.add(order(1))
