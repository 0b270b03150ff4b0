"""All lines of a file that have no result yet, many at once, in the order of what they begin with.

Of lines that begin alike the first one is asked alone, meanwhile others; then its followers find in the cache what it
left there. An error of a line is its result. What would stop every line (no host, no money, a disk without room) ends
the run, and what is done stays. What it is not: an answer (`answering`), a file (`results`).
"""

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from herd.backends.failures import Broken, Withdrawn
from herd.errors import (
    Busy,
    EngineDied,
    HerdError,
    Interrupted,
    LimitReached,
    NetworkError,
    NotReady,
    QuotaSpent,
)
from herd.server.batches import answering
from herd.server.batches.index import Index, LineReader
from herd.server.batches.lines import WrongLine
from herd.server.batches.results import Results, Row
from herd.server.http.error_bodies import words_of
from herd.server.keys import Key
from herd.server.service import Service

TRIES = 3
"""How often a line is asked whose model, or the way to it, was gone."""
BUSY_TRIES = 30
"""How often one is asked where there was no place for it; over an hour in all."""
WAIT_S = 1.0
LONGEST_WAIT_S = 180.0
LOOK_S = 0.5
"""How often is looked whether more lines may be under way."""
HERE = 64 << 10
"""Bytes of a line that are read and understood on the event loop."""


class Queue:
    """Which line is asked next: of each group the first, and then those that wait for it."""

    def __init__(self, index: Index, done: npt.NDArray[np.bool_]) -> None:
        left = index.order[~done[index.order]]
        groups = index.begins[left]
        self._left = left
        self._ends = np.flatnonzero(np.diff(groups, append=-1)) + 1
        """Ends of the groups in `left`."""
        self._next = 0
        self._open: deque[list[int]] = deque()
        """Followers that may be asked: [from, to) in `left`."""
        self._leads: dict[int, list[int]] = {}
        """Leaders that are under way, and where their followers stand."""

    def take(self) -> int | None:
        """The next position that may be asked; None: none may, now."""
        while self._open:
            some = self._open[0]
            if some[0] < some[1]:
                some[0] += 1
                return int(self._left[some[0] - 1])
            self._open.popleft()
        if self._next == len(self._ends):
            return None
        begin = int(self._ends[self._next - 1]) if self._next else 0
        position, end = int(self._left[begin]), int(self._ends[self._next])
        self._next += 1
        if end - begin > 1:
            self._leads[position] = [begin + 1, end]
        return position

    def over(self, position: int) -> None:
        """A line has its result: those that waited for it may be asked."""
        followers = self._leads.pop(position, None)
        if followers is not None:
            self._open.append(followers)


class Run:
    """A run over the lines of an index."""

    def __init__(
        self,
        service: Service,
        key: Key,
        index: Index,
        results: Results,
        *,
        model: str = "",
        at_once: Callable[[], int],
        told: Callable[[], None] = lambda: None,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        """model: what answers, whatever the lines name; empty: what they name. at_once: how many lines may be under
        way now. told: called after each result. may_begin: whether another line may begin now."""
        self._service, self._key = service, key
        self._index, self._results = index, results
        self._model, self._at_once, self._told, self._may_begin = model, at_once, told, may_begin
        self._queue = Queue(index, results.done)

    async def all(self) -> None:
        """Ask all lines without a result. Raises what ends the run; lines under way are cancelled then."""
        reader = await asyncio.to_thread(self._index.open)
        under_way: dict[asyncio.Task[None], int] = {}
        try:
            while True:
                is_out = False
                while not is_out and len(under_way) < self._at_once() and self._may_begin():
                    position = self._queue.take()
                    if position is None:
                        is_out = True
                    else:
                        under_way[asyncio.create_task(self._one(reader, position))] = position
                if not under_way:
                    if is_out:
                        return
                    await asyncio.sleep(LOOK_S)
                    continue
                over, _ = await asyncio.wait(under_way, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in over:
                    self._queue.over(under_way.pop(task))
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
            await self._results.settle()
            reader.close()

    async def _one(self, reader: LineReader, position: int) -> None:
        await self._results.keep(await self._row(reader, position))
        self._told()

    async def _row(self, reader: LineReader, position: int) -> Row:
        try:
            if self._index.lengths[position] > HERE:
                line = await asyncio.to_thread(lambda: self._index.request(reader.read(position), position))
            else:
                line = self._index.request(reader.read(position), position)
        except WrongLine as error:
            number = int(self._index.numbers[position])
            return Row(position, error.custom_id, 0, code=error.code, message=words_of(error), line=number)
        if self._model:
            line.body["model"] = self._model
        busy = tries = 0
        while True:
            try:
                return await answering.answer(self._service, self._key, position, line)
            except Busy as error:
                busy += 1
                if busy == BUSY_TRIES:
                    raise
                wait_s = max(error.retry_after_s, WAIT_S if isinstance(error, QuotaSpent) else WAIT_S * 2**busy / 8)
            except (EngineDied, NotReady, NetworkError) as error:
                tries += 1
                if tries == TRIES and ends(error):
                    raise
                if tries == TRIES or isinstance(error, Broken):
                    return answering.failed(position, line.custom_id, error)
                wait_s = WAIT_S * 2**tries
            except HerdError as error:
                if ends(error):
                    raise
                return answering.failed(position, line.custom_id, error)
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))


def ends(error: HerdError) -> bool:
    """Whether an error would come for every other line, too."""
    if isinstance(error, NetworkError):
        return not isinstance(error, Broken)
    return isinstance(error, NotReady | LimitReached | Withdrawn | Interrupted)
