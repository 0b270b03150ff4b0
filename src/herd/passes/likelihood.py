"""Logits of a text, window by window without a cache; and two models compared: KL, perplexity, agreement.

The first model's log-probabilities go to a temporary file, exactly (float32), so that both need not be in memory.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from herd.batch import packed
from herd.config import Llama4Config
from herd.errors import DoesNotFit, fail
from herd.model import forward
from herd.ops.contract import Extras, Ops
from herd.weights import Model

Windows = Sequence[Sequence[int]]
Step = Callable[[int, int], None]
"""Told how many of how many tokens are done."""


def windows(ids: Sequence[int], length: int, bos_id: int | None) -> list[list[int]]:
    """Split a text into windows, each with `bos_id` (when given) before it and `length` ids in all. A last one of a
    single id, which has nothing to predict, is left out."""
    head = [] if bos_id is None else [bos_id]
    width = length - len(head)
    pieces = [[*head, *ids[i : i + width]] for i in range(0, len(ids), width)]
    return [p for p in pieces if len(p) > 1]


def logits(
    ops: Ops, config: Llama4Config, weights: Model, texts: Windows, extras: Extras | None = None
) -> Iterator[tuple[Sequence[int], npt.NDArray[np.float32]]]:
    """(ids, logits [T, V]) of each window, read alone from position 0."""
    for ids in texts:
        context = ops.place(packed([len(ids)], config.chunk))
        out_TV = forward(ops, config, weights, np.asarray(ids, np.int64), context, extras=extras)
        yield ids, np.asarray(ops.numpy(out_TV), np.float32)


def log_softmax(logits_TV: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities, in float64."""
    l_TV = logits_TV.astype(np.float64)
    l_TV -= l_TV.max(axis=1, keepdims=True)
    l_TV -= np.log(np.exp(l_TV).sum(axis=1, keepdims=True))
    return l_TV


@dataclass(frozen=True)
class Comparison:
    """A model (`target`) against the one that it was made from (`source`), over the same tokens."""

    kl_mean: float
    """KL(source || target), nats a token."""
    kl_largest: float
    same_top: float
    """Share of tokens at which both find the same next token likeliest."""
    source_perplexity: float
    target_perplexity: float
    num_tokens: int

    @property
    def perplexity_ratio(self) -> float:
        """Target over source; 1 when nothing was lost."""
        return self.target_perplexity / self.source_perplexity


class Reference:
    """The source model's log-probabilities of some windows, in a temporary file that goes with this object.

    Raises DoesNotFit when the disk of `folder` has no room for it.
    """

    def __init__(self, folder: Path, texts: Windows, vocab_size: int) -> None:
        self.texts = texts
        self._rows = sum(len(t) for t in texts)
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".herd-logprobs-")  # noqa: SIM115 (closed by `close`)
        size = 4 * self._rows * vocab_size
        try:
            _allocate(self._file, size)
        except OSError as problem:
            self._file.close()
            if problem.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            fail(DoesNotFit, f"{size / 1e9:.2f} GB for log-probabilities in {folder}", got=problem.strerror)
        self._logs: Any = np.memmap(self._file, np.float32, "r+", shape=(self._rows, vocab_size))
        self._nll = 0.0

    def close(self) -> None:
        """Delete the temporary file."""
        del self._logs
        self._file.close()

    def __enter__(self) -> "Reference":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(self, ops: Ops, config: Llama4Config, weights: Model, step: Step | None = None) -> None:
        """Run the source model and record its log-probabilities."""
        at = 0
        for ids, out_TV in logits(ops, config, weights, self.texts):
            logs_TV = log_softmax(out_TV)
            self._logs[at : at + len(ids)] = logs_TV
            self._nll += _nll(logs_TV, ids)
            at += len(ids)
            if step is not None:
                step(at, self._rows)

    def compare(self, ops: Ops, config: Llama4Config, weights: Model, step: Step | None = None) -> Comparison:
        """Run the target model and compare it with the record. Call `record` first."""
        at, nll, same = 0, 0.0, 0
        kl: list[npt.NDArray[np.float64]] = []
        for ids, out_TV in logits(ops, config, weights, self.texts):
            q_TV, p_TV = log_softmax(out_TV), self._logs[at : at + len(ids)].astype(np.float64)
            kl.append((np.exp(p_TV) * (p_TV - q_TV)).sum(axis=1))
            same += int((p_TV.argmax(axis=1) == q_TV.argmax(axis=1)).sum())
            nll += _nll(q_TV, ids)
            at += len(ids)
            if step is not None:
                step(at, self._rows)
        scored = self._rows - len(self.texts)
        kl_T = np.concatenate(kl)
        return Comparison(
            float(kl_T.mean()),
            float(kl_T.max()),
            same / self._rows,
            float(np.exp(self._nll / scored)),
            float(np.exp(nll / scored)),
            self._rows,
        )


def _allocate(file: Any, size: int) -> None:
    """Take the disk's blocks now: a hole that is first written through a map ends the process on a full disk."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, 1 << 20):
        file.write(bytes(min(1 << 20, size - start)))
    file.flush()


def _nll(logs_TV: npt.NDArray[np.float64], ids: Sequence[int]) -> float:
    """Negative log-likelihood of each token but the first, given those before it, summed."""
    return -float(logs_TV[np.arange(len(ids) - 1), np.asarray(ids[1:])].sum())
