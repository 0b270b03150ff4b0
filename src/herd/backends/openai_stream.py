"""The chunks of a streamed chat completion, or one that came whole -> events, checked.

An answer is over at its first finish: whatever comes for it afterwards, but for a finish that says nothing more, breaks
the request off, so that there is never a second answer. A call is of a tool that was offered, and its arguments are one
JSON object, or the request breaks off. What it is not: the bytes (`herd.backends.reading`), what was sent
(`openai_request`).
"""

import json
import secrets
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from herd.backends.failures import Broken, failure, of_event
from herd.backends.reading import parsed
from herd.backends.target import MOST_CONTEXT, Target
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    FinishReason,
    Likely,
    Logprob,
    Reply,
    TextEvent,
    Timings,
    Usage,
)
from herd.messages import CutCall, ToolCall

NO_ID = -1
"""The id of a token that is told by its text alone."""
MOST_CALLS = 128
"""Calls of one answer."""
MOST_TOKENS = MOST_CONTEXT
"""A larger count is none."""
MOST_LOGPROB = 1.0
"""A larger one is none: of a certain one it is 0, and some say a little more."""
REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "policy",
}
"""Reasons to end that hosts and engines tell (TGI: eos_token, stop_sequence; Together: eos)."""
_THINKS = "<think>\n"
_THOUGHT = "\n</think>\n\n"
_IDS = string.ascii_letters + string.digits


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What was asked for, as far as an answer is checked against it."""

    n: int = 1
    tools: frozenset[str] = frozenset()
    """Names of the tools that it may call."""
    must_call: bool = False
    parallel: bool = True
    logprobs: int | None = None
    """How many others are told beside each token; None: nothing is told of tokens."""
    has_form: bool = False
    """Whether it has to be JSON, so that what it thinks beforehand has no place in it."""
    stops: Sequence[str] = ()
    seed: int = 0


@dataclass
class _Call:
    """A call while it comes."""

    id: str
    name: str
    parts: list[str] = field(default_factory=list)


class Chunks:
    """Chunks of one request in, events out. `over`: every answer has its finish; `finish` gives their last events."""

    def __init__(self, target: Target, expected: Expected) -> None:
        self._target, self._expected = target, expected
        self._answers = [_Answer(target, expected, i) for i in range(expected.n)]
        self._usage: Usage | None = None

    @property
    def over(self) -> bool:
        """Whether each answer has ended."""
        return all(one.reason is not None for one in self._answers)

    @property
    def told_usage(self) -> bool:
        """Whether the other side has told the tokens."""
        return self._usage is not None

    def take(self, chunk: Any) -> Iterator[Event]:
        """Events of one chunk. Raises errors of `herd.backends.failures`."""
        if not isinstance(chunk, Mapping):
            self._broken("sent a chunk that is no object")
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise of_event(self._target, chunk)
        if chunk.get("usage") is not None:
            self._usage = self._read_usage(chunk["usage"])
        choices = chunk.get("choices", [])
        if not isinstance(choices, list):
            self._broken("sent choices that are no list")
        if len(choices) > len(self._answers):
            self._broken("sent more answers than were asked for")
        for choice in choices:
            index = choice.get("index", 0) if isinstance(choice, Mapping) else None
            if type(index) is not int or not 0 <= index < len(self._answers):
                self._broken("sent an answer that nobody asked for")
            yield from self._answers[index].take(choice)

    def finish(self) -> Iterator[Event]:
        """The last event of each answer. Raises Broken where one has not ended."""
        if not self.over:
            self._broken("cut its answer")
        made = [one.pieces for one in self._answers]
        usage = self._usage or Usage(0, sum(made))
        made[-1] = max(usage.output_tokens - sum(made[:-1]), 0)  # it tells all answers' together
        for one, count in zip(self._answers, made, strict=True):
            yield one.done(Usage(usage.prompt_tokens, count, usage.cached_tokens))

    def _read_usage(self, told: Any) -> Usage:
        if not isinstance(told, Mapping):
            self._broken("sent a usage that is no object")
        details = told.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
        counts = [told.get("prompt_tokens"), told.get("completion_tokens", 0), cached or 0]
        if not all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts):
            self._broken("sent a usage that is no count of tokens")
        prompt, output, cached = counts
        return Usage(prompt, output, min(cached, prompt))

    def _broken(self, what: str) -> NoReturn:
        raise failure(Broken, self._target, what)


class _Answer:
    """One answer while it comes."""

    def __init__(self, target: Target, expected: Expected, index: int) -> None:
        self._target, self._expected, self._index = target, expected, index
        self._text: list[str] = []
        self._logprobs: list[Logprob] = []
        self._calls: list[ToolCall] = []
        self._cut: CutCall | None = None
        self._call: _Call | None = None
        self._at = -1
        self._thinking = False
        self._stop: str | None = None
        self._begun_s = time.monotonic()
        self._first_s: float | None = None
        self._last_s = 0.0
        self.pieces = 0
        """Pieces that have come, which stand for tokens where nobody tells these."""
        self.reason: FinishReason | None = None

    def take(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        """Events of one choice of a chunk."""
        delta = choice.get("delta", choice.get("message"))
        delta = {} if delta is None else delta
        if not isinstance(delta, Mapping):
            self._broken("sent a delta that is no object")
        yield from self._said(delta, choice)
        yield from self._called(delta.get("tool_calls") or ())
        if choice.get("finish_reason") not in (None, ""):  # some hosts say "" until the end
            yield from self._ended(choice)

    def done(self, usage: Usage) -> DoneEvent:
        """The last event."""
        assert self.reason is not None
        decode = 0.0 if self._first_s is None else self._last_s - self._first_s
        rate = (usage.output_tokens - 1) / decode if decode > 0 and usage.output_tokens > 1 else 0.0
        timings = Timings(first_token_s=self._first_s or 0.0, decode_s=decode, decode_tps=rate)
        told = tuple(self._logprobs) if self._expected.logprobs is not None else None
        reply = Reply(
            "".join(self._text),
            self.reason,
            usage,
            timings,
            seed=self._expected.seed,
            logprobs=told,
            stop=self._stop,
            tool_calls=tuple(self._calls),
            cut_call=self._cut,
            answered_by=self._target.name,
            parsed=self._value(),
        )
        return DoneEvent(reply, self._index)

    def _value(self) -> Any:
        """What the text holds, where it had to be JSON."""
        if not self._expected.has_form or self.reason != "stop" or self._stop is not None:
            return None
        try:
            return _clean_value("".join(self._text), self._target)
        except Broken:
            return None

    def _said(self, delta: Mapping[str, Any], choice: Mapping[str, Any]) -> Iterator[Event]:
        """Text of a delta, what the model thought before it between marks."""
        thought = self._word(delta, "reasoning_content") or self._word(delta, "reasoning")
        text = self._word(delta, "content") + self._word(delta, "refusal")
        if thought and not self._expected.has_form:
            yield self._piece(thought if self._thinking else _THINKS + thought, None)
            self._thinking = True
        logprobs = self._likely(choice.get("logprobs")) if self._expected.logprobs is not None else None
        if not text and not logprobs:
            return
        if self._thinking and text:
            yield self._piece(_THOUGHT, None)
            self._thinking = False
        yield self._piece(text, logprobs)

    def _word(self, delta: Mapping[str, Any], name: str) -> str:
        found = delta.get(name)
        if found is None:
            return ""
        if not isinstance(found, str):
            self._broken(f"sent {name} that is no text")
        return _clean(found)

    def _piece(self, text: str, logprobs: tuple[Logprob, ...] | None) -> TextEvent:
        self._count(len(logprobs or (0,)))
        self._text.append(text)
        self._logprobs += logprobs or ()
        return TextEvent(text, logprobs, self._index)

    def _count(self, tokens: int) -> None:
        if self.reason is not None:
            self._broken("went on after the end of its answer")
        self._last_s = time.monotonic() - self._begun_s
        self._first_s = self._last_s if self._first_s is None else self._first_s
        self.pieces += tokens

    def _likely(self, told: Any) -> tuple[Logprob, ...]:
        if told is None:
            return ()
        content = told.get("content") if isinstance(told, Mapping) else told
        if content is None:
            return ()
        if not isinstance(content, list):
            self._broken("sent log-probabilities in another form")
        found = []
        for one in content:
            top = one.get("top_logprobs") or () if isinstance(one, Mapping) else None
            if not isinstance(top, list | tuple):
                self._broken("sent log-probabilities in another form")
            text, logprob, spelt = self._token(one)
            top = top[: self._expected.logprobs]
            others = tuple(Likely(NO_ID, word, chance, spelt=raw) for word, chance, raw in map(self._token, top))
            found.append(Logprob(NO_ID, text, logprob, others, spelt=spelt))
        return tuple(found)

    def _token(self, told: Any) -> tuple[str, float, bytes | None]:
        text, logprob = (told.get("token"), told.get("logprob")) if isinstance(told, Mapping) else (None, None)
        if not isinstance(text, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
            self._broken("sent log-probabilities in another form")
        if logprob > MOST_LOGPROB:
            self._broken("sent log-probabilities that are none")
        raw = told.get("bytes")
        if isinstance(raw, list) and all(type(one) is int and 0 <= one < 256 for one in raw):
            spelt = bytes(raw)
            return _clean(text), float(logprob), None if spelt == text.encode("utf-8", "replace") else spelt
        return _clean(text), float(logprob), None

    def _called(self, fragments: Any) -> Iterator[Event]:
        if not isinstance(fragments, list | tuple):
            self._broken("sent calls that are no list")
        if len(fragments) > MOST_CALLS:
            self._broken("sent more calls than were asked for")
        for k, one in enumerate(fragments):
            inner = one.get("function") if isinstance(one, Mapping) else None
            index = one.get("index", k) if isinstance(one, Mapping) else None
            if not isinstance(inner, Mapping) or type(index) is not int or not 0 <= index < MOST_CALLS:
                self._broken("sent a call in another form")
            name, text = inner.get("name"), inner.get("arguments")
            if isinstance(text, Mapping):  # some engines tell them as an object
                text = ToolCall("", text).arguments_text
            if not isinstance(text, str | None):
                self._broken("sent arguments of a call that are no text")
            if self._begins(index, one.get("id"), name):
                yield from self._end_call()
                yield self._start_call(index, one.get("id"), name)
            yield from self._argument(_clean(text or ""))

    def _begins(self, index: int, called: Any, name: Any) -> bool:
        """Whether a fragment begins a call: at a new place, or, as some engines do it, at the same with another id."""
        if self._call is None or index != self._at:
            return True
        return bool(name) and bool(called) and called != self._call.id

    def _start_call(self, index: int, called: Any, name: Any) -> CallStartEvent:
        self._count(1)
        if index < self._at:
            self._broken("went back to a call that was over")
        if not isinstance(name, str) or name not in self._expected.tools:
            self._broken("called a tool that nobody offered")
        if len(self._calls) >= (MOST_CALLS if self._expected.parallel else 1):
            self._broken("sent more calls than were asked for")
        good = isinstance(called, str) and 0 < len(called) <= 256 and called.isascii() and called.isprintable()
        if good and any(call.id == called for call in self._calls):
            self._broken("sent two calls with one id")
        self._call = _Call(called if good else "call_" + "".join(secrets.choice(_IDS) for _ in range(24)), name)
        self._at = index
        return CallStartEvent(len(self._calls), self._call.id, name, self._index)

    def _argument(self, text: str) -> Iterator[Event]:
        if text and self._call is not None:
            self._count(1)
            self._call.parts.append(text)
            yield CallArgumentsEvent(len(self._calls), text, self._index)

    def _end_call(self, *, cut: bool = False) -> Iterator[Event]:
        """The call that was being written, whole; cut: or not, where the answer ended within it."""
        call, self._call = self._call, None
        if call is None:
            return
        text = "".join(call.parts)
        if not text.strip():  # no arguments: some hosts write nothing, where the form wants an object
            yield CallArgumentsEvent(len(self._calls), "{}", self._index)
            text = "{}"
        try:
            arguments = _clean_value(text, self._target)
        except Broken:
            arguments = None
        if not isinstance(arguments, dict):
            if not cut:
                self._broken(f"sent arguments of {call.name} that are no JSON object")
            self._cut = CutCall(call.name, text, call.id)
            return
        self._calls.append(ToolCall(call.name, arguments, call.id))
        yield CallEndEvent(len(self._calls) - 1, self._calls[-1], self._index)

    def _ended(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        told = choice["finish_reason"]
        reason = REASONS.get(told) if isinstance(told, str) else None
        if reason is None:
            raise failure(Broken, self._target, "ended its answer for an unknown reason", str(told))
        if self.reason is not None:  # the first one counts; one that says no more than that is no other answer
            return
        yield from self._end_call(cut=reason == "length")
        stop = choice.get("stop_reason")
        self._stop = stop if isinstance(stop, str) and stop in self._expected.stops else None
        if self._thinking:
            yield self._piece(_THOUGHT, None)
        if self._expected.must_call and reason in ("stop", "tool_calls") and not self._calls:
            self._broken("called no tool, though it was told to")
        if self._expected.logprobs is not None and self._text and not self._logprobs:
            self._broken("told no log-probabilities, though it was asked for them")
        self.reason = "tool_calls" if self._calls and reason == "stop" else reason

    def _broken(self, what: str) -> NoReturn:
        raise failure(Broken, self._target, what)


def _clean(text: str) -> str:
    """A text that UTF-8 can write: JSON can spell halves of characters."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _clean_value(text: str, target: Target) -> Any:
    """The value of a JSON text, of which UTF-8 can write every text, too. Raises Broken."""
    found = parsed(text.encode(), target)
    if "\\u" not in text:
        return found
    spelt = json.dumps(found, ensure_ascii=False)
    clean = _clean(spelt)
    return found if clean == spelt else json.loads(clean)
