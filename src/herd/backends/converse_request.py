"""A dialog and its options -> the body of a request to Bedrock's Converse.

Every option is written, or kept by whoever asks, or refused by name, as in `openai_request`. What Converse has no words
for (`n`, seeds, log-probabilities, penalties, schemas, begun answers) is refused; no field of a model's own is used
(`additionalModelRequestFields`): for Llama, Bedrock documents none beside those of Converse. Source of the fields:
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html, for Llama
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html. What it is not: the answer
(`converse_stream`).
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from herd.backends.openai_request import answered, asked_of, choice_of, image_bytes
from herd.backends.target import Target
from herd.chat_model import Capabilities, Turns, refuse
from herd.dialogs import begun_in, turns_of
from herd.errors import Unsupported, fail
from herd.media.headers import sniff
from herd.messages import Content, ImagePart, Message, TextPart, ToolCall
from herd.text.message_checks import check_messages
from herd.text.tools import function_of

INFERENCE: Mapping[str, str] = {"temperature": "temperature", "top_p": "topP"}
"""Numbers from 0 to 1 of `inferenceConfig`."""
KNOWN = frozenset({*INFERENCE, "max_tokens", "stop"})
IMAGES = ("png", "jpeg", "gif", "webp")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""A tool's name there."""
_ID = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")
"""A call's id there."""


def can(capabilities: Capabilities) -> Capabilities:
    """What of those Converse has words for: images and tools."""
    return Capabilities(images=capabilities.images, tools=capabilities.tools)


def is_llama(target: Target) -> bool:
    """Whether the model there is a Llama. Bedrock streams it no calls of tools and forces none upon it ("This model
    doesn't support tool use in streaming mode", "... the toolConfig.toolChoice.any field"), as others found."""
    return "meta.llama" in target.model


