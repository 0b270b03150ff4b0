"""Hosts that are broken or mean harm: every kind against every verb is one typed error on one line, without the key."""

import asyncio
import gc
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_host import (
    BOUNDS,
    DONE,
    IMPATIENT,
    JSON,
    KEY,
    STREAM,
    Script,
    answer,
    call,
    chunk,
    event,
    hosting,
    patient,
    usage,
    whole,
)

from helpers import PATIENCE_S
from herd.backends.failures import Reason, reason_of
from herd.backends.model import BackendModel
from herd.backends.probing import probe
from herd.backends.reading import AT_ONCE, LARGE, Lines, parsed
from herd.backends.target import Secret, Target
from herd.backends.transport import Transport
from herd.errors import WORDS, HerdError, MissingExtra, StaysHere, TimedOut
from herd.events import DoneEvent, TextEvent

HELLO = [{"role": "user", "content": "Hello."}]
TOOLS = [{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]
Verb = Callable[[BackendModel], Awaitable[Any]]


async def chat(model: BackendModel) -> Any:
    return await model.achat(HELLO, max_tokens=5)


async def stream(model: BackendModel) -> Any:
    return [event async for event in model.astream(HELLO, tools=TOOLS)]


async def models(model: BackendModel) -> Any:
    return await model.models()


async def tried(model: BackendModel) -> Any:
    found = await probe(model, leave=False, tell=lambda *_: None)
    for words in (one["words"] for one in found.values()):
        assert words.isprintable() and "canary" not in words and len(words) < 2 * WORDS + 250
    failed = [one["words"] for one in found.values() if one["result"] == "failed"]
    raise Failed(failed[0])


VERBS: dict[str, Verb] = {"chat": chat, "stream": stream, "models": models, "test": tried}


class Failed(HerdError):
    """What a test says of a backend that answers nothing."""


class Row(NamedTuple):
    """What is sent, and what it is called."""

    script: Script
    reason: Reason
    impatient: bool = False


def endless(piece: bytes) -> Script:
    """The same piece again and again, until the other side goes away."""

    def play(send: Callable[[bytes], None]) -> None:
        while True:
            send(piece)

    return Script(play)


def endless_head() -> Script:
    return replace(endless(b"X-More: " + b"a" * 1000 + b"\r\n"), head=b"HTTP/1.1 200 OK\r\n")


def error(status: int, message: str, kind: str = "", code: Any = None, **more: Any) -> Script:
    return whole({"error": {"message": message, "type": kind, "param": None, "code": code}}, status, **more)


HTML = b"<!DOCTYPE html><html><script>alert(1)</script>\x1b[31m" + b"<p>" * 5000
DEEP = b"[" * 100_000
HUGE = b'{"choices": [], "usage": {"prompt_tokens": ' + b"9" * 3000 + b"}}"
RATE = (("Retry-After", "86400"),)
ROWS = {
    "a page in HTML": Row(Script([HTML], 200, "text/html"), "broken"),
    "a page in HTML that says it is JSON": Row(Script([HTML], 200, JSON), "broken"),
    "a page in HTML that says it is a stream": Row(Script([HTML], 200, STREAM), "broken"),
    "an error page": Row(Script([HTML], 502, "text/html"), "absent"),
    "no type at all": Row(Script([b"{}"], 200, ""), "broken"),
    "a key as its type": Row(Script([b"x"], 200, f"text/{KEY}"), "broken"),
    "a type without end": Row(Script([b"x"], 200, "text/" + "\x9b" * 3000), "broken"),
    "no HTTP": Row(Script(head=b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "broken"),
    "nothing": Row(Script(head=b""), "broken"),
    "a hang before the head": Row(Script(hangs="before"), "absent", impatient=True),
    "a hang in the head": Row(
        Script(head=b"HTTP/1.1 200 OK\r\nContent-Type: te", hangs="after"), "absent", impatient=True
    ),
    "a hang after the head": Row(Script(hangs="after"), "absent", impatient=True),
    "a hang in a JSON text": Row(Script([b'{"data": ['], 200, JSON, hangs="after"), "absent", impatient=True),
    "endless headers": Row(endless_head(), "broken"),
    "many headers": Row(Script([DONE], headers=tuple((f"X-{i}", "a" * 100) for i in range(100))), "broken"),
    "an endless line": Row(endless(b"data: " + b"a" * 1000), "broken"),
    "an endless event": Row(endless(b"data: " + b"a" * 1000 + b"\n"), "broken"),
    "endless comments": Row(endless(b": wait\n\n"), "broken"),
    "endless empty lines": Row(endless(b"\n"), "broken"),
    "endless empty data": Row(endless(b"data:\n"), "broken"),
    "endless fields of no meaning": Row(endless(b"x\n"), "broken"),
    "endless JSON": Row(replace(endless(b"[" + b"1," * 1000), kind=JSON), "broken"),
    "a redirect": Row(Script([], 302, "text/plain", (("Location", "http://127.0.0.1:1/evil"),)), "broken"),
    "a redirect that keeps the method": Row(Script([], 307, JSON, (("Location", "/v1/elsewhere"),)), "broken"),
    **{
        f"a redirect to {place[:12]!r}": Row(Script([], 301, JSON, (("Location", place),)), "broken")
        for place in (
            "http://[::1",
            "//",
            "http://a:99999999/",
            "data:,x",
            "http://\x80\xff/",
            "",
            "a" * 3000,
            "http://a b",
        )
    },
    "something compressed": Row(Script([b"\x1f\x8b"], headers=(("Content-Encoding", "gzip"),)), "broken"),
    "something compressed in a way of 2030": Row(Script([b"\0"], headers=(("Content-Encoding", "br, x"),)), "broken"),
    "no JSON": Row(Script([event(b"{nothing")]), "broken"),
    "no JSON at all": Row(Script([b"nothing"], 200, JSON), "broken"),
    "no UTF-8": Row(Script([b'{"data": "\xff\xfe"}'], 200, JSON), "broken"),
    "deep JSON": Row(Script([event(DEEP[:4000])]), "broken"),
    "deep JSON as a whole": Row(Script([DEEP], 200, JSON), "broken"),
    "huge numbers": Row(Script([event(HUGE)]), "broken"),
    "huge numbers as a whole": Row(Script([HUGE], 200, JSON), "broken"),
    "NaN": Row(Script([b'{"data": NaN, "choices": NaN}'], 200, JSON), "broken"),
    "a number beyond all": Row(Script([b'{"data": 1e999, "choices": 1e999}'], 200, JSON), "broken"),
    "a member twice": Row(Script([b'{"data": [], "data": 1, "choices": 1}'], 200, JSON), "broken"),
    "another form": Row(whole({"data": 5, "choices": 5}), "broken"),
    "a list of lists": Row(whole(5), "broken"),
    "too short a body": Row(
        Script([b"{"], head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"), "broken"
    ),
    "a cut body": Row(Script([b"{"], 200, JSON, cut=True), "broken"),
    "a wrong key, repeated": Row(error(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key"), "refused"),
    "a wrong key in a text": Row(Script([f"bad key {KEY[:-4]}****".encode()], 403, "text/plain"), "refused"),
    "no money": Row(error(402, "Insufficient balance"), "refused"),
    "no place": Row(error(429, "Rate limit reached", "requests", "rate_limit_exceeded", headers=RATE), "full"),
    "no quota": Row(error(429, "You exceeded your current quota", code="insufficient_quota"), "full"),
    "no place for now": Row(error(503, "overloaded"), "full"),
    "no such model": Row(error(404, "The model does not exist", code="model_not_found"), "withdrawn"),
    "a withdrawn model": Row(
        error(400, "decommissioned", "invalid_request_error", "model_decommissioned"), "withdrawn"
    ),
    "no such address": Row(Script([b'{"detail":"Not Found"}'], 404, JSON), "withdrawn"),
    "too long a prompt": Row(error(400, "too long", code="context_length_exceeded"), "context"),
    "too long a prompt, in words": Row(error(400, "This model's maximum context length is 8192", code=400), "context"),
    "a text it does not like": Row(error(400, "filtered", code="content_filter"), "refused"),
    "a request it does not like": Row(error(400, "bad thing", code=400), "unfit"),
    "an error of its own": Row(error(500, "oops " * 1000), "absent"),
    "an error as a text": Row(whole({"error": "out of memory", "error_type": "overloaded"}, 500), "absent"),
    "an error in an answer": Row(whole({"error": {"message": f"provider {KEY}", "code": 502}}), "absent"),
    "an error in a stream": Row(Script([event({"error": {"message": f"{KEY} full", "code": 429}})]), "full"),
    "an error with an odd number": Row(whole({"error": {"message": "x", "code": "\u00b2\u00b2\u00b2"}}), "absent"),
    "an error with a huge number": Row(whole({"error": {"message": "x", "code": 10**60}}), "absent"),
    "an error of lists": Row(whole({"error": {"message": ["x"], "code": [1], "type": {}}}), "absent"),
    "a teapot": Row(Script([b"tea"], 418, "text/plain"), "unfit"),
    "an empty answer": Row(Script([b""], 204, JSON), "broken"),
    "a switch to another protocol": Row(
        Script(head=b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"), "broken"
    ),
}
STREAMS = {
    "a cut stream": [chunk({"content": "Hel"})],
    "an end that is none": [chunk({"content": "Hel"}), DONE],
    "nothing but an end": [DONE],
    "nothing": [],
    "an unknown reason": [chunk({"content": "Hel"}), chunk({}, "because")],
    "a second answer": [chunk({"content": "One."}, "stop"), chunk({"content": "Two."}, "stop"), DONE],
    "a second answer beside the first": [chunk({"content": "One."}), chunk({"content": "Two."}, "stop", index=1), DONE],
    "an answer at a negative place": [chunk({"content": "One."}, "stop", index=-1), DONE],
    "an answer at no place": [chunk({"content": "One."}, "stop", index="0"), DONE],
    "a call after the end": [chunk({}, "stop"), chunk(call(0, "{}", "weather", "c")), DONE],
    "a tool nobody offered": [chunk(call(0, "{}", "shell", "c")), chunk({}, "tool_calls"), DONE],
    "a call of no tool": [chunk(call(0, "{}")), chunk({}, "tool_calls"), DONE],
    "arguments that are no JSON": [chunk(call(0, '{"city": ', "weather", "c")), chunk({}, "tool_calls"), DONE],
    "arguments that are no object": [chunk(call(0, "[1]", "weather", "c")), chunk({}, "tool_calls"), DONE],
    "arguments that are deep": [chunk(call(0, '{"a":' + "[" * 200, "weather", "c")), chunk({}, "tool_calls"), DONE],
    "arguments as a number": [chunk({"tool_calls": [{"function": {"name": "weather", "arguments": 1}}]})],
    "a call beyond all": [chunk(call(10**9, "{}", "weather", "c")), chunk({}, "tool_calls"), DONE],
    "two calls with one id": [
        *(chunk(call(i, "{}", "weather", "c")) for i in range(2)), chunk({}, "tool_calls"), DONE
    ],
    "a call that comes back": [
        *(chunk(call(i, "{}", "weather", f"c{k}")) for k, i in enumerate([1, 0])), chunk({}, "tool_calls"), DONE
    ],
    "content that is a number": [chunk({"content": 5})],
    "a delta that is a list": [chunk([1])],
    "choices that are a text": [event({"choices": "yes"})],
    "a chunk that is a list": [event([1])],
    "tokens below zero": [chunk({"content": "a"}, "stop"), usage(-1)],
    "tokens that are true": [chunk({"content": "a"}, "stop"), usage(True)],
    "tokens without end": [chunk({"content": "a"}, "stop"), usage(10**30)],
    "tokens that are a text": [chunk({"content": "a"}, "stop"), usage("7")],
    "more tokens than any context has": [chunk({"content": "a"}, "stop"), usage(1 << 29)],
    "more choices than answers": [event({"choices": [{}, {}]})],
    "more pieces of calls than calls": [
        chunk({"tool_calls": [call(0, " ", "weather", "c")["tool_calls"][0]] * 129}), chunk({}, "tool_calls")
    ],
}  # fmt: skip


def failed(script: Script, verb: Verb, target: Callable[[str], Target] = patient) -> HerdError:
    """The error that a verb ends with."""
    with hosting(script) as host:
        with pytest.raises(HerdError) as caught:
            asyncio.run(asyncio.wait_for(verb(BackendModel(target(host.address))), PATIENCE_S))
        most = 2 if verb is tried else 1  # nothing is followed, nothing sent again
        assert host.connections <= most
    return caught.value


def is_stream(script: Script) -> bool:
    return script.kind == STREAM and script.status == 200 and script.head is None and script.hangs != "before"


def check_line(error: HerdError) -> None:
    """One line, in print, with an end, without the key."""
    told = str(error)
    assert told.isprintable() and len(told) < 2 * WORDS + 250, told
    assert "canary" not in told and "canary" not in repr(error) and KEY[:10] not in told
    assert "canary" not in repr(error.__cause__) and "canary" not in repr(error.__context__)
    assert told.startswith("there: ") and "; " in told


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ROWS)
def test_every_hostile_host_is_one_typed_line(name: str, verb: str) -> None:
    row = ROWS[name]
    bounds = IMPATIENT if row.impatient else BOUNDS
    found = failed(row.script, VERBS[verb], lambda address: patient(address, bounds=bounds))
    check_line(found)
    listing = verb == "models" and is_stream(row.script)  # which is no list of models in any case
    assert isinstance(found, Failed) or reason_of(found) == ("broken" if listing else row.reason)


@pytest.mark.parametrize("verb", ["chat", "stream"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_broken_answer_is_one_typed_line(name: str, verb: str) -> None:
    found = failed(Script(STREAMS[name]), VERBS[verb])
    check_line(found)
    assert reason_of(found) == "broken"


def test_a_call_of_a_tool_is_refused_where_none_was_offered() -> None:
    calls = [chunk(call(0, "{}", "weather", "c")), chunk({}, "tool_calls"), DONE]
    assert reason_of(failed(Script(calls), chat)) == "broken"
    none = lambda model: model.achat(HELLO, tools=TOOLS, tool_choice="none")  # noqa: E731
    assert reason_of(failed(Script(calls), none)) == "broken"


def test_text_after_the_end_is_never_said() -> None:
    with hosting(Script(STREAMS["a second answer"])) as host:
        said: list[Any] = []

        async def read() -> None:
            async for one in BackendModel(patient(host.address)).astream(HELLO):
                said.append(one)

        with pytest.raises(HerdError, match="went on after the end"):
            asyncio.run(read())
    assert [one.text for one in said if isinstance(one, TextEvent)] == ["One."]
    assert not any(isinstance(one, DoneEvent) for one in said)


def test_a_finish_that_says_nothing_more_is_no_second_answer() -> None:
    pieces = [chunk({"content": "One."}, "stop"), chunk({}, "stop"), usage(), DONE]
    with hosting(Script(pieces)) as host:
        assert asyncio.run(chat(BackendModel(patient(host.address)))).text == "One."


@pytest.mark.parametrize("ending", [Script([], hangs="after"), Script([], cut=True)])
def test_an_answer_that_is_whole_stays_it_though_its_usage_never_comes(
    ending: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd.backends.model.USAGE_S", 0.05)
    with hosting(replace(ending, pieces=[chunk({"content": "One."}, "stop")])) as host:
        found = asyncio.run(chat(BackendModel(patient(host.address))))
    assert (found.text, found.usage.output_tokens) == ("One.", 1)


def test_an_answer_that_is_whole_waits_for_its_usage_once_whatever_else_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(send: Callable[[bytes], None]) -> None:
        send(chunk({"content": "One."}, "stop"))
        while True:
            send(event({"choices": []}))
            time.sleep(0.01)

    monkeypatch.setattr("herd.backends.model.USAGE_S", 0.05)
    with hosting(Script(drip)) as host:
        target = patient(host.address, bounds=replace(BOUNDS, events=1 << 20))
        assert asyncio.run(chat(BackendModel(target))).text == "One."


def test_an_error_that_comes_drop_by_drop_is_told_by_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(send: Callable[[bytes], None]) -> None:
        while True:
            send(b"x")
            time.sleep(0.01)

    monkeypatch.setattr("herd.backends.transport.ERROR_S", 0.05)
    for script in (Script(drip, 400, "text/plain"), Script(drip, 200, "text/html")):
        check_line(failed(script, chat))


def test_more_tokens_from_before_than_the_prompt_has_are_as_many_as_it_has() -> None:
    told = usage(7, 1, prompt_tokens_details={"cached_tokens": 9})
    with hosting(Script([chunk({"content": "One."}, "stop"), told, DONE])) as host:
        assert asyncio.run(chat(BackendModel(patient(host.address)))).usage.cached_tokens == 7


@pytest.mark.parametrize("tiny", ["pieces", "events"])
def test_what_comes_in_tiny_parts_leaves_turns_to_others(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is there at once, so that nothing is waited for."""
    count, turns, seen = 40 * AT_ONCE, 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def ask(model: BackendModel) -> Any:
        working = asyncio.ensure_future(others())
        try:
            return await chat(model)
        finally:
            working.cancel()

    def noted(work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (seen.append(turns), work(*given))[1]

    monkeypatch.setattr(Lines, "feed", noted(Lines.feed))
    monkeypatch.setattr("herd.backends.reading.parsed", noted(parsed))
    body = b": " + b"x" * count + b"\n" if tiny == "pieces" else b"data:{}\n\n" * count
    size = 1 if tiny == "pieces" else len(body)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    parts += [chunk({"content": "One."}, "stop"), usage(), DONE]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    plenty = replace(BOUNDS, events=count, line_bytes=1 << 20)
    with hosting(Script([sent, b"0\r\n\r\n"], head=Script().lines())) as host:
        assert asyncio.run(ask(BackendModel(patient(host.address, bounds=plenty)))).text == "One."
    assert len(seen) > count and max(Counter(seen).values()) <= 2 * AT_ONCE


def test_a_thread_reads_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    where: dict[bool, set[bool]] = {}

    def noted(data: bytes, target: Target) -> Any:
        found = threading.current_thread() is threading.main_thread()
        where.setdefault(len(data) > LARGE, set()).add(found)
        return json.loads(data)

    monkeypatch.setattr("herd.backends.reading.parsed", noted)
    plenty = replace(BOUNDS, line_bytes=1 << 20, event_bytes=1 << 20)
    for pad in ("", "x" * LARGE):
        rows = [event({"choices": [], "pad": pad}), chunk({"content": "One."}, "stop"), usage(), DONE]
        body = {"choices": [{"message": {"content": "One."}, "finish_reason": "stop"}], "pad": pad}
        for script in (Script(rows), whole(body)):
            with hosting(script) as host:
                assert asyncio.run(chat(BackendModel(patient(host.address, bounds=plenty)))).text == "One."
    assert where == {False: {True}, True: {False}}


def test_who_goes_away_is_gone_at_the_other_side_at_once() -> None:
    with hosting(Script([chunk({"content": "One"})], hangs="after")) as host:

        async def leave() -> None:
            stream = BackendModel(patient(host.address)).astream(HELLO)
            assert isinstance(await anext(stream), TextEvent)
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            assert not host.left.is_set()
            await stream.aclose()
            waiting.cancel()
            assert await asyncio.to_thread(host.left.wait, PATIENCE_S)

        asyncio.run(leave())


@pytest.mark.parametrize("verb", VERBS)
def test_a_cancelled_request_is_gone_at_the_other_side(verb: str) -> None:
    with hosting(Script(hangs="before")) as host:

        async def cancel() -> None:
            asking = asyncio.ensure_future(VERBS[verb](BackendModel(patient(host.address))))
            while not host.asked:
                await asyncio.sleep(0.001)
            asking.cancel()
            assert await asyncio.to_thread(host.left.wait, PATIENCE_S)

        asyncio.run(cancel())


def test_a_request_has_its_own_time() -> None:
    with hosting(Script([chunk({"content": "One"})], hangs="after")) as host:
        model = BackendModel(patient(host.address))
        with pytest.raises(TimedOut, match="within the time of the request"):
            asyncio.run(model.achat(HELLO, timeout_s=0.2))


class Waits:
    """Sleeps that are written down in place of slept."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def again(*scripts: Script, retries: int = 2) -> tuple[Any, list[float], int]:
    """What comes of a chat that may be sent again; the waits, and the requests."""
    waits = Waits()
    with hosting(*scripts) as host:
        target = patient(host.address, bounds=replace(BOUNDS, retries=retries, retry_after_s=30))
        model = BackendModel(target, transport=Transport(target, sleep=waits))
        try:
            found: Any = asyncio.run(chat(model))
        except HerdError as error:
            found = error
        return found, waits.seconds, len(host.asked)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_a_request_is_sent_again_where_it_could_be_answered_then(status: int) -> None:
    found, waits, asked = again(error(status, "not now"), error(status, "not now"), answer("Yes."))
    assert (found.text, asked) == ("Yes.", 3)
    assert 0.5 <= waits[0] <= 0.75 and 1 <= waits[1] <= 1.5
    assert again(error(status, "not now"), error(status, "not now"), answer("Yes."))[1] == waits  # seeded


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413, 418, 422, 302])
def test_others_are_not(status: int) -> None:
    found, waits, asked = again(error(status, "no"), answer("Yes."))
    assert isinstance(found, HerdError) and (waits, asked) == ([], 1)


def test_retry_after_is_kept_to_and_bounded() -> None:
    found, waits, asked = again(error(429, "wait", headers=(("Retry-After", "17"),)), answer("Yes."))
    assert (found.text, waits, asked) == ("Yes.", [17.0], 2)
    found, waits, asked = again(error(429, "wait", headers=(("Retry-After", "31"),)), answer("Yes."))
    assert (found.retry_after_s, waits, asked) == (31.0, [], 1)
    for odd in ("-1", "1e9", "²", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 400):
        assert (
            again(error(429, "wait", headers=(("Retry-After", odd.encode().decode("latin-1")),)), answer("Yes."))[2]
            == 2
        )


def test_the_last_try_tells_its_own_failure() -> None:
    found, waits, asked = again(error(503, "first"), error(503, "second"), error(500, "third"))
    assert reason_of(found) == "absent" and "third" in str(found) and asked == 3 and len(waits) == 2
    assert again(error(429, "no", code="insufficient_quota"), answer("Yes."))[2] == 1


def test_nothing_is_sent_again_once_an_answer_has_begun() -> None:
    found, waits, asked = again(Script([chunk({"content": "One"})], cut=True), answer("Two."))
    assert reason_of(found) == "broken" and (waits, asked) == ([], 1)


def test_nobody_there_is_absent_after_all_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    waits, target = Waits(), patient(address, bounds=replace(BOUNDS, retries=2))
    with pytest.raises(HerdError, match="cannot be reached") as caught:
        asyncio.run(chat(BackendModel(target, transport=Transport(target, sleep=waits))))
    assert reason_of(caught.value) == "absent" and len(waits.seconds) == 2


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_looked_up_or_sent_for_what_may_not_leave(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was tried")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, reached)
    monkeypatch.setattr(socket.socket, "connect", reached)
    target = patient("https://host.example/v1", key=Secret(KEY), in_house=False)
    with pytest.raises(StaysHere):
        asyncio.run(VERBS[verb](BackendModel(target)))


def test_a_name_in_the_house_that_leads_out_of_it_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(*_: Any, **__: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.7", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", moved)
    connected = threading.Event()
    monkeypatch.setattr(socket.socket, "connect", lambda *_: connected.set())
    for verb in VERBS.values():
        with pytest.raises(StaysHere):
            asyncio.run(verb(BackendModel(patient("http://cellar.lan/v1", key=None))))
    assert not connected.is_set()


def test_proxies_and_keys_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(Script([b"proxied"], 200, "text/plain")) as proxy, hosting(answer("Yes.")) as host:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.address.removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setenv("NETRC", "/dev/null")
        assert asyncio.run(chat(BackendModel(patient(host.address)))).text == "Yes."
        assert proxy.connections == 0
        told = patient(host.address, in_house=False, trust_env=True)
        with pytest.raises(HerdError, match="proxied"):
            asyncio.run(BackendModel(told).achat(HELLO, leave=True))
        assert proxy.connections == 1


def test_no_traceback_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    for name in ("a wrong key, repeated", "no HTTP", "an error in a stream"):
        failed(ROWS[name].script, chat)
    assert "canary" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of localhost that nobody has signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    found = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, *names, "-keyout", str(found), "-out", str(found) + ".crt"]
    subprocess.run(command, check=True, capture_output=True)
    found.write_bytes(found.read_bytes() + Path(f"{found}.crt").read_bytes())
    return found


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("trusted", [False, True])
def test_only_a_certificate_of_its_name_that_is_trusted_gets_the_key(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, name: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if trusted:
        theirs = ssl.create_default_context(cafile=f"{certificate}.crt")
        monkeypatch.setattr("herd.backends.transport._TLS", {False: theirs})
    with hosting(answer("Yes."), tls=context) as host:
        address = host.address.replace("http://127.0.0.1", f"https://{name}")
        model = BackendModel(patient(address))
        if trusted and name == "localhost":
            assert asyncio.run(chat(model)).text == "Yes."
            return
        with pytest.raises(HerdError, match="certificate") as caught:
            asyncio.run(chat(model))
        assert reason_of(caught.value) == "absent" and host.asked == []


def test_without_httpx_one_line_says_how_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingExtra, match="needs httpx; scripts/setup --hosts"):
        BackendModel(patient("http://127.0.0.1:1/v1"))


@pytest.mark.parametrize("leaves", [False, True])
def test_whoever_reads_or_leaves_an_answer_closes_all_generators(leaves: bool) -> None:
    """One that is left to the loop is closed later, or never: "Task was destroyed but it is pending!". What httpx has
    within its own is its matter."""
    left: list[str] = []

    def note(one: Any) -> None:
        left.append(f"{one.__qualname__} {one.ag_code.co_filename}")

    async def ask(address: str) -> None:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(hooks.firstiter, note)
        stream = BackendModel(patient(address)).astream(HELLO)
        async for _ in stream:
            if leaves:
                break
        await stream.aclose()
        del stream
        gc.collect()

    with hosting(answer("a", "b", "c")) as host:
        asyncio.run(ask(host.address))
    assert not [one for one in left if "aiter_raw" in one or "/herd/" in one]
