"""Bytes that a pass holds beside weights and cache, as arithmetic on a config: what `ops.native` keeps for its threads,
the arrays between its operations, logits, and what one image takes.

    kept     the widest operation's inputs, inner rows and outputs (native/core/layers.cpp), and their rows in 8 bits
    between  the residual stream, q, k, v and the attended rows of a layer
    drawn    logits, and the copies in float64 that a draw makes of one row

What is kept stays taken after the pass, and so does most of what lies between: allocators give little of it back. The
few hundred KiB that each thread has for its tiles are not counted.
"""

from herd.config import Llama4Config, VisionConfig

FLOAT = 4
DRAWN = 8
"""Rows of logits in float32 that the copies of a draw are worth: four in float64."""
TILES_PER_PASS = 4
"""Image tiles that go through the vision tower at once; they never see each other, so any number gives the same."""
IMAGE_TILES = 17
"""Most tiles of an image: 16 and the whole of it."""


def pass_bytes(config: Llama4Config, rows: int) -> int:
    """Bytes of a pass of so many rows, without its logits."""
    c = config
    heads = c.head_size * (2 * c.num_heads + 2 * c.num_kv_heads)
    return kept_bytes(c, rows) + FLOAT * rows * (c.width + heads)


def kept_bytes(config: Llama4Config, rows: int) -> int:
    """Bytes that the widest operation of a layer keeps."""
    c, D = config, config.width
    most = [_inputs(rows, D)]
    if not all(layer.moe for layer in c.layers):
        most.append(_inputs(rows, D) + _inputs(rows, c.dense_width))
    if any(layer.moe for layer in c.layers):
        routed = rows * c.experts_per_token
        shared = _inputs(rows, D) + _inputs(rows, c.expert_width)
        own = _inputs(routed, D) + _inputs(routed, c.expert_width)
        most.append(shared + own + FLOAT * D * (routed + rows))
    return max(most)


def logits_bytes(config: Llama4Config, rows: int) -> int:
    """Bytes of the logits of so many rows, and of a draw from one of them."""
    return FLOAT * config.vocab_size * (rows + DRAWN)


def tiles_bytes(vision: VisionConfig, tiles: int = TILES_PER_PASS) -> int:
    """Bytes of one pass of tiles through the vision tower."""
    rows = tiles * vision.num_patches
    kept = _inputs(rows, vision.width) + _inputs(rows, vision.mlp_width)
    return kept + FLOAT * rows * 5 * vision.width


def image_bytes(config: Llama4Config, tiles: int = IMAGE_TILES) -> int:
    """Bytes of an image that waits to be read: its pixels, twice while they are cut, and its features; 0 for a text
    model."""
    v = config.vision
    return 0 if v is None else FLOAT * tiles * (6 * v.image_size**2 + v.tokens_per_tile * config.width)


def _inputs(rows: int, width: int) -> int:
    """Bytes of the inputs of a product, in float32 and, as quantised weights want them, in 8 bits with sums."""
    return rows * (FLOAT * width + -(-width // 256) * 336)
