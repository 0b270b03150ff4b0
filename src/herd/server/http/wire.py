"""Objects -> bytes: JSON, server-sent events, JSON lines."""

import msgspec

_ENCODER = msgspec.json.Encoder()
encode = _ENCODER.encode
"""JSON of anything that msgspec knows: structs, dicts, lists, numbers, texts."""


def sse(data: bytes, event: str | None = None) -> bytes:
    """One server-sent event (HTML Living Standard, 9.2). JSON has no line breaks, so one data line is enough."""
    if event is None:
        return b"data: " + data + b"\n\n"
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


SSE_DONE = b"data: [DONE]\n\n"
SSE_PING = b": ping\n\n"
"""A comment: clients skip it, proxies see life."""


def json_line(data: bytes) -> bytes:
    """One line of a stream of JSON objects."""
    return data + b"\n"
