"""Split patterns: how text falls into pieces before byte-pair merging. Merges never cross a piece.

By name, as `split_names.py` finds it in files; splits in several steps are in `split_steps.py`.

    llama4      o200k: case-aware words, 1 to 3 digits, contractions glued to the word
    llama-bpe   Llama 3: words with one leading character, 1 to 3 digits
    tekken      Mistral: as llama4, each digit alone, no contractions
    qwen2       as llama-bpe, each digit alone
    smollm      each digit alone, then GPT-2's rule between the digits
    gpt-2       GPT-2: contractions, words, numbers, other, whitespace

Every pattern takes linear time: its only repeats that can fail late (whitespace before a line end, capitals before a
small letter) are then taken whole by the next alternative.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import regex  # type: ignore[import-untyped]

from herd.lanes import give_way
from herd.text import split_steps

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_GPT2_CONTRACTION = "'(?:[sdmt]|ll|ve|re)"


def _cased(contraction: str, digits: str) -> str:
    return "|".join(
        [
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{contraction}",
            rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{contraction}",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    )


def _plain(digits: str) -> str:
    return "|".join(
        [
            _CONTRACTION,
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    )


LLAMA4 = _cased(f"{_CONTRACTION}?", r"\p{N}{1,3}")
TEKKEN = _cased("", r"\p{N}")
LLAMA_BPE = _plain(r"\p{N}{1,3}")
QWEN2 = _plain(r"\p{N}")
GPT2 = rf"{_GPT2_CONTRACTION}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
# Two steps in one: a digit ends the piece before it, so whitespace before a digit counts as whitespace at the end.
SMOLLM = rf"\p{{N}}|{_GPT2_CONTRACTION}| ?\p{{L}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?![^\s\p{{N}}])|\s+"

PATTERNS: Mapping[str, str] = {
    "llama4": LLAMA4,
    "llama-bpe": LLAMA_BPE,
    "tekken": TEKKEN,
    "qwen2": QWEN2,
    "smollm": SMOLLM,
    "gpt-2": GPT2,
}


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
    """The pieces of a text by the split of this name, some at a time, as the whole has them."""
    if name in split_steps.STEPS:
        return split_steps.batches(name, text, window)
    return in_windows(compiled(name).findall, text, window)


def in_windows(find: Callable[..., list[str]], text: str, window: int = WINDOW) -> Iterator[list[str]]:
    """What the `findall` of a pattern finds in a text, some at a time, as in the whole. Nothing more than REACH beyond
    its end may change what it finds."""
    at, width = 0, window
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
