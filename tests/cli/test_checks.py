"""What is wrong with flags, formats and files is said before anything is packed, loaded, written or fetched: every
option and argument of every command, found by walking the parser, with a model whose loading is noticed.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from helpers import TINY_DENSE, hf_folder
from herd.cli import COMMANDS, main
from herd.cli.group import herd as command_line
from herd.convert import convert
from herd.store import stored


class Worked(BaseException):
    """What costs something was begun."""


COSTLY = (
    "herd.checkpoint.opened.Checkpoint.load",
    "herd.store.auto_pack._pack",
    "herd.checkpoint.hf.write.write_shards",
    "herd.checkpoint.gguf.write.GgufFile.put",
    "herd.quantize.write_packed",
    "herd.quantize.plan_budget",
    "herd.server.run.bind",
    "herd.store.fetch.pull_known",
    "herd.store.hub.pull_hub",
    "herd.store.registry.add",
    "herd.machine.probe.rates",
    "herd.integrations.systemd.install",
    "herd.disk.records.CachedFile.write",
    "herd.backends.transport.library",
)
"""Where commands begin with what takes time, or changes something."""

MISSING, MODEL, IMAGE, TEXT, OUT = "nowhere/x", "{model}", "{image}", "{text}", "{out}"
REQUESTS = "{requests}"

BASE: dict[str, list[str]] = {
    "run": ["run", MODEL, "hi"],
    "chat": ["chat", MODEL],
    "serve": ["serve", MODEL, "--no-ollama-port"],
    "service install": ["service", "install", MODEL],
    "convert": ["convert", MODEL, OUT],
    "quantize": ["quantize", MODEL, OUT, "--type", "q4_0", "--no-compare"],
    "tokenize": ["tokenize", MODEL, "hi"],
    "bench": ["bench", MODEL],
    "plan": ["plan", "scout"],
    "eval": ["eval", MODEL, "smoke-text"],
    "batch": ["batch", REQUESTS, OUT, "--model", MODEL],
    "pull": ["pull", "smollm2"],
    "import": ["import", MODEL],
    "show": ["show", MODEL],
    "rm": ["rm", MISSING],
    "verify": ["verify", MODEL],
    "use": ["use", "tiny@0"],
    "upgrade": ["upgrade", "tiny", MODEL, "--yes"],
    "connect": ["connect", "zed"],
    "ps": ["ps"],
    "stop": ["stop", "tiny"],
    "service logs": ["service", "logs"],
    "backend add": ["backend", "add", "near", "--preset", "vllm", "--model", "x"],
    "backend test": ["backend", "test", "near"],
    "backend limit": ["backend", "limit", "near", "5"],
    "backend rm": ["backend", "rm", "near"],
    "route add": ["route", "add", "both", "near"],
    "route rm": ["route", "rm", "both"],
}
"""Commands that are right as far as they are written; `begins` shows which of them would begin to work."""

MODELS = ("nowhere", "nowhere.gguf", TEXT)
TARGETS = (MISSING, TEXT, "{folder}")
LOADING: dict[str, tuple[str, ...]] = {
    "device": ("gpu",), "ops": ("x",), "chat_format": ("nonsense",), "threads": ("0", "x"), "kv": ("int3",),
    "context": ("0", "1.5", "100M", "automatic"), "mmproj": (MISSING, TEXT),
}  # fmt: skip
SAMPLING: dict[str, tuple[str, ...]] = {
    "temperature": ("hot", "-1", "nan"), "top_k": ("-1",), "top_p": ("2",), "min_p": ("2",),
    "repetition_penalty": ("0",), "presence_penalty": ("3",), "frequency_penalty": ("-3",),
    "repetition_window": ("-1",), "logit_bias": ("5", "99999=1", "5=1000"), "seed": ("-1",),
    "max_tokens": ("0", "x", "1M"), "stop": ("", "x" * 300), "stop_ids": ("99999", "x"), "logprobs": ("21", "2"),
    "grammar": ("yaml:x", "schema:{", "schema:@nowhere.json", 'schema:{"type": "x"}', "regex:(", "lark:start"),
    "speculate": ("sometimes",), "trace": (MISSING, TEXT, "{folder}", "{new}"),
}  # fmt: skip
BAD: dict[str, dict[str, tuple[str, ...]]] = {
    "run": {**LOADING, **SAMPLING, "model": MODELS, "files": (MISSING, IMAGE), "images": (MISSING, IMAGE)},
    "chat": {**LOADING, **SAMPLING, "model": MODELS},
    "serve": {
        **LOADING, "models": MODELS, "port": ("70000",), "ollama_port": ("x",), "host": ("203.0.113.7",),
        "api_keys": ("short",), "keys_file": (MISSING, TEXT), "aliases": ("x", "=x"), "keep_alive": ("soon",),
        "parallel": ("0",), "origins": ("*",), "policy": ("x",), "guard": MODELS, "audit": (MISSING,), "log": ("x",),
        "files": (MISSING, TEXT),
        "backends": ("nowhere",),
    },
    "convert": {
        "source": MODELS, "target": TARGETS, "type_": ("q3_x",), "mmproj": (MISSING, TEXT), "imatrix": (MISSING, TEXT),
    },
    "quantize": {
        "source": MODELS, "target": TARGETS, "type_": ("q3_x", "f32"), "size": ("big", "-1", "1"),
        "bits": ("99", "1", "nan"), "calibrate": (MISSING, IMAGE), "threads": ("0",), "mmproj": (MISSING, TEXT),
        "imatrix": (MISSING, TEXT), "save_imatrix": (TEXT, "{folder}", "{new}"),
    },
    "tokenize": {"model": MODELS, "files": (MISSING, IMAGE)},
    "bench": {
        "model": MODELS, "prompts": ("x",), "batches": ("0",), "depths": ("-1",), "repeats": ("0",), "threads": ("0",),
    },
    "plan": {
        "model": MODELS, "machine": ("x9", "64GB+64GB", "none.toml"), "context": ("0", "11M"), "users": ("0",),
        "kv": ("int3",), "adapters": ("-1",), "rank": ("0",), "type_": ("q3_x",), "svg": (MISSING, TEXT, "{folder}"),
        "svg_cost": (MISSING, TEXT, "{folder}"), "calls": ("0", "x"),
        "daily": ("0",), "tokens_in": ("0", "11M"), "tokens_out": ("1.5", "11M"),
        "library": ("0", "11M"), "questions": ("0", "5"), "at_once": ("0", "x"), "price": ("-1", "nan", "x"),
        "hour": ("-1", "inf"), "watts": ("-1", "x"), "tariff": ("-1",), "years": ("0",), "utilisation": ("0", "2"),
        "prices": (MISSING, TEXT, "{folder}"),
    },
    "eval": {
        **LOADING, "model": MODELS, "tasks": (MISSING, TEXT, "nowhere.toml"), "out": (TEXT,), "limit": ("0", "x"),
        "seed": ("-1",), "allow": ("-1", "x", "0.1", "nan"), "hour": ("-1", "x", "2"),
        "html": (MISSING, TEXT, "{folder}"),
    },
    "batch": {
        **LOADING, "source": (MISSING, TEXT, "{folder}"), "out": (MISSING, REQUESTS), "model": MODELS,
        "parallel": ("0",), "errors": (MISSING, OUT), "prices": (MISSING, TEXT, "{folder}"),
    },
    "pull": {"name": ("nowhere", "a/b/c"), "revision": ("main",), "file": ("*.gguf",)},
    "import": {"path": ("nowhere", TEXT), "name": ("../x", "")},
    "show": {"model": MODELS}, "rm": {"name": ("nowhere", TEXT)}, "verify": {"name": MODELS},
    "use": {"name": ("tiny", "nowhere@0", "tiny@ffff"), "version": ("ffff", "x")},
    "upgrade": {
        **LOADING, "name": MODELS, "new": MODELS, "tasks": (MISSING, TEXT, "nowhere.toml"), "limit": ("0", "x"),
        "seed": ("-1",), "allow": ("-1", "x", "nan"), "hour": ("-1", "x", "nan"),
    },
    "connect": {"name": ("nonsense",), "url": ("nonsense",)},
    "ps": {"url": ("nonsense",)}, "stop": {"url": ("nonsense",)},
    "service logs": {"lines": ("-1",)},
    "backend add": {
        "name": ("../x", "a/b", ""), "preset": ("nonsense", "azure", "deepinfra"), "model": ("",),
        "url": ("nonsense", "ftp://x/v1", "http://user:pass@x/v1", "file:///etc/passwd"), "key_env": ("sk-a b", "1x"),
        "context": ("0", "x"), "limit": ("-1", "x", "nan", "inf"), "price": ("1", "a/b", "-1/2", "nan/1"),
        "by": ("nonsense", "ids"), "tokenizer": ("nowhere",),
        "region": ("nonsense", "us-east-1"),
    },
    "backend test": {"name": ("nowhere",)}, "backend rm": {"name": ("nowhere",)},
    "route add": {"name": ("../x", "a/b", ""), "members": ("nowhere",)}, "route rm": {"name": ("nowhere",)},
    "backend limit": {"name": ("nowhere",), "dollars": ("x",)},
}  # fmt: skip
"""Command -> parameter -> values that are wrong."""
BAD["service install"] = {"arguments": ("--port=x", "--nonsense", "nowhere")}

FREE = {
    "system": "any text", "prompt": "any text", "text": "any text", "hosts": "any name may be this machine's",
    "connect model": "the service that is asked has its own models", "stop model": "the same",
}  # fmt: skip
"""Parameters in which nothing can be wrong, and why."""
NONE = ("list", "doctor", "service status", "service remove", "backend list", "route list")
"""Commands that take flags alone."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of the parser, those of groups too."""
    context = click.Context(command_line)
    for name in COMMANDS:
        command = command_line.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", command.commands[sub]) for sub in command.commands)
        else:
            yield name, command


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    """Those that take a value."""
    for one in command.params:
        if not (isinstance(one, click.Option) and (one.is_flag or one.secondary_opts)):
            yield one


