"""Keyword arguments of the methods of `LLM`, as types: with them editors complete and checkers check.

`herd.LLM.chat` says what each means. What it is not: values, defaults or checks of them (`herd.llm.options`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from herd.dialogs import ImageLike
from herd.llm.function_tools import ToolLike
from herd.llm.load_options import Context
from herd.llm.loading import Opened
from herd.policies import Policy
from herd.progress import Progress
from herd.request_options import Answer, Begun, ForTemplate, ScoreRequest, TextRequest, ToolChoice, Whose


class Watched(TypedDict, total=False):
    """Who looks at an answer while it is made."""

    policy: Policy | None
    trace: str | Path | None


class CompleteOptions(TextRequest, Watched, total=False):
    """Options of `complete` and its twins. `herd.LLM.chat` says what each means."""


class SamplesOptions(Answer, ToolChoice, Begun, ForTemplate, Watched, total=False):
    """Options of `chat_samples`: all of `chat` but `n`, which has a place of its own, and `progress`."""

    system: str | None
    images: Sequence[ImageLike]
    tools: Sequence[ToolLike] | None


class ChatOptions(SamplesOptions, total=False):
    """Options of `chat`, `stream` and their twins. `herd.LLM.chat` says what each means."""

    n: int
    progress: bool


class EmbedOptions(Whose, total=False):
    """Options of `embed` and `aembed`. `herd.LLM.chat` says what each means."""


class ScoreOptions(ScoreRequest, total=False):
    """Options of `score` and `ascore`, which say what `top` means; `herd.LLM.chat` the rest."""


class LoadKeywords(TypedDict, total=False):
    """Options of `herd.load`, which says what each means."""

    context: Context
    chat_format: str | None
    threads: int | None
    ops: Literal["auto", "native", "torch"]
    kv: Literal["auto", "f32", "f16", "bf16", "int8", "int4"]
    seed: int | None
    force: bool
    pack: bool
    mmproj: str | None
    device: str
    parallel: int
    engine: Literal["thread", "child"]
    queue: int
    grammar_s: float
    grammar_bytes: int
    progress: Progress
    check: Callable[[Opened], None]
