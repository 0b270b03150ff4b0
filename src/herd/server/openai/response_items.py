"""Items of /v1/responses -> turns as `herd.dialogs` reads them, and replies -> items."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from msgspec import Raw

from herd.events import Logprob, Reply
from herd.messages import CutCall, ToolCall
from herd.server.http.wire import encode
from herd.server.openai.turns import ImageAddress, arguments_of
from herd.server.requests.fields import Refused
from herd.server.requests.media import Images, check_count
from herd.server.response_store import Items
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
    arguments: str | None = None
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


REFERENCE = "item_reference"
_KNOWN = frozenset(one.__struct_config__.tag for one in get_args(Item))
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
"""How ids of items begin."""
MOST_ID = 256
"""Characters of an item's id."""


def with_kinds(items: list[Any]) -> list[Any]:
    """Items with the type that OpenAI lets clients leave out: a role makes a message, an id alone a reference."""
    return [_with_kind(item) if isinstance(item, dict) and item.get("type") is None else item for item in items]


def _with_kind(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "type": "message"} if "role" in item else {**item, "type": REFERENCE} if "id" in item else item


def references(items: Sequence[Any]) -> list[str]:
    """Ids of stored items that stand for them, each once. Raises Refused for one that is no id."""
    found: dict[str, None] = {}
    for i, item in enumerate(items):
        if _type(item) == REFERENCE:
            if not isinstance(item.get("id"), str):
                raise Refused(f"input[{i}].id: expected the id of a stored item", f"input[{i}].id")
            found[item["id"]] = None
    return [*found]


def resolved(items: Sequence[Any], having: Mapping[str, Items], before: Items | None) -> list[Any]:
    """Items with those that references stand for. having: where these are. What the dialog has already, before or by
    another reference, is there once."""
    links = {id(link): link for link in having.values()}
    known = {item["id"]: item for link in links.values() for item in link.own() if _has_id(item, having)}
    there = {id_ for link in (() if before is None else before.chain()) for id_ in link.ids}
    found = []
    for item in items:
        if _type(item) != REFERENCE:
            found.append(item)
        elif item["id"] not in there:
            there.add(item["id"])
            found.append(known[item["id"]])
    return found


def _has_id(item: Any, ids: Collection[str]) -> bool:
    return isinstance(item, dict) and item.get("id") in ids


def without_foreign(items: Sequence[Any]) -> tuple[list[Any], tuple[str, ...]]:
    """Items of types that are known here, and the types of the others. What is no object with a type stays as it is, to
    be refused."""
    kept = [item for item in items if not isinstance(_type(item), str) or _type(item) in (*_KNOWN, REFERENCE)]
    others = {_type(item): None for item in items if isinstance(_type(item), str)}
    return kept, tuple(kind for kind in others if kind not in (*_KNOWN, REFERENCE))


def _type(item: Any) -> Any:
    return item.get("type") if isinstance(item, dict) else None


def with_ids(items: Sequence[Any], response_id: str) -> list[Any]:
    """Items that are stored, each with an id by which a later request may mean it: its own, or one that is made."""
    return [
        {**item, "id": f"{_prefix(item)}_{response_id.removeprefix('resp_')}_i{i}"}
        if isinstance(item, dict) and not _is_id(item.get("id"))
        else item
        for i, item in enumerate(items)
    ]


def _prefix(item: dict[str, Any]) -> str:
    kind = item.get("type")
    return _PREFIXES.get(kind, "item") if isinstance(kind, str) else "item"


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MOST_ID and value.isascii()


def listed_item(item: dict[str, Any]) -> dict[str, Any]:
    """A stored item as a list of them tells it: with a status, and texts as parts."""
    found = {**item, "status": item.get("status") or "completed"}
    if item.get("type") == "message" and isinstance(item.get("content"), str):
        theirs = {"type": "input_text", "text": item["content"]}
        found["content"] = [text_part(item["content"]) if item.get("role") == "assistant" else theirs]
    return found


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
                call = {"name": name, "arguments": arguments_of(arguments), "id": call_id}
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


