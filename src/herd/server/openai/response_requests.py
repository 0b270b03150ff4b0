"""A request to /v1/responses, or to count what it would take: its fields, what is stored that it means, and what a
model is asked with it.

What it is not: answers (`responses`), items and tools by themselves (`response_items`, `response_tools`).
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from herd.backends.gate import Said
from herd.server.openai.chat import NOT_KEPT
from herd.server.openai.forms import JsonObject, PlainText
from herd.server.openai.other_tools import ELSEWHERE, WHY, told_others, without_others
from herd.server.openai.response_items import (
    Item,
    Spaces,
    references,
    resolved,
    turns_of,
    with_ids,
    with_kinds,
    without_foreign,
)
from herd.server.openai.response_tools import (
    KNOWN,
    Namespace,
    Tool,
    ToolChoice,
    choice_of,
    definitions,
    shown,
    shown_choice,
    spaces_of,
)
from herd.server.requests.fields import FieldTable, Name, Refused, kinds, within
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import Images
from herd.server.response_log import ResponseLog
from herd.server.response_store import Items, StoredResponse
from herd.server.service import Caller, Service
from herd.server.shared.intake import VALUE_BYTES

T = TypeVar("T", bound="ResponsesRequest | InputTokensRequest")


class SchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    schema: dict[str, Any]
    name: str = ""
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct):
    """How the text is to be."""

    format: PlainText | JsonObject | SchemaFormat | None = None


class PromptFields(msgspec.Struct, kw_only=True):
    """What makes up a prompt."""

    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None


class ResponsesRequest(PromptFields, kw_only=True):
    """The fields that have an effect."""

    model: Name
    input: str | list[Any]
    """A text, or items (see response_items)."""
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
    metadata: dict[str, str] | None = None
    user: str | None = None


class InputTokensRequest(PromptFields, kw_only=True):
    """The fields that have an effect."""

    model: Name | None = None
    """None: the model of the response that it goes on from."""
    input: str | list[Any] | None = None


NO_EFFECT = {
    "reasoning": "the model has no levels of reasoning",
    "truncation": "a prompt that is too long is an error, never cut",
    "text.verbosity": "the model has no levels of it",
    ELSEWHERE: WHY,
}
RESPONSES: FieldTable[ResponsesRequest] = FieldTable(
    "POST /v1/responses",
    ResponsesRequest,
    reported={
        **NO_EFFECT,
        "include[]": "there is nothing else to include",
        "service_tier": "there is one",
        "safety_identifier": "see user",
        "prompt_cache_key": "prefixes are found by their content",
        "prompt_cache_retention": "prefixes stay as long as memory allows",
        "stream_options": "nothing is obfuscated, usage always comes",
        "max_tool_calls": "clients call tools",
    },
    refused={
        "conversation": NOT_KEPT,
        "prompt": "there are no stored prompts",
        "text.format.schema": "its type is another; say json_schema",
        **forms_of_others(ResponsesRequest, "use text.format"),
    },
    harmless=HARMLESS,
)
INPUT_TOKENS: FieldTable[InputTokensRequest] = FieldTable(
    "POST /v1/responses/input_tokens",
    InputTokensRequest,
    reported={**NO_EFFECT, "personality": "the model has one manner"},
    refused={"conversation": NOT_KEPT},
)


MOST_METADATA, MOST_METADATA_NAME, MOST_METADATA_VALUE = 16, 64, 512
"""Pairs, and characters of their names and values, as OpenAI has them."""
LOGPROBS = "message.output_text.logprobs"
"""What `include` may name."""
MOST_DESCRIPTION = 16 << 10
"""Characters of a description that a response tells again and no model reads."""


class Known(NamedTuple):
    """What is stored of that a request means. before: the dialog that it goes on from, made with a model of that name;
    having: where items that it refers to are."""

    before: Items | None
    having: Mapping[str, Items]
    model: str = ""

    @property
    def says_of_leaving(self) -> Said:
        """What it says of whether a request that goes on from it, or refers to it, may leave the house."""
        links = (*([] if self.before is None else [self.before]), *self.having.values())
        return Said(False if any(link.private for link in links) else None, "a stored response in it is private")

    def whole(self, items: list[Any]) -> list[Any]:
        """The whole dialog. items: those of the request."""
        return items if self.before is None else [*self.before.all(), *items]


class Asking(NamedTuple):
    """What a body asks for."""

    ask: GenerateRequest
    kept: StoredResponse
    spaces: Spaces
    notes: tuple[str, ...]


class PromptRequest(Protocol):
    """A request for an answer, or for the length of its prompt."""

    instructions: str | None
    previous_response_id: str | None

    @property
    def input(self) -> str | list[Any] | None:
        """A text, or items."""


def asked_of(service: Service, body: dict[str, Any]) -> tuple[ResponsesRequest, tuple[str, ...]]:
    """The typed request, and the fields that have no effect. Raises Refused."""
    asked, ignored = _typed(service, RESPONSES, body)
    if any(name != LOGPROBS for name in asked.include or ()):
        if service.strict:
            raise Refused(f"include[]: {RESPONSES.reported['include[]']}", "include")
        ignored = ("include[]", *ignored)
    if asked.background and asked.store is False:
        raise Refused("background: got it without store", "background")
    _check_told(service, asked)
    return asked, ignored


def counted_of(service: Service, body: dict[str, Any]) -> tuple[InputTokensRequest, tuple[str, ...]]:
    """As `asked_of`, of what is counted alone. Raises Refused."""
    asked, ignored = _typed(service, INPUT_TOKENS, body)
    if asked.model is None and asked.previous_response_id is None:
        raise Refused("model: expected the name of a model, or previous_response_id", "model")
    return asked, ignored


def _typed(service: Service, table: FieldTable[T], body: dict[str, Any]) -> tuple[T, tuple[str, ...]]:
    """A body as its table has it, tools that run elsewhere left out, and what has no effect. Raises Refused."""
    known, others = without_others(body, KNOWN)
    asked, ignored = table.read(known, strict=service.strict)
    within("input", len(asked.input) if isinstance(asked.input, list) else 1, service.limits.messages)
    return asked, (*told_others(others, strict=service.strict), *ignored)


def known_of(service: Service, caller: Caller, asked: PromptRequest) -> Known:
    """What it means of the caller's own stored responses, held as what came with the request. Raises NotFound, Busy,
    TooLarge, Refused."""
    before, model = None, ""
    if asked.previous_response_id is not None:
        found = service.responses.find(caller.key, asked.previous_response_id, "previous_response_id")
        if not found.over:
            got = "a response whose answer has not come yet"
            raise Refused(f"previous_response_id: got {got}, expected one that is over", "previous_response_id")
        before, model = found.items, found.model
        caller.admission.hold(before.whole_bytes + VALUE_BYTES * before.whole_values)
    items = with_kinds(asked.input) if isinstance(asked.input, list) else []
    having = service.responses.items(caller.key, references(items))
    links = {id(link): link for link in having.values()}
    caller.admission.hold(sum(link.size_bytes + VALUE_BYTES * link.num_values for link in links.values()))
    return Known(before, having, model)


def _items(service: Service, asked: PromptRequest, known: Known) -> tuple[list[Any], tuple[str, ...]]:
    """Items of a request that are known here, those among them that it refers to, and what became of the others. Raises
    Refused."""
    given = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input or []
    items, others = without_foreign(with_kinds(given))
    notes = (f"items left out: {kinds(others)}",) if others else ()
    if notes and service.strict:
        raise Refused(f"input: {notes[0]}", "input")
    return resolved(items, known.having, known.before), notes


def asking(service: Service, caller: Caller, asked: ResponsesRequest, known: Known) -> Asking:
    """What comes of it. Raises Refused, TooLarge, BadMedia."""
    said = (known.says_of_leaving,)
    items, notes = _items(service, asked, known)
    body = _body(asked)
    log = ResponseLog() if asked.background else None
    if asked.store is False:
        kept = StoredResponse(body, Items(None, []))  # nobody goes on from it
    else:
        private = not service.leaving(caller, asked.model, said).leave
        kept = StoredResponse(body, Items(known.before, with_ids(items, body["id"]), private=private), log)
        service.responses.check(kept)
    ask = replace(_ask(service, asked, known.whole(items)), said=said)
    return Asking(ask, kept, spaces_of(asked.tools or ()), notes)


class Counting(NamedTuple):
    """What is to be counted. notes: what became of items that are not known here."""

    turns: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    notes: tuple[str, ...]


def counting(service: Service, asked: InputTokensRequest, known: Known, images: Images) -> Counting:
    """As `asking`, of what is counted alone. Raises Refused, BadMedia."""
    items, notes = _items(service, asked, known)
    _, tools = choice_of(asked.tool_choice, definitions(asked.tools or ()))
    spaces_of(asked.tools or ())
    return Counting(_turns(asked, known.whole(items), images), tools, notes)


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


def _turns(asked: PromptRequest, items: list[Any], images: Images) -> list[dict[str, Any]]:
    """Turns for `ChatModel.astream`. Raises Refused, BadMedia."""
    try:
        typed = msgspec.convert(items, list[Item])
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        raise Refused(f"input{where.rstrip('`')}: {text[:1].lower()}{text[1:]}", "input") from None
    turns = turns_of(typed, images)
    return [{"role": "system", "content": asked.instructions}, *turns] if asked.instructions else turns


def _ask(service: Service, asked: ResponsesRequest, items: list[Any]) -> GenerateRequest:
    images = Images(remote=service.remote_media)
    turns = _turns(asked, items, images)
    choice, tools = choice_of(asked.tool_choice, definitions(asked.tools or ()))
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
        continue_final_message=False,  # an item that is there is over
        model=asked.model,
        messages=turns,
        images=images,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        schema=schema,
        options=options,
        called={"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"},
        user=asked.user or "",
        progress=bool(asked.stream and asked.return_progress),
    )


def _body(asked: ResponsesRequest) -> dict[str, Any]:
    """The response before its answer."""
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
        "tool_choice": shown_choice(asked.tool_choice),
        "tools": [shown(tool) for tool in asked.tools or ()],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": asked.top_p if asked.top_p is not None else 1.0,
        "truncation": "disabled",
        **({} if asked.user is None else {"user": asked.user}),
    }  # fmt: skip
