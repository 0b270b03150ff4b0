"""`herd connect`: every client's settings, and files of theirs that keep what they had."""

import ast
import importlib
import json
import re
import shlex
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from herd.cli import main
from herd.errors import BadFile, HerdError, NetworkError, NotFound
from herd.integrations.clients import CLIENTS, CONTEXT, MAX_OUTPUT, Placeholder
from herd.integrations.settings_files import merge_file, shown

PLACE = Placeholder("http://127.0.0.1:8484/", "smollm2", "a-key")
KEY = "a-key-that-is-long-enough"
DOCS = Path(__file__).parents[2] / "docs" / "connect.md"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HERD_API_KEY", raising=False)
    monkeypatch.delenv("HERD_URL", raising=False)
    service(monkeypatch, NetworkError("nobody answers"))
    return tmp_path


def service(monkeypatch: pytest.MonkeyPatch, says: Mapping[str, Any] | HerdError, *more: Mapping[str, Any]) -> None:
    """What the service lists, none of it over a socket: a model, whatever it is called, and more by their names."""

    def ask(method: str, path: str, url: str) -> Mapping[str, Any]:
        assert method == "GET" and path.startswith("/v1/models")
        if isinstance(says, HerdError):
            raise says
        return says if path.startswith("/v1/models/") else {"data": [{"id": "mine", **says}, *more]}

    monkeypatch.setattr(importlib.import_module("herd.cli.connect"), "ask", ask)


@pytest.mark.parametrize("name", CLIENTS)
def test_every_client_is_told_where_the_service_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", name, "--url", "http://10.0.0.7:9000", "--model", "some-model"]) == 0
    out = capsys.readouterr()
    assert "http://10.0.0.7:9000" in out.out
    assert "some-model" in out.out or name == "open-webui"  # it asks for the list
    assert "$" not in out.out + out.err and "//v1" not in out.out


@pytest.mark.parametrize("name", ["openai", "anthropic", "langchain", "litellm", "llama-index"])
def test_python_is_python(name: str) -> None:
    ast.parse(PLACE.fill(CLIENTS[name].text))


def test_curl_is_a_command_with_json() -> None:
    words = shlex.split(PLACE.fill(CLIENTS["curl"].text))
    assert words[:2] == ["curl", "http://127.0.0.1:8484/v1/chat/completions"]
    assert json.loads(words[-1])["model"] == "smollm2"


def test_the_editor_takes_json_with_comments() -> None:
    first, _, rest = PLACE.fill(CLIENTS["copilot"].text).partition("\n")
    (group,) = json.loads(rest)
    (model,) = group["models"]
    assert first.startswith("//") and model["maxInputTokens"] + model["maxOutputTokens"] == PLACE.context


