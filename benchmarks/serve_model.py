"""An engine without weights that makes tokens at a given rate: real sequences, pages and places, no arithmetic.

All steps end on one grid of time.monotonic, at whole multiples of `period_s`, so that whoever sees a token in another
process knows how long it was under way: the time modulo the period. As a script it is the child that `paced` starts.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from herd.config import TINY
from herd.engine.defaults import LLAMA
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.executor import Executor
from herd.engine.executors.serve import serve
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fake import FakeModel
from herd.engine.runner import Chunk, Logits, rows_wanted
from herd.llm import LLM
from herd.progress import Progress
from herd.text.chat import Llama4
from herd.text.tokenizer import Tokenizer

NAME = "paced"
SAID = b"The herd moves on, and what it leaves behind are tracks of words. "
CONTEXT = 4096
PAGE = 16
PIECE = 1 << 17
"""Rows a step: every prompt that waits is computed in one, whatever the number of places."""
GREEDY = LLAMA.with_({"temperature": 0.0, "speculate": "off"})


class StepTimes(msgspec.Struct, frozen=True):
    """What an engine is to be. period_s: from step to step, each of which makes a token for every running sequence."""

    period_s: float
    places: int
    queue: int = 1024
    child: bool = True
    """Whether it runs in a process of its own, as `herd serve` has it."""


class PacedModel(FakeModel):
    """Decodes once a period; passes that hold prompts take no time."""

    def __init__(self, pace: StepTimes) -> None:
        super().__init__(lambda ids: 0, context=CONTEXT, page_size=PAGE, num_pages=(pace.places + 8) * 64, chunk=None)
        self._period_s = pace.period_s

    def compute(self, pieces: Sequence[Chunk], routing: Any = None) -> Logits:
        """See ModelRunner. Pages are taken as for a real pass; what is said depends on the position alone."""
        ends = [piece.lease.length + len(piece.ids) for piece in pieces for _ in rows_of(piece)]
        self.cache.step([(piece.lease, len(piece.ids)) for piece in pieces], rows_wanted(pieces))
        logits_RV = np.zeros((len(ends), self.vocab_size), np.float32)
        logits_RV[np.arange(len(ends)), [SAID[end % len(SAID)] for end in ends]] = 20.0
        if all(len(piece.ids) == 1 for piece in pieces):
            now_s = time.monotonic()
            time.sleep(self._period_s - now_s % self._period_s)
        return logits_RV


def rows_of(piece: Chunk) -> Sequence[int]:
    """Rows whose logits are wanted."""
    return (len(piece.ids) - 1,) if piece.rows is None else piece.rows


def paced(pace: StepTimes) -> LLM:
    """A language model over such an engine."""
    tokenizer = Tokenizer.bytes_only()
    return LLM(
        TINY,
        executor(pace),
        tokenizer,
        Llama4(tokenizer),
        name=NAME,
        defaults=GREEDY,
        parallel=pace.places,
        queue=pace.queue,
    )


def executor(pace: StepTimes) -> Executor:
    """The engine behind a front."""
    if not pace.child:
        return ThreadExecutor(PacedModel(pace), **worker_arguments(pace))
    return ChildExecutor([sys.executable, str(Path(__file__).resolve())], msgspec.msgpack.encode(pace))


def worker_arguments(pace: StepTimes) -> dict[str, Any]:
    """Of the core that steps the model."""
    return {"piece": PIECE, "places": pace.places, "most_waiting": pace.queue}


def load(setup: bytes, progress: Progress) -> tuple[PacedModel, dict[str, Any]]:
    """What the child computes with."""
    pace = msgspec.msgpack.decode(setup, type=StepTimes)
    return PacedModel(pace), worker_arguments(pace)


if __name__ == "__main__":
    serve(load)
