"""Be the process that computes: what a child of `engine.child.Child` does from its first message to its last.

stdin    messages, until the parent is gone: then this process leaves at once, even in the middle of a pass
stdout   answers and events; whatever else prints is sent to stderr instead
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from herd.cache import Lease
from herd.engine.orders import Ended, Event, Order
from herd.engine.runner import Logits, ModelRunner, Piece
from herd.engine.wire import (
    Alone,
    Cancel,
    Channel,
    Down,
    Drop,
    Failed,
    Held,
    Progress,
    Ran,
    Ready,
    Routed,
    Run,
)
from herd.engine.worker import Worker
from herd.errors import herd_error

Report = Callable[[str, int, int], None]
"""Told how far loading is: stage, done, total (bytes, or 0 when unknown)."""
Loader = Callable[[bytes, Report], tuple[ModelRunner, dict[str, Any]]]
"""What was sent as setup -> the runner, and the Worker's arguments."""


def serve(load: Loader) -> None:
    """Be the child: everything that a process does that `Child` has started. Returns never but by leaving."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not speak between the frames
    channel = Channel(source, target, Down)
    began_s = time.monotonic()
    try:
        setup = channel.receive()
        runner, arguments = load(setup.data, lambda stage, done, total: channel.send(Progress(stage, done, total)))
    except EOFError:
        _leave(0)
    except BaseException as error:
        channel.send(Failed(herd_error(error)))
        _leave(1)
    worker = Worker(runner, **arguments)
    worker.connect(lambda events: _tell(channel, events))
    ready = Ready(
        runner.vocab_size, runner.context, runner.patch_id, runner.tokens_per_tile, time.monotonic() - began_s
    )
    channel.send(ready)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    _Server(channel, worker).loop(inbox)


def _leave(status: int) -> None:
    """At once, whatever other threads compute: nothing here is worth a clean end."""
    os._exit(status)


def _listen(channel: Channel, inbox: "queue.SimpleQueue[Any]") -> None:
    """Read on, so that the end of the parent is seen even during a pass."""
    try:
        while True:
            inbox.put(channel.receive())
    except (EOFError, OSError):
        _leave(0)


def _tell(channel: Channel, events: Sequence[Event]) -> None:
    try:
        channel.send(*events)
    except OSError:
        _leave(0)


class _Server:
    """Messages -> the worker."""

    def __init__(self, channel: Channel, worker: Worker) -> None:
        self._channel, self._worker = channel, worker
        self._alone = ExitStack()
        self._leases: dict[int, Lease] = {}
        # grammars are compiled one after another beside the loop: up to a second each, and nobody else waits for it
        self._compiling = ThreadPoolExecutor(1, "herd-grammars")
        self._lock = threading.Lock()
        self._early: set[int] = set()
        """Numbers of orders whose grammar is being compiled."""
        self._cancelled: set[int] = set()
        """Those of them that are no longer wanted."""

    def loop(self, inbox: "queue.SimpleQueue[Any]") -> None:
        """For ever."""
        while True:
            message = inbox.get()
            try:
                self._do(message)
            except Exception as error:
                self._channel.send(Failed(herd_error(error)))

    def _do(self, message: Any) -> None:
        match message:
            case Order():
                if message.options.grammar is None:
                    self._start(message)
                else:
                    with self._lock:
                        self._early.update(message.numbers)
                    self._compiling.submit(self._start, message)
            case Cancel(number):
                self._cancel(number)
            case Alone(True):
                self._alone.enter_context(self._worker.alone())
                self._channel.send(Held())
            case Alone(False):
                for lease in self._leases.values():
                    self._worker.runner.room.drop(lease)
                self._leases.clear()
                self._alone.close()
            case Drop(handle):
                found = self._leases.pop(handle, None)
                if found is not None:
                    self._worker.runner.room.drop(found)
            case Run(pieces, states):
                self._channel.send(Ran(self._run(pieces, states)))

    def _start(self, order: Order) -> None:
        routing = _Routes(self._channel, order.number) if order.traced else None
        try:
            self._worker.start(order, routing)
        except Exception as error:
            self._channel.send(*(Ended(number, herd_error(error)) for number in order.numbers))
        with self._lock:
            late = self._cancelled.intersection(order.numbers)
            self._early.difference_update(order.numbers)
            self._cancelled -= late
        for number in late:
            self._worker.cancel(number)

    def _cancel(self, number: int) -> None:
        with self._lock:
            if number in self._early:
                self._cancelled.add(number)
                return
        self._worker.cancel(number)

    def _run(self, pieces: list[tuple[int, list[int], list[int] | None]], states: bool) -> Logits:
        runner = self._worker.runner
        work = []
        for handle, ids, rows in pieces:
            if handle not in self._leases:
                self._leases[handle] = runner.room.lease()
            work.append(Piece(self._leases[handle], ids, (), rows))
        return runner.states(work) if states else runner.run(work)


class _Routes:
    """A `Traced` that sends what it hears."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel, self._number = channel, number
        self._positions: list[int] = []

    def pass_over(self, positions_T: Any) -> None:
        self._positions = positions_T.tolist()

    def __call__(self, layer: int, experts_TA: Any, scores_TA: Any) -> None:
        self._channel.send(Routed(self._number, layer, self._positions, experts_TA.tolist(), scores_TA.tolist()))
