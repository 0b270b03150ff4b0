"""Frames of an event stream as Bedrock writes them, and answers in them.

frame     one frame; its headers of any type
event     an event of ConverseStream
answer    an answer of several
"""

import json
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from fake_host import Script

KIND = "application/vnd.amazon.eventstream"
Header = tuple[str, int, bytes]
"""Name, type, bytes of the value with whatever length stands before them."""


def text(name: str, value: str) -> Header:
    return name, 7, struct.pack("!H", len(value.encode())) + value.encode()


def packed(headers: list[Header]) -> bytes:
    return b"".join(bytes([len(n.encode())]) + n.encode() + bytes([kind]) + value for n, kind, value in headers)


def sealed(headers: bytes, payload: bytes, size: int | None = None, header_size: int | None = None) -> bytes:
    """A frame with right checksums, whatever lengths it tells."""
    told = 16 + len(headers) + len(payload) if size is None else size
    lengths = struct.pack("!II", told, len(headers) if header_size is None else header_size)
    whole = lengths + struct.pack("!I", crc32(lengths)) + headers + payload
    return whole + struct.pack("!I", crc32(whole))


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    return sealed(packed([text(*one) for one in headers.items()]), payload)


def event(kind: str, value: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, value if isinstance(value, bytes) else json.dumps(value).encode())


def exception(kind: str, message: str) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps({"message": message}).encode())


START = event("messageStart", {"role": "assistant", "p": "abcd"})


def said(words: str, block: int = 0) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": block, "delta": {"text": words}, "p": "abcdef"})


def stop(block: int = 0) -> bytes:
    return event("contentBlockStop", {"contentBlockIndex": block})


def finish(reason: str = "end_turn") -> bytes:
    return event("messageStop", {"stopReason": reason})


def usage(prompt: Any = 7, output: Any = 3) -> bytes:
    counts = {"inputTokens": prompt, "outputTokens": output, "totalTokens": 10}
    return event("metadata", {"usage": counts, "metrics": {"latencyMs": 400}})


def call(block: int, called: Any, name: Any) -> bytes:
    start = {"toolUse": {"toolUseId": called, "name": name}}
    return event("contentBlockStart", {"contentBlockIndex": block, "start": start})


def arguments(words: Any, block: int = 0) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": block, "delta": {"toolUse": {"input": words}}})


def answer(*words: str, reason: str = "end_turn") -> Script:
    """A streamed answer in so many pieces."""
    return Script([START, *map(said, words), stop(), finish(reason), usage()], kind=KIND)
