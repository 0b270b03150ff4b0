"""How much of a machine's time a call takes, and a question to a saved library: at its limit, and as Herd is today.

    paces            a call of a prompt and an answer, with many answers at once: prompts together in passes of PASS
                     rows where that is faster, each answer's token its share of a step in the middle of the answer
    library_paces    a library that is read once; each question reads its keys again, in every token of its answer

What it is not: a price (`cost`), how long one person waits (`plan`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from herd.errors import UsageError, fail
from herd.planning.machines import Machine
from herd.planning.memory import cache_bytes
from herd.planning.placement import Placement
from herd.planning.plan import Plan, Workload, alone, answers_together, fastest, largest, most_users, placed, ways
from herd.planning.speed import PASS, Estimate, Term, attention_ops, decode, kv_read_bytes, prefill
from herd.planning.today import MEASURED, decode_today, not_built, prefill_today

AT_ONCE = 256
"""Answers at once at most, where nobody says how many."""
MOST_CALLS = 1e12
"""Calls of a month, questions of a library."""
LIMIT, TODAY = "limit", "today"


@dataclass(frozen=True)
class Call:
    """What is asked, and how often."""

    tokens_in: int
    tokens_out: int
    month: float
    """Calls in a month."""

    @property
    def tokens(self) -> int:
        """Tokens of one, prompt and answer."""
        return self.tokens_in + self.tokens_out

    def check(self, most: int) -> None:
        """Raise UsageError for what no model with a context of so many tokens can be asked."""
        if min(self.tokens_in, self.tokens_out) < 1 or self.tokens > most:
            got = f"{self.tokens_in} + {self.tokens_out}"
            fail(UsageError, "tokens of a call, in + out", got=got, expected=f"each 1 or more, together at most {most}")
        if not 0 < self.month <= MOST_CALLS:
            fail(UsageError, "calls of a month", got=self.month, expected=f"more than 0, at most {MOST_CALLS:.0f}")


@dataclass(frozen=True)
class Pace:
    """The time of the machine that a call takes when it is at work all the time."""

    name: str
    """LIMIT or TODAY."""
    at_once: int
    """Answers that are said together."""
    prompts: int
    """Prompts that are read together."""
    read: Estimate
    """Reading so many prompts."""
    step: Estimate
    """A token for each of so many answers."""

    @property
    def read_s(self) -> float:
        """Seconds of the machine for one prompt."""
        return self.read.seconds / self.prompts

    @property
    def token_s(self) -> float:
        """Seconds of the machine for a token of one answer."""
        return self.step.seconds / self.at_once

    def call_s(self, call: Call) -> float:
        """Seconds of the machine for one call."""
        return self.read_s + call.tokens_out * self.token_s


@dataclass(frozen=True)
class LibraryPace:
    """The time that a saved library takes: one question after another."""

    name: str
    """LIMIT or TODAY."""
    library_tokens: int
    read: Estimate
    """Reading the library, once."""
    ask: Estimate
    """Reading one question behind it."""
    step: Estimate
    """A token of an answer: it reads the library's keys."""
    keys_bytes: float
    """Keys and values that it reads for that."""
    disk_bytes: int
    """What is saved of the library."""
    load_s: float
    """Seconds to have that back from the disk."""

    def question_s(self, call: Call) -> float:
        """Seconds of the machine for one question and its answer."""
        return self.ask.seconds + call.tokens_out * self.step.seconds

    def all_s(self, call: Call) -> float:
        """Seconds of the machine for reading the library and for all questions."""
        return self.read.seconds + call.month * self.question_s(call)


def paces(plan: Plan, call: Call, at_once: int | None = None) -> tuple[Pace, ...]:
    """The machine's limit, and Herd today where there is a figure; none where such calls do not run there. at_once:
    answers at once; None: as many as make a call shortest, of those that fit, at most AT_ONCE. Raises UsageError."""
    call.check(plan.model.config.max_context)
    want = replace(plan.want, context=call.tokens)
    limit = _limit(plan, call, want, at_once)
    today = _today(plan, call, want, at_once) if limit else None
    return tuple(pace for pace in (limit, today) if pace)


def _limit(plan: Plan, call: Call, want: Workload, at_once: int | None) -> Pace | None:
    machine = plan.machine
    fitting = _most_at_once(plan, machine, want)
    if at_once is not None and not 1 <= at_once <= fitting:
        expected = f"1 to {fitting}: so many fit with {want.context} tokens each"
        fail(UsageError, f"answers at once on {machine.name}", got=at_once, expected=expected)
    numbers = [at_once] if at_once else _numbers(plan, want, min(fitting, AT_ONCE))
    timed = (_limit_of(plan, call, want, number) for number in numbers)
    return min((pace for pace in timed if pace), key=lambda pace: pace.call_s(call), default=None)


def _numbers(plan: Plan, want: Workload, most: int) -> list[int]:
    """Numbers of answers at once of which one is about the best, the largest first: caches of more of them leave the
    cards less room for experts, which then take longer to read."""

    def on_cards(kind: str) -> int:
        """The most answers with which all of a kind lies on cards."""
        return largest(lambda n: _beside(plan, replace(want, users=n), kind) == 0, most)

    kinks = [on_cards("routed"), on_cards("cache")] if plan.machine.cards else []
    return sorted({most, *(n for n in kinks if n), *(1 << i for i in range(most.bit_length()))}, reverse=True)


def _beside(plan: Plan, want: Workload, kind: str) -> int:
    """Bytes of a kind that do not lie on cards."""
    row = placed(plan.model, plan.machine, want).row(kind)
    return row.memory + row.disk


