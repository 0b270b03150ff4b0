"""What is asked of a source of weights, and whether two answers are the same."""

from typing import Any

import numpy as np

from herd.formats import strips
from herd.weights import Dense, Experts, Packed, Pair, Source


def ask(source: Source, w: Any) -> Any:
    if w.kind == "vector":
        return source.vector(w.name, w.shape)
    return source.experts(w.name, *w.shape) if w.kind == "experts" else source.matrix(w.name, *w.shape, bias=w.bias)


def rows(node: Packed) -> np.ndarray:
    codes = np.asarray(node.codes)
    return codes if node.layout == "rows" else strips.from_strips(node.format, codes, node.shape[-2])


def assert_same(a: Any, b: Any) -> None:
    """Two answers to one request mean the same bits."""
    assert type(a) is type(b)
    if isinstance(a, Pair):
        assert_same(a.gate, b.gate)
        assert_same(a.up, b.up)
    elif isinstance(a, Packed):
        assert (a.format, a.shape) == (b.format, b.shape)
        assert np.array_equal(rows(a), rows(b))
    elif isinstance(a, Dense | Experts):
        assert a.w.dtype == b.w.dtype
        assert np.array_equal(a.w, b.w)
        bias = getattr(a, "bias", None)
        assert bias is None or np.array_equal(bias, b.bias)  # type: ignore[union-attr]
    else:
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
