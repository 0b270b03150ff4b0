"""A request for an answer, in no dialect: the checks against a model, and the call of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from herd.chat_model import ChatModel, ChatStream, Turns
from herd.dialogs import turns_of
from herd.messages import Message
from herd.policies import Prompt
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images
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
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    """auto, none, required, or a tool's name."""
    parallel_tool_calls: bool = True
    schema: Mapping[str, Any] | bool | None = None
    """The form that the answer must have: a JSON schema, or True for any JSON object."""
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of SamplingOptions."""
    user: str = ""
    """Whom a key acts for: they share the engine fairly."""
    keep_alive_s: float | None = None
    ceiling: int | None = None
    """Most tokens of prompt and answer together, below the context's own; memory grows with use in any case."""
    progress: bool = False
    """Whether a stream tells how much of the prompt is read, where the model does."""

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
        "schemas": ask.has_form,
        "logprobs": options.get("logprobs") is not None,
    }
    for capability, needed in needs.items():
        if needed:
            model.capabilities.require(model.name, capability)
    return num_images


def without_effect(model: ChatModel, ask: GenerateRequest, *, strict: bool) -> tuple[str, ...]:
    """Fields of a request that its model does nothing about. strict: raises Refused for the first."""
    if not ask.progress or model.tells_progress:
        return ()
    if strict:
        why = f"{model.name} does not tell how much of a prompt it has read"
        raise Refused(f"return_progress: {why}", "return_progress")
    return ("return_progress",)


def check_ids(model: ChatModel, ids: Sequence[int]) -> None:
    """Raise Refused for ids of control tokens: they would let a client write a system turn."""
    control = model.control_ids
    for i in ids:
        if i in control:
            why = "specials are the service's own; send them as a dialog"
            raise Refused(f"prompt: got the id {i} of a control token; {why}", "prompt")


def start_stream(
    model: ChatModel, ask: GenerateRequest, whose: Mapping[str, Any], shown: Prompt | None = None
) -> ChatStream:
    """The stream of events with which a model answers a request. whose: keyword arguments that tell who asks. shown: a
    prompt in place of its own."""
    if ask.prompt is not None:
        prompt = ask.prompt if shown is None else shown.messages[0].text
        return model.astream_complete(prompt, schema=ask.schema, **whose, **ask.options)
    messages: Turns | None = ask.messages if shown is None else shown.messages
    assert messages is not None
    return model.astream(
        messages,
        tools=(ask.tools if shown is None else shown.tools) or None,
        tool_choice=ask.tool_choice,
        parallel_tool_calls=ask.parallel_tool_calls,
        schema=ask.schema,
        **whose,
        **ask.options,
    )


def most_tokens(model: ChatModel, ask: GenerateRequest) -> int:
    """The most tokens that the answers to a request may take, where its stream does not say."""
    return ask.n * min(ask.options.get("max_tokens") or model.context, model.context)


def prompt_of(model: ChatModel, ask: GenerateRequest) -> Prompt:
    """The prompt of a request as a policy reads it; a text or ids count as a user's turn."""
    if ask.messages is not None:
        return Prompt(turns_of(ask.messages), ask.tools)
    assert ask.prompt is not None
    return Prompt((Message("user", ask.prompt if isinstance(ask.prompt, str) else model.detokenize(ask.prompt)),))
