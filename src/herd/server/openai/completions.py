"""POST /v1/completions: text or ids to go on with, without a chat format."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError
from herd.events import DoneEvent, Logprob, Reply, TextEvent
from herd.server.ask import Ask
from herd.server.common import json_reply
from herd.server.fields import Refused, Table, told, within
from herd.server.intake import read_as
from herd.server.openai.chat import (
    FINGERPRINT,
    NOT_KEPT,
    Sampling,
    finish_of,
    notes_of,
    options_of,
    timings_of,
    usage_of,
)
from herd.server.problems import body_of
from herd.server.service import Answer, Caller, Service
from herd.server.sizes import spelt_bytes
from herd.server.streams import Stream
from herd.server.wire import SSE_DONE, SSE_PING, encode, sse

ECHO_BYTES = 6
"""Of a character of a prompt that is told again: in a text with its answer, and as JSON."""


class CompletionRequest(Sampling, kw_only=True):
    """The fields that have an effect."""

    prompt: str | list[Any]
    """A text, texts, ids, or lists of ids."""
    logprobs: int | None = None
    echo: bool | None = None


COMPLETIONS: Table[CompletionRequest] = Table(
    "POST /v1/completions",
    CompletionRequest,
    reported={"metadata": NOT_KEPT, "best_of": "every sample is returned; see n"},
    refused={"suffix": "the model does not fill in gaps"},
)


async def complete(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Go on with one or several prompts."""
    asked, ignored, asks = await read_as(service, request, caller, lambda body: _read(service, body))
    async with AsyncExitStack() as stack:
        answers: list[Answer] = []
        for ask in asks:
            answers.append(await service.open(caller, ask))
            stack.push_async_callback(answers[-1].aclose)
        both = zip(answers, asks, strict=True) if asked.echo else ()
        prompts = [await _echoed(service, answer, ask) for answer, ask in both]
        writer = CompletionWriter(asked.model, answers[0].created, prompts)
        headers = told(ignored)
        if not asked.stream:
            replies = [await answer.whole(request) for answer in answers]
            flat = [reply for found in replies for reply in found]
            size = sum(len(prompt) * len(found) for prompt, found in zip(prompts, replies, strict=False))
            return await json_reply(service, caller, lambda: writer.whole(replies), flat, headers, size)
        stack.pop_all()  # the stream closes it
        usage = asked.stream_options is not None and asked.stream_options.include_usage is True
        chunks = writer.stream(answers[0], usage=usage)
        return service.streamed(answers[0], chunks, "text/event-stream", headers=headers, ping=SSE_PING)


def _read(service: Service, body: dict[str, Any]) -> tuple[CompletionRequest, tuple[str, ...], list[Ask]]:
    """What is asked, a request a prompt. Raises Refused."""
    asked, ignored = COMPLETIONS.read(body, strict=service.strict)
    prompts = prompts_of(asked.prompt)
    within("prompt", len(prompts), service.limits.prompts)
    if asked.max_tokens == 0:
        raise Refused("max_tokens: got 0, expected at least 1", "max_tokens")
    options = options_of(asked)
    options.setdefault("max_tokens", 16)  # OpenAI's default of this route
    if asked.logprobs is not None:
        options["logprobs"] = asked.logprobs
    if asked.stream and len(prompts) > 1:
        raise Refused("prompt: got several with stream, expected one", "prompt")
    n = 1 if asked.n is None else asked.n
    return (
        asked,
        ignored,
        [Ask(model=asked.model, prompt=prompt, n=n, options=options, user=asked.user or "") for prompt in prompts],
    )


async def _echoed(service: Service, answer: Answer, ask: Ask) -> str:
    """A prompt as text, held as often as it is told. Raises Busy, TooLarge."""
    caller = answer.caller
    if not isinstance(ask.prompt, str):
        caller.admission.made.hold(spelt_bytes(answer.model, answer.prompt_tokens))
    text = await service.compute(caller, partial(_spelt, answer, ask))
    caller.admission.made.hold(ECHO_BYTES * len(text) * answer.n)
    return text


