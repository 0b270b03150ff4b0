"""Masks: which ids may come next in one sequence, so that its text is one that its grammar allows.

    Grammars     compiles grammars over one vocabulary; keeps those used last
    Matcher      one sequence's place in its grammar: the ids allowed now, and on with the one that was said

They come from llguidance (an Earley parser over a lexer of regex derivatives, walking a trie of the vocabulary:
https://github.com/guidance-ai/llguidance), which is imported, and given the vocabulary, at the first grammar.
What it is not: a sampler, a validator of finished text.
"""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from herd.errors import GrammarStuck, HerdError, UsageError, fail
from herd.grammar import json_schema, lark
from herd.grammar.closing import closed
from herd.grammar.regexes import MAX_REPEATS, repeats
from herd.grammars import Grammar

Ids = npt.NDArray[np.int64]

Judge = Callable[[Grammar, str], None]
MAX_COMPILED = 8
"""Compiled grammars kept for a tenant's requests with the same text. What the lexer learns in a text stays with its
grammar: up to 30 MiB where a grammar is made to that end, 2 MiB as a rule. Compiling anew takes some milliseconds."""
MAX_COMPILED_IN_ALL = 24
"""Compiled grammars that are kept, of all tenants together."""
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,  # 20 ms of compiling
    "max_grammar_size": 250_000,
    "max_lexer_states": 10_000,  # 3 KiB each: 30 MiB
    "max_items_in_row": 2_000,
    "step_lexer_fuel": 200_000,  # 14 ms of a mask
    "step_max_items": 50_000,  # 3 ms
    "verbose_errors": False,
}
"""Limits of llguidance (`LLParserLimits`)."""
BLAME_S = 0.5
"""How long the place of what cannot be compiled is searched for; a coarser one is told then."""
BEGUN_S = 1.0
"""Seconds of a processor that following what an answer has begun may take."""
AT_ONCE = 16
"""Ids of it between two looks at the clock: an ambiguous grammar took 17 ms for one."""
STUCK = "grammar: no token of this model can continue the text as it demands"
JSON_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
NO_SECOND_SPELLING: Any = {"json_allowed_escapes": 'nrbtf\\"'}
"""Options without \\u in names and texts: llguidance takes a listed name that is spelt so for another one's."""


class Vocabulary(Protocol):
    """A tokenizer, as far as masks need it (herd.text.Tokenizer)."""

    vocab_size: int

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes an id stands for; of a special id, its name."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""

    def is_special(self, token_id: int) -> bool:
        """Whether it is a control token, which no text becomes."""


class Grammars:
    """Compiles grammars over one vocabulary. Any thread may ask; the first builds the trie.

    end_ids: end a text. judge: raises what is wrong with a grammar before it is compiled here, told whose it is.
    """

    def __init__(self, vocabulary: Vocabulary, end_ids: Collection[int], judge: Judge | None = None) -> None:
        self._vocabulary = vocabulary
        self._end_ids = sorted(i for i in end_ids if i < vocabulary.vocab_size)
        self._lock = threading.Lock()
        self._trie: Any = None
        self._judge = judge
        self._compiled = _Compiled()

    def prepare(self) -> None:
        """Build the trie now (about a second for 200,000 tokens, and 80 MiB), so that no request waits for it."""
        with self._lock:
            self._built()

    def matcher(self, grammar: Grammar, tenant: bytes = b"", client: str = "", begun: Sequence[int] = ()) -> "Matcher":
        """A matcher at the beginning of the text, or behind what is begun of it. tenant: within which what is compiled
        is shared; client: whose it is, where there are no tenants. Raises UsageError that says what is wrong with the
        grammar, or where what is begun leaves it."""
        with self._lock:
            found = self._compiled.get(tenant, grammar)
        if found is None:
            if not self._end_ids:
                fail(UsageError, "grammar", got="a vocabulary without an end token", expected="a chat model's")
            if self._judge is not None:
                self._judge(grammar, tenant.hex() or client)
            with self._lock:
                trie = self._built()
            found = compiled(trie, grammar)
            with self._lock:
                self._compiled.keep(tenant, grammar, found)
        matcher = Matcher(found, self._vocabulary.vocab_size, self._end_ids[0]).copy()
        self._follow(matcher, grammar, begun)
        return matcher

    def _follow(self, matcher: "Matcher", grammar: Grammar, begun: Sequence[int]) -> None:
        """Take a matcher to the end of what is begun. Raises UsageError."""
        until_s = time.thread_time() + BEGUN_S
        for at in range(0, len(begun), AT_ONCE):
            some = begun[at : at + AT_ONCE]
            fit = _followed(matcher, some)
            if fit < len(some):
                self._leaves(grammar, begun, at + fit)
            if time.thread_time() > until_s:
                _too_hard(f"one that takes over {BEGUN_S:g} s to follow")

    def _leaves(self, grammar: Grammar, begun: Sequence[int], at: int) -> NoReturn:
        """Raise UsageError: what is begun leaves its grammar at an id."""
        before, there = self._text(begun[:at]), self._text(begun[at:])
        is_json = grammar.kind in ("json", "schema")
        do = "write JSON on one line, with one space at most after , and :" if is_json else ""
        got = f"an answer begun with {there[:40]!r} at character {len(before)}"
        fail(UsageError, grammar.kind, got=got, expected="one that fits it so far", do=do)

    def _text(self, ids: Sequence[int]) -> str:
        return b"".join(map(self._vocabulary.token_bytes, ids)).decode("utf-8", "replace")

    def _built(self) -> Any:
        if self._trie is None:
            import llguidance

            words: Any = _Words(self._vocabulary, self._end_ids[0])
            self._trie = llguidance.LLTokenizer(words, eos_token=self._end_ids)
        return self._trie


