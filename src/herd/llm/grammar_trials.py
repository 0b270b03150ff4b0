"""Grammars of requests are tried in a process that can be killed, before the engine compiles them.

A key has one trial at a time, two run in all, and keys take turns (`herd.lanes`). What takes too long or too much
memory ends with its process, which is replaced when the next one comes; so does what nobody waits for any more. What
came of a grammar is known for a while, to the same key alone: how long an answer takes tells others nothing.

What it is not: the process itself (`herd.engine.grammar_trial`), the compiler (`herd.grammar.masks`).
"""

import hashlib
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from herd.engine.executors.wire import Channel
from herd.engine.forks import OwnerProcess
from herd.engine.grammar_trial import TrialRequest, TrialVerdict, TrialVocabulary, Up
from herd.errors import Interrupted, PassFailed, UsageError, fail
from herd.grammar.masks import Vocabulary
from herd.grammars import Grammar
from herd.lanes import Lanes
from herd.llm.waiting import Leaving

GRAMMAR_S = 2.0
"""How long a grammar may take to be tried."""
GRAMMAR_BYTES = 256 << 20
"""How much memory that may take; schemas of 64 KiB took up to 16 MiB."""
PROCESSES = 2
START_S = 60.0
"""How long a process may take to start."""
KNOWN = 256
KNOWN_S = 60.0
"""Outcomes that are known, and for how long: a busy machine may have been what took too long."""
QUICK_S = 0.25
"""Of a processor. What passed and took longer is tried again, so that trials bound how often it can be asked for."""


