"""Other weights at a step border: all or none, nothing of the old ones is left, and requests under way go on."""

import dataclasses
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers import OP_SETS, PATIENCE_S, TINY_TEXT, op_set, weights, with_block
from herd.config import TINY
from herd.engine.core import Core
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fake import FakeModel
from herd.engine.messages import EndedEvent, MeasuredEvent, StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, Want
from herd.engine.runner import Runner
from herd.errors import EngineDied, HerdError, UsageError
from herd.model import check_same, place_weights
from herd.weights import Dense, Model, Packed

PROMPT = [1, 9, 40, 3, 77, 40, 3, 5, 200, 11, 64, 2, 8]
OPTIONS = SamplingOptions(max_tokens=10, logprobs=3)


def core(name: str, seed: int, **arguments: Any) -> Core:
    ops = op_set(name)
    config = arguments.pop("config", TINY_TEXT)
    runner = Runner(config, place_weights(ops, weights(config, seed)), ops, context=64, page_size=4)
    return Core(runner, budget=8, places=3, **arguments)


def order(number: int, ids: list[int] = PROMPT, options: SamplingOptions = OPTIONS, **fields: Any) -> Request:
    return Request(number=number, ids=ids, options=options, **fields)


def run(core: Core, *orders: Request, steps: int = 10_000) -> dict[int, list[Any]]:
    """(token, log-probabilities) by sequence."""
    for one in orders:
        core.add(one)
    said: dict[int, list[Any]] = {}
    while core.busy and steps:
        steps -= 1
        for event in core.step():
            if isinstance(event, TokenEvent):
                said.setdefault(event.number, []).append((event.token_id, event.logprob))
            assert not isinstance(event, EndedEvent), event
    return said


@pytest.mark.parametrize("name", OP_SETS)
def test_before_after_and_in_flight_equal_a_fresh_load_to_the_bit(name: str) -> None:
    old, new = core(name, 0), core(name, 1)
    before = run(old, order(0))
    assert before == run(core(name, 0), order(0))
    # a row of the reference depends on what else is in its pass
    asked = {1: PROMPT[:6]} if name == "torch" else {1: PROMPT[:6], 2: PROMPT[3:]}
    early = run(old, *(order(number, ids) for number, ids in asked.items()), steps=7)
    assert all(0 < len(early[n]) < 10 for n in asked), "all have said something, and are under way"
    old.update_weights(old.runner.ready_weights(weights(TINY_TEXT, 1)))
    assert not old.runner.cache.tree.blocks  # type: ignore[union-attr]
    late = run(old)
    for number, ids in asked.items():
        text = ids + [token for token, _ in early[number]]
        left = OPTIONS.with_({"max_tokens": 10 - len(early[number])})
        assert late[number] == run(new, order(10 + number, text, left))[10 + number]
        assert late[number] != run(core(name, 0), order(0, text, left))[0], "the two models differ"
    after = order(3, PROMPT[::-1])
    assert run(old, after) == run(core(name, 1), after)
    old.runner.cache.check()
    assert old.counters.failed_passes == 0


def test_half_a_mean_begins_anew_and_scores_that_were_told_stay() -> None:
    def numbers(one: Core, steps: int = 10_000) -> tuple[list[float], bytes]:
        scores, rows = [], b""
        while one.busy and steps:
            steps -= 1
            for event in one.step():
                if isinstance(event, MeasuredEvent):
                    scores += [score.logprob for score in event.scores]
                    rows += b"" if event.rows_RX is None else event.rows_RX.tobytes()
        return scores, rows

    def asked(seed: int, what: Any) -> Core:
        one = core("native", seed)
        one.add(order(0, want=Want(what=what)))
        return one

    old, new = asked(0, "state"), asked(1, "state")
    assert numbers(old, steps=1) == ([], b"")
    old.update_weights(old.runner.ready_weights(weights(TINY_TEXT, 1)))
    assert numbers(old) == numbers(new)
    old, new, before = asked(0, "logprobs"), asked(1, "logprobs"), asked(0, "logprobs")
    told, _ = numbers(old, steps=1)
    assert 0 < len(told) < len(PROMPT) - 1
    old.update_weights(old.runner.ready_weights(weights(TINY_TEXT, 1)))
    rest, _ = numbers(old)
    assert told == numbers(before)[0][: len(told)]
    assert rest == numbers(new)[0][len(told) :]


def test_no_cached_prefix_is_found_again() -> None:
    old = core("native", 0)
    run(old, order(0))
    old.update_weights(old.runner.ready_weights(weights(TINY_TEXT, 1)))
    old.add(order(1))
    assert [event.cached for event in old.step() if isinstance(event, StartedEvent)] == [0]


def test_images_are_looked_at_anew_and_guesses_are_learnt_anew() -> None:
    """In flight with its images half read; the features of a tile are those of the new weights."""

    class Eyes(FakeModel):
        shift = 0

        def encode_images(self, pixels_I3SS: Any) -> Any:
            return super().encode_images(pixels_I3SS) + self.shift

    def next_id(ids: list[int]) -> int:
        return sum(i % 9973 for i in ids) % 7

    def new_model() -> Eyes:
        return Eyes(next_id, patch_id=266, tokens_per_tile=4, page_size=2)

    tiles = np.random.default_rng(0).random((3, 3, 2, 2), np.float32)
    asked = order(0, [1, *[266] * 12, 5], pixels_I3SS=tiles, digests=(b"a", b"b", b"c"))
    model = new_model()
    core = Core(model, budget=6, places=2)
    core.add(asked)
    core.step()
    before = core._entries[0].draft_length
    core.update_weights(lambda: setattr(model, "shift", 1000))
    assert core._entries[0].draft_length is not before
    said = run(core)[0]
    fresh = new_model()
    fresh.shift = 1000
    assert said == run(Core(fresh, budget=6, places=2), asked)[0]


