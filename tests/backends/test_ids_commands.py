"""`herd backend add --by ids` and what stands on it: refused where one text of two hundred is encoded otherwise,
listed, tried, run, loaded, a member of a route, served."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fake_engine import FakeEngine, engine_of
from serving import running, service_of

import herd
from helpers import PATIENCE_S, hf_folder
from herd.backends.alike_texts import COUNT, texts
from herd.backends.settings import Backends
from herd.cli import main
from herd.config import TINY
from herd.errors import HerdError, NotFound, Unsupported, UsageError
from herd.llm import LLM, by_ids, load
from herd.server.loading import backend_of
from herd.text.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="module")
def here(folder: Path) -> Iterator[LLM]:
    with load(folder, context=512) as model:
        yield model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))

    def ran(*words: object) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return ran


def add(run: Run, engine: FakeEngine, folder: Path, name: str = "rack") -> tuple[int, str, str]:
    where = ("--preset", engine.form, "--by", "ids", "--tokenizer", folder, "--url", f"{engine.address}/v1")
    return run("backend", "add", name, "--model", "tiny", *where)


@pytest.mark.parametrize("form", ["vllm", "sglang", "llama-server"])
def test_a_backend_by_ids_is_added_tried_run_and_served(form: str, here: LLM, folder: Path, run: Run) -> None:
    with engine_of(form, here) as engine:
        status, _, err = add(run, engine, folder)
        assert status == 0 and "200 texts encoded there as" in err, err
        kept = Backends().find("rack").facts
        assert kept is not None and kept.context == 512
        status, out, _ = run("backend", "list", "--json")
        assert status == 0 and json.loads(out)["backends"]["rack"]["by"] == "ids"
        assert f"{form} by ids" in run("backend", "list")[1]
        status, out, err = run("backend", "test", "rack", "--json")
        checks = json.loads(out)["checks"]
        told = {check: checks[check]["result"] for check in ("reached", "model", "tokenizer", "streams")}
        assert set(told.values()) == {"ok"}, checks
        status, out, err = run("run", "backend:rack", "Hi", "--temperature", 0, "--max-tokens", 9, "--json")
        wanted = here.chat("Hi", temperature=0, max_tokens=9).text
        assert status == 0 and json.loads(out)["text"] == wanted, err
        with herd.load("backend:rack", context=100) as model:
            assert model.context == 100 and model.chat("Hi", temperature=0, max_tokens=9).text == wanted
            assert "by ids" in repr(model)
        for wrong in ({"threads": 2}, {"engine": "child"}, {"kv": "f32"}):
            with pytest.raises(UsageError):
                herd.load("backend:rack", **wrong)
        assert run("route", "add", "both", "rack")[0] == 0
        with herd.backend("both") as remote:
            reply = remote.chat("Hi", temperature=0, max_tokens=9)
            assert (reply.text, reply.answered_by) == (wanted, "rack")
        registered = backend_of("rack")
        assert registered.context == 512 and registered.capabilities is not None and registered.capabilities.ids
        assert not registered.capabilities.images
        served = registered.load()
        with running(service_of(served)) as address, httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            asked = {
                "model": "rack",
                "messages": [{"role": "user", "content": "Hi"}],
                "temperature": 0,
                "max_tokens": 9,
            }
            reply = client.post("/v1/chat/completions", json=asked)
            assert reply.json()["choices"][0]["message"]["content"] == wanted, reply.text
        served.close()
        with contextlib.suppress(HerdError), herd.load("backend:rack/other"):
            pytest.fail("its tokenizer is checked for one model alone")


def test_commands_that_ask_many_things_ask_it_alone_and_in_a_route(here: LLM, folder: Path, run: Run) -> None:
    """`herd eval` and `herd batch`; and what one engine answered is not taken for what another one did, or the model
    whose tokenizer both have."""
    home = folder.parent
    head = 'name = "t"\nkind = "answer"\nprompt = "{q}"\nchecker = "exact"\nmax_tokens = 3\n'
    (home / "t.toml").write_text(f'{head}[[item]]\nq = "a"\nanswer = "b"\n')
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "x", **body}}
    (home / "in.jsonl").write_text(json.dumps(line) + "\n")
    wanted = here.chat("Hi", temperature=0, max_tokens=4).text
    with engine_of("vllm", here) as engine, engine_of("vllm", here) as other:
        assert add(run, engine, folder)[0] == 0 and add(run, other, folder, "near")[0] == 0
        assert run("route", "add", "both", "rack", "near")[0] == 0
        for name in ("rack", "both"):
            word, out = f"backend:{name}", home / f"{name}.out"
            status, _, err = run("batch", home / "in.jsonl", out, "--model", word, "-q")
            assert status == 0, err
            said = json.loads(out.read_text())["response"]["body"]["choices"][0]["message"]["content"]
            assert said == wanted
            status, _, err = run("eval", word, home / "t.toml", "--out", home / name, "-q")
            assert status == 0, err
            for wrong in ("backend:near", folder):
                status, _, err = run("eval", wrong, home / "t.toml", "--out", home / name, "-q")
                assert status == 2 and "was another one" in err, err
        status, _, err = run("batch", home / "in.jsonl", home / "rack.out", "--model", "backend:near", "-q")
        assert status == 2 and "results of another model" in err, err


def test_a_conversation_with_a_route_over_one_by_ids(
    here: LLM, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine_of("vllm", here) as engine:
        assert add(run, engine, folder)[0] == 0 and run("route", "add", "both", "rack")[0] == 0
        typed = iter(["Hi"])

        def ask(_mark: str) -> str:
            for line in typed:
                return line
            raise EOFError

        monkeypatch.setattr("herd.cli.run._is_interactive", lambda: True)
        monkeypatch.setattr("herd.cli.interactive._prompter", lambda: ask)
        status, out, err = run("chat", "backend:both", "--temperature", 0, "--max-tokens", 9)
        assert status == 0 and here.chat("Hi", temperature=0, max_tokens=9).text in out, err


def test_one_text_of_two_hundred_is_enough_to_refuse(here: LLM, folder: Path, run: Run) -> None:
    control = [text for text, i in here.tokenizer.added.items() if i in here.tokenizer.control_ids]
    all_texts = texts(control)
    assert len(all_texts) == COUNT == 200 and len(set(all_texts)) > 190
    with engine_of("vllm", here) as engine:
        engine.other = all_texts[150]
        status, _, err = add(run, engine, folder)
        assert status == 2 and "1 of 200 texts otherwise" in err and "Traceback" not in err, err
        assert "rack" not in Backends().read().good


def test_an_engine_without_llguidance_is_told_when_it_is_added(here: LLM, folder: Path, run: Run) -> None:
    for form, facts in (("vllm", {"guided": False}), ("sglang", {"grammar_backend": "xgrammar"})):
        with engine_of(form, here, facts=facts) as engine:
            status, _, err = add(run, engine, folder, name=form)
            assert status == 0 and "schemas and forced calls are refused" in err, err
            with by_ids(form, asks=False) as model, pytest.raises(Unsupported, match="backend"):
                model.chat("Hi", schema=True)
            assert not engine.asked


def test_what_cannot_be_a_backend_by_ids_is_refused(here: LLM, folder: Path, run: Run) -> None:
    with engine_of("vllm", here) as engine:
        base = ["backend", "add", "x", "--model", "tiny", "--url", f"{engine.address}/v1"]
        for words, said in (
            (["--preset", "vllm", "--by", "ids"], "no tokenizer"),
            (["--preset", "tgi", "--by", "ids", "--tokenizer", folder], "--preset vllm"),
            (["--preset", "vllm", "--by", "ids", "--tokenizer", folder, "--outside"], "outside of the house"),
            (["--preset", "vllm", "--tokenizer", folder], "--by ids"),
            (["--preset", "vllm", "--by", "ids", "--tokenizer", "nowhere"], "nowhere"),
        ):
            status, _, err = run(*base, *words)
            assert status != 0 and said in err and "Traceback" not in err, err
        status, _, err = run(
            *[w if w != "tiny" else "gone" for w in base], "--preset", "vllm", "--by", "ids", "--tokenizer", folder
        )
        assert status != 0 and "has no model gone" in err, err
        assert not engine.asked


def test_an_engine_that_is_away_is_told_and_what_it_told_holds_in_a_route(here: LLM, folder: Path, run: Run) -> None:
    with engine_of("vllm", here) as engine:
        assert add(run, engine, folder)[0] == 0
    with pytest.raises(HerdError, match="cannot be reached"):
        herd.load("backend:rack")
    with by_ids("rack") as model:
        assert model.context == 512
        with pytest.raises(HerdError, match="cannot be reached"):
            model.chat("Hi")
    assert run("backend", "test", "rack")[0] != 0
    assert run("backend", "rm", "rack")[0] == 0
    with pytest.raises(NotFound):
        herd.load("backend:rack")


def test_the_texts_are_the_same_each_time_whatever_the_vocabulary() -> None:
    for names in ([], ["<|a|>"], [f"<|reserved_{i}|>" for i in range(5000)]):
        found = texts(names)
        assert found == texts(names) and len(found) == COUNT
        assert all(Tokenizer.bytes_only().encode(text) for text in found)
        whole = "".join(found)  # every one is spelt: two vocabularies may differ in one of them alone
        assert all(name in whole for name in names)
