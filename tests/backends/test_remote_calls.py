"""Calls without an event loop: everyday verbs over a host, by threads, left in the middle, interrupted, closed."""

import asyncio
import gc
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from fake_host import KEY, Script, answer, chunk, hosting, patient, whole

import herd
from fake_chat_model import OnlyChats
from helpers import PATIENCE_S, until
from herd.backends.failures import Reason
from herd.backends.model import BackendModel
from herd.backends.remote import Remote
from herd.backends.settings import Backend, Backends
from herd.backends.target import Bounds
from herd.errors import HerdError, NotFound, NotReady, SomeFailed, StaysHere, UsageError
from herd.events import DoneEvent, Reply, TextEvent
from herd.messages import Message


def remote(address: str, **fields: Any) -> Remote:
    return Remote(BackendModel(patient(address, **fields)))


def test_it_chats_and_streams() -> None:
    with hosting(answer("Hel", "lo.")) as host, remote(host.address) as model:
        assert str(model.chat("Hi.", system="Be brief.", max_tokens=5)) == "Hello."
        assert host.asked[0].body["messages"] == [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}
        ]  # fmt: skip
        found = list(model.stream([Message("user", "Hi.")]))
        assert [one.text for one in found if isinstance(one, TextEvent)] == ["Hel", "lo."]
        assert isinstance(found[-1], DoneEvent) and found[-1].reply.answered_by == "there"
        assert asyncio.run(model.achat("Hi.")).text == "Hello."
        assert (model.name, model.context, model.capabilities.tools) == ("there", 1 << 17, True)
        assert KEY not in repr(model)


def test_many_are_asked_in_their_order_so_many_at_once() -> None:
    under_way = most = 0

    class Counts(OnlyChats):
        async def achat(self, messages: Any, **options: Any) -> Reply:
            raise AssertionError("a Remote streams")

        def astream(self, messages: Any, **options: Any) -> Any:
            nonlocal under_way, most
            if str(messages[0].text) == "bad":
                raise UsageError("bad")
            under_way += 1
            most = max(most, under_way)
            stream = super().astream(messages, **options)
            close = stream.aclose

            async def closed() -> None:
                nonlocal under_way
                under_way -= 1
                await close()

            stream.aclose = closed  # type: ignore[method-assign]
            return stream

    with Remote(Counts(lambda turns: turns[-1].text.upper())) as model:
        words = [chr(97 + i) for i in range(20)]
        assert [one.text for one in model.chat_many(words, at_once=3)] == [word.upper() for word in words]
        assert most == 3
        assert [one.text for one in asyncio.run(model.achat_many(words[:2]))] == ["A", "B"]  # type: ignore[union-attr]
        with pytest.raises(SomeFailed, match="1 of 3 requests failed, the first: bad") as caught:
            model.chat_many(["x", "bad", "y"])
        assert [str(one) for one in caught.value.replies] == ["X", "bad", "Y"]
        found = model.chat_many(["bad", "z"], return_errors=True)
        assert isinstance(found[0], UsageError) and str(found[1]) == "Z"
        assert model.chat_many([]) == []
        for wrong in ({"at_once": 0}, {"n": 2}, {"temprature": 1}):
            with pytest.raises(UsageError):
                model.chat_many(["x"], **wrong)  # type: ignore[call-overload]
        assert [one.text for one in model.chat_samples("s", 2)] == ["S", "S"]
    with hosting(answer("Yes.")) as host, remote(host.address, in_house=False) as far:
        with pytest.raises(SomeFailed):
            far.chat_many(["a", "b"])
        assert host.connections == 0
        assert [one.text for one in far.chat_many(["a", "b"], leave=True)] == ["Yes.", "Yes."]


def test_json_is_read() -> None:
    with hosting(answer('{"city": ', '"Oslo"}')) as host, remote(host.address) as model:
        assert model.chat("Where?", schema=True).parsed == {"city": "Oslo"}
        assert model.chat("Where?").parsed is None


def test_what_leaves_the_house_is_asked_for() -> None:
    with hosting(answer("Yes.")) as host:
        with remote(host.address, in_house=False) as model:
            with pytest.raises(StaysHere):
                model.chat("Hi.")
            assert host.connections == 0
            assert model.chat("Hi.", leave=True).text == "Yes."
        with Remote(BackendModel(patient(host.address, in_house=False)), leave=True) as model:
            assert model.chat("Hi.").text == "Yes."
            with pytest.raises(StaysHere):
                model.chat("Hi.", leave=False)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"temprature": 1}, "did you mean temperature"), ({"n": 2}, "use stream"), ({"trace": "x"}, "option")],
)
def test_unknown_options_are_refused_by_name(options: dict[str, Any], match: str) -> None:
    with remote("http://127.0.0.1:1/v1") as model, pytest.raises(UsageError, match=match):
        model.chat("Hi.", **options)
    for wrong in ([], [{"role": "x", "content": "a"}], 5):
        with remote("http://127.0.0.1:1/v1") as model, pytest.raises(UsageError):
            model.chat(wrong)  # type: ignore[arg-type]


