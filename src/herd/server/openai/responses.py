"""POST /v1/responses: an answer whole, as a stream, in the background, or both of these; and how many tokens a request
would be.

What it is not: the reading of requests (`response_requests`), the events of a stream (`response_events`), what is done
with stored responses later (`stored_responses`).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError, Interrupted, TooLarge
from herd.events import DoneEvent, Event, Reply, TextEvent
from herd.server.http.error_bodies import words_of
from herd.server.http.streams import Stream
from herd.server.http.wire import SSE_PING, encode
from herd.server.openai.chat import notes_of
from herd.server.openai.response_events import NEVER, Opened, Writer, steps_of
from herd.server.openai.response_items import CUT, Spaces, bare, output_of, text_in
from herd.server.openai.response_requests import asked_of, asking, counted_of, counting, known_of
from herd.server.openai.stored_responses import following, left, recount
from herd.server.requests.fields import noted, told
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import Images
from herd.server.response_log import ResponseLog
from herd.server.response_store import Items, StoredResponse
from herd.server.service import Caller, ReplyInProgress, Service
from herd.server.shared.intake import read_as
from herd.server.shared.replies import json_response, size_of

TOLD_AGAIN_BYTES = 512
"""Bytes of a token that a stream tells with its log-probability: as JSON in its piece, and at the end of its text, its
part, its item and its response."""
RECOUNT_BYTES = 4 << 10
"""Bytes by which a log may grow before the store counts it anew."""


async def respond(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer: whole, as a stream, or in the background."""
    asked, ignored = await read_as(service, request, caller, lambda body: asked_of(service, body), media=True)
    known = known_of(service, caller, asked)
    ask, kept, spaces, notes = await service.soon(
        caller, lambda: asking(service, caller, asked, known), caller.admission.size_bytes
    )
    headers = {**told(ignored), **noted(notes)}
    if asked.background:
        return _begin(service, caller, ask, kept, spaces, stream=asked.stream is True, headers=headers)
    caller.admission.made.hold(len(kept.json))
    answer = await service.open(caller, ask)
    headers |= noted((*notes, answer.note))
    if asked.store is not False:
        service.responses.keep(caller.key, kept)
    if asked.stream:
        headers |= told((*ignored, *answer.ignored))
        chunks = _stream(service, answer, kept, spaces)
        return service.streamed(
            answer,
            chunks,
            "text/event-stream",
            headers=headers,
            ping=SSE_PING,
            left=lambda: left(service, caller, kept),
        )
    try:
        (reply,) = await answer.whole(request)
        output = await service.soon(caller, lambda: output_of(reply, spaces, kept.id), size_of(reply))
        _finish(service, caller, kept, reply, output)
    except Exception as error:
        _fail(service, caller, kept, error)
        raise
    finally:
        left(service, caller, kept)
    return _response(kept, headers)


async def count_input(service: Service, request: Request, caller: Caller) -> Response:
    """Tokens that a request would have as a prompt."""
    asked, ignored = await read_as(service, request, caller, lambda body: counted_of(service, body), media=True)
    known = known_of(service, caller, asked)
    images = Images(remote=service.remote_media)
    turns, tools, notes = await service.soon(
        caller, lambda: counting(service, asked, known, images), caller.admission.size_bytes
    )
    name = asked.model or known.model
    async with service.models.use(name) as model:
        over = {"continue_final_message": False}  # as an answer to it would be begun
        count = await service.of_dialog(caller, model, name, turns, images, model.count, tools, **over)
        service.charge(caller, count)
    found = {"object": "response.input_tokens", "input_tokens": count}
    return json_response(found, headers={**told(ignored), **noted(notes)})


def _response(kept: StoredResponse, headers: Mapping[str, str]) -> Response:
    return Response(kept.json, media_type="application/json", headers=headers)