def test_numbers_are_numbers_and_texts_are_texts() -> None:
    large = Placeholder("http://127.0.0.1:8484", "scout", context=10_485_760)
    models = large.fill_all(CLIENTS["opencode"].settings)["provider"]["herd"]["models"]
    assert models["scout"]["limit"] == {"context": 10_485_760, "output": MAX_OUTPUT}
    assert large.fill_all(CLIENTS["claude-code"].settings)["env"]["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "10485760"
    assert PLACE.fill("$CONTEXT $INPUT $OUTPUT") == "8192 6144 2048"


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_sized_if_the_context_stands_in_what_it_is_told(name: str) -> None:
    client, small, large = CLIENTS[name], Placeholder("", "m", context=4096), Placeholder("", "m", context=8192)
    differ = small.fill(client.text) != large.fill(client.text)
    assert client.sized == (differ or small.fill_all(client.settings) != large.fill_all(client.settings))


def test_the_service_says_what_the_model_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service(monkeypatch, {"id": "mine", "max_model_len": 65536})
    assert main(["connect", "zed", "--model", "mine"]) == 0
    out = capsys.readouterr()
    assert '"max_tokens": 65536' in out.out and "guess" not in out.err


def test_what_is_served_is_told_and_what_is_loaded_comes_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service(monkeypatch, {"max_model_len": 4096}, {"id": "scout", "max_model_len": 65536, "loaded": True})
    assert main(["connect", "zed"]) == 0
    out = capsys.readouterr()
    assert '"name": "scout"' in out.out and '"max_tokens": 65536' in out.out
    assert "served at http://127.0.0.1:8484: mine, scout" in out.err and "guess" not in out.err
    assert main(["connect", "openai"]) == main(["connect", "openai", "--model", "mine"]) == 0
    first, second = re.findall(r'model="([^"]*)"', capsys.readouterr().out)
    assert (first, second) == ("scout", "mine")


def test_a_model_that_is_not_served_is_told_and_never_written(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(method: str, path: str, url: str) -> Mapping[str, Any]:
        if path != "/v1/models":
            raise NotFound("model: got mime; expected mine")
        return {"data": [{"id": "mine", "max_model_len": 4096}]}

    monkeypatch.setattr(importlib.import_module("herd.cli.connect"), "ask", ask)
    assert main(["connect", "llm", "--model", "mime"]) == 0
    said = capsys.readouterr().err
    assert "served at http://127.0.0.1:8484: mine" in said and "shown for mime, a guess: model: got mime" in said
    assert main(["connect", "codex", "--model", "mime", "--write"]) == 3
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    "data", [5, "x", {"a": 1}, [{}], [5], [{"id": "a b"}], [{"id": "$(x)"}], [{"id": "-x"}], [{"id": ""}], [], None]
)
def test_a_list_that_names_no_model_is_told(
    data: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("herd.cli.connect"), "ask", lambda *asked: {"data": data})
    assert main(["connect", "codex", "--write"]) != 0
    assert main(["connect", "curl"]) == 0
    out = capsys.readouterr()
    assert '"model": "smollm2"' in out.out and "shown for smollm2, a guess" in out.err


@pytest.mark.parametrize(
    "says",
    [NetworkError("nobody answers"), {}, *({"max_model_len": x} for x in (None, True, 0, -5, "8192"))],
)
def test_a_context_that_nobody_told_is_shown_as_a_guess_and_not_written(
    says: Any, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service(monkeypatch, says)
    assert main(["connect", "zed", "--model", "mine"]) == 0
    out = capsys.readouterr()
    assert '"max_tokens": 8192' in out.out and "shown for mine with 8,192 tokens, a guess" in out.err
    assert main(["connect", "zed", "--model", "mine", "--write"]) != 0
    assert list(home.iterdir()) == []
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("served at")]
    assert len(told) == 1


def test_the_document_has_every_client() -> None:
    """In the order of the list."""
    told = re.findall(r"^\| `([a-z-]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert told == list(CLIENTS)


def test_the_list_has_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CLIENTS)
    assert main(["connect", "nobody"]) == 3
    assert "openai" in capsys.readouterr().err


@pytest.mark.parametrize("name", [n for n, c in CLIENTS.items() if c.settings is not None])
def test_a_file_is_made_and_then_left_alone(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service(monkeypatch, {"max_model_len": CONTEXT})
    path = home / CLIENTS[name].file
    assert main(["connect", name, "--write"]) == 0
    read = json.loads if CLIENTS[name].kind == "json" else tomllib.loads
    text = path.read_text()
    assert read(text) == Placeholder("http://127.0.0.1:8484", "mine").fill_all(CLIENTS[name].settings)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["connect", name, "--write"]) == 0
    assert path.read_text() == text and list(path.parent.iterdir()) == [path]
    assert read(shown(read(text), CLIENTS[name].kind)) == read(text)


def test_a_key_is_written_and_not_shown(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_API_KEY", KEY)
    service(monkeypatch, {"max_model_len": CONTEXT})
    for name in CLIENTS:
        assert main(["connect", name]) == 0
        assert main(["connect", name, "--write"]) == (0 if CLIENTS[name].settings else 2)
    out = capsys.readouterr()
    assert KEY not in out.out + out.err
    path = home / ".claude/settings.json"
    assert json.loads(path.read_text())["env"]["ANTHROPIC_AUTH_TOKEN"] == KEY
    monkeypatch.delenv("HERD_API_KEY")
    before = path.read_text()
    assert main(["connect", "claude-code", "--write"]) == main(["connect", "codex", "--write"]) == 0
    assert path.read_text() == before, "no key takes the place of a key"


def test_json_keeps_what_it_had(tmp_path: Path) -> None:
    path, link = tmp_path / "real.json", tmp_path / "link.json"
    before = '{"theme": "dark", "env": {"OTHER": "1", "ANTHROPIC_MODEL": "old"}, "list": [1, 2.5, null]}'
    path.write_text(before)
    path.chmod(0o640)
    link.symlink_to(path)
    backup = merge_file(link, {"env": {"ANTHROPIC_MODEL": "new", "URL": "ü"}}, "json")
    assert json.loads(path.read_text()) == {
        "theme": "dark",
        "env": {"OTHER": "1", "ANTHROPIC_MODEL": "new", "URL": "ü"},
        "list": [1, 2.5, None],
    }
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert backup is not None and backup.read_text() == before


def test_every_file_that_there_was_is_kept(tmp_path: Path) -> None:
    """Also those of one second."""
    path = tmp_path / "settings.json"
    path.write_text('{"mine": 1}')
    backups = [merge_file(path, {"model": name}, "json") for name in ("a", "b", "c")]
    assert [json.loads(backup.read_text()) for backup in backups if backup] == [
        {"mine": 1},
        {"mine": 1, "model": "a"},
        {"mine": 1, "model": "b"},
    ]


def test_toml_that_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    merge_file(path, {"model": "m", "window": 1, "t": {"url": "u"}}, "toml")
    with pytest.raises(BadFile, match=r"config.toml: window: not there"):
        merge_file(path, {"model": "m", "window": 2, "t": {"url": "u"}}, "toml")
    with pytest.raises(BadFile, match=r"config.toml: t.url: not there"):
        merge_file(path, {"model": "m", "window": 1, "t": {"url": "v"}}, "toml")


def test_toml_keeps_its_comments_and_order(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    before = '# mine\nmodel = "big"  # stays\n\n[profiles.mine]\nmodel = "x"'
    path.write_text(before)
    settings = {"model_providers": {"herd": {"url": 'a"b\\'}}, "profiles": {"herd": {"model": "m", "on": False}}}
    assert merge_file(path, settings, "toml") is not None
    after = path.read_text()
    assert after.startswith(before + "\n\n[model_providers.herd]\n")
    assert tomllib.loads(after) == {
        "model": "big",
        "profiles": {"mine": {"model": "x"}, "herd": {"model": "m", "on": False}},
        "model_providers": {"herd": {"url": 'a"b\\'}},
    }
    assert merge_file(path, settings, "toml") is None


def test_toml_values_of_the_top_stand_before_every_table(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    before = "# mine\n[herd]\nmore = true\n"
    path.write_text(before)
    settings = {"model": "m", "window": 8192, "agents": {"enabled": False}}
    assert merge_file(path, settings, "toml") is not None
    after = path.read_text()
    assert after == 'model = "m"\nwindow = 8192\n\n' + before + "\n[agents]\nenabled = false\n"
    path.write_text(after.replace("false", "false\nmore = 1"))  # what is more is the user's
    assert merge_file(path, settings, "toml") is None


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("json", '// comment\n{"a": 1}'),
        ("json", '{"a": 1,}'),
        ("json", '{"a": 1, "a": 2}'),
        ("json", "[]"),
        ("json", '{"herd": "text"}'),
        ("json", "\ufeff{}"),
        ("toml", "a = "),
        ("toml", 'top = "another"'),
        ("toml", 'herd = {model = "m"}'),
        ("toml", 'herd.t = "text"'),
        ("toml", '[herd.t]\nmodel = "another"'),
        ("toml", "[[herd]]\na = 1"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_left_alone(tmp_path: Path, kind: str, before: str) -> None:
    path = tmp_path / "file"
    path.write_text(before)
    with pytest.raises(BadFile, match="by hand"):
        merge_file(path, {"top": "m", "herd": {"t": {"model": "m"}}}, kind)  # type: ignore[arg-type]
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


def test_what_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(BadFile, match="UTF-8"):
        merge_file(path, {"b": {}}, "json")


def test_a_client_without_such_a_file_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connect", "aider", "--write"]) == 2
    assert "herd connect aider" in capsys.readouterr().err
