"""Look for NaN and infinity in the weights of any source, piece by piece in bounded memory."""

from pathlib import Path

import numpy as np

from herd.checkpoint.pieces import expert_rows, matrix_pieces
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.disk.small_files import listed
from herd.errors import BadCheckpoint, fail
from herd.formats import to_float32
from herd.formats.dtypes import Array
from herd.weights import Source


def check_source(path: Path, config: Llama4Config, source: Source) -> None:
    """Read all weights once; raise BadCheckpoint naming the tensors that hold a NaN or an infinity."""
    bad = []
    for wanted in walk(config):
        name, shape = wanted.name, wanted.shape
        if wanted.kind == "vector":
            ok = _finite(source.vector(name, shape))
        elif wanted.kind == "experts":
            ok = all(_finite(piece) for piece in expert_rows(source.experts(name, *shape), name, *shape))
        else:
            node = source.matrix(name, *shape, bias=wanted.bias)
            bias = getattr(node, "bias", None)
            ok = all(_finite(piece) for piece in matrix_pieces(node, name, *shape))
            ok = ok and (bias is None or _finite(bias))
        if not ok:
            bad.append(name)
    if bad:
        fail(BadCheckpoint, f"{path}: {len(bad)} weights hold a NaN or an infinity", got=listed(bad))


def _finite(x: Array) -> bool:
    return bool(np.isfinite(to_float32(x)).all())
