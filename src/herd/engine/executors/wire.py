"""Messages between a process that asks and the one that computes: frames of MessagePack over two pipes.

    frame   8 bytes, little-endian: length; then one message

What cannot be read raises BadFrame, and memory is taken only as bytes come, whatever a length says.
Only ids, numbers, options, tiles and results cross, each message of a fixed type; nothing that is read makes code run
(no pickle). An error crosses as the name of its class in herd.errors and its line; a name that is not there becomes
PassFailed.
"""

import os
import struct
import threading
import weakref
from contextlib import suppress
from typing import IO, Any, TypeAlias

import msgspec
import numpy as np

from herd import errors
from herd.engine.messages import Event
from herd.engine.request import Request
from herd.errors import HerdError, PassFailed, UsageError, fail, kind_and_words
from herd.events import Counters

HEADER = struct.Struct("<Q")
MAX_FRAME = 1 << 32
"""Most bytes of one message. Logits of a pass of 512 rows over 200,000 tokens take a tenth of it."""
STEP_BYTES = 1 << 20
"""Most memory that is taken for bytes that have not come yet, while what has come is no longer."""


class WireMessage(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of the messages that are neither requests nor events."""


class Setup(WireMessage, frozen=True):
    """The first message: what to load, as bytes that only the loader understands."""

    data: bytes


class Cancel(WireMessage, frozen=True):
    """End a sequence."""

    number: int


class NewWeights(WireMessage, frozen=True):
    """Go on with the weights of the checkpoint at this path."""

    path: str


class AddAdapter(WireMessage, frozen=True):
    """Let requests name an adapter."""

    name: str
    pairs: dict[str, tuple[np.ndarray, np.ndarray, float]]
    """Name of a weight -> down, up and scale of `ops.contract.LowRank`."""


class DropAdapter(WireMessage, frozen=True):
    """Remove an adapter."""

    name: str


class Loading(WireMessage, frozen=True):
    """Progress of loading."""

    stage: str
    done: int
    total: int


class Ready(WireMessage, frozen=True):
    """The model is loaded: its limits and special ids."""

    vocab_size: int
    context: int
    patch_id: int | None
    tokens_per_tile: int
    load_s: float


class Done(WireMessage, frozen=True):
    """A change between two steps has been made."""


class Failed(WireMessage, frozen=True):
    """Loading, or the change that was asked for, failed with this error."""

    error: HerdError


class Routed(WireMessage, frozen=True):
    """Experts that the rows of a traced sequence went to, in one layer of a pass."""

    number: int
    layer: int
    positions_T: list[int]
    experts_TA: list[list[int]]
    scores_TA: list[list[float]]


class Progressed(WireMessage, frozen=True):
    """Counters of the core so far."""

    counters: Counters


DTYPES = tuple(np.dtype(kind).str for kind in ("f2", "f4", "f8"))
"""Types of arrays that may cross: tiles, logits, states and adapters."""
Down: TypeAlias = Setup | Request | Cancel | NewWeights | AddAdapter | DropAdapter
Up: TypeAlias = Loading | Ready | Failed | Done | Routed | Progressed | Event


class BadFrame(OSError):
    """Bytes that are no message: the pipe cannot be used any more."""


class Channel:
    """One end of the two pipes; any thread may send, one reads. Ends of file raise EOFError, broken pipes OSError."""

    def __init__(self, source: IO[bytes], target: IO[bytes], reads: Any) -> None:
        self._source, self._target = source, target
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
        self._decoder = msgspec.msgpack.Decoder(reads, dec_hook=_made)
        self._lock = threading.Lock()
        _open.add(self)

    def send(self, *messages: Any) -> None:
        """Write messages, together. Raises UsageError for one that cannot be written: nothing is sent then."""
        frames = []
        for message in messages:
            try:
                data = self._encoder.encode(message)
            except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
                fail(UsageError, f"a message ({type(message).__name__}) cannot be sent", got=str(error))
            if len(data) > MAX_FRAME:
                fail(UsageError, "a message", got=f"{len(data)} bytes", expected=f"at most {MAX_FRAME}")
            frames += [HEADER.pack(len(data)), data]
        with self._lock:
            self._target.write(b"".join(frames))
            self._target.flush()

    def receive(self) -> Any:
        """The next message. Raises BadFrame for bytes that are none."""
        (length,) = HEADER.unpack(self._exactly(HEADER.size))
        if length > MAX_FRAME:
            raise BadFrame(f"a frame of {length} bytes, the most is {MAX_FRAME}")
        data = self._exactly(length)
        try:
            return self._decoder.decode(data)
        except Exception as error:  # whatever the parts of a message make of hostile bytes
            raise BadFrame(kind_and_words(error)) from None

    def close(self, wait_s: float = 0.0) -> bool:
        """Close the writing end, so that the other side reads an end of file. Returns False when it was not closed: for
        wait_s seconds another thread was writing to a side that does not read."""
        if not self._lock.acquire(timeout=wait_s):
            return False
        with suppress(OSError):  # unsent bytes for a process that is gone
            self._target.close()
        self._lock.release()
        return True

    def let_go(self) -> None:
        """Drop both pipes, in a fork, so that each side still sees when the other is gone, and nothing that the fork
        writes or flushes comes between the frames of the original process."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in (self._source, self._target):
            with suppress(OSError, ValueError):  # closed, or no file of the system
                os.dup2(nowhere, file.fileno(), inheritable=False)
        os.close(nowhere)

    def _exactly(self, size: int) -> bytearray:
        data = bytearray()
        while len(data) < size:
            more = self._source.read(min(size - len(data), max(STEP_BYTES, len(data))))
            if not more:
                raise EOFError("the other end is gone")
            data += more
        return data


_open: "weakref.WeakSet[Channel]" = weakref.WeakSet()


def _forked() -> None:
    for channel in list(_open):
        channel.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _plain(x: Any) -> Any:
    """A value that MessagePack does not know, as one that it does."""
    if isinstance(x, HerdError):
        return [type(x).__name__, str(x)]
    if isinstance(x, np.ndarray):
        return [x.dtype.str, list(x.shape), np.ascontiguousarray(x).data.cast("B") if x.size else b""]
    if isinstance(x, np.integer):
        return int(x)
    if isinstance(x, np.floating):
        return float(x)
    raise NotImplementedError(f"{type(x).__name__} does not cross")


def _made(kind: type, x: Any) -> Any:
    """The inverse of `_plain`."""
    if kind is HerdError:
        name, line = x
        found = getattr(errors, name, None)
        if isinstance(found, type) and issubclass(found, HerdError):
            return found(line)
        return PassFailed(line)
    if kind is np.ndarray:
        dtype, shape, data = x
        if dtype not in DTYPES:
            raise ValueError(f"an array of {str(dtype)[:20]} does not cross")
        return np.frombuffer(data, dtype).reshape(shape)
    raise NotImplementedError(f"{kind} does not cross")
