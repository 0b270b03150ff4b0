"""A model that answers, wherever it runs: all that a service, an evaluation or a library of documents asks of one.

    ChatModel      answers dialogs as streams of events, and says what else it can do
    Capabilities   what that is
    ChatStream     the events of one request

`herd.llm.LLM` is one. Whoever writes another one derives it from ChatModel, gives it a name, a context and
capabilities, and defines `astream`; what it does not define raises Unsupported. `herd.event_stream` makes streams. What
it is not: an engine, a policy.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NoReturn, Protocol, TypeAlias, Unpack

import numpy as np
import numpy.typing as npt

from herd.errors import NoVision, Unsupported, fail
from herd.events import Counters, DoneEvent, Event, Reply, Score
from herd.lanes import waiting
from herd.messages import Message
from herd.request_options import DialogRequest, ScoreRequest, TextRequest, Whose

Turns: TypeAlias = Sequence[Message | Mapping[str, Any]]
"""A dialog: messages, or objects with role and content (`herd.dialogs`), whose images are bytes."""
Pair: TypeAlias = tuple[str | Sequence[int], str | Sequence[int]]
"""A prompt and its continuation, as texts or ids."""
ID_BYTES = 48
"""Bytes in memory of one id of a prompt: a number, and its places in lists (measured: 44 with ids above 256)."""


@dataclass(frozen=True)
class Capabilities:
    """What a model can do beside answering dialogs of texts."""

    completion: bool = False
    """Go on with a text, without a chat format."""
    images: bool = False
    """Take images in a dialog."""
    tools: bool = False
    """Call tools."""
    begun: bool = False
    """Go on with an answer that is begun: the last turn of a dialog, where that is the assistant's."""
    template: bool = False
    """Write dialogs by a chat template that may be told more than the dialog (`chat_template_kwargs`)."""
    schemas: bool = False
    """Keep to a JSON schema."""
    logprobs: bool = False
    """Tell log-probabilities of the tokens that it says."""
    ids: bool = False
    """Take and tell token ids: prompts as ids, `tokenize`, `detokenize`, bias and stops by id."""
    scores: bool = False
    """Tell log-probabilities of texts that it is given."""
    embeddings: bool = False
    """Make vectors of texts."""

    def to_dict(self) -> dict[str, bool]:
        """Each capability by its name."""
        return asdict(self)

    def require(self, name: str, capability: str) -> None:
        """Raise Unsupported where the model of that name lacks this one; NoVision for images."""
        if not getattr(self, capability):
            refuse(name, capability)


WHOSE = ("client", "tenant", "priority", "leave")
"""Options that say whose a request is, and how far it may go."""
SILENT: Mapping[str, Any] = {
    "n": 1,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "schema": False,
    "progress": False,
    "continue_final_message": True,
}
"""Values of options that ask for nothing; None asks for nothing in any of them."""
CANNOT: Mapping[str, str] = {
    "completion": "go on with a text outside of a dialog",
    "images": "take images",
    "tools": "call tools",
    "begun": "go on with a begun answer",
    "template": "tell a chat template more than the dialog",
    "schemas": "keep to a schema",
    "logprobs": "tell log-probabilities",
    "ids": "take or tell token ids",
    "scores": "score given texts",
    "embeddings": "embed texts",
}
"""What a model that lacks a capability is said to be unable to do."""
assert CANNOT.keys() == {one.name for one in fields(Capabilities)}


@dataclass(frozen=True)
class Sizes:
    """How much of a request may lie in the memory of whoever asks a model; a service counts it before the work."""

    token_bytes: int | None = None
    """The most bytes of text that one id of a prompt stands for, so that the context bounds a prompt; None: nothing
    does, the text itself is sent."""
    spelt_bytes: int = 16
    """The most bytes that one id spells in `detokenize`."""
    image_bytes: int = 0
    """The most bytes that one image takes while it is prepared, beside its own."""
    vector_size: int = 0
    """Numbers of the vector of a text."""


class ChatStream(Protocol):
    """Events of one request, each answer's last one a DoneEvent. Close it, or read it to its end. On one event loop.

    A service sets `size_bytes` and `hold`, then calls `prepare`, then `ready`; a mere reader iterates.
    """

    size_bytes: int
    """About how many bytes there are to prepare; large requests of an owner are prepared one at a time."""
    hold: Callable[[int], None]
    """Asked for room for so many bytes before something that was made is kept. What it raises ends the request."""
    has_spare: bool
    """Whether another model is asked where this one cannot answer: then nothing is tried twice."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt, once it is prepared; where only the answer tells them: 0 until then."""

    @property
    def most_tokens(self) -> int:
        """The most tokens that its answers may take together, once it is prepared; 0: it does not say."""

    @property
    def made_tokens(self) -> int:
        """Tokens of its answers that have come so far, read or not."""

    @property
    def unread_bytes(self) -> int:
        """Bytes of events that have come and that nobody has read."""

    @property
    def asked_bytes(self) -> int:
        """Bytes that its prompt keeps in memory until its end, once it is prepared."""

    @property
    def shown(self) -> str | None:
        """What a policy let the model see of a prompt that is a text or ids; None: all of it. Once it is prepared."""

    @property
    def answered_by(self) -> str:
        """The backend that answers, once `ready` has returned; "": a model of this process, or nobody."""

    async def prepare(self) -> None:
        """Check it and make what can be made of it beforehand; nothing has begun. Raises what is wrong with it."""

    async def ready(self) -> None:
        """Begin it. What it raises, a service can still answer with a status instead of a stream."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Itself."""

    async def __anext__(self) -> Event:
        """The next event. Raises what the request failed with, a HerdError; it is closed then."""

    async def aclose(self) -> None:
        """End it, if it has not ended; at any time, also while somebody waits for an event."""