CASES = [
    (name, one, value)
    for name, command in commands()
    for one in parameters(command)
    for value in BAD.get(name, {}).get(str(one.name), ())
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small quantised model with a vocabulary, and files that are none."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("checks")
    model = convert(hf_folder(folder / "hf", TINY_DENSE), folder / "tiny.gguf", "q8_0").path
    Image.new("RGB", (8, 8)).save(folder / "image.png")
    (folder / "text.txt").write_text("no model, no trace, no keys")
    (folder / "requests").write_text(
        '{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"model": "x", "prompt": "a"}}'
    )
    (folder / "full").mkdir()
    (folder / "full/file").write_text("kept")
    places = {"model": model, "image": folder / "image.png", "text": folder / "text.txt", "folder": folder / "full"}
    return {**places, "requests": folder / "requests", "out": folder / "out", "new": folder / "trace"}


@pytest.fixture(autouse=True)
def noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HERD_API_KEY", raising=False)
    monkeypatch.setattr("herd.cli.run._is_interactive", lambda: True)
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    for place in COSTLY:

        def work(*_: Any, place: str = place, **__: Any) -> Any:
            raise Worked(place)

        monkeypatch.setattr(place, work)


@pytest.fixture
def filled(places: dict[str, Path]) -> Callable[[list[str]], list[str]]:
    return lambda words: [word.format(**places) if word[:1] == "{" and word[-1:] == "}" else word for word in words]


def test_every_parameter_of_every_command_has_a_row() -> None:
    found = {(name, str(one.name)) for name, command in commands() for one in parameters(command)}
    rows = {(name, parameter) for name, bad in BAD.items() for parameter in bad}
    free = {(name, one) for name, one in found if one in FREE or f"{name} {one}" in FREE}
    assert found - free == rows
    assert {name for name, _ in commands()} == BAD.keys() | set(NONE)


@pytest.mark.parametrize(
    "name",
    [
        "run",
        "chat",
        "serve",
        "convert",
        "quantize",
        "bench",
        "eval",
        "batch",
        "pull",
        "import",
        "service install",
        "backend add",
    ],
)
def test_what_costs_something_is_noticed(name: str, filled: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(Worked):
        main(filled(BASE[name]))


def test_a_grammar_may_name_tokens_of_the_model(filled: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(Worked):
        main(filled(["run", MODEL, "hi", "--grammar", 'lark:start: "a" <|python_start|> "b"']))


def words_of(name: str, one: click.Parameter, value: str, command: click.Command) -> list[str]:
    """The command line with this value in the place of a right one."""
    words = list(BASE[name])
    if isinstance(one, click.Option):
        if one.name in ("size", "bits"):
            words = [word for word in words if word not in ("--type", "q4_0")]
        return [*words, one.opts[-1], value]
    at = len(name.split()) + [p.name for p in command.params if isinstance(p, click.Argument)].index(one.name)
    return [*words[:at], value, *words[at + 1 :]]


@pytest.mark.parametrize(
    ("name", "one", "value"), CASES, ids=[f"{name}-{one.name}-{value[:20]}" for name, one, value in CASES]
)
def test_what_is_wrong_is_said_first(
    name: str,
    one: click.Parameter,
    value: str,
    filled: Callable[[list[str]], list[str]],
    places: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(filled(words_of(name, one, value, dict(commands())[name])))
    said = capsys.readouterr()
    assert status in (2, 3, 4), said.err
    assert said.err.startswith("herd: ") and said.err.count("\n") == 1
    assert not places["out"].exists() and not places["new"].exists()
    assert places["text"].read_text() == "no model, no trace, no keys"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", MODEL, "hi", "--raw", "-s", "be brief"], "--raw"),
        (["run", MODEL, "hi", "--raw", "-i", IMAGE], "--raw"),
        (["run", MODEL, "x" * 500, "--ctx", "64"], "the context holds 64; begin with --ctx auto"),
        (["serve", "--mmproj", TEXT], "no model to serve"),
        (["service", "install", MODEL, "--guard", TEXT], "text.txt is no checkpoint"),
        (["service", "install", MODEL, "--chat-format", "x"], "--chat-format: got x"),
        (["run", MODEL, "hi", "--ctx", "x"], "like 8192, 8k (8000) or 8K (8192), or auto"),
        (["quantize", MODEL, OUT], "one of a type, a size, bits a weight"),
        (["quantize", MODEL, OUT, "--type", "q4_0", "--bits", "5"], "one of a type, a size, bits a weight"),
        (["quantize", MODEL, OUT, "--bits", "8", "--pure"], "pure"),
        (["quantize", MODEL, MODEL, "--type", "q4_0", "--overwrite"], "is the source"),
        (["quantize", MODEL, OUT, "--type", "q4_0", "--calibrate", TEXT, "--imatrix", TEXT], "a text and an imatrix"),
        (["quantize", MODEL, MODEL, "--only-compare", "--type", "q4_0"], "--only-compare: got --type, too"),
        (["tokenize", MODEL], "no text"),
        (["eval", MODEL, "smoke-text", "smoke-text"], "one name twice"),
        (["eval", MODEL, "--compare"], "two folders of results"),
        (["eval", MODEL, "--lm-eval"], "--lm-eval: expected tasks"),
        (["eval", MODEL, "--lm-eval", "x.yaml", "--seed", "1"], "neither --out nor --seed"),
        (["run", MODEL, "hi", "--grammar", "lark:start: <|no_such_token|>"], "lark"),
    ],
)
def test_flags_that_do_not_go_together_are_told_first(
    words: list[str], says: str, filled: Callable[[list[str]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(filled(words)) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_model_without_a_chat_format_is_told_before_it_is_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], filled: Callable[[list[str]], list[str]]
) -> None:
    from herd.text.tokenizer import Tokenizer

    with pytest.MonkeyPatch.context() as patch:
        plain = Tokenizer.bytes_only()
        patch.setattr("herd.llm.loading._chat_format", _no_format)
        patch.setattr("herd.checkpoint.opened.Checkpoint.load_tokenizer", lambda self: plain)
        assert main(filled(["run", MODEL, "hi"])) == 2
        assert "no chat format" in capsys.readouterr().err
        with pytest.raises(Worked):
            main(filled(["run", MODEL, "hi", "--raw"]))


def _no_format(*_: Any, **__: Any) -> Any:
    from herd.errors import UsageError

    return UsageError("no chat format is known")


def test_what_a_list_of_commands_says_of_each_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    groups = {words.rpartition(" ")[0] for words, _ in commands()}
    assert {"", "backend", "route", "service"} <= groups
    for words in groups:
        assert main([*words.split(), "--help"]) == 0
        told = capsys.readouterr().out
        assert "..." not in told.replace("ARGS]...", ""), words


@pytest.mark.parametrize("target", ["{text}", "{folder}", "beside.gguf"])
def test_overwrite_is_named_by_every_command_that_has_it(
    target: str, places: dict[str, Path], filled: Callable[[list[str]], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    have = [name for name, command in commands() if any("--overwrite" in one.opts for one in command.params)]
    assert have == ["convert", "quantize", "plan"]
    if target == "beside.gguf":
        places["out"].with_name(target).write_text("kept")
        target = str(places["out"].with_name(target))
    for name in have:
        base = [*BASE[name], "--svg", OUT] if name == "plan" else BASE[name]
        words = filled([word if word != OUT else target for word in base])
        assert main(words) == 2
        assert "exists already; give --overwrite" in capsys.readouterr().err
        if name != "plan":  # which costs nothing before it writes
            with pytest.raises(Worked):
                main([*words, "--overwrite"])


def test_a_name_of_the_store_is_not_hidden_by_a_file_of_that_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command with a model for an argument, in a folder where a file, or another model, is called the same."""
    monkeypatch.undo()
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    stored.import_path(places["model"], "tiny")
    monkeypatch.chdir(tmp_path)
    opened: list[Path] = []

    def noted(path: Path, _mmproj: Path | None) -> Any:
        opened.append(Path(path))
        raise Worked

    from herd.checkpoint import open as opening

    monkeypatch.setattr(opening, "_open", noted)
    monkeypatch.setattr("herd.cli.run._is_interactive", lambda: True)
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    takes = [n for n, words in BASE.items() if MODEL in words and n not in ("import", "verify", "upgrade")]
    assert len(takes) == 11
    for name in takes:
        (tmp_path / "tiny").write_text("a file of the same name")
        for written, wanted in (("tiny", places["model"]), ("./tiny", Path("tiny"))):
            words = [
                written if word == MODEL else word.format(**{**places, "out": tmp_path / "out"}) for word in BASE[name]
            ]
            with pytest.raises(Worked):
                main(words)
            assert opened.pop() == wanted, (name, written)
    assert main(["verify", "tiny", "-q"]) == 0
    assert main(["rm", "tiny"]) == 0
    assert (tmp_path / "tiny").exists()
