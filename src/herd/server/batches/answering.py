"""A request of a batch -> the answer of its route: read, checked, policed and counted as a live one is, without a
connection.

What it is not: when it is asked, and whether again (`running`).
"""

import asyncio
import secrets
from json import dumps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from herd.errors import HerdError
from herd.server.batches.lines import BatchLine
from herd.server.batches.results import Row
from herd.server.http.error_bodies import of_machine, problem
from herd.server.keys import Key, Right
from herd.server.openai.chat import chat
from herd.server.openai.completions import complete
from herd.server.openai.embeddings import embed
from herd.server.openai.responses import respond
from herd.server.routes import Handler
from herd.server.service import Caller, Service

HANDLERS: dict[str, tuple[Handler, Right]] = {
    "/v1/chat/completions": (chat, "chat"),
    "/v1/completions": (complete, "chat"),
    "/v1/embeddings": (embed, "embed"),
    "/v1/responses": (respond, "chat"),
}
"""What answers each URL of a line, and the right that it needs."""
TOLD = ("x-herd-ignored", "x-herd-note")
"""Headers that say what became of a request otherwise than it may be meant."""


async def answer(service: Service, key: Key, position: int, line: BatchLine) -> Row:
    """Have a request answered. key: whose it is. Raises HerdError, before anything of an answer is made or in the midst
    of it; mistakes of ours are logged and raised as PassFailed."""
    handler, right = HANDLERS[line.url]
    body = line.body
    if line.url == "/v1/responses" and body.get("store") is None:
        body = {**body, "store": False}  # a file of them would drive out the dialogs of whoever is here
    data = dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    request_id = _request_id()
    caller = Caller(key, request_id, f"batch {line.url}")
    key.check_right(right)
    admission = caller.enter(service)
    try:
        reply = await handler(service, _request(line.url, data, request_id), caller)
    except HerdError:
        raise
    except Exception as error:
        raise of_machine(error) or service.log.mistake(request_id, error) from None
    finally:
        admission.close()
    return _row(position, line.custom_id, reply, request_id)


def failed(position: int, custom_id: str, error: HerdError) -> Row:
    """The result of a request that ended with an error."""
    return _row(position, custom_id, problem(error, "openai"), _request_id())


def _request_id() -> str:
    return "req_" + secrets.token_hex(12)


def _row(position: int, custom_id: str, reply: Any, request_id: str) -> Row:
    assert isinstance(reply, Response), "a stream"
    notes = {name: reply.headers[name] for name in TOLD if name in reply.headers}
    return Row(position, custom_id, reply.status_code, request_id, bytes(reply.body), notes)


def _request(url: str, data: bytes, request_id: str) -> Request:
    """A request with a body and nobody at the other end, who therefore never goes away."""
    left = [data]

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    scope = {"type": "http", "method": "POST", "path": url, "query_string": b"", "headers": headers}
    return Request({**scope, "state": {"request_id": request_id}}, receive)
