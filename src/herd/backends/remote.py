"""A model elsewhere for programs without an event loop: the everyday calls of `herd.LLM`.

    with herd.backend("cellar") as model:
        print(model.chat("What is photosynthesis?").text)

A thread of its own runs an event loop for all of them; `achat` and `astream` run on the caller's. It is no LLM and does
not look like one: whatever needs weights, a tokenizer or an engine is not there. What it is not: a pool, a retry.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Unpack, overload

from herd.backends.loop_thread import LoopThread
from herd.backends.names import PREFIX
from herd.backends.routes import ByIds, chosen, named
from herd.chat_model import Capabilities, ChatModel, ChatStream
from herd.dialogs import Dialog, turns_of
from herd.errors import HerdError, SomeFailed, UsageError, fail
from herd.events import DoneEvent, Event, Reply, TextEvent, Timings, Usage
from herd.gated import GatedStream
from herd.messages import Message
from herd.policies import Policy, Prompt
from herd.request_options import DialogRequest
from herd.value_checks import flag, known, whole
from herd.value_checks import text as check_text

AT_ONCE, MOST_AT_ONCE = 8, 256
"""Requests of one call that are under way together, unless it says another number; and the most of them."""
MOST_SAMPLES = 128


class RemoteOptions(DialogRequest, total=False):
    """Options of `Remote.chat` and its twins: those of a dialog for any model, and what is done with it here."""

    system: str | None
    """A text before everything, where the dialog has no system turn."""
    policy: Policy | None
    """Checks what goes in and what comes out (`herd.safety`)."""


class Remote:
    """A model elsewhere, or a route over several. Close it, or use it in `with`. Threads may share it."""

    def __init__(self, model: ChatModel, *, leave: bool = False) -> None:
        """leave: whether requests may leave the house where they say nothing themselves. Closing it closes the
        model."""
        flag("leave", leave)
        self.model = model
        self._leave = leave
        self._loop = LoopThread()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.model.context

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return self.model.capabilities

    def chat(self, messages: Dialog, **options: Unpack[RemoteOptions]) -> Reply:
        """Answer a dialog: a user's text, or turns. Options: those of `herd.LLM.chat` that the other side has, and
        `leave`: whether this request may leave the house. Raises Unsupported naming one that it has not, StaysHere,
        errors of `herd.backends.failures`, UsageError, TimedOut. Ctrl-C returns what was said, with finish_reason
        "interrupted"."""
        _one(options)
        for event in self.stream(messages, **options):
            if isinstance(event, DoneEvent):
                return event.reply
        raise AssertionError("a stream ended without its DoneEvent")

    def stream(self, messages: Dialog, **options: Unpack[RemoteOptions]) -> Iterator[Event]:
        """As `chat`, piece by piece. Leaving it ends the request at the other side."""
        stream = self.astream(messages, **options)
        said = _Said(self.name, options.get("n") or 1)
        try:
            while (event := self._loop.run(lambda: _next(stream))) is not None:
                said.take(event)
                yield event
        except KeyboardInterrupt:
            yield from said.interrupted()
        finally:
            self._loop.leave(stream)

    async def achat(self, messages: Dialog, **options: Unpack[RemoteOptions]) -> Reply:
        """`chat` for coroutines; cancelling the task ends the request."""
        _one(options)
        stream = self.astream(messages, **options)
        try:
            while (event := await _next(stream)) is not None:
                if isinstance(event, DoneEvent):
                    return event.reply
        finally:
            await stream.aclose()
        raise AssertionError("a stream ended without its DoneEvent")

    def chat_samples(self, messages: Dialog, n: int, **options: Any) -> list[Reply]:
        """n answers to one dialog, in one request. Options: see `chat`. Raises Unsupported where the other side gives
        one alone."""
        whole("n", n, 1, MOST_SAMPLES)
        _one(options)
        found = {e.index: e.reply for e in self.stream(messages, n=n, **options) if isinstance(e, DoneEvent)}
        return [found[i] for i in sorted(found)]

    @overload
    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        at_once: int = AT_ONCE,
        return_errors: Literal[False] = False,
        **options: Unpack[RemoteOptions],
    ) -> list[Reply]: ...
    @overload
    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        at_once: int = AT_ONCE,
        return_errors: bool,
        **options: Unpack[RemoteOptions],
    ) -> list[Reply | HerdError]: ...

    def chat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        at_once: int = AT_ONCE,
        return_errors: bool = False,
        **options: Unpack[RemoteOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """Answer several dialogs, `at_once` of them under way together; the replies in their order. Options: see
        `chat`. All run to their end. Then, if any failed, raises SomeFailed, whose `replies` has a Reply or the error
        of each; return_errors: gives that list instead. Ctrl-C ends all of them."""
        return self._loop.run(lambda: self.achat_many(dialogs, at_once=at_once, return_errors=return_errors, **options))

    async def achat_many(
        self,
        dialogs: Sequence[Dialog],
        *,
        at_once: int = AT_ONCE,
        return_errors: bool = False,
        **options: Unpack[RemoteOptions],
    ) -> list[Reply] | list[Reply | HerdError]:
        """`chat_many` for coroutines; cancelling the task ends all of them."""
        whole("at_once", at_once, 1, MOST_AT_ONCE)
        flag("return_errors", return_errors)
        _one(options)
        known("option", options, RemoteOptions.__annotations__)
        waiting = iter(enumerate(dialogs))
        found: dict[int, Reply | HerdError] = {}

        async def some() -> None:
            for i, dialog in waiting:
                try:
                    found[i] = await self.achat(dialog, **options)
                except HerdError as error:
                    found[i] = error

        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(dialogs))):
                group.create_task(some())
        replies = [found[i] for i in sorted(found)]
        failed = [one for one in replies if isinstance(one, HerdError)]
        if failed and not return_errors:
            raise SomeFailed(f"{len(failed)} of {len(replies)} requests failed, the first: {failed[0]}", replies)
        return replies

    def astream(self, messages: Dialog, **options: Unpack[RemoteOptions]) -> ChatStream:
        """`stream` for coroutines."""
        known("option", options, RemoteOptions.__annotations__)
        given: dict[str, Any] = {"leave": self._leave, **options}
        turns, policy = _turns(messages, given.pop("system", None)), given.pop("policy", None)
        if policy is None:
            return self.model.astream(turns, **given)
        tools, more = given.get("tools") or (), given.get("chat_template_kwargs") or {}
        return GatedStream(
            policy,
            lambda: Prompt(turns, tools, more),
            lambda shown: self.model.astream(turns if shown is None else shown.messages, **_shown(given, shown)),
            answers=given.get("n") or 1,
        )

    def close(self) -> None:
        """End what is under way, and the thread."""
        self.model.close()
        self._loop.close()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Remote({self.name!r})"


def backend(name: str, *, leave: bool = False, by_ids: ByIds | None = None) -> Remote:
    """The model of a backend or a route of this machine (`herd.backends.routes`): its name, `backend:NAME`, or
    NAME/MODEL for another model there. Nothing is connected before the first request. leave: whether requests may leave
    the house where they say nothing themselves. by_ids: see `herd.backends.routes.named`. Raises NotFound, BadFile,
    UsageError, MissingExtra."""
    found = chosen(name if name.startswith(PREFIX) or "/" in name else PREFIX + name) or (name, "")
    return Remote(named(*found, by_ids=by_ids).model, leave=leave)


class _Said:
    """What has been said so far, for whoever is interrupted."""

    def __init__(self, name: str, answers: int) -> None:
        self._name = name
        self._texts: dict[int, list[str]] = {i: [] for i in range(answers)}

    def take(self, event: Event) -> None:
        """Keep what an event says."""
        match event:
            case TextEvent():
                self._texts[event.index].append(event.text)
            case DoneEvent():
                self._texts.pop(event.index, None)

    def interrupted(self) -> Iterator[Event]:
        """The last event of each answer that was under way."""
        for index, pieces in self._texts.items():
            usage = Usage(0, len(pieces))
            reply = Reply("".join(pieces), "interrupted", usage, Timings(), answered_by=self._name)
            yield DoneEvent(reply, index)


async def _next(stream: ChatStream) -> Event | None:
    """The next event; None at the end."""
    try:
        return await anext(stream)
    except StopAsyncIteration:
        return None


def _one(options: Mapping[str, Any]) -> None:
    if options.get("n") not in (None, 1):
        fail(UsageError, "n", got=options["n"], expected="1", do="use stream for several answers")


def _turns(dialog: Dialog, system: str | None) -> Sequence[Message]:
    """Turns of a dialog. Raises UsageError."""
    turns = turns_of(dialog)
    if system is None:
        return turns
    check_text("system", system)
    if turns[0].role == "system":
        fail(UsageError, "system", got="a system text and a system turn", expected="one of them")
    return [Message("system", system), *turns]


def _shown(options: Mapping[str, Any], shown: Prompt | None) -> Any:
    """Options of a request, with what a policy shows of its prompt."""
    if shown is None:
        return options
    more = {"chat_template_kwargs": shown.variables} if shown.variables else {}
    return {**options, "tools": shown.tools or None, **more}
