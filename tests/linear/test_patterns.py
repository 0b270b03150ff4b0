"""Every regular expression in the source takes time in proportion to a text, whatever stands in it.

All that modules compile are found by walking them. A pattern's form must show that one attempt looks at no character
an unbounded number of times; where attempts are made from place to place and one has no bound, a row says why they do
not overlap. Then each is timed, with the methods that the source calls on it, over texts that nearly match it.
"""

import re
from typing import Any

import pytest
from sources import OVER, inline, patterns, uses

from costs import grows
from fillers import UNITS, text
from herd.safety import RULES, Rule, scan
from regexes import INF, near, steps

PATTERNS = patterns()

APART = {
    "herd.store.about._FRONT": "begins at a line alone, and stays in it",
    "herd.cli.replies.IMAGE_PATH": "begins at a quote and ends at the next one, or at a word's first character",
    "herd.grammar.json_schema._UNLIKE": "begins at a bracket, and the next bracket ends it",
    "herd.grammar.regexes._PIECES": "a class is taken whole, a count begins at a brace and holds none",
    "herd.text.call_parameters._PIECES": "a class is taken whole, anything else is one character",
    "herd.grammar.lark._PIECES": "whatever begins is taken whole; what has no end ends the search",
    "herd.strict_json._TOKENS": "a string that has no end ends the search",
    "herd.text.rank_file._RUNS": "every place begins a run, which is taken whole",
    "herd.text.sentencepiece._WORDS": "every place begins a word or spaces, which are taken whole",
    "herd.text.sentencepiece._EACH": "every place begins a word, which is taken whole",
}
"""Why the attempts of a search are together linear, where one attempt may look at all of a text."""
SHORT = {"herd.server.ollama.common._DURATION": 64, "herd.server.http.framing._EXTENSION": 256}
"""Characters that a pattern sees at most, because its user looks first."""
STOPPED = ("herd.strict_json._TOKENS", "herd.grammar.lark._PIECES")
"""Not timed here: their users stop at what would be tried again, and test_scanners times those."""
INLINE = {
    "herd.disk.atomic.remove_left: re.compile": r"\.a\.[0-9a-f]{12}\.(part|old)",
    "herd.store.hub._forget_others: re.fullmatch": r"a[0-9a-f]{12}",
    "herd.store.hub.pull_hub: re.fullmatch": r"[0-9a-f]{7,64}",
    "herd.store.packed_copies.folder_of: re.sub": r"[^A-Za-z0-9._-]",
    "herd.store.registry.name_from: re.sub": r"[^A-Za-z0-9._-]",
    "herd.cli.replies.find_images: re.sub": r"\\(.)",
    "herd.convert._licence: re.fullmatch": r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}",
    "herd.grammar.json_schema._check_pattern: re.sub": r"\\.",
    "herd.server.http.framing.Framing._target: re.split": r"[/?]",
    "herd.safety.cues.Cue.compiled: re.compile": "",
    "herd.server.machine_paths._compiled: re.compile": "",
    "herd.safety.forms.Form.parts: re.findall": "",
    "herd.safety.forms._fake: re.match": "",
    "herd.safety.guard.quoted: re.sub": "\r\n?|[\u2028\u2029\u0085\v\f]",
    "herd.containers.safetensors_header._pattern: re.compile": "",
    "herd.safety.rules.Pattern.compiled: re.compile": "",
    "herd.text.splits.compiled: regex.compile": "",
    "herd.text.split_steps._compiled: regex.compile": "",
    "herd.text.templates._any_of: re.compile": "(a|b)",
    "herd.text.added._in_word: regex.compile": "",
    "herd.evals.checkers._has_pattern: regex.compile": "",
    "herd.evals.checkers._regex: regex.search": "",
    "herd.text.added._Finder._begins: re.compile": "",
    "herd.text.added._Finder._anywhere: re.compile": "",
}
"""Patterns that stand inside functions; empty: they become a module's, have a test of their own (rules' here and in
tests/safety, others in test_scanners), or read nothing but tables of the source."""
DO = "make it possessive (a++), bound it, or say in APART in tests/linear/test_patterns.py why attempts stay apart"


