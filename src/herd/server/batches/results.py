"""What came of a file's lines: a line each in OpenAI's form, on the disk before it counts.

    {"id": "batch_req_...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...", "body": {...}},
     "error": null}

An id says what its line is the result of: of which job (model and flags), and of which line of the input. So a file of
results needs nothing beside it: after a kill, whoever goes on reads what there is, forgets a line that was cut, and
does not take another's results for its own. Lines that failed go to a file of their own where one is named.
"""

import asyncio
import fcntl
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np

from herd.disk.atomic import explain_full_disk, new_file, sync
from herd.disk.small_files import regular_file
from herd.errors import BadFile, FilesChanged, UsageError, fail
from herd.server.batches.index import Index
from herd.server.http.wire import encode, json_line

PREFIX = "batch_req_"
MOST_LINE = 1 << 30
"""Bytes of one line of results."""


class Details(msgspec.Struct, frozen=True):
    """How many tokens of a prompt were cached."""

    cached_tokens: int = 0


class UsageFields(msgspec.Struct, frozen=True):
    """Tokens, as any of the routes tells them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    prompt_tokens_details: Details | None = None
    input_tokens_details: Details | None = None


class _Body(msgspec.Struct, frozen=True):
    usage: UsageFields | None = None


class _Response(msgspec.Struct, frozen=True):
    status_code: int
    body: _Body | None = None


class _Row(msgspec.Struct, frozen=True):
    id: str
    response: _Response | None = None


NO_NOTES: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """A result. position: of its line in the index."""

    position: int
    custom_id: str | None
    status: int
    """The status of the answer; 0: there is none."""
    request_id: str = ""
    body: bytes = b""
    """JSON of the answer, or of its error."""
    notes: Mapping[str, str] = NO_NOTES
    """What an answer says in headers beside its body."""
    code: str = ""
    """A word for what kept it from being asked."""
    message: str = ""
    line: int = 0
    """Number of a line that is no request."""

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return self.status != 200


@dataclass
class Totals:
    """What all results come to."""

    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def lines(self) -> int:
        """Lines that have a result."""
        return self.answered + self.failed

    def add(self, status: int, usage: UsageFields | None) -> None:
        """Count one."""
        self.answered += status == 200
        self.failed += status != 200
        if usage is not None:
            details = usage.prompt_tokens_details or usage.input_tokens_details or Details()
            self.prompt_tokens += usage.prompt_tokens + usage.input_tokens
            self.cached_tokens += details.cached_tokens
            self.output_tokens += usage.completion_tokens + usage.output_tokens


def job_of(*said: str) -> str:
    """What results are of, in 12 hexadecimal digits: model and flags."""
    return sha256("\0".join(said).encode()).hexdigest()[:12]


class Results:
    """The files of results of an index. Raises UsageError for a file that holds others', or that another run writes."""

    def __init__(self, index: Index, job: str, out: Path, errors: Path | None = None) -> None:
        self.totals = Totals()
        self.done = np.zeros(len(index), np.bool_)
        """Whether a line has a result, by position."""
        self._index, self._job = index, job
        self._by_id = np.argsort(index.ids)
        self._waiting: list[tuple[Row, bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._files: list[_File] = []
        try:
            for path in (out, *(() if errors is None else (errors,))):
                self._files.append(_File(path))
                self._take(self._files[-1])
        except BaseException:
            self.close()
            raise

    async def keep(self, row: Row) -> None:
        """Write a result; it is on the disk when this returns. Raises DoesNotFit, OSError."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, self._written(row), future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await asyncio.shield(future)

    async def settle(self) -> None:
        """Wait until all that is kept is written."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    @property
    def size_bytes(self) -> int:
        """Bytes of all results."""
        return sum(file.size_bytes for file in self._files)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    async def _write(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting, []
                try:
                    await asyncio.to_thread(self._add, [(row, line) for row, line, _ in some])
                except Exception as error:
                    for _, _, future in some:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for row, line, future in some:
                        self.done[row.position] = True
                        self.totals.add(row.status, _read(line).usage)
                        if not future.done():
                            future.set_result(None)
        finally:
            self._writing = None

    def _add(self, rows: Sequence[tuple[Row, bytes]]) -> None:
        last = self._files[-1]
        for file in self._files:
            lines = [line for row, line in rows if len(self._files) == 1 or row.failed == (file is last)]
            if lines:
                file.add(lines)

    def _written(self, row: Row) -> bytes:
        id_ = f"{PREFIX}{self._job}{int(self._index.ids[row.position]):016x}"
        response, error = None, None
        if row.status:
            response = {"status_code": row.status, "request_id": row.request_id, "body": msgspec.Raw(row.body)}
            response |= {"headers": dict(row.notes)} if row.notes else {}
        else:
            error = {"code": row.code, "message": row.message} | ({"line": row.line} if row.line else {})
        return json_line(encode({"id": id_, "custom_id": row.custom_id, "response": response, "error": error}))

    def _take(self, file: "_File") -> None:
        """Count what a file holds already."""
        for number, line in file.lines():
            position = self._position(file.path, number, line)
            if not self.done[position]:
                found = _read(line)
                self.done[position] = True
                self.totals.add(found.status, found.usage)
        file.cut(lambda tail: self._is_ours(tail))

    def _is_ours(self, tail: bytes) -> bool:
        """Whether bytes may be the beginning of a result of this job."""
        ours = f'{{"id":"{PREFIX}{self._job}'.encode()
        return tail[: len(ours)] == ours[: len(tail)]

    def _position(self, path: Path, number: int, line: bytes) -> int:
        """The position of a result. Raises UsageError for what is another's."""
        try:
            id_ = msgspec.json.decode(line, type=_Row).id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            id_ = ""
        where, digits = f"{path}, line {number}", id_.removeprefix(PREFIX)
        if len(digits) != 28 or set(digits) - set("0123456789abcdef"):
            fail(UsageError, where, got="something else", expected="results of herd batch", do="name another file")
        if digits[:12] != self._job:
            do = "name another file, or give the model and flags that it was begun with"
            fail(UsageError, where, got="results of another model, or of other flags", do=do)
        id_number = int(digits[12:], 16)
        ids = self._index.ids
        at = int(np.searchsorted(ids, np.uint64(id_number), sorter=self._by_id))
        position = int(self._by_id[min(at, len(ids) - 1)]) if len(ids) else -1
        if position < 0 or int(ids[position]) != id_number:
            do = "name another file; lines may be added to the end of the input, nothing else may change"
            fail(UsageError, where, got="the result of a line that the input does not have", do=do)
        return position

    def in_order(self) -> None:
        """Write each file anew in the order of the input. Call it when all is done."""
        for file in self._files:
            file.sort(partial(self._position, file.path))


class Found(NamedTuple):
    """What a result says. status 0: there is no answer."""

    status: int
    usage: UsageFields | None


def _read(line: bytes) -> Found:
    """What a result says; a body whose usage is none of ours has none."""
    try:
        row = msgspec.json.decode(line, type=_Row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Found(0, None)
    if row.response is None:
        return Found(0, None)
    body = row.response.body
    return Found(row.response.status_code, None if body is None else body.usage)


class _File:
    """A file of lines that grows, held by its writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            fail(UsageError, f"{path}", got="a folder", expected="a file")
        if not path.absolute().parent.is_dir():
            fail(UsageError, f"no folder {path.absolute().parent}", do="make it first")
        self._made = not path.exists()
        if not self._made:
            regular_file(path, UsageError)  # whoever reads a pipe to its end waits for itself
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sync(path.absolute().parent)
        except BlockingIOError:
            os.close(self._file)
            fail(UsageError, f"{path}: another run writes its results there", do="wait for it, or name another file")
        self.size_bytes = 0
        """Bytes of its whole lines."""
        self._open = True

    def lines(self) -> Iterable[tuple[int, bytes]]:
        """(number, line) of each whole line, from the first. One with a zero byte was never synced: a machine that
        lost its power has the length of a file before its bytes, and no JSON has any."""
        self.size_bytes = 0
        with self.path.open("rb") as file:
            for number in range(1, 1 << 62):
                line = file.readline(MOST_LINE)
                if not line.endswith(b"\n") or b"\0" in line:
                    if len(line) == MOST_LINE:
                        fail(BadFile, f"{self.path}, line {number}", got="a longer one", expected=f"{MOST_LINE} bytes")
                    return
                yield number, line
                self.size_bytes += len(line)

    def cut(self, may: Callable[[bytes], bool]) -> None:
        """Cut what stands behind the last whole line, where it is ours. Raises UsageError where it is not."""
        tail = os.pread(self._file, 4096, self.size_bytes)
        if tail:
            written = tail.partition(b"\0")[0]
            if not may(written) or not (written or self.size_bytes):
                fail(UsageError, f"{self.path}", got="something else", expected="results of herd batch")
            os.ftruncate(self._file, self.size_bytes)

    def add(self, lines: Sequence[bytes]) -> None:
        """Write lines, synced. Where there is no room for them none is there. Raises DoesNotFit, OSError, and
        FilesChanged once its name is gone: nobody could read what is written."""
        data = memoryview(b"".join(lines))
        at = self.size_bytes
        try:
            while data:
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count
            os.fsync(self._file)
            gone = not os.fstat(self._file).st_nlink
        except OSError as error:
            os.ftruncate(self._file, self.size_bytes)
            explain_full_disk(self.path, error, "free some space; the same command goes on")
            raise
        if gone:
            fail(FilesChanged, f"{self.path}", got="it was deleted", do="the same command begins anew")
        self.size_bytes = at

    def sort(self, position_of: Callable[[int, bytes], int]) -> None:
        """Write its lines in the order of their positions, in a new file of its name."""
        positions, ends = array("Q"), array("Q", [0])
        for number, line in self.lines():
            positions.append(position_of(number, line))
            ends.append(ends[-1] + len(line))
        order = np.argsort(np.frombuffer(positions, np.uint64)) if positions else ()
        if np.array_equal(order, np.arange(len(positions))):
            return
        with new_file(self.path, overwrite=True) as temp, temp.open("wb") as file, self.path.open("rb") as lines:
            for i in order:
                lines.seek(ends[i])
                file.write(lines.read(ends[i + 1] - ends[i]))

    def close(self) -> None:
        """Close it; one that was made for nothing goes."""
        if self._open:
            self._open = False
            if self._made and not self.size_bytes:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
