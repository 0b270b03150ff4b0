"""`herd eval` over backends and routes: what leaves the house is told before and wants --leave, what a backend cannot
do is refused by name, spending limits hold, and a run that ended goes on.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_host import FakeHost, Script, answer, call, chunk, hosting, usage, whole

from fake_chat_model import OnlyChats
from herd.backends.failures import Broken
from herd.backends.names import PREFIX
from herd.backends.routes import Routes
from herd.backends.settings import Backend, Backends
from herd.cli import main
from herd.errors import Busy, PassFailed
from herd.evals.elsewhere import MOST_BROKEN, WAIT_S, Patient

TASK = """name = "ä"
kind = "answer"
prompt = "Say {q}"
system = "é"
shots = 1
checker = "exact"
[[example]]
q = "a"
answer = "a"
[[item]]
q = "hello"
answer = "hello"
[[item]]
q = "ho"
answer = "ho"
"""
SIZE = 2 * len("éSay aa".encode()) + len("Say hello" + "Say ho")
FREE = {"limit_dollars": 0.0, "dollars_in": 0.0, "dollars_out": 0.0}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with hosting(answer("hel", "lo")) as found:
        yield found


@pytest.fixture
def task(tmp_path: Path) -> str:
    (tmp_path / "t.toml").write_text(TASK)
    return str(tmp_path / "t.toml")


def add(host: FakeHost, name: str = "far", *, outside: bool = True, **fields: object) -> None:
    made = Backend(preset="openai", model="x", url=host.address, house="out" if outside else "")
    Backends().add(name, Backend(**{**{one: getattr(made, one) for one in made.__struct_fields__}, **fields}))


def test_hosts_items_and_bytes_are_told_and_leave_is_wanted(
    host: FakeHost, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(host)
    out = str(tmp_path / "out")
    assert main(["eval", "backend:far", task, "--out", out, "-q"]) == 1
    err = capsys.readouterr().err
    assert (
        f"to 127.0.0.1: 2 items, {SIZE} bytes of texts and images" in err and "stays in it" in err and "--leave" in err
    )
    assert host.connections == 0
    assert main(["eval", "backend:far", task, "--out", out, "--leave", "--limit", "1"]) == 0
    said = capsys.readouterr()
    assert "to 127.0.0.1: 1 items, " in said.err
    assert [turn["content"] for turn in host.asked[0].body["messages"]][:3] == ["é", "Say a", "a"]
    assert main(["eval", "far/x", task, "--out", out, "--leave", "--json"]) == 0
    said = capsys.readouterr()
    assert "1 items, " in said.err and "goes on after 1 items" in said.err, "what is kept is not sent again"
    (row,) = json.loads(said.out)["tasks"]
    assert (row["answered"], row["mean"], row["answered_by"]) == (2, 0.5, {"far": 2})
    assert len(host.asked) == 2
    assert main(["eval", "--compare", out, out]) == 0


def test_a_run_of_another_address_or_model_is_refused(
    host: FakeHost, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(host)
    out = str(tmp_path / "out")
    assert main(["eval", "backend:far", task, "--out", out, "--leave", "-q"]) == 0
    assert main(["eval", "far/y", task, "--out", out, "--leave", "-q"]) == 2
    assert "was another one" in capsys.readouterr().err
    first = json.loads((tmp_path / "out/ä/results.jsonl").read_text().splitlines()[0])
    assert first["job"]["model"] == f"backend:far {host.address} x"


@pytest.mark.parametrize(
    "words", ["show {}", "verify {}", "bench {}", "use {}", "rm {}", "tokenize {} x", "upgrade {} x --yes"]
)
def test_commands_of_files_say_that_a_backend_is_none(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.format(f"{PREFIX}far").split()) == 3
    err = capsys.readouterr().err
    assert "a model of files is wanted" in err and "herd pull" not in err, err


def test_what_a_backend_cannot_do_is_refused_by_name(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(host, outside=False)
    assert main(["eval", "backend:far", "smoke-greetings", "smoke-text"]) == 2
    assert "task smoke-text (bits_per_byte): far cannot score given texts" in capsys.readouterr().err
    for flag in (["--kv", "int8"], ["--ctx", "1K"], ["--device", "cpu"]):
        assert main(["eval", "backend:far", "smoke-greetings", *flag]) == 2
        assert f"{flag[0]}: got a backend" in capsys.readouterr().err
    assert main(["eval", "backend:nowhere", "smoke-greetings"]) == 3
    assert main(["eval", "--compare", "nowhere", "backend:far", "smoke-greetings"]) == 2
    assert "got a backend, backend:far" in capsys.readouterr().err
    assert host.connections == 0
    assert main(["eval", "backend:far", "--limit", "1", "--json"]) == 0
    said = capsys.readouterr()
    assert "left out: smoke-sequences, smoke-text" in said.err
    asked = {row["task"] for row in json.loads(said.out)["tasks"]}
    assert asked >= {"smoke-arithmetic", "smoke-greetings"} and not asked & {"smoke-text", "smoke-sequences"}
    assert main(["eval", str(tmp_path), "smoke-text", "--leave"]) == 2
    assert "got a model of files" in capsys.readouterr().err


def test_a_private_route_stays_and_says_who_answered(
    host: FakeHost, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add(host)
    Routes().add("shut", ["far"], private=True)
    assert main(["eval", "backend:shut", task, "--leave"]) == 1
    assert "the route shut is private" in capsys.readouterr().err and host.connections == 0
    with hosting(whole({"error": "no"}, 404), answer("ho")) as house:
        add(house, "near", outside=False)
        Routes().add("both", ["near", "far"])
        assert main(["eval", "backend:both", task, "--leave"]) == 0
        err = capsys.readouterr().err
        assert "to 127.0.0.1: 2 items" in err
        Routes().add("stays", ["far", "near"])
        assert main(["eval", "backend:stays", task, "--json"]) == 0, "one in the house answers without --leave"
        said = capsys.readouterr()
        assert "to 127.0.0.1" not in said.err, "what stays is not told to leave"
        (row,) = json.loads(said.out)["tasks"]
        assert row["answered_by"] == {"near": 2}


def test_a_spending_limit_ends_the_run_which_goes_on_later(
    host: FakeHost, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(host, limit_dollars=0.006, dollars_in=1.0, dollars_out=1.0)  # 4,400 tokens at most for an item
    host.scripts = [Script([chunk({"content": "ho"}), chunk({}, "stop"), usage(3000, 1), b"data: [DONE]\n\n"])]
    out = str(tmp_path / "out")
    words = ["eval", "backend:far", task, "--out", out, "--leave", "-q"]
    assert main(words) == 1
    assert "limit" in capsys.readouterr().err and len(host.asked) == 1
    Backends().set_limit("far", 1.0)
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"][0]["answered"] == 2 and len(host.asked) == 2


def test_an_answer_that_is_none_fails_by_itself_and_a_broken_host_ends_the_run(
    host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f'[[item]]\nq = "{i:02}"\nanswer = "hello"\n' for i in range(8))
    (tmp_path / "t.toml").write_text('name = "t"\nkind = "answer"\nprompt = "{q}"\nchecker = "exact"\n' + rows)
    add(host, outside=False)
    unasked = Script([chunk(call(0, "{}", "say", "c")), chunk({}, "tool_calls"), usage()])
    host.scripts = [answer("hello"), unasked, answer("hello")]
    assert main(["eval", "backend:far", str(tmp_path / "t.toml"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (row["answered"], row["failed"]) == (7, {"pass_failed": 1})
    host.scripts = [Script([b"<html>"], kind="text/html")]
    assert main(["eval", "backend:far", str(tmp_path / "t.toml"), "--json"]) == 5
    assert "text/html" in capsys.readouterr().err


def test_a_full_host_is_waited_for_so_long_and_no_longer() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    class Full(OnlyChats):
        refusals = 2

        def astream(self, messages, **options):  # type: ignore[no-untyped-def]
            self.refusals -= 1
            if self.refusals >= 0:
                error = Busy("full")
                error.retry_after_s = 5.0
                raise error
            return super().astream(messages, **{k: v for k, v in options.items() if k != "leave"})

    turns = [{"role": "user", "content": "hi"}]
    model = Full()
    assert asyncio.run(Patient(model, leave=False, sleep=sleep).achat(turns)).text
    assert waits == [5.0, 10.0]
    waits.clear()
    model.refusals = 1000
    with pytest.raises(Busy):
        asyncio.run(Patient(model, leave=False, sleep=sleep).achat(turns))
    assert 0 < sum(waits) <= WAIT_S


def test_broken_answers_in_a_row_end_a_run() -> None:
    class Breaks(OnlyChats):
        def astream(self, messages, **options):  # type: ignore[no-untyped-def]
            raise Broken("html")

    model = Patient(Breaks(), leave=False)
    turns = [{"role": "user", "content": "hi"}]
    for _ in range(MOST_BROKEN):
        with pytest.raises(PassFailed):
            asyncio.run(model.achat(turns))
    with pytest.raises(Broken):
        asyncio.run(model.achat(turns))
