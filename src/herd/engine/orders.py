"""What crosses between a front of the engine and its core: orders in, events out. Ids, numbers, tiles; no text.

The core may live in a thread or in another process: everything here can be sent as MessagePack (engine.wire).
"""

from typing import Literal, TypeAlias

import msgspec
import numpy as np

from herd.engine.request import TOKENS, SamplingOptions, TokenLogprob, TokenScore, Want
from herd.errors import HerdError

Reason = Literal["stop", "length", "interrupted"]


class Order(msgspec.Struct, frozen=True, tag=True, array_like=True, kw_only=True):
    """One sequence to go on with, or to measure, checked by the front."""

    number: int
    """Unique, growing: the order of arrival."""
    ids: list[int]
    options: SamplingOptions
    seed: int = 0
    end_ids: tuple[int, ...] = ()
    """Ids that end the text, beside options.stop_ids."""
    client: str = ""
    priority: int = 0
    timeout_s: float | None = None
    """From the moment that the core takes it."""
    salt: bytes = b""
    pixels_I3SS: np.ndarray | None = None
    """Tiles of its images, float32."""
    digests: tuple[bytes, ...] = ()
    """One a tile: what a cached position of an image is known by."""
    adapter: str | None = None
    """Name of the adapter that it is computed with."""
    traced: bool = False
    """Its experts are wanted; the whole prompt is computed anew for it, in passes of its own."""
    samples: tuple[tuple[int, int], ...] = ()
    """(number, seed) of further sequences with the same prompt: they fork from this one after its prompt."""
    want: Want = TOKENS

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all its sequences."""
        return self.number, *(number for number, _ in self.samples)


class Began(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence is let in."""

    number: int
    cached: int
    """Positions of its prompt that were in the cache."""


class Token(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One more token."""

    number: int
    token_id: int
    reason: Reason | None
    """Set with the last one."""
    since_s: float
    """Since the core took the order."""
    prefill_s: float
    """From the first row of the prompt to the logits after its last, images included."""
    logprob: TokenLogprob | None = None


class Measured(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Numbers of a sequence that wants no tokens, in the order of its positions."""

    number: int
    reason: Reason | None
    """Set with the last ones."""
    prefill_s: float
    """From the first row to these, images included."""
    scores: tuple[TokenScore, ...] = ()
    """Of its next ids."""
    rows_RX: np.ndarray | None = None
    """float32: its state, [1, D], or logits of its next positions, [R, V]."""


class Ended(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence is over without a last token: cancelled (error is None), refused, late or failed."""

    number: int
    error: HerdError | None = None


Event: TypeAlias = Began | Token | Measured | Ended


def is_last(event: Event) -> bool:
    """Whether nothing comes of a sequence after this."""
    return isinstance(event, Ended) or (isinstance(event, Token | Measured) and event.reason is not None)
