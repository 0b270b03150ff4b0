"""What Bedrock's Converse answers -> chunks in the form of OpenAI's chat completions.

    Translation   frames of ConverseStream, one after another
    chunks_of     an answer of Converse that came whole

The chunks are checked where all others are (`openai_stream`); here is what is Bedrock's own: frames that are events,
exceptions and errors, blocks that are over, reasons to end, tokens. Source:
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ConverseStream.html. What it is not: bytes
(`frames`), what was sent (`converse_request`).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from herd.backends.failures import Broken, failure, of_event
from herd.backends.frames import Frame
from herd.backends.target import Target

REASONS: Mapping[str, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
}
"""Reasons to end, and what OpenAI calls them. Of two more no answer is left: malformed_model_output and
malformed_tool_use."""
MOST_BLOCKS = 256
"""Blocks of one answer."""


class Translation:
    """Events of one answer in, chunks out."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = -1
        """The last block that is over."""
        self._calls: dict[int, int] = {}
        """Places of calls among the calls, by their blocks."""

    def event(self, frame: Frame, value: Any) -> Iterator[dict[str, Any]]:
        """Chunks of one frame, whose payload is this JSON value. Raises errors of `herd.backends.failures`."""
        kind = frame.text(":message-type")
        if kind == "exception":
            raise of_event(self._target, _error(frame.text(":exception-type"), value))
        if kind == "error":
            raise of_event(self._target, _error(frame.text(":error-code"), {"message": frame.text(":error-message")}))
        if kind != "event":
            self._broken("sent a frame that is no event")
        if not isinstance(value, Mapping):
            self._broken("sent an event that is no object")
        match frame.text(":event-type"):
            case "messageStart":
                if value.get("role") != "assistant":
                    self._broken("began an answer that is not the assistant's")
            case "contentBlockStart":
                yield from self._started(self._block(value), self._part(value, "start"))
            case "contentBlockDelta":
                yield from self._said(self._block(value), self._part(value, "delta"))
            case "contentBlockStop":
                self._over = self._block(value)
            case "messageStop":
                yield _chunk({}, self._reason(value))
            case "metadata":
                yield {"choices": [], "usage": self._usage(value.get("usage"))}
            case other:
                raise failure(Broken, self._target, "sent an event of an unknown kind", other)

    def _started(self, block: int, start: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        call = start.get("toolUse")
        if not isinstance(call, Mapping):
            self._broken("began what was not asked for")
        if block in self._calls:
            self._broken("began a call twice")
        self._calls[block] = len(self._calls)
        yield self._called(block, "", call.get("toolUseId"), call.get("name"))

    def _said(self, block: int, delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        match delta:
            case {"text": str(text)}:
                yield _chunk({"content": text})
            case {"toolUse": {"input": str(text)}} if block in self._calls:
                yield self._called(block, text)
            case {"reasoningContent": {"text": str(text)}}:
                yield _chunk({"reasoning_content": text})
            case {"reasoningContent": {"signature": _}} | {"reasoningContent": {"redactedContent": _}}:
                pass  # for whoever sends a thought back; Herd does not
            case _:
                self._broken("sent a delta in another form")

    def _called(self, block: int, text: str, called: Any = None, name: Any = None) -> dict[str, Any]:
        function = {"arguments": text} | ({} if name is None else {"name": name})
        return _chunk({"tool_calls": [{"index": self._calls[block], "id": called, "function": function}]})

    def _block(self, value: Mapping[str, Any]) -> int:
        """The place of the block that an event is of. Raises Broken for one that is over."""
        found = value.get("contentBlockIndex")
        if type(found) is not int or not self._over < found < MOST_BLOCKS:
            self._broken("sent a block that is over, or at no place")
        return found

    def _part(self, value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = value.get(name)
        if not isinstance(found, Mapping):
            self._broken(f"sent a {name} that is no object")
        return found

    def _reason(self, value: Mapping[str, Any]) -> str:
        told = value.get("stopReason")
        if not isinstance(told, str) or told not in REASONS:
            raise failure(Broken, self._target, "ended its answer for an unknown reason", str(told))
        return REASONS[told]

    def _usage(self, told: Any) -> Any:
        """What it took; what is none is refused where all usages are."""
        if not isinstance(told, Mapping):
            return 0 if told is None else told
        cached = {"cached_tokens": told.get("cacheReadInputTokens")}
        counts = {"prompt_tokens": told.get("inputTokens"), "completion_tokens": told.get("outputTokens")}
        return {**counts, "prompt_tokens_details": cached}

    def _broken(self, what: str) -> NoReturn:
        raise failure(Broken, self._target, what)


def chunks_of(target: Target, value: Any) -> Iterator[dict[str, Any]]:
    """The chunks of an answer of Converse that came whole. Raises errors of `herd.backends.failures`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("output"), Mapping):
        raise failure(Broken, target, "sent what is no answer")
    message = value["output"].get("message")
    blocks = message.get("content") if isinstance(message, Mapping) and message.get("role") == "assistant" else None
    if not isinstance(blocks, list) or len(blocks) > MOST_BLOCKS:
        raise failure(Broken, target, "sent what is no answer of the assistant's")
    reading = Translation(target)
    for block in blocks:
        yield _block_chunk(target, block)
    yield _chunk({}, reading._reason(value))
    yield {"choices": [], "usage": reading._usage(value.get("usage"))}


def _block_chunk(target: Target, block: Any) -> dict[str, Any]:
    match block:
        case {"text": str(text)}:
            return _chunk({"content": text})
        case {"toolUse": {"toolUseId": called, "name": name, "input": dict(given)}}:
            function = {"name": name, "arguments": json.dumps(given)}
            return _chunk({"tool_calls": [{"id": called, "function": function}]})
        case {"reasoningContent": {"reasoningText": {"text": str(text)}}}:
            return _chunk({"reasoning_content": text})
        case {"reasoningContent": _}:
            return _chunk({})
    raise failure(Broken, target, "sent a block in another form")


def _chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": dict(delta), "finish_reason": finish}]}


def _error(name: str, value: Any) -> dict[str, Any]:
    """An exception as an error of OpenAI's form."""
    said = value.get("message", value.get("Message")) if isinstance(value, Mapping) else None
    return {"error": {"type": name, "message": said if isinstance(said, str) else ""}}
