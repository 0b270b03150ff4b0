"""What a model gives back: frozen (but for Counters), typed, and the same as JSON. Text and numbers, no arrays.

`Reply` is a whole answer; a stream yields `TextEvent`s, events of calls, and one `DoneEvent` an answer; before them
`ProgressEvent`s, where they are asked for. What it is not:
who makes them (`herd.chat_model`), checks of them (`herd.policies`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from herd.messages import CutCall, Message, ToolCall

SHOWN = 60
"""Characters of an answer's text in its `repr`."""
FinishReason: TypeAlias = Literal["stop", "length", "interrupted", "policy", "tool_calls"]
"""stop: the model ended its turn, or a stop string came; length: max_tokens or the context's end; interrupted: Ctrl-C
or a cancelled request; policy: a policy refused; tool_calls: it ended its turn to wait for what its calls bring."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that were found in the cache."""


@dataclass(frozen=True)
class Timings:
    """Seconds, by a monotonic clock, and tokens a second."""

    load_s: float = 0.0
    prefill_s: float = 0.0
    """Seconds from the first row of the prompt to the logits after its last, images included."""
    decode_s: float = 0.0
    """Seconds from the first output token to the last."""
    first_token_s: float = 0.0
    """Seconds from the request to its first token."""
    prefill_tps: float = 0.0
    """Prompt tokens computed a second (cached ones do not count)."""
    decode_tps: float = 0.0
    """Output tokens a second after the first."""


@dataclass
class Counters:
    """What has been computed since a model was loaded, all requests together."""

    passes: int = 0
    """Passes through the model; one that failed, and was made again piece by piece, counts as its pieces."""
    rows: int = 0
    """Tokens in those passes: of prompts, of answers, and guessed ones."""
    admitted: int = 0
    """Times that a sequence got a place."""
    preempted: int = 0
    """Times that one gave up its place for others, and was computed again later."""
    forked: int = 0
    """Further samples that shared what had been computed of their prompt."""
    cached_tokens: int = 0
    """Tokens of prompts that were found in the cache."""
    evicted_pages: int = 0
    """Pages of cached prefixes that were given up for others: many of them say that the cache is small."""
    proposed: int = 0
    """Tokens that were guessed."""
    kept: int = 0
    """Guessed tokens that were right."""
    failed_passes: int = 0
    """Passes that raised an error."""


@dataclass(frozen=True)
class Likely:
    """A token that could have come, and how likely it was."""

    token_id: int
    text: str
    """The token by itself: a part of a character is U+FFFD; a control token is spelt out."""
    logprob: float
    spelt: bytes | None = field(default=None, kw_only=True)
    """What it adds to a text, where `text` is not that: a part of a character, or nothing of a control token."""

    @property
    def token_bytes(self) -> bytes:
        """What it adds to a text: those of an answer's tokens, joined, are the answer in UTF-8."""
        return self.text.encode() if self.spelt is None else self.spelt


@dataclass(frozen=True)
class Logprob(Likely):
    """The chosen token in the raw distribution."""

    top: tuple[Likely, ...] = ()
    """The likeliest ones, likeliest first."""
    offset: int | None = None
    """Characters of the answer's text before it; of a token that begins inside a character, those before that
    character. None: it is not known."""


@dataclass(frozen=True)
class Note:
    """What a layer of a policy saw, and what it did about it. Never the text itself."""

    layer: str
    """rules, guard, or the name that another policy gives itself."""
    rule: str
    """The rule's id, or the category."""
    kind: str
    decision: Literal["observe", "redact", "block"]
    where: Literal["input", "output", "tool"] = "output"
    message: int | None = None
    """Which message of the dialog; None: the reply, or a tool's definition."""
    start: int = 0
    end: int = 0
    """Characters of the text in that place; both 0: the whole. A find that goes on in another place is told as far as
    it lies in this one."""
    place: str = "text"
    """Which part that is. A message has text, context, name, calls[0] (its first call); a request tools[0]; a reply
    text (the model's own, calls left out), calls[0], stop (the stop string that ended it)."""


