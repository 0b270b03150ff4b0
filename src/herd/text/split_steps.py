"""Splits in several steps: what one pattern finds in a text are pieces of their own, and each piece goes to the next.

These are DeepSeek's rules. What a step finds may be cut again by a later one: the letters of the first DeepSeek are
those with upper and lower case of an older Unicode, and its signs run from the colon to the tilde, letters included.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache

import regex  # type: ignore[import-untyped]

from herd.lanes import give_way

_CASED = """
41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c 38e-3a1 3a3-3f5
3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b 1d6b-1d77 1d79-1d9a 1e00-1f15
1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3
1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139
213c-213f 2145-2149 214e 2183 2184 2c00-2c7b 2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787
a78b-a78e ab70-abbf fb00-fb06 fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2
10cc0-10cf2 118a0-118df 1e900-1e943
"""
_SIGNS = "21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002"
_CJK, _CJK3 = "4e00-9fa5 800-4e00 ac00-d7ff", "4e00-9fa5 3040-309f 30a0-30ff"


def _class(ranges: str) -> str:
    """A class of characters, of ranges in hexadecimal digits."""
    ends = ([chr(int(end, 16)) for end in one.split("-")] for one in ranges.split())
    return "[" + "".join("-".join(pair) for pair in ends) + "]"


DEEPSEEK3 = "|".join(
    [
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
_LINE_END, _WHITE_END = r"[\r\n]", r"\s+$"

STEPS: Mapping[str, tuple[str, ...]] = {
    "deepseek-llm": (_LINE_END, rf"\s?{_class(_CASED)}+", rf"\s?{_class(_SIGNS)}+", _WHITE_END, f"{_class(_CJK)}+"),
    "deepseek-coder": (_LINE_END, r"\s?\p{L}+", r"\s?\p{P}+", f"{_class(_CJK)}+"),
    "deepseek-v3": (r"\p{N}{1,3}", f"{_class(_CJK3)}+", DEEPSEEK3),
}
"""Name of a split -> its patterns in their order, as files have them."""
DIGITS = frozenset({"deepseek-llm", "deepseek-coder"})
"""Splits whose last step is that every digit is a piece."""
# Nothing before such a place changes the pieces behind it, nor the other way round.
_APART = re.compile(r"(?<=[A-Za-z])(?=\s)|(?<=[\r\n])(?=\S)")
# `\s+$` would be looked for anew at each of a run of spaces.
_SEARCHED = {_WHITE_END: r"(?<!\s)\s++\Z"}


@cache
def _compiled(name: str) -> "tuple[regex.Pattern[str], ...]":
    """The patterns, as groups to split at."""
    patterns = (*STEPS[name], r"\p{N}") if name in DIGITS else STEPS[name]
    return tuple(regex.compile(f"({_SEARCHED.get(pattern, pattern)})") for pattern in patterns)


def cut(name: str, text: str) -> list[str]:
    """The pieces of a text."""
    pieces = [text]
    for pattern in _compiled(name):
        pieces = [part for piece in pieces for part in pattern.split(piece) if part]
    return pieces


def batches(name: str, text: str, window: int) -> Iterator[list[str]]:
    """The pieces of a text, of about `window` characters at a time where the text has places to cut."""
    at, width = 0, window
    while at < len(text):
        end = min(at + width, len(text))
        if end < len(text):
            places = [place.start() for place in _APART.finditer(text, at + 1, end)]
            if not places:
                width *= 2
                continue
            end = places[-1]
        give_way()
        yield cut(name, text[at:end])
        at, width = end, window
