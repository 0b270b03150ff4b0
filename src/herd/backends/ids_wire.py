"""What requests and answers by token ids have in common, whichever engine's form they are in.

    Heard     what one event of an answer tells: ids, scores, an end
    Wire      one engine's form: a body made of a request, a reader of its answer, its tokenizer

What an engine does not do exactly as Herd does is refused by name before anything is sent; nothing is dropped. What it
is not: a connection, a queue (`herd.backends.ids_executor`).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Self, TypeAlias

from herd.backends.failures import Broken, failure
from herd.backends.ids_facts import Facts
from herd.backends.target import Target
from herd.engine.request import COLD, Reason, Request, SamplingOptions, TokenLogprob, TokenScore
from herd.errors import Unsupported, fail
from herd.text.tokenizer import Tokenizer

Get: TypeAlias = Callable[[str], Awaitable[Any]]
"""The JSON at a path."""
Post: TypeAlias = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
"""The JSON that a path answers to a body."""


@dataclass(frozen=True)
class Heard:
    """What one event of an answer tells."""

    tokens: Sequence[tuple[int, TokenLogprob | None]] = ()
    """Ids, with their log-probabilities where these were asked for."""
    scores: tuple[TokenScore, ...] = ()
    """Scores of the ids that were given, from the place on that was asked for."""
    cached: int | None = None
    """Positions of the prompt that were in the other side's cache."""
    read: int | None = None
    """Positions of the prompt that are computed."""
    finish: Reason | None = None
    """Why the other side ended it."""
    lost: bool = False
    """Whether further ids were made that it does not tell: what comes after those it told is asked for anew."""


NOTHING = Heard()


class Reader(ABC):
    """Reads the events of one answer."""

    @abstractmethod
    def take(self, value: Any) -> Heard:
        """What an event tells. Raises errors of `herd.backends.failures`."""


class Wire(ABC):
    """One engine's form of requests and answers by ids. Knows one target and what it has told of itself."""

    path: ClassVar[str]
    """Where requests go."""
    engine: ClassVar[str]
    """The engine's name."""
    tells_progress: ClassVar[bool] = False
    """Whether it tells how much of a prompt is read."""
    scores: ClassVar[bool] = False
    """Whether it tells how likely given ids are."""
    tokenize_path: ClassVar[str] = "/tokenize"
    """Where it makes ids of a text."""
    guided: ClassVar[str]
    """How it has to be started or built to keep to llguidance's grammars."""

    def __init__(self, target: Target, facts: Facts) -> None:
        self.target, self.facts = target, facts

    @classmethod
    @abstractmethod
    async def ask(cls, target: Target, get: Get, post: Post) -> Facts:
        """What the engine tells of itself. Raises errors of `herd.backends.failures`: Withdrawn, where it has another
        model than the target's."""

    @classmethod
    def spelt(cls, target: Target, text: str) -> dict[str, Any]:
        """The body that asks for the ids of a text, with the control tokens that it spells and nothing before it."""
        return {"model": target.model, "prompt": text, "add_special_tokens": False}

    @classmethod
    async def encode(cls, target: Target, post: Post, text: str) -> list[int]:
        """Ids of a text as the engine makes them, see `spelt`. Raises Broken."""
        found = pick(await post(cls.tokenize_path, cls.spelt(target, text)), Mapping, target, "the ids of a text")
        return ids_of(found.get("tokens"), target, "tokens")

    @classmethod
    def over(cls, target: Target, facts: Facts, tokenizer: Tokenizer) -> Self:
        """One for a target, whose ids are those of a tokenizer."""
        return cls(target, facts)

    @abstractmethod
    def check(self, request: Request) -> None:
        """Raise Unsupported for what the engine would do otherwise, or not at all."""

    @abstractmethod
    def body(
        self, request: Request, seed: int, most: int, said: Sequence[int] = (), piece: int | None = None
    ) -> dict[str, Any]:
        """The body of a request. seed: of this sample; most: tokens that its answer may have. said: ids of it that came
        already, after which it goes on; piece: so many more are wanted, as a whole; None: all that is left."""

    @abstractmethod
    def reader(self, request: Request, piece: int | None = None) -> Reader:
        """A reader of its answer, or of a piece of it."""

    def defaults(self, options: SamplingOptions) -> SamplingOptions:
        """What calls use where they say nothing, as far as the engine can do it."""
        return options

    # -- words for what is refused -----------------------------------------------------------------------------------

    def refuse(self, option: str, got: object, expected: str) -> NoReturn:
        """Raise Unsupported naming an option."""
        what = f"{self.target.name}: {option} by ids, of {self.engine}"
        fail(Unsupported, what, got=got, expected=expected, do="leave it out, or choose a model that can")

    def check_common(self, request: Request) -> None:
        """What no engine does for a request by ids, whichever it is."""
        options, want = request.options, request.want.what
        if request.pixels_I3SS is not None:
            self.refuse("images", "one", "texts")
        if request.adapter is not None:
            self.refuse("adapter", request.adapter, "none")
        if want in ("state", "logits"):
            self.refuse(f"embeddings ({want})" if want == "state" else want, "a text", "a request for an answer")
        if want == "logprobs" and not self.scores:
            self.refuse("scores of given texts", "a text", "a request for an answer")
        if request.want.others:
            self.refuse("several continuations", len(request.want.others) + 1, "one a request")
        if request.progress and not self.tells_progress:
            self.refuse("progress", "true", "false: it tells none")
        if request.traced:
            self.refuse("trace", "one", "none")
        if options.grammar is not None and not self.facts.grammars:
            got = f"{options.grammar.kind}, and it is not {self.guided}"
            self.refuse("a schema, grammar or forced call", got, "an engine that is")
        if options.grammar is not None and request.begun:
            self.refuse("a begun answer with a schema or grammar", "both", "one of them")
        if options.repetition_penalty != 1 and options.logit_bias:
            self.refuse("logit_bias", "it with a repetition_penalty", "one of them: it adds before it multiplies")


def is_greedy(options: SamplingOptions) -> bool:
    """Whether nothing is drawn: where no probability may be summed up, the likeliest alone is left."""
    return options.greedy or options.top_p == 0 or options.temperature < COLD


def pick(value: Any, kind: type | tuple[type, ...], target: Target, what: str) -> Any:
    """A value of a type, as JSON has it. Raises Broken for another one, true and false being no numbers."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        raise failure(Broken, target, f"sent an answer in which {what} is missing or of another type")
    return value


def ids_of(value: Any, target: Target, what: str) -> list[int]:
    """A list of ids. Raises Broken."""
    found: list[int] = pick(value, list, target, what)
    if any(type(i) is not int for i in found):
        raise failure(Broken, target, f"sent an answer in which {what} holds what is no id")
    return found


def ended(kind: Any, known: Mapping[str, Reason], target: Target, what: str) -> Reason:
    """Why an answer ended, in Herd's words. what: the field that told `kind`. Raises Broken for one that none knows."""
    if not isinstance(kind, str) or kind not in known:
        raise failure(Broken, target, f"ended its answer with {what} {str(kind)[:40]!r}")
    return known[kind]


def likeliest(found: Sequence[tuple[int, float]], top: int) -> tuple[tuple[int, float], ...]:
    """The `top` likeliest of ids with their log-probabilities, likeliest first, ties by id."""
    return tuple(sorted(found, key=lambda one: (-one[1], one[0]))[:top])