def changed(tree: Model, **fields: Any) -> Model:
    """A copy whose third layer's query matrix has other fields."""
    q: Any = tree.blocks[2].q
    return with_block(tree, 2, q=replace(q, **fields))


def wrong() -> dict[str, tuple[Any, str]]:
    tree = weights(TINY_TEXT, 1)
    q: Any = tree.blocks[2].q
    packed = with_block(tree, 1, k=Packed("q8_0", np.zeros((4, 4), np.uint8), (4, 4), None, tree.blocks[1].k.name))
    shorter = replace(tree, blocks=tree.blocks[:3])
    return {
        "a shape": (changed(tree, w=q.w[:-1]), "layers.2.self_attn.q_proj w"),
        "a name": (changed(tree, name="else"), "else"),
        "a number format": (changed(tree, w=q.w.astype(np.float16)), "layers.2.self_attn.q_proj w: got float16"),
        "no array": (changed(tree, w=None), "layers.2.self_attn.q_proj w: got NoneType, expected an array"),
        "a bias": (changed(tree, bias=q.w[0]), "layers.2.self_attn.q_proj bias"),
        "a kind": (packed, "layers.1.self_attn.k_proj"),
        "a layer less": (shorter, "blocks"),
        "an image tower": (weights(TINY, 1), "vision"),
        "no tree": ({"model.embed_tokens": q.w}, "expected model"),
    }


@pytest.mark.parametrize("what", wrong())
def test_what_differs_is_named_and_the_old_weights_answer_on(what: str) -> None:
    tree, where = wrong()[what]
    old = core("native", 0)
    answer = run(old, order(0))
    with pytest.raises(UsageError, match="new weights") as error:
        old.runner.ready_weights(tree)
    assert where in str(error.value)
    assert run(old, order(1))[1] == answer[0]


def test_every_part_of_a_tree_is_compared() -> None:
    """Each field of each node, found by walking the tree, is named when it differs."""
    held = weights(TINY, 0)
    check_same(weights(TINY, 1), held)
    found = 0

    def walk(node: Any) -> None:
        nonlocal found
        if isinstance(node, tuple):
            for one in node:
                walk(one)
            return
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if (isinstance(value, tuple) and field.name == "blocks") or dataclasses.is_dataclass(value):
                walk(value)
                continue
            object.__setattr__(node, field.name, object())
            with pytest.raises(UsageError, match="new weights"):
                check_same(given, held)
            object.__setattr__(node, field.name, value)
            found += 1

    given = weights(TINY, 1)
    walk(given)
    assert found > 200
    check_same(given, held)


def test_a_thread_takes_them_between_two_steps() -> None:
    worker = ThreadExecutor(FakeModel(lambda ids: 1), piece=8, places=2)
    heard: dict[int, list[int]] = {0: [], 1: []}
    some, over = threading.Event(), threading.Event()

    def deliver(events: Any) -> None:
        for event in events:
            if isinstance(event, TokenEvent):
                heard[event.number].append(event.token_id)
                if len(heard[0]) > 5:
                    some.set()
                if event.reason is not None and event.number == 1:
                    over.set()

    worker.connect(deliver)
    worker.submit(order(0, options=SamplingOptions(max_tokens=4000)))
    assert some.wait(PATIENCE_S)
    worker.update_weights(lambda ids: 2)
    worker.submit(order(1, options=SamplingOptions(max_tokens=3)))
    assert over.wait(PATIENCE_S)
    worker.cancel(0)
    assert heard[1] == [2, 2, 2]
    said = list(heard[0])  # it goes on meanwhile
    assert said == sorted(said) and set(said) <= {1, 2}
    for bad in (7, "a path"):
        with pytest.raises(UsageError, match="new weights"):
            worker.update_weights(bad)
    worker.close()
    with pytest.raises(EngineDied):
        worker.update_weights(lambda ids: 3)


def test_whoever_waits_for_a_border_hears_that_the_engine_is_gone() -> None:
    """Also where its turn was taken, and the thread died before it."""
    worker = ThreadExecutor(FakeModel(lambda ids: 1), piece=8, places=2)
    worker.connect(lambda events: None)
    worker._core.cancel = lambda number: 1 // 0  # type: ignore[method-assign]
    with worker._wake:
        worker._sent.append(5)
    with pytest.raises(HerdError, match="the engine stopped"):
        worker.update_weights(lambda ids: 2)


def test_a_read_path_comes_with_its_check() -> None:
    read: list[str] = []

    def read_weights(path: str) -> tuple[Any, Any]:
        read.append(path)
        return (lambda ids: 5), lambda: None

    worker = ThreadExecutor(FakeModel(lambda ids: 1), piece=8, places=2, read_weights=read_weights)
    worker.connect(lambda events: None)
    worker.update_weights("there")
    assert read == ["there"]
    assert worker.runner.next_logits([1]) == 5  # type: ignore[attr-defined]
    worker.close()


def test_a_tied_head_stays_one_node() -> None:
    config = replace(TINY_TEXT, tied_embeddings=True)
    tied = core("native", 0, config=config)
    tied.update_weights(tied.runner.ready_weights(weights(config, 1)))
    held = tied.runner.weights  # type: ignore[attr-defined]
    assert held.head is held.embed
    assert isinstance(held.head, Dense)
    assert run(tied, order(0)) == run(core("native", 1, config=config), order(0))
