"""Grammars of requests are tried in a process that can be killed, before the engine compiles them.

A key has one trial at a time (`herd.llm.side_processes`). What came of a grammar is known for a while, to the same key
alone: how long an answer takes tells others nothing.

What it is not: the process itself (`herd.engine.grammar_trial`), the compiler (`herd.grammar.masks`).
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Collection
from functools import cache, cached_property
from typing import NamedTuple

from herd.engine.grammar_trial import TrialRequest, TrialVerdict, TrialVocabulary
from herd.errors import UsageError, fail
from herd.grammar.masks import Vocabulary
from herd.grammars import Grammar
from herd.lanes import Lanes
from herd.llm.side_processes import Attempt, SideProcesses, side_lanes

GRAMMAR_S = 2.0
"""How long a grammar may take to be tried."""
GRAMMAR_BYTES = 256 << 20
"""How much memory that may take; schemas of 64 KiB took up to 16 MiB."""
KNOWN = 256
KNOWN_S = 60.0
"""Outcomes that are known, and for how long: a busy machine may have been what took too long."""
QUICK_S = 0.25
"""Seconds of a processor. What passed and took longer is tried again: so trials bound how often it can be asked for."""


class Trials(SideProcesses):
    """Tries grammars for one vocabulary; any thread may ask. Its processes start with the first grammars.

    end_ids: end a text. seconds, memory_bytes: limits of one trial. Raises UsageError for one that is none.
    """

    what = "tries grammars"

    def __init__(
        self,
        vocabulary: Vocabulary,
        end_ids: Collection[int],
        *,
        seconds: float = GRAMMAR_S,
        memory_bytes: int = GRAMMAR_BYTES,
    ) -> None:
        check_limits(seconds, memory_bytes)
        super().__init__(seconds, memory_bytes)
        self._vocabulary, self._end_ids = vocabulary, sorted(i for i in end_ids if i < vocabulary.vocab_size)
        self._known: OrderedDict[tuple[str, bytes], _Outcome] = OrderedDict()

    def judge(self, grammar: Grammar, owner: str) -> None:
        """Return if a grammar may be compiled. owner: whose place it takes. Waits for that place.

        Raises UsageError that says what is wrong with it or names the limit that it met, Interrupted when whoever
        waits for it has gone away, PassFailed where no process can be started.
        """
        if not self._passed(grammar, owner):
            self.in_turn(owner, lambda attempt: self._try(attempt, grammar, owner))

    def setup(self) -> TrialVocabulary:
        """See `SideProcesses`."""
        return self._alphabet

    def over(self, request: TrialRequest, late: bool) -> str:
        """See `SideProcesses`."""
        kind = request.grammar.kind
        if late:
            return f"{kind}: compiling it takes over {self._seconds:g} s (grammar_s); write a simpler one"
        return f"{kind}: compiling it takes over {self._memory_bytes >> 20} MiB (grammar_bytes); write a simpler one"

    def lanes(self) -> Lanes:
        """See `SideProcesses`."""
        return _lanes()

    def _try(self, attempt: Attempt, grammar: Grammar, owner: str) -> None:
        """Raises as `judge` does."""
        if self._passed(grammar, owner):  # of a twin that was before it
            return
        try:
            verdict: TrialVerdict = attempt.ask(TrialRequest(grammar))
        except UsageError as error:
            self._learn(grammar, owner, str(error))
            raise
        if verdict.refusal is not None or verdict.cpu_s < QUICK_S:
            self._learn(grammar, owner, verdict.refusal)
        if verdict.refusal is not None:
            raise UsageError(verdict.refusal)

    def _passed(self, grammar: Grammar, owner: str) -> bool:
        """Whether it is known to pass. Raises what it is known to fail with."""
        with self._lock:
            found = self._known.get(_key(grammar, owner))
        if found is None or time.monotonic() > found.until_s:
            return False
        if found.refusal is not None:
            raise UsageError(found.refusal)
        return True

    def _learn(self, grammar: Grammar, owner: str, refusal: str | None) -> None:
        with self._lock:
            key = _key(grammar, owner)
            self._known[key] = _Outcome(refusal, time.monotonic() + KNOWN_S)
            self._known.move_to_end(key)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)

    @cached_property
    def _alphabet(self) -> TrialVocabulary:
        words = self._vocabulary
        specials = {i: words.token_bytes(i) for i in range(words.vocab_size) if words.is_special(i)}
        return TrialVocabulary(words.vocab_size, specials, self._end_ids, self._memory_bytes)


class _Outcome(NamedTuple):
    """What came of a grammar."""

    refusal: str | None
    until_s: float


def check_limits(seconds: object, memory_bytes: object) -> None:
    """Raise UsageError for limits that are none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_S:
        fail(UsageError, "grammar_s", got=seconds, expected=f"seconds, above 0 to {MAX_S}")
    if isinstance(memory_bytes, bool) or not isinstance(memory_bytes, int) or memory_bytes < MIN_BYTES:
        fail(UsageError, "grammar_bytes", got=memory_bytes, expected=f"a whole number of {MIN_BYTES} or more")


MAX_S = 3600
MIN_BYTES = 1 << 20


@cache
def _lanes() -> Lanes:
    return side_lanes("herd-grammars")


def _key(grammar: Grammar, owner: str) -> tuple[str, bytes]:
    return owner, hashlib.sha256(f"{grammar.kind}:{grammar.text}".encode()).digest()
