"""`herd bench`: sweeps of prompt lengths, decoding, sequences and depths for one model, beside this machine's limits.

Random tokens, no sampler, no text: the model and its cache alone, through the same runner as everything else. Each
figure is the median of its repeats. What it is not: a comparison with another engine (benchmarks/peer.py).
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from herd.cache import Lease
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.strip_pieces import native_pack
from herd.engine.runner import Chunk, Runner
from herd.errors import UsageError, fail
from herd.machine.memory import available_bytes
from herd.machine.probe import MachineRates, rates
from herd.model import place_weights
from herd.planning import work
from herd.planning.memory import check_fits
from herd.store import stored
from herd.store.auto_pack import packed_for

PIECE = 512
SHORT = 16
"""Tokens in a sequence before a batch of them decodes."""
TOKENS = 16
"""Tokens decoded in a repeat."""
KV = "bf16"


@dataclass(frozen=True)
class Sweeps:
    """What is measured."""

    prompts: Sequence[int] = (128, 512, 2048)
    batches: Sequence[int] = (1, 8, 32)
    depths: Sequence[int] = (4096,)
    repeats: int = 3

    def clipped(self, context: int) -> "Sweeps":
        """The sweeps as a model's context holds them: what is longer becomes as long as that, once. Raises UsageError
        for a context in which nothing can be measured."""
        if context < SHORT + TOKENS:
            fail(UsageError, "context of the model", got=context, expected=f"{SHORT + TOKENS} tokens or more")
        prompts = tuple(dict.fromkeys(min(n, context) for n in self.prompts))
        depths = tuple(dict.fromkeys(min(n, context - TOKENS) for n in self.depths))
        return replace(self, prompts=prompts, depths=depths)


@dataclass(frozen=True)
class Figure:
    """One line: tokens a second, and the bytes and operations that they took, as shares of the limits."""

    test: str
    """prefill, decode, or decode at a depth."""
    tokens: int
    sequences: int
    depth: int
    tokens_s: float
    bytes_s: float
    """Weights, keys and values that had to be read."""
    ops_s: float
    share_of_read: float
    share_of_int8: float | None
    """Share of the integer peak: operations of weights and of attention alike."""


@dataclass(frozen=True)
class Loaded:
    """The model under test."""

    name: str
    size_bytes: int
    load_s: float
    limits: MachineRates
    notes: tuple[str, ...] = ()
    """Which sweeps were clipped."""


def bench(model: str | Path, sweeps: Sweeps, threads: int, *, pack: bool = True) -> Iterator[Loaded | Figure]:
    """First what was loaded, then each figure as it is measured.

    Sweeps are clipped to what the model's context holds, which `Loaded` tells. Raises what opening a model raises,
    DoesNotFit before anything is packed or loaded.
    """
    from herd.ops.native import NativeOps

    checkpoint = open_checkpoint(stored.resolve(model))
    try:
        c = checkpoint.config
        asked, sweeps = sweeps, sweeps.clipped(c.max_context)
        longest = max([*sweeps.prompts, *(d + max(PIECE, TOKENS) for d in sweeps.depths), SHORT + TOKENS])
        room = longest * max(1, len(sweeps.depths)) + (SHORT + TOKENS + 256) * max(sweeps.batches)
        available = available_bytes()
        if available is not None:
            check_fits(str(model), c, checkpoint.size_bytes, room, available, KV, PIECE, max(sweeps.batches))
        began_s = time.monotonic()
        ops = NativeOps(threads=threads)
        checkpoint = packed_for(checkpoint, pack=pack and native_pack() is not None, threads=ops.threads)
        weights = place_weights(ops, checkpoint.load())
        runner = Runner(
            c,
            weights,
            ops,
            context=room,
            kv_dtype=KV,
            piece=PIECE,
            sequences=max(sweeps.batches),
            check=checkpoint.check_readable,
        )
        load_s = time.monotonic() - began_s
        here = rates(threads)
        yield Loaded(str(model), checkpoint.size_bytes, load_s, here, _clippings(asked, sweeps, c.max_context))
        yield from _Run(runner, here, sweeps).figures()
    finally:
        checkpoint.close()


def _clippings(asked: Sweeps, made: Sweeps, context: int) -> tuple[str, ...]:
    pairs = (("prompts", asked.prompts, made.prompts), ("depths", asked.depths, made.depths))
    return tuple(
        f"{name} {', '.join(map(str, new))} instead of {', '.join(map(str, old))}: the context holds {context} tokens"
        for name, old, new in pairs
        if tuple(old) != new
    )


class _Run:
    def __init__(self, runner: Runner, here: MachineRates, sweeps: Sweeps) -> None:
        self.runner, self.here, self.sweeps = runner, here, sweeps
        self.rng = np.random.default_rng(1)

    def figures(self) -> Iterator[Figure]:
        """Measure prompts, then sequences that decode together, then depths."""
        self._prefill(SHORT)  # threads, pages of files
        for n in self.sweeps.prompts:
            yield self._figure("prefill", n, 1, 0, self._prefill(n))
        for n in self.sweeps.batches:
            yield self._figure("decode", TOKENS, n, SHORT, self._decode(n, SHORT))
        for depth in self.sweeps.depths:
            yield self._figure("decode", TOKENS, 1, depth, self._decode(1, depth))

    def _ids(self, n: int) -> list[int]:
        return [int(x) for x in self.rng.integers(0, self.runner.vocab_size, n)]

    def _feed(self, lease: Lease, n: int) -> None:
        for a in range(0, n, PIECE):
            self.runner.run([Chunk(lease, self._ids(min(PIECE, n - a)))])

    def _prefill(self, n: int) -> float:
        def once() -> float:
            lease = self.runner.lease()
            start = time.perf_counter()
            self._feed(lease, n)
            seconds = time.perf_counter() - start
            self.runner.drop(lease)
            return seconds

        return self._median(once)

    def _decode(self, sequences: int, depth: int) -> float:
        """Each repeat begins at this depth, the one before taken back."""
        leases = [self.runner.lease() for _ in range(sequences)]
        for lease in leases:
            self._feed(lease, depth)

        def once() -> float:
            start = time.perf_counter()
            for _ in range(TOKENS):
                ids = self._ids(sequences)
                self.runner.run([Chunk(lease, [t]) for lease, t in zip(leases, ids, strict=True)])
            seconds = time.perf_counter() - start
            for lease in leases:
                self._feed(lease, depth - self.runner.rollback(lease, depth))  # past a chunk's edge it starts anew
            return seconds

        seconds = self._median(once)
        for lease in leases:
            self.runner.drop(lease)
        return seconds

    def _median(self, once: Callable[[], float]) -> float:
        return statistics.median(once() for _ in range(self.sweeps.repeats))

    def _figure(self, test: str, tokens: int, sequences: int, depth: int, seconds: float) -> Figure:
        c, w = self.runner.config, self.runner.weights
        if test == "prefill":
            passes = [min(PIECE, tokens - a) for a in range(0, tokens, PIECE)]
            read = sum(work.token_bytes(c, w, n) for n in passes)
            ops = work.token_ops(c, w, tokens, len(passes)) + work.attention_ops(c, 0, tokens)
        else:
            middle = depth + TOKENS // 2
            read = tokens * (work.token_bytes(c, w, sequences) + sequences * work.kv_bytes(c, middle, KV))
            each = work.token_ops(c, w, sequences, sequences) + sequences * work.attention_ops(c, middle, 1)
            ops = tokens * each
        int8 = self.here.int8_ops_s
        return Figure(
            test,
            tokens,
            sequences,
            depth,
            tokens * sequences / seconds,
            read / seconds,
            ops / seconds,
            read / seconds / self.here.read_bytes_s,
            None if int8 is None else ops / seconds / int8,
        )