def _limit_of(plan: Plan, call: Call, want: Workload, number: int) -> Pace | None:
    machine = plan.machine
    placement = placed(plan.model, machine, replace(want, users=number))
    if not placement.runs:
        return None
    prompts = max(1, min(number, PASS // call.tokens_in))
    among = ways(plan.model, machine, replace(want, users=number), placement)
    single, many = (
        fastest(among, partial(prefill, tokens=n * call.tokens_in, prompts=n), plan.model) for n in (1, prompts)
    )
    together = many.seconds / prompts < single.seconds
    step = fastest(among, partial(decode, users=number, depth=_middle(call), kv_dtype=want.kv), plan.model)
    return Pace(LIMIT, number, prompts if together else 1, many if together else single, step)


def _today(plan: Plan, call: Call, want: Workload, at_once: int | None) -> Pace | None:
    if not any(speed.today.estimate for speed in plan.speeds):
        return None
    c = plan.model.config
    bare = alone(plan.model, plan.machine, replace(want, users=1))
    machine = bare[0] if bare else plan.machine
    most = min(_most_at_once(plan, machine, want), at_once or AT_ONCE)
    number = largest(lambda n: answers_together(c, replace(want, users=n), call.tokens) == n, most)
    placement = placed(plan.model, machine, replace(want, users=number))
    read = prefill_today(c, placement, machine, call.tokens_in).estimate
    step = decode_today(c, placement, machine, number, _middle(call), want.kv).estimate
    return Pace(TODAY, number, 1, read, step) if read and step and placement.runs else None


def _middle(call: Call, before: int = 0) -> int:
    """Tokens before a step in the middle of an answer."""
    return before + call.tokens_in + call.tokens_out // 2


def _most_at_once(plan: Plan, machine: Machine, want: Workload) -> int:
    """How many answers fit together; 1 where it runs without fitting, if it does."""
    return max(1, most_users(plan.model, machine, want))


def library_paces(plan: Plan, call: Call, library_tokens: int) -> tuple[LibraryPace, ...]:
    """Paces of questions to a library of so many tokens, in the context before each; none where it does not run. Raises
    UsageError."""
    call.check(plan.model.config.max_context)
    whole, most = library_tokens + call.tokens, plan.model.config.max_context
    if library_tokens < 1 or whole > most:
        expected = f"1 to {most - call.tokens} tokens beside a question and its answer"
        fail(UsageError, f"library for {plan.model.name}", got=library_tokens, expected=expected)
    want = replace(plan.want, context=whole, users=1)
    placement = placed(plan.model, plan.machine, want)
    if not placement.runs:
        return ()
    return tuple(_library(plan, call, library_tokens, want, placement))


def _library(plan: Plan, call: Call, tokens: int, want: Workload, placement: Placement) -> Iterator[LibraryPace]:
    c, machine, kv = plan.model.config, plan.machine, want.kv
    depth = _middle(call, tokens)
    keys = kv_read_bytes(c, tokens, kv)
    saved = cache_bytes(c, tokens, kv)
    load_s = saved / machine.disk_read_bytes_s

    def limit(part: Machine, there: Placement) -> LibraryPace:
        over = _over_keys(part, there, keys, _key_ops(plan, call, tokens))
        read, ask = prefill(c, there, part, tokens), _behind(prefill(c, there, part, call.tokens_in), over)
        return LibraryPace(LIMIT, tokens, read, ask, decode(c, there, part, 1, depth, kv), keys, saved, load_s)

    among = ways(plan.model, machine, want, placement)
    yield min((limit(*one) for one in among), key=lambda pace: pace.all_s(call))
    now, there = alone(plan.model, machine, want) or (machine, placement)
    if not_built(there, now):
        return
    once, question = (prefill_today(c, there, now, n).estimate for n in (tokens, call.tokens_in))
    token = decode_today(c, there, now, 1, depth, kv).estimate
    assert once and question and token
    over = Term(
        "compute on the library's keys", _key_ops(plan, call, tokens), "op", now.ops_s * MEASURED.attention_share
    )
    yield LibraryPace(TODAY, tokens, once, _behind(question, (over,)), token, keys, saved, load_s)


def _key_ops(plan: Plan, call: Call, library_tokens: int) -> float:
    """Operations of a question on the keys of the library before it."""
    c = plan.model.config
    return max(0.0, attention_ops(c, call.tokens_in, library_tokens) - attention_ops(c, call.tokens_in, 0))


def _over_keys(machine: Machine, placement: Placement, keys: float, ops: float) -> Iterator[Term]:
    """What a question does with the keys of the library: reads or computes, whichever takes longer, where they lie."""
    cache = placement.row("cache")
    share = cache.card / cache.total if cache.total else 1.0
    card_read, card_ops = sum(c.read_bytes_s for c in machine.cards), sum(c.ops_s for c in machine.cards)
    for where, part, read_s, ops_s in (
        ("on cards", share, card_read, card_ops),
        ("in memory", 1 - share, machine.read_bytes_s, machine.ops_s),
    ):
        if part and read_s and ops_s:
            reading = Term(f"read the library's keys {where}", keys * part, "B", read_s)
            computing = Term(f"compute on the library's keys {where}", ops * part, "op", ops_s)
            yield reading if reading.seconds >= computing.seconds else computing


def _behind(read: Estimate, terms: "Iterator[Term] | tuple[Term, ...]") -> Estimate:
    """A prompt that is read behind a library: what it takes alone, and the library's keys; in one pass."""
    return replace(read, terms=(*(replace(t, amount=t.amount * read.times) for t in read.terms), *terms), times=1)
