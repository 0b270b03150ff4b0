"""Words and arguments -> checked requests that have not begun. The engine gets ids, tiles and options of them, no text.

What it is not: who runs them (`herd.llm`, `herd.llm.streams`), what a call may say (`herd.llm.options`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from herd.checkpoint.opened import Checkpoint
from herd.config import Llama4Config
from herd.dialogs import Dialog, begun_in, read_dialog, tiles_of
from herd.engine.engine import Engine, RequestHandle
from herd.engine.request import Request, SamplingOptions, TokenLogprob, TokenScore, Want
from herd.engine.trace import RoutingLog
from herd.errors import ContextTooLong, Unsupported, UsageError, fail
from herd.events import Likely, Logprob
from herd.llm.answers import Sample
from herd.llm.options import CallOptions, of_completion
from herd.llm.streams import Prepared
from herd.messages import Message, TextPart
from herd.policies import Cleaner, Policy, Prompt
from herd.text.chat import ChatFormat
from herd.text.tokenizer import Tokenizer
from herd.value_checks import many, token_ids, too_long
from herd.value_checks import text as check_text

SHORT = 1 << 16
"""Characters that are made tokens in no time: of such a prompt the exact count is told."""
TOLD = 1 << 18
"""Ids up to which the exact count is told, however short the context is; beyond both, no more are made."""


@dataclass(frozen=True)
class Requests:
    """Makes requests to one model."""

    config: Llama4Config
    tokenizer: Tokenizer
    chat: ChatFormat | UsageError
    """The format, or the error that a chat gets because none is known."""
    defaults: SamplingOptions
    """What calls use where they say nothing."""
    load_s: float
    """Told with every answer."""
    checkpoint: Checkpoint | None
    """The open files that the model is mapped from; each request looks first whether they are still what was loaded."""

    def format(self) -> ChatFormat:
        """The chat format. Raises UsageError where none is known."""
        if not isinstance(self.chat, ChatFormat):
            raise self.chat
        return self.chat

    def ids(
        self,
        turns: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        context: int | None = None,
        *,
        begun: bool = False,
        asked: CallOptions | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """A dialog, and the open header of its answer; or its last turn open, where the answer is begun. asked: whose
        it is; variables: what a template is told. Raises ContextTooLong for what is far beyond `context`."""
        chat = self.format() if context is None else self.format().within(most_ids(context))
        whose = CallOptions() if asked is None else asked
        return chat.encode(
            turns,
            tools,
            tokens_per_tile=max(self.config.tokens_per_tile, 1),
            begun=begun,
            owner=whose.tenant or whose.client,
            variables=variables,
        )

    def text_ids(self, text: str, context: int) -> list[int]:
        """A text with what the vocabulary wants before it. Raises ContextTooLong for what is far beyond `context`."""
        return [*self.bos(), *self._within(context).encode(text)]

    def spelt(self, text: str, *, raw: bool) -> list[str]:
        """Control tokens that a text spells and that stay text; raw: those that stay text even so."""
        found, images = self.tokenizer.spelt(text), self.tokenizer.image_ids
        names = {i: self.tokenizer.decode((i,)) for i in set(found)}
        return [names[i] for i in found if not raw or i in images]

    def raw_ids(self, text: str, context: int, *, whole: bool = False) -> list[int]:
        """A text with the control tokens that it spells. whole: nothing comes before it; else what the vocabulary wants
        there, unless it is spelt. Raises ContextTooLong for what is far beyond `context`."""
        ids, bos = self._within(context).for_author(self.tokenizer.image_ids).encode(text), self.bos()
        return ids if whole or ids[: len(bos)] == bos else [*bos, *ids]

    def _within(self, context: int) -> Tokenizer:
        """The vocabulary for one text, of which not many more ids are made than may be asked for."""
        return self.tokenizer.within(most_ids(context))

    def bos(self) -> list[int]:
        """What the vocabulary wants before a text."""
        return [self.tokenizer.bos_id] if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else []

    def check_fits(self, text: Any, context: int, what: str = "the prompt") -> None:
        """Raise ContextTooLong for what has more characters than a whole context of the longest token has bytes; before
        any of it is made tokens. text: a text, or messages, tools and lists that hold texts."""
        characters = characters_of(text, self.tokenizer.characters_of)
        if characters <= SHORT:
            return
        least = -(-characters // self.tokenizer.longest_bytes)
        if least > context:
            too_long(f"{what} has at least {least} tokens, the context holds {context}")

    def check_dialog_fits(self, turns: Sequence[Message], tools: Sequence[Mapping[str, Any]], context: int) -> None:
        """`check_fits` of a dialog, with what the format says about its tools: JSON there may be set out on lines."""
        self.check_fits((turns, self.format().definitions(tools) if tools else ""), context)

    def given(self, ids: Sequence[int], name: str = "prompt") -> list[int]:
        """Ids that a caller gave, as plain numbers. Raises UsageError for what is none of this vocabulary."""
        return token_ids(name, ids, self.tokenizer.vocab_size)

    def dialog(self, engine: Engine, messages: Dialog, arguments: Mapping[str, Any]) -> Prepared:
        """A checked request to answer a dialog."""
        asked, options = CallOptions.of(arguments)
        turns = read_dialog(messages, system=asked.system, images=asked.images, vision=self.config.vision)
        self.check_dialog_fits(turns, asked.definitions, engine.executor.context)
        begun = begun_in(turns, asked.continue_final_message)
        prompt = Prompt(turns, asked.definitions, asked.chat_template_kwargs or {})
        shown = _shown(asked.policy, prompt)
        ids = self.ids(
            shown.messages,
            shown.tools,
            engine.executor.context,
            begun=begun is not None,
            asked=asked,
            variables=shown.variables,
        )
        opens = begun is None and self.tokenizer.begins_with_space
        return self._submit(engine, ids, options, asked, prompt.turns, tiles_of(turns), begun or "", opens)

    def text(self, engine: Engine, prompt: str | Sequence[int], arguments: Mapping[str, Any]) -> Prepared:
        """A checked request to go on with a text."""
        check_prompt("prompt", prompt)
        asked, options = of_completion(arguments)
        context = engine.executor.context
        if isinstance(prompt, str) and not asked.raw:
            self.check_fits(prompt, context)
        if isinstance(prompt, str):
            ids = self.raw_ids(prompt, context) if asked.raw else self.text_ids(prompt, context)
        else:
            ids = self.given(prompt)
        check_length(ids, context, "the prompt")  # before policies read it
        text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids) if asked.policy is not None else ""
        turn = Message("user", text)
        (shown,) = _shown(asked.policy, Prompt((turn,))).messages
        if shown == turn:
            return self._submit(engine, ids, options, asked, (turn,))
        controls = self._controls(prompt, raw=asked.raw)
        ids = self._changed(controls, shown.text, context, is_text=isinstance(prompt, str))
        return replace(self._submit(engine, ids, options, asked, (turn,)), shown=shown.text)

    def _controls(self, prompt: str | Sequence[int], *, raw: bool) -> list[int]:
        """The control tokens of a prompt."""
        if not isinstance(prompt, str):
            return [i for i in prompt if i in self.tokenizer.control_ids]
        return self.tokenizer.spelt(prompt) if raw else []

    def _changed(self, controls: Sequence[int], text: str, context: int, *, is_text: bool) -> list[int]:
        """Ids of what a policy shows of a prompt, which had these control tokens. Raises UsageError where it would have
        others: what is text must not become one."""
        if not controls:
            return self.text_ids(text, context)
        if self.tokenizer.spelt(text) != controls:
            do = "send what people wrote as a dialog"
            fail(UsageError, "prompt", got="control tokens that a policy's changes would not leave as they are", do=do)
        return self.raw_ids(text, context, whole=not is_text)

    def check_dialog_options(self, arguments: Mapping[str, Any], whole: bool) -> None:
        """Raise UsageError for what is wrong with arguments of a chat, whatever its dialog; whole: and no others come
        to them, which say what tools there are to choose from."""
        self._check_options(*CallOptions.of(arguments), whole)

    def check_text_options(self, arguments: Mapping[str, Any], whole: bool) -> None:
        """As `check_dialog_options`, of a completion."""
        self._check_options(*of_completion(arguments), whole)

    def _check_options(self, asked: CallOptions, options: Mapping[str, Any], whole: bool) -> None:
        if whole:
            self._options(options, asked)
        else:
            self.defaults.with_(options)

    def measured(self, ids: Sequence[int], want: Want, asked: CallOptions) -> Request:
        """A request for numbers of given ids. Raises what is wrong with the model's files."""
        self._check_files()
        return Request(
            ids,
            SamplingOptions(),
            client=asked.client,
            priority=asked.priority,
            timeout_s=asked.timeout_s,
            salt=_salt(asked.tenant),
            adapter=asked.adapter,
            want=want,
        )

    def pair(self, pair: Any, context: int, name: str) -> tuple[list[int], int]:
        """(all ids, how many are the prompt's) of a prompt and its continuation; see `LLM.score`. Raises UsageError,
        ContextTooLong."""
        prompt, continuation = _both(pair, name)
        for text in (prompt, continuation):
            self.check_fits(text if isinstance(text, str) else "", context, name)
        if isinstance(prompt, str) and isinstance(continuation, str):
            kept = prompt.rstrip()  # a vocabulary joins a space to the word after it
            before = self.text_ids(kept, context)
            ids = self.text_ids(prompt + continuation, context)
        else:
            before = self.text_ids(prompt, context) if isinstance(prompt, str) else self.given(prompt, name)
            encode = self._within(context).encode
            more = (
                encode(continuation, place="text") if isinstance(continuation, str) else self.given(continuation, name)
            )
            ids = [*before, *more]
        if not before:
            fail(UsageError, name, got="nothing before the continuation", expected="a prompt of at least one token")
        if len(ids) <= len(before):
            fail(UsageError, name, got="a continuation without a token of its own", expected="at least one")
        check_length(ids, context, name)
        return ids, len(before)

    def _check_files(self) -> None:
        """Weights are mapped, not copied: a file that was cut or overwritten must not answer."""
        if self.checkpoint is not None:
            self.checkpoint.check_unchanged()

    def _submit(
        self,
        engine: Engine,
        ids: Sequence[int],
        options: Mapping[str, Any],
        asked: CallOptions,
        turns: Sequence[Message],
        tiles: Any = None,
        begun: str = "",
        opens: bool = False,
    ) -> Prepared:
        """begun: the text that the answer goes on with; it is at the end of the ids. opens: see `Sample`."""
        self._check_files()
        if asked.trace is not None and not engine.executor.traces:
            fail(Unsupported, "trace", got="another engine's model", expected="a model that runs here: it has experts")
        if asked.trace is not None and not any(layer.moe for layer in self.config.layers):
            fail(
                UsageError, "trace", got="a dense model", expected="a model with experts: there is no routing to write"
            )
        chosen = _under(self._options(options, asked), asked.ceiling, len(ids), engine.executor.context)
        grammar = chosen.grammar
        instead = grammar is not None and asked.may_call_instead(grammar)
        if grammar is not None and instead:
            chosen = chosen.with_({"grammar": asked.calls_or(grammar, self.format())})
        request = Request(
            ids,
            chosen,
            tiles,
            chosen.seed if chosen.seed is not None else int.from_bytes(os.urandom(8), "big") >> 1,
            client=asked.client,
            priority=asked.priority,
            timeout_s=asked.timeout_s,
            salt=_salt(asked.tenant),
            adapter=asked.adapter,
            progress=asked.progress,
            # grammars are of texts: markers in it are spelt
            begun=() if chosen.grammar is None else tuple(self.tokenizer.encode(begun, place="text")),
        )
        jobs = engine.submit_samples(request, asked.n, start=False)
        samples = self._samples(jobs, asked, instead, begun, opens)
        # opened last, so that a refused request leaves an old trace as it is
        jobs[0].routing = None if asked.trace is None else RoutingLog(asked.trace)
        policy = asked.policy
        return Prepared(samples, (lambda: None) if policy is None else lambda: policy.before(turns))

    def _options(self, options: Mapping[str, Any], asked: CallOptions) -> SamplingOptions:
        """The model's, the call's, and what its schema or tools make of them."""
        grammar = asked.grammar(self.format)
        if grammar is not None:
            if options.get("grammar") is not None:
                fail(UsageError, "grammar", got="it beside a schema or a forced call", expected="one of them")
            options = {**options, "grammar": grammar}
        return self.defaults.with_(options)

    def _samples(
        self, jobs: Sequence[RequestHandle], asked: CallOptions, instead: bool, begun: str, opens: bool
    ) -> list[Sample]:
        """instead: whether an answer may be calls in place of what its grammar asks for."""
        parser = asked.calls(self.tokenizer, self.format, instead=instead)
        return [
            Sample(
                job,
                self.named,
                index=i,
                load_s=self.load_s,
                policy=asked.policy,
                calls=None if parser is None else parser(),
                one_call=not asked.parallel_tool_calls,
                parse=asked.parse(),
                begun=begun,
                opens=opens,
            )
            for i, job in enumerate(jobs)
        ]

    def likely(self, token_id: int, logprob: float) -> Likely:
        """A token by name, with how likely it was."""
        data = self.tokenizer.token_bytes(token_id)
        text = data.decode("utf-8", "replace")
        added = b"" if self.tokenizer.is_special(token_id) else data
        return Likely(token_id, text, logprob, spelt=None if added == text.encode() else added)

    def named(self, found: TokenLogprob | TokenScore) -> Logprob:
        """A token that was chosen or given, with the likeliest ones, by name."""
        own = self.likely(found.token_id, found.logprob)
        top = tuple(self.likely(*one) for one in found.top)
        return Logprob(own.token_id, own.text, own.logprob, top, spelt=own.spelt)


