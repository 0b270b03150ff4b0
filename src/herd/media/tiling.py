"""How an image is laid out in tiles: whole numbers only, so that every machine makes the same plan.

Source: the preprocessing published with Llama 4 (llama-models and transformers agree on it). S is the side of a tile.
"""

from dataclasses import dataclass

MAX_TILES = 16
"""Llama 4 was trained with up to 16 tiles an image and a global one."""


@dataclass(frozen=True)
class TilePlan:
    """A canvas of tiles and the size that the image gets on it, from the upper left corner."""

    tiles_wide: int
    tiles_high: int
    width: int
    height: int

    @property
    def num_tiles(self) -> int:
        """Tiles the model sees: those of the canvas, and the global one when they are several."""
        local = self.tiles_wide * self.tiles_high
        return local + (local > 1)


def plan(width: int, height: int, tile: int, max_tiles: int = MAX_TILES) -> TilePlan:
    """The plan of an image of width x height pixels, both 1 or more.

    Canvas: of all a x b tiles with a b <= max_tiles, the one that needs the smallest enlargement; if all would shrink
    the image, the one that shrinks it least; of equal ones the smallest. The image then fills that canvas as far as
    its shape allows, but is not enlarged past one tile.
    """
    a, b = _canvas(width, height, tile, max_tiles)
    most_wide, most_high = min(max(width, tile), tile * a), min(max(height, tile), tile * b)
    if most_wide * height <= most_high * width:
        return TilePlan(a, b, most_wide, max(height * most_wide // width, 1))
    return TilePlan(a, b, max(width * most_high // height, 1), most_high)


def _canvas(width: int, height: int, tile: int, max_tiles: int) -> tuple[int, int]:
    # The scale of a canvas, min(S a / width, S b / height), times width height / S is a whole number.
    shapes = [(a, b) for a in range(1, max_tiles + 1) for b in range(1, max_tiles // a + 1)]
    scales = {(a, b): min(a * height, b * width) for a, b in shapes}
    enlarging = [scale for scale in scales.values() if scale * tile >= width * height]
    best = min(enlarging) if enlarging else max(scales.values())
    return min((s for s in shapes if scales[s] == best), key=lambda s: s[0] * s[1])
