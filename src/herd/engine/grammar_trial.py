"""The main loop of the process that compiles grammars of requests on trial: `herd.llm.grammar_trials` starts it.

    in    TrialVocabulary, then TrialRequests, until the parent is gone: then this process leaves at once
    out   TrialReady, then a TrialVerdict for each

Compiling may take any time and any memory, whatever is counted before; a process can be killed and limited. What is
compiled cannot cross to the engine: what passes here is compiled again there, with the same work. How long that takes
does not depend on the words of a vocabulary, so the one here has the 256 bytes and the special tokens.
"""

import os
import queue
import random
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from herd.engine.executors.wire import Channel
from herd.errors import GrammarStuck, HerdError, UsageError, fail
from herd.grammar.masks import STUCK, Matcher, compiled
from herd.grammars import Grammar

LIKED: tuple[frozenset[int], ...] = (
    frozenset(b"{["),
    frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"),
    frozenset(),
)
"""Texts that are begun, by the bytes that they go on with where they may: objects, long words, anything."""
OVER = ("too many", "too big", "max is", "limit", "fuel")
"""How llguidance tells that a limit of its own is met, and not that a text came to where nothing can follow."""
STEPS = 32
"""Bytes of each of them: what meets a limit so soon is of no use to anybody."""
_RESERVED = 256 << 20
"""Addresses that allocators reserve for threads and do not use."""
_KEPT = 8
"""A process that has grown by this part of its limit makes place for a new one."""


class TrialVocabulary(msgspec.Struct, frozen=True, tag=True):
    """The first message: the special tokens and the size of the vocabulary."""

    vocab_size: int
    specials: dict[int, bytes]
    """Control tokens by id: a grammar may name them."""
    end_ids: list[int]
    memory_bytes: int
    """Most that all of a trial may take, beyond what the process has when it begins."""


class TrialRequest(msgspec.Struct, frozen=True, tag=True):
    """A grammar to compile."""

    grammar: Grammar


class TrialReady(msgspec.Struct, frozen=True, tag=True):
    """The process has started and takes grammars."""


class TrialVerdict(msgspec.Struct, frozen=True, tag=True):
    """Whether a grammar compiled, and if not why."""

    refusal: str | None
    """None: it passes."""
    cpu_s: float
    """Processor seconds of the trial."""
    grown: bool
    """Whether this process has kept much memory, and is to be replaced."""


Down = TrialVocabulary | TrialRequest
Up = TrialReady | TrialVerdict


def main() -> None:
    """Run as the trial process. Never returns: the process ends with its parent."""
    channel = Channel(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"), Down)
    os.dup2(2, 1)  # whatever prints must not speak between the frames
    alphabet = channel.receive()
    words = _Bytes(alphabet.vocab_size, alphabet.specials, alphabet.end_ids[0])
    trie = _trie(words, alphabet.end_ids)
    inbox: queue.SimpleQueue[TrialRequest] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    base = _limit(alphabet.memory_bytes)
    channel.send(TrialReady())
    while True:
        grammar = inbox.get().grammar
        began_s = time.process_time()
        refusal = refusal_of(trie, grammar, words.byte_of)
        took_s = time.process_time() - began_s
        channel.send(TrialVerdict(refusal, took_s, _data_bytes() - base > alphabet.memory_bytes // _KEPT))


def refusal_of(trie: Any, grammar: Grammar, byte_of: Mapping[int, int]) -> str | None:
    """Why a grammar is refused; None when it compiles and its texts can be begun. byte_of: id -> the byte that it
    is."""
    try:
        state = compiled(trie, grammar)
        for liked in LIKED:
            _walk(Matcher(state, trie.vocab_size, trie.eos_token).copy(), grammar, byte_of, liked)
    except HerdError as error:
        return str(error)
    return None


def _walk(matcher: Matcher, grammar: Grammar, byte_of: Mapping[int, int], liked: Collection[int]) -> None:
    """Begin a text of the grammar. Raises UsageError where it meets a limit; it is not shown that a text can always go
    on."""
    pick, most = random.Random(0), 1 + max(byte_of)
    try:
        for _ in range(STEPS):
            ids = [i for i in matcher.allowed_below(most).tolist() if i in byte_of]
            if not ids or matcher.is_over:  # a special token, or its end
                return
            matcher.accept(pick.choice([i for i in ids if byte_of[i] in liked] or ids))
    except GrammarStuck as error:
        why = str(error).removeprefix(STUCK).strip(" ()")
        if any(word in why.lower() for word in OVER):
            fail(UsageError, grammar.kind, got=f"too large a one to follow ({why[:160]})", expected="a smaller one")


# -- the process ------------------------------------------------------------------------------------------------------


class _Bytes:
    """A vocabulary of bytes as llguidance reads it (its TokenizerWrapper). Ids that are neither bytes nor special stand
    for nothing: a grammar may name them by number."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, size: int, specials: Mapping[int, bytes], end_id: int) -> None:
        free = (i for i in range(max(size, 256 + len(specials))) if i not in specials)
        self.byte_of = {next(free): byte for byte in range(256)}
        named = {i: bytes([byte]) for i, byte in self.byte_of.items()} | dict(specials)
        self.tokens = [named.get(i, b"") for i in range(max(size, 1 + max(named)))]
        self.special_token_ids = sorted(specials)
        self.eos_token_id = end_id

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def _trie(words: Any, end_ids: list[int]) -> Any:
    import llguidance

    return llguidance.LLTokenizer(words, eos_token=end_ids)


def _listen(channel: Channel, inbox: "queue.SimpleQueue[TrialRequest]") -> None:
    """Keep reading grammars into the inbox, so that the end of the parent is seen even during a trial."""
    try:
        while True:
            inbox.put(channel.receive())
    except BaseException:
        os._exit(0)


def _limit(memory_bytes: int) -> int:
    """Bound the memory of this process from now on, where the system can; returns what it uses now, in bytes."""
    base = _data_bytes()
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for kind, held in ((resource.RLIMIT_DATA, base), (resource.RLIMIT_AS, _pages(0) + _RESERVED)):
            if base:
                resource.setrlimit(kind, (held + memory_bytes, held + memory_bytes))
    return base


def _data_bytes() -> int:
    return _pages(5)


def _pages(field: int) -> int:
    """Bytes of a field of /proc/self/statm: 0 total size, 5 data; 0 where there is no such file."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
