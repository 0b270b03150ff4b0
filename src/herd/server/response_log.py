"""What was said of a response that is made in the background, event by event, for whoever reads it as a stream: now,
later, or again from where a connection broke.

Lines of JSON behind each other, some bytes more than the text itself. What they mean is up to whoever writes them.
"""

import asyncio
from collections.abc import AsyncGenerator

OVERHEAD_BYTES = 512
"""Bytes of a log beside its lines."""


class ResponseLog:
    """Lines that are added while others read them. Use it on the event loop only."""

    def __init__(self) -> None:
        self._data: bytes | bytearray = bytearray()
        self._changed = asyncio.Event()
        self.is_over = False
        """Whether nothing comes any more."""
        self.is_lost = False
        """Whether it was dropped, since it could not be kept."""

    @property
    def size_bytes(self) -> int:
        """Its size in memory: one that grows may have an eighth in reserve."""
        return OVERHEAD_BYTES + len(self._data) + (0 if self.is_over else len(self._data) // 8)

    def add(self, line: bytes) -> None:
        """Add a line of JSON."""
        assert isinstance(self._data, bytearray), "it is over"
        self._data += line
        self._data += b"\n"
        self._tell()

    def end(self) -> None:
        """Nothing comes any more."""
        if not self.is_over:
            self._data, self.is_over = bytes(self._data), True
            self._tell()

    def drop(self) -> None:
        """Forget all lines; whoever reads them learns that they are lost."""
        self._data, self.is_over, self.is_lost = b"", True, True
        self._tell()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """All lines from the first one, those that come later as they come."""
        begin = 0
        while True:
            changed, end = self._changed, self._data.find(b"\n", begin)
            if end >= 0:
                line, begin = bytes(self._data[begin:end]), end + 1
                yield line
            elif self.is_over:
                return
            else:
                await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