class Trials:
    """Tries grammars for one vocabulary; any thread may ask. Its processes start with the first grammars.

    end_ids: end a text. seconds, memory_bytes: limits of one trial. Raises UsageError for one that is none.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        end_ids: Collection[int],
        *,
        seconds: float = GRAMMAR_S,
        memory_bytes: int = GRAMMAR_BYTES,
    ) -> None:
        check_limits(seconds, memory_bytes)
        self._vocabulary, self._end_ids = vocabulary, sorted(i for i in end_ids if i < vocabulary.vocab_size)
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, bytes], _Outcome] = OrderedDict()
        self._idle: list[_Process] = []
        self._closed = False
        weakref.finalize(self, _end, self._idle)

    def judge(self, grammar: Grammar, owner: str) -> None:
        """Return if a grammar may be compiled. owner: whose place it takes. Waits for that place.

        Raises UsageError that says what is wrong with it or names the limit that it met, Interrupted when whoever
        waits for it has gone away, PassFailed where no process can be started.
        """
        if self._passed(grammar, owner):
            return
        attempt = _Attempt(self, grammar, owner)
        future = trying().submit(owner, attempt.run)

        def stop() -> None:
            future.cancel()
            attempt.stop()

        try:
            with Leaving.calls(stop):
                future.result()
        except CancelledError:
            raise _gone() from None
        except BaseException:
            stop()  # Ctrl-C, too
            raise

    def close(self) -> None:
        """End its processes; those that are busy end with their trial."""
        with self._lock:
            self._closed = True
        _end(self._idle)

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

    def _take(self) -> "_Process":
        while True:
            with self._lock:
                if not self._idle:
                    break
                process = self._idle.pop()
            if process.alive:
                return process
            process.end()
        try:
            return _Process(self._alphabet)
        except OSError:
            _not_started()

    @cached_property
    def _alphabet(self) -> TrialVocabulary:
        words = self._vocabulary
        specials = {i: words.token_bytes(i) for i in range(words.vocab_size) if words.is_special(i)}
        return TrialVocabulary(words.vocab_size, specials, self._end_ids, self._memory_bytes)

    def _put(self, process: "_Process") -> None:
        with self._lock:
            if not self._closed and len(self._idle) < PROCESSES:
                self._idle.append(process)
                return
        process.end()


class _Attempt:
    """One grammar on its way through a process. `stop` may come at any time, from any thread."""

    def __init__(self, trials: Trials, grammar: Grammar, owner: str) -> None:
        self._trials, self._grammar, self._owner = trials, grammar, owner
        self._lock = threading.Lock()
        self._stopped = False
        self._process: _Process | None = None

    def stop(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def run(self) -> None:
        """Raises as `Trials.judge` does."""
        if self._trials._passed(self._grammar, self._owner):  # of a twin that was before it
            return
        verdict = self._verdict()
        if verdict.refusal is not None or verdict.cpu_s < QUICK_S:
            self._trials._learn(self._grammar, self._owner, verdict.refusal)
        if verdict.refusal is not None:
            raise UsageError(verdict.refusal)

    def _verdict(self) -> TrialVerdict:
        process, keep = self._trials._take(), False
        try:
            self._use(process)
            verdict = process.ask(self._grammar, self._trials._seconds)
            keep = not verdict.grown
            return verdict
        except (EOFError, OSError):
            return TrialVerdict(self._why_ended(process), 0.0, True)
        finally:
            with self._lock:
                self._process = None
            if keep:
                self._trials._put(process)
            else:
                process.end()

    def _use(self, process: "_Process") -> None:
        with self._lock:
            if self._stopped:
                raise _gone()
            self._process = process

    def _why_ended(self, process: "_Process") -> str:
        """Why a process ended during a trial, in words for whoever sent the grammar."""
        with self._lock:
            if self._stopped:
                raise _gone()
        if not process.started:
            _not_started()
        kind, trials = self._grammar.kind, self._trials
        if process.late:
            return f"{kind}: compiling it takes over {trials._seconds:g} s (grammar_s); write a simpler one"
        return f"{kind}: compiling it takes over {trials._memory_bytes >> 20} MiB (grammar_bytes); write a simpler one"


class _Process:
    """A process that tries grammars, one at a time. Another thread may call `kill` meanwhile, and nothing else."""

    def __init__(self, alphabet: TrialVocabulary) -> None:
        import herd

        self._home = OwnerProcess()
        root = str(Path(herd.__file__).parents[1])
        program = f"import sys; sys.path.append({root!r}); from herd.engine.grammar_trial import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what panics print is what a stranger wrote
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._source = self._process.stdout
        self._channel = Channel(self._source, self._process.stdin, Up)
        self._alphabet = alphabet
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.started = False
        self.late = False
        """Whether it was killed because something took too long."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ask(self, grammar: Grammar, seconds: float) -> TrialVerdict:
        """What comes of a grammar. Raises EOFError or OSError when the process has ended."""
        if not self.started:
            with self._killed_after(START_S):
                self._channel.send(self._alphabet)
                self._channel.receive()
            self.started = True
        with self._killed_after(seconds):
            self._channel.send(TrialRequest(grammar))
            verdict: TrialVerdict = self._channel.receive()
        return verdict

    def kill(self) -> None:
        """Whatever it does; whoever asked it hears an end of file."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and leave nothing of it. In a fork it is another process's."""
        if not self._home.is_here:
            return
        self.kill()
        self._process.wait()
        self._channel.close()
        self._source.close()

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        def late() -> None:
            with self._lock:
                if self._timer is timer:  # else it is over, and may be at the next one
                    self.late = True
                    self.kill()

        timer = threading.Timer(seconds, late)
        timer.daemon = True
        self._timer = timer
        timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._timer = None
            timer.cancel()


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
def trying() -> Lanes:
    """The lanes of this process for trials: a key has one at a time."""
    return Lanes("herd-grammars", threads=PROCESSES, each=1, large=1)


def _key(grammar: Grammar, owner: str) -> tuple[str, bytes]:
    return owner, hashlib.sha256(f"{grammar.kind}:{grammar.text}".encode()).digest()


def _not_started() -> NoReturn:
    fail(PassFailed, "the process that tries grammars did not start", do="see that memory is left, ask again")


def _gone() -> Interrupted:
    return Interrupted("nobody waits for this grammar any more")


def _end(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