class Many(NamedTuple):
    """What one call asks to have answered: dialogs, or prompts."""

    kind: str
    """dialog or prompt; `per_...` is the argument with the options of each."""
    all: Any
    """As the caller gave them."""
    check: Callable[[str, Any], None]
    """Raises UsageError for what is none of them, and is told its place."""
    check_options: Callable[[Mapping[str, Any], bool], None]
    """See `for_each`."""
    prepare: Callable[[Engine, Any, Mapping[str, Any]], Prepared]
    """Makes a request of one, and its options."""

    @property
    def name(self) -> str:
        """The argument that holds them."""
        return f"{self.kind}s"


def most_ids(context: int) -> int:
    """The most ids that are made of one text, or dialog, for a context."""
    return max(context, TOLD)


def check_dialog(name: str, dialog: object) -> None:
    """Raise UsageError for what can be no dialog; what its turns say is checked when they are read."""
    if not isinstance(dialog, Sequence) or isinstance(dialog, bytes | bytearray | memoryview):
        fail(UsageError, name, got=type(dialog).__name__, expected="a dialog: a text or a list of turns")


def check_prompt(name: str, prompt: object) -> None:
    """Raise UsageError for what is neither a text nor a list; which ids a list holds is another matter."""
    if not isinstance(prompt, str | Sequence | np.ndarray):
        fail(UsageError, name, got=type(prompt).__name__, expected="a text or a list of token ids")


