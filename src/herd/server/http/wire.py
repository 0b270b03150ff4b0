"""Objects -> bytes: JSON, server-sent events, JSON lines."""

import msgspec

_ENCODER = msgspec.json.Encoder()
encode = _ENCODER.encode
"""JSON of anything that msgspec knows: structs, dicts, lists, numbers, texts."""
_BREAKS = (("\u0085".encode(), rb"\u0085"), ("\u2028".encode(), rb"\u2028"), ("\u2029".encode(), rb"\u2029"))


def _one_line(data: bytes) -> bytes:
    """JSON without the characters besides its control characters that readers of lines take for the end of one, as
    Python's `str.splitlines` does. They stand in strings alone, where their escapes say the same."""
    for character, escape in _BREAKS:
        data = data.replace(character, escape)
    return data


def sse(data: bytes, event: str | None = None) -> bytes:
    """One server-sent event (HTML Living Standard, 9.2) of JSON, which is one line of data."""
    data = _one_line(data)
    if event is None:
        return b"data: " + data + b"\n\n"
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


SSE_DONE = b"data: [DONE]\n\n"
SSE_PING = b": ping\n\n"
"""A comment: clients skip it, proxies see life."""


def json_line(data: bytes) -> bytes:
    """One line of a stream of JSON objects."""
    return _one_line(data) + b"\n"
