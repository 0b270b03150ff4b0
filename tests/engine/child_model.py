"""The child of tests/engine/executors/test_child.py: a FakeModel behind pipes, told by `setup` how to behave."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from herd.engine.executors.serve import serve
from herd.engine.fake import FakeModel
from herd.errors import BadCheckpoint, fail
from herd.grammar.masks import Grammars
from herd.progress import Progress
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
COMMAND = [sys.executable, str(Path(__file__))]
"""Starts it."""


def babble(ids: list[int]) -> Any:
    """A model that says anything, and always the same after the same ids."""
    return np.random.default_rng(ids).normal(size=BYTES.vocab_size).astype(np.float32)


def fake(next_logits: Any, context: int = 4096) -> FakeModel:
    return FakeModel(next_logits, patch_id=266, chunk=16, context=context)


def read_weights(path: str) -> tuple[Any, Any]:
    """A model that says the number that its path is."""
    if path == "dies":
        os._exit(7)
    if path == "sand":
        fail(BadCheckpoint, path, got="sand", expected="numbers")
    return (lambda ids: int(path)) if path.isdigit() else path, None


def load(setup: bytes, progress: Progress) -> tuple[Any, dict[str, Any]]:
    told = json.loads(setup)
    print("words that must not come between the frames")
    progress("weights", 1, 2)
    if told.get("fails") == "typed":
        fail(BadCheckpoint, "weights", got="sand", expected="numbers")
    if told.get("fails") == "untyped":
        raise ZeroDivisionError("by zero")
    if told.get("fails") == "dies":
        os._exit(7)
    progress("weights", 2, 2)

    def next_id(ids: list[int]) -> Any:
        time.sleep(told.get("pass_s", 0.0))
        if 200 in ids:
            raise RuntimeError("200 breaks")
        return (sum(ids) * 7 + len(ids)) % 100

    grammars = Grammars(BYTES, BYTES.eos_ids)
    return fake(babble if told.get("babbles") else next_id, told.get("context", 4096)), {
        "piece": 64,
        "places": 4,
        "grammars": grammars,
        "read_weights": read_weights,
    }


if __name__ == "__main__":
    serve(load)
