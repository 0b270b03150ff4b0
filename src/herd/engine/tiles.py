"""The images of one request on their way through the vision tower: only tiles that are needed, a few at a step."""

from typing import Any, Protocol

from herd.planning.buffers import TILES_PER_PASS


class ImageEncoder(Protocol):
    """The part of a ModelRunner that looks at images."""

    tokens_per_tile: int

    def encode_images(self, pixels_I3SS: Any) -> Any:
        """Image features [I * tokens_per_tile, D]."""


class Tiles:
    """The tiles of a request and their features so far. Tiles never attend to each other, so any grouping gives the
    same."""

    def __init__(self, pixels_I3SS: Any) -> None:
        self.pixels_I3SS = pixels_I3SS
        self._parts: dict[int, tuple[int, Any]] = {}
        """First tile -> (number of tiles, features)."""

    def features(self, first: int, count: int, seer: ImageEncoder) -> tuple[int, tuple[Any, ...]]:
        """Image features of the patch rows from `first` on: how many of the `count` there are now, and their blocks.

        Looks at no more than TILES_PER_PASS new tiles; at least one row is had when count is not 0.
        """
        size = seer.tokens_per_tile
        left = TILES_PER_PASS
        blocks: list[Any] = []
        row, end = first, first + count
        while row < end:
            tile = row // size
            begin = next((b for b, (n, _) in self._parts.items() if b <= tile < b + n), None)
            if begin is None:
                begin, n = tile, min(left, -(-end // size) - tile)
                n = min([n, *(b - tile for b in self._parts if b > tile)])
                if n == 0:
                    break
                self._parts[begin] = n, seer.encode_images(self.pixels_I3SS[begin : begin + n])
                left -= n
            n, features_RD = self._parts[begin]
            stop = min(end, (begin + n) * size)
            blocks.append(features_RD[row - begin * size : stop - begin * size])
            row = stop
        self._drop_before(first // size)
        return row - first, tuple(blocks)

    def forget(self) -> None:
        """Drop all features after a change of weights; those that are needed are computed again."""
        self._parts.clear()

    def _drop_before(self, tile: int) -> None:
        """Drop the features of earlier tiles: their rows are in the KV cache now."""
        for begin in [b for b, (n, _) in self._parts.items() if b + n <= tile]:
            del self._parts[begin]
