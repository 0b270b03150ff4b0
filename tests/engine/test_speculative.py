"""Guesses for all sequences of a step: what prompt look-up finds, when it is asked, and what it keeps."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from herd.engine.core import Core
from herd.engine.fake import FakeModel
from herd.engine.messages import TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.speculative import Guessable, PromptLookup


@dataclass
class Text:
    number: int
    ids: list[int]
    wanted: int


def looked_up(ids: list[int], wanted: int) -> list[int]:
    """By looking from the end: what followed the last 3 ids, or else the last 2, where they stood last before."""
    for n in (3, 2):
        for at in range(len(ids) - 1, n - 1, -1):
            if ids[at - n : at] == ids[-n:]:
                return ids[at : at + wanted]
    return []


def test_each_sequence_is_looked_up_in_its_own_text_as_it_grows() -> None:
    rng = random.Random(1)
    lookup = PromptLookup()
    texts = [Text(number, [rng.randrange(4) for _ in range(rng.randrange(3, 30))], 1) for number in range(6)]
    for _ in range(60):
        asked = rng.sample(texts, rng.randint(1, 6))
        for text in asked:
            text.ids += [rng.randrange(4) for _ in range(rng.randint(1, 4))]
            text.wanted = rng.randint(1, 8)
        if rng.random() < 0.1:
            lookup.drop(rng.randrange(8))
        if rng.random() < 0.1:
            lookup.clear()
        found = lookup.propose(asked)
        assert [list(ids) for ids in found] == [looked_up(text.ids, text.wanted) for text in asked]


class Watched(PromptLookup):
    """Keeps who was asked for in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []

    def propose(self, entries: Sequence[Guessable]) -> Sequence[Sequence[int]]:
        self.asked.append([entry.number for entry in entries])
        assert all(entry.wanted >= 1 for entry in entries)
        return super().propose(entries)


def test_a_step_asks_once_for_all_and_nothing_is_kept_of_what_is_over() -> None:
    guesses = Watched()
    core = Core(FakeModel(lambda ids: ids[-3] if len(ids) > 2 else 1), places=4, proposer=guesses)
    for number in range(4):
        options = SamplingOptions(max_tokens=20, speculate="off" if number == 3 else "auto")
        core.add(Request(number=number, ids=[number, 5, 6, number, 5], options=options))
    steps, said = 0, 0
    while core.busy:
        said += sum(isinstance(event, TokenEvent) for event in core.step())
        steps += 1
        if steps == 4:
            core.cancel(1)
    assert said > 40
    assert core.counters.kept > 0
    assert len(guesses.asked) <= steps
    assert max(map(len, guesses.asked)) == 3, "one call has all that want guesses"
    assert not any(3 in numbers for numbers in guesses.asked)
    assert not guesses._known
