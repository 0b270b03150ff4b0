"""Bytes of adapters, as an engine counts them."""

import numpy as np
import pytest

from helpers import op_set, weights
from herd.config import SCOUT, TINY
from herd.engine import adapters
from herd.model import place_weights
from herd.ops.contract import LowRank
from herd.planning.adapters import ATTENTION, EXPERTS, MLPS, adapter_bytes
from herd.weights import shape_of


@pytest.mark.parametrize("targets", [ATTENTION, (*ATTENTION, *MLPS), (*ATTENTION, "router", *MLPS, *EXPERTS)])
@pytest.mark.parametrize("layers", [None, (1, 2)])
def test_an_adapter_takes_what_the_engine_says(targets: tuple[str, ...], layers: tuple[int, ...] | None) -> None:
    ops = op_set("native")
    placed = place_weights(ops, weights(TINY))
    pairs = {}
    for name, weight in adapters._matrices(placed.blocks):
        path = name.split(".")
        target = ".".join(path[-2:]) if ".experts." in name else path[-1]
        if target in targets and (layers is None or int(path[2]) in layers):
            *front, outputs, inputs = shape_of(weight)
            pairs[name] = LowRank(np.zeros((*front, 3, inputs)), np.zeros((*front, outputs, 3)), 1.0)
    assert pairs
    assert adapter_bytes(TINY, 3, targets, layers) == adapters.ready("a", pairs, placed, ops).num_bytes


def test_rank_16_on_the_attention_of_scout() -> None:
    assert adapter_bytes(SCOUT, 16) == 48 * 16 * 4 * (2 * 2 * 5120 + 2 * (5120 + 1024)) == 100_663_296
