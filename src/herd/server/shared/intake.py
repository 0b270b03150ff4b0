"""A request's body -> what a route makes of it: read within its key's share, understood in its key's lane.

What it is not: the parser (`body`), what a route's fields mean (the dialects).
"""

from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request

from herd.server.http.body import read_body, read_object, values_of
from herd.server.service import Caller, Service

T = TypeVar("T")
VALUE_BYTES = 24
"""Bytes that one value of a body counts beside its own: four times what it takes as an object (measured: 32 to 88)."""
BLOCK = 256 << 10
"""Bytes: what comes in smaller pieces is put together up to this size."""


class Blocks:
    """A body as it comes. No piece makes the event loop copy what came before it, as a growing buffer would, and small
    pieces cost no more than their bytes."""

    def __init__(self) -> None:
        self._blocks: list[bytearray] = []

    def add(self, piece: bytes) -> None:
        """Keep the next piece."""
        if self._blocks and len(self._blocks[-1]) + len(piece) <= BLOCK:
            self._blocks[-1] += piece
        else:
            self._blocks.append(bytearray(piece))

    def whole(self) -> bytes:
        """All pieces as one, copied; the blocks are gone."""
        blocks, self._blocks = self._blocks, []
        return b"".join(blocks)


async def read_as(
    service: Service, request: Request, caller: Caller, make: Callable[[dict[str, Any]], T], *, media: bool = False
) -> T:
    """What `make` makes of the body's JSON object, beside the event loop where it is long. media: images may be in it.

    Raises UsageError for what is no such object, Busy for a body beyond the key's share, what `make` raises, and
    TooLarge and TimedOut as `read_body` does.
    """
    body = Blocks()
    values = size = 0
    async for piece in read_body(request, service.limits, caller.admission.hold, media=media):
        body.add(piece)
        size += len(piece)
        values += values_of(piece)
    caller.admission.hold(VALUE_BYTES * min(values, service.limits.json_values))
    return await service.read(caller, lambda: make(read_object(body.whole(), service.limits)), size)
