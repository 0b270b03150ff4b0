"""Values in calls, read a character at a time: JSON objects by their brackets, Python's literals by a small grammar.

Each reader is a generator that is sent characters and returns what it read together with the character after it, END at
the end of the text. It raises NoCall at the first character that cannot belong to a call, so that whoever feeds it
knows at once that what was held back is plain text. Reading is linear: no character is looked at twice.
"""

from collections.abc import Generator
from typing import Any

from herd.text.message_checks import MOST_NAME, in_name

END = ""
"""Sent after the last character."""
MOST_DEPTH = 64
Reader = Generator[None, str, tuple[Any, str]]
SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}
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
        if len(found) > MOST_NAME:
            raise NoCall
        char = yield
    if not found:
        raise NoCall
    return "".join(found), char


def json_text(char: str, whole: bool = True) -> Reader:
    """The text of a JSON object, from `{` to its `}`; is it JSON: json.loads knows. whole: its last `}` must be there;
    else at the end of the text it may be missing, if a `}` stands before it: then everything inside is complete."""
    if char != "{":
        raise NoCall
    found: list[str] = []
    open_: list[str] = []
    in_string = False
    while True:
        if char == END:
            if whole or len(open_) != 1 or "".join(found).rstrip()[-1:] != "}":
                raise NoCall
            return "".join(found) + "}", END
        found.append(char)
        if in_string:
            if char == "\\":
                char = yield
                if char == END:
                    raise NoCall
                found.append(char)
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "{[":
            open_.append("}" if char == "{" else "]")
            if len(open_) > MOST_DEPTH:
                raise NoCall
        elif char in "}]":
            if char != open_.pop():
                raise NoCall
            if not open_:
                char = yield
                return "".join(found), char
        char = yield


def value(char: str, depth: int = 0) -> Reader:
    """One of Python's or JSON's literals: text, number, true, false, none, list, tuple, dict."""
    if depth > MOST_DEPTH:
        raise NoCall
    if char and char in "\"'":
        return (yield from string(char))
    if char == "[":
        return (yield from sequence("]", depth))
    if char == "(":
        return (yield from sequence(")", depth))
    if char == "{":
        return (yield from mapping(depth))
    if char and (char.isdigit() or char in "+-."):
        return (yield from number(char))
    found, char = yield from word(char)
    if found not in WORDS:
        raise NoCall
    return WORDS[found], char


def string(quote: str) -> Reader:
    """A text in quotes, also in three of them; Python's escapes."""
    char = yield
    if char == quote:
        char = yield
        if char != quote:
            return "", char
        return (yield from _long_string(quote))
    found: list[str] = []
    while char != quote:
        if char == END:
            raise NoCall
        char = yield from _character(char, found)
    char = yield
    return whole_characters("".join(found)), char


def whole_characters(text: str) -> str:
    """The text, if it can be said in UTF-8. Raises NoCall for half of a surrogate pair."""
    if not text.isascii() and any("\ud800" <= c < "\ue000" for c in text):
        raise NoCall
    return text


def _long_string(quote: str) -> Reader:
    found: list[str] = []
    run = 0
    char = yield
    while True:
        if char == END:
            raise NoCall
        if char == quote:
            run += 1
            found.append(char)
            char = yield
            if run == 3:
                return whole_characters("".join(found[:-3])), char
            continue
        run = 0
        char = yield from _character(char, found)


def _character(char: str, found: list[str]) -> Generator[None, str, str]:
    """One character of a text, an escape resolved; the one after it."""
    if char != "\\":
        found.append(char)
        return (yield)
    char = yield
    if char and char in "xuU":
        digits = ""
        for _ in range({"x": 2, "u": 4, "U": 8}[char]):
            digits += yield
        try:
            code = int(digits, 16)
            if 0xDC00 <= code < 0xE000 and found and "\ud800" <= found[-1] < "\udc00":
                code = 0x10000 + (ord(found.pop()) - 0xD800 << 10) + code - 0xDC00  # JSON's way of writing one
            found.append(chr(code))
        except (ValueError, OverflowError):
            raise NoCall from None
    elif char in _ESCAPES and char:
        found.append(_ESCAPES[char])
    elif char and char in "\\\"'/\n":
        found.append("" if char == "\n" else char)
    elif char:
        found.append("\\" + char)  # as Python does
    return (yield)


def number(char: str) -> Reader:
    """A whole number or a float."""
    found = []
    while char and (char.isdigit() or char in "+-.eE_"):
        found.append(char)
        if len(found) > 400:
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


def sequence(close: str, depth: int) -> Reader:
    """The elements of a list or a tuple, after its opening bracket."""
    found: list[Any] = []
    _, char = yield from spaces((yield))
    while char != close:
        element, char = yield from value(char, depth + 1)
        found.append(element)
        _, char = yield from spaces(char)
        if char == ",":
            _, char = yield from spaces((yield))
        elif char != close:
            raise NoCall
    char = yield
    return found, char


def mapping(depth: int) -> Reader:
    """The members of a dict, after `{`: `"key": value`, or `key=value` as Meta's code writes them."""
    found: dict[str, Any] = {}
    _, char = yield from spaces((yield))
    while char != "}":
        if char and char in "\"'":
            key, char = yield from string(char)
        else:
            key, char = yield from word(char)
        _, char = yield from spaces(char)
        if char not in (":", "="):
            raise NoCall
        _, char = yield from spaces((yield))
        found[key], char = yield from value(char, depth + 1)
        _, char = yield from spaces(char)
        if char == ",":
            _, char = yield from spaces((yield))
        elif char != "}":
            raise NoCall
    char = yield
    return found, char
