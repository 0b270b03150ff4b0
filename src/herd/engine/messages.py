"""What comes back from a core to a front of the engine: events of its sequences. Ids and numbers; no text.

What goes to it is a `Request`. The core may live in a thread or in another process: both can be sent as MessagePack.
"""

from typing import TypeAlias

import msgspec
import numpy as np

from herd.engine.request import Reason, TokenLogprob, TokenScore
from herd.errors import HerdError


class StartedEvent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence has been admitted and starts to run."""

    number: int
    cached: int
    """Positions of its prompt that were in the cache."""


class ReadEvent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Further positions of a prompt have been computed; only where its request asks for it (`Request.progress`)."""

    number: int
    read: int
    """Positions of its prompt that are in the cache now, those that were found there included."""
    prefill_s: float
    """Seconds since the first row of the prompt, images included."""


class TokenEvent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence has one more token."""

    number: int
    token_id: int
    reason: Reason | None
    """Why the answer ended; set with its last token."""
    since_s: float
    """Seconds since the core took the request."""
    prefill_s: float
    """Seconds from the first row of the prompt to the logits after its last, images included."""
    logprob: TokenLogprob | None = None


class MeasuredEvent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Results of a request that wants measurements instead of tokens, in the order of its positions."""

    number: int
    reason: Reason | None
    """Set with the last ones."""
    prefill_s: float
    """Seconds from the first row to these, images included."""
    scores: tuple[TokenScore, ...] = ()
    """The scores of its next ids."""
    rows_RX: np.ndarray | None = None
    """float32: its state, [1, D], or logits of its next positions, [R, V]."""


class EndedEvent(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence has ended without a last token: cancelled (error is None), refused, timed out or failed."""

    number: int
    error: HerdError | None = None
    reason: Reason | None = None
    """Why its answer is whole all the same, where another engine ended it and said so behind the last token."""


Event: TypeAlias = StartedEvent | ReadEvent | TokenEvent | MeasuredEvent | EndedEvent


def is_last(event: Event) -> bool:
    """Whether this event is the last one of its sequence."""
    return isinstance(event, EndedEvent) or (isinstance(event, TokenEvent | MeasuredEvent) and event.reason is not None)