def flags_of(pattern: Any) -> int:
    return int(pattern.flags) & ~re.UNICODE


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_looks_at_no_character_again_and_again(name: str) -> None:
    if name in SHORT:
        return
    most = steps(PATTERNS[name].pattern, flags_of(PATTERNS[name]))
    called = uses().get(name.rpartition(".")[2], set())
    assert called, f"{name} is never used"
    apart = most < INF or not called & OVER or name in APART
    assert apart, f"{name}: {', '.join(sorted(called & OVER))} with an attempt without bound: {DO}"


def test_patterns_inside_functions_are_known_and_bounded() -> None:
    unknown = inline() - INLINE.keys()
    assert not unknown, f"{sorted(unknown)}: compile them at the module's top, or add a row to INLINE"
    assert all(steps(pattern) < INF for pattern in INLINE.values())


@pytest.mark.parametrize("name", sorted(PATTERNS.keys() - set(STOPPED)))
def test_texts_that_nearly_match_cost_their_length(name: str) -> None:
    pattern: Any = PATTERNS[name]
    called = uses()[name.rpartition(".")[2]]
    sizes = {"first": 16, "most": SHORT[name]} if name in SHORT else {"most": 1 << 15}
    makers = [maker.text for maker in near(pattern.pattern, flags_of(pattern))] + [text(unit) for unit in UNITS]
    worse = {}
    for make in makers:
        for method in called:
            times = grows(
                lambda data, m=method: _all(pattern, m, data), lambda n, m=make: _typed(pattern, m(n)), **sizes
            )
            if times:
                worse[method, make(20)] = times
    assert not worse, f"{name}: seconds for a text and for four of it: {worse}: {DO}"


def _all(pattern: Any, method: str, data: Any) -> None:
    found = pattern.sub(data[:0], data) if method in ("sub", "subn") else getattr(pattern, method)(data)
    if method == "finditer":
        for _ in found:
            pass


def _typed(pattern: Any, made: str) -> Any:
    return made if isinstance(pattern.pattern, str) else made.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("regex", ["(a|a)*", "(a*)*", "(a*b|a)*+", "a*a*", "(?:a+b?)+", ".*a.*b", "(?:a(?=.*b))*+"])
def test_the_form_of_what_tries_again_is_refused(regex: str) -> None:
    with pytest.raises(AssertionError):
        steps(regex)


@pytest.mark.parametrize(
    ("regex", "most"),
    [("abc", 3), ("[ab]{2,5}+c", 6), (r'"(?:[^"\\]++|\\.)*+"', INF), (r"a*b", INF), ("a{0,3}bc", 11), ("(?:ab){3}", 6)],
)
def test_the_form_of_what_does_not_is_counted(regex: str, most: float) -> None:
    assert steps(regex) == most


@pytest.mark.parametrize("regex", [r"\s+$", r"a*b", r'"(?:[^"\\]|\\.)*"'])
def test_the_clock_finds_what_is_quadratic(regex: str) -> None:
    """What a search takes that begins again at each place is seen in texts that are derived from the pattern."""
    pattern = re.compile(regex)
    assert any(grows(lambda data: pattern.search(data), one.text) for one in near(regex))


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.patterns], ids=lambda rule: rule.id)
def test_texts_that_nearly_match_a_rule_cost_their_length(rule: Rule) -> None:
    worse = {}
    for pattern in rule.patterns:
        for maker in near(pattern.regex, pattern.flags):
            times = grows(lambda data: scan(data, (rule,)), maker.text, first=1 << 9, most=1 << 13)
            if times:
                worse[maker] = times
    assert not worse, f"{rule.id}: seconds for a text and for four of it: {worse}"
