"""What any model may be asked for beside a dialog or a prompt: types of keyword arguments, for editors and checkers.

    Sampling           how tokens are chosen, and when to stop
    Whose              whose a request is, and how long it may take
    Answer             both, and what an answer must be
    CompletionRequest  that, and how many answers
    TextRequest        that, of a text that goes on
    ScoreRequest       whose it is, and how much is told of a score
    ToolChoice         how tools are called
    Begun              whether a begun answer is gone on with
    ForTemplate        what the chat template is told besides
    DialogRequest      all of them, and tools: of a dialog

What it is not: values, defaults or checks of them (`herd.engine.request`, `herd.llm.options`), which say what each
means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from herd.grammars import Grammar


class Sampling(TypedDict, total=False):
    """Fields of `herd.engine.request.SamplingOptions`, as callers may write them."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    repetition_window: int
    logit_bias: dict[int, float] | None
    seed: int | None
    max_tokens: int | None
    stop: str | list[str] | tuple[str, ...] | None
    stop_ids: list[int] | tuple[int, ...] | None
    logprobs: int | None
    ignore_eos: bool
    speculate: Literal["auto", "off"]
    grammar: Grammar | str | None


class Whose(TypedDict, total=False):
    """Whose a request is, when it is served, how long it may take, the adapter that computes it, and how far it may
    go."""

    client: str
    tenant: str
    priority: int
    timeout_s: float | None
    adapter: str | None
    leave: bool
    """Whether it may be sent out of the house (`herd.backends.gate`); where nothing is said it may not."""


class Answer(Sampling, Whose, total=False):
    """Options of one answer."""

    schema: Any
    ceiling: int | None


class CompletionRequest(Answer, total=False):
    """Options of answers to one prompt."""

    n: int
    progress: bool


class TextRequest(CompletionRequest, total=False):
    """Options of a text that goes on."""

    raw: bool


class ScoreRequest(Whose, total=False):
    """Options of scores of given texts."""

    top: int


class ToolChoice(TypedDict, total=False):
    """How tools are called."""

    tool_choice: str
    parallel_tool_calls: bool


class Begun(TypedDict, total=False):
    """Whether a begun answer is gone on with."""

    continue_final_message: bool


class ForTemplate(TypedDict, total=False):
    """What a model's own chat template is told besides the dialog."""

    chat_template_kwargs: Mapping[str, str | int | float | bool | None] | None


class DialogRequest(CompletionRequest, ToolChoice, Begun, ForTemplate, total=False):
    """Options of a dialog."""

    tools: Sequence[Mapping[str, Any]] | None
