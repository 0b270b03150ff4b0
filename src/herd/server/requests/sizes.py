"""The size of parts of a request in memory, in bytes: estimated before the work, from what is known then.

What it is not: who may hold how much (`admission`), what all of it is together (`holders`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.chat_model import ChatModel

PREPARED_BYTES = 64
"""Bytes in memory for one byte of text while it becomes a prompt: ids, joined text, what policies look at (measured: 17
to 64)."""
WIDE = 3
"""Bytes beyond the first of a character count so much: it is four bytes in memory, and some become 18 characters before
rules look at them (U+FDFA)."""
VECTOR_BYTES = 80
"""Bytes of one number of a vector: as float32, in a list, and as JSON (measured: 69)."""
SPELT_BYTES = 24
"""Bytes of one byte of a text that ids spell: it, a character of four, and both members of the reply, escaped."""


def text_size(*values: Any) -> int:
    """Size of all texts in objects and lists: bytes as UTF-8, those beyond a character's first counted `WIDE` times."""
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


def prompt_bytes(model: ChatModel, size: int) -> int:
    """Bytes that text of a `text_size` takes while it becomes a prompt. A text that cannot fit the context is refused
    before, where the model knows that."""
    longest = model.sizes.token_bytes
    return PREPARED_BYTES * (size if longest is None else min(size, (1 + 2 * WIDE) * model.context * longest))


def spelt_bytes(model: ChatModel, count: int) -> int:
    """The most bytes that the text of so many ids takes, special tokens spelt out."""
    return SPELT_BYTES * model.sizes.spelt_bytes * count


def vectors_bytes(model: ChatModel, count: int) -> int:
    """The most bytes that the vectors of so many texts take."""
    return VECTOR_BYTES * model.sizes.vector_size * count


def images_in(messages: Sequence[Mapping[str, Any]] | None) -> int:
    """Number of images in a dialog."""
    contents = (turn.get("content") for turn in messages or ())
    return sum(part.get("type") == "image" for one in contents if isinstance(one, list) for part in one)
