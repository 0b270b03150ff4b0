"""`herd backend`, `herd run` and `herd serve` with backends: what is kept, shown and sent; a key is shown nowhere."""

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import frames_there as converse
import httpx
import pytest
import test_replicate as replicate
from fake_host import FakeHost, Script, answer, call, chunk, hosting, usage, whole
from PIL import Image
from serving import running

from helpers import PATIENCE_S
from herd.backends import settings, spending
from herd.backends.remote import backend
from herd.backends.routes import Routes, chosen
from herd.backends.settings import Backend, Backends
from herd.backends.spending import NANO
from herd.cli import main
from herd.disk.records import CachedFile
from herd.errors import BadFile, HerdError, StaysHere, UsageError
from herd.server.log import Log
from herd.server.options import ServerOptions
from herd.server.run import service_of
from herd.store import registry

KEY = "sk-canary-9f86d081884c7d65"
LISTED = whole({"data": [{"id": "x"}, {"id": "y"}]})
Herd = Callable[..., "Said"]


class Said:
    """What a command said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert KEY not in out + err


@pytest.fixture
def herd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Herd:
    """Runs a command; typed: what comes on stdin."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FAR_KEY", raising=False)

    def run(*words: str, typed: str = "") -> Said:
        assert KEY not in words
        reader, writer = os.pipe()
        os.write(writer, typed.encode())
        os.close(writer)
        with open(reader) as stdin, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stdin)
            status = main(list(words))
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with hosting(answer("Hel", "lo")) as found:
        yield found


def add(herd: Herd, host: FakeHost, *more: str, name: str = "far", typed: str = "") -> Said:
    """A backend outside of the house, though a test has it on loopback."""
    free = () if "--limit" in more or not {"--key", "--key-env"} & set(more) else FREE
    words = ("--model", "x", "--url", host.address, "--outside", *free, *more)
    said = herd("backend", "add", name, *words, typed=typed)
    assert said.status == 0, said.err
    return said


BEDROCK = ("--preset", "bedrock", "--model", "us.meta.llama4-scout-17b-instruct-v1:0")
REPLICATE = ("--preset", "replicate", "--model", "meta/llama-4-scout-instruct")
FREE = ("--limit", "0", "--price", "0/0")
PAID = ("--limit", "0.05", "--price", "1/10")


