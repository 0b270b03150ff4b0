"""The scheduler: which rows of which sequences the next pass computes. Plain integers, no clock of its own, no arrays.

A sequence is its ids so far and the length that the cache holds; `todo` is the difference. That one number makes
prefill, decode and recomputation after preemption the same thing: one step computes the next rows of `todo`, and only
the pass that reaches the end asks for logits.

    a step    expire    requests whose deadline has passed
              admit     the most urgent of those that wait, while there are places and pages for all of its ids
              fill      one row for each decode, then prompt rows up to the budget, the client furthest behind first;
                        who begins like a prompt that has rows in this step waits, and begins with its pages later
              fit       in order of rank (priority, age): pages for each; when they run out, cached prefixes are let go,
                        then a prompt's piece is made smaller, then the lowest in rank gives up its place and waits

Whoever is preempted keeps its ids; what it had is computed again later (from the prefix cache, if it is still there).
The first in rank always gets its pages, so work ends. One that does not fit alone is refused, and no other.

Nobody starves. A step in which a sequence has no rows counts as waiting, whether it has a place or not; waiting that is
over still counts after the next, and so much of it counts as one priority. Who gave up its place to another client has,
once it is back, as many rows to itself as it has to compute again, and a turn at least: two that do not fit beside each
other and push out what the other computed do at most twice the work.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from herd.cache import Lease, PageCounts
from herd.cache.manager import KVCacheManager
from herd.engine.fair_queue import FairQueue
from herd.errors import DoesNotFit, HerdError, TimedOut

MOST_WAITS = 4
"""Others that one waits for, one after the other: those that end before their time do not hold it up for ever."""


@dataclass(eq=False)
class Sequence:
    """A sequence of a request, waiting or running."""

    number: int
    """Order of arrival; unique."""
    ids: list[int]
    """Prompt and output so far."""
    keys: list[Any]
    """The keys that must agree for a position to be taken from the cache: its id, or (tile digest, place)."""
    client: str = ""
    priority: int = 0
    deadline: float | None = None
    """Seconds on the clock whose time `schedule` is given; None: none."""
    salt: bytes = b""
    shares: bool = True
    """Whether it may begin with a cached prefix."""
    lease: Lease | None = None
    """None: it waits."""
    extra: int = 0
    """Rows beyond `todo` that it would like: ids that are only proposed."""
    since: int = 0
    """The step at which it came, and one more for each step in which it had rows: what has passed since, it waited."""
    let_in: int = 0
    """The step in which it was let in."""
    ran: int = 0
    """Rows since it was let in."""
    reached: int = 0
    """The most positions that it had when it was preempted."""
    again: int = 0
    """The number of those that were not in the cache when it was admitted again."""
    level: int = 0
    """While it runs: its priority, patience included. Only a higher one takes its place."""
    cached: int | None = None
    """Positions found in the cache, or in pages of another one, when it first began."""
    waits_for: int | None = None
    """The number of the running one that computes what both begin with."""
    waits: int = 0
    """How many it has waited for."""

    heads: bool = False
    """Whether logits of all rows from `wants_from` on are wanted, not of the last alone."""

    @property
    def wants_from(self) -> int:
        """The first position whose row is still wanted; a cached prefix is of use up to there."""
        return len(self.ids) - 1

    @property
    def todo(self) -> int:
        """Number of rows that are not in the cache yet; 1 when the sequence decodes."""
        return len(self.ids) - (self.lease.length if self.lease is not None else 0)


S = TypeVar("S", bound=Sequence)


@dataclass
class StepPlan(Generic[S]):
    """The plan of one step: rows to compute, sequences that were admitted, preempted or ended."""

    work: list[tuple[S, int]] = field(default_factory=list)
    """Rows of each sequence: up to `todo`, or todo and some of its `extra`."""
    admitted: list[S] = field(default_factory=list)
    preempted: list[S] = field(default_factory=list)
    ended: list[tuple[S, HerdError]] = field(default_factory=list)
    """Refused or too late; they are gone."""


class Scheduler(Generic[S]):
    """Admits, runs and preempts sequences.

    budget: most rows of a step. places: most sequences that run at once. most_waiting: most requests in the queue.
    patience: see FairQueue. turn: rows that a sequence may run before it can lose its place to a client that is behind.
    headroom: rows that each running sequence should be able to grow by before another one is admitted. alike: positions
    that two have to begin with alike before one waits for the other's; a page is copied then.
    """

    def __init__(
        self,
        cache: KVCacheManager,
        *,
        budget: int = 512,
        places: int = 8,
        most_waiting: int = 1024,
        patience: int = 1000,
        turn: int = 256,
        headroom: int = 32,
        alike: int = 16,
    ) -> None:
        assert 1 <= places <= budget, (places, budget)
        self.cache = cache
        self.budget = budget
        self.places = places
        self.turn = turn
        self.headroom = headroom
        self.alike = alike
        self.queue: FairQueue[S] = FairQueue(most_waiting, patience)
        self.running: list[S] = []
        """The running sequences, in order of rank."""
        self.tick = 0
        self._deadlines: list[tuple[float, int, S]] = []
        self._gone: set[int] = set()
        self._stuck: int | None = None
        """Number of the sequence that did not fit; it is not tried again before pages come free."""

    # -- in and out --------------------------------------------------------------------------------------------------

    def add(self, sequence: S) -> None:
        """Queue a sequence. Raises Busy when the queue, or its client's share of it, is full."""
        self.queue.gate.check(sequence.client)
        self.readd(sequence)

    def readd(self, sequence: S) -> None:
        """Queue a sequence that was admitted before (as a further sample of another one): no bound is checked."""
        sequence.since = self.tick
        self.queue.put_back(sequence)
        self._watch(sequence)

    def join(self, sequence: S, lease: Lease) -> bool:
        """Let a fork of a running sequence run at once, with its own lease; returns False when no place is free."""
        if len(self.running) >= self.places:
            return False
        self.queue.put_back(sequence)
        self._start(sequence, lease)
        self._watch(sequence)
        return True

    def remove(self, sequence: S) -> None:
        """Remove a sequence that has finished, was cancelled or failed: its pages are free now."""
        running = sequence.lease is not None
        if running:
            self.running.remove(sequence)
            self._give_pages(sequence)
        self.queue.leave(sequence, running=running)
        if sequence.deadline is not None:
            self._gone.add(sequence.number)

    def go_back(self, sequence: S, length: int) -> None:
        """Let a running sequence go on from its first `length` positions, with other ids behind them: what its pages,
        or the prefix cache, hold of these is not computed again."""
        assert sequence.lease is not None
        sequence.lease = self.cache.go_back(sequence.lease, sequence.keys, sequence.salt, length)

    def preempt_all(self) -> None:
        """Let all running sequences wait again: what their pages hold is of no use any more."""
        for sequence in reversed(list(self.running)):
            self._preempt(sequence, None)

    @property
    def busy(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.running) or self.queue.num_waiting > 0

    # -- a step ------------------------------------------------------------------------------------------------------

    def schedule(self, now: float = 0.0, beside: int | None = None) -> StepPlan[S]:
        """Plan the next pass. now: seconds, for deadlines. beside: most prompt rows beside decodes; None: the whole
        budget."""
        self.tick += 1
        plan: StepPlan[S] = StepPlan()
        self._expire(now, plan)
        self._rank()
        self._admit(plan)
        rows = self._fill(beside)
        self._fit(rows, plan)
        for sequence, n in plan.work:
            self.queue.charge(sequence.client, n)
            sequence.ran += n
            sequence.since += 1
        return plan

    def _expire(self, now: float, plan: StepPlan[S]) -> None:
        late = self._deadlines
        while late and (late[0][0] <= now or late[0][1] in self._gone):
            _, number, sequence = heapq.heappop(late)
            if number in self._gone:
                self._gone.discard(number)
                continue
            self.remove(sequence)
            self._gone.discard(number)
            plan.ended.append((sequence, TimedOut("the request's deadline passed")))

    def _admit(self, plan: StepPlan[S]) -> None:
        while (head := self.queue.head(self.tick)) is not None:
            if head.number == self._stuck:
                return
            # a place first: it decides who, pages only decide when
            if len(self.running) >= self.places and not self._displace(head, plan):
                return
            while not (fits := self._try_admit(head, plan)) and self._displace(head, plan):
                pass
            if not fits:
                if self.running:
                    self._stuck = head.number
                    return
                self.queue.leave(head, running=False)
                if head.deadline is not None:
                    self._gone.add(head.number)
                plan.ended.append((head, self._too_large(head)))

    def _try_admit(self, head: S, plan: StepPlan[S]) -> bool:
        """Admit a waiting sequence if all of its ids fit beside what the running ones have still to bring in."""
        lease = self.cache.lease()
        found = self.cache.adopt(lease, head.keys, head.salt, head.wants_from) if head.shares else 0
        asked = self.cache.pages_for_prompt(lease, len(head.ids) - lease.length, self.budget)
        for other in self.running:
            assert other.lease is not None
            asked = _plus(asked, self.cache.pages_for_prompt(other.lease, other.todo + self.headroom, self.budget))
        if not self.cache.evict_until(asked):
            self.cache.drop(lease)
            if self.running or not found:
                return False
            # it holds shared pages that it would have to copy: alone, it begins without them
            lease, found = self.cache.lease(), 0
            self.cache.clear()
            if not self.cache.evict_until(self.cache.pages_for_prompt(lease, len(head.ids), self.budget)):
                self.cache.drop(lease)
                return False
        if head.cached is None:
            head.cached = found
        self._start(head, lease)
        plan.admitted.append(head)
        return True

    def _displace(self, head: S, plan: StepPlan[S]) -> bool:
        """Preempt a running sequence for a waiting one if that is right: it is less urgent, or its client is ahead and
        holds more places (or, where each holds one, is ahead by a whole turn)."""
        if not self.running:
            return False
        for other in reversed(self.running):
            if other.level < head.priority:
                self._preempt(other, plan)
                return True
        queue = self.queue
        mine, time = queue.running(head.client), queue.time(head.client)
        for other in reversed(self.running):
            if other.priority != head.priority or other.client == head.client:
                continue
            if other.ran - other.again < max(self.turn, other.again):
                continue
            ahead = queue.time(other.client) - time
            more = queue.running(other.client) >= mine + 2 and ahead > 0
            if more or (mine == 0 and ahead >= self.turn):
                self._preempt(other, plan)
                return True
        return False

    def _fill(self, beside: int | None) -> dict[int, int]:
        """The rows of each running sequence in this step, by number."""
        left = self.budget
        rows: dict[int, int] = {}
        prompts: list[S] = []
        for s in self.running:
            if s.todo == 1:
                rows[s.number] = 1
                left -= 1
            else:
                prompts.append(s)
        if rows and beside is not None:
            left = min(left, max(beside, 1))
        time = self.queue.time
        prompts.sort(key=lambda s: (-s.level, time(s.client), s.number))
        for s in prompts:
            if left <= 0:
                break
            if s.ran == 0 and s.shares and self._waits(s, rows):
                continue
            rows[s.number], cost = self._piece(s, left)
            left -= cost
        for s in self.running:
            if s.extra and left > 0 and rows.get(s.number) == s.todo:
                assert s.lease is not None
                more = min(s.extra, left, self.cache.most_rows(s.lease) - rows[s.number])
                if more > 0:
                    rows[s.number] += more
                    left -= more
        return rows

    def _waits(self, s: S, rows: dict[int, int]) -> bool:
        """Whether one that is about to begin waits in this step, since one whose prompt has rows in it computes more of
        what both begin with. Otherwise it has now the most of it that others have computed."""
        assert s.lease is not None
        best, most = None, s.lease.length + self.alike - 1
        for other in self.running:
            if other is s or other.salt != s.salt:
                continue
            assert other.lease is not None
            # a token at a time is no faster than to compute what is there already: nobody waits for an answer
            there = s.wants_from if other.number in rows and other.todo > 1 else other.lease.length
            there = min(there, s.wants_from, len(other.keys))
            if there <= most or s.keys[most] != other.keys[most]:
                continue  # at one key: else many that begin alike would each be compared with each
            if (n := _num_alike(s.keys, other.keys, there)) > most:
                best, most = other, n
        if best is not None and best.lease is not None and best.lease.length < most and s.waits < MOST_WAITS:
            s.waits += best.number != s.waits_for
            s.waits_for = best.number
            return True
        if s.let_in < self.tick:  # what others computed meanwhile may be a cached prefix now
            known = self.cache.lease()
            found = self.cache.adopt(known, s.keys, s.salt, s.wants_from)
            if found > s.lease.length:
                self._take(s, known)
            else:
                self.cache.drop(known)
        if best is not None and best.lease is not None:
            most = min(most, best.lease.length)
            if self.cache.pager.reach(best.lease, most) >= s.lease.length + self.alike:
                self._take(s, self.cache.share(best.lease, most))
        return False

    def _take(self, s: S, lease: Lease) -> None:
        """Let one that has not begun begin with this lease instead of its own."""
        assert s.lease is not None
        self.cache.drop(s.lease)
        s.lease = lease
        s.again = max(0, s.reached - lease.length)
        if not s.reached:
            s.cached = lease.length

    def _piece(self, s: S, left: int) -> tuple[int, int]:
        """Rows of a prompt that fit what is left of a step, and what they count against it: one whose logits are wanted
        beside others of its prompt counts twice, for the layers and for the head."""
        assert s.lease is not None
        n = min(s.todo, left, self.cache.most_rows(s.lease))
        if not s.heads:
            return n, n
        before = max(0, s.wants_from - s.lease.length)
        if n > before:
            n = min(n, max(before + (left - before) // 2, 1))
        return n, n + max(0, n - before)

    def _fit(self, rows: dict[int, int], plan: StepPlan[S]) -> None:
        """Allot pages to the planned rows, in order of rank; makes room from the lowest rank up."""
        planned: PageCounts | None = None
        at = 0
        while at < len(self.running):
            s = self.running[at]
            n = rows.get(s.number, 0)
            at += 1
            if n == 0:
                continue
            assert s.lease is not None
            forgotten = False
            while True:
                need = self.cache.needs(s.lease, n)
                total = need if planned is None else _plus(planned, need)
                if self.cache.evict_until(total):
                    planned = total
                    plan.work.append((s, n))
                    break
                if n > s.todo:
                    n = s.todo
                elif self.running[-1] is not s:
                    self._preempt(self.running[-1], plan)
                elif n > 1:
                    n = (n + 1) // 2
                elif len(self.running) > 1:
                    self._preempt(s, plan)
                    break
                elif not forgotten:
                    forgotten = True
                    self.cache.clear()  # a page shared with the cache need not be copied then
                else:
                    self.remove(s)
                    plan.ended.append((s, self._too_large(s)))
                    break

    def _watch(self, sequence: S) -> None:
        if sequence.deadline is not None:
            heapq.heappush(self._deadlines, (sequence.deadline, sequence.number, sequence))

    # -- places ------------------------------------------------------------------------------------------------------

    def _start(self, sequence: S, lease: Lease) -> None:
        self.queue.start(sequence)
        sequence.lease = lease
        sequence.ran = 0
        sequence.waits_for = None
        sequence.let_in = self.tick
        sequence.again = max(0, sequence.reached - lease.length)
        self.running.append(sequence)
        self._rank()

    def _rank(self) -> None:
        """Sort running sequences, the most urgent first: by level, then arrival."""
        for s in self.running:
            s.level = s.priority + (self.tick - s.since) // self.queue.patience
        self.running.sort(key=lambda s: (-s.level, s.number))

    def _preempt(self, sequence: S, plan: StepPlan[S] | None) -> None:
        """Stop a running sequence and let it wait again; its pages stay in the prefix cache until they are needed."""
        assert sequence.lease is not None
        self.running.remove(sequence)
        sequence.reached = max(sequence.reached, sequence.lease.length)
        self.cache.insert(sequence.lease, sequence.keys, sequence.salt, over=True)
        self._give_pages(sequence)
        self.queue.leave(sequence, running=True)
        self.queue.put_back(sequence)
        if plan is not None:
            plan.preempted.append(sequence)

    def _give_pages(self, sequence: S) -> None:
        assert sequence.lease is not None
        self.cache.drop(sequence.lease)
        sequence.lease = None
        self._stuck = None

    def _too_large(self, sequence: S) -> HerdError:
        return DoesNotFit(
            f"a sequence of {len(sequence.ids)} tokens does not fit the KV cache even alone; "
            "load the model with a larger context"
        )


def _plus(a: PageCounts, b: PageCounts) -> PageCounts:
    return PageCounts(a.full + b.full, a.chunk + b.chunk, a.exact + b.exact)


def _num_alike(a: list[Any], b: list[Any], most: int, block: int = 64) -> int:
    """How many keys two sequences begin with alike, up to `most`."""
    most = min(most, len(a), len(b))
    for start in range(0, most, block):
        end = min(start + block, most)
        if a[start:end] != b[start:end]:
            return next(i for i in range(start, end) if a[i] != b[i])
    return most
