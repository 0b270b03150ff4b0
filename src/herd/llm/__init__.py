"""The waist: text and images in, text out. The only door from people's words to token ids.

    with herd.load("smollm2") as model:
        print(model.chat("What is photosynthesis?").text)
        for event in model.stream("Tell me more.", temperature=0):
            ...

What it is not: a server, a command line, a policy. Options are `herd.llm.keywords.ChatOptions`; `help(LLM.chat)` names
them.
"""

from __future__ import annotations  # help() shows annotations as they are written here

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from herd.backends.names import may_name
from herd.chat_model import Capabilities, ChatModel, Pair, Sizes
from herd.checkpoint.opened import Checkpoint
from herd.config import Llama4Config, is_dense_llama
from herd.dialogs import Dialog, ImageLike, begun_in, read_dialog
from herd.engine.defaults import LLAMA
from herd.engine.engine import MOST_WAITING, Engine
from herd.engine.executors.executor import Executor
from herd.engine.forks import OwnerProcess
from herd.engine.request import MAX_LOGPROBS, Request, SamplingOptions, Want
from herd.engine.runner import ModelRunner
from herd.engine.score import nll_of, windows
from herd.errors import HerdError, UsageError, fail
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    Counters,
    DoneEvent,
    Event,
    Perplexity,
    ProgressEvent,
    Reply,
    Score,
    TextEvent,
)
from herd.grammar.masks import Grammars
from herd.lanes import computing
from herd.llm.capabilities import capabilities, sizes
from herd.llm.continuations import Group, grouped
from herd.llm.function_tools import ToolLike
from herd.llm.grammar_trials import GRAMMAR_BYTES, GRAMMAR_S, Trials
from herd.llm.keywords import ChatOptions, CompleteOptions, EmbedOptions, LoadKeywords, SamplesOptions, ScoreOptions
from herd.llm.load_options import PARALLEL, LoadOptions
from herd.llm.loading import PIECE, Opened, end_ids, open_same, read_model, words_of
from herd.llm.measuring import Measured, ameasured, measured
from herd.llm.options import CallOptions, check_names, for_each, one_answer, whole_answers
from herd.llm.prepare import Many, Requests, characters_of, check_dialog, check_length, check_prompt
from herd.llm.replies import aanswer_all, alast, answer_all, at_once, last, run, settled
from herd.llm.streams import AsyncStream, Prepared
from herd.messages import Message
from herd.ops.contract import LowRank
from herd.policies import Policy
from herd.progress import silent
from herd.text.chat import TEMPLATE, ChatFormat
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer
from herd.value_checks import flag, known, many, whole
from herd.value_checks import text as check_text
from herd.weights import Model, count

__all__ = [
    "LLM",
    "AsyncStream",
    "CallArgumentsEvent",
    "CallEndEvent",
    "CallStartEvent",
    "ChatOptions",
    "CompleteOptions",
    "Dialog",
    "DoneEvent",
    "EmbedOptions",
    "Event",
    "ImageLike",
    "LoadKeywords",
    "LoadOptions",
    "Message",
    "Perplexity",
    "Policy",
    "ProgressEvent",
    "Reply",
    "SamplingOptions",
    "Score",
    "ScoreOptions",
    "TextEvent",
    "load",
]

STATE = Want(what="state", keep=False)
"""What a text as a vector wants. It is not kept: nothing that is said begins with it, as a rule."""


