"""POST /v1/messages and /v1/messages/count_tokens.

What is null is left out of replies: some clients (AI SDK) take a member that is null for a broken one.
"""

import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError
from herd.events import CallArgumentsEvent, CallEndEvent, CallStartEvent, DoneEvent, ProgressEvent, Reply, TextEvent
from herd.messages import CutCall
from herd.server.anthropic.foreign import without_foreign
from herd.server.anthropic.turns import AnthropicMessage, Choice, Text, Tool, choice_of, dialog_of, tools_of
from herd.server.http.error_bodies import body_of
from herd.server.http.streams import Stream
from herd.server.http.wire import encode, sse
from herd.server.openai.chat import notes_of
from herd.server.requests.fields import FieldTable, Name, Refused, noted, told
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import Images
from herd.server.service import Caller, ReplyInProgress, Service
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_reply, json_response, progress_of
from herd.text.call_arguments import said_so_far

PING = sse(b'{"type":"ping"}', "ping")
EMPTY = {"type": "text", "text": ""}
C = TypeVar("C", bound="Counted")
STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "policy": "refusal"}


class Metadata(msgspec.Struct):
    """What a client says about its request."""

    user_id: str | None = None


class JsonFormat(msgspec.Struct):
    """A schema that the answer must follow."""

    type: str
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How the answer is to look."""

    format: JsonFormat | None = None


class Counted(msgspec.Struct, kw_only=True):
    """What makes up a prompt."""

    model: Name
    messages: list[AnthropicMessage]
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: Choice | None = None


class MessagesRequest(Counted, kw_only=True):
    """The fields that have an effect."""

    max_tokens: int | None
    """None, or -1: to the end of the context. It has to be said."""
    stream: bool | None = None
    return_progress: bool | None = None
    """llama.cpp's: whether a stream tells how much of the prompt is read."""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = None
    """The former name of output_config.format."""


WITHOUT_EFFECT = {
    "thinking": "the model has no separate thinking",
    "service_tier": "there is one",
    "system[].cache_control": "prefixes are found by their content",
    "messages[].content[].cache_control": "prefixes are found by their content",
    "tools[].cache_control": "prefixes are found by their content",
    "messages[].content[].source.media_type": "what an image is, is seen in its bytes",
    "messages[].content[].citations": "there are none",
    "context_management": "the context is never cut",
    "betas": "there are none",
    "output_config.effort": "the model has no levels of effort",
    "container": "there are none",
    "mcp_servers": "the client calls tools",
}
MESSAGES: FieldTable[MessagesRequest] = FieldTable(
    "POST /v1/messages",
    MessagesRequest,
    reported=WITHOUT_EFFECT,
    refused=forms_of_others(MessagesRequest, "use output_config.format"),
    harmless=HARMLESS,
)
COUNT: FieldTable[Counted] = FieldTable("POST /v1/messages/count_tokens", Counted, reported=WITHOUT_EFFECT)


