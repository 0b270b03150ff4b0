"""What `herd serve` loads a model with, from its options."""

from pathlib import Path
from typing import Any

import pytest

from helpers import TINY_TEXT, hf_folder
from herd.cli import main


def test_the_context_of_models_that_are_not_named_is_a_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, other = (hf_folder(tmp_path / name, TINY_TEXT) for name in ("named", "other"))
    found: dict[str, Any] = {}

    def run(options: Any, load: Any, say: Any) -> None:
        for path in (named, other):
            load(str(path))

    monkeypatch.setattr("herd.llm.load", lambda path, **how: found.update({Path(path).name: how["context"]}))
    monkeypatch.setattr("herd.server.run.serve", run)
    assert main(["serve", str(named), "--ctx", "1M"]) == 0
    # load refuses it for the one that is named
    assert found == {"named": 1 << 20, "other": TINY_TEXT.max_context}
    assert main(["serve", str(named), "--ctx", "8"]) == 0
    assert found == {"named": 8, "other": 8}
    assert main(["serve", str(named)]) == 0
    assert found == {"named": "auto", "other": "auto"}
