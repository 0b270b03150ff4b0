"""Everything in the service's own memory that clients can fill, each with its limit in bytes; `herd serve --limits`
sums them up.

What it is not: the model and its cache (`herd.planning`), which live in the engine's process, nor grammars' trials.
Every figure is a bound: of bodies that are the worst for their length, answers that nobody reads.
"""

from collections.abc import Iterator
from typing import NamedTuple

from herd.lanes import COMPUTING, LARGE, LARGE_AT_ONCE
from herd.media.limits import PIXEL_BYTES, PIXELS_AT_ONCE
from herd.server import profiles
from herd.server.catalogue import ABOUT_BYTES, MOST_ABOUT
from herd.server.file_store import LINE_BYTES, RECORD_BYTES
from herd.server.limits import Limits
from herd.server.log import MOST_BYTES
from herd.server.metrics import MOST_MODELS, SERIES_BYTES
from herd.store.registry import MAX_REGISTRY_BYTES

BODY_FACTOR = 4
"""Bytes that one byte of a body takes at most once it is JSON: a character of an ASCII text with one emoji. Values are
counted as bytes when they are held (see `intake`)."""
PARSING_FACTOR = 6
"""Bytes that one byte of a body takes beside those while it is parsed: in pieces, joined, as text (measured: 5)."""
RECORDS_FACTOR = 12
"""Bytes in memory for one byte of a file of records: as bytes, parsed, and once more while it is written (measured:
10)."""
CONNECTION_BYTES = 640 << 10
"""Bytes of one connection: what was read of it and not yet taken (256 KiB come at once), a head twice, what is written
and not yet read (128 KiB), its objects."""


class MemoryHolder(NamedTuple):
    """A part of the service's memory that clients can fill."""

    name: str
    most_bytes: int
    of: str
    """Description: what it is, and which limits it follows from."""


def holders(limits: Limits) -> Iterator[MemoryHolder]:
    """All such parts, under these limits."""
    yield MemoryHolder(
        "bodies", BODY_FACTOR * limits.bytes_in_flight, f"requests under way: {BODY_FACTOR} bytes_in_flight"
    )
    parsed = (1 + LARGE_AT_ONCE) * limits.media_body_bytes + COMPUTING * LARGE
    yield MemoryHolder(
        "parsing", PARSING_FACTOR * parsed, f"bodies that are read or prepared: {1 + LARGE_AT_ONCE} media_body_bytes"
    )
    yield MemoryHolder("answers", limits.answers_bytes, "prompts, tiles, tokens, vectors, whole replies: answers_bytes")
    yield MemoryHolder(
        "pixels", PIXEL_BYTES * PIXELS_AT_ONCE, f"images that are being decoded: {PIXELS_AT_ONCE} pixels"
    )
    yield MemoryHolder("stored responses", limits.stored_bytes, "stored_bytes")
    yield MemoryHolder(
        "connections", CONNECTION_BYTES * limits.connections, f"connections, {CONNECTION_BYTES} bytes each"
    )
    files = profiles.MAX_BYTES + MAX_REGISTRY_BYTES
    yield MemoryHolder("records", RECORDS_FACTOR * files, f"models.json and profiles.json: {files} bytes")
    index = limits.batches_at_once * limits.batch_lines * LINE_BYTES
    yield MemoryHolder(
        "batches", limits.batches * RECORD_BYTES + index, f"records of batches, and lines of {limits.batches_at_once}"
    )
    yield MemoryHolder("descriptions", MOST_ABOUT * ABOUT_BYTES, f"headers of {MOST_ABOUT} models")
    yield MemoryHolder("metrics", MOST_MODELS * SERIES_BYTES, f"series of {MOST_MODELS} models")
    yield MemoryHolder("log", MOST_BYTES, "lines that nobody has read")


def sum_of(limits: Limits) -> int:
    """The bytes of all of them together."""
    return sum(holder.most_bytes for holder in holders(limits))
