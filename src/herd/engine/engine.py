"""The front of the engine: requests -> handles -> steps with text, for any number of threads at once.

    submit   checks everything that can be wrong, so that a stream never starts with a mistake
    stream   tokens as they come -> decoder -> stop strings -> steps
    cancel   from any thread; the stream ends with "interrupted"

The core that computes (engine.core) lives behind an `Executor`, in a thread or in another process, and knows ids only.
Text and stop strings are made here, on the thread of whoever reads the stream. A request that begins with ids that were
computed before reads them from the cache; images count as the same when their tiles' bytes are the same.
"""

import hashlib
import threading
import time
import weakref
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

import msgspec
import numpy as np

from herd.engine.adapters import check_known
from herd.engine.executors.executor import Executor
from herd.engine.executors.thread import ThreadExecutor
from herd.engine.fair_queue import QueueBound
from herd.engine.forks import OwnerProcess
from herd.engine.messages import EndedEvent, Event, is_last
from herd.engine.outputs import Decoder, Inbox, OutputProcessor
from herd.engine.request import Request, Step
from herd.engine.request_checks import MOST_SAMPLES, RequestChecker
from herd.engine.runner import ModelRunner
from herd.engine.trace import RoutingLog
from herd.errors import UsageError, fail
from herd.grammar.masks import Grammars
from herd.value_checks import whole

MOST_WAITING = 1024
"""Requests that wait; one client may have half of them, see `QueueBound`."""


def _queue() -> Inbox:
    found: SimpleQueue[Event] = SimpleQueue()
    return found


@dataclass(eq=False)
class RequestHandle:
    """A submitted request: what `submit` returns, and `stream` and `cancel` take."""

    request: Request
    number: int
    reading: OutputProcessor
    """Turns its events into steps."""
    routing: RoutingLog | None = None
    """Gets the experts of every token; set before the start. The whole prompt is computed anew for it."""
    group: "list[RequestHandle]" = field(default_factory=list)
    """Samples of one prompt, this one among them; they start together."""
    digests: tuple[bytes, ...] = ()
    inbox: Inbox = field(default_factory=_queue)
    """The receiver of its events; one for all samples of a prompt."""
    cancelled: bool = False
    waits: bool = False
    """Whether it counts in the queue."""
    submitted_s: float = field(default_factory=time.monotonic)
    started_s: float | None = None


