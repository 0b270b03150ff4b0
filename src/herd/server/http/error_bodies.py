"""Errors in the form that each dialect's clients know. One tree of errors (`herd.errors`) in, one JSON object out."""

import errno
import os
import re
from typing import Any, Literal

from starlette.responses import Response

from herd.errors import Busy, ContextTooLong, HerdError
from herd.server.http.wire import encode
from herd.server.machine_paths import without_paths
from herd.server.requests.fields import Refused

Dialect = Literal["openai", "ollama", "anthropic"]

OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
TOO_LONG: dict[Dialect, str] = {
    "openai": "this model's maximum context length is exceeded",
    "ollama": "the prompt exceeds the available context size",
    "anthropic": "prompt is too long",
}
"""Words that clients look for in a message to see that they have to shorten the prompt; the counts follow them."""
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Error numbers of a system that has no descriptor or buffer for another file or socket."""
NO_DISK = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
MOST_PARAM = 100
"""Characters of the name of a field."""
MOST_WORDS = 1000
"""Characters of a message that are told: it may quote what somebody sent."""
_FIRST_WORD = re.compile(r"([a-z_][a-z0-9_.\[\]]*+): ")


def status_of(error: HerdError) -> int:
    """The HTTP status of an error. 499 and 507, which no client knows, become 503."""
    return error.http_status if error.http_status not in (499, 507) else 503


def words_of(error: Exception) -> str:
    """The message of an error for a client: no longer than a line or two, without paths of this machine."""
    text = str(error)
    return without_paths(text if len(text) <= MOST_WORDS else text[:MOST_WORDS] + "…")


def body_of(error: HerdError, dialect: Dialect, request_id: str = "") -> dict[str, Any]:
    """The JSON object of an error, in the form of a dialect. request_id: Anthropic's clients show it."""
    message, status = words_of(error), status_of(error)
    if isinstance(error, ContextTooLong):
        message = f"{TOO_LONG[dialect]}: {message}"
    if dialect == "ollama":
        return {"error": message}
    if dialect == "anthropic":
        kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        told = {"type": "error", "error": {"type": kind, "message": message}}
        return {**told, "request_id": request_id} if request_id else told
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": _param(error), "code": error.code}}


def headers_of(error: HerdError) -> dict[str, str]:
    """Additional headers of an error's reply."""
    found = {}
    if isinstance(error, Busy):
        found["retry-after"] = str(max(1, round(error.retry_after_s)))
    if status_of(error) == 501:
        found["x-should-retry"] = "false"  # OpenAI's and Anthropic's libraries ask again after any other 5xx
    if status_of(error) == 401:
        found["www-authenticate"] = "Bearer"
    return found


def problem(error: HerdError, dialect: Dialect, request_id: str = "") -> Response:
    """The reply for an error."""
    return Response(
        encode(body_of(error, dialect, request_id)),
        status_of(error),
        media_type="application/json",
        headers=headers_of(error),
    )


def of_machine(error: Exception) -> HerdError | None:
    """The error to tell when the machine lacks something, without any path. None: the exception is a mistake of
    ours."""
    if not isinstance(error, OSError):
        return None
    if error.errno in NO_FILES:
        return Busy("the service has no file descriptor free; ask again in a moment")
    if error.errno in NO_DISK:
        return HerdError(f"the service's files: {os.strerror(error.errno)}; whoever runs it has to mend that")
    return None


def _param(error: HerdError) -> str | None:
    """The field that an error is about."""
    if isinstance(error, Refused):
        return error.param[:MOST_PARAM] or None
    if isinstance(error, ContextTooLong):
        return "messages"
    found = _FIRST_WORD.match(str(error)[:MOST_PARAM])
    return found.group(1) if found else None
