"""POST /v1/completions: text or ids to go on with, without a chat format."""

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.errors import HerdError
from herd.events import DoneEvent, Likely, Logprob, ProgressEvent, Reply, TextEvent, Timings
from herd.server.http.error_bodies import body_of
from herd.server.http.streams import Stream
from herd.server.http.wire import SSE_DONE, SSE_PING, encode, sse
from herd.server.openai.chat import (
    CALLED,
    FINGERPRINT,
    NOT_KEPT,
    SamplingFields,
    finish_of,
    notes_of,
    options_of,
    timings_of,
    usage_of,
)
from herd.server.openai.forms import REFUSED_FORMS, USE, form_of, without_empty
from herd.server.requests.fields import FieldTable, Refused, noted, told, whole_of, within
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.sizes import spelt_bytes
from herd.server.service import Caller, ReplyInProgress, Service
from herd.server.shared.intake import read_as
from herd.server.shared.logprobs import name_of
from herd.server.shared.merged import merged
from herd.server.shared.replies import json_reply, progress_of
from herd.server.shared.scoring import Scored, score_prompt, spelt_out
from herd.text.stream import Offsets

ECHO_BYTES = 6
"""Bytes of a character of a prompt that is told again: in a text with its answer, and as JSON."""


class CompletionRequest(SamplingFields, kw_only=True):
    """The fields that have an effect."""

    prompt: str | list[Any]
    """A text, texts, ids, or lists of ids."""
    logprobs: int | None = None
    echo: bool | None = None
    raw: bool | None = None
    """Control tokens that a text prompt spells become those tokens, where the key has the right raw."""


COMPLETIONS: FieldTable[CompletionRequest] = FieldTable(
    "POST /v1/completions",
    CompletionRequest,
    reported={"metadata": NOT_KEPT, "best_of": "every sample is returned; see n"},
    refused={
        "suffix": "the model does not fill in gaps",
        **REFUSED_FORMS,
        **forms_of_others(CompletionRequest, USE),
    },
    harmless=HARMLESS,
)