def load(model: str | Path, **options: Unpack[LoadKeywords]) -> LLM:
    """Load a model by name or path; or a backend that is asked by token ids, `backend:NAME`: its tokenizer lies here,
    another engine computes. Of one that is asked by chat no LLM comes: `herd.backend(NAME)` gives what can be asked of
    it.

    Raises NotFound, BadFile and its kinds, DoesNotFit, MissingExtra, UsageError; where another engine computes, errors
    of `herd.backends.failures`.

    Options, with what they are unless said:

        context         None. Tokens a sequence may have, prompt and answer. None: the model's own, at most 8192;
                        "auto": the most, up to the model's own, that fits in memory beside the weights
        chat_format     None. A name of `herd.text.chat.FORMATS`, or "template": the model's own; None: as
                        `herd.text.chat` chooses
        threads         None. Of the operations; None: one a processor
        ops             "auto". What computes: "native" (auto), "torch"
        kv              "auto". Numbers of the cache: "f32", "f16", "bf16", "int8", "int4"; auto: bf16 under native, f32
                        under torch
        seed            None. Of calls that give none; None: a fresh one each
        force           False. Load even if it seems not to fit
        pack            True. Repack quantised files once into the store and map them from there, where the operations
                        like another layout than the file's (`herd.store.auto_pack`)
        mmproj          None. The file with the vision part of a GGUF model; None: the one beside it that belongs to it,
                        of several F16, BF16, F32 in this order
        progress        Told of what takes a while: called with stage, done and total
        check           Called with `herd.llm.loading.Opened` (config, tokenizer, context) before anything is packed or
                        loaded; what it raises ends the load
        device          "cpu". Or "cuda" ("cuda:1", ...) through PyTorch, in bfloat16: quantised weights stay packed on
                        the card and are decoded as operations want them; one that is not there raises UsageError
        parallel        8. Most answers at once; they share the cache, in which one fits with all of its context
        engine          "thread". "child" computes in a process of its own: what crashes or is killed there ends
                        requests with EngineDied here
        queue           1024. Most requests that wait for a place; one more is refused with Busy
        grammar_s,      2 and 256 MiB. Most seconds and bytes of memory that trying a schema or grammar of a request may
        grammar_bytes   take; what takes more is refused (`herd.llm.grammar_trials`)
    """
    found = _backend_of(model) if isinstance(model, str) else None
    fields: dict[str, Any] = {**options}
    known("option of load", fields, LoadKeywords.__annotations__)
    progress = fields.pop("progress", silent)
    check = fields.pop("check", None)
    if found is not None:
        return _by_ids(found, LoadOptions(**fields), check, asks=True)
    return LLM(**vars(read_model(model, LoadOptions(**fields), progress, check)))


def backend(name: str, *, leave: bool = False) -> Remote:
    """The model of a backend or a route of this machine, whatever it is asked by: see `herd.backends.remote.backend`.
    Raises what that and `load` raise."""
    from herd.backends.remote import backend as made

    return made(name, leave=leave, by_ids=by_ids)


def by_ids(name: str, *, asks: bool | None = None) -> LLM:
    """The model of a backend that is asked by token ids. asks: whether the other engine is asked what it is now; None:
    it is, and where it is away, what it told when it was added holds. Raises what `load` raises."""
    return _by_ids(name, LoadOptions(), asks=asks)


def _by_ids(
    name: str, options: LoadOptions, check: Callable[[Opened], None] | None = None, *, asks: bool | None
) -> LLM:
    from herd.llm.ids_loading import read_by_ids

    return LLM(**vars(read_by_ids(name, options, check, asks=asks)))


def _backend_of(name: str) -> str | None:
    """The name of the backend by token ids that a name stands for; None: it is a model of files. Raises UsageError for
    another backend, NotFound for one that is not there."""
    if not may_name(name):
        return None
    from herd.backends.routes import chosen
    from herd.backends.settings import Backends

    found = chosen(name)
    if found is None:
        return None
    backends = Backends().read().good
    if not found[1] and found[0] in backends and backends[found[0]].by == "ids":
        return found[0]
    return fail(UsageError, "load", got=f"{name}, a backend", expected="a model of files", do="use herd.backend")


