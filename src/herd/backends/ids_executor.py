"""An executor whose cores are another engine's, in one's own house: prompts go there as ids, ids come back.

    submit    -> a queue by client and priority, as in front of a core -> one request for each sample -> events
    cancel    closes the connection at once, so that the other side ends as well

So whatever stands in front of an executor stands in front of another engine, too: the prompt builder, stop strings, the
parser of calls, policies. What comes is checked as it comes: ids are of the vocabulary and within the grammar, an
answer is over at its first end. What it is not: an engine's form (`herd.backends.ids_wire`), a second try.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

import msgspec

from herd.backends.failures import Broken, failure
from herd.backends.gate import allow
from herd.backends.ids_wire import Heard, Wire
from herd.backends.loop_thread import LoopThread
from herd.backends.openai_stream import MOST_LOGPROB
from herd.backends.transport import Transport
from herd.engine.executors.executor import Deliver, Executor
from herd.engine.fair_queue import FairQueue
from herd.engine.forks import OwnerProcess
from herd.engine.messages import EndedEvent, Event, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent, is_last
from herd.engine.request import Reason, Request, SamplingOptions, TokenLogprob, TokenScore
from herd.engine.trace import RoutingTrace
from herd.errors import EngineDied, HerdError, NotFound, NotReady, TimedOut, UsageError, fail, herd_error
from herd.events import Counters
from herd.grammar.masks import Grammars, Matcher
from herd.ops.contract import LowRank
from herd.value_checks import too_long

PLACES = 64
"""Answers at once of an engine that does not say how many it takes."""
PIECE = 8
"""Ids that are asked for as a whole where some were lost."""
MOST_WAITING = 1 << 31
"""Requests that wait here: the front bounds them."""


@dataclass(eq=False)
class _Sample:
    """One answer that is asked for: it waits, then runs. A `Waiter` of the queue."""

    request: Request
    number: int
    seed: int
    matcher: Matcher | None
    taken_s: float
    since: int = 0
    client: str = ""
    priority: int = 0
    sent_s: float = 0.0
    """When it was sent."""
    first_s: float | None = None
    """Seconds from then to its first token."""
    task: "asyncio.Task[None] | None" = None
    timer: asyncio.TimerHandle | None = None
    over: bool = field(default=False)
    """Whether its last event is delivered."""
    started: bool = False
    read: int = 0
    said: list[int] = field(default_factory=list)
    """Ids of its answer so far."""


class IdsExecutor(Executor):
    """Has another engine compute."""

    remote: ClassVar[bool] = True
    elsewhere: ClassVar[bool] = True
    traces: ClassVar[bool] = False
    most_others: ClassVar[int] = 0
    patch_id: int | None = None
    tokens_per_tile: int = 0

    def __init__(
        self,
        wire: Wire,
        *,
        vocab_size: int,
        context: int,
        places: int | None = None,
        grammars: Callable[[], Grammars] | None = None,
        transport: Transport | None = None,
    ) -> None:
        """vocab_size: ids below it are tokens. context: of prompt and answer together. places: most answers at once;
        None: as many as the engine says. grammars: makes what answers are followed with. Raises MissingExtra where
        httpx is not installed, UsageError for a target outside of the house."""
        target = wire.target
        if not target.in_house:
            got = "one outside of the house"
            fail(UsageError, f"{target.name} by ids", got=got, expected="an engine in your own house", do="--by chat")
        self._wire, self._target = wire, target
        self._transport = transport or Transport(target)
        self.vocab_size, self.context = vocab_size, context
        self.lacks = frozenset(
            {"images", "embeddings"}
            | ({"scores"} if not wire.scores else set())
            | ({"schemas"} if not wire.facts.grammars else set())
        )
        self.tells_progress = wire.tells_progress
        self._places = places or wire.facts.places or PLACES
        self._make_grammars, self._grammars = grammars, None if grammars is None else grammars()
        self._home = OwnerProcess()
        self._deliver: Deliver = lambda events: None
        self._over: HerdError | None = None
        self._loop = LoopThread()
        self._queue: FairQueue[_Sample] = FairQueue(MOST_WAITING)
        self._samples: dict[int, _Sample] = {}
        self._running = 0
        self._tick = 0
        self._counters = Counters()

    @property
    def engine(self) -> str:
        """The name of the engine."""
        return self._wire.engine

    def defaults(self, options: SamplingOptions) -> SamplingOptions:
        """What calls use where they say nothing, as far as the engine can do it."""
        return self._wire.defaults(options)

    # -- an Executor -------------------------------------------------------------------------------------------------

    def connect(self, deliver: Deliver) -> None:
        """See Executor."""
        self._deliver = deliver

    def check(self, request: Request) -> None:
        """See Executor: what the other engine would do otherwise than Herd, or not at all, is refused by name."""
        self._wire.check(request)
        room = 0 if request.want.what == "tokens" else 1
        if len(request.ids) >= self.context + room:
            too_long(
                f"the prompt has {len(request.ids)} tokens, {self._target.name} holds {self.context} with an answer"
            )

    def submit(self, request: Request, routing: RoutingTrace | None = None) -> None:
        """See Executor. A grammar is compiled here, on the caller's thread."""
        self._home.check()
        if self._over is not None:
            raise self._over
        self._wire.check(request)
        matchers = [self._matcher(request) for _ in request.numbers]
        pairs = ((request.number, request.seed), *request.samples)
        taken_s = time.monotonic()
        samples = [
            _Sample(request, number, seed, matcher, taken_s, client=request.client, priority=request.priority)
            for (number, seed), matcher in zip(pairs, matchers, strict=True)
        ]
        self._on_loop(lambda: self._enter(samples))

    def cancel(self, number: int) -> None:
        """See Executor. The connection closes at once."""
        if self._over is None and self._home.is_here:
            self._on_loop(lambda: self._end(self._samples.get(number), None))

    def update_weights(self, weights: Any, check: Callable[[], None] | None = None) -> None:
        """See Executor. Raises Unsupported: the weights are the other engine's."""
        self._refuse("other weights")

    def add_adapter(self, name: str, tensors: Mapping[str, LowRank]) -> None:
        """See Executor. Raises Unsupported."""
        self._refuse("adapters")

    def drop_adapter(self, name: str) -> None:
        """See Executor. Raises NotFound: there are none."""
        fail(NotFound, "adapter", got=name, expected=f"none: {self._target.name} is another engine's")

    @property
    def adapters(self) -> Sequence[str]:
        """See Executor."""
        return ()

    @property
    def counters(self) -> Counters:
        """See Executor: what came from the other engine."""
        return self._counters

    @property
    def over(self) -> HerdError | None:
        """See Executor. An engine that is away may come back: only closing ends it."""
        return self._over

    def close(self) -> None:
        """See Executor. In a fork there is nothing to end."""
        if not self._home.is_here or self._over is not None:
            return
        self._over = EngineDied("the model was closed while this request was under way")
        if self._loop.is_here:  # whoever collects what nobody uses
            self._end_all()
        elif self._loop.is_running:
            with suppress(NotReady):
                self._loop.run(self._ended_all)
        self._loop.close()

    def _refuse(self, what: str) -> NoReturn:
        self._wire.refuse(what, "some", "none")

    def _matcher(self, request: Request) -> Matcher | None:
        if request.options.grammar is None:
            return None
        if self._grammars is None:
            fail(UsageError, "grammar", got="an engine that knows no vocabulary", expected="one with `grammars`")
        return self._grammars.matcher(request.options.grammar, request.salt, request.client, request.begun)

    # -- on the loop's thread ----------------------------------------------------------------------------------------

    def _on_loop(self, step: Callable[[], None]) -> None:
        """Take a step on the loop, after those that were handed to it before."""

        async def taken() -> None:
            step()

        try:
            self._loop.submit(taken)
        except NotReady:
            if self._over is not None:
                raise self._over from None

    def _enter(self, samples: Sequence[_Sample]) -> None:
        """Queue the samples of a request."""
        loop = asyncio.get_running_loop()
        for sample in samples:
            sample.since = self._tick
            self._samples[sample.number] = sample
            if (timeout_s := sample.request.timeout_s) is not None:
                left = max(sample.taken_s + timeout_s - time.monotonic(), 0)
                error = TimedOut(f"{self._target.name}: no whole answer within the {timeout_s:g} s of the request")
                sample.timer = loop.call_later(left, self._end, sample, error)
            self._queue.put_back(sample)
        self._start()

    def _start(self) -> None:
        """Send what has a place now."""
        while self._running < self._places and (sample := self._queue.head(self._tick)) is not None:
            self._queue.start(sample)
            self._queue.charge(sample.client, len(sample.request.ids))
            self._running += 1
            sample.sent_s = time.monotonic()
            sample.task = asyncio.get_running_loop().create_task(self._run(sample))

    async def _run(self, sample: _Sample) -> None:
        """Ask for one answer, and give back its place."""
        try:
            await self._ask(sample)
        except asyncio.CancelledError:
            pass  # its end is delivered
        except BaseException as error:
            self._end(sample, herd_error(error))
        finally:
            self._queue.leave(sample, running=True)
            self._running -= 1
            self._start()

    async def _ask(self, sample: _Sample) -> None:
        request = sample.request
        most = self.context - len(request.ids)
        most = min(most, request.options.max_tokens or most)
        answer, piece = _Answer(self._wire, sample, self.vocab_size, most), None
        while not sample.over:
            before = len(sample.said)
            goes_on = await self._part(sample, answer, most, piece)
            if not sample.over and (not goes_on or (piece is not None and len(sample.said) == before)):
                raise failure(Broken, self._target, "cut its answer: no end came")
            piece = PIECE if piece is None else None

    async def _part(self, sample: _Sample, answer: "_Answer", most: int, piece: int | None) -> bool:
        """One request for what is left of an answer, or for a piece of it. Returns whether it goes on behind that."""
        wire, request = self._wire, sample.request
        reader = wire.reader(request, piece)
        body = msgspec.json.encode(wire.body(request, sample.seed, most, sample.said, piece))
        post = self._transport.post(wire.path, body, allow(self._target, leave=False))
        async with aclosing(post):
            async for value in post:
                if value is None or sample.over:
                    break
                heard = reader.take(value)
                if piece is not None and heard.finish == "length":
                    heard = replace(heard, finish=None)
                self._tell(sample, answer.events(heard))
                if heard.lost:
                    return True
        return piece is not None

    def _tell(self, sample: _Sample, events: Sequence[Event]) -> None:
        """Deliver events of a sample that is not over; forget it with its last one."""
        if not events or sample.over:
            return
        self._tick += 1
        self._count(sample, events)
        if is_last(events[-1]):
            self._forget(sample)
        self._deliver(events)

    def _count(self, sample: _Sample, events: Sequence[Event]) -> None:
        tokens = sum(isinstance(event, TokenEvent) for event in events)
        self._queue.charge(sample.client, tokens)
        cached = sum(event.cached for event in events if isinstance(event, StartedEvent))
        admitted = sum(isinstance(event, StartedEvent) for event in events)
        self._counters = Counters(
            rows=self._counters.rows + tokens + admitted * len(sample.request.ids) - cached,
            admitted=self._counters.admitted + admitted,
            cached_tokens=self._counters.cached_tokens + cached,
        )

    def _forget(self, sample: _Sample) -> None:
        sample.over = True
        self._samples.pop(sample.number, None)
        if sample.timer is not None:
            sample.timer.cancel()

    def _end(self, sample: _Sample | None, error: HerdError | None) -> None:
        """End a sample without a last token, wherever it is."""
        if sample is None or sample.over:
            return
        self._forget(sample)
        if sample.task is None:
            self._queue.leave(sample, running=False)
        elif sample.task is not asyncio.current_task():
            sample.task.cancel()
        self._deliver([EndedEvent(sample.number, error)])

    async def _ended_all(self) -> None:
        self._end_all()

    def _end_all(self) -> None:
        for sample in list(self._samples.values()):
            self._end(sample, self._over)


