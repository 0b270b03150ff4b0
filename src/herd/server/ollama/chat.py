"""POST /api/chat and /api/generate."""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError
from herd.events import CallEndEvent, DoneEvent, Logprob, ProgressEvent, Reply, TextEvent
from herd.media.encoded import image_of
from herd.server.http.error_bodies import body_of
from herd.server.http.streams import Stream
from herd.server.http.wire import encode, json_line
from herd.server.ollama.common import (
    CALLED,
    OPTIONS_REPORTED,
    Options,
    counts_of,
    done_of,
    format_of,
    keep_alive_for,
    keep_alive_of,
    now,
    sampling_of,
)
from herd.server.openai.chat import notes_of
from herd.server.openai.other_tools import ELSEWHERE, WHY, told_others, without_others
from herd.server.openai.turns import Tool, arguments_of, tools_of
from herd.server.requests.fields import FieldTable, Name, Refused, noted, told
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import check_count
from herd.server.service import Caller, ReplyInProgress, Service
from herd.server.shared.intake import read_as
from herd.server.shared.logprobs import listed
from herd.server.shared.replies import json_reply, json_response, progress_of

LINES = "application/x-ndjson"
REPORTED = {
    **OPTIONS_REPORTED,
    "think": "the model has no separate thinking",
    "truncate": "a prompt that is too long is an error, never cut",
    "shift": "the context is never shifted",
}


USE = 'use format: "json" or a schema'


class CalledFunction(msgspec.Struct):
    """What an earlier answer called."""

    name: str
    arguments: dict[str, Any] | str | None = None
    """An object; JSON text is no form of Ollama's, but of some of its clients'."""


class Call(msgspec.Struct):
    """A call of an earlier answer."""

    function: CalledFunction
    id: str | None = None


class OllamaMessage(msgspec.Struct):
    """A message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    images: list[str] | None = None
    """Base64."""
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class Shared(msgspec.Struct, kw_only=True):
    """Fields of both routes."""

    model: Name
    stream: bool | None = None
    """None: true."""
    return_progress: bool | None = None
    """llama.cpp's: whether a stream tells how much of the prompt is read."""
    format: Any = None
    options: Options | None = None
    keep_alive: float | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ChatBody(Shared, kw_only=True):
    """The fields that have an effect."""

    messages: list[OllamaMessage] | None = None
    tools: list[Tool] | None = None


class GenerateBody(Shared, kw_only=True):
    """The fields that have an effect."""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None


CHAT: FieldTable[ChatBody] = FieldTable(
    "POST /api/chat",
    ChatBody,
    reported={**REPORTED, "messages[].thinking": "an earlier answer is its content", ELSEWHERE: WHY},
    refused=forms_of_others(ChatBody, USE),
    harmless=HARMLESS,
)
GENERATE: FieldTable[GenerateBody] = FieldTable(
    "POST /api/generate",
    GenerateBody,
    reported=REPORTED,
    refused={
        "suffix": "the model does not fill in gaps",
        "context": "send the dialog to /api/chat; prefixes are found by their content",
        "template": 'send "raw": true with the prompt as the model is to read it',
        **forms_of_others(GenerateBody, USE),
    },
    harmless=HARMLESS,
)


class _Read(NamedTuple):
    """What a body asks for. ask: None: nothing but the model."""

    asked: Shared
    ask: GenerateRequest | None
    ignored: tuple[str, ...]


