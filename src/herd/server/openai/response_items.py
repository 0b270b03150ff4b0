"""Items of /v1/responses -> turns as `herd.dialogs` reads them, and replies -> items."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw

from herd.events import Logprob, Reply
from herd.messages import ToolCall
from herd.server.http.wire import encode
from herd.server.openai.chat import dumps
from herd.server.openai.turns import ImageAddress, arguments_of
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images, check_count
from herd.server.shared.logprobs import listed
from herd.text.message_checks import MOST_NAME


class InputText(msgspec.Struct, tag_field="type", tag="input_text"):
    """Text of a user or the system."""

    text: str


class OutputText(msgspec.Struct, tag_field="type", tag="output_text"):
    """Text of an earlier answer."""

    text: str


class Refusal(msgspec.Struct, tag_field="type", tag="refusal"):
    """An earlier answer refused; read as its text."""

    refusal: str


class InputImage(msgspec.Struct, tag_field="type", tag="input_image"):
    """An image."""

    image_url: str | ImageAddress

    @property
    def url(self) -> str:
        """Where it is."""
        return self.image_url if isinstance(self.image_url, str) else self.image_url.url


Part: TypeAlias = InputText | OutputText | Refusal | InputImage


class MessageItem(msgspec.Struct, tag_field="type", tag="message"):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class FunctionCallItem(msgspec.Struct, tag_field="type", tag="function_call"):
    """A call of an earlier answer."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class FunctionCallOutput(msgspec.Struct, tag_field="type", tag="function_call_output"):
    """What came of it."""

    call_id: str
    output: str | list[Part]


class ReasoningItem(msgspec.Struct, tag_field="type", tag="reasoning"):
    """Thoughts of an earlier answer; not shown again."""


Item: TypeAlias = MessageItem | FunctionCallItem | FunctionCallOutput | ReasoningItem
Spaces: TypeAlias = Mapping[str, tuple[str, str]]
"""The name of a tool as the model has it -> the namespace that a client keeps it in, and its name there."""


def name_in(namespace: str | None, name: str) -> str:
    """What the model is told a tool of a namespace is called: models know no namespaces. Of what is longer than a name
    may be, the start and a digest."""
    if not namespace:
        return name
    whole = f"{namespace}__{name}"
    if len(whole) <= MOST_NAME:
        return whole
    return f"{whole[: MOST_NAME - 9]}_{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def with_kinds(items: list[Any]) -> list[Any]:
    """Items with the type that OpenAI lets clients leave out: a role makes a message."""
    return [
        {"type": "message", **item} if isinstance(item, dict) and "type" not in item and "role" in item else item
        for item in items
    ]


def turns_of(items: Sequence[Item], images: Images) -> list[dict[str, Any]]:
    """Turns; calls that follow each other, or a message of the assistant, are one. Raises Refused, BadMedia."""
    contents = [
        x.content if isinstance(x, MessageItem) else x.output
        for x in items
        if isinstance(x, MessageItem | FunctionCallOutput)
    ]
    check_count(sum(isinstance(p, InputImage) for content in contents if isinstance(content, list) for p in content))
    found: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for i, item in enumerate(items):
        where = f"input[{i}]"
        match item:
            case MessageItem(role, content):
                role_ = "system" if role == "developer" else role
                found.append({"role": role_, "content": _content(content, where, images)})
            case FunctionCallItem(call_id, name, arguments, namespace):
                names[call_id] = name = name_in(namespace, name)
                if not found or found[-1]["role"] != "assistant":
                    found.append({"role": "assistant", "content": ""})
                call = {"name": name, "arguments": arguments_of(arguments, f"{where}.arguments"), "id": call_id}
                found[-1].setdefault("tool_calls", []).append(call)
            case FunctionCallOutput(call_id, output):
                content_ = _content(output, where, images)
                turn = {"role": "tool", "content": content_, "tool_call_id": call_id}
                found.append({**turn, "name": names[call_id]} if call_id in names else turn)
            case ReasoningItem():
                pass
    if not found:
        raise Refused("input: got nothing, expected a text or items", "input")
    return found


def _content(content: str | Sequence[Part], where: str, images: Images) -> Any:
    if isinstance(content, str):
        return content
    found: list[dict[str, Any]] = []
    for i, part in enumerate(content):
        match part:
            case InputText(text) | OutputText(text) | Refusal(text):
                found.append({"type": "text", "text": text})
            case InputImage():
                found.append(images.part(part.url, f"{where}.content[{i}].image_url"))
    return found


def output_of(reply: Reply, spaces: Spaces) -> list[dict[str, Any]]:
    """The items of an answer."""
    found = []
    if reply.text or not reply.tool_calls:
        found.append(message_item(message_id(), reply.text, "completed", Likelihoods(_of_text(reply))))
    return found + [call_item(item_id(), call, "completed", spaces) for call in reply.tool_calls]


def _of_text(reply: Reply) -> Sequence[Logprob] | None:
    """Log-probabilities of a message's tokens; those of calls have no place in it."""
    if reply.logprobs is None or not reply.tool_calls:
        return reply.logprobs
    return [x for x in reply.logprobs if x.offset is None or x.offset < len(reply.text)]


class Likelihoods:
    """Log-probabilities as JSON, piece by piece: they are long, and told again and again."""

    def __init__(self, found: Sequence[Logprob] | None = None) -> None:
        self._pieces: list[bytes] = []
        self.add(found)

    def add(self, found: Sequence[Logprob] | None) -> Raw:
        """Some more; returns them alone, as a list."""
        piece = encode(listed(found))[1:-1] if found else b""
        if piece:
            self._pieces.append(piece)
        return _list(piece)

    @property
    def all(self) -> Raw:
        """All of them, as a list."""
        return _list(b",".join(self._pieces))


def _list(inside: bytes) -> Raw:
    return Raw(b"[" + inside + b"]")


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An item as a next response reads it: without log-probabilities."""
    if item["type"] != "message":
        return item
    return {**item, "content": [{**part, "logprobs": []} for part in item["content"]]}


def message_id() -> str:
    """A fresh one."""
    return "msg_" + secrets.token_hex(16)


def item_id() -> str:
    """A fresh one, of a call."""
    return "fc_" + secrets.token_hex(16)


def message_item(id_: str, text: str | None, status: str, likely: Likelihoods | None = None) -> dict[str, Any]:
    """The answer's text as an item; None: it has not begun."""
    content = [] if text is None else [text_part(text, likely)]
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, likely: Likelihoods | None = None) -> dict[str, Any]:
    """Text as a part."""
    logprobs = [] if likely is None else likely.all
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(id_: str, call: ToolCall, status: str, spaces: Spaces) -> dict[str, Any]:
    """A call as an item, with the names that the client knows."""
    namespace, name = spaces.get(call.name, ("", call.name))
    arguments = dumps(call.arguments) if status == "completed" else ""
    item = {"id": id_, "type": "function_call", "status": status, "call_id": call.id, "name": name}
    return {**item, "arguments": arguments, **({"namespace": namespace} if namespace else {})}