class _Answer:
    """What comes of one sample, checked, as events of a core."""

    def __init__(self, wire: Wire, sample: _Sample, vocab_size: int, most: int) -> None:
        self._target, self._sample = wire.target, sample
        self._vocab_size, self._most = vocab_size, most
        options = sample.request.options
        self._ends = frozenset({*sample.request.end_ids, *options.stop_ids})
        self._matcher = sample.matcher

    def events(self, heard: Heard) -> list[Event]:
        """Events of what was heard. Raises Broken for what is no answer to the request."""
        sample, found = self._sample, list[Event]()
        self._check(heard)
        if not sample.started and (heard.tokens or heard.scores or heard.finish or heard.cached is not None):
            sample.started = True
            found.append(StartedEvent(sample.number, min(heard.cached or 0, len(sample.request.ids))))
        if heard.read is not None and sample.request.progress and heard.read > sample.read:
            sample.read = min(heard.read, len(sample.request.ids))
            found.append(ReadEvent(sample.number, sample.read, time.monotonic() - sample.sent_s))
        if sample.request.want.what == "logprobs":
            return [*found, *self._measured(heard)]
        for token_id, logprob in heard.tokens:
            reason = self._reason(token_id)
            found.append(self._token(token_id, reason, logprob))
            if reason is not None:
                return found  # what comes behind an end is no part of the answer
        if heard.finish is not None:
            self._check_end()
            found.append(EndedEvent(sample.number, reason=heard.finish))
        return found

    def _check(self, heard: Heard) -> None:
        """Raise Broken for counts and likelihoods that are none: each id that is told is of the vocabulary."""
        if heard.cached is not None and heard.cached < 0:
            raise failure(Broken, self._target, "sent a count of cached tokens that is none")
        told: list[TokenLogprob | TokenScore] = [likely for _, likely in heard.tokens if likely is not None]
        told += heard.scores
        for one in told:
            for token_id, logprob in ((one.token_id, one.logprob), *one.top):
                if not 0 <= token_id < self._vocab_size:
                    raise self._outside(token_id)
                if logprob > MOST_LOGPROB:
                    raise failure(Broken, self._target, "sent log-probabilities that are none")

    def _outside(self, token_id: int) -> HerdError:
        what = f"said the id {token_id}, which the vocabulary of {self._vocab_size} has not"
        return failure(Broken, self._target, what)

    def _measured(self, heard: Heard) -> list[Event]:
        if heard.finish is None:
            return []
        wanted = len(self._sample.request.ids) - self._sample.request.want.start
        if len(heard.scores) != wanted:
            raise failure(Broken, self._target, f"scored {len(heard.scores)} ids of {wanted}")
        took_s = time.monotonic() - self._sample.sent_s
        return [MeasuredEvent(self._sample.number, "stop", took_s, heard.scores)]

    def _token(self, token_id: int, reason: Reason | None, logprob: Any) -> TokenEvent:
        sample, now = self._sample, time.monotonic()
        if sample.first_s is None:
            sample.first_s = now - sample.sent_s
        return TokenEvent(sample.number, token_id, reason, now - sample.taken_s, sample.first_s, logprob)

    def _reason(self, token_id: int) -> Reason | None:
        """Why an answer ends with this id; None: it goes on. Raises Broken for one that it may not hold."""
        sample = self._sample
        if not 0 <= token_id < self._vocab_size:
            raise self._outside(token_id)
        if not self._follows(token_id):
            raise failure(Broken, self._target, "said what the schema, grammar or forced call does not allow")
        sample.said.append(token_id)
        if token_id in self._ends:
            return "stop"
        return "length" if len(sample.said) >= self._most else None

    def _follows(self, token_id: int) -> bool:
        """Whether the grammar, if there is one, goes on or ends with this id."""
        matcher = self._matcher
        return matcher is None or (token_id in self._ends and matcher.is_over) or matcher.follow([token_id]) == 1

    def _check_end(self) -> None:
        """Raise Broken where an end that no id says comes amid what a grammar asks for."""
        matcher = self._matcher
        if matcher is not None and not matcher.is_over and not matcher.num_allowed([matcher.end_id]):
            raise failure(Broken, self._target, "ended its answer before the schema, grammar or call was complete")