def _finish(service: Service, caller: Caller, kept: StoredResponse, reply: Reply, output: list[dict[str, Any]]) -> None:
    """The answer has come. Where it is too much to be kept, the response says so; one that can only be fetched, since
    it was made in the background, has failed then."""
    usage = reply.usage
    reason = CUT.get(reply.finish_reason)
    counts = {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
    asked, kept.items = kept.items, Items(kept.items, [bare(item) for item in output])
    kept.say(
        output=output,
        status="completed" if reason is None else "incomplete",
        incomplete_details=None if reason is None else {"reason": reason},
        usage=counts,
        **notes_of(reply),
    )
    try:
        service.responses.changed(caller.key, kept)
    except TooLarge as error:
        if not kept.in_background:
            kept.say(store=False)
            return
        kept.items = asked
        kept.say(output=[], status="failed", error={"code": "server_error", "message": words_of(error)})
        with suppress(TooLarge):
            service.responses.keep(caller.key, kept)


def _fail(service: Service, caller: Caller, kept: StoredResponse, error: Exception) -> None:
    """It ended with an error; the text of one that nobody foresaw may quote anything, and is not told."""
    if not kept.over:
        gone = isinstance(error, Interrupted)
        words = words_of(error) if isinstance(error, HerdError) else "an internal error"
        said = {"code": "server_error", "message": words}
        kept.say(status="cancelled") if gone else kept.say(status="failed", error=said)
        recount(service, caller, kept)


def _begin(
    service: Service,
    caller: Caller,
    ask: GenerateRequest,
    kept: StoredResponse,
    spaces: Spaces,
    *,
    stream: bool,
    headers: Mapping[str, str],
) -> Response | Stream:
    """Begin an answer in the background, which goes on whoever reads it. Raises TooLarge."""
    kept.in_background = True
    kept.say(status="queued")
    service.responses.keep(caller.key, kept)
    admission = caller.admission
    admission.goes_on = True

    def over(_task: Any) -> None:
        kept.task = None
        admission.close()
        left(service, caller, kept)  # it may have been cancelled before it began

    kept.task = asyncio.create_task(_in_background(service, caller, ask, kept, spaces))
    kept.task.add_done_callback(over)
    return following(service, caller, kept, headers=headers) if stream else _response(kept, headers)


async def _in_background(
    service: Service, caller: Caller, ask: GenerateRequest, kept: StoredResponse, spaces: Spaces
) -> None:
    """Make an answer that is kept, event by event, in the response's log."""
    caller.request = None  # it goes on without whoever asked
    try:
        answer = await service.open(caller, ask)
        kept.say(status="in_progress")
        try:
            await _logged(service, caller, kept, answer, spaces)
        finally:
            await answer.aclose()
    except HerdError as error:
        _fail(service, caller, kept, error)
    except Exception as error:
        _fail(service, caller, kept, service.log.mistake(caller.request_id, error))


async def _logged(
    service: Service, caller: Caller, kept: StoredResponse, answer: ReplyInProgress, spaces: Spaces
) -> None:
    """Write what comes of an answer into its log, and finish the response."""
    log = kept.log or ResponseLog()
    writer, counted = Writer(kept.id, NEVER), 0
    log.add(encode(Opened()))
    async for event in answer.events():
        for step in steps_of(event, spaces):
            writer.step(step)
            if not log.is_over:
                log.add(encode(step))
        if log.size_bytes - counted > RECOUNT_BYTES:
            counted = log.size_bytes
            recount(service, caller, kept)
        if isinstance(event, DoneEvent):
            output = writer.items
            if event.reply.text != text_in(output):  # a policy's last word stands for all of it
                log.drop()
                kept.log, output = None, output_of(event.reply, spaces, kept.id)
            log.end()
            _finish(service, caller, kept, event.reply, output)


async def _stream(
    service: Service, answer: ReplyInProgress, kept: StoredResponse, spaces: Spaces
) -> AsyncGenerator[bytes, None]:
    """Typed events with growing numbers; an error is one of them."""
    writer, caller = Writer(kept.id), answer.caller
    try:
        yield writer.event("response.created", response=Raw(kept.json))
        yield writer.event("response.in_progress", response=Raw(kept.json))
        async for event in answer.events():
            _hold_told(caller, event)
            for step in steps_of(event, spaces):
                yield writer.step(step)
            if isinstance(event, DoneEvent):
                _finish(service, caller, kept, event.reply, writer.items)
                yield writer.event(f"response.{kept.status}", response=Raw(kept.json))
    except HerdError as error:
        _fail(service, caller, kept, error)
        yield writer.event("response.failed", response=Raw(kept.json))
        yield writer.failed(error)
    except Exception as error:
        _fail(service, caller, kept, error)
        raise
    finally:
        await answer.aclose()


def _hold_told(caller: Caller, event: Event) -> None:
    """Keep room for log-probabilities that a stream tells again at its end. Raises Busy, TooLarge."""
    if isinstance(event, TextEvent | DoneEvent) and event.logprobs:
        caller.admission.made.hold(TOLD_AGAIN_BYTES * sum(1 + len(one.top) for one in event.logprobs))