def _in_order(groups: Iterable[list[tuple[int, Score]]]) -> list[Score]:
    """Scores in the order of their places."""
    return [score for _, score in sorted((one for group in groups for one in group), key=lambda one: one[0])]


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
        ops: str = "",
    ) -> None:
        """runner: the model, or the Executor that it runs in. chat: the format, or the error that a chat gets
        because none is known. checkpoint: the open files that the model is mapped from; each request looks first
        whether they are still what was loaded. parallel: most answers at once. queue: most requests that
        wait for a place; one client may have half of it. pack: see `update_weights`. grammar_s, grammar_bytes: see
        `load`, which makes an LLM as a rule. ops: what computes, by name.
        """
        tokenizer = words_of(tokenizer, chat)
        self.config = config
        self.name = name
        self.path = path
        """The file or folder it was loaded from."""
        self.context = runner.context
        """Tokens a sequence may have."""
        self.tokenizer = tokenizer
        self.size_bytes = size_bytes
        """Bytes of the weight files."""
        self.ops = ops
        """What computes, by name; empty where nobody said."""
        self.load_s = load_s
        self._checkpoint = checkpoint
        self._pack = pack
        self._changing = threading.Lock()
        self._home = OwnerProcess()
        self._lacks = runner.lacks if isinstance(runner, Executor) else frozenset[str]()
        self._tells_progress = runner.tells_progress if isinstance(runner, Executor) else True
        self._answered_by = name if isinstance(runner, Executor) and runner.elsewhere else ""
        self._requests = Requests(config, tokenizer, chat, defaults, load_s, checkpoint)
        ends = end_ids(config, tokenizer, chat)
        self._trials = Trials(tokenizer, ends, seconds=grammar_s, memory_bytes=grammar_bytes)
        self._grammars = Grammars(tokenizer.for_grammar(), ends, self._trials.judge)
        self._engine: Engine | None = Engine(
            runner,
            lambda: StreamDecoder(tokenizer, begins=False),
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
        found = capabilities(self.config, template=self.chat_format == TEMPLATE)
        return replace(found, **dict.fromkeys(self._lacks, False))

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
        """Ids of control tokens, but for the one that begins a text."""
        return self.tokenizer.control_ids - {self.tokenizer.bos_id}

    @property
    def image_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for images."""
        return self.tokenizer.image_ids

    @property
    def applies_policies(self) -> bool:
        """It does: before the first token, and on each piece of what is said."""
        return True

    @property
    def tells_progress(self) -> bool:
        """It does, pass by pass; where another engine computes, as far as that tells it."""
        return self._tells_progress

    @property
    def tells_tools(self) -> bool:
        """Whether the model is told which tools a dialog has; its own chat template may leave them out."""
        chat = self._requests.chat
        return isinstance(chat, UsageError) or chat.tells_tools

    def warm_up(self) -> None:
        """Build what requests need of the vocabulary now (a second for 200,000 tokens), so that none of them waits."""
        self._running()
        self._grammars.prepare()
        _ = self.sizes, self.control_ids

    @property
    def chat_format(self) -> str:
        """The name of the chat format, "template" for the model's own; "none" when it is not known (then `complete`
        works, `chat` does not)."""
        chat = self._requests.chat
        return chat.name if isinstance(chat, ChatFormat) else "none"

    @property
    def chat_note(self) -> str:
        """Why that is not what the model's file asks for; empty as a rule."""
        chat = self._requests.chat
        return chat.note if isinstance(chat, ChatFormat) else str(chat)

    # -- a dialog ----------------------------------------------------------------------------------------------------

    def chat(self, messages: Dialog, **options: Unpack[ChatOptions]) -> Reply:
        """Answer a dialog: a user's text, or turns (`herd.Message`, or what OpenAI's and Ollama's clients hold).

        Raises UsageError (a wrong option, too: before anything is computed), ContextTooLong, BadMedia, NotFound (an
        image, an adapter), Busy, TimedOut, whose `text` is what was said by then, DoesNotFit, PassFailed, EngineDied.
        Ctrl-C returns what was said, with finish_reason "interrupted".

        What the dialog is, and what the answer must be:

            system               a text before everything, where the dialog has no system turn
            images               `pathlib.Path`s, bytes or pixels, shown before the text of the last user turn
            tools                Python functions with hints (`herd.llm.function_tools`); or definitions with name,
                                 description and parameters (a JSON schema), or OpenAI's form of them
            tool_choice          "auto", "none" (shown, but calls stay text), "required", or the name of one tool
            parallel_tool_calls  whether one answer may hold several calls; True unless said
            continue_final_message  whether a last turn of the assistant's is begun, and gone on with: the reply holds
                                 what is new; True unless said
            chat_template_kwargs  {name: text, number or flag} for the model's own chat template ("enable_thinking"); a
                                 format that is no template has no use for it
            schema               True for any JSON object, a JSON schema, or a type that has one (`Reply.parsed`)
            grammar              what the text must be: "json", "schema:...", "lark:...", "regex:..."
            n                    answers to one prompt (`stream`, `astream`); see `chat_samples`
            progress             whether a stream begins with ProgressEvents: how much of the prompt is read

        How tokens are chosen, and when to stop (`herd.SamplingOptions` has limits; unless said, as the model's makers
        advise: `LLM.defaults`):

            temperature          0 is greedy, exactly
            top_k                keep the k likeliest; 0: all
            top_p                keep the likeliest whose probabilities reach this sum
            min_p                keep those at least this fraction as likely as the likeliest
            repetition_penalty   of seen tokens: 1 is none
            repetition_window    how many last tokens that looks at; 0: all
            presence_penalty     taken off every token that is in the answer
            frequency_penalty    taken off once per occurrence in the answer
            logit_bias           {token id: added to its logit}
            seed                 the same seed, prompt and options draw the same tokens
            max_tokens           None: up to the end of the context
            stop                 a text, or up to 16; the answer ends before the first one
            stop_ids             further ids that end it
            logprobs             None; 0: of each chosen token; n to 20: of the n likeliest, too
            ignore_eos           go on when the model ends its turn (benchmarks)
            speculate            "auto": guess several tokens a pass where that is faster; "off"

        Whose it is, and how long it may take:

            client               clients share the engine fairly
            tenant               cached prompts are shared within it only
            priority             higher goes first
            timeout_s            seconds after which it fails with TimedOut
            adapter              the name of one that answers (`add_adapter`)
            ceiling              most tokens of prompt and answer together
            leave                whether it may leave the house; nothing here sends it anywhere (`herd.backends`)
            policy               checks what goes in and what comes out (`herd.safety`)
            trace                a file that gets the routing, as JSON lines
        """
        one_answer(options)
        return last(self.stream(messages, **options))

    def chat_samples(self, messages: Dialog, n: int, **options: Unpack[SamplesOptions]) -> list[Reply]:
        """n answers to one dialog, whose prompt is computed once; answer i draws with seed + i. Options: see `chat`."""
        whole_answers(options)
        found = {e.index: e.reply for e in self.stream(messages, n=n, **options) if isinstance(e, DoneEvent)}
        return [found[i] for i in sorted(found)]

    def stream(self, messages: Dialog, **options: Unpack[ChatOptions]) -> Iterator[Event]:
        """Answer a dialog piece by piece; an answer ends with a DoneEvent, events of several are told apart by index.

        Options: see `chat`. They are checked at the call, not at the first piece. Closing the iterator ends the
        request; Ctrl-C while it computes ends it with "interrupted".
        """
        engine = self._running()
        return run(engine, self._requests.dialog(engine, messages, options))

    @overload
    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> list[Reply]: ...
    @overload
    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: bool,
        **options: Unpack[ChatOptions],
    ) -> list[Reply | HerdError]: ...

    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: bool = False,
        **options: Unpack[ChatOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """Answer several dialogs together; the replies in their order. Options as of `chat`, for all of them.

        per_dialog: further options of each dialog, laid over those of all: [{"seed": 1}, {"max_tokens": 5}, {}].
        Waits where the queue is full, and all run to their end. Then, if any failed, raises SomeFailed, whose `replies`
        has in their order a Reply, or the error, of each; return_errors: gives that list instead. Options are checked
        before anything is computed, and raise UsageError; a schema or grammar that cannot be enforced fails with its
        request. Ctrl-C ends it: the list then ends with the interrupted reply. With `trace`, one after another: the
        file holds the last one's.
        """
        return self._answer_all(self._of_dialogs(dialogs), per_dialog, return_errors, options)

    @overload
    async def achat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[ChatOptions],
    ) -> list[Reply]: ...
    @overload
    async def achat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: bool,
        **options: Unpack[ChatOptions],
    ) -> list[Reply | HerdError]: ...

    async def achat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        per_dialog: Sequence[ChatOptions] | None = None,
        return_errors: bool = False,
        **options: Unpack[ChatOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """`chat_many` for coroutines; cancelling the task ends the requests."""
        return await self._aanswer_all(self._of_dialogs(dialogs), per_dialog, return_errors, options)

    async def achat(self, messages: Dialog, **options: Unpack[ChatOptions]) -> Reply:
        """`chat` for coroutines; cancelling the task ends the request."""
        one_answer(options)
        return await alast(self.astream(messages, **options))

    def astream(self, messages: Dialog, **options: Unpack[ChatOptions]) -> AsyncStream:
        """`stream` for coroutines: an asynchronous iterator that checks its arguments in `ready`. No thread waits for
        it, so thousands can be open; leaving it (`aclose`, cancelling the task) ends the request."""
        return self._astream(lambda engine: self._requests.dialog(engine, messages, options), options)

    # -- raw text ----------------------------------------------------------------------------------------------------

    def complete(self, prompt: str | Sequence[int], **options: Unpack[CompleteOptions]) -> Reply:
        """Go on with a text, or with ids as they are; no chat format. Options: those of `chat` that need no dialog, and
        `raw`: whether control tokens that a text spells become those tokens (images never); else they are text. A
        policy sees the prompt as a user's turn, spellings and all. Raises what `chat` raises."""
        one_answer(options)
        return last(self.stream_complete(prompt, **options))

    def stream_complete(self, prompt: str | Sequence[int], **options: Unpack[CompleteOptions]) -> Iterator[Event]:
        """As `complete`, piece by piece; see `stream`."""
        engine = self._running()
        return run(engine, self._requests.text(engine, prompt, options))

    @overload
    def complete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply]: ...
    @overload
    def complete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: bool,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply | HerdError]: ...

    def complete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: bool = False,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """Go on with several texts together; see `complete`, and `chat_many` for per_prompt, errors and Ctrl-C."""
        return self._answer_all(self._of_prompts(prompts), per_prompt, return_errors, options)

    @overload
    async def acomplete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: Literal[False] = False,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply]: ...
    @overload
    async def acomplete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: bool,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply | HerdError]: ...

    async def acomplete_many(
        self,
        prompts: Sequence[str | Sequence[int]],
        *,
        per_prompt: Sequence[CompleteOptions] | None = None,
        return_errors: bool = False,
        **options: Unpack[CompleteOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """`complete_many` for coroutines; cancelling the task ends the requests."""
        return await self._aanswer_all(self._of_prompts(prompts), per_prompt, return_errors, options)

    async def acomplete(self, prompt: str | Sequence[int], **options: Unpack[CompleteOptions]) -> Reply:
        """`complete` for coroutines; cancelling the task ends the request."""
        one_answer(options)
        return await alast(self.astream_complete(prompt, **options))

    def astream_complete(self, prompt: str | Sequence[int], **options: Unpack[CompleteOptions]) -> AsyncStream:
        """`stream_complete` for coroutines; see `astream`."""
        return self._astream(lambda engine: self._requests.text(engine, prompt, options), options)

    def tokenize(
        self,
        messages: Dialog,
        *,
        system: str | None = None,
        tools: Sequence[ToolLike] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
        raw: bool = False,
    ) -> list[int]:
        """Ids of a plain text, without specials (raw: with those that it spells); or of turns as `chat` would send
        them, with the open header of the answer. system, tools, continue_final_message: of turns. fits: raise
        ContextTooLong for turns that are far too long for the context, before they are made tokens to their end. Raises
        UsageError, for a lone surrogate too.
        """
        asked = CallOptions(system=system, tools=tools, continue_final_message=continue_final_message)
        flag("fits", fits)
        flag("raw", raw)
        if isinstance(messages, str):
            if system is not None or tools is not None:
                fail(UsageError, "system or tools", got="them with a plain text", do='give [{"role": "user", ...}]')
            check_text("text", messages)
            whose = self.tokenizer.for_author(self.image_ids) if raw else self.tokenizer
            return whose.encode(messages)
        if raw:
            fail(UsageError, "raw", got="it with turns", expected="a plain text")
        turns = read_dialog(messages, system=system, images=(), vision=self.config.vision)
        if fits:
            self._requests.check_dialog_fits(turns, asked.definitions, self.context)
        begun = begun_in(turns, asked.continue_final_message) is not None
        return self._requests.ids(turns, asked.definitions, self.context if fits else None, begun=begun)

    def spellings(self, text: str, *, raw: bool = False) -> list[str]:
        """Control tokens that a text spells and that stay text where it is a prompt, in order; raw: of a raw one, those
        of images. Raises UsageError."""
        check_text("text", text)
        flag("raw", raw)
        return self._requests.spelt(text, raw=raw)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of ids, special ones spelt out. Raises UsageError for one that is none."""
        return self.tokenizer.decode(self._requests.given(ids, "ids"))

    def count(
        self,
        messages: Dialog,
        *,
        tools: Sequence[ToolLike] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
    ) -> int:
        """Tokens of a plain text, or of turns as `chat` would send them. Arguments: see `tokenize`."""
        return len(self.tokenize(messages, tools=tools, fits=fits, continue_final_message=continue_final_message))

    # -- the model as a measure --------------------------------------------------------------------------------------

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """[T, V], float32: after each id, the logits of the next. Raises UsageError, ContextTooLong."""
        given = self._requests.given(ids, "ids")
        if not given:
            fail(UsageError, "ids", got="none", expected="at least one")
        (found,) = self._measured([given], Want(what="logits", keep=False), CallOptions())
        return found.rows()

    def perplexity(
        self, text: str | Sequence[int], *, context: int | None = None, stride: int | None = None
    ) -> Perplexity:
        """exp of the mean negative log-likelihood of a text of any length.

        Windows of `context` tokens (None: the model's) every `stride` (None: one after another); each scores the
        tokens that none before it scored. Where the vocabulary wants a first token, every window begins with it.
        """
        check_prompt("text", text)
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

    def score(self, pairs: Sequence[Pair], **options: Unpack[ScoreOptions]) -> list[Score]:
        """How likely each continuation is after its prompt: log-probabilities of its tokens, of (prompt, continuation).

        Two texts are made tokens together, and the continuation's are those beyond as many as the prompt has by itself
        without white space at its end, which goes with the continuation (the convention of lm-evaluation-harness). Ids
        are taken as they are, one after the other. Before a prompt that is a text stands the first token that the
        vocabulary wants, if it wants one; then the prompt may be empty. Pairs with the same prompt are one request, in
        which the prompt is computed once; other prompts that begin alike are, where the cache holds them. Raises
        UsageError, ContextTooLong, before anything is computed; Busy, TimedOut, NotFound (no such adapter).

            top        so many of the likeliest tokens at each place, up to 20; 0 unless said
            client, tenant, priority, timeout_s, adapter, leave
                       see `chat`; the time is each pair's, and pairs with the same prompt share it
        """
        asked, top = self._asked_scores(options)
        groups = self._groups(pairs)
        found = measured(self._running(), self._scoring(groups, top, asked))
        return _in_order(self._scores(group, one) for group, one in zip(groups, found, strict=True))

    async def ascore(self, pairs: Sequence[Pair], **options: Unpack[ScoreOptions]) -> list[Score]:
        """`score` for coroutines; cancelling the task ends the requests."""
        engine = self._running()
        asked, top = self._asked_scores(options)
        groups = await computing().run(asked.tenant, partial(self._groups, pairs), characters_of(pairs))
        scores: list[list[tuple[int, Score]]] = []
        async with aclosing(ameasured(engine, self._scoring(groups, top, asked))) as measuring:
            async for found in measuring:
                group = groups[len(scores)]
                scores.append(await computing().run(asked.tenant, partial(self._scores, group, found)))
        return _in_order(scores)

    def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> npt.NDArray[np.float32]:
        """[n, D] of unit length: of each text the mean of the last layer's states.

        A generative model's mean is a weak embedding beside a model trained for it. Options: client, tenant, priority,
        timeout_s, adapter, leave: see `chat`; the time is each text's. Raises UsageError (an empty text),
        ContextTooLong, before anything is computed; Busy, TimedOut, NotFound (no such adapter).
        """
        asked, _ = CallOptions.of(options, EmbedOptions.__annotations__)
        self._running()
        found = self._measured(self._embeddables(texts), STATE, asked)
        return self._vectors([one.rows() for one in found])

    async def aembed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> npt.NDArray[np.float32]:
        """`embed` for coroutines; cancelling the task ends the requests."""
        asked, _ = CallOptions.of(options, EmbedOptions.__annotations__)
        engine = self._running()
        ids = await computing().run(asked.tenant, lambda: self._embeddables(texts), characters_of(texts))
        requests = (self._requests.measured(one, STATE, asked) for one in ids)
        async with aclosing(ameasured(engine, requests)) as measuring:
            return self._vectors([found.rows() async for found in measuring])

    def embed_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that `embed` takes for these texts. Raises what that raises before anything is computed."""
        return sum(map(len, self._embeddables(texts)))

    def _measured(self, prompts: Sequence[Sequence[int]], want: Want, asked: CallOptions) -> Iterator[Measured]:
        """What comes of each prompt, in order."""
        return measured(self._running(), (self._requests.measured(ids, want, asked) for ids in prompts))

    def _asked_scores(self, options: Mapping[str, Any]) -> tuple[CallOptions, int]:
        """Whose it is, and how many of the likeliest tokens are wanted."""
        asked, rest = CallOptions.of(options, ScoreOptions.__annotations__)
        top = rest.get("top", 0)
        whole("top", top, 0, MAX_LOGPROBS)
        return asked, top

    def _groups(self, pairs: Any) -> list[Group]:
        """Ids of all pairs, checked, by their prompts."""
        most = self._running().executor.most_others
        both = [self._requests.pair(x, self.context, f"pairs[{i}]") for i, x in enumerate(many("pairs", pairs))]
        return grouped(both, most)

    def _scoring(self, groups: Sequence[Group], top: int, asked: CallOptions) -> Iterator[Request]:
        return (self._requests.measured(group.ids, group.want(top), asked) for group in groups)

    def _scores(self, group: Group, found: Measured) -> list[tuple[int, Score]]:
        """(place among the pairs, score) of each of a group."""
        return [
            (
                place,
                Score(
                    tuple(map(self._requests.named, scores)),
                    all(x.is_greedy for x in scores),
                    replace(found.usage, prompt_tokens=count),
                ),
            )
            for place, count, scores in group.apart(found.scores)
        ]

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
        ids = self._requests.text_ids(text, self.context)
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
        if isinstance(self._requests.chat, ChatFormat):
            self._requests.chat.close()
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None

    def __enter__(self) -> LLM:
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
            self._running(),
            lambda: prepare(self._running()),
            owner=owner if isinstance(owner, str) else "",
            answered_by=self._answered_by,
        )

    def _of_dialogs(self, dialogs: Any) -> Many:
        return Many("dialog", dialogs, check_dialog, self._requests.check_dialog_options, self._requests.dialog)

    def _of_prompts(self, prompts: Any) -> Many:
        return Many("prompt", prompts, check_prompt, self._requests.check_text_options, self._requests.text)

    def _options_of(self, asked: Many, own: Any, return_errors: Any, options: Mapping[str, Any]) -> list[Any]:
        """Options of each request, once all arguments are checked but for what dialogs and prompts say."""
        for i, one in enumerate(many(asked.name, asked.all)):
            asked.check(f"{asked.name}[{i}]", one)
        flag("return_errors", return_errors)
        check_names(asked.kind, options)
        self._running()
        return for_each(f"per_{asked.kind}", options, own, len(asked.all), asked.check_options)

    def _answer_all(
        self, asked: Many, own: Any, return_errors: bool, options: Mapping[str, Any]
    ) -> list[Reply] | list[Reply | HerdError]:
        each = self._options_of(asked, own, return_errors, options)
        engine = self._running()

        def prepared(i: int) -> Prepared:
            engine.check_place(each[i].get("client", ""))  # nothing is prepared in vain while others fill the queue
            return asked.prepare(engine, asked.all[i], each[i])

        return settled(asked.name, answer_all(engine, len(each), prepared, at_once(each)), return_errors)

    async def _aanswer_all(
        self, asked: Many, own: Any, return_errors: bool, options: Mapping[str, Any]
    ) -> list[Reply] | list[Reply | HerdError]:
        each = self._options_of(asked, own, return_errors, options)
        engine = self._running()

        def opened(i: int) -> AsyncStream:
            engine.check_place(each[i].get("client", ""))  # as in _answer_all
            return self._astream(lambda engine: asked.prepare(engine, asked.all[i], each[i]), each[i])

        return settled(asked.name, await aanswer_all(len(each), opened, at_once(each)), return_errors)

    def __repr__(self) -> str:
        """Name, family and size, context, what computes, and whether it is closed."""
        family = "llama" if is_dense_llama(self.config) else "llama4"
        parts = [
            repr(self.name),
            f"{family} of {count(self.config).total / 1e9:.3g}B parameters",
            f"context {self.context}",
        ]
        parts += [f"ops {self.ops}"] if self.ops else []
        parts += ["closed"] if self._engine is None else []
        return f"LLM({', '.join(parts)})"


if TYPE_CHECKING:
    from herd.backends.remote import Remote

    def _is_a_chat_model(model: LLM) -> ChatModel:
        return model