def check_length(ids: Sequence[int], context: int, name: str) -> None:
    """Raise ContextTooLong for more ids than a context holds."""
    if len(ids) > context:
        too_long(f"{name} has {len(ids)} tokens, the context holds {context}")


def _both(pair: Any, name: str) -> tuple[Any, Any]:
    """A prompt and its continuation. Raises UsageError for anything but two texts or lists."""
    both = many(name, pair)
    if len(both) != 2:
        fail(UsageError, name, got=f"{len(both)} parts", expected="a prompt and a continuation")
    for one in both:
        if isinstance(one, str):
            check_text(name, one)
    return both[0], both[1]


def _salt(tenant: str) -> bytes:
    """What cached positions of a tenant are shared under."""
    return hashlib.sha256(tenant.encode()).digest() if tenant else b""


def _under(options: SamplingOptions, ceiling: int | None, num_prompt: int, context: int) -> SamplingOptions:
    """Options of a request that stays under its own ceiling, where the context does not end it before. Raises
    ContextTooLong with both counts."""
    if ceiling is None or ceiling >= context:
        return options
    if num_prompt >= ceiling:
        fail(ContextTooLong, f"the prompt has {num_prompt} tokens, num_ctx allows {ceiling}", do="raise num_ctx")
    return options.with_({"max_tokens": min(options.max_tokens or ceiling, ceiling - num_prompt)})


def characters_of(text: Any, count: Callable[[str], int] = len) -> int:
    """Characters of a text, or of all texts in messages, objects and lists, as `count` counts those of one; a list that
    is there twice counts once."""
    found, waiting = 0, [text]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            found += count(one)
            continue
        if isinstance(one, int | float):
            found += 1  # a digit, at least
            continue
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Message):
            waiting += (one.content, one.context, [call.arguments for call in one.tool_calls])
        elif isinstance(one, TextPart):
            found += count(one.text)
        elif isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
    return found


def _shown(policy: Policy | None, prompt: Prompt) -> Prompt:
    """What the model is to read of a prompt."""
    return policy.cleaned(prompt) if isinstance(policy, Cleaner) else prompt
