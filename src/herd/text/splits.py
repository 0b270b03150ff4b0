"""Split patterns: how text falls into pieces before byte-pair merging. Merges never cross a piece.

Four patterns, by name. Files name theirs in two ways, both mapped here: GGUF by `tokenizer.ggml.pre`, `tokenizer.json`
by a structure of pre-tokenizers. An unknown one is refused: with a wrong pattern a model still answers, only worse.

    llama4      o200k: case-aware words, 1 to 3 digits, contractions glued to the word
    llama-bpe   Llama 3: words with one leading character, 1 to 3 digits
    smollm      each digit alone, then GPT-2's rule between the digits
    gpt-2       GPT-2: contractions, words, numbers, other, whitespace

Every pattern takes linear time: its only repeats that can fail late (whitespace before a line end, capitals before a
small letter) are then taken whole by the next alternative.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import regex  # type: ignore[import-untyped]

from herd.errors import BadTokenizer, fail
from herd.lanes import give_way

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2_CONTRACTION = "'(?:[sdmt]|ll|ve|re)"

LLAMA4 = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
LLAMA_BPE = "|".join(
    [
        _CONTRACTION,
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
GPT2 = rf"{_GPT2_CONTRACTION}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
# Two steps in one: a digit ends the piece before it, so whitespace before a digit counts as whitespace at the end.
SMOLLM = rf"\p{{N}}|{_GPT2_CONTRACTION}| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?![^\s\p{{N}}])|\s+"

PATTERNS: Mapping[str, str] = {"llama4": LLAMA4, "llama-bpe": LLAMA_BPE, "smollm": SMOLLM, "gpt-2": GPT2}
# Names that GGUF files use for the same patterns (llama.cpp's converter writes them).
_GGUF_NAMES: Mapping[str, str] = {
    "llama4": "llama4",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "smollm": "smollm",
    "gpt-2": "gpt-2",
}
# Vocabularies whose rule is that a piece which is itself a token is taken whole, whatever the merges say (Meta's rule;
# for GGUF it follows from the name, tokenizer.json says it as `ignore_merges`).
WHOLE_PIECES = frozenset({"llama4", "llama-bpe"})


@cache
def compiled(name: str) -> "regex.Pattern[str]":
    """The pattern of this name, ready for `findall`."""
    return regex.compile(PATTERNS[name])


WINDOW = 1 << 13
"""Characters that are cut into pieces at once: other threads wait for no more, and pieces take many times as much room
as their text."""
REACH = 8
"""Characters beyond its end that can change a piece: a contraction is glued to the word before it."""


def batches(name: str, text: str, window: int = WINDOW) -> Iterator[list[str]]:
    """The pieces of a text by the pattern of this name, some at a time, as `findall` on the whole has them."""
    find, at, width = compiled(name).findall, 0, window
    while at < len(text):
        end = min(at + width, len(text))
        found = find(text, at, end)
        taken = end - at
        while end < len(text) and found and taken > width - REACH:  # what is to come may change these
            taken -= len(found.pop())
        if found:
            give_way()
            yield found
            at, width = at + taken, window
        else:
            width *= 2  # one piece is longer


def from_gguf(pre: object, where: str) -> str:
    """The split's name for a file's `tokenizer.ggml.pre`; `where` names the file in errors."""
    if not isinstance(pre, str) or pre not in _GGUF_NAMES:
        fail(BadTokenizer, f"{where}: tokenizer.ggml.pre", got=pre, expected=_one_of(_GGUF_NAMES))
    return _GGUF_NAMES[pre]


def from_pre_tokenizer(structure: object, where: str) -> str:
    """The split's name for the `pre_tokenizer` of a tokenizer.json."""
    steps = _steps(structure)
    for name, known in _STRUCTURES.items():
        if steps in known:
            return name
    return fail(BadTokenizer, f"{where}: pre_tokenizer", got=_summary(structure), expected=_one_of(PATTERNS))


def _summary(structure: object) -> str:
    """The types in a pre-tokenizer: enough to know it by, and short whatever the file holds."""
    if not isinstance(structure, dict):
        return type(structure).__name__
    inner = structure.get("pretokenizers")
    names = (
        [str(part.get("type"))[:20] for part in inner[:8] if isinstance(part, dict)] if isinstance(inner, list) else []
    )
    return f"{str(structure.get('type'))[:20]}({', '.join(names)})"


def _one_of(names: Mapping[str, str]) -> str:
    return "one of " + ", ".join(sorted(names))


def _steps(structure: object) -> tuple[Any, ...] | None:
    """A pre-tokenizer as a tuple of (type, what matters of it), defaults filled in; None if it is not one we know."""
    if not isinstance(structure, dict):
        return None
    kind = structure.get("type")
    if kind == "Sequence":
        inner = structure.get("pretokenizers")
        if not isinstance(inner, list) or not 0 < len(inner) <= 8:
            return None
        parts = [_step(part) for part in inner]
    else:
        parts = [_step(structure)]
    return None if None in parts else tuple(parts)


def _step(part: object) -> tuple[Any, ...] | None:
    if not isinstance(part, dict):
        return None
    match part.get("type"):
        case "ByteLevel" if not part.get("add_prefix_space", True):
            return ("bytes", bool(part.get("use_regex", True)))
        case "Digits":
            return ("digits", bool(part.get("individual_digits", False)))
        case "Split" if part.get("behavior") == "Isolated" and not part.get("invert", False):
            pattern = part.get("pattern")
            text = pattern.get("Regex") if isinstance(pattern, dict) and len(pattern) == 1 else None
            return ("split", text) if isinstance(text, str) else None
        case _:
            return None


# GPT-2's rule as its own authors wrote it: the same pieces as ours.
_GPT2_ORIGINAL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BYTES_ONLY, _BYTES_GPT2 = ("bytes", False), ("bytes", True)
# What `tokenizers` can be told in two ways is known in both.
_STRUCTURES: Mapping[str, tuple[tuple[Any, ...], ...]] = {
    "llama4": ((("split", LLAMA4), _BYTES_ONLY),),
    "llama-bpe": ((("split", LLAMA_BPE), _BYTES_ONLY),),
    "smollm": ((("digits", True), _BYTES_GPT2), (("split", r"\p{N}"), _BYTES_GPT2)),
    "gpt-2": ((_BYTES_GPT2,), (("split", _GPT2_ORIGINAL), _BYTES_ONLY)),
}
