"""Batches of a service: one of each key at a time, some keys at once, behind whatever live requests there are.

    Worker      one for the life of the service; it goes on with what an earlier one left
    behind      the key that lines of a batch are asked with: its owner's, with a priority below all others

Lines are answered as live requests are, with places of their own: none of the key's, few beside live requests. What it
is not: the files (`herd.server.file_store`), the lines (`running`).
"""

import asyncio
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from herd.errors import DoesNotFit, HerdError
from herd.server.batches.index import FileLimits, Index, Problem
from herd.server.batches.results import Results, Row, job_of
from herd.server.batches.running import Run
from herd.server.file_store import PROBLEMS, BatchProblem, FileStore, Status, StoredBatch, StoredFile
from herd.server.http.error_bodies import words_of
from herd.server.keys import Key
from herd.server.service import Service

LOOK_S = 0.25
"""How often is looked for what is new, cancelled or expired."""
EXPIRE_S = 60.0
BEHIND = 1 << 30
"""How far below its key's priority a batch is: no wait makes up for it."""
AGAIN_S = 30.0
"""How long a batch waits that could not go on: a host that is gone, a disk without room."""
TOGETHER = 256
"""Lines whose errors are written at once."""
MODEL = 256
"""Characters of a model's name that a batch tells."""
WORDS = 300
"""Characters of what is told of a line."""


def behind(key: Key, *, private: bool) -> Key:
    """A key for lines of a batch, with its owner's rights and quota of tokens. private: without the right to leave."""
    found = Key(key.name)
    found.tokens = key.tokens
    follow(found, key, private=private)
    return found


def follow(found: Key, key: Key, *, private: bool) -> None:
    """Take over the rights that its owner's key has now."""
    found.rights = key.rights - ({"leave"} if private else set())
    found.priority, found.policy, found.gone = max(key.priority - BEHIND, -(1 << 31)), key.policy, key.gone
    found.tokens_per_minute = key.tokens_per_minute


