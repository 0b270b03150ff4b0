"""A request for an answer, in no dialect: the checks against a model, and the call of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from herd.backends.gate import Said
from herd.chat_model import CANNOT, ChatModel, ChatStream, Turns
from herd.dialogs import begun_in, turns_of
from herd.messages import Message
from herd.policies import Prompt
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images
from herd.server.requests.raw_prompts import check_changed, has_control
from herd.server.requests.sizes import images_in


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """A request for an answer, in no dialect. Exactly one of messages and prompt is given."""

    model: str
    messages: Sequence[Mapping[str, Any]] | None = None
    """Turns as `herd.dialogs` reads them; images are bytes, never a path."""
    images: Images | None = None
    """The images of the turns, some of which may have to be fetched."""
    prompt: str | Sequence[int] | None = None
    """Text or ids to go on with, without a chat format."""
    raw: bool = False
    """Whether control tokens that a text spells are to become those tokens, where the key has the right."""
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    """auto, none, required, or a tool's name."""
    parallel_tool_calls: bool = True
    continue_final_message: bool = True
    """Whether a last turn of the assistant's is gone on with; else another one is opened."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """What the model's own chat template is told besides the dialog; a model without one is told nothing."""
    schema: Mapping[str, Any] | bool | None = None
    """The form that the answer must have: a JSON schema, or True for any JSON object."""
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of SamplingOptions."""
    called: Mapping[str, str] = field(default_factory=dict)
    """Fields that the client calls otherwise -> how; errors name them so."""
    user: str = ""
    """Whom a key acts for: they share the engine fairly."""
    keep_alive_s: float | None = None
    ceiling: int | None = None
    """Most tokens of prompt and answer together, below the context's own; memory grows with use in any case."""
    progress: bool = False
    """Whether a stream tells how much of the prompt is read, where the model does."""
    said: tuple[Said, ...] = ()
    """What its parts say of whether it may leave the house, beside its key and its model."""

    @property
    def has_form(self) -> bool:
        """Whether it says what the answer must be."""
        return self.schema not in (None, False) or self.options.get("grammar") is not None


def check_able(model: ChatModel, ask: GenerateRequest) -> int:
    """Number of images of a request. Raises Unsupported for anything that it needs and the model cannot do; nothing of
    it is left out in silence."""
    options, num_images = ask.options, images_in(ask.messages)
    needs = {
        "completion": isinstance(ask.prompt, str),
        "ids": bool(
            (ask.prompt is not None and not isinstance(ask.prompt, str))
            or options.get("logit_bias")
            or options.get("stop_ids")
        ),
        "images": num_images > 0,
        "tools": bool(ask.tools),
        "begun": ask.continue_final_message and ends_with_answer(ask.messages),
        "schemas": ask.has_form,
        "logprobs": options.get("logprobs") is not None,
    }
    for capability, needed in needs.items():
        if needed:
            model.capabilities.require(model.name, capability)
    if needs["begun"] and ask.messages and ask.messages[-1].get("tool_calls"):
        why = "got an answer with tool calls, expected text, or the calls' results after it"
        raise Refused(f"messages[{len(ask.messages) - 1}]: {why}", "messages")
    return num_images


def without_effect(model: ChatModel, ask: GenerateRequest, *, strict: bool) -> tuple[str, ...]:
    """Fields of a request that its model does nothing about. strict: raises Refused for the first."""
    found: dict[str, str] = {}
    if ask.progress and not model.tells_progress:
        found["return_progress"] = "does not tell how much of a prompt it has read"
    if ask.variables and not model.capabilities.template:
        found["chat_template_kwargs"] = f"cannot {CANNOT['template']}"
    for name, why in found.items() if strict else ():
        raise Refused(f"{name}: {model.name} {why}", name)
    return tuple(found)


def ends_with_answer(messages: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether the last turn of a dialog, if it is one, is the assistant's."""
    return messages is not None and len(messages) > 0 and messages[-1].get("role") == "assistant"


def turn_options(model: ChatModel, ask: GenerateRequest) -> dict[str, Any]:
    """What a model is told of a dialog that ends with an answer, where that is not to be gone on with."""
    over = not ask.continue_final_message and ends_with_answer(ask.messages)
    return {"continue_final_message": False} if over and model.capabilities.begun else {}


def begun_of(ask: GenerateRequest) -> str:
    """The text of the answer that a checked request goes on with, if it goes on with one."""
    if not ask.continue_final_message or not ends_with_answer(ask.messages):
        return ""
    assert ask.messages is not None
    return begun_in(turns_of(ask.messages[-1:])) or ""


def check_shown(model: ChatModel, ask: GenerateRequest, shown: Prompt, *, raw: bool) -> None:
    """`check_changed` of a request, if it is one to go on with a text."""
    if ask.prompt is not None:
        check_changed(model, ask.prompt, shown.messages[0].text, raw=raw)


def start_stream(
    model: ChatModel, ask: GenerateRequest, whose: Mapping[str, Any], shown: Prompt | None = None
) -> ChatStream:
    """The stream of events with which a model answers a request. whose: keyword arguments that tell who asks. shown: a
    prompt in place of its own."""
    if ask.prompt is not None:
        prompt = ask.prompt if shown is None else shown.messages[0].text
        if shown is not None and not isinstance(ask.prompt, str) and has_control(model, ask.prompt):
            whose = {**whose, "raw": True}
        return model.astream_complete(prompt, schema=ask.schema, **whose, **ask.options)
    messages: Turns | None = ask.messages if shown is None else shown.messages
    assert messages is not None
    variables = told_to(model, ask) if shown is None else shown.variables
    more: dict[str, Any] = {"chat_template_kwargs": variables} if variables else {}
    return model.astream(
        messages,
        tools=(ask.tools if shown is None else shown.tools) or None,
        tool_choice=ask.tool_choice,
        parallel_tool_calls=ask.parallel_tool_calls,
        schema=ask.schema,
        **turn_options(model, ask),
        **more,
        **whose,
        **ask.options,
    )


def told_to(model: ChatModel, ask: GenerateRequest) -> Mapping[str, Any]:
    """What the chat template of a model is told."""
    return ask.variables if model.capabilities.template else {}


def most_tokens(model: ChatModel, ask: GenerateRequest) -> int:
    """The most tokens that the answers to a request may take, where its stream does not say."""
    return ask.n * min(ask.options.get("max_tokens") or model.context, model.context)


def prompt_of(model: ChatModel, ask: GenerateRequest) -> Prompt:
    """The prompt of a request as a policy reads it; a text or ids count as a user's turn."""
    if ask.messages is not None:
        return Prompt(turns_of(ask.messages), ask.tools, told_to(model, ask))
    assert ask.prompt is not None
    return Prompt((Message("user", ask.prompt if isinstance(ask.prompt, str) else model.detokenize(ask.prompt)),))