class _Compiled:
    """Compiled grammars, the last ones of each tenant: whether one is there tells others nothing."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[bytes, OrderedDict[Grammar, Any]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._tenants.values())

    def get(self, tenant: bytes, grammar: Grammar) -> Any | None:
        """The state of a tenant's grammar, if it is kept."""
        kept = self._tenants.get(tenant, OrderedDict())
        if grammar in kept:
            kept.move_to_end(grammar)
        return kept.get(grammar)

    def keep(self, tenant: bytes, grammar: Grammar, state: Any) -> None:
        """Keep one; the oldest of the tenant goes, or of whoever has most."""
        kept = self._tenants.setdefault(tenant, OrderedDict())
        self._tenants.move_to_end(tenant)
        kept[grammar] = state
        while len(kept) > MAX_COMPILED:
            kept.popitem(last=False)
        while len(self) > MAX_COMPILED_IN_ALL:
            most = max(self._tenants, key=lambda one: len(self._tenants[one]))
            self._tenants[most].popitem(last=False)
            if not self._tenants[most]:
                del self._tenants[most]


class Matcher:
    """Where one sequence is in its grammar. Not for several threads at once."""

    def __init__(self, state: Any, vocab_size: int, end_id: int) -> None:
        self._state = state
        self._bits = np.zeros(-(-vocab_size // 32), np.uint32)
        self._vocab_size = vocab_size
        self.end_id = end_id
        """An id that ends the text."""

    def copy(self) -> "Matcher":
        """Another one at the same place."""
        return Matcher(self._state.deep_copy(), self._vocab_size, self.end_id)

    @property
    def is_over(self) -> bool:
        """Whether the text is complete and nothing but its end can follow."""
        return bool(self._state.is_stopped()) and not self._state.is_error()

    def allowed(self) -> Ids:
        """Ids that may come next, ascending; an end id among them where the text is complete.

        Raises GrammarStuck when there is none: the vocabulary cannot spell what must follow, or a limit is met.
        """
        ids = self.allowed_below(self._vocab_size)
        if not len(ids):
            raise GrammarStuck(STUCK)
        return ids

    def allowed_below(self, most: int) -> Ids:
        """The allowed ids, if any, below a number, or little above it. Raises GrammarStuck when a limit is met."""
        self._state.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        bits = np.unpackbits(self._bits[: -(-most // 32)].view(np.uint8), bitorder="little")
        return np.flatnonzero(bits.view(np.bool_))  # of booleans it is four times as fast

    def num_allowed(self, ids: Sequence[int]) -> int:
        """How many of these ids could follow, one after another."""
        return int(self._state.validate_tokens(list(ids)))

    def follow(self, ids: Sequence[int]) -> int:
        """Go on with as many of these ids as may come next, one after another; how many. Raises GrammarStuck when a
        limit is met."""
        count = int(self._state.try_consume_tokens(list(ids)))
        self._check()
        return count

    def accept(self, token_id: int) -> None:
        """Go on with an allowed id."""
        self._state.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._state.is_error():
            raise GrammarStuck(f"{STUCK} ({_line(self._state.get_error())})")


class _Words:
    """A vocabulary as llguidance reads it (its TokenizerWrapper)."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end_id: int) -> None:
        ids = range(vocabulary.vocab_size)
        self.tokens = [vocabulary.token_bytes(i) for i in ids]
        self.special_token_ids = [i for i in ids if vocabulary.is_special(i)]
        self.eos_token_id = end_id
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        """Ids of a text: where a grammar leaves one continuation, masks allow the tokens that spell it as usual."""
        return self._encode(text)


def _followed(matcher: Matcher, ids: Sequence[int]) -> int:
    """How many of these ids a matcher has taken. Raises UsageError, also for whatever llguidance raises."""
    try:
        return matcher.follow(ids)
    except KeyboardInterrupt:
        raise
    except BaseException:
        _too_hard("one that meets a limit of the grammar")


def _too_hard(got: str) -> NoReturn:
    fail(UsageError, "the answer that is begun", got=got, expected="less of it, or a simpler grammar")


def compiled(trie: Any, grammar: Grammar) -> Any:
    """A checked grammar's state at the beginning of its text, its first mask made. Raises UsageError, also for whatever
    llguidance raises: its Rust panics are no Exception."""
    try:
        return _compile(trie, grammar)
    except (HerdError, KeyboardInterrupt):
        raise
    except BaseException as error:
        why = f"{type(error).__name__}: {_line(str(error))}"
        raise UsageError(f"{grammar.kind}: it cannot be compiled ({why[:200]}); write it another way") from error


def _compile(trie: Any, grammar: Grammar) -> Any:
    if grammar.kind == "schema":
        return _compile_schema(trie, grammar.text)
    if grammar.kind == "lark":
        return _compile_lark(trie, grammar.text)
    if grammar.kind == "json":
        return _started(trie, "json", _state(trie, _of_schema({"type": "object"})))
    from llguidance import LLMatcher

    if repeats(grammar.text) > MAX_REPEATS:
        many = f"counts inside counts that multiply to more than {MAX_REPEATS}"
        fail(UsageError, "regex", got=many, expected="smaller ones")
    return _started(trie, "regex", _state(trie, LLMatcher.grammar_from_regex(grammar.text)))


def lark_of(grammar: Grammar) -> str:
    """The grammar in llguidance's dialect of Lark, whatever kind it is of: what another engine that has llguidance has
    to be told so that it allows the same texts. Raises UsageError."""
    if grammar.kind == "lark":
        return lark.enforceable(grammar.text, _styled)
    if grammar.kind == "regex":
        return f"start: TEXT\nTEXT: /{lark.as_expression(grammar.text)}/\n"
    text = grammar.text if grammar.kind == "schema" else '{"type": "object"}'
    return f"start: %json {json.dumps(_styled(text))}\n"


def _styled(schema: str) -> dict[str, Any]:
    """A schema as it is compiled within Lark."""
    found = closed(json_schema.enforceable(schema)).schema
    return found | {"x-guidance": _style(found)}


def _compile_lark(trie: Any, text: str) -> Any:
    from llguidance import LLMatcher

    schemas: list[str] = []

    def inner(schema: str) -> dict[str, Any]:
        schemas.append(schema)
        return _styled(schema)

    state = _state(trie, LLMatcher.grammar_from_lark(lark.enforceable(text, inner)))
    if state.is_error():
        for schema in schemas:
            _compile_schema(trie, schema)  # the one that is to blame tells its place
    return _started(trie, "lark", state)


def _compile_schema(trie: Any, text: str) -> Any:
    checked = closed(json_schema.enforceable(text))
    state = _state(trie, _of_schema(checked.schema))
    if state.is_error():
        # llguidance tells no place: the smallest part that it refuses as well is to blame
        until_s = time.monotonic() + BLAME_S

        def why_not(part: dict[str, Any]) -> str | None:
            if time.monotonic() > until_s:
                return None
            tried = _state(trie, _of_schema(part))
            return _line(tried.get_error()) if tried.is_error() else None

        json_schema.blame(checked, why_not, _line(state.get_error()))
    return _started(trie, "schema", state)


def _of_schema(schema: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_style(schema))


def _style(schema: dict[str, Any]) -> Any:
    """How a rewritten schema's texts are written. Where some names are listed and others may come too, each name has
    one spelling: what is said of a listed one holds for it however it could be written. But for a schema that names
    control characters itself, which have no other spelling than that."""
    everywhere = json_schema.nodes([schema, *schema.get("$defs", {}).values()])
    listed = any(
        node.get("additionalProperties", True) is not False
        and (node.get("properties") or node.get("patternProperties"))
        for node in everywhere
    )
    if not listed:
        return JSON_STYLE
    written = json.dumps(schema, ensure_ascii=False)
    return JSON_STYLE if "\\u00" in written or "\x7f" in written else JSON_STYLE | NO_SECOND_SPELLING


def _state(trie: Any, source: str) -> Any:
    import llguidance

    return llguidance.LLMatcher(trie, source, log_level=0, limits=llguidance.LLParserLimits(**LIMITS))


def _started(trie: Any, kind: str, state: Any) -> Any:
    """A state whose first mask is made, and leaves something to say."""
    if state.is_error():
        fail(UsageError, kind, got=_line(state.get_error()), expected="one that can be enforced")
    try:
        first = Matcher(state, trie.vocab_size, trie.eos_token).allowed()
    except HerdError as error:
        fail(UsageError, kind, got=str(error), expected="one that some text matches")
    if set(first.tolist()) <= set(trie.eos_tokens):
        fail(UsageError, kind, got="no text but the empty one matches", expected="one that some text matches")
    return state


def _line(message: str) -> str:
    """What llguidance's message says, without the lines that repeat the grammar."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (reasons or lines or ["no reason given"])[0]
