"""What runs cores, as a front sees it: requests in, events out, and changes between two steps.

    submit, cancel                              requests, by their number
    connect                                     where events go
    update_weights, add_adapter, drop_adapter   done for whoever steps after

A `thread` of this process and a `child` process are the two there are; several processes that share one model, and
several of the same model, would be others. What it is not: text, a queue that a front sees into.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from herd.engine.messages import Event
from herd.engine.request import MAX_OTHERS, Request
from herd.engine.trace import RoutingTrace
from herd.errors import HerdError
from herd.events import Counters
from herd.ops.contract import LowRank

Deliver = Callable[[Sequence[Event]], None]


class Executor(ABC):
    """Runs cores, in this process or another. Every method may be called from any thread."""

    remote: ClassVar[bool] = False
    """Whether it computes in another process: weights then come as a path alone."""
    elsewhere: ClassVar[bool] = False
    """Whether another engine computes, which every reply names."""
    traces: ClassVar[bool] = True
    """Whether it tells which experts a request had."""
    lacks: frozenset[str] = frozenset()
    """Capabilities that its models have not (names of `herd.chat_model.Capabilities`)."""
    tells_progress: bool = True
    """Whether it tells how much of a prompt is read."""
    most_others: ClassVar[int] = MAX_OTHERS
    """The most other continuations that a request for log-probabilities may have (`Want.others`)."""

    vocab_size: int
    context: int
    patch_id: int | None
    tokens_per_tile: int

    @abstractmethod
    def connect(self, deliver: Deliver) -> None:
        """Set the receiver of events, which is called on a thread of the executor. Call this once, first of all."""

    def check(self, request: Request) -> None:
        """Raise Unsupported for what it cannot compute, before a request is queued."""
        return  # a core of Herd's can compute all that a request may ask for

    @abstractmethod
    def submit(self, request: Request, routing: RoutingTrace | None = None) -> None:
        """Queue a request; its events are delivered. Raises EngineDied, and UsageError for a grammar that does not
        compile."""

    @abstractmethod
    def cancel(self, number: int) -> None:
        """End a sequence after the pass in progress."""

    @abstractmethod
    def update_weights(self, weights: Any, check: Callable[[], None] | None = None) -> None:
        """Go on with other weights of the same model, all or none of them, from the next pass on.

        weights: a tree as `ModelRunner.ready_weights` takes it, or the path of a checkpoint that whoever computes
        opens: the one form that reaches another process. check: see there. Requests under way keep what they said; the
        rest comes of the new weights, as if all of their text so far were a prompt. Every cached page, feature of an
        image and guess is forgotten. Returns when it is done. Raises what is wrong with them (UsageError naming the
        first part that differs, what reading raises), and EngineDied: then the old ones answer as before.
        """

    @abstractmethod
    def add_adapter(self, name: str, tensors: Mapping[str, LowRank]) -> None:
        """Let requests name an adapter from the next step on. One of the same name is replaced; requests that use the
        old one keep it. tensors: see adapters.ready; they are copied.

        Raises UsageError naming what is wrong with it, DoesNotFit over a bound (`adapters.MOST`, `MOST_BYTES`), and
        EngineDied: nothing has changed then.
        """

    @abstractmethod
    def drop_adapter(self, name: str) -> None:
        """Remove an adapter: no new request may name it, those that use it keep it. Raises NotFound, EngineDied."""

    @property
    @abstractmethod
    def adapters(self) -> Sequence[str]:
        """Names of the adapters that requests may use now."""

    @property
    @abstractmethod
    def counters(self) -> Counters:
        """Counts of what the cores have done, up to the last sequence that has ended or later. Cheap."""

    @property
    @abstractmethod
    def over(self) -> HerdError | None:
        """The error that says why it takes no more requests; None while it does."""

    @abstractmethod
    def close(self) -> None:
        """End everything; requests under way fail with EngineDied."""