def test_a_backend_is_kept_in_a_file_for_its_owner_alone(herd: Herd, host: FakeHost) -> None:
    old = os.umask(0)
    try:
        add(herd, host, "--key", typed=f"{KEY}\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(Backends().path).st_mode) == 0o600
    secret = Backends().find("far").secret("far")
    assert secret is not None and secret.reveal() == KEY
    Backends().path.chmod(0o640)
    for words in (("list",), ("test", "far"), ("rm", "far"), ("limit", "far", "5")):
        said = herd("backend", *words)
        assert said.status == 2 and "got mode 640, expected 600; chmod 600" in said.err


def test_a_key_is_shown_by_no_command(herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by one that fails, at a host that repeats it."""
    add(herd, host, "--key", *PAID, typed=f"  {KEY} \n")
    monkeypatch.setenv("FAR_KEY", KEY)
    add(herd, host, "--key-env", "FAR_KEY", name="env")
    repeats = whole({"error": {"message": f"bad key {KEY}", "code": KEY}}, 401)
    for name in ("far", "env"):
        for script in (
            LISTED,
            answer("ok"),
            repeats,
            whole({"error": KEY}, 500),
            Script([KEY.encode()], kind="text/html"),
        ):
            host.scripts = [script]
            for words in (
                ("backend", "list"), ("backend", "list", "--json"), ("backend", "test", name, "--leave"),
                ("backend", "test", name, "--leave", "--json"), ("run", f"backend:{name}", "hi", "--leave", "-m", "9"),
                ("run", f"{name}/y", "hi", "--leave", "--json", "-m", "9"), ("backend", "add", name, "--model", "x"),
            ):  # fmt: skip
                herd(*words)
    called = Script([chunk(call(0, '{"word": "yes"}', "say", "c")), chunk({}, "tool_calls"), usage()])
    host.scripts = [LISTED, answer("ok"), called, answer(f"the key is {KEY}")]
    assert "the key is ***" in herd("backend", "test", "far", "--leave").out
    assert any(KEY in one.headers.get("authorization", "") for one in host.asked)
    assert herd("backend", "rm", "far").status == 0
    assert "far" not in Backends().read().good


def test_a_key_is_in_no_repr_error_or_broken_record(herd: Herd, host: FakeHost) -> None:
    add(herd, host, "--key", typed=KEY)
    one = Backends().find("far")
    told = [repr(one), str(one), f"{one}", repr(Backends().read()), repr(settings.model_of("far")),
            repr(settings.target_of("far", one)), repr(vars(settings.model_of("far")))]  # fmt: skip
    sound = Backends().path.read_text()
    changes = (('"x"', "3"), ('"preset"', '"pre"'), (KEY, f"{KEY} é"), ("http://127", f"http://{KEY}:p@127"))
    for broken in (sound[:-9], *(sound.replace(*change) for change in changes)):
        Backends().path.write_text(broken)
        for call_ in (lambda: Backends().find("far"), lambda: Backends().read().broken and Backends().find("far")):
            with pytest.raises(HerdError) as caught:
                call_()
            told.append(str(caught.value))
        herd("backend", "list")
    assert not any(KEY in text for text in told)


def test_hosts_of_other_forms_are_added_and_tried(herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", KEY)
    keyed = ("--key-env", "AWS_BEARER_TOKEN_BEDROCK")
    said = herd("backend", "add", "far", *BEDROCK, "--region", "us-east-1", "--limit", "1", *keyed)
    assert said.status == 0 and "https://bedrock-runtime.us-east-1.amazonaws.com" in said.err  # and it has a price
    assert "ends us.meta.llama4-scout-17b-instruct-v1:0 on 2027-03-30" in said.err
    said = herd("backend", "add", "none", *BEDROCK, "--region", "us-east-1", "--limit", "1", typed="\n")
    assert said.status == 2 and "or give --key-env AWS_BEARER_TOKEN_BEDROCK" in said.err
    there = ("--url", host.address, "--outside", *PAID, *keyed)
    assert herd("backend", "add", "aws", *BEDROCK, *there).status == 0
    assert herd("backend", "add", "rep", *REPLICATE, *there).status == 0
    for name in ("aws", "rep"):
        said = herd("backend", "test", name)
        assert said.status == 1 and "outside of the house" in said.err
    assert host.connections == 0
    host.scripts[:] = [converse.answer("Yes.")]
    said = herd("run", "backend:aws", "hi", "--leave", "--max-tokens", "5")
    assert (said.status, said.out.strip()) == (0, "Yes."), said.err
    assert host.asked[-1].path.endswith("/converse-stream") and KEY not in said.err
    host.scripts[:] = [replicate.made(host), replicate.said("No."), replicate.over()]
    said = herd("run", "backend:rep", "hi", "--leave", "--max-tokens", "5")
    assert (said.status, said.out.strip()) == (0, "No."), said.err
    spent = json.loads(herd("backend", "list", "--json").out)["backends"]
    assert [spent[name]["spent_dollars"] > 0 for name in ("aws", "rep")] == [True, True]


@pytest.mark.parametrize("key", ["", "\n", "two words", "sk-é", "x" * 9000])
def test_a_key_that_no_header_can_carry_is_refused_and_nothing_is_kept(herd: Herd, host: FakeHost, key: str) -> None:
    said = herd("backend", "add", "far", "--model", "x", "--url", host.address, "--key", typed=key)
    assert said.status == 2 and said.err.count("\n") == 1 and (not key.strip() or key not in said.err)
    assert not Backends().read().good


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--preset", "deepinfra", "--model", "x"), "DeepInfra costs money: got no limit, expected --limit DOLLARS"),
        (("--preset", "deepinfra", "--model", "x", "--limit", "1"), "price of x at deepinfra: got none in the table"),
        (("--preset", "deepinfra", "--model", "x", "--limit", "1", "--in-house"), "--in-house: got api.deepinfra.com"),
        (("--model", "x"), "preset openai: got no address, expected --url"),
        (("--model", "x", "--url", "http://8.8.8.8/v1", "--in-house"), "--in-house: got 8.8.8.8"),
        (("--model", "x", "--url", "http://far.example/v1", "--key"), "got a key over plain http"),
        (("--model", "x", "--url", "http://far.example/v1", "--key-env", "FAR_KEY"), "got a key over plain http"),
        (("--preset", "vllm", "--model", "x", "--in-house", "--outside"), "got --outside as well"),
        (("--preset", "vllm", "--model", "x\ny"), "expected the name of a model on one line"),
        (("--preset", "vllm", "--model", "\x1b[31m"), "expected the name of a model on one line"),
        (("--preset", "vllm", "--model", "x" * 257), "of at most 256 characters"),
        ((*BEDROCK, "--limit", "1"), "preset bedrock: got no address, expected --region, or --url"),
        ((*BEDROCK, "--region", "../x", "--limit", "1"), "--region: got ../x, expected a region such as us-east-1"),
        ((*BEDROCK, "--region", "us-east-1"), "Bedrock costs money: got no limit"),
        ((*BEDROCK, "--region", "us-east-1", "--url", "https://x"), "--region: got --url as well"),
        (("--preset", "deepinfra", "--model", "x", "--region", "us-east-1"), "--region: got us-east-1, expected none"),
        ((*REPLICATE, "--limit", "1"), "price of meta/llama-4-scout-instruct at replicate: got none in the table"),
    ],
)
def test_what_could_not_be_used_is_refused_before_a_key_is_asked_for(
    herd: Herd, words: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("herd.cli.backend._key", lambda *_: pytest.fail("a key was asked for"))
    said = herd("backend", "add", "far", *words)
    assert said.status == 2 and line in said.err and said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (("--preset", "vllm"), "in the house"),
        (("--preset", "vllm", "--outside"), "outside"),
        (("--url", "http://localhost:1/v1"), "in the house"),
        (("--url", "http://[::1]:1/v1"), "in the house"),
        (("--url", "http://192.168.1.7/v1"), "outside"),
        (("--url", "http://192.168.1.7/v1", "--in-house"), "in the house"),
        (("--url", "https://cellar.lan/v1", "--in-house"), "in the house"),
        (("--url", "https://cellar.lan/v1"), "outside"),
        (("--url", "https://localhost.example/v1"), "outside"),
    ],
)
def test_only_this_machine_and_what_a_person_says_is_in_the_house(
    herd: Herd, words: tuple[str, ...], place: str
) -> None:
    assert herd("backend", "add", "one", "--model", "x", *words).status == 0
    assert json.loads(herd("backend", "list", "--json").out)["backends"]["one"]["place"] == place


def test_run_sends_nothing_out_of_the_house_without_leave(herd: Herd, host: FakeHost) -> None:
    add(herd, host)
    for words in (("backend:far", "hi"), ("far/y", "hi"), ("far/y", "hi", "--json")):
        said = herd("run", *words)
        assert said.status == 1 and "outside of the house" in said.err and said.err.count("\n") == 1
    assert host.connections == 0
    said = herd("run", "backend:far", "hi", "--leave")
    assert (said.status, said.out) == (0, "Hello\n")
    assert "to 127.0.0.1: 1 request, 2 bytes of texts and images" in said.err
    assert [one.body["model"] for one in host.asked] == ["x"]
    assert json.loads(herd("run", "far/y", "hi", "--json", "--leave").out)["text"] == "Hello"
    assert host.asked[-1].body["model"] == "y"


def test_run_counts_images_among_what_it_sends(herd: Herd, host: FakeHost, tmp_path: Path) -> None:
    assert (
        herd("backend", "add", "far", "--preset", "herd", "--model", "x", "--url", host.address, "--outside").status
        == 0
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    said = herd("run", "backend:far", "hi", "--leave", "-i", str(tmp_path / "a.png"))
    assert said.status == 0, said.err
    size = (tmp_path / "a.png").stat().st_size
    assert f"{2 + size} bytes of texts and images" in said.err
    assert [part["type"] for part in host.asked[0].body["messages"][0]["content"]] == ["image_url", "text"]


def test_an_address_without_its_usual_end_is_told(herd: Herd) -> None:
    for name, preset, url, told in (
        ("a", "herd", "http://127.0.0.1:9", True), ("b", "openai", "http://127.0.0.1:9/", True),
        ("c", "herd", "http://127.0.0.1:9/v1", False), ("d", "openai", "http://127.0.0.1:9/api", False),
    ):  # fmt: skip
        said = herd("backend", "add", name, "--preset", preset, "--model", "x", "--url", url)
        assert said.status == 0 and ("mostly ends with /v1" in said.err) is told


def test_in_the_house_run_needs_no_leave(herd: Herd, host: FakeHost) -> None:
    assert herd("backend", "add", "near", "--preset", "vllm", "--model", "x", "--url", host.address).status == 0
    said = herd("run", "backend:near", "hi", "-s", "be brief", "--seed", "3")
    assert (said.status, said.out, said.err) == (0, "Hello\n", "")
    (asked,) = host.asked
    assert asked.body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert asked.body["seed"] == 3
    assert herd("run", "vllm/other", "hi").status == 0, "by its preset"
    assert host.asked[-1].body["model"] == "other"


@pytest.mark.parametrize("flag", [("--ctx", "8K"), ("--raw",), ("--threads", "2"), ("--no-pack",), ("--trace", "x")])
def test_flags_of_files_are_refused_for_a_backend(herd: Herd, host: FakeHost, flag: tuple[str, ...]) -> None:
    add(herd, host)
    said = herd("run", "backend:far", "hi", "--leave", *flag)
    assert said.status == 2 and said.err.startswith(f"herd: {flag[0]}: got a backend") and host.connections == 0


def test_names_of_backends_and_of_models_do_not_mix(herd: Herd, host: FakeHost, tmp_path: Path) -> None:
    add(herd, host)
    assert chosen("backend:far") == ("far", "") and chosen("backend:far/a/b") == ("far", "a/b")
    assert chosen("far/a/b") == ("far", "a/b")
    assert chosen("far") is None and chosen("nowhere/x") is None and chosen(str(tmp_path)) is None
    said = herd("run", "backend:fra", "hi")
    assert said.status == 3 and "got fra, expected far" in said.err


def test_what_was_used_is_counted_and_a_spent_limit_refuses(herd: Herd, host: FakeHost) -> None:
    add(herd, host, *PAID)
    assert herd("run", "backend:far", "hi", "--leave", "-m", "100").status == 0
    assert spending.sums_of(Backends().find("far").account).all == 7 * 1000 + 3 * 10_000
    said = herd("run", "backend:far", "hi", "--leave", "-m", "8000")
    assert said.status == 1 and "far: its spending limit of $0.05" in said.err and "limit far DOLLARS" in said.err
    assert host.connections == 1
    assert herd("backend", "limit", "far", "1").status == 0
    assert herd("run", "backend:far", "hi", "--leave", "-m", "8000").status == 0
    listed = json.loads(herd("backend", "list", "--json").out)["backends"]["far"]
    assert listed["spent_dollars"] == pytest.approx(2 * 37e-6) and listed["limit_dollars"] == 1


CUT = [chunk({"content": "Hel"})]


@pytest.mark.parametrize(
    ("script", "nano"),
    [
        (answer("Hello"), 37_000),
        (Script(CUT, cut=True), None),
        (Script([chunk({"content": "Hi"}), chunk({}, "stop")]), None),
        (whole({"error": {"message": "no"}}, 401), 0),
        (whole({"error": {"message": "no"}}, 400), 0),
        (whole({"error": {"message": "no", "code": "model_not_found"}}, 404), 0),
        (whole({"error": {"message": "no"}}, 429, headers=(("Retry-After", "9999"),)), 0),
        (Script([b"<html>"], kind="text/html"), None),
    ],
    ids=["told", "cut", "not told", "401", "400", "404", "429", "html"],
)
def test_only_what_the_other_side_can_have_billed_is_counted(herd: Herd, script: Script, nano: int | None) -> None:
    """What it does not tell counts as the most that was set aside."""
    with hosting(script) as host:
        add(herd, host, *PAID)
        herd("run", "backend:far", "hi", "--leave", "-m", "100")
        sums = spending.sums_of(Backends().find("far").account)
        assert sums.held == {}
        assert sums.spent == nano if nano is not None else sums.spent > 1_000_000


def test_a_backend_is_tried_line_by_line(herd: Herd, host: FakeHost) -> None:
    add(herd, host, *PAID)
    said = herd("backend", "test", "far")
    assert said.status == 1 and host.connections == 0
    assert said.err.splitlines()[0].startswith("far: 4 requests of together ") and "outside" in said.err.splitlines()[1]
    tools = Script([chunk(call(0, '{"word": "yes"}', "say", "c1")), chunk({}, "tool_calls"), usage()])
    host.scripts = [LISTED, answer("Yes"), tools, answer('{"yes": true}')]
    said = herd("backend", "test", "far", "--leave")
    assert said.status == 0
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["reached", "ok"], ["key", "ok"], ["model", "ok"], ["streams", "ok"], ["usage", "ok"], ["tools", "ok"],
        ["schema", "ok"],
    ]  # fmt: skip
    sent = [one.path for one in host.asked]
    assert sent == ["/v1/models", *["/v1/chat/completions"] * 3]
    bodies = int(said.err.split("together ")[1].split()[0])
    assert bodies == sum(int(one.headers["content-length"]) for one in host.asked[1:])


@pytest.mark.parametrize(
    ("scripts", "failed"),
    [
        ([whole({"error": "no"}, 401)], "key"),
        ([LISTED, whole({"error": "no"}, 403)], "key"),
        ([LISTED, whole({"error": {"code": "model_not_found", "message": "no"}}, 404)], "model"),
        ([whole({}, 404), Script(CUT, cut=True)], "streams"),
    ],
)
def test_a_backend_that_does_not_answer_fails_by_name(herd: Herd, scripts: list[Script], failed: str) -> None:
    with hosting(*scripts) as host:
        add(herd, host)
        said = herd("backend", "test", "far", "--leave")
        assert said.status == 5 and f"got {failed}: failed" in said.err
        assert [line.split()[1] for line in said.out.splitlines() if line.split()[0] == failed] == ["failed"]


def test_nobody_at_the_address_is_told_and_nothing_else_is_tried(herd: Herd) -> None:
    with hosting(answer("Hi")) as gone:
        pass
    add(herd, gone)
    said = herd("backend", "test", "far", "--leave", "--json")
    assert said.status == 5 and json.loads(said.out)["checks"].keys() == {"reached"}


def test_a_model_that_a_host_ends_is_told_with_its_day(herd: Herd) -> None:
    words = ("--preset", "together", "--model", "scout", "--limit", "5")
    said = herd("backend", "add", "old", *words, typed=KEY)
    assert said.status == 0 and "together ended scout on 2026-02-06" in said.err


def test_the_same_name_twice_and_a_name_that_is_not_there(herd: Herd, host: FakeHost) -> None:
    add(herd, host)
    assert herd("backend", "add", "far", "--preset", "vllm", "--model", "x").status == 2
    assert herd("backend", "rm", "near").status == 3
    assert herd("backend", "limit", "near", "3").status == 3
    with pytest.raises(UsageError):
        Backends().add("far", Backend("vllm", "x"))
    assert herd("route", "add", "both", "far").status == 0
    said = herd("backend", "add", "both", "--preset", "vllm", "--model", "x")
    assert said.status == 2 and "got both, which is a route" in said.err


def test_what_an_address_asks_is_not_shown(herd: Herd, host: FakeHost) -> None:
    """It may be a key."""
    said = herd("backend", "add", "far", "--model", "x", "--url", f"{host.address}?api-key=canary")
    assert said.status == 0 and "canary" not in said.err and f"{host.address}?..., in the house" in said.err
    for words in (("list",), ("list", "--json"), ("test", "far")):
        said = herd("backend", *words)
        assert "canary" not in said.out + said.err
    assert host.asked[0].path == "/v1/models?api-key=canary"
    assert herd("backend", "limit", "far", "5").status == 2, "it has no price"


def test_a_limit_that_is_set_while_another_program_edits_keeps_what_that_one_wrote(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a first look and the lock: removed, or removed and added anew with another key."""
    locked = registry.lock

    def meanwhile(change: Callable[[], object]) -> None:
        def lock(name: str) -> Any:
            monkeypatch.setattr(registry, "lock", locked)
            change()
            return locked(name)

        monkeypatch.setattr(registry, "lock", lock)

    add(herd, host, "--key", *PAID, typed=KEY)
    meanwhile(lambda: Backends().remove("far"))
    assert herd("backend", "limit", "far", "3").status == 3 and not Backends().read().good
    add(herd, host, "--key", *PAID, typed=KEY)
    anew = Backend("openai", "y", url=host.address, house="out", limit_dollars=1.0, dollars_in=1.0, dollars_out=1.0)

    def changed() -> None:
        Backends().remove("far")
        Backends().add("far", anew)

    meanwhile(changed)
    assert herd("backend", "limit", "far", "3").status == 0
    found = Backends().find("far")
    assert (found.model, found.key, found.limit_dollars) == ("y", "", 3.0)


@pytest.mark.parametrize(
    "key", ["hf_abCD0123456789", "gsk_abCD0123456789", "r8_0123456789abcdef", "canary", "A B", "É"]
)
def test_a_key_in_place_of_a_variable_s_name_is_neither_kept_nor_shown(herd: Herd, host: FakeHost, key: str) -> None:
    said = herd("backend", "add", "far", "--model", "x", "--url", host.address, "--key-env", key)
    assert said.status == 2 and key not in said.err + said.out and "never a key" in said.err
    assert not Backends().read().good


def test_a_broken_record_costs_itself_alone_and_can_be_removed(herd: Herd, host: FakeHost) -> None:
    add(herd, host)
    data = json.loads(Backends().path.read_text())
    Backends().path.write_text(json.dumps({**data, "odd": {"preset": "nonsense", "model": "x"}}))
    said = herd("backend", "list")
    assert said.status == 0 and "odd: its record in backends.json is broken" in said.err and "far" in said.out
    assert herd("run", "backend:odd", "hi").status == 3
    assert herd("backend", "rm", "odd").status == 0
    assert herd("backend", "list").err == ""


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_told_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    """A pipe that nobody writes to would hold every command."""
    path = tmp_path / "backends.json"
    os.mkfifo(path, 0o600) if kind == "pipe" else path.mkdir()
    file: CachedFile[bytes] = CachedFile(lambda place, data: data, 100)
    with pytest.raises(BadFile, match="is not a regular file"):
        file.now(path)


# -- routes ------------------------------------------------------------------------------------------------------------


def test_a_route_answers_by_the_first_backend_that_can(herd: Herd, host: FakeHost) -> None:
    with hosting(whole({"error": {"message": "busy"}}, 429, headers=(("Retry-After", "9999"),))) as full:
        for name, place in (("first", full), ("second", host)):
            words = ("--preset", "vllm", "--model", "x", "--url", place.address)
            assert herd("backend", "add", name, *words).status == 0
        assert herd("route", "add", "both", "first", "second").status == 0
        said = herd("run", "backend:both", "hi", "--json")
        assert json.loads(said.out)["answered_by"] == "second" and full.connections == 1
    assert json.loads(herd("route", "list", "--json").out)["routes"]["both"]["members"] == ["first", "second"]
    assert herd("route", "rm", "both").status == 0
    assert herd("run", "backend:both", "hi").status == 3


def test_a_route_passes_over_what_is_outside_where_nothing_may_leave(
    herd: Herd, host: FakeHost, tmp_path: Path
) -> None:
    body = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in").write_text(json.dumps(line))
    with hosting(answer("far")) as far:
        add(herd, far)
        assert herd("backend", "add", "near", "--preset", "vllm", "--model", "x", "--url", host.address).status == 0
        for name, more in (("both", ()), ("held", ("--private",))):
            assert herd("route", "add", name, "far", "near", *more).status == 0
        for words in (("backend:both", "hi"), ("backend:held", "hi"), ("backend:held", "hi", "--leave")):
            assert herd("run", *words).out == "Hello\n"
        for name in ("both", "held"):
            asked = herd("batch", str(tmp_path / "in"), str(tmp_path / name), "--model", f"backend:{name}")
            assert asked.status == 0 and "to 127.0.0.1" not in asked.err, asked.err
            assert "Hello" in (tmp_path / name).read_text()
        assert far.connections == 0
        said = herd("run", "backend:both", "hi", "--leave")
        assert said.out == "far\n" and "to 127.0.0.1: 1 request, 2 bytes of texts and images" in said.err
        assert herd("route", "add", "only", "far", "--private").status == 0
        with backend("only", leave=True) as model, pytest.raises(StaysHere):
            model.chat("hi", leave=True)
        said = herd("run", "backend:only", "hi", "--leave")
        assert said.status == 1 and "outside of the house" in said.err and far.connections == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [(("far", "far"), 2), (("new", "far", "far"), 2), (("new", "far", "nowhere"), 3), (("a/b", "far"), 2)],
    ids=["a name that is taken", "twice", "one that is not there", "no name"],
)
def test_a_route_that_makes_no_sense_is_refused(
    herd: Herd, host: FakeHost, words: tuple[str, ...], status: int
) -> None:
    add(herd, host)
    assert herd("route", "add", *words).status == status
    assert herd("route", "list").out == ""


# -- a service over backends -------------------------------------------------------------------------------------------


def options(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[ServerOptions, dict[str, Any]]:
    """What `herd serve` makes of these words."""
    found: list[Any] = []
    monkeypatch.setattr("herd.server.run.serve", lambda *given: found.append(given))
    assert main(["serve", *words, "--port", "0", "--no-ollama-port", "--log", "off"]) == 0
    ((made, _, _, _, registered),) = found
    return made, registered


def test_a_service_lists_a_backend_and_has_it_answer_in_every_dialect(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(herd, host, "--ctx", "4096", *PAID)
    made, registered = options(monkeypatch, "--backend", "far", "--leave", "--alias", "gpt-4o=far")
    service = service_of(made, lambda path: pytest.fail("there is no file"), registered)
    turns = {"model": "far", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, "stream": False}
    with running(service, leave=made.leave) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        (row,) = [one for one in client.get("/v1/models").json()["data"] if one["id"] == "far"]
        assert row["max_model_len"] == 4096 and row["capabilities"]["tools"] and not row["capabilities"]["ids"]
        assert [one["name"] for one in client.get("/api/tags").json()["models"]] == ["far:latest"]
        assert host.connections == 0
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            reply = client.post(path, json=turns)
            assert reply.status_code == 200 and "Hello" in reply.text, reply.text
        assert client.post("/v1/responses", json={"model": "gpt-4o", "input": "hi", "max_output_tokens": 9}).is_success
        refused = client.post("/v1/chat/completions", json={**turns, "max_tokens": 4000, "n": 2})
        assert (refused.status_code, refused.json()["error"]["code"]) in ((402, "spending_limit"), (501, "unsupported"))
    assert host.connections == 4
    assert spending.sums_of(Backends().find("far").account).all == 4 * 37_000


def test_without_leave_a_service_keeps_everything_in_and_says_so(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(herd, host, "--key", typed=KEY)
    made, registered = options(monkeypatch, "--backend", "far")
    written = io.StringIO()
    service = service_of(made, lambda path: pytest.fail("there is no file"), registered)
    service.log = Log("json", written)
    with running(service) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        reply = client.post(
            "/v1/chat/completions", json={"model": "far", "messages": [{"role": "user", "content": "a"}]}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "stays_here")
        assert KEY not in reply.text + client.get("/v1/models").text + client.get("/metrics").text
    assert host.connections == 0 and KEY not in written.getvalue()


def test_a_private_route_of_a_service_stays_in_the_house_whoever_asks(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(herd, host)
    for name, more in (("open", ()), ("held", ("--private",))):
        assert herd("route", "add", name, "far", *more).status == 0
    made, registered = options(monkeypatch, "--backend", "held", "--backend", "open", "--leave")
    service = service_of(made, lambda path: pytest.fail("there is no file"), registered)
    with running(service, leave=True) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        asked = {name: {"model": name, "messages": [{"role": "user", "content": "a"}]} for name in ("held", "open")}
        reply = client.post("/v1/chat/completions", json=asked["held"])
        assert reply.status_code == 403 and "the route held is private" in reply.text and host.connections == 0
        assert "Hello" in client.post("/v1/chat/completions", json=asked["open"]).text


def test_keys_of_a_file_have_rights_of_their_own(
    herd: Herd, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(herd, host)
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[[key]]\nname = "in"\nsecret = "{"i" * 16}"\n\n'
        f'[[key]]\nname = "out"\nsecret = "{"o" * 16}"\nrights = ["chat", "leave"]\n'
    )
    keys.chmod(0o600)
    said = herd("serve", "--backend", "far", "--keys", str(keys), "--leave")
    assert said.status == 2 and "name leave among the rights" in said.err
    made, _ = options(monkeypatch, "--backend", "far", "--keys", str(keys))
    assert {key.name: key.says_of_leaving.may_leave for key in made.keys} == {"in": False, "out": True}
    made, _ = options(monkeypatch, "--backend", "far", "--api-key", "k" * 16, "--leave")
    assert [key.says_of_leaving.may_leave for key in made.keys] == [True]
    assert herd("serve", "--backend", "nowhere").status == 3


def test_sums_are_told_in_dollars(herd: Herd, host: FakeHost) -> None:
    add(herd, host, *PAID)
    account = settings.account_of("far", Backends().find("far"))
    assert account is not None
    account.hold(0, 1000).settle(None)
    assert "$0.0100 of $0.05" in herd("backend", "list").out
    assert spending.dollars(account.limit_nano) == "$0.05" and account.limit_nano == NANO // 20


def test_a_service_notices_what_becomes_of_its_backends_and_routes(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another address, another member, privacy and removal hold from the next request on."""
    add(herd, host)
    assert herd("route", "add", "both", "far").status == 0
    made, registered = options(monkeypatch, "--backend", "far", "--backend", "both", "--leave")
    service = service_of(made, lambda path: pytest.fail("there is no file"), registered)
    with (
        hosting(answer("second")) as second,
        running(service, leave=True) as address,
        httpx.Client(base_url=address, timeout=PATIENCE_S) as client,
    ):

        def said(name: str) -> tuple[int, str]:
            turns = [{"role": "user", "content": "a"}]
            reply = client.post("/v1/chat/completions", json={"model": name, "messages": turns})
            return reply.status_code, reply.headers.get("x-herd-answered-by", reply.text)

        assert said("both") == (200, "far") and said("far") == (200, "far")
        held = service.models.held
        assert herd("backend", "rm", "far", "--force").status == 0
        add(herd, second)
        assert said("far") == (200, "far") and len(second.asked) == 1 and len(host.asked) == 2
        assert said("both")[0] == 404
        assert herd("route", "add", "both", "far", "--private").status == 0
        status, words = said("both")
        assert status == 403 and "the route both is private" in words and len(second.asked) == 1
        assert herd("backend", "rm", "far", "--force").status == 0
        add(herd, host, name="unserved")
        status, words = said("far")
        assert status == 404 and "far is no longer" in words and "unserved" not in words
        for path in ("/v1/models", "/v1/models/far", "/api/tags", "/api/ps", "/metrics"):
            assert client.get(path).status_code == 200, "what is gone fails alone"
        assert service.models.held == held, "nothing was loaded again"
        Backends().path.chmod(0o644)
        status, words = said("far")
        assert status == 503 and "chmod 600" in words, "no fault of the client's"
        Backends().path.chmod(0o600)
        Backends().path.with_name("routes.json").write_text("{")
        status, words = said("far")
        assert status == 503 and "routes.json" in words


def test_a_backend_that_a_route_has_is_removed_by_force_alone(herd: Herd, host: FakeHost) -> None:
    add(herd, host, name="one")
    add(herd, host, name="two")
    for words in (("both", "one", "two"), ("single", "one"), ("other", "two")):
        assert herd("route", "add", *words).status == 0
    said = herd("backend", "rm", "one")
    assert said.status == 2 and "got 2 routes that have it, both, single" in said.err and "--force" in said.err
    assert "one" in Backends().read().good
    said = herd("backend", "rm", "one", "--force")
    assert said.status == 0 and "taken out of both, single" in said.err
    routes = Routes().read().good
    assert {name: route.members for name, route in routes.items()} == {"both": ("two",), "other": ("two",)}


def test_what_a_test_finds_is_kept_where_that_is_asked_for(herd: Herd, host: FakeHost) -> None:
    add(herd, host)
    rows = [{"id": "y", "max_model_len": 7}, {"id": "x", "max_model_len": True, "context_length": 40_000}]
    scripts = [whole({"data": rows}), answer("yes"), whole({"error": "no tools here"}, 400), answer("no JSON")]
    host.scripts = [*scripts]
    said = herd("backend", "test", "far", "--leave")
    assert "with 40000 tokens of context" in said.out and "--keep" in said.err
    assert Backends().find("far").context is None
    host.scripts = [*scripts]
    said = herd("backend", "test", "far", "--leave", "--keep")
    assert "kept of far: 40000 tokens of context; no tools; no schemas" in said.err
    model = settings.model_of("far")
    assert (model.context, model.capabilities.tools, model.capabilities.schemas) == (40_000, False, False)
    assert settings.model_of("far", "y").capabilities.tools, "another model there is another matter"
    host.scripts = [whole({"data": [{"id": "x"}]}), Script([b"<html>"], kind="text/html")]
    assert herd("backend", "test", "far", "--leave", "--keep").status == 5
    assert Backends().find("far").lacks == ("tools", "schemas"), "a test that fails changes nothing"
    called = Script([chunk(call(0, '{"word": "yes"}', "say", "c")), chunk({}, "tool_calls"), usage()])
    host.scripts = [
        whole({"data": [{"id": "x", "meta": {"n_ctx": 512}}]}),
        answer("y"),
        called,
        answer('{"yes": true}'),
    ]
    assert herd("backend", "test", "far", "--leave", "--keep").status == 0
    assert (Backends().find("far").lacks, Backends().find("far").context) == ((), 512)
    host.scripts = [whole({"data": []}), answer("y"), called, answer("Let me think", finish="length")]
    said = herd("backend", "test", "far", "--leave", "--keep")
    assert "unknown" in said.out and Backends().find("far").lacks == (), "an answer that is cut says nothing"


# -- a conversation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("chat", "backend:far"), ("run", "backend:far"), ("run", "far/y")])
def test_a_conversation_with_a_backend_tells_once_where_it_goes(
    words: tuple[str, ...], herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And keeps turns, shows and sets options, and takes back a question that could not be asked."""
    add(herd, host)
    typed = ["one", "/set temperature 0.5", "/set grammar regex:a+", "two", "/set grammar", "two", "/show", "/save "]
    typed[-1] += str(tmp_path / "kept.json")
    lines = iter(typed)

    def ask(_mark: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("herd.cli.run._is_interactive", lambda: True)
    monkeypatch.setattr("herd.cli.interactive._prompter", lambda: ask)
    refused = herd(*words)
    assert refused.status == 1 and "--leave" in refused.err and host.connections == 0
    said = herd(*words, "--leave", "--system", "be brief")
    assert said.status == 0, said.err
    assert said.err.count("goes to 127.0.0.1") == 1
    assert said.out.startswith("Hello\nHello\nmodel       far\n") and "4 messages" in said.out
    assert "far has no grammar regex" in said.err
    assert [one.body.get("temperature") for one in host.asked] == [None, 0.5]
    assert [turn["content"] for turn in host.asked[1].body["messages"]] == ["be brief", "one", "Hello", "two"]
    assert len(json.loads((tmp_path / "kept.json").read_text())["messages"]) == 4


def test_a_conversation_refuses_flags_of_files_and_what_is_no_terminal(
    herd: Herd, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(herd, host)
    assert "chat needs a terminal" in herd("chat", "backend:far", "--leave").err
    monkeypatch.setattr("herd.cli.run._is_interactive", lambda: True)
    assert "--ctx: got a backend" in herd("chat", "backend:far", "--leave", "--ctx", "1K").err
    assert "top_p" in herd("chat", "backend:far", "--leave", "--top-p", "2").err
    assert "got a model of files" in herd("chat", "nowhere", "--leave").err
    assert host.connections == 0
