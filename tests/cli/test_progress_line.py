"""The one line that tells how far long work is: what it says, where, and that every long command draws it."""

import ast
import importlib.util
import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from herd.cli.progress_line import ProgressLine

REPO = Path(__file__).parents[2]


class Screen(io.StringIO):
    """A terminal that does not say how wide it is."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def lines(screen: Screen) -> list[str]:
    """Every state of the line, as a person sees it."""
    return [part.strip() for part in re.split(r"\r\x1b\[K|\n", screen.getvalue()) if part.strip()]


def test_it_says_total_speed_and_time_left(screen: Screen) -> None:
    clock = Clock()
    line = ProgressLine(stream=screen, clock=clock)
    for done in (0, 10_000_000, 25_000_000, 100_000_000):
        line.show("downloading toy", done, 100_000_000)
        clock.now_s += 5
    told = lines(screen)
    assert told[1].endswith("10.0 MB of 100.0 MB, 2.0 MB/s, 45 s left")
    assert told[2].endswith("25.0 MB of 100.0 MB, 2.5 MB/s, 30 s left")
    assert told[3].endswith("100.0 MB in 15 s, 6.7 MB/s")
    assert screen.getvalue().count("\n") == 1, "it ends with the work"


def test_what_was_there_before_says_nothing_of_the_speed(screen: Screen) -> None:
    clock = Clock()
    line = ProgressLine(stream=screen, clock=clock)
    line.show("downloading", 900, 1000)
    clock.now_s += 10
    line.show("downloading", 910, 1000)
    assert lines(screen)[-1].endswith("910 bytes of 1.0 kB, 1 bytes/s, 2 min left")


def test_units_are_those_of_the_phase_and_a_phase_that_ended_is_not_drawn_again(screen: Screen) -> None:
    clock = Clock()
    line = ProgressLine({"compare": "tokens"}, screen, clock=clock)
    for phase, done in (("encode", 5), ("encode", 5), ("compare", 2), ("compare", 4)):
        line.show(phase, done, 5 if phase == "encode" else 4)
        clock.now_s += 4
    line.end()
    line.end()
    assert [x.partition(" ")[0] for x in lines(screen)] == ["encode", "compare", "compare"]
    assert "4 tokens in 4 s" in lines(screen)[-1]
    assert screen.getvalue().count("\n") == 2


def test_elsewhere_it_is_a_line_a_phase(monkeypatch: pytest.MonkeyPatch, screen: Screen) -> None:
    plain = io.StringIO()
    line = ProgressLine(stream=plain)
    for done in range(0, 101, 10):
        line.show("a", done, 100)
    line.show("b", 0, 0)
    line.end()
    assert plain.getvalue() == "a (100 bytes)\nb\n"
    monkeypatch.setenv("TERM", "dumb")
    ProgressLine(stream=screen).show("a", 1, 2)
    assert screen.getvalue() == "a (2 bytes)\n"


def test_it_never_grows_longer_than_the_terminal(monkeypatch: pytest.MonkeyPatch, screen: Screen) -> None:
    for width in (20, 40, 60, 100):
        monkeypatch.setattr("herd.cli.progress_line.columns", lambda _stream, width=width: width)
        line = ProgressLine(stream=screen)
        line.show("downloading an/organisation-with-a-long-name", 1, 1000)
        assert len(lines(screen)[-1]) < width


def test_nobody_else_in_the_command_line_draws_one() -> None:
    """All that pull, convert, pack, quantize, eval and verify draw is `console.progress`: one way to speak."""
    callers = set()
    for path in (REPO / "src/herd/cli").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name not in ("progress_line.py", "console.py"):
            assert "\\r" not in text and "ProgressLine" not in text, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "console.progress":
                callers.add(path.stem)
    assert callers == {"asking", "batch", "files", "measures", "models", "pull", "quantize", "run", "upgrade"}


def pip_progress() -> Any:
    spec = importlib.util.spec_from_file_location("pip_progress", REPO / "scripts/pip_progress.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_setup_draws_the_same_line_of_what_pip_says(screen: Screen) -> None:
    module = pip_progress()
    said = [
        "Collecting numpy>=2.0 (from llama-herd==0.1.0)\n",
        "  Downloading numpy-2.4.6-cp312-manylinux_x86_64.whl (16.6 MB)\n",
        *(f"Progress {n} of 16600000\n" for n in (0, 8_300_000, 16_600_000)),
        *(f"  [{n}/3] Building CXX object native/x{n}.o\n" for n in (1, 2, 3)),
        "ERROR: it failed\n",
    ]
    kept = module.follow(said, module.ProgressLine({module.BUILD: "steps"}, screen))
    told = lines(screen)
    assert told[0].startswith("numpy") and told[0].endswith("0 bytes of 16.6 MB")
    assert told[-1].startswith("building") and told[-1].endswith("3 steps")
    assert kept[-1] == "ERROR: it failed\n" and not any("Progress" in text for text in kept)
    told_by = {"23.0.1": False, "24.0": False, "24.1": True, "24.1b1": True, "26.0.1": True}
    assert {pip: module.tells_numbers(pip) for pip in told_by} == told_by
