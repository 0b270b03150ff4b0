"""Where the lines of a file stand, and in which order they are asked: those that begin alike follow each other.

A line is a place, a length, and digests of how its prompt begins, at lengths that grow fourfold: about 100 bytes,
however long it is. Lines that begin alike as far as the first length stand together, among them those that do so as far
as the second, and so on; whoever shares nothing stays where the file has it. What it is not: the lines themselves,
which are read again when they are asked.
"""

import os
import secrets
from array import array
from collections.abc import Callable, Iterator
from hashlib import blake2b
from json import dumps
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from herd.disk.small_files import regular_file
from herd.errors import BadFile, FilesChanged, UsageError, fail
from herd.lanes import give_way
from herd.server.batches.lines import BatchLine, WrongLine, read_line
from herd.server.limits import Limits

LEVELS = (64, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10)
"""Bytes of a prompt, as JSON, after which what came so far has a digest."""
SHARED = LEVELS.index(1 << 10)
"""The level from which on what lines share is worth waiting for: about 250 tokens."""
PROMPT = ("model", "instructions", "tools", "messages", "prompt", "input")
"""Fields of a body that its prompt is made of, in the order in which a model reads them."""
BLANKS = 10
"""How many lines a file may have for each that may be a request: the others are blank, and reading them takes time."""
LINE_BYTES = 160
"""Bytes of one line in memory, at most, while a file is indexed."""
_PIECE = 1 << 20
Ids = npt.NDArray[np.uint64]


class FileLimits(NamedTuple):
    """What a file of requests may be."""

    file_bytes: int = 16 << 30
    line_bytes: int = 48 << 20
    lines: int = 1_000_000


FILE_LIMITS = FileLimits()


class Problem(NamedTuple):
    """What is wrong with a line. line: its number from 1."""

    line: int
    error: WrongLine


class Index:
    """The lines of a file; blank ones are none. Positions count lines from 0."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        bounds: FileLimits = FILE_LIMITS,
        *,
        url: str | None = None,
        seen: Callable[[int, int], None] = lambda done, total: None,
        wrong: Callable[[Problem], None] = lambda problem: None,
    ) -> None:
        """Read all of the file once. url: the only one that lines may ask; None: any. seen: told bytes. wrong: told of
        each line that is no request. Raises NotFound, and BadFile for a file beyond `bounds`."""
        self.path, self.url = path, url
        self.size_bytes = regular_file(path).st_size
        """Bytes of the file."""
        self.model = ""
        """The model that the first request names."""
        self.requests = 0
        """How many lines are requests."""
        self._limits, self._bounds = limits, bounds
        if self.size_bytes > bounds.file_bytes:
            expected = f"at most {bounds.file_bytes}"
            fail(BadFile, f"{path.name}: size", got=f"{self.size_bytes} bytes", expected=expected, do="split it")
        made = _Made(self, seen, wrong)
        self.offsets, self.lengths, self.numbers = made.offsets, made.lengths, made.numbers
        self.ids = made.ids
        """A digest of each line and its number: what its result is found by."""
        self.twice = made.twice
        """The number of the first line with the same custom_id, for lines that are not the first; else 0."""
        self.begins = made.begins
        """Groups of lines that begin alike as far as SHARED, by position: each is called by its first one's."""
        self.order = made.order
        """Positions, in the order in which they are asked."""

    def __len__(self) -> int:
        return len(self.offsets)

    def open(self) -> "LineReader":
        """A reader of its lines. Raises OSError."""
        return LineReader(self)

    def request(self, data: bytes, position: int) -> BatchLine:
        """The request of a line that was read. Raises WrongLine, for one whose custom_id another has, too."""
        if int(self.lengths[position]) > self._bounds.line_bytes:
            raise WrongLine("line_too_long", f"line: expected at most {self._bounds.line_bytes} bytes")
        line = read_line(data, self._limits, self.url)
        if first := int(self.twice[position]):
            message = f"custom_id: got the one of line {first}, expected another in each line"
            raise WrongLine("duplicate_custom_id", message, "custom_id", line.custom_id)
        return line


