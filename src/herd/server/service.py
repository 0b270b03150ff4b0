"""One service behind three dialects: a `GenerateRequest` goes in, events come out.

The one door to models: what a request may cost is checked here, whatever dialect it came in; keys' quotas, policies and
counters are here as well, so that no route can miss one of them.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from starlette.requests import Request

from herd.backends.gate import Decision, Said, strictest
from herd.chat_model import ChatModel, ChatStream, Turns
from herd.errors import HerdError, Interrupted, NotFound, NotReady, PassFailed, StaysHere, TooLarge, Withheld, fail
from herd.events import DoneEvent, Event, Note, ProgressEvent, Reply
from herd.gated import GatedStream
from herd.lanes import LARGE, computing, reading, waiting
from herd.policies import Policy
from herd.request_options import Whose
from herd.safety import Guard
from herd.server.file_store import FileStore
from herd.server.http.streams import Stream
from herd.server.keys import Key, Keyring
from herd.server.limits import Limits
from herd.server.loaded_model import LoadedModel
from herd.server.log import Log
from herd.server.metrics import Metrics
from herd.server.models import Models
from herd.server.requests.admission import Admission, InFlight, Spending
from herd.server.requests.beginnings import beginning
from herd.server.requests.fields import in_words_of, within
from herd.server.requests.generate_request import (
    GenerateRequest,
    begun_of,
    check_able,
    check_shown,
    most_tokens,
    prompt_of,
    start_stream,
    turn_options,
    without_effect,
)
from herd.server.requests.media import Images
from herd.server.requests.notes import note_of_calls, note_of_schemas, note_of_tools, within_context
from herd.server.requests.policed import checked_texts
from herd.server.requests.raw_prompts import RawPrompt, check_ids, raw_prompt
from herd.server.requests.sizes import prompt_bytes, text_size, vectors_bytes
from herd.server.response_store import ResponseStore

T = TypeVar("T")
Out = TypeVar("Out", covariant=True)
SHORT = 16 << 10
"""Bytes that are read, looked at or written in less time than it takes to ask another thread."""
PolicyFor = Callable[["Caller", "GenerateRequest"], Policy | None]
"""A fresh policy for one request, or None for none."""


class Embeddings(NamedTuple):
    """The result of `embed`. vectors: [n, D], of unit length. notes: of the policy, about the texts."""

    vectors: npt.NDArray[np.float32]
    tokens: int
    notes: tuple[Note, ...]


@dataclass(eq=False)
class Caller:
    """The caller of a request: its key, and what the log is told of it."""

    key: Key
    request_id: str
    route: str
    facts: dict[str, Any] = field(default_factory=dict)
    request: Request | None = None
    """The HTTP request, whose client may go away while it is prepared."""
    pins: list[LoadedModel] = field(default_factory=list)
    """Models that it uses: all its answers are of one version, whatever a name comes to mean meanwhile."""
    answered_by: list[str] = field(default_factory=list)
    """Backends that answer it, each once; several prompts may have several."""
    _admission: Admission | None = None

    def answered(self, name: str) -> None:
        """A backend of that name answers a request of it, or "": none does."""
        if name and name not in self.answered_by:
            self.answered_by.append(name)
            self.facts["answered_by"] = ",".join(self.answered_by)

    @property
    def admission(self) -> Admission:
        """What its request holds; every route that reads a body or makes tokens has called `enter` first."""
        assert self._admission is not None, f"{self.route} does not enter"
        return self._admission

    def enter(self, service: "Service") -> Admission:
        """Admit its request; the caller of this closes the admission. Raises Busy, QuotaSpent."""
        self._admission = Admission(self.key, service.at_once, service.in_flight, service.answering)
        return self._admission


class Service:
    """Models, keys and counters behind all dialects; see the module."""

    def __init__(
        self,
        models: Models,
        *,
        keyring: Keyring | None = None,
        limits: Limits | None = None,
        log: Log | None = None,
        policies: PolicyFor = lambda caller, ask: None,
        guard: Guard | None = None,
        strict: bool = False,
        remote_media: bool = False,
        preload: Sequence[str] = (),
        context: int | Literal["auto"] = "auto",
        files: FileStore | None = None,
    ) -> None:
        self.models = models
        self.keyring = Keyring() if keyring is None else keyring
        self.limits = limits or Limits()
        self.log = log or Log("off")
        self.metrics = Metrics(lambda: [held.model for held in models.held if held.model is not None], self.log)
        self.in_flight = InFlight(self.limits.bytes_in_flight)
        self.answering = InFlight(self.limits.answers_bytes, "answers")
        self.responses = ResponseStore(
            self.limits.stored_responses, self.limits.key_stored_bytes, self.limits.stored_bytes
        )
        self.files = files
        """Files and batches of clients; None: none are kept."""
        self.policies = policies
        self.guard = guard
        """Judges for /v1/moderations; None: there are only rules."""
        self.strict = strict
        self.remote_media = remote_media
        self.preload = tuple(preload)
        self.context = context
        """The context that models are loaded with."""
        self.nobody = Key("nobody", rights=frozenset())
        """The key of callers where none is needed."""
        self.stopping = False

    async def open(self, caller: Caller, ask: GenerateRequest) -> "ReplyInProgress":
        """Check a request, load its model, and queue it; returns the reply under way, which has to be closed.

        Raises what is wrong with the request, before anything of a reply has been sent.
        """
        self._check(ask)
        caller.facts.update(key=caller.key.name, model=ask.model)
        if ask.images is not None:
            await self._fetch(caller, ask.model, ask.images)
        stack = AsyncExitStack()
        try:
            model = await stack.enter_async_context(self.models.use(ask.model, ask.keep_alive_s, caller.pins))
            decision = self.leaving(caller, ask.model, ask.said)  # at one time with its profile's texts
            ask, shorter = within_context(self._settled(ask), model.context)
            size = caller.admission.size_bytes
            num_images = await self.soon(caller, lambda: check_able(model, ask), size)
            without_effect(model, ask, strict=self.strict)
            if ask.prompt is not None and not isinstance(ask.prompt, str):
                ids = ask.prompt
                await self.compute(caller, lambda: check_ids(model, ids, caller.key))
            raw = await self._raw(caller, model, ask)
            in_vain = await self.soon(caller, lambda: (note_of_schemas(ask), note_of_calls(ask)), size)
            with decision.explained():
                stream = self._stream(model, caller, ask, {**self.whose(caller, decision, ask.user), **raw.options})
                stack.push_async_callback(stream.aclose)
                async with until_disconnect(caller.request):
                    await self._prepare(caller, model, ask, stream, num_images)
                    spending = Spending(caller.key, stream.prompt_tokens, stream.most_tokens or most_tokens(model, ask))
                    stack.callback(spending.settle)
                    await stream.ready()
            caller.answered(stream.answered_by)
        except BaseException as error:
            await stack.__aexit__(*sys.exc_info())
            if (told := in_words_of(error, ask.called)) is not error:
                raise told from None
            raise
        note = "; ".join(filter(None, (raw.note, shorter, note_of_tools(model, ask), *in_vain)))
        return ReplyInProgress(self, caller, ask, model, stream, spending, stack, note)

    async def embed(
        self, caller: Caller, name: str, texts: Sequence[str], keep_alive_s: float | None = None, *, cut: bool = False
    ) -> "Embeddings":
        """Vectors of texts, checked by the caller's policy. cut: of a text that is too long, its beginning's. Raises
        Withheld, and what loading and embedding raise."""
        self.refuse_when_stopping()
        within("model", len(name), self.limits.name_bytes)
        caller.facts.update(key=caller.key.name, model=name)
        async with self.models.use(name, keep_alive_s) as model:
            model.capabilities.require(model.name, "embeddings")
            size = caller.admission.size_bytes
            needs = prompt_bytes(model, await self.text_size(caller, texts))
            caller.admission.made.hold(needs + vectors_bytes(model, len(texts)))
            policy = self.policies(caller, GenerateRequest(model=name, prompt=""))
            shown, notes, refusal = await self.compute(caller, lambda: checked_texts(policy, texts), size)
            self.count_notes(notes)
            if refusal is not None:
                raise Withheld(refusal)
            if cut:
                shown = await self.compute(caller, lambda: [beginning(model, text) for text in shown], size)
            tokens = await self.compute(caller, lambda: model.embed_tokens(shown), size)
            self.charge(caller, tokens)
            decision = self.leaving(caller, name)
            async with until_disconnect(caller.request):
                with decision.explained():
                    vectors = await model.aembed(shown, **self.whose(caller, decision))
            return Embeddings(vectors, tokens, notes)

    def count_notes(self, notes: Sequence[Note]) -> None:
        """Add a policy's decisions about one text to the counters."""
        for layer, decision in {(note.layer, note.decision) for note in notes}:
            self.metrics.policy.labels(layer, decision).inc()

    async def _prepare(
        self, caller: Caller, model: ChatModel, ask: GenerateRequest, stream: ChatStream, num_images: int
    ) -> None:
        """Prepare a request within its key's share of memory. Raises what preparing raises, Busy, TooLarge."""
        made, limits, said = caller.admission.made, self.limits, 0

        def hold(count: int) -> None:
            nonlocal said
            said += count
            if said > limits.reply_bytes:
                do = "ask for fewer tokens, samples or logprobs"
                fail(TooLarge, "reply", got="more", expected=f"at most {limits.reply_bytes} bytes in memory", do=do)
            made.hold(count)

        tiles = num_images * model.sizes.image_bytes
        text = await self.text_size(caller, ask.messages, ask.tools, ask.prompt)
        stream.hold = hold
        stream.size_bytes = max(caller.admission.size_bytes, LARGE if tiles else 0)
        needs = tiles + prompt_bytes(model, text)
        made.hold(needs)
        try:
            await stream.prepare()
        finally:
            made.let_go(needs)
        made.hold(stream.asked_bytes)

    async def _raw(self, caller: Caller, model: ChatModel, ask: GenerateRequest) -> RawPrompt:
        """See `raw_prompt`. Raises Busy, TooLarge."""
        prompt = ask.prompt
        if not isinstance(prompt, str):
            return RawPrompt({}, "")
        made, needs = caller.admission.made, prompt_bytes(model, await self.text_size(caller, prompt))
        made.hold(needs)
        try:
            work = partial(raw_prompt, model, prompt, ask.raw, caller.key)
            return await self.soon(caller, work, caller.admission.size_bytes)
        finally:
            made.let_go(needs)

    async def text_size(self, caller: Caller, *values: Any) -> int:
        """See `sizes.text_size`; computed beside the event loop where there is much to look at."""
        return await self.soon(caller, lambda: text_size(*values), caller.admission.size_bytes)

    async def of_dialog(
        self,
        caller: Caller,
        model: ChatModel,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        images: Images,
        make: "DialogMethod[T]",
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        continue_final_message: bool = True,
    ) -> T:
        """The result of `make`, a method of the model (tokenize, count), for a dialog. name: the model's, as it was
        asked. Raises what reading it raises,
        ContextTooLong for what cannot be a prompt, Refused for more turns or tools than a request may have."""
        self._check_counts(messages, tools)
        ask = GenerateRequest(
            model=model.name, messages=messages, tools=tools, continue_final_message=continue_final_message
        )
        num_images = await self.soon(caller, lambda: check_able(model, ask), caller.admission.size_bytes)
        await self._fetch(caller, name, images)
        tiles = num_images * model.sizes.image_bytes
        size = max(caller.admission.size_bytes, LARGE if tiles else 0)
        text = await self.text_size(caller, messages, tools)
        caller.admission.made.hold(tiles + prompt_bytes(model, text))
        more = turn_options(model, ask)
        return await self.compute(caller, lambda: make(messages, tools=tools or None, fits=True, **more), size)

    async def _fetch(self, caller: Caller, name: str, images: Images) -> None:
        """Fetch the images of a request to the model of that name that are on the network. Raises StaysHere where what
        that one is asked stays in the house, NotFound where there is none, and what fetching raises."""
        if images.on_network:
            self.models.catalogue.find(name)
            decision = strictest(Said(True), *self._model_says(name))
            if not decision.leave:
                do = "send the image as data:image/...;base64,..."
                fail(StaysHere, f"an image on the network, where {decision.why}", got="its address", do=do)
            await images.fetch(self.lane_of(caller), caller.admission)

    def charge(self, caller: Caller, tokens: int) -> None:
        """Charge tokens that were read, for a request that makes none. Raises QuotaSpent."""
        Spending(caller.key, tokens, 0).settle()

    def lane_of(self, caller: Caller) -> str:
        """The lane that a caller's work waits in: its key's. Cached prompts are shared within the same group."""
        return caller.key.name if self.keyring else ""

    async def compute(self, caller: Caller, work: Callable[[], T], size_bytes: int = 0) -> T:
        """Run work beside the event loop, behind the work of its own key only. size_bytes: of what it works on."""
        return await computing().run(self.lane_of(caller), work, size_bytes)

    async def soon(self, caller: Caller, work: Callable[[], T], size_bytes: int) -> T:
        """Run short work here, other work as `compute` does. size_bytes: of what it works on."""
        return work() if size_bytes <= SHORT else await self.compute(caller, work, size_bytes)

    async def read(self, caller: Caller, work: Callable[[], T], size_bytes: int) -> T:
        """As `soon`, for the parser of a body."""
        return work() if size_bytes <= SHORT else await reading().run(self.lane_of(caller), work, size_bytes)

    async def wait(self, caller: Caller, work: Callable[[], T], size_bytes: int = 0) -> T:
        """As `compute`, for work that mostly waits for something else."""
        return await waiting().run(self.lane_of(caller), work, size_bytes)

    def streamed(
        self,
        answers: "ReplyInProgress | Sequence[ReplyInProgress]",
        chunks: AsyncGenerator[bytes, None],
        media_type: str,
        *,
        headers: Mapping[str, str],
        ping: bytes | None = None,
        left: Callable[[], None] = lambda: None,
    ) -> Stream:
        """A reply, or several, as a stream, which is dropped when its reader is gone or falls behind. left: called when
        it is over."""
        found = [answers] if isinstance(answers, ReplyInProgress) else answers

        async def ended() -> None:
            for answer in found:
                await answer.aclose()
            left()

        return Stream(
            chunks,
            media_type,
            headers=headers,
            write_timeout_s=self.limits.write_timeout_s,
            ping=ping,
            is_behind=lambda: sum(answer.unread_bytes for answer in found) > self.limits.unread_bytes,
            ended=ended,
        )

    @property
    def at_once(self) -> int:
        """The most requests of one key under way. Without keys there is nobody else to leave places for."""
        return self.limits.per_key if self.keyring else self.limits.queue

    def refuse_when_stopping(self) -> None:
        """Raise NotReady once the service takes no more requests."""
        if self.stopping:
            raise NotReady("the service is stopping; ask again when it is back")

    def _check(self, ask: GenerateRequest) -> None:
        """Check the limits of a request; options, images and the context are checked where they are read."""
        self.refuse_when_stopping()
        assert (ask.messages is None) != (ask.prompt is None), "a dialog or a prompt"
        within("model", len(ask.model), self.limits.name_bytes)
        within("user", len(ask.user), self.limits.name_bytes)
        self._check_counts(ask.messages or (), ask.tools)
        within("n", ask.n, self.limits.samples)

    def _check_counts(self, messages: Sequence[Any], tools: Sequence[Any]) -> None:
        """Raise Refused for more turns or tools than a request may have."""
        within("messages", len(messages), self.limits.messages)
        within("tools", len(tools), self.limits.tools)

    def _settled(self, ask: GenerateRequest) -> GenerateRequest:
        """The request with the settings of a derived model (see profiles) where it gives none."""
        profile = self.models.catalogue.find(ask.model).profile
        if profile is None:
            return ask
        messages = ask.messages
        if messages and profile.system and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": profile.system}, *messages]
        return replace(ask, messages=messages, options={**profile.options, **ask.options})

    def leaving(self, caller: Caller, name: str, said: Sequence[Said] = ()) -> Decision:
        """Whether a request to the model of that name may leave the house: the strictest of the caller's key, the
        model's profile and route, and what parts of the request say. Every request for a model's work asks here."""
        return strictest(caller.key.says_of_leaving, *self._model_says(name), *said)

    def _model_says(self, name: str) -> list[Said]:
        """What the model of that name says of it: its profile, and its route."""
        try:
            listed = self.models.catalogue.find(name)
        except NotFound:  # told by who asks that model; one that is gone by now may have been private
            return [Said(False, f"there is no {name}")]
        found = [] if listed.registered is None else [listed.registered.said()]
        if listed.profile is not None and listed.profile.private:
            found.append(Said(False, f"the profile {name} is private"))
        return found

    def whose(self, caller: Caller, decision: Decision, user: str = "") -> Whose:
        """Keyword arguments that tell a model whose a request is. `leave` is among them only where it may leave."""
        key = caller.key
        found: Whose = {"client": f"{key.name}/{user}", "tenant": self.lane_of(caller), "priority": key.priority}
        if decision.leave:
            found["leave"] = True
        return found

    def _stream(self, model: ChatModel, caller: Caller, ask: GenerateRequest, more: Mapping[str, Any]) -> ChatStream:
        """The events of a request, checked by the caller's policy, whether or not the model applies one itself. more:
        options of the request beside its own."""
        policy = self.policies(caller, ask)
        whose: dict[str, Any] = {
            "ceiling": ask.ceiling,
            "n": ask.n,
            **({"progress": True} if ask.progress and model.tells_progress else {}),
            **more,
        }
        if policy is None or model.applies_policies:
            return start_stream(model, ask, {**whose, "policy": policy})
        return GatedStream(
            policy,
            lambda: prompt_of(model, ask),
            lambda shown: start_stream(model, ask, whose, shown),
            check=lambda shown: check_shown(model, ask, shown, raw="raw" in more),
            owner=self.lane_of(caller),
            answers=ask.n,
            is_text=ask.prompt is not None,
            begun=begun_of(ask),
        )


