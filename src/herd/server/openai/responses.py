"""POST /v1/responses, and what is done with stored ones: retrieve, delete, cancel, list their input."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError, Interrupted, TooLarge, UsageError, fail
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Logprob,
    ProgressEvent,
    Reply,
    TextEvent,
)
from herd.messages import ToolCall
from herd.server.http.error_bodies import body_of, words_of
from herd.server.http.streams import Stream
from herd.server.http.wire import SSE_PING, encode, sse
from herd.server.openai.chat import NO_WEB, NOT_KEPT, notes_of
from herd.server.openai.forms import JsonObject, PlainText
from herd.server.openai.response_items import (
    Item,
    Likelihoods,
    Spaces,
    bare,
    call_item,
    item_id,
    message_id,
    message_item,
    name_in,
    output_of,
    text_part,
    turns_of,
    with_kinds,
)
from herd.server.openai.turns import NO_ARGUMENTS
from herd.server.requests.fields import FieldTable, Name, Refused, told, within
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import Images
from herd.server.response_store import Items, StoredResponse
from herd.server.service import Caller, ReplyInProgress, Service
from herd.server.shared.intake import VALUE_BYTES, read_as
from herd.server.shared.replies import json_response, progress_of, size_of


class Function(msgspec.Struct, tag_field="type", tag="function"):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Namespace(msgspec.Struct, tag_field="type", tag="namespace"):
    """Functions under a name of their own; an MCP server's, for instance."""

    name: str
    tools: list[Function]
    description: str | None = None


class WebSearch(msgspec.Struct, tag_field="type", tag="web_search"):
    """What OpenAI would search itself. Agents offer it without being asked."""


class WebSearchPreview(WebSearch, tag_field="type", tag="web_search_preview"):
    """Its former name."""


Tool: TypeAlias = Function | Namespace | WebSearch | WebSearchPreview


class Chosen(msgspec.Struct, tag_field="type", tag="function"):
    """The one that must be called."""

    name: str
    namespace: str | None = None


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    schema: dict[str, Any]
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """How the text is to be."""

    format: PlainText | JsonObject | SchemaFormat | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    model: Name
    input: str | list[Any]
    """A text, or items (see response_items)."""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    return_progress: bool | None = None
    """llama.cpp's: whether a stream tells how much of the prompt is read."""
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: list[str] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | Chosen | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None


RESPONSES: FieldTable[ResponsesRequest] = FieldTable(
    "POST /v1/responses",
    ResponsesRequest,
    reported={
        "reasoning": "the model has no levels of reasoning",
        "include[]": "there is nothing else to include",
        "service_tier": "there is one",
        "truncation": "a prompt that is too long is an error, never cut",
        "safety_identifier": "see user",
        "prompt_cache_key": "prefixes are found by their content",
        "prompt_cache_retention": "prefixes stay as long as memory allows",
        "stream_options": "nothing is obfuscated, usage always comes",
        "text.verbosity": "the model has no levels of it",
        "max_tool_calls": "clients call tools",
        "tools[].web_search": NO_WEB,
    },
    refused={
        "conversation": NOT_KEPT,
        "prompt": "there are no stored prompts",
        "text.format.schema": "its type is another; say json_schema",
        **forms_of_others(ResponsesRequest, "use text.format"),
    },
    harmless=HARMLESS,
)


MOST_METADATA, MOST_METADATA_NAME, MOST_METADATA_VALUE = 16, 64, 512
"""Pairs, and characters of their names and values, as OpenAI has them."""
LOGPROBS = "message.output_text.logprobs"
"""What `include` may name."""
TOLD_AGAIN_BYTES = 512
"""Of a token that a stream tells with its log-probability: as JSON in its piece, and at the end of its text, its part,
its item and its response."""
MOST_DESCRIPTION = 16 << 10
"""Characters of a description that a response tells again and no model reads."""


