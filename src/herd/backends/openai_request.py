"""A dialog and its options -> the body of a request in the form of OpenAI's chat completions.

Every option is written, or kept by whoever asks (times, whose it is), or refused by name: none is dropped. Nothing that
a dialog says becomes an address: images go as their bytes. What it is not: the answer (`openai_stream`), who may send.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

from herd.backends.target import PARALLEL, Target
from herd.chat_model import Capabilities, Turns, only
from herd.dialogs import begun_in, turns_of
from herd.errors import NotFound, Unsupported, UsageError, fail
from herd.grammar.json_schema import parsed
from herd.grammars import Grammar
from herd.media.encoded import image_of
from herd.media.headers import sniff
from herd.media.limits import IMAGE_LIMITS
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.text.message_checks import check_messages
from herd.text.tools import function_of

SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "n"),
)
"""Options that have the same name there, where the other side has them at all (`Target.options`)."""
OURS = ("timeout_s", "leave", "ceiling")
"""Options that whoever sends the request keeps to; of a ceiling only the answer's part can be kept to here."""
QUIET: Mapping[str, Any] = {"speculate": "auto", "ignore_eos": False}
"""Values of further options that ask for nothing."""
CHOICES = ("auto", "none", "required")
MOST_LOGPROBS = 20
"""The most further tokens that the form tells at each place."""


