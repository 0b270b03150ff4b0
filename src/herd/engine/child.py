"""A core in a process of its own: what crashes, or is killed, there ends requests with an error here, and no more.

    here   Child          a Backend: starts the process, sends orders, delivers what comes back
    there  engine.serve   loads a runner, and runs a Worker for it until its input ends

The process is started anew (never forked: a fork has the threads' locks and not the threads) with pipes for input and
output. Each side ends when the other does: the child's input ends with its parent, whatever it died of, and the child
leaves at once; the child's output ends with the child, and every stream ends with EngineDied. What is printed there
goes to its stderr, which is ours. What it is not: a network protocol.
"""

import queue
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from herd.cache import Lease
from herd.engine.orders import Ended, Order, Token
from herd.engine.runner import Logits, Piece, Scorer
from herd.engine.trace import Traced
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
    Setup,
    Up,
)
from herd.engine.worker import Backend, Deliver
from herd.errors import EngineDied, HerdError

CLOSE_S = 5.0
"""How long a child may take to leave before it is killed."""
Report = Callable[[str, int, int], None]
"""Told how far loading is: stage, done, total (bytes, or 0 when unknown)."""


class Child(Backend):
    """A core behind pipes.

    command: starts a process that calls `engine.serve.serve`. setup: what it is to load. report: hears of progress.
    Waits until the model is loaded; raises what loading raised there, with the same class, or EngineDied.
    """

    def __init__(self, command: Sequence[str], setup: bytes, *, report: Report | None = None) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._channel = Channel(self._process.stdout, self._process.stdin, Up)
        self._deliver: Deliver = lambda events: None
        self._live: set[int] = set()
        self._routes: dict[int, Traced] = {}
        self._lock = threading.Lock()
        self._over: HerdError | None = None
        self._single = threading.RLock()
        self._answers: queue.SimpleQueue[Held | Ran | Failed] = queue.SimpleQueue()
        try:
            ready = self._load(setup, report)
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
        """Of the process."""
        return self._process.pid

    def connect(self, deliver: Deliver) -> None:
        """See Backend."""
        self._deliver = deliver

    def start(self, order: Order, routing: Traced | None = None) -> None:
        """See Backend."""
        with self._lock:
            if self._over is not None:
                raise self._over
            self._live.update(order.numbers)
            if routing is not None:
                self._routes[order.number] = routing
        self._send(order)

    def cancel(self, number: int) -> None:
        """See Backend."""
        if self._over is None:
            with suppress(EngineDied):  # then it has ended
                self._send(Cancel(number))

    @contextmanager
    def alone(self) -> Iterator[Scorer]:
        """See Backend."""
        with self._single:
            self._ask(Alone(True))
            try:
                yield _Remote(self)
            finally:
                if self._over is None:
                    self._send(Alone(False))

    @property
    def over(self) -> HerdError | None:
        """See Backend."""
        return self._over

    def close(self) -> None:
        """See Backend."""
        with self._lock:
            self._over = self._over or EngineDied("the model was closed while this request was under way")
        self._channel.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- pipes -------------------------------------------------------------------------------------------------------

    def _load(self, setup: bytes, report: Report | None) -> Ready:
        self._send(Setup(setup))
        while True:
            try:
                message = self._channel.receive()
            except (EOFError, OSError):
                raise self._dead("while it loaded") from None
            if isinstance(message, Progress) and report is not None:
                report(message.stage, message.done, message.total)
            elif isinstance(message, Failed):
                raise message.error
            elif isinstance(message, Ready):
                return message

    def _send(self, message: Down) -> None:
        try:
            self._channel.send(message)
        except (OSError, ValueError):  # a closed pipe
            raise self._over or self._dead("before it could be asked") from None

    def _ask(self, message: Down) -> Any:
        """Send, and wait for the answer; raises what failed there."""
        self._send(message)
        answer = self._answers.get()
        if isinstance(answer, Failed):
            raise answer.error
        return answer

    def _dead(self, when: str) -> EngineDied:
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return EngineDied(f"the engine's process closed its pipe {when}; load the model again")
        how = f"status {status}"
        if status < 0:
            how = signal.Signals(-status).name
        return EngineDied(f"the engine's process ended ({how}) {when}; load the model again")

    def _read(self) -> None:
        """The reader's thread: to the end of the process."""
        try:
            while True:
                self._heard(self._channel.receive())
        except Exception as error:
            dead = self._dead("while requests were under way")
            if not isinstance(error, EOFError | OSError):
                dead.__cause__ = error
        with self._lock:
            self._over = self._over or dead
            live = sorted(self._live)
            self._live.clear()
        self._answers.put(Failed(self._over))
        self._deliver([Ended(number, self._over) for number in live])

    def _heard(self, message: Any) -> None:
        if isinstance(message, Routed):
            routing = self._routes.get(message.number)
            if routing is not None:
                routing.pass_over(np.asarray(message.positions_T, np.int64))
                routing(message.layer, np.asarray(message.experts_TA), np.asarray(message.scores_TA))
        elif isinstance(message, Held | Ran | Failed):
            self._answers.put(message)
        else:
            if isinstance(message, Ended) or (isinstance(message, Token) and message.reason is not None):
                with self._lock:
                    self._live.discard(message.number)
                    self._routes.pop(message.number, None)
            self._deliver([message])


class _Remote:
    """The runner there, as far as measuring needs it."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.vocab_size, self.context, self.patch_id = child.vocab_size, child.context, child.patch_id
        self._handles: dict[int, tuple[int, Lease]] = {}
        self._next = 0

    def lease(self) -> Lease:
        """A name for a sequence; it is begun there with its first rows."""
        lease = Lease()
        self._handles[id(lease)] = self._next, lease
        self._next += 1
        return lease

    def drop(self, lease: Lease) -> None:
        """The sequence is over."""
        handle, _ = self._handles.pop(id(lease))
        if self._child._over is None:
            self._child._send(Drop(handle))

    def run(self, pieces: Sequence[Piece], routing: Any = None) -> Logits:
        """One pass that stands."""
        return self._run(pieces, states=False)

    def states(self, pieces: Sequence[Piece]) -> Logits:
        """See Scorer."""
        return self._run(pieces, states=True)

    def _run(self, pieces: Sequence[Piece], *, states: bool) -> Logits:
        sent = [
            (self._handles[id(p.lease)][0], [int(i) for i in p.ids], None if p.rows is None else list(p.rows))
            for p in pieces
        ]
        answer = self._child._ask(Run(sent, states))
        assert isinstance(answer, Ran)
        return answer.logits_RV
