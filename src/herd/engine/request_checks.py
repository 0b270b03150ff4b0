"""Checks of a request against a model: where it enters the engine, and again where it enters the core.

The first check is for whoever asks, and names what is wrong. The second one is for the core: whatever came past the
first costs its own request alone, since nothing that a schedule or a pass works with can be of another type or reach.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from herd.engine.adapters import check_name
from herd.engine.request import TOKENS, Request, SamplingOptions, Want
from herd.errors import UsageError, fail
from herd.value_checks import flag, number, text, token_ids, too_long, whole

MAX_PRIORITY = 1 << 31
MAX_TIMEOUT_S = 1e9
MAX_NUMBER = (1 << 63) - 1
MAX_DRAW = (1 << 64) - 1
"""The largest seed in use: sample i of a prompt draws with seed + i."""
MOST_SAMPLES = 128


class ModelLimits(Protocol):
    """The limits and special ids of a model (of a ModelRunner or an Executor)."""

    vocab_size: int
    context: int
    patch_id: int | None
    tokens_per_tile: int


@dataclass(frozen=True)
class RequestChecker:
    """Checks requests by what ids mean to one model.

    num_tokens: ids below it are tokens; rows of the embedding from there on only pad it. patch_id: stands for a row of
    an image: it is allowed in a prompt beside its image only, and never in an answer; None: a model without images.
    """

    num_rows: int
    num_tokens: int
    context: int
    patch_id: int | None
    tokens_per_tile: int

    @classmethod
    def of(cls, model: ModelLimits, num_tokens: int | None = None) -> "RequestChecker":
        """The checker for a runner or executor. num_tokens: size of the tokenizer's vocabulary; None: as many as
        rows."""
        rows = model.vocab_size
        return cls(rows, min(rows, num_tokens or rows), model.context, model.patch_id, model.tokens_per_tile)

    def barred(self) -> npt.NDArray[np.int64]:
        """Ids that no answer may hold, ascending: the patch id, and rows that only pad the embedding."""
        padding = np.arange(self.num_tokens, self.num_rows)
        patch = self.patch_id
        return padding if patch is None or patch >= self.num_tokens else np.array([patch, *padding], np.int64)

    def check(self, asked: Request) -> list[int]:
        """Check a request; returns the ids of its prompt as plain integers. Raises UsageError naming what is wrong."""
        ids = token_ids("prompt", asked.ids, self.num_tokens)
        if not ids:
            fail(UsageError, "prompt", got="no tokens", expected="at least one")
        if not isinstance(asked.options, SamplingOptions):
            fail(UsageError, "options", got=type(asked.options).__name__, expected="SamplingOptions")
        asked.options.check()  # its map may have been written to since
        asked.options.fits(self.num_tokens)
        check_whose(asked.client, asked.priority, asked.timeout_s)
        whole("seed", asked.seed, 0, MAX_DRAW)
        if not isinstance(asked.salt, bytes):
            fail(UsageError, "salt", got=type(asked.salt).__name__, expected="bytes")
        if asked.adapter is not None:
            check_name(asked.adapter)
        flag("progress", asked.progress)
        self._check_images(ids, _num_tiles(asked.pixels_I3SS))
        _check_want(asked, len(ids))
        for other in self.others(asked):
            self._check_images(other, 0)
        return ids

    def begun(self, asked: Request) -> tuple[int, ...]:
        """The ids that an answer goes on with, as plain integers. Raises UsageError for what is none."""
        return tuple(token_ids("begun", asked.begun, self.num_tokens))

    def others(self, asked: Request) -> tuple[tuple[int, ...], ...]:
        """Other continuations that are scored, as plain integers. Raises UsageError for what is none."""
        return tuple(tuple(token_ids("want.others", other, self.num_tokens)) for other in asked.want.others)

    def check_context(self, ids: Sequence[int], options: SamplingOptions, want: Want = TOKENS) -> None:
        """Raise ContextTooLong for a prompt, or one with another continuation, UsageError for a max_tokens, that is
        longer than the context."""
        longest = max([len(ids), *(want.start + len(other) for other in want.others)])
        if longest > self.context:
            too_long(f"the prompt has {longest} tokens, the context holds {self.context}")
        if options.max_tokens is not None and options.max_tokens > self.context:
            fail(UsageError, "max_tokens", got=options.max_tokens, expected=f"at most the context, {self.context}")

    def check_whole(self, request: Request) -> None:
        """`check`, and the fields that the front adds before a request crosses to the core."""
        self.check(request)
        if not isinstance(request.samples, tuple) or any(
            not isinstance(pair, tuple) or len(pair) != 2 for pair in request.samples
        ):
            fail(UsageError, "samples", got=request.samples, expected="pairs of number and seed")
        for n in request.numbers:
            whole("number", n, 0, MAX_NUMBER)
        for _, seed in request.samples:
            whole("seed", seed, 0, MAX_DRAW)
        if len(set(request.numbers)) != len(request.numbers) or len(request.numbers) > MOST_SAMPLES:
            fail(
                UsageError, "samples", got=f"{len(request.numbers)} numbers", expected=f"1 to {MOST_SAMPLES}, distinct"
            )
        if request.want.what != "tokens" and (request.samples or request.traced):
            fail(UsageError, "want", got=f"{request.want.what}, with samples or a trace", expected="neither")
        token_ids("end_ids", request.end_ids, self.num_rows)
        wanted = _num_tiles(request.pixels_I3SS)
        if len(request.digests) != wanted or any(not isinstance(x, bytes) for x in request.digests):
            fail(UsageError, "digests", got=len(request.digests), expected=f"one for each of {wanted} tiles, bytes")

    def _check_images(self, ids: Sequence[int], num_tiles: int) -> None:
        """Raise UsageError unless the prompt has exactly the patch ids of its images."""
        if num_tiles and self.patch_id is None:
            fail(UsageError, "an image was given to a text model", do="choose a model with vision")
        rows = 0 if self.patch_id is None else sum(i == self.patch_id for i in ids)
        size = self.tokens_per_tile
        if rows != num_tiles * size:
            fail(UsageError, "image tokens in the prompt", got=rows, expected=f"{size} for each of {num_tiles} tiles")


def check_whose(client: object, priority: object, timeout_s: object) -> None:
    """Raise UsageError unless client, priority and time-out are values that a queue can work with."""
    text("client", client)
    whole("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
    if timeout_s is not None:
        number("timeout_s", timeout_s, 0.0, MAX_TIMEOUT_S)


def _check_want(asked: Request, num_ids: int) -> None:
    """Raise UsageError for a measurement that this prompt cannot give."""
    want = asked.want
    if not isinstance(want, Want):
        fail(UsageError, "want", got=type(want).__name__, expected="a Want")
    want.check()
    if want.what == "tokens":
        return
    if asked.progress:
        fail(UsageError, "progress", got=f"it with {want.what}", expected="a request for tokens")
    if _num_tiles(asked.pixels_I3SS) or asked.options.grammar is not None:
        fail(UsageError, "want", got=f"{want.what}, with images or a grammar", expected="ids of text alone")
    if want.what == "logprobs" and want.start >= num_ids:
        fail(UsageError, "want.start", got=want.start, expected=f"a place in the prompt, 1 to {num_ids - 1}")


def _num_tiles(pixels_I3SS: Any) -> int:
    if pixels_I3SS is None:
        return 0
    if not isinstance(pixels_I3SS, np.ndarray) or pixels_I3SS.ndim != 4 or pixels_I3SS.dtype.kind != "f":
        got = getattr(pixels_I3SS, "shape", type(pixels_I3SS).__name__)
        fail(UsageError, "pixels", got=got, expected="tiles [I, 3, S, S] of floating-point numbers")
    return len(pixels_I3SS)
