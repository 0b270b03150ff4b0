"""The Python API: over FakeModel where the words matter, over a tiny checkpoint on disk where the numbers do."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import herd
from helpers import OP_SETS, PATIENCE_S, TINY_DENSE, TINY_TEXT, hf_folder, op_set, until, weights
from herd.batch import packed
from herd.config import TINY
from herd.engine.executors.child import ChildExecutor
from herd.engine.fake import FakeModel
from herd.errors import BadCheckpoint, BadConfig, ContextTooLong, DoesNotFit, EngineDied, NotFound, TimedOut, UsageError
from herd.llm import LLM, DoneEvent, Event, Message, Reply, TextEvent
from herd.messages import ImagePart, TextPart
from herd.text.chat import Llama4
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
END = BYTES.specials["<|eot|>"]


def fake(answer: str | Callable[[list[int]], Any], **arguments: Any) -> LLM:
    """A model that says `answer` to every chat: the ids after the last header are its output so far."""
    open_header = Llama4(BYTES)._open()

    def next_id(ids: list[int]) -> int:
        start = max(i for i in range(len(ids)) if ids[i : i + len(open_header)] == open_header) + len(open_header)
        said = [*str(answer).encode(), END]
        return said[min(len(ids) - start, len(said) - 1)]  # guesses may go beyond the end

    model = FakeModel(next_id if isinstance(answer, str) else answer, **arguments)
    return LLM(TINY, model, BYTES, Llama4(BYTES), name="fake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("models") / "tiny")


# -- words -----------------------------------------------------------------------------------------------------------


def test_chat_gives_the_text_usage_and_timings() -> None:
    reply = fake("Grüße!").chat("hi", temperature=0)
    assert (reply.text, str(reply), reply.finish_reason) == ("Grüße!", "Grüße!", "stop")
    assert reply.ids == (*"Grüße!".encode(), END)
    assert reply.usage.prompt_tokens == len(Llama4(BYTES).encode([Message("user", "hi")]))
    assert reply.usage.output_tokens == 9
    assert reply.timings.first_token_s > 0
    assert reply.timings.decode_tps > 0


def test_a_stream_is_the_reply_in_pieces() -> None:
    events = list(fake("Grüße!").stream("hi"))
    assert [e.text for e in events if isinstance(e, TextEvent)] == ["G", "r", "ü", "ß", "e", "!"]
    assert isinstance(events[-1], DoneEvent)
    assert events[-1].reply.text == "Grüße!"
    assert (events[-1].finish_reason, events[-1].usage, events[-1].timings) == (
        events[-1].reply.finish_reason,
        events[-1].reply.usage,
        events[-1].reply.timings,
    )


def test_what_goes_to_the_model_is_the_chat_format() -> None:
    llm = fake("x")
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    llm.chat([{"role": "user", "content": "a <|eot|>"}, {"role": "assistant", "content": "b"}, Message("user", "c")],
             system="s")  # fmt: skip
    sent = [i for run in model.passes for piece in run for i in piece]
    turns = [Message("system", "s"), Message("user", "a <|eot|>"), Message("assistant", "b"), Message("user", "c")]
    wanted = Llama4(BYTES).encode(turns)
    assert sent[: len(wanted)] == wanted
    assert wanted.count(END) == 4, "the end token in the user's text is text"


def test_options_reach_the_engine() -> None:
    llm = fake("one two three")
    assert llm.chat("hi", stop=" two").text == "one"
    assert llm.chat("hi", max_tokens=3).finish_reason == "length"
    assert [x.text for x in llm.chat("hi", max_tokens=2, logprobs=1).logprobs or ()] == ["o", "n"]
    with pytest.raises(UsageError, match="top_p: got 2"):
        llm.stream("hi", top_p=2)
    with pytest.raises(UsageError, match="option: got temprature"):
        llm.stream("hi", temprature=2)


def test_a_turn_of_a_chat_reuses_what_came_before() -> None:
    llm = fake("yes", chunk=None)
    first = llm.chat("hi")
    dialog = [Message("user", "hi"), Message("assistant", first.text), Message("user", "sure?")]
    assert llm.chat(dialog).usage.cached_tokens == first.usage.prompt_tokens + 3


def test_logprobs_ride_on_the_events() -> None:
    events = list(fake("ab").stream("hi", logprobs=2))
    pieces = [e for e in events if isinstance(e, TextEvent)]
    assert [[x.text for x in e.logprobs or ()] for e in pieces] == [["a"], ["b"]]
    done = events[-1]
    assert isinstance(done, DoneEvent)
    assert done.reply.logprobs is not None
    assert [x.token_id for x in done.reply.logprobs] == [97, 98, END]
    assert all(len(x.top) == 2 for x in done.reply.logprobs)


def test_replies_are_json_and_back() -> None:
    reply = fake("ab").chat("hi", logprobs=1, seed=4)
    data = json.loads(json.dumps(reply.to_dict()))
    assert data["usage"]["output_tokens"] == 3
    assert Reply.from_dict(data) == reply
    assert Reply.from_dict(fake("ab").chat("hi").to_dict()).logprobs is None


def test_a_seed_is_made_up_and_told() -> None:
    llm = fake(lambda ids: [0.0] * 256 + [-60.0] * 64)
    one = llm.chat("hi", temperature=1.0, max_tokens=24)
    again = llm.chat("hi", temperature=1.0, max_tokens=24, seed=one.seed)
    assert again.ids == one.ids
    assert llm.chat("hi", temperature=1.0, max_tokens=24).ids != one.ids


def test_complete_sends_the_first_token_and_the_text() -> None:
    llm = fake(lambda ids: ids[-1] + 1 if ids[-1] < ord("e") else 257)
    assert llm.complete("a").text == "bcde"
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    assert model.passes[0] == [[BYTES.bos_id, 97]]
    assert [e.type for e in llm.stream_complete([98])] == ["text", "text", "text", "done"]
    with pytest.raises(UsageError, match="prompt: got no tokens"):
        llm.complete([])
    with pytest.raises(UsageError, match="ids: got none, expected at least one"):
        llm.logits([])


def test_counts_and_codes() -> None:
    llm = fake("x")
    assert llm.tokenize("hé") == list("hé".encode())
    assert llm.detokenize([104, END]) == "h<|eot|>"
    assert llm.count("hé") == 3
    turns = [Message("user", "hi")]
    assert llm.count(turns) == len(Llama4(BYTES).encode(turns))


def test_chat_many_answers_in_order() -> None:
    replies = fake("yes").chat_many(["a", [Message("user", "b")]], max_tokens=2)
    assert [r.text for r in replies] == ["ye", "ye"]


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts() -> None:
    llm = fake("x", context=40)
    n = llm.count([Message("user", "a" * 50)])
    with pytest.raises(ContextTooLong, match=f"the prompt has {n} tokens, the context holds 40"):
        llm.stream("a" * 50)


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        ([], "messages: got \\[\\]"),
        (5, "messages: got 5"),
        ([{"role": "boss", "content": "x"}], r"messages\[0\].role: got boss"),
        ([{"content": "x"}], r"messages\[0\].role: got null"),
        ([{"role": "user"}], r"messages\[0\].content: got null"),
        ([{"role": "user", "content": b"x"}], r"messages\[0\].content: got bytes"),
        ([{"role": "user", "content": [{"type": "sound"}]}], r"messages\[0\].content\[0\].type: got sound"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\].content\[0\].text: got null"),
        ([{"role": "user", "content": "x", "mood": 1}], r"messages\[0\]: got mood"),
        (["hi"], r"messages\[0\]: got str"),
        ([{"role": "user", "content": "a", "tool_calls": [{"name": "f", "arguments": {}}]}], "expected role assistant"),
        ([{"role": "assistant", "tool_calls": [{"name": "a b", "arguments": {}}]}], "tool_calls: name"),
    ],
)  # fmt: skip
def test_bad_dialogs_are_refused_by_place(dialog: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        fake("x").stream(dialog)
    assert "\n" not in str(caught.value)


def test_two_system_texts_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="system: got a system text and a system turn"):
        fake("x").stream([Message("system", "a"), Message("user", "b")], system="c")


def test_a_closed_model_says_so() -> None:
    with fake("x") as llm:
        llm.chat("hi")
    with pytest.raises(UsageError, match="fake is closed; load it again"):
        llm.chat("hi")


def test_without_a_chat_format_complete_still_works() -> None:
    llm = LLM(TINY, FakeModel(lambda ids: 257), BYTES, UsageError("no chat format is known; --chat-format"))
    assert llm.chat_format == "none"
    assert llm.complete("a").finish_reason == "stop"
    with pytest.raises(UsageError, match="--chat-format"):
        llm.chat("a")


# -- images ----------------------------------------------------------------------------------------------------------


def test_an_image_for_a_text_model_is_one_line() -> None:
    llm = LLM(TINY_TEXT, FakeModel(lambda ids: 257), BYTES, Llama4(BYTES))
    with pytest.raises(UsageError, match=r"^an image was given to a text model; choose a model with vision$"):
        llm.chat("what is this?", images=[Path("cat.png")])


def test_tiles_fill_the_patch_rows_in_order() -> None:
    llm = fake(lambda ids: END, patch_id=TINY.patch_id)
    tiles = np.zeros((3, 3, 28, 28), np.float32)
    parts = (ImagePart(2, 1, tiles), TextPart("two cats?"))
    reply = llm.chat([Message("user", parts)])
    assert reply.usage.prompt_tokens == len(Llama4(BYTES).encode([Message("user", parts)], tokens_per_tile=4))
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    assert model.seen_tiles == 3
    with pytest.raises(UsageError, match="an image part: got 3 tiles, expected 5 tiles as data"):
        llm.chat([Message("user", (ImagePart(2, 2, tiles),))])
    with pytest.raises(UsageError, match="an image part: got no data"):
        llm.chat([Message("user", (ImagePart(1, 1),))])


# -- interruption, policies, threads -----------------------------------------------------------------------------------


def test_ctrl_c_in_the_model_keeps_what_was_said() -> None:
    said = iter([*b"abc", -1])

    def next_id(ids: list[int]) -> int:
        token = next(said)
        if token < 0:
            raise KeyboardInterrupt
        return token

    llm = fake(next_id)
    reply = llm.chat("hi")
    assert (reply.text, reply.finish_reason, reply.usage.output_tokens) == ("abc", "interrupted", 3)


def test_ctrl_c_outside_the_engine_keeps_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from herd.llm import answers

    add, count = answers.Sample.add, iter(range(100))

    def interrupted(self: Any, step: Any) -> Any:
        found = add(self, step)
        if next(count) == 2:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(answers.Sample, "add", interrupted)
    llm = fake("abcdef")
    reply = llm.chat("hi")
    assert (reply.text, reply.finish_reason) == ("abc", "interrupted")
    assert llm.chat("hi").finish_reason == "stop", "the engine is free again"


def test_chat_many_ends_with_the_interrupted_reply() -> None:
    def interrupt(ids: list[int]) -> int:
        raise KeyboardInterrupt

    assert [r.finish_reason for r in fake(interrupt).chat_many(["a", "b"])] == ["interrupted"]


class Watch:
    """A policy that writes down what it is asked, and refuses a word."""

    def __init__(self, hold_tokens: int = 0, forbidden: str = "bomb", *, at_door: bool = False) -> None:
        self.hold_tokens = hold_tokens
        self.forbidden = forbidden
        self.at_door = at_door
        self.windows: list[tuple[str, int]] = []
        self.replies: list[Reply] = []

    def before(self, messages: Sequence[Message]) -> str | None:
        return "not that" if self.at_door and self.forbidden in messages[-1].text else None

    def window(self, text: str, shown: int) -> str | None:
        self.windows.append((text, shown))
        return "[cut]" if self.forbidden in text else None

    def after(self, reply: Reply) -> str | None:
        self.replies.append(reply)
        return "[after]" if "late" in reply.text else None


def shown(events: Iterator[Event]) -> tuple[list[str], Reply]:
    pieces, reply = [], None
    for event in events:
        if isinstance(event, TextEvent):
            pieces.append(event.text)
        else:
            reply = event.reply
    assert reply is not None
    return pieces, reply


def test_a_policy_refuses_at_the_door_and_the_model_is_not_asked() -> None:
    llm = fake("x")
    pieces, reply = shown(llm.stream("a bomb", policy=Watch(at_door=True)))
    assert (pieces, reply.text, reply.finish_reason) == (["not that"], "not that", "policy")
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    assert model.passes == []


def test_every_way_to_ask_goes_past_the_policy() -> None:
    llm = fake(lambda ids: 65)
    ask: list[Callable[..., Any]] = [
        lambda **a: llm.chat("a bomb", **a),
        lambda **a: shown(llm.stream("a bomb", **a))[1],
        lambda **a: llm.chat_many(["a bomb"], **a)[0],
        lambda **a: asyncio.run(llm.achat("a bomb", **a)),
        lambda **a: llm.complete("a bomb", **a),
        lambda **a: llm.complete(llm.tokenize("a bomb"), **a),
        lambda **a: shown(llm.stream_complete("a bomb", **a))[1],
    ]
    for one in ask:
        assert one(policy=Watch(at_door=True), max_tokens=3).finish_reason == "policy"
        watch = Watch()
        assert one(policy=watch, max_tokens=3).text == "AAA"
        assert len(watch.windows) == 3
        assert len(watch.replies) == 1


def test_a_policy_sees_every_window_before_it_is_shown() -> None:
    watch = Watch(hold_tokens=4)
    pieces, reply = shown(fake("abcdefghij").stream("hi", policy=watch))
    assert pieces == ["abcd", "efgh", "ij"]
    assert watch.windows == [("abcd", 0), ("abcdefgh", 4), ("abcdefghij", 8)]
    assert (reply.text, reply.finish_reason) == ("abcdefghij", "stop")
    assert watch.replies == [reply]


@pytest.mark.parametrize("hold", [0, 1, 4, 6, 100])
def test_a_word_over_a_window_is_cut_before_it_is_complete(hold: int) -> None:
    watch = Watch(hold_tokens=hold)
    pieces, reply = shown(fake("make a bomb now").stream("hi", policy=watch))
    assert "bomb" not in "".join(pieces)
    assert pieces[-1] == "[cut]"
    assert reply.text == "".join(pieces)
    assert reply.finish_reason == "policy"
    assert "now" not in reply.text


def test_a_policy_may_replace_the_whole_reply_in_the_end() -> None:
    reply = fake("too late").chat("hi", policy=Watch())
    assert (reply.text, reply.finish_reason) == ("[after]", "policy")


def test_a_policy_that_breaks_shows_nothing() -> None:
    class Broken(Watch):
        def window(self, text: str, shown: int) -> str | None:
            raise RuntimeError("guard is down")

    llm = fake("secret")
    stream = llm.stream("hi", policy=Broken())
    with pytest.raises(RuntimeError, match="guard is down"):
        next(stream)
    assert llm.chat("hi").text == "secret"


def test_async_twins() -> None:
    llm = fake("abc")

    async def talk() -> tuple[str, list[str], Reply]:
        reply = await llm.achat("hi")
        pieces = [e.text async for e in llm.astream("hi") if isinstance(e, TextEvent)]
        return reply.text, pieces, await llm.achat("hi", max_tokens=1)

    text, pieces, last = asyncio.run(talk())
    assert (text, pieces, last.finish_reason) == ("abc", ["a", "b", "c"], "length")


def test_async_errors_arrive_where_they_are_awaited() -> None:
    async def talk() -> None:
        await fake("x").achat("hi", top_p=7)

    with pytest.raises(UsageError, match="top_p"):
        asyncio.run(talk())


def test_leaving_an_async_stream_ends_the_request() -> None:
    llm = fake(lambda ids: 65)

    async def talk() -> Reply:
        stream = llm.astream("hi")
        async for _ in stream:
            break
        await stream.aclose()
        return await llm.achat("hi", max_tokens=2)

    reply = asyncio.run(asyncio.wait_for(talk(), PATIENCE_S))
    assert reply.text == "AA"


def test_cancelling_a_task_ends_a_long_prompt_after_the_pass_in_progress() -> None:
    llm = fake("x", context=4096, chunk=None)
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    run, started, go = model.compute, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        started.set()
        assert go.wait(PATIENCE_S)
        return run(*arguments)

    model.compute = slow  # type: ignore[method-assign]

    async def talk() -> None:
        task = asyncio.create_task(llm.achat("a" * 3000))
        await asyncio.to_thread(started.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()

    asyncio.run(talk())
    assert llm.chat("hi").text == "x"
    long = [p for p in model.passes if len(p[0]) > 100]
    assert len(long) == 1, "of six passes"


def test_samples_of_a_prompt_are_those_of_their_seeds() -> None:
    llm = fake(lambda ids: [0.0] * 65 + [1.0] * 26 + [0.0] * 229)
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 26, "max_tokens": 8}
    alone = [llm.chat("hi", seed=5 + i, **options).text for i in range(3)]
    found = llm.chat_samples("hi", 3, seed=5, **options)
    assert [r.text for r in found] == alone
    assert len(set(alone)) == 3

    async def together() -> dict[int, str]:
        texts = {0: "", 1: "", 2: ""}
        async for event in llm.astream("hi", n=3, seed=5, **options):
            if isinstance(event, TextEvent):
                texts[event.index] += event.text
        return texts

    assert list(asyncio.run(together()).values()) == alone
    with pytest.raises(UsageError, match="chat_samples"):
        llm.chat("hi", n=2)


def test_a_hundred_open_streams_take_no_thread_each() -> None:
    llm = fake(lambda ids: 65, num_pages=100_000)

    async def talk() -> tuple[int, list[str]]:
        streams = [llm.astream("hi", max_tokens=5) for _ in range(100)]
        for stream in streams:
            await stream.ready()
        num_threads = threading.active_count()
        texts = []
        for stream in streams:
            texts.append("".join([e.text async for e in stream if isinstance(e, TextEvent)]))
        return num_threads, texts

    before = threading.active_count()
    num_threads, texts = asyncio.run(talk())
    assert texts == ["AAAAA"] * 100
    assert num_threads <= before + 5, "the engine, and four that prepare"


def test_streams_that_are_left_anywhere_leave_nothing_behind() -> None:
    llm = fake(lambda ids: 65)
    engine = llm._running()
    random = Random(7)

    async def leave_one(after: int) -> None:
        stream = llm.astream("hi", n=random.choice((1, 1, 3)))
        if after == 0:
            task = asyncio.ensure_future(stream.ready())
            await asyncio.sleep(random.random() * 0.002)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        else:
            async for _ in stream:
                after -= 1
                if not after:
                    break
        if random.random() < 0.8:
            await stream.aclose()  # else it is garbage

    async def talk() -> str:
        await asyncio.gather(*(leave_one(random.randrange(6)) for _ in range(200)))
        return (await llm.achat("hi", max_tokens=2)).text

    assert asyncio.run(asyncio.wait_for(talk(), PATIENCE_S)) == "AA"
    until("jobs stay", lambda: not engine._table.jobs)
    model = engine.runner
    assert isinstance(model, FakeModel)
    model.cache.check()


def test_tenants_share_no_cached_prompt() -> None:
    llm = fake("ok")
    prompt = "a" * 40
    counts = [llm.chat(prompt, tenant=t).usage.cached_tokens for t in ("", "a", "a", "b", "")]
    assert [c > 30 for c in counts] == [False, False, True, False, True]


def test_a_timeout_of_a_request_is_its_own() -> None:
    with pytest.raises(TimedOut):
        fake(lambda ids: 65).chat("hi", timeout_s=1e-6)


def test_threads_are_answered_together() -> None:
    llm = fake("abcdefgh")
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(llm.chat("hi").text)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
    assert texts == ["abcdefgh"] * 4
    model = llm._running().runner
    assert isinstance(model, FakeModel)
    model.cache.check()


# -- numbers: a checkpoint on disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OP_SETS)
def test_loaded_logits_are_those_of_one_pass(folder: Path, name: str) -> None:
    from herd.model import forward, place_weights

    ops = op_set(name)
    ids = np.random.default_rng(0).integers(0, 256, 40)
    wanted = forward(ops, TINY, place_weights(ops, weights(TINY)), ids, ops.place(packed([40], TINY.chunk)))
    with herd.load(folder, ops=name, kv="f32", threads=1) as llm:
        found = llm.logits(ids.tolist())
        np.testing.assert_allclose(found, np.asarray(ops.numpy(wanted)), rtol=2e-4, atol=2e-4)
        logp = found.astype(np.float64) - np.log(np.exp(found.astype(np.float64)).sum(1, keepdims=True))
        bos = llm.tokenizer.bos_id
        assert bos is not None
        rows = llm.logits([bos, *ids.tolist()])[:-1].astype(np.float64)
        logp = rows - np.log(np.exp(rows).sum(1, keepdims=True))
        perplexity = llm.perplexity(ids.tolist(), context=64)
        assert perplexity.nll == pytest.approx(-logp[np.arange(40), ids].mean(), rel=1e-4)
        assert perplexity.value == pytest.approx(np.exp(perplexity.nll))
        assert (perplexity.scored_tokens, perplexity.windows) == (40, 1)


@pytest.mark.parametrize("name", OP_SETS)
def test_greedy_decoding_is_the_argmax_of_one_pass(folder: Path, name: str) -> None:
    op_set(name)  # skips where torch is not installed
    with herd.load(folder, ops=name, kv="f32", threads=1) as llm:
        prompt = llm.tokenize("the quick brown fox ")
        reply = llm.complete(prompt, temperature=0, max_tokens=24, ignore_eos=True)
        rows = llm.logits([*prompt, *reply.ids])[len(prompt) - 1 : -1]
        assert list(reply.ids) == rows.argmax(1).tolist()
        again = llm.complete(prompt, temperature=0, max_tokens=24, ignore_eos=True)
        assert again.ids == reply.ids


def test_what_load_finds_out(folder: Path) -> None:
    with herd.load(folder, threads=1) as llm:
        assert (llm.name, llm.chat_format, llm.context) == ("tiny", "llama4", TINY.max_context)
        assert (llm.defaults.temperature, llm.defaults.top_p) == (0.6, 0.9)
        assert llm.size_bytes > 0
        assert llm.load_s > 0
        reply = llm.chat("hi", max_tokens=5, seed=1)
        assert reply.timings.load_s == llm.load_s
        assert reply == Reply.from_dict(reply.to_dict())
        assert llm.chat("hi", max_tokens=5, seed=1).ids == reply.ids


def test_load_arguments(folder: Path) -> None:
    with herd.load(folder, threads=1, context=100, chat_format="plain", seed=7) as llm:
        assert (llm.context, llm.chat_format) == (100, "plain")
        assert llm.chat("hi", max_tokens=1).seed == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 0}, "context: got 0, expected 1 to the model's own, 4096"),
        ({"context": 4097}, "context: got 4097"),
        ({"chat_format": "klingon"}, "--chat-format: got klingon, expected one of llama4"),
        ({"threads": 0}, "threads: got 0"),
        ({"ops": "abacus"}, "ops: got abacus, expected auto, native, torch"),
        ({"kv": "f64"}, "kv: got f64"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_load_arguments(folder: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        herd.load(folder, **arguments)


def test_an_unknown_name_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    with pytest.raises(NotFound, match="nosuchmodel"):
        herd.load("nosuchmodel")


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from herd.llm import loading

    monkeypatch.setattr(loading, "available_bytes", lambda: 50 << 20)
    with pytest.raises(DoesNotFit, match=r"tiny does not fit: it needs 0.1 GB .* 52.4 MB are available") as caught:
        herd.load(folder)
    assert "\n" not in str(caught.value)
    herd.load(folder, force=True, threads=1).close()


def test_generation_config_is_the_default(tmp_path: Path) -> None:
    path = hf_folder(tmp_path / "m", TINY_DENSE, **{"generation_config.json": '{"temperature": 0.3, "top_k": 5}'})
    with herd.load(path, threads=1) as llm:
        assert (llm.defaults.temperature, llm.defaults.top_k, llm.defaults.top_p) == (0.3, 5, 0.9)
    path = hf_folder(tmp_path / "bad", TINY_DENSE, **{"generation_config.json": '{"temperature": -3}'})
    with pytest.raises(BadConfig, match="temperature"):
        herd.load(path)


@pytest.mark.parametrize("name", OP_SETS)
def test_a_trace_names_the_expert_of_every_token_and_layer(folder: Path, name: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    op_set(name)  # skips where torch is not installed
    with herd.load(folder, ops=name, threads=1) as llm:
        llm.chat("hi", max_tokens=3)
        reply = llm.chat("hi", max_tokens=6, ignore_eos=True, trace=file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    layers = [i for i, layer in enumerate(TINY.layers) if layer.moe]
    rows = reply.usage.prompt_tokens + 5  # the last token is said, not run
    assert {(x["position"], x["layer"]) for x in lines} == {(t, i) for t in range(rows) for i in layers}
    assert len(lines) == rows * len(layers)
    assert all(0 <= x["experts"][0] < TINY.num_experts and 0 < x["scores"][0] < 1 for x in lines)
    assert len({x["experts"][0] for x in lines}) > 1


def test_a_trace_of_a_dense_model_or_into_nowhere_is_refused(folder: Path, tmp_path: Path) -> None:
    with herd.load(folder, threads=1) as llm, pytest.raises(UsageError, match="trace file: got"):
        llm.chat("hi", trace=tmp_path / "no" / "such" / "folder")
    llm = LLM(TINY_DENSE, FakeModel(lambda ids: 257), BYTES, Llama4(BYTES))
    with pytest.raises(UsageError, match="trace: got a dense model"):
        llm.chat("hi", trace=tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_pixels_change_what_is_said(folder: Path) -> None:
    tiles = np.random.default_rng(0).uniform(-1, 1, (1, 3, 28, 28)).astype(np.float32)
    with herd.load(folder, threads=1, kv="f32") as llm:

        def ask(pixels: Any) -> Reply:
            turn = Message("user", (ImagePart(1, 1, pixels), TextPart("?")))
            return llm.chat([turn], temperature=0, max_tokens=1, logprobs=0)

        one, other, again = ask(tiles), ask(-tiles), ask(tiles)
        assert one.logprobs is not None
        assert other.logprobs is not None
        assert again.logprobs is not None
        assert one.logprobs[0].logprob == pytest.approx(again.logprobs[0].logprob, abs=1e-5)
        assert abs(one.logprobs[0].logprob - other.logprobs[0].logprob) > 1e-4


@pytest.mark.parametrize("change", ["cut", "replaced"])
def test_a_weight_file_that_changes_under_a_loaded_model_answers_no_more(
    folder: Path, tmp_path: Path, change: str
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights_file = copy / "model.safetensors"
    with herd.load(copy, ops="native", threads=1) as llm:
        llm.complete("hi", max_tokens=1)
        if change == "cut":
            os.truncate(weights_file, weights_file.stat().st_size - 4096)
        else:
            shutil.copyfile(weights_file, tmp_path / "other")
            os.replace(tmp_path / "other", weights_file)
        with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
            llm.complete("hi", max_tokens=1)


def test_a_model_in_a_child_answers_the_same_and_its_death_is_an_error(folder: Path) -> None:
    with herd.load(folder, threads=1, kv="f32") as here:
        wanted = here.complete("hello", temperature=0, max_tokens=12, ignore_eos=True)
        logits, perplexity = here.logits([5, 6, 7]), here.perplexity("some text of a book")
    with herd.load(folder, threads=1, kv="f32", engine="child", parallel=3) as llm:
        found = llm.complete("hello", temperature=0, max_tokens=12, ignore_eos=True)
        assert found.ids == wanted.ids
        np.testing.assert_array_equal(llm.logits([5, 6, 7]), logits)
        assert llm.perplexity("some text of a book") == perplexity
        trace = folder.parent / "child.jsonl"
        llm.complete("hello", max_tokens=2, trace=trace)
        assert len(trace.read_text().splitlines()) > 5
        backend = llm._running().executor
        assert isinstance(backend, ChildExecutor)
        stream = llm.stream_complete("hello", ignore_eos=True)
        next(stream)
        os.kill(backend.pid, signal.SIGKILL)
        with pytest.raises(EngineDied, match="SIGKILL"):
            list(stream)
    with pytest.raises(UsageError, match="engine: got fork"):
        herd.load(folder, engine="fork")  # type: ignore[arg-type]


def test_dialogs_of_chat_many_run_together(folder: Path) -> None:
    with herd.load(folder, threads=1, kv="f32") as llm:
        asked = [f"question {n}" for n in range(10)]
        alone = [llm.chat(q, temperature=0, max_tokens=8).text for q in asked]
        assert [r.text for r in llm.chat_many(asked, temperature=0, max_tokens=8)] == alone
        assert not llm.chat_many([])
