"""/v1/batches: files of requests, answered while nobody else asks."""

import secrets
import time
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import UsageError, fail
from herd.server.batches.files import files_of, page_of
from herd.server.batches.lines import URLS
from herd.server.file_store import StoredBatch
from herd.server.requests.fields import FieldTable, Refused, told
from herd.server.service import Caller, Service
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_response

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
LONGEST_H = 720
PAGE, MOST_PAGE = 20, 100
PAIRS, NAME, VALUE = 16, 64, 512


class BatchRequest(msgspec.Struct, kw_only=True):
    """The fields that have an effect."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: str
    """A number of hours, such as 24h."""
    metadata: dict[str, str] | None = None


BATCHES: FieldTable[BatchRequest] = FieldTable(
    "POST /v1/batches", BatchRequest, reported={"output_expires_after": "results stay as long as other files"}
)


async def create(service: Service, request: Request, caller: Caller) -> Response:
    """Begin a batch over a file of requests."""
    asked, ignored = await read_as(service, request, caller, lambda body: BATCHES.read(body, strict=service.strict))
    store = files_of(service)
    service.refuse_when_stopping()
    assert asked.endpoint in URLS
    hours = asked.completion_window.removesuffix("h")
    is_number = hours.isascii() and hours.isdigit() and len(hours) < 4 and asked.completion_window.endswith("h")
    if not is_number or not 1 <= int(hours) <= LONGEST_H:
        got = repr(asked.completion_window[:20])
        raise Refused(f"completion_window: got {got}, expected 1h to {LONGEST_H}h", "completion_window")
    _check_metadata(asked.metadata or {})
    file = store.file(caller.key, asked.input_file_id, "input_file_id")
    if file.purpose != "batch":
        raise Refused("input_file_id: expected a file of requests, with purpose batch", "input_file_id")
    now = int(time.time())
    batch = StoredBatch(
        id=f"batch_{secrets.token_hex(12)}", owner=caller.key.name, endpoint=asked.endpoint,
        input_file_id=file.id, completion_window=asked.completion_window, status="validating",
        private=file.private or "leave" not in caller.key.rights, created_at=now,
        expires_at=now + 3600 * int(hours), metadata=asked.metadata,
    )  # fmt: skip

    def keep() -> None:
        store.check_batches(caller.key)
        store.keep_batch(batch, new=True, key=caller.key)

    await service.wait(caller, keep)
    return json_response(batch.to_dict(), headers=told(ignored))


def _check_metadata(given: dict[str, str]) -> None:
    if len(given) > PAIRS or any(len(name) > NAME or len(value) > VALUE for name, value in given.items()):
        raise Refused(f"metadata: expected at most {PAIRS} pairs of {NAME} and {VALUE} characters", "metadata")


async def listed(service: Service, request: Request, caller: Caller) -> Response:
    """Batches of this key, a page of them, the newest first."""
    return json_response(page_of(files_of(service).batches_of(caller.key), request.query_params, PAGE, MOST_PAGE))


async def retrieve(service: Service, request: Request, caller: Caller) -> Response:
    """A batch as it is now."""
    return json_response(files_of(service).batch(caller.key, request.path_params["id"]).to_dict())


async def cancel(service: Service, request: Request, caller: Caller) -> Response:
    """End a batch; what is answered stays in its output."""
    store = files_of(service)
    batch = store.batch(caller.key, request.path_params["id"])
    if batch.over or batch.status == "finalizing":
        fail(UsageError, f"batch {batch.id}", got=f"it is {batch.status}", expected="one that is under way")
    if batch.status != "cancelling":
        batch.status, batch.cancelling_at = "cancelling", int(time.time())
        await service.wait(caller, lambda: store.keep_batch(batch))
    return json_response(batch.to_dict())
