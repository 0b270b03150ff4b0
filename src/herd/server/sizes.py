"""What parts of a request may become in memory, in bytes: asked before the work, on what is known then.

What it is not: who may hold how much (`admission`), what all of it is together (`holders`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.llm import LLM
from herd.llm.streams import ID_BYTES
from herd.media.tiling import MAX_TILES

VECTOR_BYTES = 80
"""Of one number of a vector: as float32, in a list, and as JSON (measured: 69)."""
FLOAT_BYTES = 4
TILES_TWICE = 2
"""Tiles lie beside their joined form while a request is prepared."""


def text_bytes(*values: Any) -> int:
    """Most bytes that all texts in objects and lists have as UTF-8. Looks at each text, not at its characters."""
    found, waiting = 0, list(values)
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found += len(one) if one.isascii() else 4 * len(one)
        elif isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found


def prompt_bytes(llm: LLM, text: int) -> int:
    """What a text of so many bytes may become as ids. One that cannot fit the context is refused before it does."""
    return ID_BYTES * min(text, llm.context * llm.tokenizer.longest_bytes)


def tiles_bytes(llm: LLM, messages: Sequence[Mapping[str, Any]] | None) -> int:
    """What the images of a dialog may become as tiles, while they are prepared."""
    vision = llm.config.vision
    if vision is None:
        return 0
    contents = (turn.get("content") for turn in messages or ())
    images: int = sum(part.get("type") == "image" for one in contents if isinstance(one, list) for part in one)
    return images * TILES_TWICE * (MAX_TILES + 1) * 3 * vision.image_size * vision.image_size * FLOAT_BYTES
