"""The heart: schedule -> one pass -> sample, or measure -> events. Ids only, no threads, no text.

A step never raises because of a request. A pass that raises is run again piece by piece, the piece that raises alone
fails its own sequence, and the cache is audited; logits or activations that are not finite fail their sequence with
the name of the layer where they first appear. Because a row's result does not depend on what else is in the pass, a
sequence gives the same tokens whoever it shares the steps with.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from herd.cache import Lease
from herd.engine.adapters import Adapter, AdapterRegistry
from herd.engine.device_draws import Chosen, DeviceLogits, DrawRequest, Row, drawn_rows
from herd.engine.messages import EndedEvent, Event, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent
from herd.engine.request import Reason, Request, TokenLogprob
from herd.engine.request_checks import RequestChecker
from herd.engine.runner import Chunk, Logits, ModelRunner, NotFinite
from herd.engine.sampler import History, logprob, sample
from herd.engine.scheduler import Scheduler
from herd.engine.scheduler import Sequence as Scheduled
from herd.engine.score import Measure, measure_of
from herd.engine.speculative import DraftLength, PromptLookup, Proposer
from herd.engine.step_times import StepTimes
from herd.engine.tiles import Tiles
from herd.errors import BadCheckpoint, HerdError, PassFailed, UsageError, fail, kind_and_words
from herd.events import Counters
from herd.grammar.masks import Matcher

Router = Callable[[int], Any]
"""Number of a traced sequence -> the `Routing` that hears of its experts."""


@dataclass(eq=False, kw_only=True)
class Entry(Scheduled):
    """A sequence of the scheduler with what it takes to draw its tokens: sampler state, grammar, adapter, images."""

    request: Request
    """The request; its further samples have the same one."""
    seed: int = 0
    """The seed of this sample, among those of its request."""
    ends: frozenset[int] = frozenset()
    history: History = field(default_factory=History)
    num_prompt: int = 0
    num_output: int = 0
    tiles: Tiles | None = None
    taken_s: float = 0.0
    begun: bool = False
    """Whether it was told that it is let in."""
    read: int = 0
    """Positions of its prompt that were told to be read."""
    began_s: float | None = None
    prefill_s: float = 0.0
    siblings: list["Entry"] = field(default_factory=list)
    """Further samples of the same prompt, until it is computed."""
    parent: "Entry | None" = None
    """The entry whose prompt it waits for, as a further sample."""
    matcher: Matcher | None = None
    """The state in its grammar; None: it has none."""
    adapter: Adapter | None = None
    """The adapter that it is computed with, to its end."""
    speculates: bool = False
    """Whether it takes guesses."""
    wanted: int = 0
    """Ids to guess in this step."""
    draft_length: DraftLength = field(default_factory=DraftLength)
    proposal: list[int] = field(default_factory=list)
    ended: bool = False
    measure: Measure | None = None
    """Takes its rows; None: it wants tokens."""
    continuation: int = 0
    """How many continuations of the same ids were computed before the one that it has now."""

    @property
    def wants_from(self) -> int:
        """The first position whose row is still wanted, see scheduler.Sequence. Rows that were taken before a
        preemption are not wanted again."""
        last = len(self.ids) - 1
        return last if self.measure is None else min(self.measure.next, last)


class Core:
    """Runs sequences together over one runner, a step at a time.

    budget: most rows of a pass. places: most sequences that run at once. most_waiting: most requests in the queue.
    clock: monotonic seconds. router: traces the experts that tokens go to; None: nothing is traced. proposer: guesses
    ids for requests that speculate; None: prompt look-up. num_tokens: ids below it are tokens of the vocabulary, see
    request_checks.RequestChecker.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        budget: int = 512,
        places: int = 8,
        most_waiting: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        router: Router | None = None,
        proposer: Proposer | None = None,
        num_tokens: int | None = None,
    ) -> None:
        self.runner = runner
        self._checker = RequestChecker.of(runner, num_tokens)
        self._barred_B = self._checker.barred()
        self.scheduler: Scheduler[Entry] = Scheduler(
            runner.cache, budget=budget, places=places, most_waiting=most_waiting
        )
        self._clock = clock
        self._router = router
        self._proposer: Proposer = PromptLookup() if proposer is None else proposer
        self.adapters = AdapterRegistry()
        """The adapters that requests may name; changed between two steps only."""
        self.counters = Counters()
        self._step_times = StepTimes()
        self._entries: dict[int, Entry] = {}
        self._events: list[Event] = []

    # -- requests ----------------------------------------------------------------------------------------------------

    def add(self, request: Request, matcher: Matcher | None = None) -> None:
        """Queue a request, and its further samples with it. matcher: in the request's grammar, behind what is begun.

        Raises Busy when the queue is full, NotFound for an unknown adapter, and UsageError for a request that no front
        should have let in: nothing has changed then.
        """
        self._checker.check_whole(request)
        taken = self._entries.keys() & set(request.numbers)
        if taken:
            fail(UsageError, "number", got=min(taken), expected="one that no sequence under way has")
        if (request.options.grammar is None) != (matcher is None):
            fail(UsageError, "grammar", got="it without a matcher, or the reverse", expected="both or neither")
        adapter = self.adapters.get(request.adapter)
        first = self._entry(request, request.number, request.seed, matcher, adapter)
        self.scheduler.add(first)
        self._entries[first.number] = first
        for number, seed in request.samples:
            sibling = self._entry(request, number, seed, None if matcher is None else matcher.copy(), adapter)
            self._entries[number] = sibling
            sibling.parent = first
            first.siblings.append(sibling)

    def cancel(self, number: int) -> None:
        """End a sequence now and free its pages. One that has ended already stays as it was."""
        entry = self._entries.get(number)
        if entry is not None:
            self._close(entry, EndedEvent(number))

    def update_weights(self, use: Callable[[], None]) -> None:
        """Call `use`, between two steps, which puts other weights in place (see ModelRunner.ready_weights).

        Running sequences keep the tokens that they have, give their pages back and wait; all of their ids are computed
        again. Everything that came of the old weights is forgotten: cached prefixes, features of images, half-done
        measurements, statistics of guesses.
        """
        self.scheduler.preempt_all()
        self.runner.cache.clear()
        for entry in self._entries.values():
            entry.draft_length = DraftLength()
            if entry.measure is not None:
                entry.measure.forget()
            if entry.tiles is not None:
                entry.tiles.forget()
        try:
            self._proposer.clear()
        except BaseException as error:  # a guess is worth no failure
            _not_ours(error)
        use()  # last: nothing of the old ones is left by now, whatever goes wrong before

    @property
    def busy(self) -> bool:
        """Whether any sequence waits or runs, so that there is a step to make."""
        return self.scheduler.busy or bool(self._events)

    def _entry(
        self, request: Request, number: int, seed: int, matcher: Matcher | None, adapter: Adapter | None
    ) -> Entry:
        now = self._clock()
        what, pixels_I3SS = request.want.what, request.pixels_I3SS
        ids = list(request.ids[:-1] if what == "logprobs" else request.ids)  # nobody asks what follows the last
        return Entry(
            number=number,
            ids=ids,
            keys=_keys(ids, request, self.runner),
            client=request.client,
            priority=request.priority,
            deadline=None if request.timeout_s is None else now + request.timeout_s,
            salt=request.salt if adapter is None else adapter.salt(request.salt),
            shares=not request.traced,
            heads=what in ("logprobs", "logits"),
            request=request,
            seed=seed,
            ends=frozenset(request.end_ids).union(request.options.stop_ids),
            history=History(ids),
            num_prompt=len(ids),
            tiles=None if pixels_I3SS is None or not len(pixels_I3SS) else Tiles(pixels_I3SS),
            taken_s=now,
            matcher=matcher,
            adapter=adapter,
            speculates=what == "tokens" and not request.traced and request.options.speculate != "off",
            measure=measure_of(request.ids, request.want, self._barred_B),
        )

    # -- a step ------------------------------------------------------------------------------------------------------

    def step(self, told: Callable[[list[Event]], None] | None = None) -> list[Event]:
        """Run one step and return its events. It may have no pass: when only deadlines passed, or nothing fits. told:
        is given those that are known before the pass, where it begins a prompt whose request wants to be told how
        reading goes on."""
        if self.scheduler.busy:
            decodes = self._propose()
            plan = self.scheduler.schedule(self._clock(), self._step_times.beside(decodes))
            self.counters.admitted += len(plan.admitted)
            self.counters.preempted += len(plan.preempted)
            self.counters.evicted_pages = self.runner.cache.evicted_pages
            begins = [entry for entry, _ in plan.work if not entry.begun]
            for entry in begins:
                self._began(entry)
            for entry, error in plan.ended:
                self._closed(entry, EndedEvent(entry.number, error))
            if told is not None and any(e.request.progress for e in begins):
                told(self._taken_events())
            together = [(e, n) for e, n in plan.work if not e.request.traced]
            if together:
                self._pass(together)
            for e, n in plan.work:
                if e.request.traced and not e.ended:
                    self._pass([(e, n)])
        return self._taken_events()

    def _taken_events(self) -> list[Event]:
        """The events so far, which nobody has been given."""
        events, self._events = self._events, []
        return events

    def _propose(self) -> int:
        """Ask the proposer for guesses for sequences that decode; returns how many sequences decode."""
        decoding = [e for e in self.scheduler.running if e.todo == 1]
        plain_s = self._step_times.plain_s(len(decoding))
        guessed: list[Entry] = []
        for entry in self.scheduler.running:
            entry.proposal = []
            entry.extra = 0
            if not entry.speculates or entry.todo != 1 or not entry.num_output:
                continue
            left = self.runner.context - len(entry.ids)
            if entry.request.options.max_tokens is not None:
                left = min(left, entry.request.options.max_tokens - entry.num_output - 1)
            entry.wanted = min(left, entry.draft_length.most(plain_s, self._step_times.extra_s, len(decoding)))
            if entry.wanted > 0:
                guessed.append(entry)
        if guessed:
            self._guess(guessed)
        return len(decoding)

    def _guess(self, entries: Sequence[Entry]) -> None:
        """Fill in the proposals of these sequences. A proposer that raises counts as one without a guess."""
        try:
            found = list(self._proposer.propose(entries))
        except BaseException as error:
            _not_ours(error)
            return
        for entry, ids in zip(entries, found, strict=False):
            try:
                entry.proposal = self._taken(entry, ids)
            except BaseException as error:
                _not_ours(error)
            entry.extra = len(entry.proposal)

    def _taken(self, entry: Entry, ids: Sequence[int]) -> list[int]:
        """The part of a guess that may follow: at most `wanted` ids of the vocabulary that the grammar allows."""
        found = list(itertools.takewhile(self._may_say, ids[: entry.wanted]))
        if entry.matcher is not None and found:
            del found[entry.matcher.num_allowed(found) :]
        return found

    def _may_say(self, token_id: int) -> bool:
        """Whether an answer may hold this id: one of the vocabulary, and not the patch id, which would need an
        image."""
        return token_id != self.runner.patch_id and 0 <= token_id < self._checker.num_tokens

    def _began(self, entry: Entry) -> None:
        if not entry.begun:
            entry.begun = True
            self.counters.cached_tokens += entry.cached or 0
            entry.read = entry.cached or 0
            self._events.append(StartedEvent(entry.number, entry.cached or 0))

    def _read(self, entry: Entry) -> None:
        """Tell how much of a prompt is read, where that was asked for; what is computed again is not told again."""
        if not entry.request.progress:
            return
        assert entry.lease is not None
        if entry.lease.length > entry.read:
            entry.read = entry.lease.length
            prefill_s = self._clock() - (entry.began_s or 0.0)
            self._events.append(ReadEvent(entry.number, entry.read, prefill_s))

    def _pass(self, work: Sequence[tuple[Entry, int]]) -> None:
        ready: list[tuple[Entry, Chunk]] = []
        for entry, n in work:
            try:
                ready.append((entry, self._piece(entry, n)))
            except BaseException as error:
                self._failed(entry, _not_ours(error))
        began_s = self._clock()
        decodes = sum(entry.todo == 1 for entry, _ in ready)
        extra = sum(len(piece.ids) - 1 for entry, piece in ready if entry.todo == 1)
        rows = sum(len(piece.ids) for _, piece in ready)
        heads = sum(len(piece.rows or ()) for entry, piece in ready if entry.heads and entry.todo > 1)
        if ready and self._compute(ready):
            self._step_times.seen(self._clock() - began_s, decodes, rows - decodes - extra, extra, heads)

    def _compute(self, ready: list[tuple[Entry, Chunk]]) -> bool:
        """Run these pieces in one pass, or one by one when that fails; returns whether the joint pass succeeded."""
        entry = ready[0][0]
        routing = self._router(entry.number) if entry.request.traced and self._router is not None else None
        try:
            rows = self._rows(ready, self.runner.compute([piece for _, piece in ready], routing))
        except KeyboardInterrupt:
            for entry, _ in ready:
                self._close(entry, EndedEvent(entry.number))
            return False
        except BaseException as error:
            _not_ours(error)
            self.counters.failed_passes += 1
            for _, piece in ready:
                if piece.lease.pending:  # it was computed, and its tokens could not be drawn
                    self.runner.cache.commit(piece.lease, 0)
            certain = [(entry, _certain(entry, piece)) for entry, piece in ready]
            if len(ready) == 1 and certain[0][1] is ready[0][1]:
                self._failed(entry, error, ready[0][1])
            else:
                for one in certain:
                    self._compute([one])
            self.runner.cache.check()
            return False
        self.counters.passes += 1
        at = 0
        for entry, piece in ready:
            self.counters.rows += len(piece.ids)
            if entry.measure is not None:
                self._measured(entry, entry.measure)
                continue
            count = 1 if piece.rows is None else len(piece.rows)
            self._draw(entry, piece, rows[at : at + count])
            at += count
        return True

    def _rows(self, ready: Sequence[tuple[Entry, Chunk]], logits: Logits | DeviceLogits) -> Sequence[Row]:
        """One row of logits (or what was drawn of it on the device) for each wanted row of the pass."""
        if not isinstance(logits, DeviceLogits):
            return list(logits)
        requests_R = [
            [
                DrawRequest(e.request.options, e.seed, e.num_output + n)
                for e in (entry, *([] if entry.num_output else entry.siblings))
            ]
            for entry, piece in ready
            if piece.reader is None
            for n in range(1 if piece.rows is None else len(piece.rows))
        ]
        return drawn_rows(logits, requests_R, self._barred_B)

    def _piece(self, entry: Entry, n: int) -> Chunk:
        """The next n rows of a sequence as a piece of a pass."""
        assert entry.lease is not None
        start, todo = entry.lease.length, entry.todo
        if entry.began_s is None:
            entry.began_s = self._clock()
        ids = entry.ids[start : start + n] + entry.proposal[: max(0, n - todo)]
        features: tuple[Any, ...] = ()
        if entry.tiles is not None and start < entry.num_prompt:  # no answer holds a patch
            patch_id = self.runner.patch_id
            first = sum(i == patch_id for i in entry.ids[:start])
            wanted = sum(i == patch_id for i in ids)
            have, features = entry.tiles.features(first, wanted, self.runner)
            if have < wanted:
                # as far as the tiles that one step looks at go: others need not wait for all of an album
                places = [t for t, i in enumerate(ids) if i == patch_id]
                ids = ids[: places[have]]
        if entry.measure is not None:
            wanted_rows = range(0 if entry.measure.states else max(0, entry.measure.next - start), len(ids))
            return Chunk(entry.lease, ids, (), wanted_rows, entry.adapter, entry.measure)
        rows: Sequence[int] | None = None
        if len(ids) < todo:
            rows = ()
        elif len(ids) > todo:
            rows = range(todo - 1, len(ids))
        return Chunk(entry.lease, ids, features, rows, entry.adapter)

    # -- numbers -----------------------------------------------------------------------------------------------------

    def _measured(self, entry: Entry, measure: Measure) -> None:
        """Tell what the rows of a sequence that is measured have given."""
        assert entry.lease is not None
        self.runner.cache.commit(entry.lease)
        entry.ended = entry.todo == 0 and not self._goes_on(entry, measure)
        scores, rows_RX = measure.give(last=entry.ended)
        if scores or rows_RX is not None:
            reason: Reason | None = "stop" if entry.ended else None
            prefill_s = self._clock() - (entry.began_s or 0.0)
            self._events.append(MeasuredEvent(entry.number, reason, prefill_s, scores, rows_RX))
        if entry.ended:
            self._leave(entry)
        elif entry.request.want.keep and entry.continuation == 0:
            self.runner.cache.insert(entry.lease, entry.keys, entry.salt, over=False)

    def _goes_on(self, entry: Entry, measure: Measure) -> bool:
        """Put the next continuation that wants rows of its own in the place of the one that is done; False: there is
        none. What was computed of the ids before it stays."""
        more = measure.further()
        if more is None:
            return False
        assert entry.lease is not None
        assert entry.keys is entry.ids, "what is measured has no images"
        place, ids = more
        if entry.request.want.keep and entry.continuation == 0:
            self.runner.cache.insert(entry.lease, entry.keys, entry.salt, over=False)
        entry.continuation += 1
        self.scheduler.go_back(entry, place)
        entry.ids[place:] = ids
        return True

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _draw(self, entry: Entry, piece: Chunk, rows: Sequence[Row]) -> None:
        """Draw tokens of one sequence from its rows of a pass; proposals are kept while they equal what is drawn."""
        assert entry.lease is not None
        cache, lease = self.runner.cache, entry.lease
        if not len(rows):
            cache.commit(lease)
            # now: chunked layers forget a chunk when it is over
            cache.insert(lease, entry.keys, entry.salt, over=False)
            if not entry.num_output:
                self._read(entry)
            return
        first = entry.num_output == 0
        certain = len(piece.ids) - (len(rows) - 1)
        proposed = piece.ids[certain:]
        kept = 0
        try:
            drawn = self._choose(entry, rows[0])
            if first:
                cache.commit(lease)
                self._read(entry)
                self._computed(entry, rows[0])
            while self._say(entry, *drawn) is None and kept < len(proposed) and drawn[0] == proposed[kept]:
                kept += 1
                drawn = self._choose(entry, rows[kept])
        except BaseException as error:
            self._failed(entry, _not_ours(error), piece)
            return
        if proposed:
            entry.draft_length.seen(len(proposed), kept)
            self.counters.proposed += len(proposed)
            self.counters.kept += kept
        if not first:
            cache.commit(lease, certain + kept)
        if entry.ended:
            self._leave(entry)

    def _choose(self, entry: Entry, row: Row) -> Chosen:
        if callable(row):
            return row(entry.seed, entry.num_output)
        options, logits_V = entry.request.options, row
        allowed_A = None if entry.matcher is None else entry.matcher.allowed()
        token_id = sample(logits_V, options, entry.history, entry.seed, entry.num_output, allowed_A, self._barred_B)
        return token_id, None if options.logprobs is None else logprob(logits_V, token_id, options.logprobs)

    def _say(self, entry: Entry, token_id: int, chosen: TokenLogprob | None) -> Reason | None:
        """Add a token to a sequence and tell it; returns why it is the last one, or None."""
        options = entry.request.options
        now = self._clock()
        if entry.num_output == 0:
            entry.prefill_s = now - (entry.began_s if entry.began_s is not None else now)
        entry.num_output += 1
        entry.history.add(token_id)  # its list is entry.ids
        if entry.keys is not entry.ids:
            entry.keys.append(token_id)
        reason: Reason | None = None
        if token_id in entry.ends:
            reason = "stop"
        elif entry.num_output == options.max_tokens or len(entry.ids) > self.runner.context:
            reason = "length"
        elif entry.matcher is not None:
            entry.matcher.accept(token_id)
        entry.ended = reason is not None
        self._events.append(TokenEvent(entry.number, token_id, reason, now - entry.taken_s, entry.prefill_s, chosen))
        if reason is None and entry.matcher is not None and entry.matcher.is_over and options.logprobs is None:
            return self._say(entry, entry.matcher.end_id, None)  # it is certain: no pass need say so
        return reason

    def _computed(self, entry: Entry, row: Row) -> None:
        """The prompt is in the cache now: make it findable, and start the request's further samples."""
        assert entry.lease is not None
        self.runner.cache.insert(entry.lease, entry.keys, entry.salt, over=False)
        siblings, entry.siblings = entry.siblings, []
        for sibling in siblings:
            self._fork(entry, sibling, row)

    def _fork(self, entry: Entry, sibling: Entry, row: Row) -> None:
        assert entry.lease is not None
        sibling.parent = None
        lease = self.runner.cache.fork(entry.lease)
        if not self.scheduler.join(sibling, lease):
            self.runner.cache.drop(lease)
            self.scheduler.readd(sibling)  # it finds the prompt in the cache when its turn comes
            return
        self.counters.forked += 1
        sibling.cached, sibling.began_s = entry.cached, entry.began_s
        self._began(sibling)
        self._read(sibling)
        try:
            self._say(sibling, *self._choose(sibling, row))
        except BaseException as error:
            self._failed(sibling, _not_ours(error))
            return
        if sibling.ended:
            self._leave(sibling)

    # -- endings -----------------------------------------------------------------------------------------------------

    def _leave(self, entry: Entry) -> None:
        """End a sequence that is complete: what it computed stays in the prefix cache."""
        assert entry.lease is not None
        if entry.request.want.keep:
            self.runner.cache.insert(entry.lease, entry.keys, entry.salt, over=True)
        self.scheduler.remove(entry)
        del self._entries[entry.number]
        self._unguessed(entry)

    def _close(self, entry: Entry, event: EndedEvent) -> None:
        """End a sequence at any point of its life, with this event."""
        if entry.parent is not None:
            entry.parent.siblings.remove(entry)
        else:
            if entry.lease is not None and entry.num_output and event.error is None:
                self.runner.cache.insert(entry.lease, entry.keys, entry.salt, over=True)
            self.scheduler.remove(entry)
        self._closed(entry, event)

    def _closed(self, entry: Entry, event: EndedEvent) -> None:
        """After the scheduler has removed a sequence: tell the event. The first of its further samples, which waited
        for its prompt, takes its place in the queue."""
        entry.ended = True
        self._entries.pop(entry.number, None)
        self._unguessed(entry)
        self._events.append(event)
        if entry.siblings:
            heir, *others = entry.siblings
            entry.siblings = []
            heir.parent, heir.siblings = None, others
            for other in others:
                other.parent = heir
            self.scheduler.readd(heir)

    def _unguessed(self, entry: Entry) -> None:
        """Tell the proposer that this sequence has ended."""
        try:
            self._proposer.drop(entry.number)
        except BaseException as error:  # a guess is worth no failure
            _not_ours(error)

    def _failed(self, entry: Entry, error: BaseException, piece: Chunk | None = None) -> None:
        """End one sequence because of an error of its own."""
        lease: Lease | None = entry.lease
        if lease is not None and lease.pending:
            self.runner.cache.commit(lease, 0)
        if piece is not None and isinstance(error, BadCheckpoint | NotFinite):
            error = self._where(piece, error)
        if not isinstance(error, HerdError):
            wrapped = PassFailed(f"a pass of this request failed: {kind_and_words(error)}")
            wrapped.__cause__ = error
            error = wrapped
        self._close(entry, EndedEvent(entry.number, error))

    def _where(self, piece: Chunk, error: BaseException) -> BaseException:
        """Compute a piece once more, looking at the output of every layer: the error that names the first part that is
        not finite."""
        if piece.lease.pending:
            self.runner.cache.commit(piece.lease, 0)
        try:
            name = self.runner.first_not_finite(piece)
        except BaseException as again:
            return _not_ours(again)
        if name is None:
            return error
        found = BadCheckpoint(f"{name}: its output is not finite; verify the model's files")
        found.__cause__ = error
        return found


def _certain(entry: Entry, piece: Chunk) -> Chunk:
    """The piece without its proposed ids."""
    todo = entry.todo
    return (
        piece if len(piece.ids) <= todo else Chunk(piece.lease, piece.ids[:todo], piece.features, adapter=piece.adapter)
    )


def _not_ours(error: BaseException) -> BaseException:
    """Return an error that belongs to a sequence; raise one that ends the process. A panic of a Rust library, which is
    no Exception, belongs to the sequence."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return error


def _keys(ids: list[int], request: Request, runner: ModelRunner) -> list[Any]:
    """The keys of cached positions: the ids themselves (the same list); for a row of an image (digest of its tile,
    place in it)."""
    if not request.digests:
        return ids
    keys: list[Any] = list(ids)
    for n, t in enumerate(t for t, i in enumerate(ids) if i == runner.patch_id):
        tile, place = divmod(n, runner.tokens_per_tile)
        keys[t] = (request.digests[tile], place)
    return keys