async def complete(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Go on with one or several prompts."""
    asked, ignored, asks = await read_as(service, request, caller, lambda body: _read(service, body))
    likely = asked.logprobs if asked.echo else None
    answered = asked.max_tokens != 0
    scored = [] if likely is None else [await score_prompt(service, caller, x, likely, answered=answered) for x in asks]
    if not answered:
        found = [x for x in scored if x is not None]
        return await _unanswered(service, caller, asked, found, {**told(ignored), **noted(x.note for x in found)})
    async with AsyncExitStack() as stack:
        answers: list[ReplyInProgress] = []
        for ask in asks:
            answers.append(await service.open(caller, ask))
            stack.push_async_callback(answers[-1].aclose)
        both = zip(answers, asks, strict=True) if asked.echo else ()
        prompts = [await _echoed(service, answer, ask) for answer, ask in both]
        writer = CompletionWriter(asked.model, answers[0].created, prompts, scored)
        headers = {**told((*ignored, *answers[0].ignored)), **noted(answer.note for answer in answers)}
        size = answers[0].n * (sum(map(len, prompts)) + sum(map(_json_bytes, scored)))
        if not asked.stream:
            replies = [await answer.whole(request) for answer in answers]
            flat = [reply for found in replies for reply in found]
            return await json_reply(service, caller, lambda: writer.whole(replies), flat, headers, size)
        usage = asked.stream_options is not None and asked.stream_options.include_usage is True
        begun = await service.soon(caller, lambda: writer.begun(answers, usage=usage), size)
        stack.pop_all()  # the stream closes them
        chunks = writer.stream(answers, begun, usage=usage)
        return service.streamed(answers, chunks, "text/event-stream", headers=headers, ping=SSE_PING)


def _read(service: Service, body: dict[str, Any]) -> tuple[CompletionRequest, tuple[str, ...], list[GenerateRequest]]:
    """What is asked, a request a prompt. Raises Refused."""
    asked, ignored = COMPLETIONS.read(without_empty(body), strict=service.strict)
    prompts = prompts_of(asked.prompt)
    within("prompt", len(prompts), service.limits.prompts)
    if asked.max_tokens == 0 and (asked.stream or not asked.echo or asked.logprobs is None):
        why = "expected at least 1, or echo with logprobs and without stream"
        raise Refused(f"max_tokens: got 0, {why}", "max_tokens")
    options = options_of(asked)
    if body.get("max_tokens") is None:
        options["max_tokens"] = 16  # OpenAI's default of this route; -1 is none
    elif asked.max_tokens == 0:
        del options["max_tokens"]
    if asked.logprobs is not None:
        options["logprobs"] = asked.logprobs
    n = 1 if asked.n is None else asked.n
    return (
        asked,
        ignored,
        [
            GenerateRequest(
                model=asked.model,
                prompt=prompt,
                raw=asked.raw is True,
                schema=form_of(asked).schema,
                n=n,
                options=options,
                called=CALLED,
                user=asked.user or "",
                progress=bool(asked.stream and asked.return_progress),
            )
            for prompt in prompts
        ],
    )


async def _unanswered(
    service: Service, caller: Caller, asked: CompletionRequest, scored: Sequence[Scored], headers: Mapping[str, str]
) -> Response:
    """Prompts alone, told again with their log-probabilities."""
    n = 1 if asked.n is None else asked.n
    caller.admission.made.hold(ECHO_BYTES * n * sum(len(x.text) for x in scored))
    writer = CompletionWriter(asked.model, int(time.time()), [x.text for x in scored], scored)
    replies = [[Reply("", "length", x.usage, Timings(), logprobs=(), notes=x.notes)] * n for x in scored]
    size = n * sum(len(x.text) + _json_bytes(x) for x in scored)
    return await json_reply(service, caller, lambda: writer.whole(replies), (), headers, size)


def _json_bytes(scored: Scored | None) -> int:
    """About how many bytes log-probabilities of a prompt are as JSON."""
    return 0 if scored is None or not scored.rest else 128 * (1 + len(scored.rest[0].top)) * len(scored.rest)


async def _echoed(service: Service, answer: ReplyInProgress, ask: GenerateRequest) -> str:
    """A prompt as text, held as often as it is told. Raises Busy, TooLarge."""
    caller = answer.caller
    if not isinstance(ask.prompt, str):
        caller.admission.made.hold(spelt_bytes(answer.model, answer.prompt_tokens))
    text = await service.compute(caller, partial(_spelt, answer, ask))
    caller.admission.made.hold(ECHO_BYTES * len(text) * answer.n)
    return text


def _spelt(answer: ReplyInProgress, ask: GenerateRequest) -> str:
    """A prompt as text, as far as the model has seen it."""
    assert ask.prompt is not None
    if answer.shown is not None:
        return answer.shown
    return ask.prompt if isinstance(ask.prompt, str) else answer.model.detokenize(ask.prompt)


def prompts_of(prompt: str | Sequence[Any]) -> list[str | list[int]]:
    """One or several prompts out of the four forms. Raises Refused for none, or empty ones."""
    given = prompt if isinstance(prompt, str) else [_whole(one) for one in prompt]
    if isinstance(given, str):
        found: list[Any] = [given]
    elif given and all(type(one) is int for one in given):
        found = [given]
    else:
        found = given
    for one in found:
        if not isinstance(one, str) and not (isinstance(one, list) and all(type(i) is int for i in one)):
            raise Refused("prompt: expected a text, texts, ids, or lists of ids", "prompt")
    if not found or any(not one for one in found):
        raise Refused("prompt: got nothing, expected text or ids", "prompt")
    return found


def _whole(one: Any) -> Any:
    """An id, or a list of them, with floats that stand for whole numbers as these."""
    return [whole_of(i) for i in one] if isinstance(one, list) else whole_of(one)


class CompletionWriter:
    """Events -> text_completion. echoed: the prompts, where they are asked back. scored: how likely they were, where
    that is asked for; None: of one that its policy withholds."""

    def __init__(self, model: str, created: int, echoed: Sequence[str], scored: Sequence[Scored | None] = ()) -> None:
        self._echoed, self._scored = echoed, scored
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
                logprobs = joined(self._likely(i), logprobs_of(reply.logprobs, len(before)))
                choices.append(_choice(len(choices), before + reply.text, finish_of(reply), logprobs))
        return {
            **self._head,
            "choices": choices,
            "usage": _usage(replies),
            "timings": timings_of(replies[0][0]),
            **notes_of(*(r for found in replies for r in found)),
        }

    def begun(self, answers: Sequence[ReplyInProgress], *, usage: bool) -> list[bytes]:
        """Server-sent events of the prompts, for each of their answers; none where they are not asked back."""
        if not self._echoed:
            return []
        more: dict[str, Any] = {"usage": None} if usage else {}
        choices = (
            _choice(answer.n * i + sample, self._before(i), None, self._likely(i))
            for i, answer in enumerate(answers)
            for sample in range(answer.n)
        )
        return [sse(encode({**self._head, "choices": [choice], **more})) for choice in choices]

    async def stream(
        self, answers: Sequence[ReplyInProgress], begun: Sequence[bytes], *, usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """Server-sent events, those of the prompts first. Samples count from the first prompt's first to the last's."""
        more: dict[str, Any] = {"usage": None} if usage else {}
        places = [[Offsets() for _ in range(answer.n)] for answer in answers]
        try:
            for chunk in begun:
                yield chunk
            async with aclosing(merged(answers)) as events:
                async for i, event in events:
                    index, before = answers[i].n * i + event.index, len(self._before(i))
                    if isinstance(event, TextEvent):
                        logprobs = logprobs_of(event.logprobs, before, places[i][event.index])
                        choice = _choice(index, event.text, None, logprobs)
                        yield sse(encode({**self._head, "choices": [choice], **more}))
                    elif isinstance(event, ProgressEvent):
                        choice = _choice(index, "", None, None)
                        yield sse(encode({**self._head, "choices": [choice], **more, **progress_of(event)}))
                    elif isinstance(event, DoneEvent):
                        logprobs = logprobs_of(event.logprobs, before, places[i][event.index])
                        choice = _choice(index, "", finish_of(event.reply), logprobs)
                        yield sse(encode({**self._head, "choices": [choice], **more, **notes_of(event.reply)}))
            if usage:
                replies = [answer.replies for answer in answers]
                last = {"usage": _usage(replies), "timings": timings_of(replies[0][0])}
                yield sse(encode({**self._head, "choices": [], **last}))
            yield SSE_DONE
        except HerdError as error:
            yield sse(encode(body_of(error, "openai")))
        finally:
            for answer in answers:
                await answer.aclose()

    def _likely(self, prompt: int) -> dict[str, Any] | None:
        """Log-probabilities of a prompt, where they are asked for."""
        scored = self._scored[prompt] if self._scored else None
        return None if scored is None else prompt_logprobs(scored)

    def _before(self, prompt: int) -> str:
        """A prompt, where it is asked back."""
        return self._echoed[prompt] if self._echoed else ""


def _usage(replies: Sequence[Sequence[Reply]]) -> dict[str, Any]:
    """Token counts of the answers to one prompt, or to several."""
    usages = [usage_of(found) for found in replies]
    if len(usages) == 1:
        return usages[0]
    return {name: sum(u[name] for u in usages) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}


def _choice(index: int, text: str, reason: str | None, logprobs: Any) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def prompt_logprobs(scored: Scored) -> dict[str, Any]:
    """Log-probabilities of a prompt; nothing is known of its first token, since nothing stands before it."""
    offsets = Offsets()
    first: dict[str, Any] = {"tokens": key_of(scored.first), "text_offset": offsets.place(spelt_out(scored.first))}
    rest = _lists(scored.rest, [offsets.place(spelt_out(one)) for one in scored.rest])
    return {name: [first.get(name), *rest[name]] for name in rest}


def joined(before: dict[str, Any] | None, after: dict[str, Any] | None) -> dict[str, Any] | None:
    """Log-probabilities of a prompt and of its answer, one after the other."""
    if before is None or after is None:
        return after if before is None else before
    return {name: before[name] + after[name] for name in before}


def logprobs_of(found: Sequence[Logprob] | None, before: int, answer: Offsets | None = None) -> dict[str, Any] | None:
    """Log-probabilities as this route has them: four lists. before: characters before the answer. answer: where its
    tokens begin, for a model that does not say; of a stream the one that all its pieces go through."""
    if found is None:
        return None
    answer = Offsets() if answer is None else answer
    places = [(answer.place(one.token_bytes), one.offset) for one in found]
    return _lists(found, [before + (counted if known is None else known) for counted, known in places])


def _lists(found: Sequence[Logprob], offsets: list[int]) -> dict[str, Any]:
    top = [keyed(one) for one in found]
    return {
        "tokens": [key_of(one) for one in found],
        "token_logprobs": [one.logprob for one in found],
        "top_logprobs": top,
        "text_offset": offsets,
    }


def key_of(token: Likely) -> str:
    """A token as this route names it: a part of a character by its bytes."""
    return f"bytes:{name_of(token)}" if token.spelt else token.text


def keyed(found: Logprob) -> dict[str, float]:
    """The likeliest tokens and the chosen one, each under a name of its own: where two look alike, the chosen one has
    the name, then the likelier, and the other is called by its id."""
    keys = {found.token_id: key_of(found)}
    taken = set(keys.values())
    for one in found.top:
        key = key_of(one)
        keys.setdefault(one.token_id, f"token_id:{one.token_id}" if key in taken else key)
        taken.add(key)
    values = {one.token_id: one.logprob for one in (*found.top, found)}
    return {keys[token_id]: logprob for token_id, logprob in values.items()}