def test_a_stream_that_is_left_is_gone_at_the_other_side() -> None:
    with hosting(Script([chunk({"content": "One"})], hangs="after")) as host, remote(host.address) as model:
        stream = model.stream("Hi.")
        assert isinstance(next(stream), TextEvent)
        stream.close()  # type: ignore[attr-defined]
        assert host.left.wait(PATIENCE_S)


def test_one_that_nobody_reads_any_more_too() -> None:
    with hosting(Script([chunk({"content": "One"})], hangs="after")) as host, remote(host.address) as model:
        stream = model.stream("Hi.")
        next(stream)
        del stream
        gc.collect()
        assert host.left.wait(PATIENCE_S)


def test_an_interruption_returns_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(Script([chunk({"content": "One"})], hangs="after")) as host, remote(host.address) as model:
        run: Callable[..., Any] = model._loop.run
        calls = []

        def interrupted(make: Any) -> Any:
            calls.append(make)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return run(make)

        monkeypatch.setattr(model._loop, "run", interrupted)
        found = model.chat("Hi.")
        assert (found.text, found.finish_reason, found.answered_by) == ("One", "interrupted", "there")
        assert host.left.wait(PATIENCE_S)


def test_threads_share_it() -> None:
    replies: list[Reply] = []
    with hosting(answer("Yes.")) as host, remote(host.address) as model:
        threads = [threading.Thread(target=lambda: replies.append(model.chat("Hi."))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert [one.text for one in replies] == ["Yes."] * 8


def test_closing_ends_what_is_under_way_and_the_thread() -> None:
    with hosting(Script(hangs="before")) as host:
        model, errors = remote(host.address), []

        def ask() -> None:
            try:
                model.chat("Hi.")
            except HerdError as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        until("it was not asked", lambda: bool(host.asked))
        model.close()
        thread.join(PATIENCE_S)
        assert [type(one) for one in errors] == [NotReady]
        assert host.left.wait(PATIENCE_S)
        model.close()
        with pytest.raises(NotReady):
            model.chat("Hi.")
    assert not any(one.name == "herd-remote" for one in threading.enumerate())


def test_errors_come_as_they_are() -> None:
    with hosting(whole({"error": {"message": f"no {KEY}"}}, 401)) as host, remote(host.address) as model:
        with pytest.raises(HerdError, match="answered 401") as caught:
            model.chat("Hi.")
        assert "canary" not in str(caught.value)


def test_a_policy_sees_what_goes_in_and_what_comes_out() -> None:
    class Watches:
        hold_tokens = 0

        def before(self, messages: Any) -> str | None:
            return "No." if "secret" in messages[-1].text else None

        def window(self, text: str, shown: int) -> str | None:
            return "Stop." if "bad" in text else None

        def after(self, reply: Reply) -> None:
            """It goes on."""

    said = OnlyChats(lambda turns: "a bad word" if turns[-1].text == "b" else "fine")
    model = Remote(said)
    assert model.chat("a", policy=Watches()).text == "fine"
    assert model.chat("a secret", policy=Watches()).finish_reason == "policy"
    assert len(said.asked) == 1, "the model never saw it"
    assert "bad" not in model.chat("b", policy=Watches()).text
    model.close()


def test_the_examples_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    with hosting(answer("Light ", "becomes sugar.")) as cellar, hosting(answer("I do.")) as spare:
        for port, host in (("8000", cellar), ("8001", spare)):
            assert f"http://127.0.0.1:{port}/v1" in code
            code = code.replace(f"http://127.0.0.1:{port}/v1", host.address)
        exec(compile(code, "backends.md", "exec"), {})
    assert capsys.readouterr().out.startswith("Light becomes sugar.\nTextEvent")


def test_the_page_tells_every_bound_and_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text(encoding="utf-8")
    table = page.partition("| reason |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert told == set(get_args(Reason)) - {"unfit"}  # the request's own fault goes to nobody else
    bounds = Bounds()
    times = (bounds.connect_s, bounds.first_s, bounds.idle_s, bounds.total_s)
    assert ", ".join(f"{one:,.0f}" for one in times) in page
    sizes = (bounds.head_bytes >> 10, bounds.line_bytes >> 20, bounds.event_bytes >> 20, bounds.body_bytes >> 20)
    assert "{} KiB, {} MiB, {} MiB, {} MiB".format(*sizes) in page
    assert f"{bounds.events:,}, {bounds.depth}, {bounds.values:,}" in page


def test_a_backend_is_found_by_name_and_no_llm_is_made_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    with hosting(answer("Yes.")) as host:
        Backends().add("cellar", Backend(preset="vllm", model="scout", url=host.address))
        for name, model in (("cellar", "scout"), ("backend:cellar", "scout"), ("cellar/other", "other")):
            with herd.backend(name) as found:
                assert found.chat("Hi.").answered_by == "cellar"
            assert host.asked[-1].body["model"] == model
        for name in ("backend:cellar", "cellar/other"):
            with pytest.raises(UsageError, match=r"use herd\.backend"):
                herd.load(name)
    for ask in (herd.backend, lambda name: herd.load(f"backend:{name}")):
        with pytest.raises(NotFound, match="herd backend list"):
            ask("attic")
