"""The waist: text and images in, text out. The only door from people's words to token ids.

    with herd.load("smollm2") as model:
        print(model.chat("What is photosynthesis?").text)
        for event in model.stream("Tell me more.", temperature=0):
            ...

What it is not: a server, a command line, a policy. Options are the fields of `engine.request.SamplingOptions`.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from herd.chat_model import Capabilities, ChatModel, Sizes
from herd.checkpoint.opened import Checkpoint
from herd.config import Llama4Config
from herd.dialogs import Dialog, ImageLike, read_dialog
from herd.engine.defaults import LLAMA
from herd.engine.engine import MOST_WAITING, Engine
from herd.engine.executors.executor import Executor
from herd.engine.forks import Home
from herd.engine.request import MAX_LOGPROBS, Request, SamplingOptions, Want
from herd.engine.runner import ModelRunner
from herd.engine.score import nll_of, windows
from herd.errors import Busy, UsageError, fail
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    Counters,
    DoneEvent,
    Event,
    Likely,
    Logprob,
    Perplexity,
    Reply,
    Score,
    TextEvent,
)
from herd.grammar.masks import Grammars
from herd.lanes import computing
from herd.llm.answers import events
from herd.llm.capabilities import capabilities, sizes
from herd.llm.grammar_trials import GRAMMAR_BYTES, GRAMMAR_S, Trials
from herd.llm.load_options import PARALLEL, LoadOptions
from herd.llm.loading import PIECE, end_ids, open_same, read_model
from herd.llm.measuring import Measured, ameasured, measured
from herd.llm.options import CallOptions
from herd.llm.prepare import Requests, characters_of, check_length
from herd.llm.streams import AsyncStream, Prepared
from herd.messages import Message
from herd.ops.contract import LowRank
from herd.policies import Policy
from herd.progress import Progress, silent
from herd.text.chat import ChatFormat
from herd.text.tokenizer import StreamDecoder, Tokenizer
from herd.value_checks import flag, many, shown, whole
from herd.value_checks import text as check_text
from herd.weights import Model

__all__ = [
    "LLM",
    "AsyncStream",
    "CallArgumentsEvent",
    "CallEndEvent",
    "CallOptions",
    "CallStartEvent",
    "Dialog",
    "DoneEvent",
    "Event",
    "ImageLike",
    "Message",
    "Perplexity",
    "Policy",
    "Reply",
    "SamplingOptions",
    "Score",
    "TextEvent",
    "load",
]

TOGETHER = 64
"""Dialogs of one chat_many that are under way at once."""
STATE = Want(what="state", keep=False)
"""Of a text as a vector: nothing that is said begins with it, as a rule."""


def load(
    model: str | Path,
    *,
    context: int | Literal["auto"] | None = None,
    chat_format: str | None = None,
    threads: int | None = None,
    ops: Literal["auto", "native", "torch"] = "auto",
    kv: Literal["auto", "f32", "f16", "bf16", "int8", "int4"] = "auto",
    seed: int | None = None,
    force: bool = False,
    pack: bool = True,
    progress: Progress = silent,
    device: str = "cpu",
    parallel: int = PARALLEL,
    engine: Literal["thread", "child"] = "thread",
    queue: int = MOST_WAITING,
    grammar_s: float = GRAMMAR_S,
    grammar_bytes: int = GRAMMAR_BYTES,
) -> "LLM":
    """Load a model by name or path.

    context: tokens a sequence may have, prompt and answer; None: the model's own, at most 8192; auto: the most, up to
    the model's own, that fits in memory beside the weights (`herd.planning.context`). chat_format: a name of
    `herd.text.chat.FORMATS`, for a model whose own is unknown. threads: of the operations; None: one a processor. ops:
    what computes; auto is native. kv: numbers of the cache; auto: bf16 under native, f32 under torch. seed: of calls
    that give none. force: load even if it seems not to fit. pack: repack quantised files once into the store and map
    them from there, where the operations like another layout than the file's (`herd.store.auto_pack`). progress:
    told of that when it takes a while. device: cpu, or cuda (cuda:1, ...) through PyTorch, in bfloat16: quantised
    weights stay packed on the card and are decoded as operations want them; one that is not there raises UsageError.
    parallel: most answers at once; they share the cache, in which one fits with all of its context.
    engine: child computes in a process of its own: what crashes or is killed there ends requests with EngineDied here.
    queue: most requests that wait for a place; one more is refused with Busy.
    grammar_s, grammar_bytes: most seconds and memory that trying a schema or grammar of a request may take; what takes
    more is refused (`herd.llm.grammar_trials`).
    Raises NotFound, BadFile and its kinds, DoesNotFit, MissingExtra, UsageError.
    """
    options = LoadOptions(
        context=context,
        chat_format=chat_format,
        threads=threads,
        ops=ops,
        kv=kv,
        seed=seed,
        force=force,
        pack=pack,
        device=device,
        parallel=parallel,
        engine=engine,
        queue=queue,
        grammar_s=grammar_s,
        grammar_bytes=grammar_bytes,
    )
    return LLM(**vars(read_model(model, options, progress)))


class LLM:
    """A loaded model. Close it, or use it in `with`. Calls of several threads are answered together, fairly."""

    def __init__(
        self,
        config: Llama4Config,
        runner: ModelRunner | Executor,
        tokenizer: Tokenizer,
        chat: ChatFormat | UsageError,
        *,
        name: str = "model",
        path: Path | None = None,
        defaults: SamplingOptions = LLAMA,
        size_bytes: int = 0,
        load_s: float = 0.0,
        checkpoint: Checkpoint | None = None,
        parallel: int = PARALLEL,
        queue: int = MOST_WAITING,
        pack: bool = False,
        grammar_s: float = GRAMMAR_S,
        grammar_bytes: int = GRAMMAR_BYTES,
    ) -> None:
        """runner: the model, or the Executor that it runs in. chat: the format, or the error that a chat gets
        because none is known. checkpoint: the open files that the model is mapped from; each request looks first
        whether they are still what was loaded. parallel: most answers at once. queue: most requests that
        wait for a place; one client may have half of it. pack: see `update_weights`. grammar_s, grammar_bytes: see
        `load`, which makes an LLM as a rule.
        """
        self.config = config
        self.name = name
        self.path = path
        """The file or folder it was loaded from."""
        self.context = runner.context
        """Tokens a sequence may have."""
        self.tokenizer = tokenizer
        self.size_bytes = size_bytes
        """Of the weight files."""
        self.load_s = load_s
        self._checkpoint = checkpoint
        self._pack = pack
        self._changing = threading.Lock()
        self._home = Home()
        self._requests = Requests(config, tokenizer, chat, defaults, load_s, checkpoint)
        ends = end_ids(config, tokenizer, chat)
        self._trials = Trials(tokenizer, ends, seconds=grammar_s, memory_bytes=grammar_bytes)
        self._grammars = Grammars(tokenizer, ends, self._trials.judge)
        self._engine: Engine | None = Engine(
            runner,
            lambda: StreamDecoder(tokenizer),
            ends,
            piece=PIECE,
            places=parallel,
            most_waiting=queue,
            grammars=self._grammars,
            num_tokens=tokenizer.vocab_size,
        )

    @property
    def defaults(self) -> SamplingOptions:
        """What calls use where they say nothing."""
        return self._requests.defaults

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; of what every model of Herd can, images alone are a matter of the model."""
        return capabilities(self.config)

    @property
    def counters(self) -> Counters | None:
        """What has been computed so far; None once it is closed."""
        engine = self._engine
        return None if engine is None else engine.executor.counters

    @cached_property
    def sizes(self) -> Sizes:
        """What requests to it may take in memory."""
        return sizes(self.config, self.tokenizer)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """Ids of special tokens, but for the one that begins a text."""
        return frozenset(self.tokenizer.specials.values()) - {self.tokenizer.bos_id}

    @property
    def applies_policies(self) -> bool:
        """It does: before the first token, and on each piece of what is said."""
        return True

    def warm_up(self) -> None:
        """Build what requests need of the vocabulary now (a second for 200,000 tokens), so that none of them waits."""
        self._running()
        self._grammars.prepare()
        _ = self.sizes, self.control_ids

    @property
    def chat_format(self) -> str:
        """The name of the chat format; "none" when it is not known (then `complete` works, `chat` does not)."""
        chat = self._requests.chat
        return chat.name if isinstance(chat, ChatFormat) else "none"

    # -- a dialog ----------------------------------------------------------------------------------------------------

    def chat(self, messages: Dialog, **arguments: Any) -> Reply:
        """Answer a dialog. Arguments: see `stream`.

        Raises UsageError, ContextTooLong, BadMedia. Ctrl-C returns what was said, with finish_reason "interrupted".
        """
        n = arguments.get("n", 1)
        if type(n) is not int or n != 1:
            fail(UsageError, "n", got=shown(n), expected="1", do="use chat_samples for several answers")
        return _last(self.stream(messages, **arguments))

    def chat_samples(self, messages: Dialog, n: int, **arguments: Any) -> list[Reply]:
        """n answers to one dialog, whose prompt is computed once; answer i draws with seed + i."""
        found = {e.index: e.reply for e in self.stream(messages, n=n, **arguments) if isinstance(e, DoneEvent)}
        return [found[i] for i in sorted(found)]

    def stream(self, messages: Dialog, **arguments: Any) -> Iterator[Event]:
        """Answer a dialog piece by piece; an answer ends with a DoneEvent, events of several are told apart by index.

        Arguments are fields of `CallOptions` (tools, schema, n, ...) and of SamplingOptions. They are checked at the
        call, not at the first piece. Closing the iterator ends the request; Ctrl-C while it computes ends it with
        "interrupted".
        """
        return self._run(self._requests.dialog(self._running(), messages, arguments))

    def chat_many(self, dialogs: Sequence[Dialog], **arguments: Any) -> list[Reply]:
        """Answer several dialogs together; the replies in their order. Arguments as of `chat`, for all of them.

        Ctrl-C ends it: the list then ends with the interrupted reply. With `trace`, one after another: the file holds
        the last one's.
        """
        engine = self._running()
        many("dialogs", dialogs)
        most = TOGETHER if arguments.get("trace") is None else 1
        waiting = deque(dialogs)
        begun: deque[tuple[Prepared, Iterator[Event]]] = deque()
        replies: list[Reply] = []
        try:
            while waiting or begun:
                while waiting and len(begun) < most:
                    prepared = self._requests.dialog(engine, waiting[0], arguments)
                    refusal = prepared.refusal()  # now, not when its first event is read
                    prepared.refusal = _always(refusal)
                    try:
                        if refusal is None:
                            engine.start(prepared.samples[0].job)
                    except Busy:
                        if not begun:
                            raise
                        break  # when one of ours is done
                    begun.append((prepared, self._run(prepared)))
                    waiting.popleft()
                replies.append(_last(begun.popleft()[1]))
                if replies[-1].finish_reason == "interrupted":
                    break
        finally:
            for prepared, _ in begun:
                for sample in prepared.samples:
                    engine.cancel(sample.job)
        return replies

    async def achat(self, messages: Dialog, **arguments: Any) -> Reply:
        """`chat` for coroutines; cancelling the task ends the request."""
        return await _alast(self.astream(messages, **arguments))

    def astream(self, messages: Dialog, **arguments: Any) -> AsyncStream:
        """`stream` for coroutines: an asynchronous iterator that checks its arguments in `ready`. No thread waits for
        it, so thousands can be open; leaving it (`aclose`, cancelling the task) ends the request."""
        return self._astream(lambda engine: self._requests.dialog(engine, messages, arguments), arguments)

    # -- raw text ----------------------------------------------------------------------------------------------------

    def complete(self, prompt: str | Sequence[int], **arguments: Any) -> Reply:
        """Go on with a text, or with ids as they are; no chat format. Arguments: see `stream_complete`."""
        return _last(self.stream_complete(prompt, **arguments))

    def stream_complete(self, prompt: str | Sequence[int], **arguments: Any) -> Iterator[Event]:
        """As `complete`, piece by piece. Arguments: see `stream`; a policy sees the prompt as a user's turn."""
        return self._run(self._requests.text(self._running(), prompt, arguments))

    def astream_complete(self, prompt: str | Sequence[int], **arguments: Any) -> AsyncStream:
        """`stream_complete` for coroutines; see `astream`."""
        return self._astream(lambda engine: self._requests.text(engine, prompt, arguments), arguments)

    def tokenize(
        self,
        messages: Dialog,
        *,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
    ) -> list[int]:
        """Ids of a plain text, without specials; or of turns as `chat` would send them, with the open header of the
        answer. system, tools: of turns. fits: raise ContextTooLong, before anything is made tokens, for turns with too
        many characters to fit the context. Raises UsageError, for a lone surrogate too.
        """
        CallOptions(system=system, tools=tools)  # checks them
        flag("fits", fits)
        if isinstance(messages, str):
            if system is not None or tools is not None:
                fail(UsageError, "system or tools", got="them with a plain text", do='give [{"role": "user", ...}]')
            check_text("text", messages)
            return self.tokenizer.encode(messages)
        turns = read_dialog(messages, system=system, images=(), vision=self.config.vision)
        if fits:
            self._requests.check_dialog_fits(turns, tools or (), self.context)
        return self._requests.ids(turns, tools)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones spelt out. Raises UsageError for one that is none."""
        return self.tokenizer.decode(self._requests.given(ids, "ids"))

    def count(self, messages: Dialog, *, tools: Sequence[Mapping[str, Any]] | None = None, fits: bool = False) -> int:
        """Tokens of a plain text, or of turns as `chat` would send them. Arguments: see `tokenize`."""
        return len(self.tokenize(messages, tools=tools, fits=fits))

    # -- the model as a measure --------------------------------------------------------------------------------------

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[T, V], float32: after each id, the logits of the next. Raises UsageError, ContextTooLong."""
        given = self._requests.given(ids, "ids")
        (found,) = self._measured([given], Want(what="logits", keep=False), CallOptions())
        return found.rows()

    def perplexity(
        self, text: str | Sequence[int], *, context: int | None = None, stride: int | None = None
    ) -> Perplexity:
        """exp of the mean negative log-likelihood of a text of any length.

        Windows of `context` tokens (None: the model's) every `stride` (None: one after another); each scores the
        tokens that none before it scored. Where the vocabulary wants a first token, every window begins with it.
        """
        ids = self.tokenize(text) if isinstance(text, str) else self._requests.given(text, "text")
        width = self.context if context is None else context
        bos = self._requests.bos()
        cut = windows(ids, context=width, stride=stride, loaded=self.context, bos_id=bos[0] if bos else None)
        asked = CallOptions()
        wanted = (self._requests.measured(w, Want(what="logprobs", start=n, keep=False), asked) for w, n in cut)
        nll, scored, num_windows = 0.0, 0, 0
        for found in measured(self._running(), wanted):
            nll += nll_of(found.scores)
            scored += len(found.scores)
            num_windows += 1
        return Perplexity(float(np.exp(nll / scored)), nll / scored, scored, num_windows)

    def score(
        self,
        pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
        *,
        top: int = 0,
        client: str = "",
        tenant: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        adapter: str | None = None,
    ) -> list[Score]:
        """How likely each continuation is after its prompt: log-probabilities of its tokens, of (prompt, continuation).

        Two texts are made tokens together, and the continuation's are those beyond as many as the prompt has by itself
        without white space at its end, which goes with the continuation (the convention of lm-evaluation-harness). Ids
        are taken as they are, one after the other. Before a prompt that is a text stands the first token that the
        vocabulary wants, if it wants one; then the prompt may be empty. top: so many of the likeliest tokens at each
        place, up to 20. Prompts that begin alike are computed once, where the cache holds them. client, tenant,
        priority, timeout_s, adapter: see `CallOptions`; the time is each pair's. Raises UsageError, ContextTooLong,
        before anything is computed; Busy, TimedOut, NotFound (no such adapter).
        """
        asked, both = self._pairs(pairs, top, client, tenant, priority, timeout_s, adapter)
        found = measured(self._running(), self._scoring(both, top, asked))
        return [self._score(one) for one in found]

    async def ascore(
        self,
        pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
        *,
        top: int = 0,
        client: str = "",
        tenant: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        adapter: str | None = None,
    ) -> list[Score]:
        """`score` for coroutines; cancelling the task ends the requests."""
        engine = self._running()
        asked, both = await computing().run(
            tenant if isinstance(tenant, str) else "",
            lambda: self._pairs(pairs, top, client, tenant, priority, timeout_s, adapter),
        )
        scores = []
        async with aclosing(ameasured(engine, self._scoring(both, top, asked))) as run:
            async for found in run:
                scores.append(await computing().run(tenant, partial(self._score, found)))
        return scores

    def embed(
        self,
        texts: Sequence[str],
        *,
        client: str = "",
        tenant: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        adapter: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """[n, D] of unit length: of each text the mean of the last layer's states.

        A generative model's mean is a weak embedding beside a model trained for it. client, tenant, priority,
        timeout_s, adapter: see `CallOptions`; the time is each text's. Raises UsageError (an empty text),
        ContextTooLong, before anything is computed; Busy, TimedOut, NotFound (no such adapter).
        """
        asked = CallOptions(client=client, tenant=tenant, priority=priority, timeout_s=timeout_s, adapter=adapter)
        self._running()
        found = self._measured(self._embeddables(texts), STATE, asked)
        return self._vectors([one.rows() for one in found])

    async def aembed(
        self,
        texts: Sequence[str],
        *,
        client: str = "",
        tenant: str = "",
        priority: int = 0,
        timeout_s: float | None = None,
        adapter: str | None = None,
    ) -> npt.NDArray[np.float32]:
        """`embed` for coroutines; cancelling the task ends the requests."""
        asked = CallOptions(client=client, tenant=tenant, priority=priority, timeout_s=timeout_s, adapter=adapter)
        engine = self._running()
        ids = await computing().run(tenant, lambda: self._embeddables(texts), characters_of(texts))
        requests = (self._requests.measured(one, STATE, asked) for one in ids)
        async with aclosing(ameasured(engine, requests)) as run:
            return self._vectors([found.rows() async for found in run])

    def embed_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` takes for these texts. Raises what that raises before anything is computed."""
        return sum(map(len, self._embeddables(texts)))

    def _measured(self, prompts: Sequence[Sequence[int]], want: Want, asked: CallOptions) -> Iterator[Measured]:
        """What comes of each prompt, in order."""
        return measured(self._running(), (self._requests.measured(ids, want, asked) for ids in prompts))

    def _pairs(
        self, pairs: Any, top: Any, client: Any, tenant: Any, priority: Any, timeout_s: Any, adapter: Any
    ) -> tuple[CallOptions, list[tuple[list[int], int]]]:
        """Arguments of `score`, checked: whose it is, and of each pair all ids and where its continuation begins."""
        self._running()
        asked = CallOptions(client=client, tenant=tenant, priority=priority, timeout_s=timeout_s, adapter=adapter)
        whole("top", top, 0, MAX_LOGPROBS)
        return asked, [self._requests.pair(x, self.context, f"pairs[{i}]") for i, x in enumerate(many("pairs", pairs))]

    def _scoring(self, both: Sequence[tuple[list[int], int]], top: int, asked: CallOptions) -> Iterator[Request]:
        for ids, start in both:
            yield self._requests.measured(ids, Want(what="logprobs", start=start, top=top), asked)

    def _score(self, found: Measured) -> Score:
        spell = self._requests.spell
        tokens = tuple(
            Logprob(x.token_id, spell(x.token_id), x.logprob, tuple(Likely(i, spell(i), p) for i, p in x.top))
            for x in found.scores
        )
        return Score(tokens, all(x.is_greedy for x in found.scores), found.usage)

    def _vectors(self, rows: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        return np.concatenate(rows) if rows else np.zeros((0, self.config.width), np.float32)

    def _embeddables(self, texts: Sequence[str]) -> list[list[int]]:
        for i, text in enumerate(many("texts", texts)):
            self._requests.check_fits(text, self.context, f"texts[{i}]")
        return [self._embeddable(texts, i) for i in range(len(texts))]

    def _embeddable(self, texts: Sequence[str], i: int) -> list[int]:
        text = texts[i]
        if not isinstance(text, str) or not text:
            got = "an empty text" if text == "" else type(text).__name__
            fail(UsageError, f"texts[{i}]", got=got, expected="a text with something in it")
        ids = [*self._requests.bos(), *self.tokenize(text)]
        check_length(ids, self.context, f"texts[{i}]")
        return ids

    @property
    def alive(self) -> bool:
        """Whether it still answers: not closed, and what computes has not died."""
        return self._engine is not None and self._home.is_here and self._engine.executor.over is None

    # -- other weights -----------------------------------------------------------------------------------------------

    def add_adapter(self, name: str, tensors: Mapping[str, LowRank]) -> None:
        """Let calls say `adapter=name`: low-rank terms (LoRA) beside the model's weights, whoever shares a pass with
        them. One of this name is replaced; calls under way with it end with it.

        tensors: by the canonical name of any matrix or expert stack of the text layers
        ("model.layers.0.self_attn.q_proj"); they are copied, in float32. Raises UsageError naming what is wrong,
        DoesNotFit over a bound (64 adapters, 2 GiB together), EngineDied: nothing has changed then.
        """
        self._running().executor.add_adapter(name, tensors)

    def drop_adapter(self, name: str) -> None:
        """Let calls say `adapter=name` no more; those under way end with it. Raises NotFound, EngineDied."""
        self._running().executor.drop_adapter(name)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names that calls may give as `adapter`."""
        return tuple(self._running().executor.adapters)

    def update_weights(self, weights: str | Path | Model) -> None:
        """Go on with other weights of the same model, from the next pass on: all of them or, on an error, none.

        weights: a name or path, opened as `load` does (repacked where that one did); or, where the model computes in
        this process, a tree of `herd.weights` with the names, shapes, kinds and number formats of the loaded one. A
        tree's arrays are not copied where they need not be: leave them alone afterwards. Both sets of weights are in
        memory for a moment. Requests under way keep what they said, and go on with the new weights; the cache is empty
        then. Returns when it is done.
        Raises UsageError naming the first thing that differs, NotFound, BadFile and its kinds, EngineDied.
        """
        with self._changing:
            if isinstance(weights, str | Path):
                self._update_from(weights)
            elif isinstance(weights, Model):
                self._running().executor.update_weights(weights)
            else:
                fail(UsageError, "new weights", got=type(weights).__name__, expected="a path or a tree of weights")

    def _update_from(self, path: str | Path) -> None:
        executor = self._running().executor
        checkpoint = open_same(path, self.config, self._pack)
        try:
            if executor.remote:
                executor.update_weights(checkpoint.path)
            else:
                executor.update_weights(checkpoint.load(), checkpoint.check_readable)
        except BaseException:
            checkpoint.close()
            raise
        old, self._checkpoint = self._checkpoint, checkpoint
        self._requests = replace(self._requests, checkpoint=checkpoint)
        self.path, self.size_bytes = checkpoint.path, checkpoint.size_bytes
        if old is not None:
            old.close()

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back memory; calls after this are refused, streams under way fail with EngineDied. In a fork of the
        process that loaded it there is nothing to give back."""
        if not self._home.is_here:
            return
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self._trials.close()
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None

    def __enter__(self) -> "LLM":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> Engine:
        if self._engine is None:
            fail(UsageError, f"{self.name} is closed", do="load it again")
        self._home.check()
        return self._engine

    def _astream(self, prepare: Callable[[Engine], Prepared], arguments: Mapping[str, Any]) -> AsyncStream:
        owner = arguments.get("tenant", "")
        return AsyncStream(
            self._running(), lambda: prepare(self._running()), owner=owner if isinstance(owner, str) else ""
        )

    def _run(self, prepared: Prepared) -> Iterator[Event]:
        try:
            yield from events(self._running(), prepared.samples, prepared.refusal)
        finally:
            prepared.close()


def _always(answer: str | None) -> Callable[[], str | None]:
    return lambda: answer


async def _alast(stream: AsyncStream) -> Reply:
    try:
        async for event in stream:
            if isinstance(event, DoneEvent):
                return event.reply
    finally:
        await stream.aclose()
    raise AssertionError("a stream ended without its DoneEvent")


def _last(stream: Iterator[Event]) -> Reply:
    for event in stream:
        if isinstance(event, DoneEvent):
            return event.reply
    raise AssertionError("a stream ended without its DoneEvent")


if TYPE_CHECKING:

    def _is_a_chat_model(model: LLM) -> ChatModel:
        return model
