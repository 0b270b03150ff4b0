"""`herd batch`: a file answered by a model, gone on with after a kill, what leaves the house, exit status and JSON."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from batches.batch_lines import request, rows, write

from helpers import PATIENCE_S, hf_folder
from herd.backends.settings import Backend, Backends
from herd.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(hf_folder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of its own: a model that is named here is known to no other test."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))


def asked(i: int, **options: Any) -> dict[str, Any]:
    return request(f"r{i}", f"{i}", "/v1/completions", max_tokens=4, temperature=0, ignore_eos=True, **options)


def test_a_file_is_answered_and_told(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path / "in", *map(asked, range(5))), tmp_path / "out"
    words = ["batch", str(source), str(out), "--model", model]
    assert main([*words, "--in-order"]) == 0
    said = capsys.readouterr()
    assert "5 lines:" in said.err and "20 made" in said.err
    assert said.out.splitlines()[0].split() == ["THE", "SAME", "AT", "MODEL", "COSTS", "IN", "A", "BATCH", "LISTED"]
    assert [row["custom_id"] for row in rows(out)] == [f"r{i}" for i in range(5)]
    before = out.read_bytes()
    write(source, *map(asked, range(5)), "{broken")
    assert main([*words, "--json"]) == 1
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["lines"], told["answered"], told["failed"], told["output_tokens"]) == (6, 5, 1, 20)
    assert told["hosts"] and all(one["dollars"] > 0 for one in told["hosts"])
    halves = [one for one in told["hosts"] if one["batch_dollars"] is not None]
    assert halves and all(one["batch_dollars"] == one["dollars"] / 2 for one in halves)
    assert "5 of 6 lines are kept; it goes on" in said.err and "line 6: line: got " in said.err
    assert "1 of 6 lines failed" in said.err
    assert out.read_bytes().startswith(before)
    assert main([*words, "-q", "--kv", "int8"]) == 2
    assert "results of another model, or of other flags" in capsys.readouterr().err


def test_the_first_line_names_a_model_of_the_store_and_never_a_path(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = {"prompt": "a", "model": model}
    source = write(tmp_path / "in", {**asked(1), "body": body})
    assert main(["batch", str(source), str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert "which the first line names, expected a model of the store; --model MODEL" in said
    assert main(["import", model, "--name", "tiny"]) == 0
    write(source, {**asked(1), "body": {**asked(1)["body"], "model": "tiny"}}, asked(2))
    assert main(["batch", str(source), str(tmp_path / "out"), "-q"]) == 1
    first, second = sorted(rows(tmp_path / "out"), key=lambda row: str(row["custom_id"]))
    assert first["response"]["status_code"] == 200
    assert second["response"]["body"]["error"]["message"].startswith("model: got fake, expected tiny")


def test_what_would_leave_the_house_is_told_and_stays_without_leave(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Backends().add(
        "far",
        Backend(
            preset="vllm", model="x", url="https://host.example/v1", limit_dollars=1.0, dollars_in=1.0, dollars_out=1.0
        ),
    )
    source, out = write(tmp_path / "in", asked(1), asked(2)), tmp_path / "out"
    size = source.stat().st_size - 2
    words = ["batch", str(source), str(out), "--model", "backend:far"]
    assert main(words) == 1
    assert f"2 requests, {size} bytes, to host.example: out of the house; --leave" in capsys.readouterr().err
    assert not out.exists()
    assert main([*words[:3], "--leave"]) == 2
    assert main(["batch", str(source), str(out), "--model", "nowhere", "--leave"]) == 2
    capsys.readouterr()


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(model: str, tmp_path: Path) -> None:
    """kill -9, over and over, until it comes to its end by itself: every line once, each as without a kill."""
    lines = [asked(i) for i in range(400)]
    source, out, whole = write(tmp_path / "in", *lines), tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "herd", "batch", str(source), str(out), "--model", model, "-q", "--in-order"]
    assert main(["batch", str(source), str(whole), "--model", model, "-q", "--in-order"]) == 0
    draw, kills, seen = random.Random(7), 0, 0
    for _ in range(60):
        child = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        began_s, wanted = time.monotonic(), seen + draw.randrange(1, 40)
        while child.poll() is None and time.monotonic() - began_s < PATIENCE_S:
            if out.exists() and out.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(draw.random() / 50)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        if child.wait() == 0:
            break
        seen = out.read_bytes().count(b"\n")
    assert kills >= 5 and child.returncode == 0

    def plain(path: Path) -> list[Any]:
        return [(row["id"], row["custom_id"], row["response"]["body"]["choices"]) for row in rows(path)]

    assert plain(out) == plain(whole) and len(plain(out)) == 400
