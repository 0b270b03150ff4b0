"""What `herd serve` loads a model with, from its options."""

from pathlib import Path
from typing import Any

import pytest

from helpers import TINY_TEXT, hf_folder
from herd.cli import main


def test_the_context_is_a_ceiling_for_all_but_the_first_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = (hf_folder(tmp_path / name, TINY_TEXT) for name in ("first", "other"))
    found: dict[str, Any] = {}

    def run(options: Any, load: Any, say: Any) -> None:
        for path in (first, other):
            load(str(path))

    monkeypatch.setattr("herd.llm.load", lambda path, **how: found.update({Path(path).name: how["context"]}))
    monkeypatch.setattr("herd.server.run.serve", run)
    assert main(["serve", str(first), str(other), "--ctx", "1M"]) == 0
    # load refuses it for the first
    assert found == {"first": 1 << 20, "other": TINY_TEXT.max_context}
    assert main(["serve", str(first), "--ctx", "8"]) == 0
    assert found == {"first": 8, "other": 8}
    assert main(["serve", str(first)]) == 0
    assert found == {"first": "auto", "other": "auto"}
