"""The vision tower and its adapter: tiles -> rows of text features, through the same four ops as text blocks.

LayerNorm, biases and GELU are in the weights; attention is full inside one tile, and tiles never see each other.
"""

import numpy as np
import numpy.typing as npt

from herd.batch import Context, segments
from herd.config import VisionConfig
from herd.errors import UsageError, fail
from herd.ops.contract import Extras, Observer, Ops
from herd.weights import Array, Vision


def angles(v: VisionConfig) -> npt.NDArray[np.float64]:
    """[M, H/2]: the first half of the pairs turn with the column, the others with the row; class token: 0."""
    row, column = np.divmod(np.arange(v.grid**2), v.grid)
    pairs = v.head_size // 4
    freqs = v.rope_theta ** (-2.0 * np.arange(pairs) / (v.head_size // 2))
    patches = np.concatenate([(column[:, None] + 1) * freqs, (row[:, None] + 1) * freqs], 1)
    return np.concatenate([patches, np.zeros((1, 2 * pairs))])


def encode_images(ops: Ops, v: VisionConfig, w: Vision, pixels_I3SS: Array, observe: Observer | None = None) -> Array:
    """Features [I * tokens_per_tile, D] of I tiles, pixels normalised to mean 0.5, deviation 0.5.

    observe sees the inputs of the tower's weights. Adapters are not taken here: their row map counts text rows, and the
    tower's ops have rows of three other counts; merge them into its weights.
    Raises UsageError for tiles of another size.
    """
    size = v.image_size
    if tuple(pixels_I3SS.shape[1:]) != (3, size, size):
        fail(UsageError, "tiles", got=f"shape {tuple(pixels_I3SS.shape)}", expected=f"[I, 3, {size}, {size}]")
    I, M = len(pixels_I3SS), v.num_patches  # noqa: E741
    extras = None if observe is None else Extras(observe=observe)
    x_TU = ops.patches(pixels_I3SS, w, v.patch_size, extras)
    cos_sin = ops.angles_from(np.tile(angles(v), (I, 1)))
    tiles = segments([M] * I)
    placed = ops.place(Context(np.zeros(I * M, np.int64), tiles, tiles)).full
    for b in w.blocks:
        q, k, vv = ops.qkv(x_TU, b.norm1, b.q, b.k, b.v, v.head_size, cos_sin, None, None, extras)
        x_TU = ops.out_add(x_TU, ops.attend(q, k, vv, placed, None, causal=False), b.o, extras)
        assert b.ffn.kind == "mlp"
        x_TU = ops.mlp_add(x_TU, b.norm2, b.ffn, extras)
    return ops.adapt(x_TU, w, I, v.grid, v.pixel_shuffle, extras)
