"""POST /v1/chat/completions."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from herd import __version__
from herd.errors import HerdError
from herd.events import CallArgumentsEvent, CallStartEvent, DoneEvent, Logprob, ProgressEvent, Reply, TextEvent
from herd.server.http.error_bodies import body_of
from herd.server.http.streams import Stream
from herd.server.http.wire import SSE_DONE, SSE_PING, encode, sse
from herd.server.openai.forms import REFUSED_FORMS, USE, FormFields, form_of, without_empty
from herd.server.openai.other_tools import ELSEWHERE, WHY, told_others, without_others
from herd.server.openai.turns import OpenAIMessage, Tool, ToolChoice, choice_of, dialog_of, goes_on, tools_of
from herd.server.requests.fields import FieldTable, Name, Refused, noted, told
from herd.server.requests.forms import HARMLESS, forms_of_others
from herd.server.requests.generate_request import GenerateRequest
from herd.server.requests.media import Images
from herd.server.service import Caller, Embeddings, ReplyInProgress, Service
from herd.server.shared.intake import read_as
from herd.server.shared.logprobs import listed
from herd.server.shared.replies import json_reply, progress_of

FINISH = {"policy": "content_filter", "interrupted": "stop"}
"""Reasons that have another name here."""
FINGERPRINT = f"herd-{__version__}"
"""What computed an answer: with the same one, seed and options it comes again."""


class StreamOptions(msgspec.Struct):
    """What else comes with a stream."""

    include_usage: bool | None = None


class SamplingFields(FormFields, kw_only=True):
    """Options that chat and plain completion share; None: the model's own."""

    model: Name
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_progress: bool | None = None
    """llama.cpp's: whether a stream tells how much of the prompt is read."""
    user: str | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """The fields that have an effect."""

    messages: list[OpenAIMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    """Go on with the last message, the assistant's, as vLLM does; unless said, another answer is opened."""
    add_generation_prompt: bool | None = None
    """vLLM's: false beside continue_final_message says the same once more."""
    chat_template_kwargs: dict[str, Any] | None = None


NOT_KEPT = "nothing is stored here"
NO_WEB = "the service has no access to the web"
CHAT: FieldTable[ChatRequest] = FieldTable(
    "POST /v1/chat/completions",
    ChatRequest,
    reported={
        "metadata": NOT_KEPT,
        "store": NOT_KEPT,
        "service_tier": "there is one",
        "reasoning_effort": "the model has no levels of reasoning",
        "verbosity": "the model has no levels of it",
        "prediction": "guesses come from the prompt itself",
        "prompt_cache_key": "prefixes are found by their content",
        "prompt_cache_retention": "prefixes stay as long as memory allows",
        "safety_identifier": "see user",
        "messages[].content[].image_url.detail": "images are cut into tiles by their size",
        "messages[].refusal": "an earlier answer is its content",
        "messages[].annotations": "an earlier answer is its content",
        "messages[].reasoning_content": "an earlier answer is its content",
        ELSEWHERE: WHY,
    },
    refused={
        "functions": "use tools",
        "function_call": "use tool_choice",
        "audio": "answers are text",
        "modalities": "answers are text",
        "web_search_options": NO_WEB,
        **REFUSED_FORMS,
        **forms_of_others(ChatRequest, USE),
    },
    harmless=HARMLESS,
)


CALLED = {"stop_ids": "stop_token_ids"}
"""Options that requests call otherwise -> how."""


def options_of(asked: SamplingFields) -> dict[str, Any]:
    """Fields of SamplingOptions out of a request. Raises Refused for ids that are no numbers, and for two forms."""
    names = (
        "temperature top_p top_k min_p repetition_penalty presence_penalty frequency_penalty seed stop ignore_eos "
        "max_tokens"
    )
    found = {name: value for name in names.split() if (value := getattr(asked, name)) is not None}
    if asked.stop_token_ids is not None:
        found["stop_ids"] = asked.stop_token_ids
    grammar = form_of(asked).grammar
    if grammar is not None:
        found["grammar"] = grammar
    if asked.logit_bias is not None:
        found["logit_bias"] = {_id(name): value for name, value in asked.logit_bias.items()}
    return found


def _id(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refused(f"logit_bias: got {text[:20]!r}, expected token ids", "logit_bias")
    return int(text)


async def chat(service: Service, request: Request, caller: Caller) -> Response | Stream:
    """Answer a dialog."""
    asked, ignored, ask = await read_as(service, request, caller, lambda body: _read(service, body), media=True)
    answer = await service.open(caller, ask)
    headers = {**told((*ignored, *answer.ignored)), **noted([answer.note])}
    writer = ChatWriter(asked.model, answer.created)
    if not asked.stream:
        replies = await answer.whole(request)
        return await json_reply(service, caller, lambda: writer.whole(replies), replies, headers)
    usage = asked.stream_options is not None and asked.stream_options.include_usage is True
    return service.streamed(
        answer, writer.stream(answer, usage=usage), "text/event-stream", headers=headers, ping=SSE_PING
    )


def _read(service: Service, body: dict[str, Any]) -> tuple[ChatRequest, tuple[str, ...], GenerateRequest]:
    """What is asked. Raises Refused, BadMedia."""
    known, others = without_others(without_empty(body), ("function",))
    asked, ignored = CHAT.read(known, strict=service.strict)
    ignored = (*told_others(others, strict=service.strict), *ignored)
    options, called = options_of(asked), {**CALLED, "logprobs": "top_logprobs"}
    if asked.max_completion_tokens is not None:
        if asked.max_tokens not in (None, asked.max_completion_tokens):
            raise Refused("max_tokens: differs from max_completion_tokens; give one of them", "max_tokens")
        options["max_tokens"] = asked.max_completion_tokens
        called["max_tokens"] = "max_completion_tokens"
    if asked.logprobs:
        options["logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs:
        raise Refused("top_logprobs: expected logprobs to be true with it", "top_logprobs")
    images = Images(remote=service.remote_media)
    choice, tools = choice_of(asked.tool_choice, tools_of(asked.tools))
    ask = GenerateRequest(
        model=asked.model,
        messages=dialog_of(asked.messages, images),
        images=images,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=asked.parallel_tool_calls is not False,
        variables=asked.chat_template_kwargs or {},
        schema=form_of(asked).schema,
        continue_final_message=goes_on(asked.messages, asked.continue_final_message, asked.add_generation_prompt),
        n=1 if asked.n is None else asked.n,
        options=options,
        called=called,
        user=asked.user or "",
        progress=bool(asked.stream and asked.return_progress),
    )
    return asked, ignored, ask


class ChatWriter:
    """Events -> chat.completion and its chunks."""

    def __init__(self, model: str, created: int) -> None:
        self._id = "chatcmpl-" + secrets.token_hex(12)
        self._model = model
        self._created = created

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """The answer as one object."""
        return {
            **self._head("chat.completion"),
            "choices": [_choice(i, reply) for i, reply in enumerate(replies)],
            "usage": usage_of(replies),
            "timings": timings_of(replies[0]),
            **notes_of(*replies),
        }

    async def stream(self, answer: ReplyInProgress, *, usage: bool) -> AsyncGenerator[bytes, None]:
        """Server-sent events; an error comes as one, then the end."""
        head = self._head("chat.completion.chunk")
        more: dict[str, Any] = {"usage": None} if usage else {}
        begun: set[int] = set()

        def chunk(
            index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None, **last: Any
        ) -> bytes:
            if index not in begun:
                begun.add(index)
                delta = {"role": "assistant", "content": "", **delta}
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return sse(encode({**head, "choices": [choice], **more, **last}))

        try:
            for index in range(answer.n):
                yield chunk(index, {})
            async for event in answer.events():
                match event:
                    case ProgressEvent():
                        yield chunk(event.index, {}, **progress_of(event))
                    case TextEvent():
                        yield chunk(event.index, {"content": event.text}, logprobs=logprobs_of(event.logprobs))
                    case CallStartEvent():
                        function = {"name": event.name, "arguments": ""}
                        call = {"index": event.call_index, "id": event.id, "type": "function", "function": function}
                        yield chunk(event.index, {"tool_calls": [call]})
                    case CallArgumentsEvent():
                        call = {"index": event.call_index, "function": {"arguments": event.fragment}}
                        yield chunk(event.index, {"tool_calls": [call]})
                    case DoneEvent():
                        last, reason = logprobs_of(event.logprobs), finish_of(event.reply)
                        yield chunk(event.index, {}, reason, last, **notes_of(event.reply))
            if usage:
                counts = {"usage": usage_of(answer.replies), "timings": timings_of(answer.replies[0])}
                yield sse(encode({**head, "choices": [], **counts}))
            yield SSE_DONE
        except HerdError as error:
            yield sse(encode(body_of(error, "openai")))
        finally:
            await answer.aclose()

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": FINGERPRINT,
        }


def notes_of(*replies: Reply | Embeddings) -> dict[str, Any]:
    """Herd's own member of a reply, where there is something to say: what policies saw and which layer decided, never
    the text itself; and which backend answered, or which ones."""
    found = [msgspec.to_builtins(note) for reply in replies for note in reply.notes]
    by = dict.fromkeys(reply.answered_by for reply in replies if isinstance(reply, Reply) and reply.answered_by)
    said = {**({"policy": found} if found else {}), **({"answered_by": ", ".join(by)} if by else {})}
    return {"herd": said} if said else {}


def finish_of(reply: Reply) -> str:
    """Why it ended, in this dialect's words."""
    return FINISH.get(reply.finish_reason, reply.finish_reason)


def _choice(index: int, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    calls = [_called(c.id, c.name, c.arguments_text) for c in reply.tool_calls]
    if reply.cut_call is not None:
        calls.append(_called(reply.cut_call.id, reply.cut_call.name, reply.cut_call.arguments))
    if calls:
        message |= {"content": reply.text or None, "tool_calls": calls}
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs_of(reply.logprobs),
        "finish_reason": finish_of(reply),
    }


def _called(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def logprobs_of(found: Sequence[Logprob] | None) -> dict[str, Any] | None:
    """Log-probabilities of tokens; None where none were asked for."""
    if found is None:
        return None
    return {"content": listed(found), "refusal": None}


def usage_of(replies: Sequence[Reply]) -> dict[str, Any]:
    """Token counts; samples share their prompt."""
    prompt = replies[0].usage.prompt_tokens
    output = sum(reply.usage.output_tokens for reply in replies)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": replies[0].usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def timings_of(reply: Reply) -> dict[str, Any]:
    """Times and rates, under llama.cpp's names."""
    t, usage = reply.timings, reply.usage
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": usage.prompt_tokens - usage.cached_tokens,
        "prompt_ms": t.prefill_s * 1e3,
        "prompt_per_second": t.prefill_tps,
        "predicted_n": usage.output_tokens,
        "predicted_ms": t.decode_s * 1e3,
        "predicted_per_second": t.decode_tps,
    }
