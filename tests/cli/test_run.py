"""`herd run`: what goes in, what comes out on which stream, and with which status."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import talker

import herd.llm
from helpers import PATIENCE_S
from herd.cli import main, options
from herd.cli.replies import find_images
from herd.engine.request import SamplingOptions
from herd.errors import DoesNotFit, UsageError

Loader = Callable[..., talker.Loader]


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    stdin = open(os.devnull)  # noqa: SIM115 (it lives as long as the test)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Loader:
    """Make `load` give a model that answers so."""

    def answer(text: str | None, **how: Any) -> talker.Loader:
        loader = talker.Loader(lambda: talker.talker(text, **how))
        monkeypatch.setattr(herd.llm, "load", loader)
        return loader

    return answer


def piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "stdin"
    path.write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(open(path, "rb")))  # noqa: SIM115


def test_the_answer_alone_goes_to_stdout(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("Grüße, 世界 👋")
    assert main(["run", "m", "hi"]) == 0
    out = capsys.readouterr()
    assert out.out == "Grüße, 世界 👋\n"
    assert out.err == ""


def test_a_terminal_says_how_much_is_read_until_the_answer_begins(
    answering: Loader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answering("yes")
    for quiet in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(sys.stderr, "isatty", lambda: True)
            patch.setenv("NO_COLOR", "1")
            assert main(["run", "m", "x" * 1200, *(["-q"] if quiet else [])]) == 0
        out = capsys.readouterr()
        assert out.out == "yes\n"
        lines = [] if quiet else out.err.split("\r\x1b[K")
        assert lines[-1:] == [""] * bool(lines), "nothing is left of it"
        told = [re.fullmatch(r"reading ([\d,]+) of ([\d,]+)", line) for line in lines[1:-1]]
        read = [int(found[1].replace(",", "")) for found in told if found]
        assert len(read) == len(told) and read == sorted(set(read))
        if quiet:
            assert out.err == ""
        else:
            assert (read[0], lines[-2].split()[1]) == (0, lines[-2].split()[3])
            assert "reading 1,0" in out.err, "read by people"


def test_an_answer_with_its_own_line_end_gets_no_second(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("line\n")
    main(["run", "m", "hi"])
    assert capsys.readouterr().out == "line\n"


def test_words_need_no_quotes(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering(talker.ECHO)
    assert main(["run", "m", "why", "is", "the", "sky", "blue?"]) == 0
    assert capsys.readouterr().out == "why is the sky blue?\n"


def test_input_files_and_prompt_come_in_this_order(
    answering: Loader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering(talker.ECHO)
    piped(monkeypatch, tmp_path, b"\xef\xbb\xbffrom the pipe\n")
    (tmp_path / "a.txt").write_text("from a file\n")
    assert main(["run", "m", "and typed", "-f", str(tmp_path / "a.txt")]) == 0
    assert capsys.readouterr().out == "from the pipe\n\nfrom a file\n\nand typed\n"


@pytest.mark.parametrize("arguments", [[], ["-"], ["--json"]])
def test_a_pipe_alone_is_a_prompt(
    answering: Loader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    arguments: list[str],
) -> None:  # fmt: skip
    answering(talker.ECHO)
    piped(monkeypatch, tmp_path, b"piped")
    assert main(["run", "m", *arguments]) == 0
    assert "piped" in capsys.readouterr().out


def test_json_is_one_object_with_versioned_keys(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("yes")
    assert main(["run", "m", "hi", "--json", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    told = json.loads(out)
    assert (told["herd"], told["version"], told["model"], told["text"]) == ("run", 1, "talker", "yes")
    assert told["finish_reason"] == "stop"
    assert told["seed"] == 5
    assert told["usage"]["output_tokens"] == 4
    assert {"load_s", "prefill_tps", "decode_tps", "first_token_s"} <= set(told["timings"])
    assert told["logprobs"] is None


def test_verbose_tells_counts_and_rates_on_stderr(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("yes")
    assert main(["run", "m", "hi", "--verbose"]) == 0
    out = capsys.readouterr()
    assert out.out == "yes\n"
    assert "load    0.25 s" in out.err
    assert "answer  4 tokens" in out.err
    assert out.err.count("tokens/s") == 2
    assert "\x1b" not in out.err


def test_a_cut_answer_is_said_to_be_cut(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("a long answer")
    assert main(["run", "m", "hi", "-m", "3"]) == 0
    out = capsys.readouterr()
    assert out.out == "a l\n"
    assert "cut off" in out.err
    assert main(["run", "m", "hi", "-m", "3", "-q"]) == 0
    assert capsys.readouterr().err == ""
    answering("a long answer" * 100, context=64)
    assert main(["run", "m", "hi"]) == 0
    assert "the context of 64 tokens is full; begin with --ctx auto, or up to --ctx " in capsys.readouterr().err


def test_flags_of_loading_reach_load(answering: Loader) -> None:
    loader = answering("x")
    main(
        [
            "run",
            "scout",
            "hi",
            "--ctx",
            "32K",
            "--threads",
            "3",
            "--chat-format",
            "llama4",
            "--device",
            "cuda",
            "--kv",
            "int8",
        ]
    )
    model, how = loader.asked[0]
    assert model == "scout"
    assert callable(how.pop("progress")) and callable(how.pop("check"))
    assert how.pop("device") == "cuda"
    assert how.pop("kv") == "int8"
    assert how.pop("mmproj") is None
    assert how == {"context": 32768, "threads": 3, "chat_format": "llama4", "ops": "auto", "force": False, "pack": True}
    main(["run", "scout", "hi", "--ctx", "auto"])
    assert loader.asked.pop()[1]["context"] == "auto"
    main(["run", "scout", "hi", "--no-pack", "--force"])
    assert (loader.asked[1][1]["pack"], loader.asked[1][1]["force"]) == (False, True)


def test_raw_goes_on_without_a_chat_format(answering: Loader, capsys: pytest.CaptureFixture[str]) -> None:
    answering("x")
    # the talker ends at once when no header is there to answer to
    assert main(["run", "m", "Once", "--raw", "-m", "1"]) == 0
    assert "stay text" not in capsys.readouterr().err
    assert main(["run", "m", "Once<|eot|><|image|>", "--raw", "-m", "1"]) == 0
    assert "<|image|> stay text" in capsys.readouterr().err
    assert main(["run", "m", "Once", "--raw", "-s", "be nice"]) == 2
    assert "--raw" in capsys.readouterr().err


# -- images -------------------------------------------------------------------------------------------------------


def picture(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (30, 20), (200, 10, 10)).save(path)
    return path


def test_paths_of_images_are_found_however_a_terminal_writes_them(tmp_path: Path) -> None:
    plain, spaced = picture(tmp_path / "a.png"), picture(tmp_path / "b c.JPG".lower())
    written = str(spaced).replace(" ", "\\ ")
    for text, want in [
        (f"what is {plain} ?", [plain]),
        (f"compare '{spaced}' and \"{plain}\"", [spaced, plain]),
        (f"see {written}", [spaced]),
        (f"{plain}", [plain]),
        ("see nowhere.png", []),
        (f"{plain}.bak", []),
    ]:
        assert [Path(p) for _, p in find_images(text)] == want, text


def test_images_are_shown_to_a_model_that_sees(
    answering: Loader, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = []
    loader = answering(talker.ECHO, sees=True)
    make = loader.make
    loader.make = lambda: models.append(make()) or models[-1]  # type: ignore[func-returns-value]
    path, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    assert main(["run", "m", f"what is this {path}", "-i", str(other)]) == 0
    out = capsys.readouterr()
    assert out.out.strip() == "what is this"  # the path is no longer part of the text
    assert str(path) in out.err
    assert models[0]._engine is None  # closed


def test_a_model_without_eyes_says_so(answering: Loader, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    answering(talker.ECHO)
    path = picture(tmp_path / "a.png")
    assert main(["run", "m", "what", "is", str(path)]) == 0
    out = capsys.readouterr()
    assert out.out == f"what is {path}\n"
    assert "cannot see" in out.err
    assert main(["run", "m", "what", "-i", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# -- wrong input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["run"], 2, "MODEL"),
        (["run", "m"], 2, "no prompt"),
        (["run", "m", "hi", "--ctx", "0"], 2, "8192"),
        (["run", "m", "hi", "--ctx", "1.5"], 2, "8192"),
        (["run", "m", "hi", "--ctx", "999999999999e999K"], 2, "8192"),
        (["run", "m", "hi", "--temperature", "nan"], 2, "temperature"),
        (["run", "m", "hi", "--temperature", "warm"], 2, "temperature"),
        (["run", "m", "hi", "--top-p", "2"], 2, "top_p"),
        (["run", "m", "hi", "--seed", "-1"], 2, "seed"),
        (["run", "m", "hi", "--logit-bias", "5"], 2, "ID=VALUE"),
        (["run", "m", "hi", "--logit-bias", "999=1"], 2, "logit_bias"),
        (["run", "m", "hi", "--device", "gpu"], 2, "device"),
        (["run", "m", "hi", "--nonsense"], 2, "--nonsense"),
        (["run", "m", "hi", "-f", "nowhere.txt"], 3, "nowhere.txt"),
        (["run", "m", "hi", "-i", "nowhere.png"], 3, "nowhere.png"),
        (["chat", "m"], 2, "terminal"),
    ],
)
def test_wrong_input_is_one_line_and_a_status(
    answering: Loader, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    answering("x")
    assert main(arguments) == status
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("herd: ")
    assert out.err.count("\n") == 1
    assert says in out.err


def test_a_missing_model_is_not_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "smolm2", "hi"]) == 3
    assert "smollm2" in capsys.readouterr().err


def test_a_prompt_longer_than_the_context_names_both_counts(
    answering: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    answering("x", context=64)
    assert main(["run", "m", "x" * 100]) == 2
    err = capsys.readouterr().err
    assert "64" in err
    assert any(str(n) in err for n in range(101, 130))


def test_text_that_is_not_utf_8_is_refused(
    answering: Loader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answering("x")
    piped(monkeypatch, tmp_path, b"ab\xff")
    assert main(["run", "m"]) == 2
    assert "0xff" in capsys.readouterr().err
    assert main(["run", "m", "caf\udce9"]) == 2
    assert "locale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DoesNotFit("needs 60 GB, have 24 GB"), 4),
        (KeyboardInterrupt(), 130),
        (MemoryError(), 4),
        (FileNotFoundError(2, "No such file or directory", "x"), 3),
        (PermissionError(13, "Permission denied", "x"), 1),
        (OSError(28, "No space left on device", "x"), 4),
        (UsageError("two\nlines"), 2),
    ],
)
def test_every_cause_has_its_status_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(herd.llm, "load", failing)
    assert main(["run", "m", "hi"]) == status
    assert capsys.readouterr().err.count("\n") == 1


def test_our_own_mistakes_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(herd.llm, "load", broken)
    with pytest.raises(ZeroDivisionError):
        main(["run", "m", "hi"])


# -- flags and the struct they come from --------------------------------------------------------------------------


def test_every_sampling_option_has_a_flag_and_a_help() -> None:
    from herd.cli.run import run

    fields = set(SamplingOptions.__struct_fields__)
    assert set(options.HELP) == fields
    assert fields <= {p.name for p in run.params}
    for p in run.params:
        if p.name in fields:
            assert p.help == options.HELP[p.name]  # type: ignore[attr-defined]


def test_every_flag_reaches_its_field(answering: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    answering("x")
    real = herd.llm.LLM.stream

    def spy(self: Any, messages: Any, **arguments: Any) -> Any:
        seen.update(arguments)
        return real(self, messages, **arguments)

    monkeypatch.setattr(herd.llm.LLM, "stream", spy)
    wanted: dict[str, Any] = {
        "temperature": 0.5, "top_k": 4, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": -1.0,
        "frequency_penalty": 1.0, "repetition_window": 9, "seed": 3, "max_tokens": 2048, "logprobs": 2,
        "stop": ("a", "b"), "stop_ids": (1, 2), "logit_bias": {5: -1.5}, "ignore_eos": True,
        "speculate": "off",
    }  # fmt: skip
    assert {*wanted, "grammar"} == set(SamplingOptions.__struct_fields__)
    words = ["--temperature=0.5", "--top-k=4", "--top-p=0.5", "--min-p=0.1", "--repetition-penalty=1.5"]
    words += ["--presence-penalty=-1", "--frequency-penalty=1", "--repetition-window=9", "--seed=3", "-m", "2K"]
    words += [
        "--logprobs=2",
        "--stop=a",
        "--stop=b",
        "--stop-id=1",
        "--stop-id=2",
        "--logit-bias=5=-1.5",
        "--speculate=off",
    ]
    assert main(["run", "m", "hi", "-s", "sys", *words, "--ignore-eos", "--json"]) == 0
    assert {k: seen[k] for k in wanted} == wanted
    assert seen["system"] == "sys"
    msgspec.convert({k: v for k, v in seen.items() if k in wanted}, SamplingOptions)


def test_a_grammar_is_given_in_words_or_as_a_file(
    answering: Loader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answering("x")
    file = tmp_path / "two.json"
    file.write_text('{"enum": ["a b", "ü"]}', encoding="utf-8")
    assert main(["run", "m", "hi", "--grammar", f"schema:@{file}"]) == 0
    assert capsys.readouterr().out.strip() in ('"a b"', '"ü"')
    assert main(["run", "m", "hi", "--grammar", "regex:[0-9]{3}!"]) == 0
    assert re.fullmatch("[0-9]{3}!", capsys.readouterr().out.strip())
    assert main(["run", "m", "hi", "--grammar", "schema:@nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
    assert main(["run", "m", "hi", "--grammar", "yaml:x"]) == 2
    assert "expected json, schema, lark or regex" in capsys.readouterr().err


def test_flags_that_were_not_given_leave_the_model_its_defaults() -> None:
    assert options.given(dict.fromkeys(SamplingOptions.__struct_fields__) | {"stop": (), "system": "x"}) == {}


# -- processes ----------------------------------------------------------------------------------------------------

DRIVER = """
import sys
sys.path.insert(0, {folder!r})
import talker, herd.llm
from herd.cli import main
herd.llm.load = talker.Loader(lambda: talker.talker({answer!r}, delay_s={delay_s}))
sys.exit(main(sys.argv[1:]))
"""


def driver(answer: str | None, delay_s: float = 0.0) -> list[str]:
    code = DRIVER.format(folder=str(Path(__file__).parent), answer=answer, delay_s=delay_s)
    return [sys.executable, "-c", code]


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [*driver("x" * 100_000), "run", "m", "hi", "-q", "-m", "3000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(3) == b"xxx"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_ctrl_c_keeps_what_was_said_and_ends_with_130() -> None:
    import signal

    command = [*driver("abcdefgh" * 1000, delay_s=0.005), "run", "m", "hi"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        rest, err = process.stdout.read(), process.stderr.read()
    assert first == b"abcdefgh"
    assert rest.endswith(b"\n")
    assert err == b"herd: interrupted\n"
    assert process.returncode == 130


def test_no_colour_off_a_terminal() -> None:
    done = subprocess.run(
        [*driver("hi"), "run", "m", "x", "--verbose"], capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S
    )
    assert b"\x1b" not in done.stdout + done.stderr
    assert done.returncode == 0
