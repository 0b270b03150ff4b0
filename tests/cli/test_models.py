"""Commands about models, files and the machine: what they print, as text and as JSON."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from herd.checkpoint import save_hf
from herd.checkpoint.random_weights import RandomSource
from herd.cli import COMMANDS, console, main
from herd.cli.group import herd as command_line
from herd.config import TINY
from herd.store import fetch, known_models, pulling, stored
from herd.store.choosing import Room

CONFIG = replace(TINY, vision=None, num_layers=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "tiny", CONFIG, RandomSource(CONFIG, 0))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The one JSON object that a command prints."""
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    assert out.out.count("\n") == 1
    data: dict[str, Any] = json.loads(out.out)
    assert data["herd"] == arguments[0].replace("ls", "list")
    assert data["version"] == 1
    return data


def test_a_model_s_life(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr()
    assert out.out == ""
    assert "herd pull smollm2" in out.err

    first = told(capsys, "import", str(model))
    assert first["name"] == "tiny"
    assert first["in_place"] is True
    newer = save_hf(tmp_path / "newer", CONFIG, RandomSource(CONFIG, 1))
    second = told(capsys, "import", str(newer), "--name", "tiny")
    listed = told(capsys, "ls")["models"]["tiny"]
    assert listed["current"] == second["id"]
    assert [v["id"] for v in listed["versions"]] == [first["id"], second["id"]]

    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["NAME", "ID", "SIZE"]
    assert [line.startswith("tiny *") for line in lines[1:]] == [False, True]

    assert main(["import", str(newer), "--name", "tiny"]) == 0
    assert f"herd use tiny {first['id']} takes the one before again" in capsys.readouterr().err

    told(capsys, "use", f"tiny@{first['id']}")
    assert main(["show", "tiny"]) == 0
    shown = capsys.readouterr().out
    assert f"herd use tiny {second['id']}" in shown
    assert f"{first['id']}" in shown

    assert main(["verify", "tiny"]) == 0
    out = capsys.readouterr()
    assert "recorded  model.safetensors" in out.out
    assert set(told(capsys, "verify", "tiny", "-q")["equal"]) >= {"config.json", "model.safetensors"}
    (model / "config.json").write_text("{}")
    assert main(["verify", "tiny", "-q"]) == 2
    assert "config.json" in capsys.readouterr().err

    removed = told(capsys, "rm", "tiny")
    assert removed["kept"] == [str(model), str(newer)]
    assert main(["show", "tiny"]) == 3


def test_show_counts_and_names_the_duties(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = told(capsys, "show", str(model))
    assert data["parameters"]["total"] * 4 == data["types"]["f32"]
    assert data["parameters"]["active"] < data["parameters"]["total"]
    assert (data["format"], data["family"], data["context"]) == ("safetensors", "llama4", CONFIG.max_context)
    assert data["licence"] == "llama4"
    assert data["licence_stated"] is False
    assert main(["show", str(model)]) == 0
    text = capsys.readouterr().out
    assert "4 experts" in text
    assert "Built with Llama" in text
    assert "not stated in the files" in text
    assert f"{data['parameters']['total']:,}" in text


def test_pull_shows_progress_once_a_phase_off_a_terminal(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, version = stored.import_path(model, "toy")

    def fake(name: str, progress: Any, **_: Any) -> Any:
        for done in range(0, 101, 10):
            progress("downloading toy", done, 100)
        progress("unpacking", 100, 100)
        return version

    monkeypatch.setitem(fetch.KNOWN, "toy", fetch.KNOWN["smollm2"])
    monkeypatch.setattr(fetch, "pull_known", fake)
    assert main(["pull", "toy"]) == 0
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.splitlines()[:2] == ["downloading toy (100 bytes)", "unpacking (100 bytes)"]
    assert version.id in out.err
    assert main(["pull", "toy", "-q", "--json"]) == 0
    out = capsys.readouterr()
    assert out.err == ""
    assert json.loads(out.out)["id"] == version.id


def test_what_can_be_pulled_is_listed_with_what_fits_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pulling, "room_here", lambda: Room(64 * 10**9, 10**12))
    found = told(capsys, "pull", "--list")
    assert (found["memory_bytes"], found["disk_bytes"], found["token"]) == (64 * 10**9, 10**12, False)
    assert {form["model"] for form in found["models"]} == {*fetch.KNOWN, *known_models.models()}
    fitting = {form["name"]: form["fits"] for form in found["models"]}
    assert fitting["scout:UD-Q3_K_XL"] and fitting["smollm2"]
    assert fitting["scout:UD-Q4_K_XL"] is False and fitting["scout:Q8_0"] is None
    best = {form["model"]: form["name"] for form in found["models"] if form["best"]}
    assert best["scout"] == "scout:UD-Q3_K_XL" and best["guard"] == "guard:BF16" and "maverick" not in best

    assert main(["pull", "--list"]) == 0
    table = capsys.readouterr().out
    page = Path(__file__).parents[2] / "docs" / "models.md"
    assert f"On a machine of 64 GB:\n\n```\n{table}```\n" in page.read_text(encoding="utf-8")
    rows = {line.split()[0]: line for line in table.splitlines()}
    assert rows["NAME"].split() == ["NAME", "QUANTS", "SIZE", "FITS", "HERE", "GATE", "LICENCE"]
    assert "yes: UD-Q3_K_XL  open, gated  llama4" in rows["scout"]
    assert "  no  " in rows["maverick"] and "yes: BF16        gated" in rows["guard"] and "yes" in rows["smollm2"]

    assert main(["pull", "--list", "llama4:scout"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(known_models.models()["scout"].forms)
    assert [line.split()[0] for line in lines if " yes * " in line] == ["scout:UD-Q3_K_XL"]
    assert main(["pull", "--list", "nowhere"]) == 3
    assert main(["pull"]) == 2
    assert "herd pull --list" in capsys.readouterr().err


def test_a_machine_that_does_not_tell_its_memory_gets_a_list_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pulling, "room_here", lambda: Room(None, 10**12))
    assert {form["fits"] for form in told(capsys, "pull", "--list")["models"]} == {None}
    assert main(["pull", "--list"]) == 0
    assert all("?" in line for line in capsys.readouterr().out.splitlines()[1:])


def test_a_model_run_by_its_path_is_listed_verified_and_freed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from herd.checkpoint import open_checkpoint
    from herd.store.auto_pack import packed_for

    file = Path(shutil.copy(Path(__file__).parent.parent / "fixtures/gguf/llama-q4_0.gguf", tmp_path / "one.gguf"))
    packed_for(open_checkpoint(file)).close()
    [told_of] = told(capsys, "list")["packed"]
    assert (told_of["path"], told_of["there"]) == (str(file), True)
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", str(file)]
    assert main(["verify", str(file), "-q"]) == 0
    out = capsys.readouterr().out
    assert hashlib.sha256(file.read_bytes()).hexdigest() in out and "equal     packed form" in out
    assert told(capsys, "verify", str(file), "-q")["unknown"].keys() == {"one.gguf"}
    assert main(["rm", str(file)]) == 0
    said = capsys.readouterr().err
    assert f"removed the packed form of {file}" in said and f"left in place: {file}" in said
    assert told(capsys, "list") == {"herd": "list", "version": 1, "models": {}, "packed": []}


@pytest.mark.parametrize("target", ["out.gguf", "out"])
def test_convert_writes_what_herd_opens_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    assert main(["convert", str(model), str(tmp_path / target), "--type", "bf16"]) == 0
    assert target in capsys.readouterr().err
    data = told(capsys, "show", str(tmp_path / target))
    assert next(iter(data["types"])) == "bf16"
    assert data["parameters"]["total"] == told(capsys, "show", str(model))["parameters"]["total"]
    assert main(["convert", str(model), str(tmp_path / target)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["convert", str(model), str(tmp_path / "x.gguf"), "--type", "q3_x"]) == 2
    assert main(["convert", "nowhere", str(tmp_path / "x.gguf")]) == 3
    assert not (tmp_path / "x.gguf").exists()


def test_tokenize_shows_ids_and_pieces(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from herd.checkpoint.opened import Checkpoint
    from herd.text.tokenizer import Tokenizer

    monkeypatch.setattr(Checkpoint, "load_tokenizer", lambda self: Tokenizer.bytes_only())
    assert told(capsys, "tokenize", str(model), "é!")["ids"] == [0xC3, 0xA9, 0x21]
    assert main(["tokenize", str(model), "é!"]) == 0
    out = capsys.readouterr()
    assert out.out.splitlines() == [r"     195  '\xc3'", r"     169  '\xa9'", "      33  '!'"]
    assert "3 tokens" in out.err
    # a text that spells a special token stays text
    assert len(told(capsys, "tokenize", str(model), "<|eot|>")["ids"]) == 7


def test_doctor_finds_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    findings = {f["subject"]: f for f in told(capsys, "doctor")["findings"]}
    assert all(f["ok"] for f in findings.values())
    assert "portable" in findings["native"]["fact"]
    from herd import doctor

    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert main(["doctor"]) == 0  # extras are optional
    assert "pip install torch" in capsys.readouterr().out
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert main(["doctor"]) == 1
    assert "MISSING  store" in capsys.readouterr().out


def test_a_broken_record_is_named_and_can_be_forgotten(
    model: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(model)]) == 0
    file = home / "models.json"
    file.write_text(file.read_text().replace('"models": {', '"models": {"bad": 3,', 1))
    assert main(["list"]) == 0
    said = capsys.readouterr()
    assert "tiny" in said.out and "bad: its record in models.json is broken" in said.err
    assert main(["doctor"]) == 1
    assert "herd rm NAME" in capsys.readouterr().out
    assert main(["rm", "bad"]) == 0 and "bad" not in file.read_text()


# -- the group ----------------------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, row in COMMANDS.items():
        assert any(line.split()[:1] == [name] and row.help in line for line in text.splitlines()), name
    assert main([]) == 0
    assert capsys.readouterr().out == text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import herd

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"herd {herd.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["shwo"], "did you mean show"), (["zzz"], "herd --help"), (["--zzz"], "--zzz"), (["show"], "MODEL")],
)
def test_an_unknown_word_is_a_usage_error(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_group_without_a_command_says_which_help_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: command_line.get_command(click.Context(command_line), name) for name in COMMANDS}
    for name in [name for name, command in found.items() if isinstance(command, click.Group)]:
        assert main([name]) == 2
        assert capsys.readouterr().err == f"herd: Missing command; see herd {name} --help\n"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (999, "999 bytes"), (98362432, "98.4 MB"), (5e12, "5.0 TB")]
)
def test_sizes(number: float, text: str) -> None:
    assert console.size(number) == text


def test_colour_needs_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen:
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.has_colour(Screen())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.has_colour(Screen())  # type: ignore[arg-type]
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not console.has_colour(Screen())  # type: ignore[arg-type]
