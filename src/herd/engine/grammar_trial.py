"""Grammars of requests on trial, in a process that can be killed and limited (`herd.engine.side_process`).

Compiling may take any time and any memory, whatever is counted before. What is compiled cannot cross to the engine:
what passes here is compiled again there, with the same work. How long that takes does not depend on the words of a
vocabulary, so the one here has the 256 bytes and the special tokens.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

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


class TrialVocabulary(msgspec.Struct, frozen=True, tag=True):
    """The first message to a process that tries grammars: the special tokens and the size of the vocabulary."""

    vocab_size: int
    specials: dict[int, bytes]
    """Control tokens by id: a grammar may name them."""
    end_ids: list[int]
    memory_bytes: int
    """Most that all of a trial may take, beyond what the process has when it begins."""


class TrialRequest(msgspec.Struct, frozen=True, tag=True):
    """A grammar to compile."""

    grammar: Grammar


class TrialVerdict(msgspec.Struct, frozen=True, tag=True):
    """Whether a grammar compiled, and if not why."""

    refusal: str | None
    """None: it passes."""
    cpu_s: float
    """Processor seconds of the trial."""
    grown: bool = False
    """Whether this process has kept much memory, and is to be replaced."""


def judge(alphabet: TrialVocabulary) -> Callable[[TrialRequest], TrialVerdict]:
    """What tries grammars over these tokens."""
    words = _Bytes(alphabet.vocab_size, alphabet.specials, alphabet.end_ids[0])
    trie = _trie(words, alphabet.end_ids)

    def verdict(request: TrialRequest) -> TrialVerdict:
        began_s = time.process_time()
        refusal = refusal_of(trie, request.grammar, words.byte_of)
        return TrialVerdict(refusal, time.process_time() - began_s)

    return verdict


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
