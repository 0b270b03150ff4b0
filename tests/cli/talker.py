"""A model for command-line tests: the real `LLM` over an engine without weights, which says what it is told to say.

say("Hello")             every answer is this text
ECHO                     every answer repeats the last user text, so that a test sees what the model was shown
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.engine.request import SamplingOptions
from herd.llm import LLM
from herd.text.chat import choose_format
from herd.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.bytes_only()
EOT = TOKENIZER.specials["<|eot|>"]
HEADER_END = TOKENIZER.specials["<|header_end|>"]
ECHO = None
NUM_BREAKS = 2
"""Bytes between a header and its text."""


def talker(
    answer: str | None, *, sees: bool = False, delay_s: float = 0.0, context: int = 4096, name: str = "talker"
) -> LLM:
    """An LLM that answers so, a byte a token, `delay_s` for each."""

    def speak(ids: list[int]) -> int:
        time.sleep(delay_s)
        start = len(ids) - 1 - ids[::-1].index(HEADER_END) + 1 + NUM_BREAKS if HEADER_END in ids else len(ids)
        said = len(ids) - start
        data = (answer if answer is not None else last_user_text(ids)).encode()
        return data[said] if said < len(data) else EOT

    config = TINY if sees else replace(TINY, vision=None)
    config = replace(config, patch_id=TOKENIZER.specials["<|patch|>"])
    runner = FakeModel(speak, context=context, patch_id=config.patch_id, tokens_per_tile=max(config.tokens_per_tile, 1))
    chat = choose_format(TOKENIZER, None, "llama4")
    return LLM(config, runner, TOKENIZER, chat, name=name, defaults=SamplingOptions(), load_s=0.25)


def last_user_text(ids: list[int]) -> str:
    """The last whole turn of the prompt, as text."""
    ends = [i for i, token in enumerate(ids) if token == EOT]
    starts = [i for i, token in enumerate(ids) if token == HEADER_END]
    end = ends[-1]
    start = max(i for i in starts if i < end)
    return TOKENIZER.decode([i for i in ids[start + 1 + NUM_BREAKS : end] if i < 256])


class Loader:
    """Stands in for `herd.llm.load`; keeps what it was asked for."""

    def __init__(self, make: Callable[[], LLM]) -> None:
        self.make = make
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, model: str, **arguments: Any) -> LLM:
        self.asked.append((model, arguments))
        return self.make()
