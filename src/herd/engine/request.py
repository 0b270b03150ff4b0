"""What the engine is asked for and what it answers: sampling options, a request, one step of it. Ids and numbers only.

`SamplingOptions` is the one struct of generation options: Python keywords, command-line flags, HTTP bodies and saved
settings all become it, and every limit is checked here, once. What it is not: text of a dialog, a tokenizer, a queue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from herd.errors import UsageError, fail
from herd.events import ProgressEvent, Timings, Usage
from herd.grammars import Grammar
from herd.value_checks import MAX_ID, MAX_IDS, KnownFields, flag, known, number, shown, whole

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_STOP_IDS = 64
MAX_LOGIT_BIAS = 1024
MAX_LOGPROBS = 20
MAX_TOKENS = 1 << 40
MAX_OTHERS = 63
MAX_WINDOW = 1 << 20
MAX_SEED = (1 << 63) - 1
COLD = 1e-5
"""Temperatures below this are greedy: at 1e-5 a logit gap of 0.01 already weighs e^1000."""


class SamplingOptions(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True, metaclass=KnownFields):
    """How tokens are chosen and when to stop. Plain defaults mean greedy, without penalties, to the context's end.

    Order of work (sampler.py): penalties -> logit_bias -> grammar -> greedy, or temperature -> top_k -> top_p -> min_p
    -> draw.
    Raises UsageError naming the field for every value outside its limits.
    """

    temperature: float = 0.0
    """0 to 2 and beyond (at most 100); below 1e-5: greedy, exactly."""
    top_k: int = 0
    """Keep the k most likely; 0: all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities reach this sum, one at least; 0 to 1."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest; 0 to 1."""
    repetition_penalty: float = 1.0
    """Logits of seen tokens are divided (if positive) or multiplied (if negative) by this; 0.01 to 10."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token already in the output; -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken off once per occurrence in the output; -2 to 2."""
    repetition_window: int = 256
    """How many last tokens (prompt included) the repetition penalty looks at; 0: all of them."""
    logit_bias: dict[int, float] = {}
    """Added to the logits of these ids; -100 to 100, at most 1,024 entries. An id that no answer holds (a patch of an
    image, a row that pads the vocabulary) stays out of it whatever is added."""
    seed: int | None = None
    """0 to 2^63 - 1; the same seed, prompt and options draw the same tokens. None: a fresh one, told in the result."""
    max_tokens: int | None = None
    """1 or more; None: up to the end of the context."""
    stop: tuple[str, ...] = ()
    """Up to 16 strings of at most 256 bytes; the text ends before the first one."""
    stop_ids: tuple[int, ...] = ()
    """Further ids that end the text, beside the model's own."""
    logprobs: int | None = None
    """None: none; 0: of the chosen token; n to 20: also of the n likeliest. Of the raw distribution."""
    ignore_eos: bool = False
    """Go on when the model ends its turn (benchmarks)."""
    speculate: Literal["auto", "off"] = "auto"
    """auto: guess several tokens a pass where that is faster; the tokens are the same."""
    grammar: Grammar | None = None
    """The grammar that the text must follow. It ends with "stop" only where it is complete (or at a stop string of the
    caller's)."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise UsageError naming the first field whose type or value is not allowed."""
        number("temperature", self.temperature, 0.0, 100.0)
        whole("top_k", self.top_k, 0, 1 << 24)
        number("top_p", self.top_p, 0.0, 1.0)
        number("min_p", self.min_p, 0.0, 1.0)
        number("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        whole("repetition_window", self.repetition_window, 0, MAX_WINDOW)
        _bias(self.logit_bias)
        if self.seed is not None:
            whole("seed", self.seed, 0, MAX_SEED)
        if self.max_tokens is not None:
            whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _stops(self.stop)
        _ids("stop_ids", self.stop_ids)
        if self.logprobs is not None:
            whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        flag("ignore_eos", self.ignore_eos)
        if not isinstance(self.speculate, str) or self.speculate not in ("auto", "off"):
            fail(UsageError, "speculate", got=shown(self.speculate), expected="auto or off")
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            fail(UsageError, "grammar", got=type(self.grammar).__name__, expected="a Grammar")
        if self.grammar is not None and self.ignore_eos:
            fail(
                UsageError, "ignore_eos", got="true, with a grammar", expected="false: a grammar says where a text ends"
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken, without a draw."""
        return self.temperature < COLD or self.top_k == 1

    def with_(self, options: Mapping[str, Any]) -> "SamplingOptions":
        """A copy with these fields replaced; lists become tuples, one `stop` string becomes a tuple of one, a string
        of a grammar (schema:..., see Grammar.read) a Grammar.

        Raises UsageError for an unknown field or a bad value.
        """
        known("option", options, self.__struct_fields__)
        fields = dict(options)
        if isinstance(fields.get("stop"), str):
            fields["stop"] = (fields["stop"],)
        if isinstance(fields.get("grammar"), str):
            fields["grammar"] = Grammar.read(fields["grammar"])
        for name in ("stop", "stop_ids"):
            if fields.get(name, ()) is None:
                fields[name] = ()
            elif isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        if fields.get("logit_bias", ()) is None:
            fields["logit_bias"] = {}
        return msgspec.structs.replace(self, **fields)

    def fits(self, vocab_size: int) -> None:
        """Check token ids in the options against a vocabulary of this size. Raises UsageError naming the field."""
        for name, ids in (("logit_bias", self.logit_bias), ("stop_ids", self.stop_ids)):
            for i in ids:
                if not 0 <= i < vocab_size:
                    fail(UsageError, name, got=i, expected=f"an id from 0 to {vocab_size - 1}")


def _ids(name: str, ids: object) -> None:
    _no_list(name, ids, "token ids")
    if not isinstance(ids, tuple) or len(ids) > MAX_STOP_IDS:
        fail(UsageError, name, got=ids, expected=f"up to {MAX_STOP_IDS} token ids")
    for i in ids:
        whole(name, i, 0, MAX_ID)


def _bias(bias: object) -> None:
    if not isinstance(bias, dict):
        fail(UsageError, "logit_bias", got=type(bias).__name__, expected="a map from token id to number")
    if len(bias) > MAX_LOGIT_BIAS:
        fail(UsageError, "logit_bias", got=f"{len(bias)} entries", expected=f"at most {MAX_LOGIT_BIAS}")
    for key, value in bias.items():
        whole("logit_bias", key, 0, MAX_ID)
        number("logit_bias", value, -100.0, 100.0)


def _no_list(name: str, value: object, of: str) -> None:
    """Raise UsageError for a list: a frozen struct holds tuples. `with_` makes these of lists."""
    if isinstance(value, list):
        fail(UsageError, name, got="a list", expected=f"a tuple of {of}")


def _stops(stops: object) -> None:
    _no_list("stop", stops, "strings")
    if not isinstance(stops, tuple) or not all(isinstance(s, str) for s in stops):
        fail(UsageError, "stop", got=stops, expected="strings")
    if len(stops) > MAX_STOPS:
        fail(UsageError, "stop", got=f"{len(stops)} strings", expected=f"at most {MAX_STOPS}")
    for s in stops:
        size = len(s.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= MAX_STOP_BYTES:
            fail(UsageError, "stop", got=f"a string of {size} bytes", expected=f"1 to {MAX_STOP_BYTES} bytes")


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is to give. Raises UsageError naming the field for every value outside its limits.

    tokens: an answer. Anything else is measured on the given ids alone, and no token is made. logprobs: the
    log-probability of each id from position `start` on, given those before it. state: one vector of unit length, the
    mean over all positions of the last layer's output, each row divided by its own root mean square first. logits: the
    logits after each id.
    """

    what: Literal["tokens", "logprobs", "state", "logits"] = "tokens"
    start: int = 1
    """logprobs: the place of the first id that is wanted; 1 or more, since something has to stand before it."""
    top: int = 0
    """logprobs: so many of the likeliest ids at each place as well; up to 20."""
    keep: bool = True
    """Whether others may find in the cache what it computed. What nobody will begin with need not push out the rest."""
    others: tuple[tuple[int, ...], ...] = ()
    """logprobs: other continuations of the ids before `start`, at most `MAX_OTHERS`. Each is scored as if it stood
    there, in their order, after what stands there. The ids before `start` are computed once, and so are those with
    which one begins like the one before it."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise UsageError naming the first field whose type or value is not allowed."""
        if not isinstance(self.what, str) or self.what not in WANTS:
            fail(UsageError, "want", got=shown(self.what), expected=" or ".join(WANTS))
        whole("want.start", self.start, 1, MAX_IDS)
        whole("want.top", self.top, 0, MAX_LOGPROBS)
        flag("want.keep", self.keep)
        if not isinstance(self.others, tuple) or len(self.others) > MAX_OTHERS:
            fail(UsageError, "want.others", got=shown(self.others), expected=f"a tuple of up to {MAX_OTHERS}")
        for ids in self.others:
            if not isinstance(ids, tuple) or not ids:
                fail(UsageError, "want.others", got=shown(ids), expected="tuples of ids, none empty")
        if self.others and self.what != "logprobs":
            fail(UsageError, "want.others", got=f"some, with {self.what}", expected="logprobs")


WANTS = ("tokens", "logprobs", "state", "logits")
TOKENS = Want()


@dataclass(frozen=True)
class TokenLogprob:
    """A chosen token and the likeliest ones: natural logarithms of probability in the raw distribution (before
    penalties, bias and temperature)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their logprobs, likeliest first."""


@dataclass(frozen=True)
class TokenScore:
    """The score of one given id: natural logarithms of probability in the raw distribution after the ids before it."""

    token_id: int
    logprob: float
    is_greedy: bool
    """Whether it is what a greedy answer would have said there."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest ids and their logprobs, likeliest first."""


class Request(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A sequence to go on with, or to measure: the one struct that crosses from the front to the core. It is checked
    where it is submitted, and again where the core takes it (`engine.request_checks`)."""

    ids: Sequence[int]
    options: SamplingOptions
    pixels_I3SS: np.ndarray | None = None
    """All tiles of its images, floating-point numbers, in the order of their patch ids."""
    seed: int = 0
    """The seed in use: options.seed, or a fresh one."""
    client: str = ""
    """The client: clients share the engine fairly, whatever they ask for."""
    priority: int = 0
    """Higher goes first. Waiting 1,000 steps (`FairQueue.patience`) counts as one priority: what is one lower is on a
    par with whatever came 1,000 steps after it, so a dense stream of urgent requests holds it up so long at most."""
    timeout_s: float | None = None
    """Seconds, from the moment that the core takes it, after which it fails with TimedOut, finished or not."""
    salt: bytes = b""
    """Cached positions are shared among requests with the same salt, and the same adapter, only (tenant)."""
    adapter: str | None = None
    """Name of the adapter that it is computed with (`add_adapter`); None: the model's own weights."""
    want: Want = TOKENS
    progress: bool = False
    """Whether it is told how much of its prompt is read, pass by pass, until its first token."""
    begun: tuple[int, ...] = ()
    """Ids of the text that the answer goes on with: it is in the prompt, and options.grammar begins before it."""
    # what `Engine` adds when it is submitted
    number: int = 0
    """Unique, growing: the order of arrival."""
    samples: tuple[tuple[int, int], ...] = ()
    """(number, seed) of further sequences with the same prompt: they fork from this one after its prompt."""
    end_ids: tuple[int, ...] = ()
    """Ids that end the text, beside options.stop_ids."""
    digests: tuple[bytes, ...] = ()
    """A digest for each tile, by which cached positions of an image are known."""
    traced: bool = False
    """Its experts are wanted; the whole prompt is computed anew for it, in passes of its own."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all its sequences: its own, and those of further samples."""
        return self.number, *(number for number, _ in self.samples)

    def with_seed(self, seed: int) -> "Request":
        """This request with another seed."""
        return msgspec.structs.replace(self, seed=seed)


Reason: TypeAlias = Literal["stop", "length", "interrupted"]
"""Why a request ended. stop: an end id or a stop string; length: max_tokens, or the context is full; interrupted:
cancelled, Ctrl-C."""


@dataclass(frozen=True)
class Finish:
    """How a request ended."""

    reason: Reason
    usage: Usage
    timings: Timings
    stop: str | None = None
    """The stop string that ended it."""


@dataclass(frozen=True)
class Step:
    """What one decoded token has done. The last step of a request has `finish`."""

    token_id: int | None
    """None: no token came with this step."""
    text: str
    """Text that is now certain: complete characters that can no longer become a stop string."""
    logprob: TokenLogprob | None = None
    finish: Finish | None = None
    scores: tuple[TokenScore, ...] = ()
    """The scores of the next ids of a request that wants log-probabilities."""
    progress: ProgressEvent | None = None
    """How much of the prompt is read, where that is asked for; nothing else comes with it."""
    rows_RX: Any | None = None
    """The state, float32 [1, D], or the logits, float32 [R, V], of a request that wants them."""
