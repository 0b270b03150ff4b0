"""Files that clients keep with the service, and their batches, in one folder: records and bytes, whole or not at all.

    FOLDER/file-ID          bytes of a file          FOLDER/file-ID.json      its record
    FOLDER/batch_ID.json    record of a batch        FOLDER/batch_ID.out      results while it runs, and .err

A key sees its own alone: another key's id is not found, like one that never was. An id is looked up among records, and
is never made a path before. What it is not: what stands in files (`batches`).
"""

import fcntl
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from herd.disk.atomic import explain_full_disk, make_folders, new_file, sync
from herd.errors import HerdError, NotFound, TooLarge, Unauthorised, UsageError, fail
from herd.server.keys import Key
from herd.server.limits import Limits

RECORD_BYTES = 96 << 10
"""Bytes of a record as JSON: a batch has up to PROBLEMS problems and 16 pairs of metadata."""
PROBLEMS = 20
"""Problems of lines that a batch tells."""
LINE_BYTES = 400
"""Most bytes of one line of a batch in memory while its file is indexed."""
ID = 64
"""Characters that an id has at most."""
DAY_S = 86_400
KEPT_S = 30 * DAY_S
"""Seconds that files stay unless whoever uploads them says otherwise."""
Purpose = Literal["batch", "batch_output"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
OVER: frozenset[str] = frozenset({"failed", "completed", "expired", "cancelled"})
"""States in which nothing more comes of a batch."""


class StoredFile(msgspec.Struct, kw_only=True):
    """The record of a file."""

    id: str
    owner: str
    """The name of the key whose it is."""
    filename: str
    bytes: int
    purpose: Purpose
    created_at: int
    """Unix time."""
    expires_at: int
    private: bool
    """Whether what stands in it may not leave the house, whoever asks for it later."""

    def to_dict(self) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class BatchProblem(msgspec.Struct, frozen=True):
    """What is wrong with a line, as clients see it."""

    code: str
    message: str
    line: int | None
    param: str | None = None


class StoredBatch(msgspec.Struct, kw_only=True):
    """The record of a batch."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    private: bool
    created_at: int
    expires_at: int
    model: str = ""
    """The model that its first line names."""
    errors: list[BatchProblem] = []
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ends_as: Status | None = None
    """What it becomes once its files are there."""
    metadata: dict[str, str] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.status in OVER

    def to_dict(self) -> dict[str, Any]:
        """As clients see it."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        problems = {"object": "list", "data": self.errors} if self.errors else None
        counts = {"total": self.total, "completed": self.completed, "failed": self.failed}
        usage = {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.input_tokens + self.output_tokens,
        }
        found = {**plain, "object": "batch", "errors": problems, "request_counts": counts, "usage": usage}
        return {**found, "model": self.model or None, "metadata": self.metadata}


_PLAIN = (
    *("id", "endpoint", "input_file_id", "completion_window", "status", "output_file_id", "error_file_id"),
    *("created_at", "in_progress_at", "expires_at", "finalizing_at", "completed_at", "failed_at", "expired_at"),
    *("cancelling_at", "cancelled_at"),
)
R = TypeVar("R", StoredFile, StoredBatch)


class FileStore:
    """All files and batches of a folder, which it holds alone. Its methods that write wait for the disk: call them on a
    thread. Raises UsageError for a folder that another service has."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits = folder.absolute(), limits
        make_folders(self._folder)
        os.chmod(self._folder, 0o700)
        self._lock = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            fail(UsageError, f"--files {folder}: another service has it", do="choose another folder, or stop that one")
        self.kept_s = KEPT_S
        self.left_out: list[str] = []
        """What is told of records that are broken."""
        self._changing = threading.Lock()
        """Held while records are written or removed, so that none comes back that was forgotten meanwhile."""
        self._counting = threading.Lock()
        """Held while it is counted what is on its way."""
        self._coming: dict[str, int] = {}
        """Owner -> bytes of files that are on their way."""
        self.files: dict[str, StoredFile] = self._read("file-*.json", StoredFile)
        """Files by their id."""
        self.batches: dict[str, StoredBatch] = self._read("batch_*.json", StoredBatch)
        self._sweep()

    def close(self) -> None:
        """Let another service have the folder."""
        os.close(self._lock)

    # -- files -------------------------------------------------------------------------------------------------------

    def file(self, key: Key, file_id: str, where: str = "file") -> StoredFile:
        """A file of this key. where: what names it, for the error. Raises NotFound."""
        found = self.files.get(file_id) if len(file_id) <= ID else None  # a text of megabytes is not even hashed
        if found is None or found.owner != key.name or found.expires_at <= time.time():
            fail(NotFound, where, got=file_id[:ID], expected="the id of a file of this key")
        return found

    def files_of(self, key: Key) -> list[StoredFile]:
        """All files of a key, the oldest first."""
        now = time.time()
        return [one for one in [*self.files.values()] if one.owner == key.name and one.expires_at > now]

    def path(self, file: StoredFile) -> Path:
        """Where the bytes of a file lie."""
        return self._folder / file.id

    def begin(self, key: Key, size_bytes: int) -> "Upload":
        """Begin a file of so many bytes, or fewer. Raises TooLarge where the key may not keep so much."""
        limits, mine = self._limits, self.files_of(key)
        if size_bytes > limits.file_bytes:
            fail(TooLarge, "file", got=f"{size_bytes} bytes", expected=f"at most {limits.file_bytes}")
        if len(mine) + self._coming.get("#" + key.name, 0) >= limits.key_files:
            do = "delete some"
            fail(TooLarge, f"files of key {key.name}", got=len(mine), expected=f"fewer than {limits.key_files}", do=do)
        held = sum(one.bytes for one in mine) + self._coming.get(key.name, 0)
        if held + size_bytes > limits.key_file_bytes:
            expected = f"at most {limits.key_file_bytes}"
            fail(
                TooLarge,
                f"bytes of files of key {key.name}",
                got=held + size_bytes,
                expected=expected,
                do="delete some",
            )
        found = Upload(self, self._folder, key, size_bytes)  # where that fails nothing is on its way
        with self._counting:
            for name, count in ((key.name, size_bytes), ("#" + key.name, 1)):
                self._coming[name] = self._coming.get(name, 0) + count
        return found

    def ended(self, upload: "Upload") -> None:
        """An upload is over, however that came."""
        with self._counting:
            for name, count in ((upload.key.name, upload.reserved_bytes), ("#" + upload.key.name, 1)):
                self._coming[name] -= count
                if not self._coming[name]:
                    del self._coming[name]

    def keep_file(self, file: StoredFile, made: Path, of: StoredBatch | None = None, *, key: Key | None = None) -> None:
        """Keep a file whose bytes lie at `made`, in this folder, or under its id already: they are on the disk, then
        its record. of: the batch that it is a result of; of one that is forgotten nothing is kept. key: whose it is,
        where a client brings it. Raises OSError, DoesNotFit, Unauthorised for a key that is gone."""
        with self._changing:
            _check_there(key)
            if of is not None and of.id not in self.batches:
                made.unlink(missing_ok=True)
                return
            if made.exists():
                sync(made)
                made.replace(self.path(file))
            self._write(file.id, file)
            self.files[file.id] = file

    def drop_file(self, file: StoredFile) -> None:
        """Remove a file. Raises UsageError while a batch reads it."""
        users = [one.id for one in [*self.batches.values()] if one.input_file_id == file.id and not one.over]
        if users:
            fail(UsageError, f"file {file.id}: {users[0]} reads it", do="cancel that batch first")
        self._forget_file(file)

    def _forget_file(self, file: StoredFile) -> None:
        self.files.pop(file.id, None)
        (self._folder / f"{file.id}.json").unlink(missing_ok=True)
        self.path(file).unlink(missing_ok=True)

    # -- batches -----------------------------------------------------------------------------------------------------

    def batch(self, key: Key, batch_id: str) -> StoredBatch:
        """A batch of this key. Raises NotFound."""
        found = self.batches.get(batch_id) if len(batch_id) <= ID else None
        if found is None or found.owner != key.name:
            fail(NotFound, "batch", got=batch_id[:ID], expected="the id of a batch of this key")
        return found

    def batches_of(self, key: Key) -> list[StoredBatch]:
        """All batches of a key, the oldest first."""
        return [one for one in [*self.batches.values()] if one.owner == key.name]

    def check_batches(self, key: Key) -> None:
        """Raise TooLarge where a key has as many batches as it may. Those that are over and oldest make room: its own,
        else, where all keys together have too many, one of whoever has most."""
        with self._changing:
            mine = self.batches_of(key)
            is_full = len(self.batches) >= self._limits.batches
            if len(mine) < self._limits.key_batches and not is_full:
                return
            oldest = next((one for one in mine if one.over), None)
            if oldest is None and len(mine) >= self._limits.key_batches:
                expected = f"fewer than {self._limits.key_batches}"
                fail(TooLarge, f"batches of key {key.name} that are not over", got=len(mine), expected=expected)
            oldest = oldest or self._oldest_of_most()
            if oldest is None:
                fail(TooLarge, "batches of all keys", got=len(self.batches), expected="fewer", do="ask again later")
            self._forget_batch(oldest)

    def _oldest_of_most(self) -> StoredBatch | None:
        """The oldest batch that is over, of the key that has most of them; None: none is over."""
        over = [one for one in [*self.batches.values()] if one.over]
        if not over:
            return None
        most, _ = Counter(one.owner for one in over).most_common(1)[0]
        return next(one for one in over if one.owner == most)

    def keep_batch(self, batch: StoredBatch, *, new: bool = False, key: Key | None = None) -> None:
        """Write a batch as it is now; nothing, where it is not a new one and was forgotten. key: whose it is, where a
        client begins it. Raises OSError, DoesNotFit, Unauthorised for a key that is gone."""
        with self._changing:
            _check_there(key)
            if new or batch.id in self.batches:
                self._write(batch.id, batch)
                self.batches[batch.id] = batch

    def results(self, batch: StoredBatch) -> tuple[Path, Path]:
        """Where results of a batch lie while it runs: answers, and failed lines."""
        return self._folder / f"{batch.id}.out", self._folder / f"{batch.id}.err"

    def _forget_batch(self, batch: StoredBatch) -> None:
        self.batches.pop(batch.id, None)
        for path in (self._folder / f"{batch.id}.json", *self.results(batch)):
            path.unlink(missing_ok=True)

    # -- all ---------------------------------------------------------------------------------------------------------

    def forget(self, owner: str) -> None:
        """Remove all that a key has which is gone: another key of the same name must not see it."""
        with self._changing:
            for batch in [one for one in [*self.batches.values()] if one.owner == owner]:
                self._forget_batch(batch)
            for file in [one for one in [*self.files.values()] if one.owner == owner]:
                self._forget_file(file)

    def expire(self) -> None:
        """Remove files whose time is over and that no batch reads."""
        now = time.time()
        used = {one.input_file_id for one in [*self.batches.values()] if not one.over}
        for file in [one for one in [*self.files.values()] if one.expires_at <= now and one.id not in used]:
            self._forget_file(file)

    def _write(self, name: str, record: StoredFile | StoredBatch) -> None:
        data = msgspec.json.encode(record)
        assert len(data) <= RECORD_BYTES, f"a record of {len(data)} bytes"
        with new_file(self._folder / f"{name}.json", overwrite=True) as temp:
            temp.write_bytes(data)

    def _read(self, pattern: str, kind: type[R]) -> dict[str, R]:
        """Records by id, the oldest first; broken ones are left out and told."""
        found: list[R] = []
        for path in self._folder.glob(pattern):
            try:
                if path.stat().st_size > RECORD_BYTES:
                    fail(UsageError, "it is too large")
                record = msgspec.json.decode(path.read_bytes(), type=kind)
                if f"{record.id}.json" != path.name:
                    fail(UsageError, "its id is another")
            except (HerdError, msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
                self.left_out.append(f"{path.name} is left out: {error}")
            else:
                found.append(record)
        return {one.id: one for one in sorted(found, key=lambda one: (one.created_at, one.id))}

    def _sweep(self) -> None:
        """Remove what a kill left: bytes of files without a record, results of batches that are over or forgotten, and
        records that were being written."""
        for path in self._folder.glob(".*.part"):
            path.unlink(missing_ok=True)
        for path in self._folder.glob("batch_*"):
            batch = self.batches.get(path.stem)
            forgotten = batch is None and not path.with_suffix(".json").exists()
            if path.suffix in (".out", ".err") and (forgotten or (batch is not None and batch.over)):
                path.unlink(missing_ok=True)
        for path in self._folder.glob("file-*"):
            if path.suffix != ".json" and path.name not in self.files:
                broken = path.with_name(f"{path.name}.json").exists()
                if not broken and not self._awaited(path.name):
                    path.unlink(missing_ok=True)

    def _awaited(self, name: str) -> bool:
        """Whether a batch that is not over is about to write the record of a file."""
        return any(name in (one.output_file_id, one.error_file_id) for one in [*self.batches.values()] if not one.over)


class Upload:
    """A file that is on its way: bytes that are written as they come. Keep it, or close it and it is gone."""

    def __init__(self, store: FileStore, folder: Path, key: Key, reserved_bytes: int) -> None:
        self.key, self.reserved_bytes = key, reserved_bytes
        self.size_bytes = 0
        self._store = store
        self.id = "file-" + secrets.token_hex(12)
        self._path = folder / f"{self.id}.part"
        self._open = True
        self._lock = threading.RLock()
        """Held while its file is used: whoever ends it does not wait for what is under way on another thread."""
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes) -> None:
        """Write the next bytes; nothing once it is over. Raises OSError, DoesNotFit."""
        left = memoryview(data)
        with self._lock:
            while left and self._open:
                try:
                    count = os.write(self._file, left)
                except OSError as error:
                    explain_full_disk(Path(self.id), error)
                    raise
                left = left[count:]
                self.size_bytes += count

    def keep(self, filename: str, expires_s: int, *, private: bool) -> StoredFile:
        """Keep it. Raises OSError, DoesNotFit; UsageError once it is over; Unauthorised for a key that is gone."""
        with self._lock:
            if not self._open:
                fail(UsageError, "file", got="the end of its upload", expected="one that is under way")
            return self._kept(filename, expires_s, private=private)

    def _kept(self, filename: str, expires_s: int, *, private: bool) -> StoredFile:
        now = int(time.time())
        file = StoredFile(
            id=self.id, owner=self.key.name, filename=filename, bytes=self.size_bytes, purpose="batch",
            created_at=now, expires_at=now + expires_s, private=private,
        )  # fmt: skip
        self._store.keep_file(file, self._path, key=self.key)
        self.close()
        return file

    def close(self) -> None:
        """End it; what is not kept is gone."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._file)
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
                self._store.ended(self)


def _check_there(key: Key | None) -> None:
    """Raise Unauthorised for a key that is gone: what it had was removed, and another one of its name would see it."""
    if key is not None and key.gone:
        fail(Unauthorised, f"key {key.name}", got="one that is gone", expected="a key of this service")


def page(records: Iterator[R], after: str | None, limit: int) -> tuple[list[R], bool]:
    """(the records of a page, whether more follow). after: the id of the last one that a client has. Raises
    NotFound."""
    found: list[R] = []
    seen = after is None
    for record in records:
        if seen and len(found) == limit:
            return found, True
        if seen:
            found.append(record)
        seen = seen or record.id == after
    if not seen:
        fail(NotFound, "after", got=str(after)[:64], expected="the id of one that is listed")
    return found, False
