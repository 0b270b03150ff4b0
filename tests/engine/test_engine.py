"""The engine over FakeModel: everything about requests that needs no arithmetic."""

import threading

import numpy as np
import pytest

from helpers import PATIENCE_S
from herd.engine.engine import Engine
from herd.engine.fake import FakeModel
from herd.engine.request import Finish, Request, SamplingOptions, Step
from herd.errors import ContextTooLong, UsageError
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
END = 257
PATCH = 266


def says(text: str, prompt: int) -> FakeModel:
    """A model whose answer to a prompt of this many ids is the text, then the end id."""
    answer = [*text.encode(), END]
    return FakeModel(lambda ids: answer[min(len(ids) - prompt, len(answer) - 1)])


def engine_for(model: FakeModel, **arguments: int) -> Engine:
    return Engine(model, lambda: StreamDecoder(BYTES), BYTES.eos_ids, **arguments)


def request(ids: list[int], pixels: object = None, **options: object) -> Request:
    return Request(ids, SamplingOptions().with_(options), pixels)


def run(engine: Engine, r: Request) -> tuple[str, list[int], Finish]:
    steps = list(engine.stream(engine.submit(r)))
    assert all(s.finish is None for s in steps[:-1])
    assert steps[-1].finish is not None
    return "".join(s.text for s in steps), [s.token_id for s in steps if s.token_id is not None], steps[-1].finish


def test_an_answer_ends_at_the_end_id_which_is_not_shown() -> None:
    text, ids, finish = run(engine_for(says("Hällo", 3)), request([1, 2, 3]))
    assert text == "Hällo"
    assert ids == [*"Hällo".encode(), END]
    assert finish.reason == "stop"
    assert (finish.usage.prompt_tokens, finish.usage.output_tokens) == (3, 7)


def test_max_tokens_in_the_middle_of_a_character() -> None:
    text, ids, finish = run(engine_for(says("a€", 1)), request([1], max_tokens=3))
    assert (text, len(ids), finish.reason) == ("a\N{REPLACEMENT CHARACTER}", 3, "length")


def test_a_stop_string_over_tokens_is_cut_and_nothing_of_it_shown() -> None:
    engine = engine_for(says("one two three", 1))
    steps = list(engine.stream(engine.submit(request([1], stop=[" tw", "zzz"]))))
    assert [s.text for s in steps] == ["o", "n", "e", "", "", ""]
    assert steps[-1].finish is not None
    assert steps[-1].finish.reason == "stop"


def test_text_that_only_looked_like_a_stop_string_comes_in_the_end() -> None:
    text, _, finish = run(engine_for(says("one tw", 1)), request([1], stop=[" two"]))
    assert (text, finish.reason) == ("one tw", "stop")


def test_stop_ids_and_ignore_eos() -> None:
    model = says("abc", 1)
    assert run(engine_for(model), request([1], stop_ids=[ord("b")]))[0] == "a"
    text, ids, finish = run(engine_for(says("ab", 1)), request([1], ignore_eos=True, max_tokens=5))
    assert (text, ids, finish.reason) == ("ab", [97, 98, END, END, END], "length")


