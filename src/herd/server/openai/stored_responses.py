"""What is done with stored responses of /v1/responses: retrieve one, whole or as a stream, delete it, cancel it, list
what led to it.

A response that is made in the background has a log of what was said: whoever streams it, now or later, gets the same
events with the same numbers. Of any other one a stream has one piece for each text.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError, TooLarge, UsageError, fail
from herd.server.http.streams import Stream
from herd.server.http.wire import SSE_PING, encode
from herd.server.openai.response_events import NEVER, Opened, Writer, step_of, steps_in
from herd.server.openai.response_items import listed_item
from herd.server.requests.admission import Holding
from herd.server.requests.fields import Refused, within
from herd.server.response_store import Status, StoredResponse
from herd.server.service import Caller, Service
from herd.server.shared.intake import VALUE_BYTES
from herd.server.shared.replies import json_response

PAGE, MOST_PAGE = 20, 100
"""Items of one page: unless a request says, and at most."""
TOLD_AGAIN = 4
"""Bytes of a stream's reader for one byte of a step: its text is told in pieces, then whole, then in its item."""


async def retrieve(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """A stored one; with `stream=true` as a stream."""
    kept = service.responses.find(caller.key, request.path_params["id"])
    asked = request.query_params
    after = _number(asked.get("starting_after"), "starting_after")
    if not _flag(asked.get("stream")):
        if after >= 0:
            raise Refused("starting_after: expected stream=true with it", "starting_after")
        return Response(kept.json, media_type="application/json")
    if kept.log is None and not kept.over:
        raise Refused("stream: got a response that somebody else reads now; ask again when it is over", "stream")
    if kept.log is None and after >= 0:
        last = await service.compute(caller, lambda: _last_number(kept), kept.size_bytes)
        within("starting_after", after, last)
    return following(service, caller, kept, after)


def _flag(value: str | None) -> bool:
    if value not in (None, "", "true", "false", "1", "0"):
        raise Refused(f"stream: got {value[:20]!r}, expected true or false", "stream")
    return value in ("true", "1")


def _number(value: str | None, name: str) -> int:
    """A number of a query; -1: none. Raises Refused."""
    if not value:
        return -1
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise Refused(f"{name}: got {value[:20]!r}, expected a number of 0 or more", name)
    return int(value)


def _last_number(kept: StoredResponse) -> int:
    """The number of the last event of one that is over and has no log."""
    writer = Writer(kept.id, NEVER)
    for _ in range(2):
        writer.event("response.created")
    for _ in _told(kept, writer):
        pass
    return writer.number + 1


def following(
    service: Service, caller: Caller, kept: StoredResponse, after: int = -1, *, headers: Mapping[str, str] | None = None
) -> Stream:
    """A response as a stream: what has been said of it, then what comes. after: the number of the last event that the
    reader has already. Reading it, or ceasing to, changes nothing of it."""
    return Stream(
        _events(service, caller, kept, after),
        "text/event-stream",
        headers=headers or {},
        write_timeout_s=service.limits.write_timeout_s,
        ping=SSE_PING,
    )


async def _events(service: Service, caller: Caller, kept: StoredResponse, after: int) -> AsyncGenerator[bytes, None]:
    writer, holding = Writer(kept.id, after), Holding(service.answering, caller.key)
    try:
        holding.hold(len(kept.json))
        async with aclosing(_written(service, caller, kept, writer, holding)) as pieces:
            async for piece in pieces:
                if piece:  # else the reader has it already
                    yield piece
                await asyncio.sleep(0)  # nothing else waits: not even for a reader that is fast, or gone
    except HerdError as error:
        yield writer.failed(error)
    finally:
        holding.let_go()


async def _written(
    service: Service, caller: Caller, kept: StoredResponse, writer: Writer, holding: Holding
) -> AsyncGenerator[bytes, None]:
    """The events of a response. Raises TooLarge, Busy."""
    log, size = kept.log, len(kept.json) if kept.over else 0
    states: tuple[Status, Status] = "queued" if log is not None else "in_progress", "in_progress"
    created, opened = await service.soon(caller, lambda: [Raw(kept.begun(state)) for state in states], size)
    yield writer.event("response.created", response=created)
    if log is None:
        yield writer.event("response.in_progress", response=opened)
        holding.hold(TOLD_AGAIN * size)
        for piece in await service.soon(caller, lambda: [*_told(kept, writer)], size):
            yield piece
    else:
        yield writer.event("response.queued", response=created)
        async with aclosing(log.lines()) as lines:
            async for line in lines:
                holding.hold(TOLD_AGAIN * len(line))
                step = step_of(line)
                if isinstance(step, Opened):
                    yield writer.event("response.in_progress", response=opened)
                else:
                    yield writer.step(step)
        if log.is_lost:
            fail(TooLarge, "events of a stored response", got="more", do="retrieve it without stream when it is over")
    ended = kept.status if kept.status in ("completed", "incomplete") else "failed"
    holding.hold(len(kept.json))
    yield writer.event(f"response.{ended}", response=Raw(kept.json))


def _told(kept: StoredResponse, writer: Writer) -> Iterator[bytes]:
    """The events of one that is over and has no log."""
    return map(writer.step, steps_in(msgspec.json.decode(kept.json)["output"]))


async def delete(service: Service, request: Request, caller: Caller) -> Response:
    """Forget a stored one."""
    id_ = request.path_params["id"]
    service.responses.drop(caller.key, id_)
    return json_response({"id": id_, "object": "response", "deleted": True})


async def cancel(service: Service, request: Request, caller: Caller) -> Response:
    """End one that is answered in the background."""
    kept = service.responses.find(caller.key, request.path_params["id"])
    if not kept.in_background:
        fail(UsageError, "cancel", got="a response that was not made in the background", expected="one that was")
    if kept.task is not None:
        kept.task.cancel()
    left(service, caller, kept)
    return Response(kept.json, media_type="application/json")


def left(service: Service, caller: Caller, kept: StoredResponse) -> None:
    """Nobody goes on with it: it is over, a reader went away, or a request was cancelled."""
    if not kept.over:
        kept.say(status="cancelled")
        recount(service, caller, kept)
    if kept.log is not None:
        kept.log.end()


def recount(service: Service, caller: Caller, kept: StoredResponse) -> None:
    """Count a stored one anew after a change."""
    with suppress(TooLarge):  # a few bytes more were too many
        service.responses.changed(caller.key, kept)


async def input_items(service: Service, request: Request, caller: Caller) -> Response:
    """What led to a stored one, a page of it, the latest first unless `order=asc`."""
    kept, asked = service.responses.find(caller.key, request.path_params["id"]), request.query_params
    order, after, limit = asked.get("order") or "desc", asked.get("after"), _number(asked.get("limit"), "limit")
    if order not in ("asc", "desc"):
        raise Refused(f"order: got {order[:20]!r}, expected asc or desc", "order")
    if limit == 0:
        raise Refused(f"limit: got 0, expected 1 to {MOST_PAGE}", "limit")
    within("limit", limit, MOST_PAGE)

    def written() -> bytes:
        items = [item for item in kept.asked.all() if isinstance(item, dict)]
        return encode(_page(items[::-1] if order == "desc" else items, after, PAGE if limit < 0 else limit))

    caller.admission.hold(kept.asked.whole_bytes + VALUE_BYTES * kept.asked.whole_values)
    data = await service.compute(caller, written, kept.asked.whole_bytes)
    return Response(data, media_type="application/json")


def _page(items: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """A page of items. Raises Refused for an id that none of them has."""
    begin = 0
    if after:
        places = [i for i, item in enumerate(items) if item["id"] == after]
        if not places:
            raise Refused(f"after: got {after[:64]!r}, expected the id of an item that is listed", "after")
        begin = places[0] + 1
    data = [listed_item(item) for item in items[begin : begin + limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": data, "has_more": begin + limit < len(items), **ends}
