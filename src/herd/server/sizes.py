"""What parts of a request may become in memory, in bytes: asked before the work, on what is known then.

What it is not: who may hold how much (`admission`), what all of it is together (`holders`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.llm import LLM
from herd.media.tiling import MAX_TILES

PREPARED_BYTES = 64
"""Of one byte of text while it becomes a prompt: ids, joined text, what policies look at (measured: 17 to 64)."""
WIDE = 3
"""Bytes beyond the first of a character count so much: it is four bytes in memory, and some become 18 characters before
rules look at them (U+FDFA)."""
VECTOR_BYTES = 80
"""Of one number of a vector: as float32, in a list, and as JSON (measured: 69)."""
SPELT_BYTES = 24
"""Of one byte of a text that ids spell: it, a character of four, and both members of the reply, escaped."""
FLOAT_BYTES = 4
TILES_TWICE = 2
"""Tiles lie beside their joined form while a request is prepared."""


def text_size(*values: Any) -> int:
    """Of all texts in objects and lists: bytes as UTF-8, those beyond a character's first counted `WIDE` times."""
    found, waiting = 0, list(values)
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            wide = 0 if one.isascii() else len(one.encode("utf-8", "surrogatepass")) - len(one)
            found += len(one) + WIDE * wide
        elif isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found


def prompt_bytes(llm: LLM, size: int) -> int:
    """What text of a `text_size` takes while it becomes a prompt. What cannot fit the context is refused before."""
    return PREPARED_BYTES * min(size, (1 + 2 * WIDE) * llm.context * llm.tokenizer.longest_bytes)


def spelt_bytes(llm: LLM, count: int) -> int:
    """What the text of so many ids may take, specials spelt out."""
    longest = max(llm.tokenizer.longest_bytes, *(4 * len(name) for name in llm.tokenizer.specials), 1)
    return SPELT_BYTES * longest * count


def tiles_bytes(llm: LLM, messages: Sequence[Mapping[str, Any]] | None) -> int:
    """What the images of a dialog may become as tiles, while they are prepared."""
    vision = llm.config.vision
    if vision is None:
        return 0
    contents = (turn.get("content") for turn in messages or ())
    images: int = sum(part.get("type") == "image" for one in contents if isinstance(one, list) for part in one)
    return images * TILES_TWICE * (MAX_TILES + 1) * 3 * vision.image_size * vision.image_size * FLOAT_BYTES