def body_of(target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a streamed request. Raises UsageError and its kinds for what is wrong with a dialog or options, and
    Unsupported naming what the other side lacks."""
    turns = turns_of(messages)
    check_messages(turns)
    can = target.capabilities
    asked = asked_of(target.name, can, target.options | {"stop"}, options)
    found: dict[str, Any] = {"model": target.model, "messages": list(_messages(target, turns)), "stream": True}
    if target.tells_usage:
        found["stream_options"] = {"include_usage": True}
    found |= {name: asked[name] for name in SAME if name in asked}
    limits = [asked[name] for name in ("max_tokens", "ceiling") if name in asked]
    if limits:  # prompt and answer together stay under a ceiling only if the answer does
        found[target.limit_field] = min(limits)
    found |= _begun(target, turns, options)
    found |= _tools(target, asked)
    found |= _form(target, asked)
    found |= _logprobs(asked)
    if "chat_template_kwargs" in asked:
        found["chat_template_kwargs"] = dict(asked["chat_template_kwargs"])
    return {**found, **target.fields}


def images_in(body: Mapping[str, Any]) -> int:
    """How many images a body has."""
    contents = [turn["content"] for turn in body["messages"]]
    return sum(part["type"] == "image_url" for parts in contents if isinstance(parts, list) for part in parts)


def offered(options: Mapping[str, Any]) -> frozenset[str]:
    """Names of the tools that an answer may call."""
    names = frozenset(function_of(tool)["name"] for tool in options.get("tools") or ())
    choice = options.get("tool_choice") or "auto"
    if choice == "none":
        return frozenset()
    return names if choice in CHOICES else names & {choice}


def asked_of(name: str, can: Capabilities, known: Set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that say something, for a model of that name that has these capabilities and knows these options beside.
    Raises Unsupported for the first that it does not have."""
    honoured = [one for one in (*SAME, "max_tokens") if one in known]
    honoured += ["tools", "tool_choice", "parallel_tool_calls"] if can.tools else []
    honoured += ["schema", "grammar"] if can.schemas else []
    honoured += ["logprobs"] if can.logprobs else []
    honoured += ["chat_template_kwargs"] if can.template else []
    honoured += ["continue_final_message"]
    for option, capability in (("tools", "tools"), ("schema", "schemas"), ("grammar", "schemas")):
        if options.get(option) not in (None, False, [], ()):
            can.require(name, capability)
    if options.get("logprobs") is not None:
        can.require(name, "logprobs")
    said = {one: value for one, value in options.items() if one not in QUIET or value != QUIET[one]}
    return only(name, said, *honoured, *OURS)


def _messages(target: Target, turns: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Turns in the form's own spelling. Calls without ids get some, and results that name none answer them in order."""
    waiting: list[str] = []
    for i, turn in enumerate(turns):
        found: dict[str, Any] = {
            "role": turn.role,
            "content": content_of(target.name, target.capabilities, turn, f"messages[{i}]"),
        }
        if turn.tool_calls:
            ids = [call.id or f"call_{i}_{k}" for k, call in enumerate(turn.tool_calls)]
            waiting = list(ids)
            found["tool_calls"] = [_call(call, name) for call, name in zip(turn.tool_calls, ids, strict=True)]
            found["content"] = found["content"] or None
        elif turn.end_of_message:
            fail(Unsupported, f"messages[{i}].end_of_message", got="a turn that is not over", expected="one that is")
        if turn.role == "tool":
            found["tool_call_id"] = answered(turn, waiting, f"messages[{i}]")
        yield found


def answered(turn: Message, waiting: list[str], where: str) -> str:
    """The id of the call that a result answers; it waits no longer."""
    if not turn.tool_call_id and not waiting:
        fail(UsageError, f"{where}.tool_call_id", got="none", expected="the id of the call that it answers")
    found = turn.tool_call_id or waiting[0]
    if found in waiting:
        waiting.remove(found)
    return found


def _call(call: ToolCall, name: str) -> dict[str, Any]:
    return {**call.to_dict(), "id": name}


def content_of(name: str, can: Capabilities, turn: Message, where: str) -> str | list[dict[str, Any]]:
    """A content in the form's own spelling; a turn's context follows it after an empty line. Raises NoVision for an
    image where the model takes none."""
    parts = [TextPart(turn.content)] if isinstance(turn.content, str) else list(turn.content)
    if turn.context is not None:
        more = [TextPart(turn.context)] if isinstance(turn.context, str) else list(turn.context)
        parts += [TextPart("\n\n"), *more]
    if all(isinstance(part, TextPart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    can.require(name, "images")
    return [_part(part, f"{where}.content[{k}]") for k, part in enumerate(parts)]


def _part(part: TextPart | ImagePart, where: str) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    data = image_bytes(part.data, where)
    kind = sniff(data, where)
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"},
    }


def image_bytes(data: Any, where: str) -> bytes:
    """The bytes of an image. A text is base64 or holds it, and never names a file; a path is one that a program made.
    Raises BadMedia, UsageError, NotFound."""
    if isinstance(data, str):
        return image_of(data, where)
    if isinstance(data, bytes | bytearray | memoryview):
        found = bytes(data)
    elif isinstance(data, PathLike):
        found = _file(Path(data), where)
    else:
        fail(UsageError, where, got=type(data).__name__, expected="an image file's bytes, or a pathlib.Path")
    if len(found) > IMAGE_LIMITS.file_bytes:
        fail(UsageError, where, got=f"{len(found)} bytes", expected=f"at most {IMAGE_LIMITS.file_bytes}")
    return found


def _file(path: Path, where: str) -> bytes:
    if not path.is_file():
        fail(NotFound, where, got=str(path), expected="a file")
    with path.open("rb") as file:
        return file.read(IMAGE_LIMITS.file_bytes + 1)


def _begun(target: Target, turns: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
    """What asks to go on with a begun answer, in vLLM's words."""
    goes_on = options.get("continue_final_message")
    if begun_in(turns, True if goes_on is None else goes_on) is None:
        if target.always_goes_on and turns[-1].role == "assistant":
            what = f"{target.name}: continue_final_message"
            fail(Unsupported, what, got="false", expected="true: it goes on with an assistant's turn at the end")
        return {}
    target.capabilities.require(target.name, "begun")
    return {"continue_final_message": True, "add_generation_prompt": False}


def choice_of(asked: Mapping[str, Any]) -> tuple[Sequence[Mapping[str, Any]], str]:
    """The tools of a request, and which of them is to be called: one of CHOICES, or a name. Raises UsageError."""
    tools = asked.get("tools") or ()
    choice = asked.get("tool_choice", "auto")
    names = [function_of(tool)["name"] for tool in tools]
    if choice not in (*CHOICES, *names):
        fail(UsageError, "tool_choice", got=choice, expected=", ".join((*CHOICES, *names)))
    if not tools and choice not in ("auto", "none"):
        fail(UsageError, "tool_choice", got=choice, expected="tools to choose from")
    return tools, choice


def _tools(target: Target, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and their choice. Where no choice can be named, that tool alone is there to choose from."""
    tools, choice = choice_of(asked)
    if not tools:
        return {}
    if choice not in CHOICES and not target.names_choice:
        tools, choice = [tool for tool in tools if function_of(tool)["name"] == choice][:1], "required"
    found: dict[str, Any] = {"tools": [{"type": "function", "function": dict(function_of(tool))} for tool in tools]}
    named = {"type": "function", "function": {"name": choice}}
    if choice != "auto":
        if (choice if choice in CHOICES else "required") not in target.choices:
            fail(Unsupported, f"{target.name} has no tool_choice {choice}", do="leave it out, or ask another one")
        found["tool_choice"] = choice if choice in CHOICES else named
    if asked.get("parallel_tool_calls") is False:
        if PARALLEL not in target.choices:
            fail(Unsupported, f"{target.name} has no option parallel_tool_calls", do="leave it out, or ask another one")
        found["parallel_tool_calls"] = False
    return found


def _form(target: Target, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer must be, as `response_format`."""
    grammar = asked.get("grammar")
    if "schema" in asked and grammar is not None:
        fail(UsageError, "schema", got="a schema and a grammar", expected="one of them")
    schema = _schema(target, asked.get("schema"), grammar)
    if schema is None:
        return {}
    if schema is True and target.json_object:
        return {"response_format": {"type": "json_object"}}
    named = {"name": "answer", "schema": {"type": "object"} if schema is True else schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _schema(target: Target, schema: Any, grammar: Grammar | str | None) -> Any:
    """True for any JSON object, a schema, or None."""
    if grammar is None:
        if schema is None or schema is False or schema is True:
            return schema or None
        if not isinstance(schema, Mapping):
            fail(UsageError, "schema", got=type(schema).__name__, expected="True, or a JSON schema")
        return schema
    read = Grammar.read(grammar) if isinstance(grammar, str) else grammar
    if read.kind == "json":
        return True
    if read.kind != "schema":
        fail(Unsupported, f"{target.name} has no grammar {read.kind}", do="use a JSON schema, or another model")
    return parsed(read.text)


def _logprobs(asked: Mapping[str, Any]) -> dict[str, Any]:
    if (top := asked.get("logprobs")) is None:
        return {}
    if type(top) is not int or not 0 <= top <= MOST_LOGPROBS:
        fail(UsageError, "logprobs", got=top, expected=f"a whole number from 0 to {MOST_LOGPROBS}")
    return {"logprobs": True} | ({"top_logprobs": top} if top else {})


def written(body: Mapping[str, Any]) -> bytes:
    """A body as it is sent. Raises UsageError for what JSON cannot say."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        fail(UsageError, "a request", got=f"what JSON cannot say ({str(error)[:80]})", expected="JSON values")