class Engine:
    """Serves requests together.

    runner: a model with its cache, which then runs on a thread of this process, or an Executor. decoder: makes a fresh
    id-to-text decoder. end_ids: ids that end a text. piece: most rows of one pass. places: most sequences at once.
    grammars: compiles the grammars of requests over the vocabulary; None: requests with a grammar are refused.
    num_tokens: ids below it are tokens of the vocabulary, see request_checks.RequestChecker. Every use in a fork of the
    process raises UsageError.
    """

    def __init__(
        self,
        runner: ModelRunner | Executor,
        decoder: Callable[[], Decoder],
        end_ids: Collection[int] = (),
        *,
        piece: int = 512,
        places: int = 8,
        most_waiting: int = MOST_WAITING,
        grammars: Grammars | None = None,
        num_tokens: int | None = None,
    ) -> None:
        assert piece > 0, piece
        self._home = OwnerProcess()
        self.executor: Executor = (
            runner
            if isinstance(runner, Executor)
            else ThreadExecutor(
                runner, piece=piece, places=places, most_waiting=most_waiting, grammars=grammars, num_tokens=num_tokens
            )
        )
        self._checker = RequestChecker.of(self.executor, num_tokens)
        self._decoder = decoder
        self._end_ids = tuple(sorted(end_ids))
        self._table = _RequestTable(most_waiting)
        self._number = 0
        self._grammars = grammars
        self.executor.connect(self._table.deliver)
        weakref.finalize(self, self.executor.close)

    @property
    def runner(self) -> ModelRunner:
        """The runner; only when the model lives in this process."""
        assert isinstance(self.executor, ThreadExecutor), "the runner is in another process"
        return self.executor.runner

    @property
    def num_under_way(self) -> int:
        """How many requests wait or are computed."""
        return len(self._table.jobs)

    # -- the verbs ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request, *, start: bool = True) -> RequestHandle:
        """Check a request and queue it (start=False: only when its stream is first read).

        Raises UsageError and ContextTooLong; nothing is ever truncated. Raises Busy when the queue is full.
        """
        return self.submit_samples(request, 1, start=start)[0]

    def submit_samples(self, request: Request, n: int, *, start: bool = True) -> list[RequestHandle]:
        """n continuations of one prompt, which is computed once; sample i draws with seed + i. See `submit`."""
        self._home.check()
        whole("samples", n, 1, MOST_SAMPLES)
        request, digests = self._check(request)
        with self._table.lock:
            self._table.gate.check(request.client)
            numbers = range(self._number, self._number + n)
            self._number += n
        jobs = [
            self._job(request if i == 0 else request.with_seed(request.seed + i), number, digests)
            for i, number in enumerate(numbers)
        ]
        for job in jobs:
            job.group, job.inbox = jobs, jobs[0].inbox
        if start:
            self.start(jobs[0])
        return jobs

    def start(self, job: RequestHandle) -> None:
        """Queue a submitted request with all samples of its group; does nothing when it has started. Raises Busy."""
        self._home.check()
        jobs = job.group
        with self._table.lock:
            if job.started_s is not None:
                return
            self._table.gate.check(job.request.client)
            self._table.gate.enter(job.request.client)
            jobs[0].waits = True
            now = time.monotonic()
            for one in jobs:
                one.started_s = now
                one.reading.waited_s = now - one.submitted_s
                self._table.jobs[one.number] = one
        try:
            self.executor.submit(self._whole(jobs), jobs[0].routing)
        except BaseException:
            for one in jobs:
                self._table.forget(one)
            raise

    def stream(self, job: RequestHandle) -> Generator[Step, None, None]:
        """The steps of a request; the last one has `finish`. Closing the iterator ends the request, Ctrl-C while it
        waits ends it with "interrupted". Raises what the request failed with: Busy, TimedOut, DoesNotFit,
        BadCheckpoint, PassFailed, EngineDied."""
        for _, step in self.streams([job]):
            yield step

    def streams(self, jobs: Sequence[RequestHandle]) -> Generator[tuple[RequestHandle, Step], None, None]:
        """The steps of samples of one prompt, as they come. See `stream`."""
        inbox = jobs[0].inbox
        assert isinstance(inbox, SimpleQueue), "their events go elsewhere"
        waiting = {job.number: job for job in jobs}
        try:
            if not jobs[0].cancelled:
                self.start(jobs[0])
            while waiting:
                self._home.check()
                event = inbox.get()
                if event.number in waiting:
                    job = waiting[event.number]
                    step = job.reading.take(EndedEvent(job.number) if job.cancelled else event)
                    if job.reading.over:
                        del waiting[job.number]
                    if step is not None:
                        yield job, step
        except KeyboardInterrupt:
            for job in waiting.values():
                yield job, job.reading.interrupted()
        finally:
            for job in jobs:
                self.leave(job)

    def leave(self, job: RequestHandle) -> None:
        """End a request that nobody reads any more, unless it has ended."""
        if not self._home.is_here:
            return  # it is the other process's
        self._table.forget(job)
        if job.started_s is not None and (not job.reading.ended or job.cancelled):
            self.executor.cancel(job.number)

    def cancel(self, job: RequestHandle) -> None:
        """End a request; its stream ends at once, the computation after the pass in progress. One that has ended stays
        as it was."""
        self._home.check()
        job.cancelled = True
        job.inbox.put(EndedEvent(job.number))  # whoever reads wakes now
        if job.started_s is not None:
            self.executor.cancel(job.number)

    def check_here(self) -> None:
        """Raise UsageError in a fork of the process that the engine was made in."""
        self._home.check()

    def check_place(self, client: str) -> None:
        """Raise Busy where a request of this client would have no place now: look before one is made."""
        with self._table.lock:
            self._table.gate.check(client)

    def close(self) -> None:
        """End every request and release the executor."""
        self.executor.close()

    # -- a request ---------------------------------------------------------------------------------------------------

    def _check(self, request: Request) -> tuple[Request, tuple[bytes, ...]]:
        """The request with plain ids, and digests of its tiles. Raises UsageError or ContextTooLong."""
        if not isinstance(request, Request):
            fail(UsageError, "request", got=type(request).__name__, expected="a Request")
        ids, begun = self._checker.check(request), self._checker.begun(request)
        want = msgspec.structs.replace(request.want, others=self._checker.others(request))
        request = msgspec.structs.replace(request, ids=ids, begun=begun, want=want)
        self._checker.check_context(request.ids, request.options, request.want)
        self.executor.check(request)
        check_known(request.adapter, self.executor.adapters)
        if request.options.grammar is not None:
            if self._grammars is None:
                fail(UsageError, "grammar", got="an engine that knows no vocabulary", expected="one with `grammars`")
            self._grammars.matcher(request.options.grammar, request.salt, request.client, request.begun)
        tiles = () if request.pixels_I3SS is None else request.pixels_I3SS
        return request, tuple(hashlib.sha256(np.ascontiguousarray(tile).tobytes()).digest() for tile in tiles)

    def _job(self, request: Request, number: int, digests: tuple[bytes, ...]) -> RequestHandle:
        return RequestHandle(request, number, OutputProcessor(request, self._decoder()), digests=digests)

    def _whole(self, jobs: Sequence[RequestHandle]) -> Request:
        """The request of these samples as it crosses to the core, with end ids, digests and number of samples."""
        first = jobs[0]
        return msgspec.structs.replace(
            first.request,
            number=first.number,
            samples=tuple((job.number, job.request.seed) for job in jobs[1:]),
            end_ids=() if first.request.options.ignore_eos else self._end_ids,
            digests=first.digests,
            traced=first.routing is not None,
        )


class _RequestTable:
    """Requests under way, and the bound of those that wait. Knows no engine, so that an engine can be collected."""

    def __init__(self, most_waiting: int) -> None:
        self.lock = threading.Lock()
        self.gate = QueueBound(most_waiting)
        self.jobs: dict[int, RequestHandle] = {}

    def deliver(self, events: Sequence[Event]) -> None:
        """Put events into their readers' inboxes; called on the executor's thread."""
        for event in events:
            job = self.jobs.get(event.number)
            if job is None:
                continue
            if job.waits:
                self._leave(job)
            if is_last(event):
                self.jobs.pop(event.number, None)
            job.inbox.put(event)

    def forget(self, job: RequestHandle) -> None:
        """Remove a request that nobody reads any more."""
        self.jobs.pop(job.number, None)
        self._leave(job)

    def _leave(self, job: RequestHandle) -> None:
        with self.lock:
            if job.waits:
                job.waits = False
                self.gate.leave(job.request.client)
