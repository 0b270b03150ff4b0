"""A journal of what a long run has finished, beside its files: JSON lines that are true even after a power cut.

    {"version": 1, "job": {...}}      what the run is made from: compared when it is taken up
    ...                               one line for each thing that is finished, written after its bytes are synced

A line that was being written when the run ended is no line. What it is not: what the lines say
(`checkpoint.packed.shards`, `checkpoint.gguf.unfinished`, `evals.results`).
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from herd.disk.atomic import sync
from herd.errors import UsageError, fail

JOURNAL = "herd.journal"


class _Start(msgspec.Struct, frozen=True):
    version: int
    job: dict[str, str]


class Journal:
    """The journal of `folder`, open to be written.

    believe: given the lines of an earlier run of the same job, in order; the first that it does not believe, and all
    after it, are forgotten. None: begin anew, whatever is there. durable: each line is on the disk when `add` returns.
    name: of the file. anew: how another one is begun, for people. Raises UsageError naming what differs when the
    earlier run was of another job.
    """

    def __init__(
        self,
        folder: Path,
        job: Mapping[str, str],
        believe: Callable[[bytes], bool] | None,
        *,
        durable: bool,
        name: str = JOURNAL,
        anew: str = "anew without resuming",
    ) -> None:
        self._durable = durable
        path = folder / name
        kept = [msgspec.json.encode(_Start(1, dict(job)))]
        if believe is not None and path.exists():
            lines = list(_whole_lines(path))
            if lines:
                _compare(folder, lines[0], dict(job), anew)
            for line in lines[1:]:
                if not believe(line):
                    break
                kept.append(line)
        temp = path.with_suffix(".part")
        temp.write_bytes(b"".join(line + b"\n" for line in kept))
        if durable:
            sync(temp)
        temp.replace(path)
        if durable:
            sync(folder)
        self._file = path.open("ab")

    def add(self, line: bytes) -> None:
        """Write a line: one more thing is finished. Its own bytes must be synced before."""
        self._file.write(line + b"\n")
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file as it is; a line that the disk had no room for is not tried again."""
        with suppress(OSError):
            self._file.close()


def _whole_lines(journal: Path) -> Iterator[bytes]:
    for line in journal.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield line[:-1]


def _compare(folder: Path, line: bytes, job: dict[str, str], anew: str) -> None:
    try:
        start = msgspec.json.decode(line, type=_Start)
    except msgspec.DecodeError:
        start = _Start(0, {})
    if start.version != 1:
        fail(UsageError, f"{folder}: an unfinished run of another Herd", do="remove the folder, or do not resume")
    other = [key for key in sorted({*start.job, *job}) if start.job.get(key) != job.get(key)]
    if other:
        fail(
            UsageError,
            f"{folder}: the unfinished run there was another one",
            got="; ".join(f"{key} {start.job.get(key, 'not given')}" for key in other),
            expected="; ".join(f"{key} {job.get(key, 'not given')}" for key in other),
            do=f"start it as it was, or {anew}",
        )