def body_of(target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request. Raises UsageError and its kinds for what is wrong with a dialog or options, and
    Unsupported naming what Converse or the model lacks."""
    turns = turns_of(messages)
    check_messages(turns)
    asked = asked_of(target.name, can(target.capabilities), target.options & KNOWN, options)
    goes_on = options.get("continue_final_message")
    if begun_in(turns, True if goes_on is None else goes_on) is not None:
        refuse(target.name, "begun")
    head = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    found: dict[str, Any] = {"messages": _messages(target, turns, head)}
    if system := [{"text": turn.text} for turn in turns[:head] if turn.text]:
        found["system"] = system
    if inference := _inference(asked):
        found["inferenceConfig"] = inference
    if tools := _tools(target, asked):
        found["toolConfig"] = tools
    return found


def images_in(body: Mapping[str, Any]) -> int:
    """How many images a body has, those in results of tools included."""
    blocks = [block for turn in body["messages"] for block in turn["content"]]
    inner = [block["toolResult"]["content"] for block in blocks if "toolResult" in block]
    return sum("image" in block for block in (*blocks, *(one for parts in inner for one in parts)))


def _inference(asked: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    limits = [asked[name] for name in ("max_tokens", "ceiling") if name in asked]
    if limits:
        found["maxTokens"] = min(limits)
    for name, theirs in INFERENCE.items():
        if name in asked:
            if not 0 <= asked[name] <= 1:
                fail(Unsupported, name, got=asked[name], expected="0 to 1, which is all that Bedrock takes")
            found[theirs] = asked[name]
    if stop := asked.get("stop"):
        found["stopSequences"] = [stop] if isinstance(stop, str) else list(stop)
    return found


def _messages(target: Target, turns: Sequence[Message], head: int) -> list[dict[str, Any]]:
    """Turns after the first system turns. Converse knows two roles, which take turns: results of tools are the user's,
    and turns of one role that follow each other are blocks of one message."""
    found: list[dict[str, Any]] = []
    waiting: list[str] = []
    for i, turn in enumerate(turns[head:], head):
        where = f"messages[{i}]"
        if turn.role == "system":
            fail(Unsupported, f"{where}.role", got="system after other turns", expected="system turns first")
        role = "assistant" if turn.role == "assistant" else "user"
        blocks = _blocks(target, turn, i, waiting)
        if found and found[-1]["role"] == role:
            found[-1]["content"] += blocks
        else:
            found.append({"role": role, "content": blocks})
    for i, one in enumerate(found):
        if not one["content"]:
            fail(Unsupported, f"turn {i + 1}, of the {one['role']}", got="nothing", expected="something that is said")
    return found


def _blocks(target: Target, turn: Message, i: int, waiting: list[str]) -> list[dict[str, Any]]:
    where = f"messages[{i}]"
    said = _content(target, turn.content, f"{where}.content")
    if turn.context is not None:
        said += [{"text": "\n\n"}, *_content(target, turn.context, f"{where}.context")]
        said = _joined(said)
    if turn.role == "tool":
        called = _id(answered(turn, waiting, where), f"{where}.tool_call_id")
        return [{"toolResult": {"toolUseId": called, "content": said or [{"text": ""}]}}]
    if turn.tool_calls:
        ids = [call.id or f"call_{i}_{k}" for k, call in enumerate(turn.tool_calls)]
        waiting[:] = ids
        said += [_call(call, called, where) for call, called in zip(turn.tool_calls, ids, strict=True)]
    elif turn.end_of_message:
        fail(Unsupported, f"{where}.end_of_message", got="a turn that is not over", expected="one that is")
    return said


def _joined(blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks, those of texts that follow each other as one."""
    found: list[dict[str, Any]] = []
    for block in blocks:
        if "text" in block and found and "text" in found[-1]:
            found[-1] = {"text": found[-1]["text"] + block["text"]}
        else:
            found.append(block)
    return found


def _call(call: ToolCall, called: str, where: str) -> dict[str, Any]:
    name = _name(call.name, f"{where}.tool_calls: name")
    called = _id(called, f"{where}.tool_calls: id")
    return {"toolUse": {"toolUseId": called, "name": name, "input": dict(call.arguments)}}


def _content(target: Target, content: Content, where: str) -> list[dict[str, Any]]:
    """Blocks of a content; texts that follow each other are one, empty ones none."""
    parts = [TextPart(content)] if isinstance(content, str) else list(content)
    return _joined(list(_parts(target, parts, where)))


def _parts(target: Target, parts: Sequence[TextPart | ImagePart], where: str) -> Iterator[dict[str, Any]]:
    for k, part in enumerate(parts):
        if isinstance(part, TextPart):
            if part.text:
                yield {"text": part.text}
            continue
        target.capabilities.require(target.name, "images")
        data = image_bytes(part.data, f"{where}[{k}]")
        if (kind := sniff(data, where)) not in IMAGES:
            fail(Unsupported, f"{where}[{k}]", got=f"a {kind} image", expected="one of " + ", ".join(IMAGES))
        yield {"image": {"format": kind, "source": {"bytes": base64.b64encode(data).decode()}}}


def _tools(target: Target, asked: Mapping[str, Any]) -> dict[str, Any]:
    tools, choice = choice_of(asked)
    if not tools:
        return {}
    if choice == "none":
        _lacks(target, "tools that are shown and may not be called", "leave the tools out")
    if choice != "auto" and is_llama(target):
        _lacks(target, "calls of tools that are forced, for Llama", "leave tool_choice out")
    if asked.get("parallel_tool_calls") is False:
        _lacks(target, "option parallel_tool_calls", "leave it out")
    chosen: dict[str, Any] = {"auto": {"auto": {}}, "required": {"any": {}}}.get(choice, {"tool": {"name": choice}})
    return {"tools": [_tool(function_of(tool)) for tool in tools], "toolChoice": chosen}


def _lacks(target: Target, what: str, do: str) -> NoReturn:
    fail(Unsupported, f"{target.name} has no {what}", do=do)


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    told = {"description": function["description"]} if function.get("description") else {}
    name = _name(function["name"], "tools: name")
    return {"toolSpec": {"name": name, **told, "inputSchema": {"json": dict(schema)}}}


def _name(name: str, where: str) -> str:
    """A tool's name that Converse takes. Raises Unsupported."""
    if not _NAME.fullmatch(name):
        fail(Unsupported, where, got=name[:80], expected="1 to 64 letters of ASCII, digits, _ or - for Bedrock")
    return name


def _id(called: str, where: str) -> str:
    """A call's id that Converse takes. Raises Unsupported."""
    if not _ID.fullmatch(called):
        fail(Unsupported, where, got=called[:80], expected="1 to 64 letters of ASCII, digits, _ . : or - for Bedrock")
    return called