def _spelt(answer: Answer, ask: Ask) -> str:
    """A prompt as text, as far as the model has seen it."""
    assert ask.prompt is not None
    if answer.shown is not None:
        return answer.shown
    return ask.prompt if isinstance(ask.prompt, str) else answer.model.detokenize(ask.prompt)


def prompts_of(prompt: str | Sequence[Any]) -> list[str | list[int]]:
    """One or several prompts out of the four forms. Raises Refused for none, or empty ones."""
    if isinstance(prompt, str):
        found: list[Any] = [prompt]
    elif prompt and all(type(one) is int for one in prompt):
        found = [list(prompt)]
    else:
        found = list(prompt)
    for one in found:
        if not isinstance(one, str) and not (isinstance(one, list) and all(type(i) is int for i in one)):
            raise Refused("prompt: expected a text, texts, ids, or lists of ids", "prompt")
    if not found or any(not one for one in found):
        raise Refused("prompt: got nothing, expected text or ids", "prompt")
    return found


class CompletionWriter:
    """Events -> text_completion. echoed: the prompts, where they are asked back."""

    def __init__(self, model: str, created: int, echoed: Sequence[str]) -> None:
        self._echoed = echoed
        self._head = {
            "id": "cmpl-" + secrets.token_hex(12),
            "object": "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, replies: Sequence[Sequence[Reply]]) -> dict[str, Any]:
        """All answers as one object, by prompt."""
        choices: list[dict[str, Any]] = []
        for i, found in enumerate(replies):
            before = self._before(i)
            for reply in found:
                logprobs = logprobs_of(reply.logprobs, len(before))
                choices.append(_choice(len(choices), before + reply.text, finish_of(reply), logprobs))
        usages = [usage_of(found) for found in replies]
        total = {name: sum(u[name] for u in usages) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        return {
            **self._head,
            "choices": choices,
            "usage": total,
            "timings": timings_of(replies[0][0]),
            **notes_of(*(r for found in replies for r in found)),
        }

    async def stream(self, answer: Answer, *, usage: bool) -> AsyncGenerator[bytes, None]:
        """Server-sent events."""
        more: dict[str, Any] = {"usage": None} if usage else {}
        before = self._before(0)
        shown = [len(before)] * answer.n
        try:
            if self._echoed:
                for i in range(answer.n):
                    yield sse(encode({**self._head, "choices": [_choice(i, before, None, None)], **more}))
            async for event in answer.events():
                if isinstance(event, TextEvent):
                    logprobs = logprobs_of(event.logprobs, shown[event.index])
                    shown[event.index] += len(event.text)
                    choice = _choice(event.index, event.text, None, logprobs)
                    yield sse(encode({**self._head, "choices": [choice], **more}))
                elif isinstance(event, DoneEvent):
                    choice = _choice(event.index, "", finish_of(event.reply), None)
                    yield sse(encode({**self._head, "choices": [choice], **more, **notes_of(event.reply)}))
            if usage:
                last = {"usage": usage_of(answer.replies), "timings": timings_of(answer.replies[0])}
                yield sse(encode({**self._head, "choices": [], **last}))
            yield SSE_DONE
        except HerdError as error:
            yield sse(encode(body_of(error, "openai")))
        finally:
            await answer.aclose()

    def _before(self, prompt: int) -> str:
        """A prompt, where it is asked back."""
        return self._echoed[prompt] if self._echoed else ""


def _choice(index: int, text: str, reason: str | None, logprobs: Any) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def logprobs_of(found: Sequence[Logprob] | None, offset: int) -> dict[str, Any] | None:
    """Log-probabilities as this route has them: four lists. offset: characters before the first token."""
    if found is None:
        return None
    offsets = []
    for one in found:
        offsets.append(offset)
        offset += len(one.text)
    return {
        "tokens": [one.text for one in found],
        "token_logprobs": [one.logprob for one in found],
        "top_logprobs": [{x.text: x.logprob for x in one.top} for one in found],
        "text_offset": offsets,
    }