def test_the_context_may_be_filled_exactly() -> None:
    model = FakeModel(lambda ids: 65, context=8)
    engine = engine_for(model)
    text, _, finish = run(engine, request([1] * 5))
    assert (text, finish.reason) == ("AAAA", "length"), "positions 5, 6, 7 and a last token that needs none"
    assert run(engine, request([1] * 8))[0] == "A"
    with pytest.raises(ContextTooLong, match="the prompt has 9 tokens, the context holds 8"):
        engine.submit(request([1] * 9))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request([]), "prompt: got no tokens"),
        (request([1, 320]), "prompt: got id 320, expected ids from 0 to 319"),
        (request([-1]), "prompt: got id -1"),
        (request([1], max_tokens=5000), "max_tokens: got 5000, expected at most the context, 4096"),
        (request([1], logit_bias={999: 1}), "logit_bias: got 999"),
        (request([1], pixels=np.zeros((1, 3, 2, 2))), "an image was given to a text model"),
    ],
)
def test_bad_requests_are_refused_at_submit(bad: Request, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        engine_for(says("x", 1)).submit(bad)


def test_prefill_comes_in_pieces_and_only_the_last_asks_for_logits() -> None:
    calls: list[int] = []

    def next_id(ids: list[int]) -> int:
        calls.append(len(ids))
        return END

    model = FakeModel(next_id)
    run(engine_for(model, piece=4), request(list(range(11))))
    assert [len(p[0]) for p in model.passes] == [4, 4, 3]
    assert calls == [11]


def test_the_next_turn_computes_only_what_is_new() -> None:
    model = FakeModel(lambda ids: END if len(ids) % 5 == 0 else 65, chunk=None)
    engine = engine_for(model)
    prompt = [1, 2, 3]
    _, out, first = run(engine, request(prompt))
    assert first.usage.cached_tokens == 0
    model.passes.clear()
    turn = [*prompt, *out, 7, 8]
    _, _, second = run(engine, request(turn))
    assert second.usage.cached_tokens == len(prompt) + len(out) - 1, "the end id itself was never run"
    assert model.passes[0] == [[END, 7, 8]]


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    model = says("abc", 4)
    engine = engine_for(model)
    first = run(engine, request([1, 2, 3, 4]))
    model.passes.clear()
    again = run(engine, request([1, 2, 3, 4]))
    assert again[:2] == first[:2]
    assert model.passes[0] == [[4]]
    model.cache.check()


def test_chunked_layers_take_the_prefix_back_to_a_chunk_edge() -> None:
    model = FakeModel(lambda ids: END, chunk=16)
    engine = engine_for(model)
    run(engine, request(list(range(40))))
    _, _, finish = run(engine, request([*range(30), 99]))
    assert finish.usage.cached_tokens == 16, "keys of 16..29 lie in a chunk that is over"
    _, _, finish = run(engine, request([*range(30), 98]))
    assert finish.usage.cached_tokens == 30
    model.cache.check()


def test_image_rows_are_cached_by_what_is_in_the_image() -> None:
    model = FakeModel(lambda ids: END, patch_id=PATCH, chunk=None)
    engine = engine_for(model, piece=6)
    tiles = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    ids = [1, *[PATCH] * 4, 2, *[PATCH] * 4, 3]
    _, _, finish = run(engine, request(ids, pixels=tiles))
    assert (finish.usage.cached_tokens, model.seen_tiles) == (0, 2)
    codes = [int(x) for x in model.encode_images(tiles)[:, 0]]
    model.seen_tiles = 2
    assert model.features == [codes[:4], codes[4:]], "each patch row gets its own feature row"
    _, _, finish = run(engine, request(ids, pixels=tiles.copy()))
    assert (finish.usage.cached_tokens, model.seen_tiles) == (len(ids) - 1, 2), "neither computed nor looked at again"
    other = tiles.copy()
    other[1, 0, 0, 0] += 1
    _, _, finish = run(engine, request(ids, pixels=other))
    assert (finish.usage.cached_tokens, model.seen_tiles) == (6, 3), "only the tile that is new"
    assert model.features[2:] == [[int(x) for x in model.encode_images(other)[4:, 0]]]


@pytest.mark.parametrize("patches", [0, 3, 5, 8])
def test_patch_tokens_must_fit_the_tiles(patches: int) -> None:
    model = FakeModel(lambda ids: END, patch_id=PATCH)
    with pytest.raises(UsageError, match=f"image tokens in the prompt: got {patches}, expected 4 for each of 1 tiles"):
        engine_for(model).submit(request([1, *[PATCH] * patches], pixels=np.zeros((1, 3, 2, 2))))
    with pytest.raises(UsageError, match="image tokens in the prompt: got 1, expected 4 for each of 0 tiles"):
        engine_for(model).submit(request([1, PATCH]))


def test_ctrl_c_keeps_what_was_said() -> None:
    def next_id(ids: list[int]) -> int:
        if len(ids) == 4:
            raise KeyboardInterrupt
        return 65

    model = FakeModel(next_id)
    engine = engine_for(model)
    text, _, finish = run(engine, request([1], stop=["AAAA"]))
    assert (text, finish.reason, finish.usage.output_tokens) == ("AAA", "interrupted", 3)
    model.next_logits = lambda ids: END
    assert run(engine, request([1]))[2].reason == "stop"


@pytest.mark.parametrize("at", [1, 3])
def test_cancel_ends_after_the_pass_in_progress(at: int) -> None:
    engine = engine_for(FakeModel(lambda ids: 65), piece=2)
    job = engine.submit(request([1, 2, 3]))
    steps: list[Step] = []
    for step in engine.stream(job):
        steps.append(step)
        if len(steps) == at:
            engine.cancel(job)
    assert len(steps) == at + 1
    assert steps[-1].finish is not None
    assert steps[-1].finish.reason == "interrupted"


def test_cancel_before_the_first_token_computes_nothing() -> None:
    model = FakeModel(lambda ids: 65)
    engine = engine_for(model, piece=2)
    job = engine.submit(request(list(range(9))), start=False)
    engine.cancel(job)
    steps = list(engine.stream(job))
    assert [s.token_id for s in steps] == [None]
    assert len(model.passes) <= 1
    assert model.pager.free == model.cache.total()


def test_streams_of_one_thread_go_on_side_by_side() -> None:
    engine = engine_for(FakeModel(lambda ids: 65))
    stream = engine.stream(engine.submit(request([1])))
    next(stream)
    assert run(engine, request([1], max_tokens=2))[0] == "AA"
    assert next(stream).text == "A"
    stream.close()
    assert run(engine, request([1], max_tokens=2))[0] == "AA"


def test_threads_are_served_together() -> None:
    engine = engine_for(says("abcdefgh", 1))
    results: list[str] = []

    def ask() -> None:
        results.append(run(engine, request([1]))[0])

    held = engine.stream(engine.submit(request([1])))
    next(held)
    threads = [threading.Thread(target=ask) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
    assert results == ["abcdefgh"] * 20, "the first stream is still open"
    assert "".join(s.text for s in held) == "bcdefgh"


def test_a_model_that_breaks_fails_one_request_only() -> None:
    model = FakeModel(lambda ids: [float("nan")] * 320)
    engine = engine_for(model)
    with pytest.raises(ValueError, match="logits"):
        run(engine, request([1]))
    model.next_logits = lambda ids: END
    assert run(engine, request([1]))[2].reason == "stop"


def test_seeds_reproduce_and_differ() -> None:
    engine = engine_for(FakeModel(lambda ids: [0.0] * 256 + [-50.0] * 64))

    def draw(seed: int) -> list[int]:
        options = SamplingOptions(temperature=1.0, max_tokens=20)
        return [
            s.token_id for s in engine.stream(engine.submit(Request([1], options, seed=seed))) if s.token_id is not None
        ]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_logprobs_come_with_each_token() -> None:
    engine = engine_for(FakeModel(lambda ids: [0.0] * 320))
    steps = list(engine.stream(engine.submit(request([1], max_tokens=2, logprobs=2))))
    for step in steps:
        assert step.logprob is not None
        assert step.logprob.token_id == step.token_id
        assert step.logprob.logprob == pytest.approx(-np.log(320))
        assert [i for i, _ in step.logprob.top] == [0, 1]


def test_penalties_see_prompt_and_output() -> None:
    engine = engine_for(FakeModel(lambda ids: [3.0, 2.0, 1.0] + [0.0] * 317))
    ids = run(engine, request([0], repetition_penalty=10.0, max_tokens=3))[1]
    assert ids == [1, 2, 0], "0 was in the prompt; 0.3 is the best that is left in the end"