@dataclass(frozen=True)
class HoldStats:
    """What a policy's holding back cost one reply."""

    tokens: int = 0
    """The most that waited at once."""
    first_s: float = 0.0
    """Seconds from the first token to the first text that was let out."""
    check_s: float = 0.0
    """Seconds inside the policy."""


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    seed: int = 0
    """The seed in use: give it again, with the same prompt and options, for the same text."""
    logprobs: tuple[Logprob, ...] | None = None
    ids: tuple[int, ...] = ()
    """Output token ids, an end id included."""
    stop: str | None = None
    """The stop string that ended it."""
    notes: tuple[Note, ...] = ()
    """What a policy saw and which of its layers decided."""
    held: HoldStats | None = None
    """None: no policy held anything back."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of the tools that it was given, each with an id; `text` holds what stood around them."""
    cut_call: CutCall | None = None
    """The call that was being written when the answer ended, or that broke off; it is in no other field."""
    answered_by: str = ""
    """The backend that answered, where one did: a name of `herd backend` (`herd.backends`)."""
    parsed: Any = field(default=None, compare=False)
    """What `text` holds, where a schema was asked for: plain values, or an object of the type that was the schema. None
    where it did not end by "stop", a stop string cut it, or the type's own checks refuse it. No part of `to_dict`."""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        """Its text, shortened, and how it ended; the rest is in its fields."""
        text = self.text if len(self.text) <= SHOWN else f"{self.text[:SHOWN]}…"
        calls = f", {len(self.tool_calls)} tool calls" if self.tool_calls else ""
        tokens = f"{self.usage.prompt_tokens} + {self.usage.output_tokens} tokens"
        return f"Reply({text!r}, {self.finish_reason!r}{calls}, {tokens})"

    @property
    def message(self) -> Message:
        """The assistant's turn: `dialog.append(reply.message)`, and the next prompt begins with this one's ids."""
        return Message("assistant", self.text, tool_calls=self.tool_calls)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return {name: _plain(value) for name, value in asdict(replace(self, parsed=None)).items() if name != "parsed"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Reply":
        """The inverse of `to_dict`."""
        logprobs = data.get("logprobs")
        return cls(
            text=data["text"],
            finish_reason=data["finish_reason"],
            usage=Usage(**data["usage"]),
            timings=Timings(**data["timings"]),
            seed=data.get("seed", 0),
            logprobs=None if logprobs is None else tuple(_logprob(x) for x in logprobs),
            ids=tuple(data.get("ids", ())),
            stop=data.get("stop"),
            notes=tuple(Note(**x) for x in data.get("notes", ())),
            held=None if data.get("held") is None else HoldStats(**data["held"]),
            tool_calls=tuple(ToolCall(**call) for call in data.get("tool_calls", ())),
            cut_call=None if data.get("cut_call") is None else CutCall(**data["cut_call"]),
            answered_by=data.get("answered_by", ""),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | bytes):
        return [_plain(v) for v in value]
    return value


def _logprob(data: Mapping[str, Any]) -> Logprob:
    top = tuple(Likely(**_token(x)) for x in data.get("top", ()))
    return Logprob(**_token(data), top=top, offset=data.get("offset"))


def _token(data: Mapping[str, Any]) -> dict[str, Any]:
    spelt = data.get("spelt")
    found = {name: data[name] for name in ("token_id", "text", "logprob")}
    return {**found, "spelt": None if spelt is None else bytes(spelt)}


@dataclass(frozen=True)
class ProgressEvent:
    """How much of the prompt is read, before the answer begins; only where that is asked for. The first one of an
    answer tells of what was found in the cache, each of the others of more, the last one of all."""

    read_tokens: int
    """Tokens of the prompt that are read, those found in the cache included."""
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt that were found in the cache."""
    prefill_s: float
    """Seconds since the first row of the prompt, images included."""
    index: int = 0
    """Which of several answers to one prompt."""
    type: Literal["progress"] = "progress"


@dataclass(frozen=True)
class TextEvent:
    """Text that has become certain. Its pieces, joined, are the reply's text."""

    text: str
    logprobs: tuple[Logprob, ...] | None = None
    """Log-probabilities of the tokens behind this piece, when asked for."""
    index: int = 0
    """Which of several answers to one prompt."""
    type: Literal["text"] = "text"


@dataclass(frozen=True)
class CallStartEvent:
    """A tool is being called; a CallEndEvent follows once the call is whole, and none of one that is cut
    (`Reply.cut_call`). call_index: which of the answer's calls."""

    call_index: int
    id: str
    name: str
    index: int = 0
    """Which of several answers to one prompt."""
    type: Literal["call_start"] = "call_start"


@dataclass(frozen=True)
class CallArgumentsEvent:
    """A piece of a call's arguments; the pieces, joined, are one JSON object, or of a call that was cut the beginning
    of one."""

    call_index: int
    fragment: str
    index: int = 0
    type: Literal["call_arguments"] = "call_arguments"


@dataclass(frozen=True)
class CallEndEvent:
    """A call is complete."""

    call_index: int
    call: ToolCall
    index: int = 0
    type: Literal["call_end"] = "call_end"


@dataclass(frozen=True)
class DoneEvent:
    """The end of an answer: the whole reply, with what was said before an interruption."""

    reply: Reply
    index: int = 0
    """Which of several answers to one prompt."""
    logprobs: tuple[Logprob, ...] | None = None
    """Log-probabilities, when asked for, of tokens that came with no piece of text, such as the one that ended it;
    behind those of its pieces they make the reply's."""
    type: Literal["done"] = "done"

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return self.reply.finish_reason

    @property
    def usage(self) -> Usage:
        """Token counts."""
        return self.reply.usage

    @property
    def timings(self) -> Timings:
        """Seconds and rates."""
        return self.reply.timings


Event: TypeAlias = ProgressEvent | TextEvent | CallStartEvent | CallArgumentsEvent | CallEndEvent | DoneEvent


@dataclass(frozen=True)
class Score:
    """How likely a continuation was after its prompt; natural logarithms."""

    tokens: tuple[Logprob, ...]
    """Tokens of the continuation, each in the raw distribution after everything before it."""
    is_greedy: bool
    """Whether an answer at temperature 0 would have begun with it."""
    usage: Usage
    """Tokens of prompt and continuation together; nothing was made."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids of the continuation."""
        return tuple(token.token_id for token in self.tokens)

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Log-probabilities of the continuation, one an id."""
        return tuple(token.logprob for token in self.tokens)

    @property
    def logprob(self) -> float:
        """The log-probability of the whole continuation: their sum."""
        return sum(self.logprobs)


@dataclass(frozen=True)
class Perplexity:
    """exp(nll): how surprised the model is by a text, per token."""

    value: float
    nll: float
    """Mean negative log-likelihood of the scored tokens, natural logarithm."""
    scored_tokens: int
    windows: int
