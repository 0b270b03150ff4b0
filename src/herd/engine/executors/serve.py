"""The main loop of the process that a `ChildExecutor` starts, from its first message to its last.

stdin    messages, until the parent is gone, or sends what is none: then this process leaves at once, even in the
         middle of a pass
stdout   answers and events; whatever else prints is sent to stderr instead
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from herd.engine.executors.thread import ThreadExecutor
from herd.engine.executors.wire import (
    AddAdapter,
    BadFrame,
    Cancel,
    Channel,
    Done,
    Down,
    DropAdapter,
    Failed,
    Loading,
    NewWeights,
    Progressed,
    Ready,
    Routed,
)
from herd.engine.messages import EndedEvent, Event, is_last
from herd.engine.request import Request
from herd.engine.runner import ModelRunner
from herd.errors import UsageError, fail, herd_error
from herd.ops.contract import LowRank
from herd.progress import Progress

COUNT_S = 1.0
"""The longest that what has been done stays untold while sequences go on."""
Loader = Callable[[bytes, Progress], tuple[ModelRunner, dict[str, Any]]]
"""(setup bytes, progress) -> the runner, and the ThreadExecutor's arguments."""


def serve(load: Loader) -> None:
    """Run as the child process: load the model, then serve messages until the parent is gone. Never returns."""
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not speak between the frames
    channel = Channel(source, target, Down)
    began_s = time.monotonic()
    try:
        setup = channel.receive()
        runner, arguments = load(setup.data, lambda stage, done, total: channel.send(Loading(stage, done, total)))
    except EOFError:
        _leave(0)
    except BaseException as error:
        channel.send(Failed(herd_error(error)))
        _leave(1)
    executor = ThreadExecutor(runner, **arguments)

    counting = _Counting(executor)

    def tell(events: Sequence[Event]) -> None:
        _tell(channel, *counting.news(events), *events)
        if executor.over is not None:
            _leave(1)  # a mistake of ours ended its thread: whoever started this process starts it anew

    executor.connect(tell)
    ready = Ready(
        runner.vocab_size, runner.context, runner.patch_id, runner.tokens_per_tile, time.monotonic() - began_s
    )
    channel.send(ready)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    _Server(channel, executor).loop(inbox)


def _leave(status: int) -> None:
    """End the process at once, whatever other threads compute: nothing here needs a clean end."""
    os._exit(status)


def _listen(channel: Channel, inbox: "queue.SimpleQueue[Any]") -> None:
    """Keep reading messages into the inbox, so that the end of the parent is seen even during a pass."""
    try:
        while True:
            inbox.put(channel.receive())
    except BadFrame as error:
        _complain(f"what was sent cannot be read: {error}")
        _leave(1)
    except (EOFError, OSError):
        _leave(0)


def _complain(line: str) -> None:
    with suppress(OSError):
        print(f"herd: the engine's process: {line}", file=sys.stderr, flush=True)


def _tell(channel: Channel, *messages: Any) -> None:
    try:
        channel.send(*messages)
    except OSError:
        _leave(0)


class _Counting:
    """Sends counters before the end of each sequence, and once in a while: not with each step."""

    def __init__(self, executor: ThreadExecutor) -> None:
        self._executor, self._told_s = executor, time.monotonic()

    def news(self, events: Sequence[Event]) -> Sequence[Progressed]:
        """The counters to send before these events, or nothing."""
        now_s = time.monotonic()
        if now_s - self._told_s < COUNT_S and not any(map(is_last, events)):
            return ()
        self._told_s = now_s
        return (Progressed(self._executor.counters),)


class _Server:
    """Carries out the messages of the parent on the executor."""

    def __init__(self, channel: Channel, executor: ThreadExecutor) -> None:
        self._channel, self._executor = channel, executor
        # grammars are compiled one after another beside the loop: up to a second each, and nobody else waits for it
        self._compiling = ThreadPoolExecutor(1, "herd-grammars")
        # other weights and adapters are made ready beside the loop as well: seconds, in which requests go on
        self._changing = ThreadPoolExecutor(1, "herd-weights")
        self._lock = threading.Lock()
        self._early: set[int] = set()
        """Numbers of requests whose grammar is being compiled."""
        self._cancelled: set[int] = set()
        """Numbers of those of them that are no longer wanted."""

    def loop(self, inbox: "queue.SimpleQueue[Any]") -> None:
        """Carry out messages for ever."""
        while True:
            message = inbox.get()
            try:
                self._do(message)
            except Exception as error:
                _complain(f"{type(message).__name__}: {herd_error(error)}")

    def _do(self, message: Any) -> None:
        match message:
            case Request():
                if message.options.grammar is None:
                    self._start(message)
                else:
                    with self._lock:
                        self._early.update(message.numbers)
                    self._compiling.submit(self._start, message)
            case Cancel(number):
                self._cancel(number)
            case NewWeights(path):
                self._changing.submit(self._change, lambda: self._executor.update_weights(path))
            case AddAdapter(name, pairs):
                tensors = {weight: LowRank(*pair) for weight, pair in pairs.items()}
                self._changing.submit(self._change, lambda: self._executor.add_adapter(name, tensors))
            case DropAdapter(name):
                self._changing.submit(self._change, lambda: self._executor.drop_adapter(name))
            case _:
                fail(UsageError, "a message", got=type(message).__name__, expected="one that asks for something")

    def _start(self, request: Request) -> None:
        routing = _Routes(self._channel, request.number) if request.traced else None
        try:
            self._executor.submit(request, routing)
        except BaseException as error:  # also a library's that is no Exception: somebody waits for the answer
            _tell(self._channel, *(EndedEvent(number, herd_error(error)) for number in request.numbers))
        with self._lock:
            late = self._cancelled.intersection(request.numbers)
            self._early.difference_update(request.numbers)
            self._cancelled -= late
        for number in late:
            self._executor.cancel(number)

    def _change(self, change: Callable[[], None]) -> None:
        try:
            change()
        except BaseException as error:  # somebody waits for an answer
            _tell(self._channel, Failed(herd_error(error)))
        else:
            _tell(self._channel, Done())

    def _cancel(self, number: int) -> None:
        with self._lock:
            if number in self._early:
                self._cancelled.add(number)
                return
        self._executor.cancel(number)


class _Routes:
    """A `RoutingTrace` that sends the experts it is given to the parent."""

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel, self._number = channel, number
        self._positions: list[int] = []

    def pass_over(self, positions_T: Any) -> None:
        self._positions = positions_T.tolist()

    def __call__(self, layer: int, experts_TA: Any, scores_TA: Any) -> None:
        self._channel.send(Routed(self._number, layer, self._positions, experts_TA.tolist(), scores_TA.tolist()))
