"""What `herd serve` loads a model with, from its options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import TINY_TEXT, hf_folder
from herd.cli import main


def test_the_context_is_a_ceiling_for_all_but_the_first_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = hf_folder(tmp_path / "first", TINY_TEXT)
    small = hf_folder(tmp_path / "small", replace(TINY_TEXT, max_context=64))
    found: dict[str, Any] = {}

    def run(options: Any, load: Any, *_: Any) -> None:
        for path in (first, small):
            load(str(path))

    monkeypatch.setattr("herd.llm.load", lambda path, **how: found.update({Path(path).name: how["context"]}))
    monkeypatch.setattr("herd.server.run.serve", run)
    assert main(["serve", str(first), str(small), "--ctx", "100"]) == 0
    assert found == {"first": 100, "small": 64}
    assert main(["serve", str(first), str(small)]) == 0
    assert found == {"first": "auto", "small": "auto"}
    found.clear()
    assert main(["serve", str(small), str(first), "--ctx", "100"]) == 2 and not found
    assert "--ctx: got 100, expected at most what small has, 64" in capsys.readouterr().err