class Worker:
    """What runs batches, as long as its task does."""

    def __init__(self, service: Service, store: FileStore) -> None:
        self._service, self._store = service, store
        self._running: dict[str, asyncio.Task[None]] = {}
        """What runs, by batch."""
        self._expired_s = float("-inf")
        self._not_before: dict[str, float] = {}

    async def run(self) -> None:
        """Run batches until this is cancelled; they go on the next time."""
        try:
            while True:
                try:
                    await self._look()
                    wait_s = LOOK_S
                except (
                    Exception
                ) as error:  # a disk that takes nothing, say: whoever comes later is not to suffer for it
                    self._service.log.mistake("batches", error)
                    wait_s = AGAIN_S
                await asyncio.sleep(wait_s)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _look(self) -> None:
        now = time.monotonic()
        if now - self._expired_s > EXPIRE_S:
            self._expired_s = now
            try:
                await asyncio.to_thread(self._store.expire)
            except OSError as error:
                self._service.log.event("files stay", reason=type(error).__name__)
        for id_, task in [*self._running.items()]:
            if task.done():
                del self._running[id_]
                self._not_before[id_] = now + AGAIN_S  # where it is not over, it could not go on
        self._not_before = {id_: then for id_, then in self._not_before.items() if then > now}
        owners = {self._store.batches[id_].owner for id_ in self._running if id_ in self._store.batches}
        batches = [*self._store.batches.values()]
        for batch in batches:  # what was cancelled before it began waits for nobody
            if batch.status == "cancelling" and batch.in_progress_at is None and batch.id not in self._running:
                self._running[batch.id] = asyncio.create_task(self._one(batch))
        for batch in batches:
            if len(self._running) >= self._service.limits.batches_at_once:
                return
            cancelled = batch.status == "cancelling"
            if batch.over or batch.owner in owners or (batch.id in self._not_before and not cancelled):
                continue
            if self._service.keyring.named(batch.owner) is None:
                continue  # a key that is not there, now
            owners.add(batch.owner)
            self._running[batch.id] = asyncio.create_task(self._one(batch))

    async def _one(self, batch: StoredBatch) -> None:
        try:
            await self._work(batch)
        except HerdError as error:
            self._service.log.event("batch waits", id=batch.id, error=error.code, reason=words_of(error))
        except Exception as error:
            self._service.log.mistake(batch.id, error)

    async def _work(self, batch: StoredBatch) -> None:
        """Take a batch to its end, from wherever it is."""
        index = await self._validated(batch)
        if index is None:
            return
        out, errors = self._store.results(batch)
        if batch.status != "finalizing":
            results = await asyncio.to_thread(Results, index, job_of(batch.id), out, errors)
            try:
                ends_as = await self._answered(batch, index, results)
                self._count(batch, results)
            finally:
                results.close()
            if batch.id not in self._store.batches:  # its key is gone, and what it had
                for path in (out, errors):
                    path.unlink(missing_ok=True)
                return
            batch.status, batch.ends_as, batch.finalizing_at = "finalizing", ends_as, int(time.time())
            batch.output_file_id = f"file-{batch.id.removeprefix('batch_')}o" if batch.completed else None
            batch.error_file_id = f"file-{batch.id.removeprefix('batch_')}e" if batch.failed else None
            await self._keep(batch)
        for id_, path, name in (
            (batch.output_file_id, out, f"{batch.id}_output.jsonl"),
            (batch.error_file_id, errors, f"{batch.id}_error.jsonl"),
        ):
            if id_ is not None:
                await asyncio.to_thread(self._store.keep_file, *self._result_file(batch, id_, path, name), batch)
        ends_as = batch.ends_as or "completed"
        batch.status = ends_as
        setattr(batch, f"{ends_as}_at", int(time.time()))
        await self._keep(batch)
        self._service.log.event("batch", id=batch.id, status=ends_as, completed=batch.completed, failed=batch.failed)

    async def _validated(self, batch: StoredBatch) -> Index | None:
        """The lines of its file. None: it has failed, or was cancelled before it began."""
        if batch.status == "cancelling" and batch.in_progress_at is None:
            batch.status, batch.cancelled_at = "cancelled", int(time.time())
            await self._keep(batch)
            return None
        problems: list[BatchProblem] = []
        limits = self._service.limits

        def hear(problem: Problem) -> None:
            if len(problems) < PROBLEMS:
                error = problem.error
                problems.append(BatchProblem(error.code, words_of(error)[:WORDS], problem.line, error.param or None))

        bounds = FileLimits(limits.file_bytes, limits.media_body_bytes, limits.batch_lines)
        file = self._store.files.get(batch.input_file_id)
        path = self._store.path(file) if file is not None else Path("/nowhere")
        make = partial(Index, path, limits, bounds, url=batch.endpoint, wrong=hear)
        try:
            index = await asyncio.to_thread(make)
        except (HerdError, OSError) as error:
            index = None
            problems.append(BatchProblem("invalid_file", words_of(error)[:WORDS], None))
        if index is not None and not problems and not len(index):
            problems.append(BatchProblem("empty_file", "the file has no line", None))
        if problems:
            batch.status, batch.errors, batch.failed_at = "failed", problems, int(time.time())
            await self._keep(batch)
            return None
        assert index is not None
        if batch.status == "validating":
            batch.status, batch.in_progress_at = "in_progress", int(time.time())
            batch.total, batch.model = len(index), index.model[:MODEL]
            await self._keep(batch)
        return index

    async def _answered(self, batch: StoredBatch, index: Index, results: Results) -> Status:
        """Answer its lines; returns what it ends as. Raises what stops every line."""
        owner = self._service.keyring.named(batch.owner)
        if owner is None:
            raise HerdError(f"batch {batch.id}: its key is not there")
        key = behind(owner, private=batch.private)

        def may_begin() -> bool:
            follow(key, owner, private=batch.private)
            half = (owner.tokens_per_minute or 0) // 2
            return owner.tokens.wait_s(half) == 0  # the other half is for live requests

        run = Run(
            self._service,
            key,
            index,
            results,
            at_once=self._places,
            told=lambda: self._count(batch, results),
            may_begin=may_begin,
        )
        self._count(batch, results)
        task = asyncio.create_task(run.all())
        ends_at = time.monotonic() + batch.expires_at - time.time()
        ends_as: Status = "completed"
        why: tuple[str, str] | None = None
        try:
            while not task.done():
                await asyncio.wait([task], timeout=LOOK_S)
                if batch.status == "cancelling" or owner.gone:
                    ends_as = "cancelled"
                    break
                if time.monotonic() > ends_at:
                    ends_as = "expired"
                    why = "batch_expired", "this request could not be answered before the batch expired"
                    break
                if results.size_bytes > self._service.limits.file_bytes:
                    most = self._service.limits.file_bytes
                    why = "results_too_large", f"the results of a batch have at most {most} bytes; ask less in one"
                    break
        finally:
            over = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if over:
            task.result()
            return "completed"
        if why is not None:
            await self._leave_out(index, results, *why)
        return ends_as

    async def _leave_out(self, index: Index, results: Results, code: str, message: str) -> None:
        """Tell of each line that has no result why it has none."""
        reader = await asyncio.to_thread(index.open)

        def rows(positions: list[int]) -> list[Row]:
            ids = [index.request(reader.read(position), position).custom_id for position in positions]
            return [Row(at, id_, 0, code=code, message=message) for at, id_ in zip(positions, ids, strict=True)]

        try:
            left: list[int] = (~results.done).nonzero()[0].tolist()
            for i in range(0, len(left), TOGETHER):
                found = await asyncio.to_thread(rows, left[i : i + TOGETHER])
                await asyncio.gather(*map(results.keep, found))
        finally:
            reader.close()

    def _places(self) -> int:
        """How many lines of one batch may be under way now."""
        limits = self._service.limits
        places = limits.batch_beside if self._service.keyring.under_way else limits.batch_at_once
        return max(1, places // max(1, len(self._running)))

    def _count(self, batch: StoredBatch, results: Results) -> None:
        totals = results.totals
        batch.completed, batch.failed = totals.answered, totals.failed
        batch.input_tokens, batch.cached_tokens = totals.prompt_tokens, totals.cached_tokens
        batch.output_tokens = totals.output_tokens

    def _result_file(self, batch: StoredBatch, id_: str, made: Path, name: str) -> tuple[StoredFile, Path]:
        """The record of a file of results, and where it lies until it has one."""
        now = int(time.time())
        place = made if made.exists() else made.with_name(id_)
        with suppress(OSError):
            size = place.stat().st_size
            file = StoredFile(
                id=id_, owner=batch.owner, filename=name, bytes=size, purpose="batch_output", created_at=now,
                expires_at=now + self._store.kept_s, private=batch.private,
            )  # fmt: skip
            return file, made
        raise DoesNotFit(f"batch {batch.id}: its results are gone")

    async def _keep(self, batch: StoredBatch) -> None:
        await asyncio.to_thread(self._store.keep_batch, batch)
