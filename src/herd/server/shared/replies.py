"""Answers as one JSON object."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from herd.events import ProgressEvent, Reply
from herd.server.http.wire import encode
from herd.server.service import Caller, Service


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An object as a reply."""
    return Response(encode(value), status, media_type="application/json", headers=headers)


async def json_reply(
    service: Service,
    caller: Caller,
    build: Callable[[], Any],
    replies: Sequence[Reply],
    headers: Mapping[str, str] | None = None,
    more_bytes: int = 0,
) -> Response:
    """Answers as one object, written beside the event loop where they are long. more_bytes: that stand in it besides
    them, about."""
    size = more_bytes + sum(size_of(reply) for reply in replies)
    data = await service.soon(caller, lambda: encode(build()), size)
    return Response(data, media_type="application/json", headers=headers)


def progress_of(event: ProgressEvent) -> dict[str, Any]:
    """How much of a prompt is read, as a member of a stream's chunk: llama.cpp's, in all dialects."""
    return {
        "prompt_progress": {
            "total": event.prompt_tokens,
            "cache": event.cached_tokens,
            "processed": event.read_tokens,
            "time_ms": round(event.prefill_s * 1e3),
        }
    }


def size_of(reply: Reply) -> int:
    """About how many bytes an answer is as JSON."""
    calls = sum(len(call.name) + 256 for call in reply.tool_calls)
    per_token = 0 if not reply.logprobs else 128 * (1 + len(reply.logprobs[0].top))
    return len(reply.text) + calls + 4 * len(reply.ids) + per_token * len(reply.logprobs or ())
