"""What a trial makes of grammars: which pass, which begin texts that they cannot end, and what each may cost."""

import contextlib
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from herd.engine.grammar_trial import _Bytes, _trie, refusal_of
from herd.errors import GrammarStuck, UsageError
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.llm.grammar_trials import GRAMMAR_BYTES, Trials
from herd.text.tokenizer import Tokenizer
from random_schemas import HostileSchema
from schemas import CASES

BYTES = Tokenizer.bytes_only()
SECONDS = 0.5


def children() -> set[int]:
    """Processes that this one has started and that have not been waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            after_name = stat.read_text().rpartition(")")[2].split()
            if int(after_name[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def check_hostile(seeds: range) -> tuple[int, int]:
    """How many of these schemas passed, and how many were refused: by a bound, or by the limit on this machine."""
    passed, refused, there = 0, 0, children()
    with contextlib.closing(Trials(BYTES, BYTES.eos_ids, seconds=SECONDS)) as trials:
        grammars = Grammars(BYTES, BYTES.eos_ids, trials.judge)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for seed in seeds:
            grammar = Grammar("schema", json.dumps(HostileSchema(seed).schema))
            began_s = time.monotonic()
            try:
                matcher = grammars.matcher(grammar, client="a")
                passed += 1
            except UsageError:
                refused += 1
            else:
                with contextlib.suppress(GrammarStuck):
                    for n in range(20):
                        ids = matcher.allowed()
                        matcher.accept(int(ids[n % len(ids)]))
                        if matcher.is_over:
                            break
            # without a limit some never end: with it, a start, a trial, what compiles here, and a busy machine
            assert time.monotonic() - began_s < 100 * SECONDS, seed
            assert len(children() - there) <= 1, seed
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
        assert grown < GRAMMAR_BYTES >> 10, "KiB that stayed here"
    assert children() <= there
    return passed, refused


def test_no_schema_that_asks_much_takes_longer_than_the_limit_or_leaves_anything() -> None:
    passed, refused = check_hostile(range(30))
    assert passed
    assert refused


@pytest.mark.slow
def test_no_schema_of_many_that_ask_much_does() -> None:
    passed, refused = check_hostile(range(30, 500))
    assert passed > 50
    assert refused > 50


def refusal(grammar: Grammar) -> str | None:
    grammars = Grammars(BYTES, BYTES.eos_ids)
    grammars.prepare()
    return refusal_of(grammars._trie, grammar, {i: i for i in range(256)})


@pytest.mark.parametrize("name", CASES)
def test_every_keyword_passes(name: str) -> None:
    assert refusal(Grammar("schema", json.dumps(CASES[name][0]))) is None


def nested(piece: str, times: int) -> str:
    for _ in range(times):
        piece = f"({piece}){{99}}"
    return piece


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("lark", "start: " + nested('"a"', 5)),
        Grammar("lark", 'start: a{99}\na: b{99}\nb: c{99}\nc: "x"'),
        Grammar("regex", "((((a{0,99}){0,99}){0,99}){0,99}){0,99}"),
        Grammar("schema", json.dumps({"anyOf": [{"properties": {f"p{i}{j}": {} for i in range(390)}} for j in "ab"]})),
    ],
)
def test_what_is_stuck_as_soon_as_it_begins_is_refused(grammar: Grammar) -> None:
    assert "too large a one to follow" in (refusal(grammar) or "")


SIZES: dict[str, tuple[Any, str | None]] = {
    "counts": ({"pattern": "(a{99}){99}"}, None),
    "counts in counts": ({"pattern": nested("a", 3)}, "#/pattern: counts inside counts multiply to more than 10000"),
    "by pattern": ({"patternProperties": {nested("a", 5): {}}}, "counts inside counts"),
    "400 left out": ({"properties": {f"p{i}": {} for i in range(400)}}, None),
    "401 left out": ({"properties": {f"p{i}": {} for i in range(401)}}, "#/properties: 401 members that may be left"),
    "1,200 required": (
        {"properties": {f"p{i}": {} for i in range(1_200)}, "required": [f"p{i}" for i in range(1_200)]},
        None,
    ),
    "a divisor": ({"type": "integer", "multipleOf": 9_973}, None),
    "zeros": ({"type": "integer", "multipleOf": 3_600_000}, None),
    "thousands": ({"allOf": [{"multipleOf": 1000}, {"multipleOf": 100}, {"multipleOf": 2000}]}, None),
    "hundredths": ({"type": "number", "multipleOf": 0.01}, None),
    "a fraction": ({"type": "number", "multipleOf": 12.345}, None),
    "a large divisor": ({"type": "integer", "multipleOf": 1_299_709}, "#: multipleOf: 1299709 has too many remainders"),
    "large with zeros": ({"multipleOf": 86_400_000}, "#: multipleOf: 86400000 has too many remainders"),
    "a large fraction": ({"type": "integer", "multipleOf": 1299.709}, "#: multipleOf: 1299709 has too many"),
    "one under another": (
        {"items": {"multipleOf": 997, "allOf": [{"multipleOf": 991}]}},
        "#/items: multipleOf: 988027 has too many remainders; at most 100000",
    ),
    "one behind another": (
        {
            "properties": {"a": {"multipleOf": 997, "$ref": "#/$defs/d"}},
            "$defs": {"d": {"anyOf": [{"multipleOf": 991}]}},
        },
        "#/properties/a: multipleOf: 988027",
    ),
    "alternatives": ({"multipleOf": 97, "anyOf": [{"multipleOf": 3}, {"multipleOf": 1031}]}, "#: multipleOf: 100007"),
    "different ones": (
        {"prefixItems": [{"type": "integer", "multipleOf": 99_000 + i} for i in range(3)]},
        "#: its multipleOf have more than 200000 remainders",
    ),
    "the same ones": ({"prefixItems": [{"type": "integer", "multipleOf": 3_607} for _ in range(30)]}, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_bounded_with_their_place(name: str) -> None:
    given, said = SIZES[name]
    found = refusal(Grammar("schema", json.dumps(given)))
    assert found is None if said is None else said in (found or ""), found


def test_special_tokens_may_stand_before_bytes() -> None:
    words = _Bytes(290, {0: b"<|s|>", 2: b"<|e|>", 289: b"<|x|>"}, 2)
    assert sorted(words.byte_of.values()) == list(range(256))
    assert not words.byte_of.keys() & {0, 2, 289}
    trie = _trie(words, [2])
    wide = {"anyOf": [{"properties": {f"p{i}{j}": {} for i in range(390)}} for j in "ab"]}
    assert "too large a one" in (refusal_of(trie, Grammar("schema", json.dumps(wide)), words.byte_of) or "")
    assert refusal_of(trie, Grammar("lark", 'start: "a" <|x|> "b"'), words.byte_of) is None
