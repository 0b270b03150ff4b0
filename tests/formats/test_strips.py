"""Strips against a loop that follows the table in words, and there and back."""

import numpy as np
import pytest

from herd.errors import BadCheckpoint
from herd.formats import strips


@pytest.mark.parametrize("name", strips.UNITS)
@pytest.mark.parametrize("outputs", [1, 16, 21])
def test_there_and_back(name: str, outputs: int) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 256, (2, outputs, 3 * strips.block_bytes(name)), dtype=np.uint8)
    packed = strips.to_strips(name, codes)
    assert packed.shape == (2, strips.num_strips(outputs), 16 * codes.shape[-1])
    assert (strips.from_strips(name, packed, outputs) == codes).all()


@pytest.mark.parametrize("name", strips.UNITS)
def test_every_unit_lies_where_the_table_says(name: str) -> None:
    size, outputs, blocks = strips.block_bytes(name), 19, 2
    codes = np.random.default_rng(2).integers(1, 256, (outputs, blocks * size), dtype=np.uint8)
    packed = strips.to_strips(name, codes)
    expected = np.zeros_like(packed)
    for o in range(outputs):
        for b in range(blocks):
            at = 0
            for unit, count in strips.UNITS[name]:
                for i in range(count):
                    for byte in range(unit):
                        place = b * 16 * size + 16 * (at + i * unit) + (o % 16) * unit + byte
                        expected[o // 16, place] = codes[o, b * size + at + i * unit + byte]
                at += unit * count
    assert (packed == expected).all()


@pytest.mark.parametrize("name", strips.UNITS)
def test_rows_are_picked_out_of_strips(name: str) -> None:
    codes = np.random.default_rng(3).integers(0, 256, (21, 2 * strips.block_bytes(name)), dtype=np.uint8)
    rows = np.array([20, 0, 15, 16, 0])
    assert (strips.pick_rows(name, strips.to_strips(name, codes), rows) == codes[rows]).all()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(BadCheckpoint, match="q4_0 row"):
        strips.to_strips("q4_0", np.zeros((16, 17), np.uint8))
    with pytest.raises(BadCheckpoint, match="format of a strip"):
        strips.to_strips("f32", np.zeros((16, 4), np.uint8))
    with pytest.raises(BadCheckpoint, match="strips of 17 rows"):
        strips.from_strips("q4_0", np.zeros((1, 16 * 18), np.uint8), 17)
