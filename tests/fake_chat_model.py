"""Models without an engine: what a service does with any ChatModel is tested over these, in milliseconds.

    OnlyChats    derives from ChatModel and defines nothing but `astream`
    DoesAll      derives from nothing and has everything (a duck)

Both say `answer`, or what a function of the dialog says, word by word. What they are asked is kept in `asked`.
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from herd.chat_model import Capabilities, ChatModel, ChatStream, Pair, Sizes, Turns
from herd.dialogs import turns_of
from herd.event_stream import EventStream
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    Counters,
    DoneEvent,
    Event,
    FinishReason,
    Likely,
    Logprob,
    Reply,
    Score,
    TextEvent,
    Timings,
    Usage,
)
from herd.messages import Message, ToolCall

Answer = str | Callable[[list[Message]], str]
ALL = Capabilities(**dict.fromkeys(Capabilities().to_dict(), True))
CONTROL_ID = 0
"""What begins nothing, and no text becomes."""
CONTROL = "<|control|>"
"""How it is spelt."""
SIZES = Sizes(token_bytes=4, spelt_bytes=4, image_bytes=1000, vector_size=2)
CALL = ToolCall("weather", {"city": "Oslo"}, "call_1")
WORDS = re.compile(r"\s*\S+|\s+")


def words(text: str) -> list[str]:
    """The tokens of a text: words, with the space before them."""
    return WORDS.findall(text)


def ids_of(text: str) -> list[int]:
    """A number a character, none of them CONTROL_ID."""
    return [ord(c) + 1 for c in text]


async def said(answer: str, turns: Sequence[Message], options: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
    """An answer word by word, cut at `max_tokens`, as often as `n` says, with what was asked for beside it."""
    prompt = sum(len(words(turn.text)) for turn in turns)
    for index in range(options.get("n", 1)):
        tokens = words(answer)[: options.get("max_tokens")]
        calls = [CALL] if options.get("tools") and options.get("tool_choice") != "none" else []
        told = None if options.get("logprobs") is None else tuple(map(likely, tokens))
        for i, token in enumerate(tokens):
            yield TextEvent(token, None if told is None else told[i : i + 1], index)
        for i, call in enumerate(calls):
            yield CallStartEvent(i, call.id, call.name, index)
            yield CallArgumentsEvent(i, '{"city": "Oslo"}', index)
            yield CallEndEvent(i, call, index)
        reason: FinishReason = "length" if len(tokens) < len(words(answer)) else "tool_calls" if calls else "stop"
        usage, text = Usage(prompt, len(tokens)), "".join(tokens)
        reply = Reply(text, reason, usage, Timings(), seed=7, logprobs=told, tool_calls=tuple(calls))
        yield DoneEvent(reply, index)


def likely(token: str) -> Logprob:
    """One that was as likely as not."""
    return Logprob(ord(token[-1]) + 1, token, float(np.log(0.5)), (Likely(1, token, float(np.log(0.5))),))


@dataclass(eq=False)
class OnlyChats(ChatModel):
    """Answers dialogs of texts, and can do nothing else."""

    answer: Answer = "Hello there."
    name: str = "fake"
    context: int = 1000
    asked: list[Any] = field(default_factory=list)
    """Of each request: its turns, and its options."""

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        turns = turns_of(messages)
        self.asked.append((turns, options))
        return EventStream(said(self.answer if isinstance(self.answer, str) else self.answer(turns), turns, options))


@dataclass(eq=False)
class DoesAll:
    """Whatever a model may do; a token is a character where ids are asked for."""

    answer: Answer = "Hello there."
    name: str = "fake"
    context: int = 1000
    capabilities: Capabilities = ALL
    sizes: Sizes = SIZES
    control_ids: frozenset[int] = frozenset({CONTROL_ID})
    image_ids: frozenset[int] = frozenset()
    applies_policies: bool = False
    tells_progress: bool = True
    tells_tools: bool = True
    alive: bool = True
    warm: bool = False
    counters: Counters | None = None
    asked: list[Any] = field(default_factory=list)

    def warm_up(self) -> None:
        self.warm = True

    def close(self) -> None:
        self.alive = False

    def astream(self, messages: Turns, **options: Any) -> ChatStream:
        turns = turns_of(messages)
        self.asked.append((turns, options))
        return EventStream(said(self.answer if isinstance(self.answer, str) else self.answer(turns), turns, options))

    async def achat(self, messages: Turns, **options: Any) -> Reply:
        return await ChatModel.achat(self, messages, **options)

    def astream_complete(self, prompt: str | Sequence[int], **options: Any) -> ChatStream:
        text = prompt if isinstance(prompt, str) else self.detokenize(prompt)
        return self.astream([Message("user", text)], **options)

    def tokenize(
        self,
        messages: str | Turns,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
        raw: bool = False,
    ) -> list[int]:
        return ids_of(messages if isinstance(messages, str) else "".join(turn.text for turn in turns_of(messages)))

    def spellings(self, text: str, *, raw: bool = False) -> Sequence[str]:
        return [] if raw else [CONTROL] * text.count(CONTROL)

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(CONTROL if i == CONTROL_ID else chr(i - 1) for i in ids)

    def count(
        self,
        messages: str | Turns,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
    ) -> int:
        return len(self.tokenize(messages))

    def score(self, pairs: Sequence[Pair], *, top: int = 0, **whose: Any) -> list[Score]:
        self.asked.append((list(pairs), whose))
        return [self._score(*pair) for pair in pairs]

    async def ascore(self, pairs: Sequence[Pair], *, top: int = 0, **whose: Any) -> list[Score]:
        return self.score(pairs, top=top, **whose)

    def _score(self, prompt: str | Sequence[int], continuation: str | Sequence[int]) -> Score:
        texts = [one if isinstance(one, str) else self.detokenize(one) for one in (prompt, continuation)]
        tokens = tuple(map(likely, words(texts[1])))
        return Score(tokens, False, Usage(len(words(texts[0])) + len(tokens), 0))

    def embed(self, texts: Sequence[str], **whose: Any) -> npt.NDArray[np.float32]:
        self.asked.append((list(texts), whose))
        return np.tile(np.array([0.6, 0.8], np.float32), (len(texts), 1))

    async def aembed(self, texts: Sequence[str], **whose: Any) -> npt.NDArray[np.float32]:
        return self.embed(texts, **whose)

    def embed_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text) for text in texts)


def _ducks_are_models(one: DoesAll, other: OnlyChats) -> tuple[ChatModel, ChatModel]:
    """What mypy is asked about them."""
    return one, other