class LineReader:
    """Reads lines of an index again. Close it."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._file = os.open(index.path, os.O_RDONLY)

    def read(self, position: int) -> bytes:
        """A line, or the beginning of one that is too long. Raises FilesChanged where it is not what was indexed."""
        index = self._index
        length = int(index.lengths[position])
        if length > index._bounds.line_bytes:
            return b""
        data = os.pread(self._file, length, int(index.offsets[position]))
        if id_of(int(index.numbers[position]), data) != int(index.ids[position]):
            fail(
                FilesChanged, f"{index.path.name}: it is not what it was at the start", do="run the same command again"
            )
        return data

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def id_of(number: int, line: bytes) -> int:
    """The digest of a line of a file and its number."""
    return int.from_bytes(blake2b(line, digest_size=8, salt=number.to_bytes(8)).digest())


class _Made:
    """An index while it is made."""

    def __init__(self, index: Index, seen: Callable[[int, int], None], wrong: Callable[[Problem], None]) -> None:
        offsets, lengths, numbers, ids = array("Q"), array("Q"), array("Q"), array("Q")
        named, digests = array("Q"), tuple(array("Q") for _ in LEVELS)
        secret = secrets.token_bytes(16)
        told = 0
        for number, offset, length, data in _lines(index.path, index._bounds):
            if len(offsets) == index._bounds.lines:
                fail(BadFile, f"{index.path.name}: lines", got="more", expected=f"at most {index._bounds.lines}")
            offsets.append(offset)
            lengths.append(length)
            numbers.append(number)
            ids.append(id_of(number, data))
            name, begins = 0, (0,) * len(LEVELS)
            try:
                if length > index._bounds.line_bytes:
                    message = f"line: got {length} bytes, expected at most {index._bounds.line_bytes}"
                    raise WrongLine("line_too_long", message)
                line = read_line(data, index._limits, index.url)
                name, begins = _digest(line.custom_id.encode(), secret), _beginning(line, secret)
                index.model = index.model or line.model
                index.requests += 1
            except WrongLine as error:
                wrong(Problem(number, error))
            named.append(name)
            for level, digest in zip(digests, begins, strict=True):
                level.append(digest)
            if offset - told >= _PIECE:
                seen(offset, index.size_bytes)
                told = offset
        seen(index.size_bytes, index.size_bytes)
        self.offsets, self.lengths, self.numbers, self.ids = map(_frozen, (offsets, lengths, numbers, ids))
        if len(np.unique(self.ids)) < len(self.ids):
            fail(BadFile, f"{index.path.name}: two lines have one digest", do="add a blank line before the first one")
        self.twice = _twice(_frozen(named), self.numbers)
        for position in np.flatnonzero(self.twice):
            message = f"custom_id: got the one of line {self.twice[position]}, expected another in each line"
            wrong(Problem(int(self.numbers[position]), WrongLine("duplicate_custom_id", message, "custom_id")))
        self.order, self.begins = _ordered([_frozen(level) for level in digests])


def _frozen(numbers: "array[int]") -> Ids:
    return np.frombuffer(numbers, np.uint64) if numbers else np.zeros(0, np.uint64)


def _lines(path: Path, bounds: FileLimits) -> Iterator[tuple[int, int, int, bytes]]:
    """(number from 1, offset, length, bytes) of each line that is not blank; of one that is too long, no bytes."""
    number = offset = 0
    with path.open("rb") as file:
        while data := file.readline(bounds.line_bytes + 2):
            number += 1
            if number > BLANKS * bounds.lines:
                expected = f"at most {BLANKS * bounds.lines}, blank ones counted"
                fail(BadFile, f"{path.name}: lines", got="more", expected=expected)
            give_way()
            length = len(data)
            whole = data.endswith(b"\n")
            while not whole and (more := file.readline(_PIECE)):  # too long, or the file's last one
                length, whole, data = length + len(more), more.endswith(b"\n"), b""
            said = length - 1 if whole else length
            if said > bounds.line_bytes:
                yield number, offset, said, b""
            elif data.strip():
                yield number, offset, said, data[:said]
            offset += length


def _digest(data: bytes, secret: bytes) -> int:
    """A digest that nobody can foresee, never 0."""
    return int.from_bytes(blake2b(data, digest_size=8, key=secret).digest()) or 1


def _beginning(line: BatchLine, secret: bytes) -> tuple[int, ...]:
    """Digests of how a request begins, at each of LEVELS. What embeds texts shares nothing."""
    if line.url == "/v1/embeddings":
        return (1,) * len(LEVELS)
    digest = blake2b(digest_size=8, key=secret)
    found: list[int] = []
    size = 0
    for piece in _pieces(line):
        at = 0
        while at < len(piece) and len(found) < len(LEVELS):
            part = piece[at : at + LEVELS[len(found)] - size]
            digest.update(part)
            at, size = at + len(part), size + len(part)
            if size == LEVELS[len(found)]:
                found.append(int.from_bytes(digest.digest()))
        if len(found) == len(LEVELS):
            break
    return (*found, *[int.from_bytes(digest.digest())] * (len(LEVELS) - len(found)))


def _pieces(line: BatchLine) -> Iterator[bytes]:
    """What a prompt is made of, in pieces."""
    yield line.url.encode()
    for name in PROMPT:
        value = line.body.get(name)
        for part in value if isinstance(value, list) else [value]:
            if part is not None:
                yield (name + (part if isinstance(part, str) else dumps(part))).encode()


def _twice(named: Ids, numbers: Ids) -> Ids:
    """Numbers of the first lines of the same name, for lines that are not the first; else 0. A name of 0 is none."""
    found = np.zeros(len(named), np.uint64)
    if len(named):
        _, first, which = np.unique(named, return_index=True, return_inverse=True)
        later = (first[which] != np.arange(len(named))) & (named != 0)
        found[later] = numbers[first[which][later]]
    return found


def _ordered(levels: list[Ids]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(order, group of each line as far as SHARED): by each level in turn, groups as the file has their first lines."""
    count = len(levels[0])
    group = np.zeros(count, np.int64)
    ranks, shared = [], group
    for i, level in enumerate(levels):
        pairs = np.stack([group.astype(np.uint64), level], axis=1)
        _, first, which = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        group = first[which.reshape(-1)] if count else group  # a group is called by its first line
        ranks.append(group)
        if i == SHARED:
            shared = group
    return np.lexsort([np.arange(count), *reversed(ranks)]), shared


def check_has_requests(index: Index, first: str) -> None:
    """Raise UsageError for a file without any request. first: what is wrong with its first line."""
    if not index.requests:
        got = f"none; {first}" if first else "no line"
        fail(UsageError, f"{index.path.name}: requests", got=got, expected="one a line, as OpenAI's batches have them")
