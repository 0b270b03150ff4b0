"""What an LLM says about itself to whoever speaks to models of any kind (`herd.chat_model`)."""

from herd.chat_model import Capabilities, Sizes
from herd.config import Llama4Config
from herd.media.tiling import MAX_TILES
from herd.text.tokenizer import Tokenizer

FLOAT_BYTES = 4
TILES_TWICE = 2
"""Tiles lie beside their joined form while a request is prepared."""
CHARACTER_BYTES = 4
"""The most that a character of UTF-8 has."""


def capabilities(config: Llama4Config, *, template: bool = False) -> Capabilities:
    """What a model of this shape can do. template: whether its own chat template writes its dialogs."""
    return Capabilities(
        completion=True,
        images=config.vision is not None,
        tools=True,
        begun=True,
        template=template,
        schemas=True,
        logprobs=True,
        ids=True,
        scores=True,
        embeddings=True,
    )


def sizes(config: Llama4Config, tokenizer: Tokenizer) -> Sizes:
    """What requests to it may take in memory."""
    pixels = 0 if config.vision is None else 3 * config.vision.image_size**2
    return Sizes(
        token_bytes=tokenizer.longest_bytes,
        spelt_bytes=max(tokenizer.longest_bytes, *(CHARACTER_BYTES * len(name) for name in tokenizer.added), 1),
        image_bytes=TILES_TWICE * (MAX_TILES + 1) * pixels * FLOAT_BYTES,
        vector_size=config.width,
    )
