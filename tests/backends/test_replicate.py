"""Replicate's predictions: made, read where their stream is and nowhere else, and cancelled where nobody waits."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_host import BOUNDS, JSON, KEY, STREAM, FakeHost, Script, hosting, patient, whole
from test_hostile_hosts import check_line
from test_openai_form import HELLO, PNG, SAID, TOOLS

from helpers import PATIENCE_S, until
from herd.backends import gate
from herd.backends.failures import reason_of
from herd.backends.forms import form_of
from herd.backends.model import BackendModel
from herd.backends.paid import PaidModel
from herd.backends.presets import PRESETS
from herd.backends.probing import probe
from herd.backends.settings import Backend, target_of
from herd.backends.spending import Account, Rates, sums_of
from herd.backends.target import Target, origin_of
from herd.chat_model import WHOSE
from herd.errors import HerdError, StaysHere, Unsupported, UsageError
from herd.events import DoneEvent, Event, Reply, TextEvent
from herd.messages import Message

SCOUT = "meta/llama-4-scout-instruct"
ID = "gm3qorzdhgbfurvjtvhg6dckhu"


def there(address: str = "http://127.0.0.1:1/v1", **more: Any) -> Target:
    return patient(address, **{"model": SCOUT, "form": "replicate", **more})


THERE = there()


def made(host: FakeHost, stream: Any = None, **more: Any) -> Script:
    """A prediction that was made."""
    urls = {
        "cancel": "https://evil.example/cancel",
        "get": "https://evil.example/get",
        "stream": f"{host.address}/streams/abc?x=1" if stream is None else stream,
    }
    return whole({"id": ID, "model": SCOUT, "status": "starting", "urls": urls, **more}, 201)


def event(name: str, data: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: 1690212292:0\n{lines}\n".encode()


def said(*words: str, end: str = "{}") -> Script:
    return Script([b": hi\n\n", *(event("output", one) for one in words), event("done", end)])


def over(prompt: Any = 7, output: Any = 3) -> Script:
    metrics = {"input_token_count": prompt, "output_token_count": output, "predict_time": 0.4}
    return whole({"id": ID, "status": "succeeded", "metrics": metrics})


CANCELLED = whole({"id": ID, "status": "canceled"})
Scripts = Callable[[FakeHost], Sequence[Script]]


def events_of(scripts: Scripts, **options: Any) -> tuple[list[Event], FakeHost]:
    """What a request to a fake host streams."""

    async def read(address: str) -> list[Event]:
        return [one async for one in BackendModel(there(address)).astream(HELLO, **options)]

    with hosting(Script()) as host:
        host.scripts[:] = scripts(host)
        return asyncio.run(read(host.address)), host


def reply_of(scripts: Scripts, **options: Any) -> Reply:
    last = events_of(scripts, **options)[0][-1]
    assert isinstance(last, DoneEvent)
    return last.reply


def failed(scripts: Scripts, **options: Any) -> tuple[HerdError, list[str]]:
    """The error that a request ends with, and what was asked of the host."""
    with hosting(Script()) as host:
        host.scripts[:] = scripts(host)
        with pytest.raises(HerdError) as caught:
            asyncio.run(BackendModel(there(host.address)).achat(HELLO, **options))
        asked = [f"{one.method} {one.path}" for one in host.asked]
    check_line(caught.value)
    return caught.value, asked


MAKE, STREAMED, ASK = f"POST /v1/models/{SCOUT}/predictions", "GET /v1/streams/abc?x=1", f"GET /v1/predictions/{ID}"
CANCEL = f"POST /v1/predictions/{ID}/cancel"


def test_an_answer_piece_by_piece() -> None:
    found, host = events_of(lambda host: [made(host), said("Grüße,", " \n\n", "🌍"), over()], max_tokens=5, top_p=0.5)
    assert [one.text for one in found if isinstance(one, TextEvent)] == ["Grüße,", " \n\n", "🌍"]
    last = found[-1]
    assert isinstance(last, DoneEvent) and last.reply.finish_reason == "stop"
    assert (last.reply.usage.prompt_tokens, last.reply.usage.output_tokens) == (7, 3)
    assert [f"{one.method} {one.path}" for one in host.asked] == [MAKE, STREAMED, ASK]
    make, stream, _ = host.asked
    assert make.body == {"input": {"prompt": "Hello.", "max_tokens": 5, "top_p": 0.5}, "stream": True}
    assert make.headers["cancel-after"] == f"{int(BOUNDS.total_s)}s" and "prefer" not in make.headers
    assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in host.asked)
    assert stream.headers["accept"] == STREAM


def test_an_answer_that_has_all_tokens_that_it_may_is_cut() -> None:
    for most, options in ((3, {"max_tokens": 3}), (3, {"ceiling": 3, "max_tokens": 9}), (1024, {})):
        reply = reply_of(lambda host, most=most: [made(host), said("a"), over(output=most)], **options)  # type: ignore[misc]
        assert reply.finish_reason == "length"


def test_what_it_took_is_asked_for_again_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.backends.replicate.WAITS_S", (0.0, 0.01, 0.01))
    soon = whole({"id": ID, "status": "processing", "metrics": {}})
    assert reply_of(lambda host: [made(host), said("a"), soon, over()]).usage.output_tokens == 3
    for never in (whole({"detail": "x"}, 500), whole([5]), Script([b"<html>"], 200, "text/html")):
        reply = reply_of(lambda host, never=never: [made(host), said("a", "b"), never])  # type: ignore[misc]
        assert (reply.text, reply.finish_reason, reply.usage.prompt_tokens) == ("ab", "stop", 0)


def test_every_option_is_sent_or_kept_or_refused_by_name() -> None:
    """Though the target claims to do all of it."""
    form = form_of(THERE)
    known = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "ceiling"}
    before = form.body_of(THERE, HELLO, {})
    for name, value in SAID.items():
        options = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
        if name in (*WHOSE, "timeout_s", "continue_final_message"):
            assert form.body_of(THERE, HELLO, {name: value}) == before
        elif name in known:
            assert form.body_of(THERE, HELLO, {name: value}) != before, name
        else:
            with pytest.raises(Unsupported):
                form.body_of(THERE, HELLO, {**options, name: value})


DIALOGS: dict[str, Any] = {
    "a system text": [Message("system", "Be brief."), *HELLO],
    "several turns": [*HELLO, Message("assistant", "Hi."), *HELLO],
    "a begun answer": [*HELLO, Message("assistant", "Hi")],
    "an image": [{"role": "user", "content": [{"type": "image", "image": PNG}]}],
    "nothing": [Message("user", "")],
}


@pytest.mark.parametrize("name", DIALOGS)
def test_a_dialog_that_it_cannot_carry_is_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(Unsupported):
        form_of(THERE).body_of(THERE, DIALOGS[name], {})


def test_a_context_follows_and_a_model_is_one_of_somebody() -> None:
    turn = Message("user", "What now?", context="It is noon.")
    assert form_of(THERE).body_of(THERE, [turn], {})["input"]["prompt"] == "What now?\n\nIt is noon."
    for model in ("llama", "a/b/c", "a/..%2f", "meta/llama?x"):
        with pytest.raises(Unsupported, match="OWNER/NAME"):
            form_of(THERE).body_of(there(model=model), HELLO, {})


ELSEWHERE = [
    "https://evil.example/v1/streams/x", "http://127.0.0.1:1/v1/streams", "https://stream.replicate.com.evil.example/x",
    "https://stream.replicate.com@evil.example/x", "http://stream.replicate.com/x",
    "https://stream.replicate.com:444/x",
    "file:///etc/passwd", "//evil.example/x", "", "https://[::1", "https://stream.replicate.com\\@evil.example/", 5,
    None,
    ["https://stream.replicate.com/x"], "HTTPS://evil.example", "https://user:pass@stream.replicate.com/x",
    "https://" + "a" * 3000, "https://stream.replicate.com/a b", "https://stream.replicate.com/x#y",
]  # fmt: skip


@pytest.mark.parametrize("address", ELSEWHERE)
def test_an_answer_sends_nobody_to_another_place(address: Any) -> None:
    """And what was made is cancelled."""
    with hosting(Script()) as host:
        script = made(host, stream="x")
        body = json.loads(script.pieces[0])  # type: ignore[index]
        body["urls"]["stream"] = address
        host.scripts[:] = [whole(body, 201), CANCELLED]
        target = there(host.address, origins=PRESETS["replicate"].origins)
        with pytest.raises(HerdError) as caught:
            asyncio.run(BackendModel(target).achat(HELLO))
        assert [f"{one.method} {one.path}" for one in host.asked] == [MAKE, CANCEL]
    check_line(caught.value)
    assert reason_of(caught.value) == "broken"


def test_a_place_that_the_target_names_has_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def allow(place: gate.Destination, *, leave: bool) -> gate.Pass:
        asked.append(place.base_url)
        if len(asked) > 1:
            raise StaysHere("no pass")
        return gate.allow(place, leave=leave)

    with hosting(Script()) as host, hosting(said("There.")) as second:
        host.scripts[:] = [made(host, stream=f"{second.address}/s"), over()]
        target = there(host.address, origins=frozenset({origin_of(second.address)}))
        assert asyncio.run(BackendModel(target).achat(HELLO)).text == "There."
        assert second.asked[0].path == "/v1/s" and second.asked[0].headers["host"] in second.address
        monkeypatch.setattr("herd.backends.model.allow", allow)
        monkeypatch.setattr("herd.backends.replicate.allow", allow)
        host.scripts[:] = [made(host, stream=f"{second.address}/s"), CANCELLED]
        with pytest.raises(StaysHere):
            asyncio.run(BackendModel(target).achat(HELLO))
        assert (len(second.asked), asked[1]) == (1, f"{second.address}/s")
        assert host.asked[-1].path.endswith("/cancel")


def test_its_own_places_are_https() -> None:
    backend = Backend("replicate", SCOUT, key=KEY, limit_dollars=1)
    found = target_of("far", backend)
    assert (found.base_url, found.form) == ("https://api.replicate.com/v1", "replicate")
    assert all(one.startswith("https://") for one in found.origins)
    with pytest.raises(UsageError, match="plain http"):
        replace(found, origins=frozenset({"http://stream.replicate.com"}))


ENDS: dict[str, tuple[Script, str, bool]] = {
    "an error": (Script([event("output", "a"), event("error", '{"detail": "CUDA error"}')]), "absent", False),
    "an error that is too long": (
        Script([event("error", '{"detail": "maximum context length is 8"}')]), "context", False
    ),
    "an error of nothing": (Script([event("error", "[]")]), "broken", False),
    "somebody cancelled it": (said("a", end='{"reason": "canceled"}'), "broken", False),
    "it ended with an error": (said("a", end='{"reason": "error"}'), "broken", False),
    "an end that is no JSON": (said("a", end="{"), "broken", False),
    "a cut stream": (Script([event("output", "a")]), "broken", True),
    "nothing": (Script([]), "broken", True),
    "a page in HTML": (Script([b"<html>"], 200, "text/html"), "broken", True),
    "a whole answer": (whole({"output": "x"}), "broken", True),
    "no UTF-8": (Script([b"event: output\ndata: \xff\n\n"]), "broken", True),
    "a refusal": (whole({"detail": "gone"}, 404), "withdrawn", True),
    "an endless line": (Script([b"data: " + b"a" * 5000]), "broken", True),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_a_stream_that_ends_otherwise_is_one_typed_line_and_what_goes_on_is_cancelled(name: str) -> None:
    script, reason, cancels = ENDS[name]
    error, asked = failed(lambda host: [made(host), script, CANCELLED])
    assert reason_of(error) == reason
    assert (CANCEL in asked) == cancels


def problem(status: int, title: str, detail: str) -> Script:
    return whole({"title": title, "detail": detail, "status": status}, status)


MAKING: dict[str, tuple[Script, str]] = {
    "a wrong key": (problem(401, "Unauthenticated", f"You did not pass a valid token {KEY}"), "refused"),
    "no money": (problem(402, "Insufficient credit", "You have insufficient credit to run this model."), "refused"),
    "no place": (problem(429, "", "Request was throttled. Expected available in 1 second."), "full"),
    "no such model": (problem(404, "", "The requested resource could not be found."), "withdrawn"),
    "another input": (problem(422, "Input validation failed", "- input.prompt: prompt is required"), "unfit"),
    "no prediction": (whole({"status": "starting"}, 201), "broken"),
    "an id that is a path": (whole({"id": "../../account", "urls": {}}, 201), "broken"),
    "a list": (whole([1], 201), "broken"),
    "a page in HTML": (Script([b"<html>"], 201, "text/html"), "broken"),
    "an answer at once": (Script([b"event: done\ndata: {}\n\n"], 200, STREAM), "broken"),
    "a fault": (whole({"detail": "oops"}, 500), "absent"),
}


@pytest.mark.parametrize("name", MAKING)
def test_what_is_not_made_is_one_typed_line(name: str) -> None:
    script, reason = MAKING[name]
    kind = "application/problem+json" if script.kind == JSON and script.status > 400 else script.kind
    error, asked = failed(lambda host: [replace(script, kind=kind)])
    assert (reason_of(error), asked) == (reason, [MAKE])


def test_whoever_leaves_cancels_it_there() -> None:
    async def leave(address: str) -> None:
        stream = BackendModel(there(address)).astream(HELLO)
        assert await anext(stream)
        await stream.aclose()

    with hosting(Script()) as host:
        host.scripts[:] = [made(host), Script([event("output", "a")], hangs="after"), CANCELLED]
        asyncio.run(leave(host.address))
        assert [f"{one.method} {one.path}" for one in host.asked] == [MAKE, STREAMED, CANCEL]
        assert host.left.wait(PATIENCE_S)


def test_a_task_that_is_cancelled_and_a_time_that_is_over_cancel_it_there() -> None:
    async def cancel(host: FakeHost) -> None:
        task = asyncio.ensure_future(BackendModel(there(host.address)).achat(HELLO))
        while len(host.asked) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def late(host: FakeHost) -> None:
        with pytest.raises(HerdError):
            await BackendModel(there(host.address)).achat(HELLO, timeout_s=0.3)

    for ending in (cancel, late):
        with hosting(Script()) as host:
            host.scripts[:] = [made(host), Script([event("output", "a")], hangs="after"), CANCELLED]
            asyncio.run(ending(host))
            assert host.asked[-1].path.endswith("/cancel")


def test_one_that_is_made_while_nobody_waits_any_more_is_cancelled_too() -> None:
    async def cancel(host: FakeHost) -> None:
        task = asyncio.ensure_future(BackendModel(there(host.address)).achat(HELLO))
        while not host.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        until("it is not cancelled", lambda: len(host.asked) == 2)

    with hosting(Script()) as host:
        body = made(host)

        def slowly(send: Callable[[bytes], None]) -> None:
            time.sleep(0.3)
            send(body.pieces[0])  # type: ignore[index]

        host.scripts[:] = [replace(body, pieces=slowly), CANCELLED]
        asyncio.run(cancel(host))
        assert [f"{one.method} {one.path}" for one in host.asked] == [MAKE, CANCEL]


def test_it_costs_what_it_told_and_else_the_most(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    for last, spent in ((over(7, 3), 7 * 1000 + 3 * 2000), (whole({"id": ID}, 500), None)):
        account = Account("there", f"a{spent}", 10**12, Rates(1.0, 2.0))
        with hosting(Script()) as host:
            host.scripts[:] = [made(host), said("a"), last]
            asyncio.run(PaidModel(BackendModel(there(host.address)), account).achat(HELLO, max_tokens=5))
        sums = sums_of(account.id)
        assert sums.spent == spent if spent is not None else sums.spent > 5 * 2000


def test_a_probe_finds_the_model_alone() -> None:
    model = whole({"owner": "meta", "name": "llama-4-scout-instruct", "run_count": 5})
    with hosting(Script()) as host:
        host.scripts[:] = [model, made(host), said("Yes."), over()]
        found = asyncio.run(probe(BackendModel(there(host.address)), leave=False, tell=lambda *_: None))
        assert host.asked[0].path == f"/v1/models/{SCOUT}"
    assert {check: one["result"] for check, one in found.items()} == {
        "reached": "ok", "key": "ok", "model": "ok", "streams": "ok", "usage": "ok", "tools": "lacks", "schema": "lacks"
    }  # fmt: skip