async def respond(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer: whole, as a stream, or in the background."""
    asked, ignored = await read_as(service, request, caller, lambda body: _asked(service, body), media=True)
    before = _before(service, caller, asked)
    size = caller.admission.size_bytes
    ask, kept, spaces = await service.soon(caller, lambda: _read(service, asked, before), size)
    headers = told(ignored)
    if asked.background:
        kept.say(status="queued")
        service.responses.keep(caller.key, kept)
        admission = caller.admission
        admission.goes_on = True
        kept.task = asyncio.create_task(_in_background(service, caller, ask, kept, spaces))
        kept.task.add_done_callback(lambda _: admission.close())
        return _response(kept, headers)
    caller.admission.made.hold(len(kept.json))
    answer = await service.open(caller, ask)
    if asked.store is not False:
        service.responses.keep(caller.key, kept)
    if asked.stream:
        headers = told((*ignored, *answer.ignored))
        chunks = _stream(service, answer, kept, spaces)
        return service.streamed(
            answer,
            chunks,
            "text/event-stream",
            headers=headers,
            ping=SSE_PING,
            left=lambda: _left(service, caller, kept),
        )
    try:
        (reply,) = await answer.whole(request)
        await _answered(service, caller, kept, reply, spaces)
    except Exception as error:
        _fail(service, caller, kept, error)
        raise
    finally:
        _left(service, caller, kept)
    return _response(kept, headers)


class _Read(NamedTuple):
    """What a body asks for."""

    ask: GenerateRequest
    kept: StoredResponse
    spaces: Spaces


def _asked(service: Service, body: dict[str, Any]) -> tuple[ResponsesRequest, tuple[str, ...]]:
    """The typed request, and the fields that have no effect. Raises Refused."""
    asked, ignored = RESPONSES.read(body, strict=service.strict)
    also = {
        "tools[].web_search": any(isinstance(tool, WebSearch) for tool in asked.tools or ()),
        "include[]": any(name != LOGPROBS for name in asked.include or ()),
    }
    for name, is_there in also.items():
        if is_there and service.strict:
            raise Refused(f"{name}: {RESPONSES.reported[name]}", name.partition("[")[0])
        ignored = (name, *ignored) if is_there else ignored
    if asked.background and (asked.stream or asked.store is False):
        raise Refused("background: got it with stream or without store", "background")
    _check_told(service, asked)
    return asked, ignored


def _before(service: Service, caller: Caller, asked: ResponsesRequest) -> Items | None:
    """The dialog that it goes on from, held as what came with the request. Raises NotFound, Busy, TooLarge."""
    if asked.previous_response_id is None:
        return None
    found = service.responses.find(caller.key, asked.previous_response_id).items
    caller.admission.hold(found.whole_bytes + VALUE_BYTES * found.whole_values)
    return found


def _read(service: Service, asked: ResponsesRequest, before: Items | None) -> _Read:
    """What comes of it. Raises Refused, TooLarge, BadMedia."""
    items = with_kinds([{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input)
    own = Items(before, items)
    kept = StoredResponse(_body(asked), own)
    if asked.store is not False:
        service.responses.check(kept)
    ask = _ask(service, asked, items if before is None else own.all())
    if asked.store is False:
        kept.items = Items(None, [])  # nobody goes on from it
    return _Read(ask, kept, _spaces(asked.tools or ()))


def _check_told(service: Service, asked: ResponsesRequest) -> None:
    """Limits of what a response tells again and no model reads, so that no context bounds it. Raises Refused."""
    metadata = asked.metadata or {}
    within("metadata", len(metadata), MOST_METADATA)
    for name, value in metadata.items():
        within("metadata: characters of a name", len(name), MOST_METADATA_NAME)
        within("metadata: characters of a value", len(value), MOST_METADATA_VALUE)
    form = asked.text.format if asked.text is not None else None
    spaces = [tool for tool in asked.tools or () if isinstance(tool, Namespace)]
    for named in (*([form] if isinstance(form, SchemaFormat) else ()), *spaces):
        within("characters of a name", len(named.name), service.limits.name_bytes)
        within("characters of a description", len(named.description or ""), MOST_DESCRIPTION)


def _response(kept: StoredResponse, headers: Mapping[str, str]) -> Response:
    return Response(kept.json, media_type="application/json", headers=headers)


async def retrieve(service: Service, request: Request, caller: Caller) -> Response:
    """A stored one."""
    return _response(service.responses.find(caller.key, request.path_params["id"]), {})


async def delete(service: Service, request: Request, caller: Caller) -> Response:
    """Forget a stored one."""
    id_ = request.path_params["id"]
    service.responses.drop(caller.key, id_)
    return json_response({"id": id_, "object": "response", "deleted": True})


async def cancel(service: Service, request: Request, caller: Caller) -> Response:
    """End one that is answered in the background."""
    kept = service.responses.find(caller.key, request.path_params["id"])
    if kept.task is None:
        fail(UsageError, "cancel", got="a response that was not made in the background", expected="one that was")
    kept.task.cancel()
    _left(service, caller, kept)
    return _response(kept, {})


async def input_items(service: Service, request: Request, caller: Caller) -> Response:
    """What led to a stored one."""
    kept = service.responses.find(caller.key, request.path_params["id"])

    def written() -> bytes:
        data = [{"id": f"item_{i}", **item} for i, item in enumerate(kept.items.all()) if isinstance(item, dict)]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return encode({"object": "list", "data": data, "has_more": False, **ends})

    data = await service.compute(caller, written, kept.items.whole_bytes)
    return Response(data, media_type="application/json")


def _ask(service: Service, asked: ResponsesRequest, items: list[Any]) -> GenerateRequest:
    try:
        typed = msgspec.convert(items, list[Item])
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        raise Refused(f"input{where.rstrip('`')}: {text[:1].lower()}{text[1:]}", "input") from None
    images = Images(remote=service.remote_media)
    turns = turns_of(typed, images)
    if asked.instructions:
        turns = [{"role": "system", "content": asked.instructions}, *turns]
    tools = [
        {
            "name": name_in(space, f.name),
            "description": f.description or "",
            "parameters": f.parameters or NO_ARGUMENTS,
        }
        for space, f in _functions(asked.tools or ())
    ]
    wanted = asked.tool_choice
    choice = name_in(wanted.namespace, wanted.name) if isinstance(wanted, Chosen) else wanted or "auto"
    form = asked.text.format if asked.text is not None else None
    schema: Any = None
    if isinstance(form, JsonObject):
        schema = form.schema or True
    elif isinstance(form, SchemaFormat):
        schema = form.schema
    names = {"temperature": "temperature", "top_p": "top_p", "max_output_tokens": "max_tokens"}
    options = {ours: value for theirs, ours in names.items() if (value := getattr(asked, theirs)) is not None}
    if asked.top_logprobs or LOGPROBS in (asked.include or ()):
        options["logprobs"] = asked.top_logprobs or 0
    return GenerateRequest(
        model=asked.model,
        messages=turns,
        images=images,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        schema=schema,
        options=options,
        user=asked.user or "",
        progress=bool(asked.stream and asked.return_progress),
    )


def _functions(tools: Sequence[Tool]) -> Iterator[tuple[str, Function]]:
    """(its namespace or "", function). What is said of a namespace is said with the first of its functions."""
    for tool in tools:
        match tool:
            case Function():
                yield "", tool
            case Namespace(name, functions, description):
                for f in functions:
                    said = "\n\n".join(text for text in (description, f.description) if text)
                    yield name, msgspec.structs.replace(f, description=said)
                    description = None


def _spaces(tools: Sequence[Tool]) -> Spaces:
    """Where each function of a namespace is. Raises Refused where the model would know two by one name."""
    plain = {f.name for space, f in _functions(tools) if not space}
    found: dict[str, tuple[str, str]] = {}
    for space, f in _functions(tools):
        if not space:
            continue
        name = name_in(space, f.name)
        if name in plain or name in found:
            raise Refused(f"tools: two are called {name[:64]!r}; a namespace goes before a name with __", "tools")
        found[name] = space, f.name
    return found


def _shown(tool: Tool) -> dict[str, Any]:
    """A tool as the response tells it."""
    match tool:
        case Function(name, description, parameters, strict):
            shown = {"type": "function", "name": name, "description": description, "parameters": parameters or {}}
            return {**shown, "strict": strict is not False}
        case Namespace(name, functions, description):
            inner = [_shown(f) for f in functions]
            return {"type": "namespace", "name": name, "description": description or "", "tools": inner}
        case _:
            return {"type": tool.__struct_config__.tag}


def _body(asked: ResponsesRequest) -> dict[str, Any]:
    """The response before its answer."""
    choice: Any = asked.tool_choice or "auto"
    if isinstance(choice, Chosen):
        space = {"namespace": choice.namespace} if choice.namespace else {}
        choice = {"type": "function", "name": choice.name, **space}
    return {
        "id": "resp_" + secrets.token_hex(16),
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": asked.background is True,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "metadata": asked.metadata or {},
        "model": asked.model,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "previous_response_id": asked.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "store": asked.store is not False,
        "temperature": asked.temperature if asked.temperature is not None else 1.0,
        "text": {"format": {"type": "text"}} if asked.text is None else msgspec.to_builtins(asked.text),
        "tool_choice": choice,
        "tools": [_shown(tool) for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p if asked.top_p is not None else 1.0,
        "truncation": "disabled",
        **({} if asked.user is None else {"user": asked.user}),
    }  # fmt: skip


async def _answered(service: Service, caller: Caller, kept: StoredResponse, reply: Reply, spaces: Spaces) -> None:
    """The whole answer has come."""
    output = await service.soon(caller, lambda: output_of(reply, spaces), size_of(reply))
    _finish(service, caller, kept, reply, output)


def _finish(service: Service, caller: Caller, kept: StoredResponse, reply: Reply, output: list[dict[str, Any]]) -> None:
    """The answer has come. Where it is too much to be kept, the response says so; one that can only be fetched, since
    it was made in the background, has failed then."""
    usage = reply.usage
    reason = {"length": "max_output_tokens", "policy": "content_filter"}.get(reply.finish_reason)
    counts = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
    asked, kept.items = kept.items, Items(kept.items, [bare(item) for item in output])
    kept.say(
        output=output,
        status="completed" if reason is None else "incomplete",
        incomplete_details=None if reason is None else {"reason": reason},
        usage=counts,
        **notes_of(reply),
    )
    try:
        service.responses.changed(caller.key, kept)
    except TooLarge as error:
        if kept.task is None:
            kept.say(store=False)
            return
        kept.items = asked
        kept.say(output=[], status="failed", error={"code": "server_error", "message": words_of(error)})
        with suppress(TooLarge):
            service.responses.keep(caller.key, kept)


def _fail(service: Service, caller: Caller, kept: StoredResponse, error: Exception) -> None:
    """It ended with an error; the text of one that nobody foresaw may quote anything, and is not told."""
    if not kept.over:
        gone = isinstance(error, Interrupted)
        words = words_of(error) if isinstance(error, HerdError) else "an internal error"
        said = {"code": "server_error", "message": words}
        kept.say(status="cancelled") if gone else kept.say(status="failed", error=said)
        _recount(service, caller, kept)


def _left(service: Service, caller: Caller, kept: StoredResponse) -> None:
    """Nobody goes on with it: a reader that went away, or a request that was cancelled."""
    if not kept.over:
        kept.say(status="cancelled")
        _recount(service, caller, kept)


def _recount(service: Service, caller: Caller, kept: StoredResponse) -> None:
    with suppress(TooLarge):  # a few bytes more were too many
        service.responses.changed(caller.key, kept)


async def _in_background(
    service: Service, caller: Caller, ask: GenerateRequest, kept: StoredResponse, spaces: Spaces
) -> None:
    caller.request = None  # it goes on without whoever asked
    try:
        answer = await service.open(caller, ask)
        kept.say(status="in_progress")
        (reply,) = await answer.whole()
        await _answered(service, caller, kept, reply, spaces)
    except HerdError as error:
        _fail(service, caller, kept, error)
    except Exception as error:
        _fail(service, caller, kept, service.log.mistake(caller.request_id, error))
    finally:
        _left(service, caller, kept)


async def _stream(
    service: Service, answer: ReplyInProgress, kept: StoredResponse, spaces: Spaces
) -> AsyncGenerator[bytes, None]:
    """Typed events with growing numbers; an error is one of them."""
    writer, caller = Writer(spaces), answer.caller
    try:
        yield writer.event("response.created", response=Raw(kept.json))
        yield writer.event("response.in_progress", response=Raw(kept.json))
        async for event in answer.events():
            match event:
                case ProgressEvent():
                    yield writer.event("response.prompt_progress", **progress_of(event))
                case TextEvent():
                    _hold_told(caller, event.logprobs)
                    yield writer.text(event.text, event.logprobs)
                case CallStartEvent():
                    yield writer.call(ToolCall(event.name, {}, event.id))
                case CallArgumentsEvent():
                    yield writer.arguments(event.fragment)
                case CallEndEvent():
                    yield writer.called(event.call)
                case DoneEvent():
                    _hold_told(caller, event.logprobs)
                    yield writer.last(event.logprobs)
                    _finish(service, caller, kept, event.reply, writer.items)
                    yield writer.event(f"response.{kept.status}", response=Raw(kept.json))
    except HerdError as error:
        _fail(service, caller, kept, error)
        yield writer.event("response.failed", response=Raw(kept.json))
        inner = body_of(error, "openai")["error"]
        yield writer.event("error", code=inner["code"], message=inner["message"], param=inner["param"])
    except Exception as error:
        _fail(service, caller, kept, error)
        raise
    finally:
        await answer.aclose()


def _hold_told(caller: Caller, found: Sequence[Logprob] | None) -> None:
    """Keep room for log-probabilities that a stream tells again at its end. Raises Busy, TooLarge."""
    if found:
        caller.admission.made.hold(TOLD_AGAIN_BYTES * sum(1 + len(one.top) for one in found))


class Writer:
    """Events of the items of one answer."""

    def __init__(self, spaces: Spaces) -> None:
        self.items: list[dict[str, Any]] = []
        """Those that are complete."""
        self._spaces = spaces
        self._number = -1
        self._message = ""
        self._text: list[str] = []
        self._likely = Likelihoods()
        self._item = ""

    def event(self, kind: str, **members: Any) -> bytes:
        """One event."""
        self._number += 1
        return sse(encode({"type": kind, "sequence_number": self._number, **members}), kind)

    def text(self, text: str, found: Sequence[Logprob] | None = None) -> bytes:
        """A piece of text with its log-probabilities, in a message that is open or in a new one."""
        before = b""
        if not self._message:
            self._message, self._text, self._likely = message_id(), [], Likelihoods()
            before = self._added(message_item(self._message, None, "in_progress"))
            before += self.event("response.content_part.added", part=text_part(""), **self._place())
        self._text.append(text)
        likely = self._likely.add(found)
        return before + self.event("response.output_text.delta", delta=text, logprobs=likely, **self._place())

    def call(self, call: ToolCall) -> bytes:
        """A call begins."""
        before = self._close()
        self._item = item_id()
        return before + self._added(call_item(self._item, call, "in_progress", self._spaces))

    def arguments(self, fragment: str) -> bytes:
        """A piece of its arguments."""
        at = {"item_id": self._item, "output_index": len(self.items)}
        return self.event("response.function_call_arguments.delta", delta=fragment, **at)

    def called(self, call: ToolCall) -> bytes:
        """It is complete."""
        item = call_item(self._item, call, "completed", self._spaces)
        at = {"item_id": self._item, "output_index": len(self.items)}
        done = self.event("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"], **at)
        return done + self._done(item)

    def last(self, found: Sequence[Logprob] | None = None) -> bytes:
        """The end, with the log-probabilities that are left; an answer without anything is an empty message."""
        if self._message or self.items:
            self._likely.add(found)
            return self._close()
        return self.text("", found) + self._close()

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message, "output_index": len(self.items), "content_index": 0}

    def _close(self) -> bytes:
        """The message that is open is complete."""
        if not self._message:
            return b""
        place, text = self._place(), "".join(self._text)
        likely = self._likely
        found = self.event("response.output_text.done", text=text, logprobs=likely.all, **place)
        found += self.event("response.content_part.done", part=text_part(text, likely), **place)
        id_, self._message = self._message, ""
        return found + self._done(message_item(id_, text, "completed", likely))

    def _added(self, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=len(self.items), item=item)

    def _done(self, item: dict[str, Any]) -> bytes:
        found = self.event("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)
        return found
