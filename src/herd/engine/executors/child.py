"""A core in a process of its own: what crashes, or is killed, there ends requests with an error here, and no more.

    here   ChildExecutor   starts the process, sends requests, delivers what comes back
    there  serve           loads a runner, and runs a ThreadExecutor for it until its input ends

The process is started anew (never forked: a fork has the threads' locks and not the threads) with pipes for input and
output. Each side ends when the other does: the child's input ends with its parent, whatever it died of, and the child
leaves at once; the child's output ends with the child, and every stream ends with EngineDied. A side that reads what is
no message ends the child as well. What is printed there goes to its stderr, which is ours. What it is not: a network
protocol.
"""

import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from herd.engine.adapters import check_name, copied
from herd.engine.executors.executor import Deliver, Executor
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
    Setup,
    Up,
)
from herd.engine.forks import OwnerProcess
from herd.engine.messages import EndedEvent, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent, is_last
from herd.engine.request import Request
from herd.engine.trace import RoutingTrace
from herd.errors import EngineDied, HerdError, UsageError, fail, herd_error
from herd.events import Counters
from herd.ops.contract import LowRank
from herd.progress import Progress, silent

CLOSE_S = 5.0
"""How long a child may take to leave before it is killed."""


class ChildExecutor(Executor):
    """A core behind pipes, in another process.

    command: starts a process that calls `serve.serve`. setup: what it is to load. progress: told how far loading is.
    Waits until the model is loaded; raises what loading raised there, with the same class, or EngineDied.
    """

    remote = True

    def __init__(self, command: Sequence[str], setup: bytes, *, progress: Progress = silent) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
        self._home = OwnerProcess()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin, Up)
        self._deliver: Deliver = lambda events: None
        self._adapters: tuple[str, ...] = ()
        self._counters = Counters()
        self._live: set[int] = set()
        self._routes: dict[int, RoutingTrace] = {}
        self._lock = threading.Lock()
        self._over: HerdError | None = None
        self._changing = threading.Lock()
        self._asked: deque[queue.SimpleQueue[Done | Failed]] = deque()
        """Threads that wait for an answer, in the order in which they asked."""
        try:
            ready = self._load(setup, progress)
        except BaseException:
            self.close()
            raise
        self.vocab_size, self.context = ready.vocab_size, ready.context
        self.patch_id, self.tokens_per_tile = ready.patch_id, ready.tokens_per_tile
        self.load_s = ready.load_s
        self._reader = threading.Thread(target=self._read, name="herd-child", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def connect(self, deliver: Deliver) -> None:
        """See Executor."""
        self._deliver = deliver

    def submit(self, request: Request, routing: RoutingTrace | None = None) -> None:
        """See Executor."""
        self._home.check()
        with self._lock:
            if self._over is not None:
                raise self._over
            self._live.update(request.numbers)
            if routing is not None:
                self._routes[request.number] = routing
        try:
            self._send(request)
        except BaseException:
            for number in request.numbers:
                self._forget(number)
            raise

    def cancel(self, number: int) -> None:
        """See Executor."""
        if self._over is None and self._home.is_here:
            with suppress(EngineDied):  # then it has ended
                self._send(Cancel(number))

    def update_weights(self, weights: Any, check: Callable[[], None] | None = None) -> None:
        """See Executor. The path is of a file or folder that the process can read."""
        self._home.check()
        if not isinstance(weights, str | Path):
            expected = "the path of a checkpoint: arrays do not cross to another process"
            fail(UsageError, "new weights", got=type(weights).__name__, expected=expected)
        with self._changing:
            self._ask(NewWeights(str(weights)))

    def add_adapter(self, name: str, tensors: Mapping[str, LowRank]) -> None:
        """See Executor. Its arrays cross to the process."""
        self._home.check()
        pairs = {weight: (pair.down, pair.up, pair.scale) for weight, pair in copied(name, tensors).items()}
        with self._changing:
            self._ask(AddAdapter(name, pairs))
            self._adapters = tuple(dict.fromkeys((*self._adapters, name)))

    def drop_adapter(self, name: str) -> None:
        """See Executor."""
        self._home.check()
        check_name(name)
        with self._changing:
            self._ask(DropAdapter(name))
            self._adapters = tuple(other for other in self._adapters if other != name)

    @property
    def adapters(self) -> Sequence[str]:
        """See Executor."""
        return self._adapters

    @property
    def counters(self) -> Counters:
        """See Executor."""
        return self._counters

    @property
    def over(self) -> HerdError | None:
        """See Executor."""
        return self._over

    def close(self) -> None:
        """See Executor. In a fork there is nothing to end: the process is another one's."""
        if not self._home.is_here:
            return
        with self._lock:
            self._over = self._over or EngineDied("the model was closed while this request was under way")
        if not self._channel.close(CLOSE_S):
            self._process.kill()  # it does not read: whoever waits to write to it hears that it is gone
            self._channel.close(CLOSE_S)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- pipes -------------------------------------------------------------------------------------------------------

    def _load(self, setup: bytes, progress: Progress) -> Ready:
        when = "while it loaded"
        self._send(Setup(setup))
        while True:
            try:
                message = self._channel.receive()
            except (EOFError, OSError) as error:
                raise self._dead(when, error) from None
            match message:
                case Loading(stage, done, total):
                    progress(stage, done, total)
                case Failed():
                    raise message.error
                case Ready():
                    return message
                case _:
                    raise self._dead(when, BadFrame(type(message).__name__))

    def _send(self, message: Down) -> None:
        """Write a message. Raises UsageError for one that cannot be written, else the error that ended the process."""
        try:
            self._channel.send(message)
        except HerdError:
            raise
        except (OSError, ValueError) as error:  # a closed pipe
            raise self._over or self._dead("before it could be asked", error) from None

    def _ask(self, message: Down) -> None:
        """Send a message that asks for a change and wait until it is made; raises what failed in the child."""
        inbox: queue.SimpleQueue[Done | Failed] = queue.SimpleQueue()
        with self._lock:
            if self._over is not None:
                raise self._over
            self._asked.append(inbox)
        try:
            self._send(message)
        except BaseException:
            with self._lock:
                self._asked.remove(inbox)  # it was not asked
            raise
        answer = inbox.get()
        if isinstance(answer, Failed):
            raise answer.error

    def _dead(self, when: str, error: Exception) -> EngineDied:
        """The error that says why the child is gone; a child that is still there is killed."""
        if isinstance(error, BadFrame):
            self._process.kill()
            return EngineDied(f"the engine's process sent what is no message {when} ({error}); load the model again")
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return EngineDied(f"the engine's process closed its pipe {when}; load the model again")
        how = f"status {status}"
        if status < 0:
            how = signal.Signals(-status).name
        return EngineDied(f"the engine's process ended ({how}) {when}; load the model again")

    def _read(self) -> None:
        """The reader thread: reads messages until the process ends."""
        try:
            while True:
                self._heard(self._channel.receive())
        except (EOFError, OSError) as error:
            dead = self._dead("while requests were under way", error)
        except Exception as error:  # a mistake of ours
            self._process.kill()
            dead = EngineDied(f"the engine's answers cannot be read: {type(error).__name__}; load the model again")
            dead.__cause__ = error
        with self._lock:
            self._over = self._over or dead
            live = sorted(self._live)
            self._live.clear()
            for inbox in self._asked:
                inbox.put(Failed(self._over))
        self._deliver([EndedEvent(number, self._over) for number in live])

    def _heard(self, message: Any) -> None:
        match message:
            case Routed():
                self._route(message)
            case Progressed(counters):
                self._counters = counters
            case Done() | Failed():
                if not self._asked:
                    raise BadFrame(f"{type(message).__name__} that nobody asked for")
                self._asked.popleft().put(message)
            case StartedEvent() | ReadEvent() | TokenEvent() | MeasuredEvent() | EndedEvent():
                if is_last(message):
                    self._forget(message.number)
                self._deliver([message])
            case _:
                raise BadFrame(f"{type(message).__name__} out of place")

    def _route(self, message: Routed) -> None:
        """Pass experts on to the trace of a request. A trace that cannot be written fails its own request."""
        routing = self._routes.get(message.number)
        if routing is None:
            return
        try:
            routing.pass_over(np.asarray(message.positions_T, np.int64))
            routing(message.layer, np.asarray(message.experts_TA), np.asarray(message.scores_TA))
        except Exception as error:
            self._forget(message.number)
            self._deliver([EndedEvent(message.number, herd_error(error))])
            with suppress(EngineDied):
                self._send(Cancel(message.number))

    def _forget(self, number: int) -> None:
        with self._lock:
            self._live.discard(number)
            self._routes.pop(number, None)
