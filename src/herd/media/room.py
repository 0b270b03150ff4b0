"""Room for pixels: how many may be decoded at one time, whoever asks. First come, first served.

What it is not: a limit of one image (`limits`).
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from herd.media.limits import PIXELS_AT_ONCE


class PixelRoom:
    """So many pixels at once. Any thread may ask."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait for room for so many, and hold it; for more than there ever is, for all of it."""
        count, turn = min(pixels, self._most), object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._free >= count)
                self._free -= count
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()


ROOM = PixelRoom(PIXELS_AT_ONCE)
"""The room of this process."""
