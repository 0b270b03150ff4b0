"""One line of a file of requests, in OpenAI's form: custom_id, method, url and body.

What it is not: what stands in the body; the route that answers it reads that, with the errors that it has for live
requests.
"""

from codecs import BOM_UTF8
from typing import Any, NamedTuple

from herd.errors import UsageError
from herd.server.http.body import read_object
from herd.server.http.error_bodies import words_of
from herd.server.limits import Limits

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""Routes that lines may ask."""
MOST_ID = 512
"""Characters of a custom_id."""
FIELDS = ("custom_id", "method", "url", "body")
STREAMS = {"stream": "a line has one answer", "background": "a batch is in the background already"}
"""Fields of a body that ask for what a batch has not."""


class BatchLine(NamedTuple):
    """A request of a file."""

    custom_id: str
    url: str
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that the body names; empty where it names none."""
        found = self.body.get("model")
        return found if isinstance(found, str) else ""


class WrongLine(UsageError):
    """A line that is no request. `code` is a word of OpenAI's for it; custom_id as far as it is known."""

    def __init__(self, code: str, message: str, param: str = "", custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.custom_id = custom_id


def read_line(data: bytes, limits: Limits, url: str | None = None) -> BatchLine:
    """The request of a line. url: the only one that lines of the batch may ask; None: any of URLS. Raises WrongLine."""
    try:
        found = read_object(data, limits)
    except UsageError as error:
        said = words_of(error).replace("body:", "line:", 1)
        if data.startswith(BOM_UTF8):
            said = "line: got a byte order mark, expected UTF-8 without one"
        raise WrongLine("invalid_json_line", said) from None
    id_ = found.get("custom_id")
    custom_id = id_ if isinstance(id_, str) else None
    for name in FIELDS:
        if name not in found:
            raise WrongLine("missing_required_parameter", f"{name}: missing", name, custom_id)
    if custom_id is None or not 1 <= len(custom_id) <= MOST_ID:
        raise WrongLine("invalid_custom_id", f"custom_id: expected a text of 1 to {MOST_ID} characters", "custom_id")
    if more := [name for name in found if name not in FIELDS]:
        name = more[0][:64]
        raise WrongLine("unknown_parameter", f"{name!r}: expected {', '.join(FIELDS)} alone", name, custom_id)
    if found["method"] != "POST":
        raise WrongLine(
            "invalid_method", f"method: got {str(found['method'])[:16]!r}, expected POST", "method", custom_id
        )
    if found["url"] not in URLS:
        raise WrongLine("invalid_url", f"url: expected one of {', '.join(URLS)}", "url", custom_id)
    if url is not None and found["url"] != url:
        raise WrongLine("mismatched_url", f"url: got {found['url']}, expected the batch's, {url}", "url", custom_id)
    body = found["body"]
    if not isinstance(body, dict):
        raise WrongLine("invalid_body", "body: expected a JSON object", "body", custom_id)
    for name, why in STREAMS.items():
        if body.get(name):
            raise WrongLine("unsupported", f"body.{name}: not supported in a batch: {why}", f"body.{name}", custom_id)
    return BatchLine(custom_id, found["url"], body)
