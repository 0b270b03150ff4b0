"""What is asked of real engines to be recorded (`engines_record.py`): requests as Herd makes them, and wrong ones.

`expects` is what Herd has to make of the answer: "answer", or the reason of a typed error (herd.backends.failures).
Rows that Herd never sends (`raw`) are recorded all the same: their answers are played back to it.
"""

import base64
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

HELLO = [{"role": "user", "content": "Hello."}]
SUM = [{"role": "system", "content": "Answer in one short sentence."}, {"role": "user", "content": "What is 2 + 2?"}]
SIGNS = [{"role": "user", "content": "Say this back: Grüße, 🐑 und 漢字."}]
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"name": "get_weather", "description": "Tells the weather of a city.", "parameters": CITY}
TIME = {"name": "get_time", "description": "Tells the time.", "parameters": {"type": "object", "properties": {}}}
ASKS = [{"role": "user", "content": "How is the weather in Oslo in 3 days?"}]
CALLED = {"name": "get_weather", "arguments": '{"city": "Oslo", "days": 3}'}
RESULT = [
    *ASKS,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": CALLED}
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]  # fmt: skip
BEGUN = [*HELLO, {"role": "assistant", "content": "Hello! My name"}]
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12}

LONGER: dict[str, Any] = {"temperature": 0.0, "max_tokens": 96}


def png() -> str:
    """A white image of 2 x 2 pixels, as base64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xff" * 6 for _ in range(2))
    head = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


LOOKS = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png()}"}},
        ],
    }
]


@dataclass(frozen=True)
class Case:
    """One request. model, key: others than the right ones. raw: a body that Herd does not write, to `path`. calls:
    asked of the engine whose model calls tools (--calls-url)."""

    name: str
    turns: list[dict[str, Any]] = field(default_factory=lambda: HELLO)
    options: dict[str, Any] = field(default_factory=dict)
    expects: str = "answer"
    engines: tuple[str, ...] = ("vllm", "llama-server")
    model: str = ""
    key: str | None = None
    raw: bytes | None = None
    path: str = "/chat/completions"
    method: str = "POST"
    calls: bool = False


VLLM, LLAMA = ("vllm",), ("llama-server",)
CHAT = (
    Case("length", options=GREEDY),
    Case("ends by itself", SUM, {"temperature": 0.0, "max_tokens": 48}),
    Case("signs", SIGNS, {"temperature": 0.0, "max_tokens": 24}),
    Case("stop string", SUM, {**GREEDY, "stop": [" is", " Ori"], "max_tokens": 48}),
    Case("one token", options={"temperature": 0.0, "max_tokens": 1}),
    Case("log-probabilities", options={"temperature": 0.0, "max_tokens": 3, "logprobs": 2}),
    Case("its own log-probabilities", options={"temperature": 0.0, "max_tokens": 3, "logprobs": 0}),
    Case("log-probabilities of signs", SIGNS, {"temperature": 0.0, "max_tokens": 16, "logprobs": 1}),
    Case("several answers", options={"n": 2, "seed": 5, "temperature": 1.0, "max_tokens": 6}, engines=VLLM),
    Case("several answers", options={"n": 2, "max_tokens": 6}, expects="unsupported", engines=LLAMA),
    Case(
        "sampling",
        options={
            "seed": 7,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 20,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.1,
            "max_tokens": 8,
        },
    ),
    Case("min_p", options={"seed": 7, "temperature": 0.7, "min_p": 0.1, "max_tokens": 8}),
    Case("repetition penalty", options={**GREEDY, "repetition_penalty": 1.3}, engines=VLLM),
    Case("repetition penalty", options={**GREEDY, "repetition_penalty": 1.3}, expects="unsupported", engines=LLAMA),
    Case("forced call", ASKS, {"tools": [WEATHER, TIME], "tool_choice": "get_weather", **LONGER}, calls=True),
    Case("some call", ASKS, {"tools": [WEATHER], "tool_choice": "required", **LONGER}, calls=True),
    Case(
        "one call",
        ASKS,
        {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, **LONGER},
        calls=True,
    ),
    Case("a call by itself", ASKS, {"tools": [WEATHER, TIME], **LONGER}, calls=True),
    Case(
        "a call that is cut",
        ASKS,
        {"tools": [WEATHER], "tool_choice": "get_weather", "temperature": 0.0, "max_tokens": 6},
        calls=True,
    ),
    Case(
        "a forced call of a model whose template has no tools",
        ASKS,
        {"tools": [WEATHER], "tool_choice": "required", "temperature": 0.0, "max_tokens": 200},
        "broken",
        LLAMA,
    ),
    Case("tools that are not called", ASKS, {"tools": [WEATHER], **GREEDY}),
    Case("no tools now", ASKS, {"tools": [WEATHER], "tool_choice": "none", **GREEDY}),
    Case("results of calls", RESULT, {"tools": [WEATHER], **GREEDY}),
    Case("schema", ASKS, {"schema": CITY, "temperature": 0.0, "max_tokens": 64}),
    Case("schema that is cut", ASKS, {"schema": CITY, "temperature": 0.0, "max_tokens": 4}),
    Case("any JSON", ASKS, {"grammar": "json", "temperature": 0.0, "max_tokens": 24}),
    Case("schema with log-probabilities", ASKS, {"schema": CITY, "temperature": 0.0, "max_tokens": 40, "logprobs": 1}),
    Case("begun", BEGUN, GREEDY),
    Case("another turn after the assistant's", BEGUN, {**GREEDY, "continue_final_message": False}, engines=VLLM),
    Case(
        "another turn after the assistant's",
        BEGUN,
        {**GREEDY, "continue_final_message": False},
        expects="unsupported",
        engines=LLAMA,
    ),
    Case("template's variables", options={**GREEDY, "chat_template_kwargs": {"mood": "kind"}}),
    Case("image", LOOKS, GREEDY, expects="unsupported"),
    Case("too long", [{"role": "user", "content": "word " * 3000}], GREEDY, expects="context"),
    Case("answer too long", options={"temperature": 0.0, "max_tokens": 100_000}, expects="context", engines=VLLM),
    Case("unknown model", model="gone", expects="withdrawn", engines=VLLM, options=GREEDY),
    Case("wrong key", key="wrong-key-0123456789", options=GREEDY, expects="refused"),
    Case("no key", key="", options=GREEDY, expects="refused"),
    Case("bad temperature", options={"temperature": -1.0, "max_tokens": 4}, expects="unfit", engines=VLLM),
    Case("bad top_p", options={"top_p": 7.0, "temperature": 0.5, "max_tokens": 4}, expects="unfit", engines=VLLM),
    Case("bad schema", options={**GREEDY, "schema": {"type": "nothing"}}, expects="unfit"),
    Case("bad JSON", raw=b'{"model": "x", "messages": [', expects="unfit"),
    Case("no messages", raw=b'{"model": "MODEL", "stream": true}', expects="unfit"),
    Case("wrong types", raw=b'{"model": "MODEL", "messages": "hello", "stream": true}', expects="unfit"),
    Case(
        "unknown field",
        raw=b'{"model": "MODEL", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, '
        b'"temperature": 0, "no_such_field": 1, "stream": true}',
    ),
    Case("unknown path", raw=b"{}", path="/no/such/path", expects="withdrawn"),
    Case("models", method="GET", path="/models", raw=b"", expects="models"),
)