class ChatModel(Protocol):
    """A model that answers. Derive from it: what a class does not define raises Unsupported.

    Methods that are not coroutines may take as long as they need: an event loop has a thread call them.
    """

    name: str
    """What it is called."""
    context: int
    """Tokens that prompt and answer may have together."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. Whoever asks looks here first, and what is missing is never asked for in silence."""
        return Capabilities()

    @property
    def sizes(self) -> Sizes:
        """What requests to it may take in memory here."""
        return Sizes()

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of tokens that no text of a user may become, but for the one that begins a text."""
        return frozenset()

    @property
    def image_ids(self) -> frozenset[int]:
        """The control ids that stand for images, which nobody may write."""
        return frozenset()

    @property
    def applies_policies(self) -> bool:
        """Whether `astream` and `astream_complete` apply the `policy` that they are given, before and after. Where they
        do not, a service does, and gives them none."""
        return False

    @property
    def tells_progress(self) -> bool:
        """Whether `astream` and `astream_complete` take `progress`, and their streams then begin with ProgressEvents.
        Where they do not, a service does not ask for it."""
        return False

    @property
    def tells_tools(self) -> bool:
        """Whether the model is told which tools a dialog has. Where it is not, a service says so."""
        return True

    @property
    def alive(self) -> bool:
        """Whether it still answers; one that does not is closed and loaded again."""
        return True

    @property
    def counters(self) -> Counters | None:
        """What has been computed for it so far, told without a wait; None: it does not know."""
        return None

    def warm_up(self) -> None:
        """Do now what the first request would wait for."""

    def close(self) -> None:
        """Give back what it holds; what is under way fails."""

    @abstractmethod
    def astream(self, messages: Turns, **options: Unpack[DialogRequest]) -> ChatStream:
        """Answer a dialog. options: those of DialogRequest; and `policy`, where the model applies policies
        (`applies_policies`). None is left out in silence: what cannot be honoured raises Unsupported, here or in the
        stream's `prepare` or `ready`."""

    async def achat(self, messages: Turns, **options: Unpack[DialogRequest]) -> Reply:
        """The whole answer to a dialog. Options: see `astream`."""
        stream = self.astream(messages, **options)
        try:
            async for event in stream:
                if isinstance(event, DoneEvent):
                    return event.reply
        finally:
            await stream.aclose()
        raise AssertionError("a stream ended without its DoneEvent")

    def astream_complete(self, prompt: str | Sequence[int], **options: Unpack[TextRequest]) -> ChatStream:
        """Go on with a text, or with ids, without a chat format. Options: see `astream`, none about tools; raw: control
        tokens that a text spells become those tokens."""
        refuse(self.name, "completion")

    def tokenize(
        self,
        messages: str | Turns,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
        raw: bool = False,
    ) -> list[int]:
        """Ids of a plain text, without control tokens (raw: with those that it spells); or of turns, as `astream` would
        send them with these options. fits: raise ContextTooLong for turns that are far too long for the context, before
        they are made tokens to their end."""
        refuse(self.name, "ids")

    def spellings(self, text: str, *, raw: bool = False) -> Sequence[str]:
        """Control tokens that a text spells and that stay text where it is a prompt, in order; raw: of one that is
        asked for with `raw`. A model that makes no tokens of spellings knows none."""
        return ()

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens spelt out."""
        refuse(self.name, "ids")

    def count(
        self,
        messages: str | Turns,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
    ) -> int:
        """Tokens of what `tokenize` would give; a model may know these without the ids."""
        return len(self.tokenize(messages, tools=tools, fits=fits, continue_final_message=continue_final_message))

    def score(self, pairs: Sequence[Pair], **options: Unpack[ScoreRequest]) -> list[Score]:
        """How likely each continuation is after its prompt, of (prompt, continuation), texts or ids. Options: `top`, so
        many of the likeliest tokens at each place, none unless said; whose it is, as of `astream`."""
        refuse(self.name, "scores")

    async def ascore(self, pairs: Sequence[Pair], **options: Unpack[ScoreRequest]) -> list[Score]:
        """`score` for coroutines; unless a class has its own, a thread calls `score`."""
        return await waiting().run(options.get("tenant", ""), lambda: self.score(pairs, **options))

    def embed(self, texts: Sequence[str], **options: Unpack[Whose]) -> npt.NDArray[np.float32]:
        """[n, D]: a vector of unit length of each text. Options: whose it is, as of `astream`."""
        refuse(self.name, "embeddings")

    async def aembed(self, texts: Sequence[str], **options: Unpack[Whose]) -> npt.NDArray[np.float32]:
        """`embed` for coroutines; unless a class has its own, a thread calls `embed`."""
        return await waiting().run(options.get("tenant", ""), lambda: self.embed(texts, **options))

    def embed_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` takes for these texts. Raises what that raises before anything is computed."""
        refuse(self.name, "embeddings")


def only(name: str, options: Mapping[str, Any], *honoured: str) -> dict[str, Any]:
    """Options of a request that say something, for a model of that name that honours these alone. Raises Unsupported
    naming another one. Whose a request is, and whether it may leave the house, is no matter of the answer."""
    said = {
        option: value
        for option, value in options.items()
        if value is not None and option not in WHOSE and value != SILENT.get(option)
    }
    for option in said:
        if option not in honoured:
            fail(Unsupported, f"{name} has no option {option}", do="leave it out, or choose a model that has it")
    return said


def refuse(name: str, capability: str) -> NoReturn:
    """Raise Unsupported, for a model of that name that lacks a capability; NoVision for images."""
    error = NoVision if capability == "images" else Unsupported
    fail(error, f"{name} cannot {CANNOT[capability]}", do="choose a model that can")