async def messages(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer a dialog."""
    (asked, ignored, notes), ask = await read_as(
        service, request, caller, lambda body: _read(service, body), media=True
    )
    answer = await service.open(caller, ask)
    headers = {**told((*ignored, *answer.ignored)), **noted((*notes, answer.note))}
    if not asked.stream:
        (reply,) = await answer.whole(request)
        return await json_reply(service, caller, lambda: whole(reply, asked.model), [reply], headers)
    return service.streamed(answer, stream(answer, asked.model), "text/event-stream", headers=headers, ping=PING)


class _Typed(NamedTuple, Generic[C]):
    """A body as its table has it. ignored: what of it has no effect; notes: what was read otherwise, or left out."""

    asked: C
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def _typed(service: Service, table: FieldTable[C], body: dict[str, Any]) -> _Typed[C]:
    """Raises Refused."""
    known, notes = without_foreign(body)
    if service.strict and notes:
        raise Refused(f"messages, tools: {notes[0]}", "messages")
    asked, ignored = table.read(known, strict=service.strict)
    return _Typed(asked, ignored, notes)


def _read(service: Service, body: dict[str, Any]) -> tuple[_Typed[MessagesRequest], GenerateRequest]:
    """What is asked. Raises Refused, BadMedia."""
    typed = _typed(service, MESSAGES, body)
    asked = typed.asked
    names = {name: name for name in ("temperature", "top_p", "top_k", "max_tokens")} | {"stop_sequences": "stop"}
    options = {ours: value for theirs, ours in names.items() if (value := getattr(asked, theirs)) is not None}
    images = Images(remote=service.remote_media)
    tools = tools_of(asked.tools)
    form = asked.output_config.format if asked.output_config is not None else None
    if form is not None and asked.output_format is not None:
        raise Refused("output_format: got it beside output_config.format; give one of them", "output_format")
    form = form or asked.output_format
    choice = asked.tool_choice
    ask = GenerateRequest(
        model=asked.model,
        messages=dialog_of(asked.messages, asked.system, images),
        images=images,
        tools=tools,
        tool_choice=choice_of(choice, tools),
        parallel_tool_calls=not (choice is not None and choice.disable_parallel_tool_use),
        schema=form.schema if form is not None else None,
        options=options,
        called={"stop": "stop_sequences"},
        user=(asked.metadata.user_id if asked.metadata is not None else None) or "",
        progress=bool(asked.stream and asked.return_progress),
    )
    return typed, ask


async def count_tokens(service: Service, request: Request, caller: Caller) -> Response:
    """Tokens that a dialog has as a prompt."""
    images = Images(remote=service.remote_media)

    def read(body: dict[str, Any]) -> tuple[_Typed[Counted], list[dict[str, Any]], list[dict[str, Any]]]:
        typed = _typed(service, COUNT, body)
        return typed, dialog_of(typed.asked.messages, typed.asked.system, images), tools_of(typed.asked.tools)

    (asked, ignored, notes), dialog, tools = await read_as(service, request, caller, read, media=True)
    async with service.models.use(asked.model) as model:
        count = await service.of_dialog(caller, model, asked.model, dialog, images, model.count, tools)
        service.charge(caller, count)
    return json_response({"input_tokens": count}, headers={**told(ignored), **noted(notes)})


def whole(reply: Reply, model: str) -> dict[str, Any]:
    """The answer as one object."""
    content: list[dict[str, Any]] = []
    if reply.text or not (reply.tool_calls or reply.cut_call):
        content.append({"type": "text", "text": reply.text})
    content += [_tool_use(c.id, c.name, c.arguments) for c in reply.tool_calls]
    if reply.cut_call is not None:
        content.append(_tool_use(reply.cut_call.id, reply.cut_call.name, _members(reply.cut_call)))
    return {**_message(model), "content": content, **_ending(reply), "usage": usage_of(reply), **notes_of(reply)}


def _members(call: CutCall) -> Mapping[str, Any]:
    """The arguments of a call that was cut that are whole, as clients read them off a stream."""
    try:
        found = said_so_far(call.arguments, open_too=False)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(model: str) -> dict[str, Any]:
    return {"id": "msg_" + secrets.token_hex(12), "type": "message", "role": "assistant", "model": model}


def _tool_use(id_: str, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": id_, "name": name, "input": dict(arguments), "caller": {"type": "direct"}}


def _ending(reply: Reply) -> dict[str, Any]:
    if reply.finish_reason == "stop" and reply.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": reply.stop}
    return {"stop_reason": STOP.get(reply.finish_reason, "end_turn")}


def usage_of(reply: Reply) -> dict[str, Any]:
    """Token counts; those read from the cache are counted apart."""
    usage = reply.usage
    return _usage(usage.prompt_tokens - usage.cached_tokens, usage.output_tokens, usage.cached_tokens)


def _usage(prompt: int, output: int, cached: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "output_tokens": output,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "service_tier": "standard",
    }


async def stream(answer: ReplyInProgress, model: str) -> AsyncGenerator[bytes, None]:
    """Server-sent events; an error comes as one, then the end."""
    blocks = Blocks()
    begun = {**_message(model), "content": [], "usage": _usage(answer.prompt_tokens, 0, 0)}
    try:
        yield _event("message_start", message=begun)
        yield PING
        async for event in answer.events():
            match event:
                case ProgressEvent():
                    yield _event("ping", **progress_of(event))
                case TextEvent():
                    yield blocks.text(event.text)
                case CallStartEvent():
                    yield blocks.call(event.id, event.name)
                case CallArgumentsEvent():
                    yield blocks.arguments(event.fragment)
                case CallEndEvent():
                    yield blocks.end()
                case DoneEvent():
                    reply = event.reply
                    yield blocks.last()
                    yield _event("message_delta", delta=_ending(reply), usage=usage_of(reply), **notes_of(reply))
        yield _event("message_stop")
    except HerdError as error:
        yield sse(encode(body_of(error, "anthropic", answer.caller.request_id)), "error")
    finally:
        await answer.aclose()


class Blocks:
    """The blocks of a message as they open and close."""

    def __init__(self) -> None:
        self._index = -1
        self._open = ""

    def text(self, text: str) -> bytes:
        """A piece of text, in the block that is open or in a new one."""
        before = b"" if self._open == "text" else self.end() + self._start("text", EMPTY)
        return before + self._delta({"type": "text_delta", "text": text})

    def call(self, id_: str, name: str) -> bytes:
        """A call begins."""
        return self.end() + self._start("call", _tool_use(id_, name, {}))

    def arguments(self, fragment: str) -> bytes:
        """A piece of its arguments."""
        return self._delta({"type": "input_json_delta", "partial_json": fragment})

    def end(self) -> bytes:
        """Close what is open."""
        was, self._open = self._open, ""
        return _event("content_block_stop", index=self._index) if was else b""

    def last(self) -> bytes:
        """Close what is open; a message without any block gets an empty one."""
        if self._index < 0:
            return self._start("text", EMPTY) + self.end()
        return self.end()

    def _start(self, kind: str, block: dict[str, Any]) -> bytes:
        self._index, self._open = self._index + 1, kind
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **members: Any) -> bytes:
    return sse(encode({"type": kind, **members}), kind)
