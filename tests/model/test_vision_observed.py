"""The tower's weights are observed as the text's are: each once a pass, with the rows that go into it."""

from typing import Any

import numpy as np
import pytest

from helpers import op_set, placed
from herd.config import TINY
from herd.model import encode_images
from herd.weights import Vision


class Rows:
    """Counts the rows each weight saw."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, ...]]] = {}

    def seen(self, name: str, x_RI: Any, expert: int | None = None) -> None:
        self.rows.setdefault(name, []).append(tuple(x_RI.shape))


@pytest.mark.parametrize("name", ["torch", "native"])
def test_every_weight_of_the_tower_is_seen_once_with_its_rows(name: str) -> None:
    ops, v = op_set(name), TINY.vision
    assert v is not None
    tower: Vision = placed(TINY, ops).vision
    pixels = ops.array(np.random.default_rng(0).standard_normal((3, 3, v.image_size, v.image_size)).astype(np.float32))
    rows = Rows()
    plain = ops.numpy(encode_images(ops, v, tower, pixels))
    np.testing.assert_allclose(ops.numpy(encode_images(ops, v, tower, pixels, rows)), plain, rtol=1e-5, atol=1e-5)
    inside = "vision_model.model.layers."
    assert len([n for n in rows.rows if n.startswith(inside)]) == 6 * v.num_layers
    assert rows.rows.pop("vision_model.patch_embedding.linear") == [(3 * v.grid**2, 3 * v.patch_size**2)]
    for weight, shapes in rows.rows.items():
        assert len(shapes) == 1, weight
        assert shapes[0][0] == 3 * (v.num_patches if weight.startswith(inside) else v.tokens_per_tile), weight