def output_of(reply: Reply, spaces: Spaces, response_id: str) -> list[dict[str, Any]]:
    """The items of an answer. One that was cut says so of its text, or of the call that was being written."""
    found = []
    if reply.text or not (reply.tool_calls or reply.cut_call):
        status = "completed" if reply.cut_call else status_of(reply)
        likely = Likelihoods(_of_text(reply))
        found.append(message_item(output_id("msg", response_id, 0), reply.text, status, likely))
    for call in reply.tool_calls:
        found.append(call_item(output_id("fc", response_id, len(found)), call, "completed", spaces))
    if reply.cut_call is not None:
        found.append(call_item(output_id("fc", response_id, len(found)), reply.cut_call, "incomplete", spaces))
    return found


def text_in(output: Sequence[dict[str, Any]]) -> str:
    """The text of an answer's items."""
    return "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])


def status_of(reply: Reply) -> str:
    """The status of what an answer ended with."""
    return "incomplete" if reply.finish_reason in CUT else "completed"


CUT = {"length": "max_output_tokens", "policy": "content_filter"}
"""Why an answer is not whole -> as a response tells it."""


def _of_text(reply: Reply) -> Sequence[Logprob] | None:
    """Log-probabilities of a message's tokens; those of calls have no place in it."""
    if reply.logprobs is None or not (reply.tool_calls or reply.cut_call):
        return reply.logprobs
    return [x for x in reply.logprobs if x.offset is None or x.offset < len(reply.text)]


class Likelihoods:
    """Log-probabilities as JSON, piece by piece: they are long, and told again and again."""

    def __init__(self, found: Sequence[Logprob] | None = None) -> None:
        self._pieces: list[bytes] = []
        self.add(found)

    def add(self, found: Sequence[Logprob] | None) -> Raw:
        """Some more; returns them alone, as a list."""
        return self.add_json(_list(encode(listed(found))[1:-1] if found else b""))

    def add_json(self, found: Raw) -> Raw:
        """Some more, which are a list in JSON; returns them."""
        if piece := bytes(found)[1:-1]:
            self._pieces.append(piece)
        return found

    @property
    def all(self) -> Raw:
        """All items, as a list in JSON."""
        return _list(b",".join(self._pieces))


def _list(inside: bytes) -> Raw:
    return Raw(b"[" + inside + b"]")


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An item as a next response reads it: without log-probabilities."""
    if item["type"] != "message":
        return item
    return {**item, "content": [{**part, "logprobs": []} for part in item["content"]]}


def output_id(prefix: str, response_id: str, index: int) -> str:
    """The id of the item at a place of a response's output; the same whenever it is told."""
    return f"{prefix}_{response_id.removeprefix('resp_')}_{index}"


def message_item(id_: str, text: str | None, status: str, likely: Likelihoods | None = None) -> dict[str, Any]:
    """The answer's text as an item; None: it has not begun."""
    content = [] if text is None else [text_part(text, likely)]
    return {"id": id_, "type": "message", "role": "assistant", "status": status, "content": content}


def text_part(text: str, likely: Likelihoods | None = None) -> dict[str, Any]:
    """Text as a part."""
    logprobs = [] if likely is None else likely.all
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def call_item(id_: str, call: ToolCall | CutCall, status: str, spaces: Spaces) -> dict[str, Any]:
    """A call as an item, with the names that the client knows."""
    arguments = call.arguments if isinstance(call, CutCall) else call.arguments_text
    return named_call_item(id_, call.id or "", spaces.get(call.name, ("", call.name)), arguments, status)


def named_call_item(id_: str, call_id: str, name: tuple[str, str], arguments: str, status: str) -> dict[str, Any]:
    """A call as an item. name: its namespace or "", and its name there."""
    item = {"id": id_, "type": "function_call", "status": status, "call_id": call_id, "name": name[1]}
    return {**item, "arguments": arguments, **({"namespace": name[0]} if name[0] else {})}