class DialogMethod(Protocol[Out]):
    """What a model's `tokenize` and `count` have in common, as a type."""

    def __call__(
        self,
        messages: Turns,
        /,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        fits: bool = False,
        continue_final_message: bool = True,
    ) -> Out:
        """Compute something of a dialog."""


@asynccontextmanager
async def until_disconnect(request: Request | None) -> AsyncIterator[None]:
    """A context for work on a request whose body has been read: it ends, with Interrupted, when the client goes
    away."""
    if request is None:
        yield
        return
    watcher = asyncio.create_task(_gone(request, asyncio.current_task()))
    try:
        yield
    except asyncio.CancelledError:
        if not watcher.done() or watcher.cancelled():
            raise
        raise Interrupted("whoever asked is gone") from None
    finally:
        watcher.cancel()


async def _gone(request: Request, task: "asyncio.Task[Any] | None") -> None:
    """Cancel a task when the sender of its request, whose body has been read, goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if task is not None:
        task.cancel()


class ReplyInProgress:
    """A reply under way. Close it, however it ends."""

    def __init__(
        self,
        service: Service,
        caller: Caller,
        ask: GenerateRequest,
        model: ChatModel,
        stream: ChatStream,
        spending: Spending,
        stack: AsyncExitStack,
        note: str = "",
    ) -> None:
        self.note = note
        """What became of its request otherwise than it may be meant, in one line; empty: nothing."""
        self.n = ask.n
        """Number of answers."""
        self.ignored = without_effect(model, ask, strict=service.strict)
        """Fields of the request that have no effect on its model."""
        self._progress = ask.progress
        self.model = model
        self.caller = caller
        self.replies: list[Reply] = []
        """Replies of the samples that are done, in the order of their end."""
        self.created = int(time.time())
        self._service = service
        self._stream = stream
        self._spending = spending
        self._stack: AsyncExitStack | None = stack
        self._began_s = time.monotonic()
        self._prompt_tokens = stream.prompt_tokens
        self._most_tokens = (1 + ask.n) * model.context
        self._label = service.metrics.name_of(model.name)
        service.metrics.running.labels(self._label).inc()

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return self._stream.prompt_tokens

    @property
    def unread_bytes(self) -> int:
        """Bytes of the events that the reader has not taken."""
        return self._stream.unread_bytes

    @property
    def shown(self) -> str | None:
        """What a policy let the model see of a prompt that is a text or ids; None: all of it."""
        return self._stream.shown

    async def events(self) -> AsyncIterator[Event]:
        """All events of the reply. An error ends it, and the reply is closed then."""
        try:
            async for event in self._stream:
                if isinstance(event, ProgressEvent) and not self._progress:
                    continue  # whatever a model tells of itself: nobody asked
                self._spend()
                if isinstance(event, DoneEvent):
                    by = event.reply.answered_by or self._stream.answered_by
                    event = replace(event, reply=replace(event.reply, answered_by=by))
                    self._count(event.reply)
                yield event
        except HerdError as error:
            self._service.metrics.failed.labels(error.code).inc()
            self.caller.facts["error"] = error.code
            await self._close(*sys.exc_info())
            raise

    async def whole(self, request: Request | None = None) -> list[Reply]:
        """All replies, in the order of the samples; then the reply is closed. request: its client's going away ends it
        with Interrupted."""
        found: dict[int, Reply] = {}
        try:
            async with until_disconnect(request):
                async for event in self.events():
                    if isinstance(event, DoneEvent):
                        found[event.index] = event.reply
        finally:
            await self.aclose()
        if len(found) != self.n:
            fail(PassFailed, "answers", got=len(found), expected=self.n)
        return [found[i] for i in sorted(found)]

    async def aclose(self) -> None:
        """End the reply, and release its place, its pages and its model."""
        await self._close(None, None, None)

    async def _close(self, kind: Any, error: Any, trace: Any) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        self._spend()
        self._service.metrics.running.labels(self._label).dec()
        try:
            await stack.__aexit__(kind, error, trace)
        except HerdError:
            if kind is None:
                raise

    def _spend(self) -> None:
        """Charge the tokens that have come; also those of a prompt that the model counts at its end. What another
        engine tells is believed as far as its context goes: else one answer could close a key for years."""
        told = self._stream.made_tokens + self._stream.prompt_tokens - self._prompt_tokens
        self._spending.made(min(told, self._most_tokens))

    def _count(self, reply: Reply) -> None:
        metrics, name = self._service.metrics, self._label
        usage, timings = reply.usage, reply.timings
        metrics.finished.labels(name, reply.finish_reason).inc()
        if not self.replies:  # samples share the prompt
            metrics.prompt_tokens.labels(name).inc(usage.prompt_tokens)
            metrics.cached_tokens.labels(name).inc(usage.cached_tokens)
        metrics.output_tokens.labels(name).inc(usage.output_tokens)
        if usage.output_tokens:
            metrics.first_token_s.labels(name).observe(timings.first_token_s)
        if usage.output_tokens > 1:
            metrics.output_token_s.labels(name).observe(timings.decode_s / (usage.output_tokens - 1))
        metrics.whole_s.labels(name).observe(time.monotonic() - self._began_s)
        self.replies.append(reply)
        self._service.count_notes(reply.notes)
        facts = self.caller.facts
        facts["prompt_tokens"] = usage.prompt_tokens
        facts["output_tokens"] = facts.get("output_tokens", 0) + usage.output_tokens
