"""Models for the tests of herd.llm: what they say is scripted."""

from typing import Any

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.llm import LLM
from herd.text.chat import Llama4
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
END = BYTES.specials["<|eot|>"]


def saying(answer: str, **arguments: Any) -> LLM:
    """A model that says `answer` to every chat: the ids after the last header are its output so far."""
    header = Llama4(BYTES)._open()
    said = [*answer.encode(), END]

    def next_id(ids: list[int]) -> int:
        start = max(i for i in range(len(ids)) if ids[i : i + len(header)] == header) + len(header)
        return said[min(len(ids) - start, len(said) - 1)]  # guesses may go beyond the end

    return LLM(TINY, FakeModel(next_id, **arguments), BYTES, Llama4(BYTES), name="fake")


def endless() -> LLM:
    """A model that says A for ever."""
    return LLM(TINY, FakeModel(lambda ids: 65), BYTES, Llama4(BYTES), name="fake")