async def chat(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer a dialog; without messages: load the model, or let go of it."""
    read = await read_as(service, request, caller, lambda body: _read_chat(service, caller, body), media=True)
    if read.ask is None:
        return await _load(service, caller, read.asked, {"message": {"role": "assistant", "content": ""}})
    return await _answer(service, request, caller, read.asked, read.ask, read.ignored, _message)


def _read_chat(service: Service, caller: Caller, body: dict[str, Any]) -> _Read:
    known, others = without_others(body, ("function",))
    asked, ignored = CHAT.read(known, strict=service.strict)
    ignored = (*told_others(others, strict=service.strict), *ignored)
    if not asked.messages:
        return _Read(asked, None, ignored)
    check_count(sum(len(turn.images or ()) for turn in asked.messages))
    turns = [_turn(turn, f"messages[{i}]") for i, turn in enumerate(asked.messages)]
    return _asking(caller, asked, ignored, messages=turns, tools=tools_of(asked.tools))


async def generate(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer one prompt; raw: without a chat format. Without a prompt: load the model, or let go of it."""
    read = await read_as(service, request, caller, lambda body: _read_generate(service, caller, body), media=True)
    if read.ask is None:
        return await _load(service, caller, read.asked, {"response": ""})
    return await _answer(service, request, caller, read.asked, read.ask, read.ignored, _response)


def _read_generate(service: Service, caller: Caller, body: dict[str, Any]) -> _Read:
    asked, ignored = GENERATE.read(body, strict=service.strict)
    if not asked.prompt and not asked.images:
        return _Read(asked, None, ignored)
    check_count(len(asked.images or ()))
    prompt = asked.prompt or ""
    if asked.raw:
        if asked.images or asked.system:
            raise Refused("raw: images and system need a chat format", "raw")
        return _asking(caller, asked, ignored, prompt=prompt, raw=True)
    turns = [{"role": "system", "content": asked.system}] if asked.system else []
    turn = {"role": "user", "content": _content(prompt, asked.images, "images")}
    return _asking(caller, asked, ignored, messages=[*turns, turn])


def _asking(caller: Caller, asked: Shared, ignored: tuple[str, ...], **what: Any) -> _Read:
    options = sampling_of(asked.options)
    if asked.logprobs:
        options["logprobs"] = asked.top_logprobs or 0
    keep_alive_s, without_effect = keep_alive_for(caller, asked.keep_alive)
    ask = GenerateRequest(
        model=asked.model,
        schema=format_of(asked.format),
        options=options,
        called=CALLED,
        keep_alive_s=keep_alive_s,
        ceiling=asked.options.num_ctx if asked.options is not None else None,
        progress=bool(asked.stream is not False and asked.return_progress),
        **what,
    )
    return _Read(asked, ask, (*without_effect, *ignored))


async def _load(service: Service, caller: Caller, asked: Shared, empty: dict[str, Any]) -> Response:
    """What a request for nothing means: load the model, or with keep_alive 0 let go of it. Raises Forbidden for a key
    that may not manage."""
    caller.key.check_right("manage")
    keep_alive_s = keep_alive_of(asked.keep_alive)
    if keep_alive_s == 0:
        await service.models.unload(asked.model)
    else:
        await service.models.load(asked.model, keep_alive_s)
    reason = "unload" if keep_alive_s == 0 else "load"
    return json_response({"model": asked.model, "created_at": now(), **empty, "done": True, "done_reason": reason})


Said = Callable[[str, Sequence[dict[str, Any]]], dict[str, Any]]
"""Text and calls -> the members of a line that hold them."""


def _message(text: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message}


def _response(text: str, calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text}


async def _answer(
    service: Service,
    request: Request,
    caller: Caller,
    asked: Shared,
    ask: GenerateRequest,
    ignored: Sequence[str],
    said: Said,
) -> Response | Stream:
    began_s = time.monotonic()
    answer = await service.open(caller, ask)
    headers = {**told((*ignored, *answer.ignored)), **noted([answer.note])}
    if asked.stream is False:
        (reply,) = await answer.whole(request)
        took_s = time.monotonic() - began_s
        return await json_reply(service, caller, lambda: _whole(reply, asked.model, said, took_s), [reply], headers)
    return service.streamed(answer, _lines(answer, asked.model, said, began_s), LINES, headers=headers)


def _whole(reply: Reply, model: str, said: Said, took_s: float) -> dict[str, Any]:
    """The answer as one object."""
    calls = [_call(c.name, c.arguments) for c in reply.tool_calls]
    found = {
        "model": model,
        "created_at": now(),
        **said(reply.text, calls),
        "done": True,
        "done_reason": done_of(reply),
    }
    return {**found, **counts_of(reply, took_s), **notes_of(reply), **_likely(reply.logprobs)}


async def _lines(answer: ReplyInProgress, model: str, said: Said, began_s: float) -> AsyncGenerator[bytes, None]:
    """The stream: a line a piece, the last one with counts; an error is a line as well."""

    def line(text: str, calls: Sequence[dict[str, Any]] = (), **more: Any) -> bytes:
        return json_line(encode({"model": model, "created_at": now(), **said(text, calls), "done": False, **more}))

    try:
        async for event in answer.events():
            match event:
                case ProgressEvent():
                    yield line("", **progress_of(event))
                case TextEvent():
                    yield line(event.text, **_likely(event.logprobs))
                case CallEndEvent():
                    yield line("", [_call(event.call.name, event.call.arguments)])
                case DoneEvent():
                    counts = counts_of(event.reply, time.monotonic() - began_s) | _likely(event.logprobs)
                    yield line("", done=True, done_reason=done_of(event.reply), **counts, **notes_of(event.reply))
    except HerdError as error:
        yield json_line(encode(body_of(error, "ollama")))
    finally:
        await answer.aclose()


def _likely(found: Sequence[Logprob] | None) -> dict[str, Any]:
    """The member with log-probabilities, where they were asked for."""
    return {} if found is None else {"logprobs": listed(found)}


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": dict(arguments)}}


def _turn(turn: OllamaMessage, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {"role": turn.role, "content": _content(turn.content or "", turn.images, f"{where}.images")}
    if turn.tool_calls:
        found["tool_calls"] = [
            {"name": c.function.name, "arguments": arguments_of(c.function.arguments), "id": c.id or ""}
            for c in turn.tool_calls
        ]
    if turn.tool_name is not None:
        found["name"] = turn.tool_name
    if turn.tool_call_id is not None:
        found["tool_call_id"] = turn.tool_call_id
    return found


def _content(text: str, images: Sequence[str] | None, where: str) -> str | list[dict[str, Any]]:
    """Images first, as Ollama shows them."""
    if not images:
        return text
    parts = [{"type": "image", "image": image_of(x, f"{where}[{i}]")} for i, x in enumerate(images)]
    return [*parts, {"type": "text", "text": text}]
