"""Values in calls, read a character at a time: Python's literals and JSON's, by one small grammar.

Each reader is a generator that is sent characters and returns what it read together with the character after it, END at
the end of the text. Values are not returned but written down as they are read (`herd.text.call_arguments`). It raises
NoCall at the first character that cannot belong to a call, so that whoever feeds it knows at once what is plain text.
Reading is linear: no character is looked at twice.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

from herd.text.call_arguments import Arguments
from herd.text.message_checks import MOST_NAME, in_name

END = ""
"""Sent after the last character."""
MOST_DEPTH = 64
MOST_WORD = MOST_NAME + len(".call")
MOST_DIGITS = 400
Reader = Generator[None, str, tuple[Any, str]]
SPACE = " \t\r\n"
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
DIGITS = frozenset("0123456789+-.")
"""What a number may begin with."""
_IN_NUMBERS = DIGITS | frozenset("eE_")
WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}


class NoCall(Exception):
    """What is being read is not a call."""


def spaces(char: str) -> Reader:
    """Skip white space from `char` on."""
    while char and char in SPACE:
        char = yield
    return None, char


def literal(text: str, char: str) -> Reader:
    """Exactly this text."""
    for wanted in text:
        if char != wanted:
            raise NoCall
        char = yield
    return text, char


def word(char: str) -> Reader:
    """A name: letters, digits, `_`, `.`, `-`."""
    found = []
    while char and in_name(char):
        found.append(char)
        if len(found) > MOST_WORD:
            raise NoCall
        char = yield
    if not found:
        raise NoCall
    return "".join(found), char


def one_of(texts: Sequence[str], char: str) -> Reader:
    """Reads one of these texts, none of which begins another. Whatever is none of them is told at once."""
    seen = 0
    while True:
        texts = [text for text in texts if text[seen] == char]
        if not texts:
            raise NoCall
        seen += 1
        char = yield
        if len(texts[0]) == seen:
            return texts[0], char


def value(char: str, out: Arguments, depth: int = 0) -> Reader:
    """Reads a literal of Python's or JSON's: text, number, true, false, none, list, tuple, dict."""
    if depth > MOST_DEPTH:
        raise NoCall
    if char and char in "\"'":
        out.begin_text()
        _, char = yield from string(char, out.more_text)
        out.end_text()
    elif char == "[":
        char = yield from _sequence("]", out, depth)
    elif char == "(":
        char = yield from _sequence(")", out, depth)
    elif char == "{":
        char = yield from mapping(out, depth)
    elif char and char in DIGITS:
        found, char = yield from number(char)
        out.scalar(found)
    else:
        found, char = yield from word(char)
        if found not in WORDS:
            raise NoCall
        out.scalar(WORDS[found])
    return None, char


def string(quote: str, say: Callable[[str], None]) -> Reader:
    """A text in quotes, also in three of them; Python's escapes and JSON's. say: is told its characters."""
    char = yield
    if char == quote:
        char = yield
        if char == quote:
            char = yield from _long_string(quote, say)
        return None, char
    whole = _Characters(say)
    while char != quote:
        if char == END:
            raise NoCall
        char = yield from _character(char, whole)
    whole.end()
    char = yield
    return None, char


class _Characters:
    """Characters of a text on their way: those that JSON writes in two halves are joined."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._half = ""

    def add(self, text: str) -> None:
        """Some more. Raises NoCall for a half without the other, which no UTF-8 can say."""
        is_first, is_second = "\ud800" <= text < "\udc00", "\udc00" <= text < "\ue000"
        if is_second != bool(self._half):
            raise NoCall
        if is_second:
            text = chr(0x10000 + (ord(self._half) - 0xD800 << 10) + ord(text) - 0xDC00)
        self._half = text if is_first else ""
        if text and not is_first:
            self._say(text)

    def end(self) -> None:
        """The text is over. Raises NoCall for a half."""
        if self._half:
            raise NoCall


def _long_string(quote: str, say: Callable[[str], None]) -> Generator[None, str, str]:
    whole = _Characters(say)
    run = 0
    char = yield
    while True:
        if char == END:
            raise NoCall
        if char == quote:
            run += 1
            char = yield
            if run == 3:
                whole.end()
                return char
            continue
        for _ in range(run):
            whole.add(quote)
        run = 0
        char = yield from _character(char, whole)


def _character(char: str, whole: _Characters) -> Generator[None, str, str]:
    """One character of a text, an escape resolved; the one after it."""
    if char != "\\":
        whole.add(char)
        return (yield)
    char = yield
    if char and char in "xuU":
        digits = []
        for _ in range({"x": 2, "u": 4, "U": 8}[char]):
            digits.append((yield))
            if digits[-1] not in _HEX:
                raise NoCall
        code = int("".join(digits), 16)
        if code > sys.maxunicode:
            raise NoCall
        whole.add(chr(code))
    elif char in _ESCAPES and char:
        whole.add(_ESCAPES[char])
    elif char and char in "\\\"'/\n":
        whole.add("" if char == "\n" else char)
    elif char:
        whole.add("\\" + char)  # as Python does
    return (yield)


def number(char: str) -> Reader:
    """A whole number or a float."""
    found = []
    while char and char in _IN_NUMBERS:
        found.append(char)
        if len(found) > MOST_DIGITS:
            raise NoCall
        char = yield
    text = "".join(found)
    for kind in (int, float):
        try:
            result = kind(text)
        except ValueError:
            continue
        if result in (float("inf"), float("-inf")):
            raise NoCall
        return result, char
    raise NoCall


def _sequence(close: str, out: Arguments, depth: int) -> Generator[None, str, str]:
    """The elements of a list or a tuple, after its opening bracket."""
    out.open("[")
    _, char = yield from spaces((yield))
    while char != close:
        out.element()
        _, char = yield from value(char, out, depth + 1)
        _, char = yield from spaces(char)
        if char == ",":
            _, char = yield from spaces((yield))
        elif char != close:
            raise NoCall
    out.close()
    return (yield)


def mapping(out: Arguments, depth: int = 0) -> Generator[None, str, str]:
    """The members of a dict, after `{`: `"key": value`, or `key=value` as Meta's code writes them. Of a name that is
    there twice the first counts: it has left."""
    out.open("{")
    names: set[str] = set()
    _, char = yield from spaces((yield))
    while char != "}":
        name, char = yield from _name(char)
        _, char = yield from spaces(char)
        if char not in (":", "="):
            raise NoCall
        _, char = yield from spaces((yield))
        _, char = yield from member(name, char, out, names, depth + 1)
        _, char = yield from spaces(char)
        if char == ",":
            _, char = yield from spaces((yield))
        elif char != "}":
            raise NoCall
    out.close()
    return (yield)


def member(name: str, char: str, out: Arguments, names: set[str], depth: int = 0) -> Reader:
    """The value of a member of an object whose other names are known; of a second one nothing is written down."""
    if name in names:
        out = Arguments()
    else:
        names.add(name)
        out.key(name)
    return (yield from value(char, out, depth))


def _name(char: str) -> Reader:
    """The name of a member, in quotes or without."""
    if not (char and char in "\"'"):
        return (yield from word(char))
    found: list[str] = []
    _, char = yield from string(char, found.append)
    return "".join(found), char
