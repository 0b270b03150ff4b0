"""A core on a thread of this process: it steps while there is work and sleeps otherwise.

What it is not: text, another process (`child`).
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from herd.engine.core import Core
from herd.engine.executors.executor import Deliver, Executor
from herd.engine.forks import OwnerProcess
from herd.engine.messages import EndedEvent, Event, is_last
from herd.engine.request import Request
from herd.engine.runner import ModelRunner
from herd.engine.trace import RoutingTrace
from herd.errors import EngineDied, HerdError, UsageError, fail, herd_error, kind_and_words
from herd.events import Counters
from herd.grammar.masks import Grammars, Matcher
from herd.ops.contract import LowRank


@dataclass(frozen=True, eq=False)
class _BetweenSteps:
    """A call that is to run between two steps."""

    call: Callable[[], None]
    done: "Future[None]" = field(default_factory=Future)

    def run(self) -> None:
        """Make the call, on the thread that steps; an error is kept for whoever waits."""
        try:
            self.call()
        except Exception as error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class ThreadExecutor(Executor):
    """A core on a thread of this process.

    piece: most rows of a pass. places: most sequences at once. most_waiting: most requests in the queue. grammars:
    compiles the grammars of requests; None: there are none. num_tokens: ids below it are tokens, see RequestChecker.
    read_weights: opens a checkpoint of the same model and returns its tree and the check that goes with it; None:
    weights come as trees alone.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        piece: int = 512,
        places: int = 8,
        most_waiting: int = 1024,
        grammars: Grammars | None = None,
        num_tokens: int | None = None,
        read_weights: Callable[[str], tuple[Any, Callable[[], None] | None]] | None = None,
    ) -> None:
        self.runner = runner
        self._read_weights = read_weights
        self._home = OwnerProcess()
        self.vocab_size, self.context = runner.vocab_size, runner.context
        self.patch_id, self.tokens_per_tile = runner.patch_id, runner.tokens_per_tile
        self._routes: dict[int, RoutingTrace] = {}
        self._grammars = grammars
        self._matchers: dict[int, Matcher] = {}
        self._core = Core(
            runner,
            budget=piece,
            places=min(places, piece),
            most_waiting=most_waiting,
            router=self._routes.get,
            num_tokens=num_tokens,
        )
        self._deliver: Deliver = lambda events: None
        self._sent: deque[Request | int | _BetweenSteps] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._between_steps: list[_BetweenSteps] = []
        """Calls between two steps that a thread waits for."""
        self._live: set[int] = set()
        self._over: HerdError | None = None

    def connect(self, deliver: Deliver) -> None:
        """See Executor."""
        self._deliver = deliver

    def submit(self, request: Request, routing: RoutingTrace | None = None) -> None:
        """See Executor. A grammar is compiled here, on the caller's thread."""
        self._home.check()
        if request.options.grammar is not None:
            if self._grammars is None:
                fail(UsageError, "grammar", got="an engine that knows no vocabulary", expected="one with `grammars`")
            self._matchers[request.number] = self._grammars.matcher(
                request.options.grammar, request.salt, request.client, request.begun
            )
        if routing is not None:
            self._routes[request.number] = routing
        self._send(request)

    def cancel(self, number: int) -> None:
        """See Executor."""
        if self._over is None and self._home.is_here:
            self._send(number)

    def update_weights(self, weights: Any, check: Callable[[], None] | None = None) -> None:
        """See Executor. Weights are read and placed on the caller's thread; requests wait only for the swap."""
        self._home.check()
        if isinstance(weights, str | Path):
            if self._read_weights is None:
                fail(UsageError, "new weights", got="a path", expected="a tree of weights")
            weights, check = self._read_weights(str(weights))
        use = self.runner.ready_weights(weights, check)
        self._between(lambda: self._core.update_weights(use))

    def add_adapter(self, name: str, tensors: Mapping[str, LowRank]) -> None:
        """See Executor. It is checked and placed on the caller's thread."""
        self._home.check()
        adapter = self.runner.ready_adapter(name, tensors)
        self._between(lambda: self._core.adapters.put(adapter))

    def drop_adapter(self, name: str) -> None:
        """See Executor."""
        self._home.check()
        self._between(lambda: self._core.adapters.drop(name))

    @property
    def adapters(self) -> Sequence[str]:
        """See Executor."""
        return self._core.adapters.names

    @property
    def counters(self) -> Counters:
        """See Executor."""
        return replace(self._core.counters)

    @property
    def over(self) -> HerdError | None:
        """See Executor."""
        return self._over

    def close(self) -> None:
        """See Executor. Returns when the pass in progress has ended. In a fork there is nothing to end."""
        if not self._home.is_here:
            return
        with self._wake:
            self._over = self._over or EngineDied("the model was closed while this request was under way")
            self._wake.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _between(self, call: Callable[[], None]) -> None:
        """Run a call between two steps, after everything that was sent before; raises what the call raises."""
        border = _BetweenSteps(call)
        with self._wake:
            self._between_steps.append(border)
        try:
            self._send(border)
            border.done.result()
        finally:
            with self._wake:
                self._between_steps.remove(border)

    def _send(self, item: "Request | int | _BetweenSteps") -> None:
        with self._wake:
            if self._over is not None:
                raise self._over
            self._sent.append(item)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="herd-engine", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    @property
    def _has_work(self) -> bool:
        return bool(self._sent) or self._core.busy

    def _loop(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:  # a mistake of ours: nobody may wait for ever
            with self._wake:
                self._over = EngineDied(f"the engine stopped: {kind_and_words(error)}")
                self._over.__cause__ = error
        with self._wake:
            self._live.update(n for x in self._sent if isinstance(x, Request) for n in x.numbers)
            for border in self._between_steps:
                if not border.done.done():
                    border.done.set_exception(self._over)
            self._wake.notify_all()
        self._deliver([EndedEvent(number, self._over) for number in sorted(self._live)])

    def _turn(self) -> bool:
        """Take new requests and make a step; False when the executor is closed."""
        with self._wake:
            while self._over is None and not self._has_work:
                self._wake.wait()
            if self._over is not None:
                return False
            requests = list(self._sent)
            self._sent.clear()
        events: list[Event] = []
        for item in requests:
            if isinstance(item, Request):
                events += self._take(item)
            elif isinstance(item, _BetweenSteps):
                item.run()
            else:
                self._core.cancel(item)
        events += self._core.step(self._tell)
        if events:
            self._tell(events)
        return True

    def _tell(self, events: Sequence[Event]) -> None:
        """Deliver events, and forget those that have ended."""
        for event in events:
            if is_last(event):
                self._live.discard(event.number)
                self._routes.pop(event.number, None)
        self._deliver(events)

    def _take(self, request: Request) -> list[Event]:
        """Give a request to the core; events of one that ends at once. An error is that request's own."""
        try:
            self._core.add(request, self._matchers.pop(request.number, None))
            self._live.update(request.numbers)
            return []
        except Exception as error:
            told = herd_error(error)
            return [EndedEvent(n, told) for n in _numbers(request) if n not in self._live]


def _numbers(request: Request) -> Sequence[int]:
    """The numbers of all sequences of a request, as far as they are integers."""
    try:
        return [n for n in request.numbers if type(n) is int]
    except Exception:
        return [request.number] if type(request.number) is int else []
