"""What strangers fill places with: units of text, and JSON that is wrong, deep, long or full of escapes."""

import json
from collections.abc import Callable

UNITS = (
    *(" ", "\t", "\n", "\r\n", "\0", "0", "1 ", "1.", "1,", '"', "\\", '\\"', "'", "[", "]", "(", "{", "}", "<", ">"),
    *("`", "-", "_", ".", ",", ":", "/", "//", "#", "%", "=", "&", ";", "@", "a", "A", "aA", "a ", " a", "'s", "a-"),
    *(
        "é",
        "\u0301",
        "a\u0301",
        "\u0301a",
        "\ufdfa",
        "\u200b",
        "\u2028",
        "\u3000",
        "漢",
        "a漢",
        "😀",
        "ﬁ",
        "İ",
        "½",
        "\U000e0061",
    ),
    *("data:", ";a", "<|eot|>", "[f(", "[f(a=", '{"name":', "<function=f>{", "```json\n", "f(a=1", "[[", '[{"a":'),
)
"""Of which a hostile text is made."""
FEW_UNITS = (" ", "0", '"', "\\", "[", "a", "aA", "\u0301", "\ufdfa", "\r\n", '{"name":', "[f(a=")
"""Those, for places that are many."""


def text(unit: str) -> Callable[[int], str]:
    """A maker of texts of about so many characters."""
    return lambda size: unit * (size // len(unit) + 1)


def _quoted(body: Callable[[int], str]) -> Callable[[int], str]:
    return lambda size: f'"{body(size)}"'


def _list(element: Callable[[int], str], each: int = 4) -> Callable[[int], str]:
    return lambda size: "[" + ",".join(element(i) for i in range(size // each)) + "]"


def _object(name: Callable[[int], str], last: str = '"end"') -> Callable[[int], str]:
    return lambda size: "{" + "".join(f"{name(i)}:0," for i in range(size // 8)) + last + ":0}"


JSON: dict[str, Callable[[int], str]] = {
    "spaces": lambda size: " " * size + "1",
    "digits": lambda size: "1" * size,
    "digits of a text": _quoted(lambda size: "1" * size),
    "digits after the point": lambda size: "0." + "1" * size,
    "digits of an exponent": lambda size: "1e" + "1" * size,
    "minus signs": lambda size: "-" * size,
    "numbers of 400 digits": _list(lambda _: "1" * 400, 400),
    "quotes": lambda size: '"' * size,
    "escaped quotes": _quoted(lambda size: '\\"' * (size // 2)),
    "escaped quotes without end": lambda size: '"' + '\\"' * (size // 2),
    "quotes and backslashes": lambda size: '"\\' * (size // 2),
    "backslashes": _quoted(lambda size: "\\\\" * (size // 2)),
    "escapes": _quoted(lambda size: "\\u0301" * (size // 6)),
    "halves of pairs": _quoted(lambda size: "\\ud800" * (size // 6)),
    "brackets": lambda size: "[" * size,
    "braces": lambda size: '{"a":' * (size // 5),
    "pairs of brackets": lambda size: "[" + "[]," * (size // 3) + "[]]",
    "zeros": _list(lambda _: "0", 2),
    "numbers": _list(str, 6),
    "one text": _list(lambda _: '"a"'),
    "texts": _list(lambda i: f'"{i}"', 8),
    "texts that begin alike": _list(lambda i: f'"{"a" * 60}{i}"', 64),
    "objects": _list(lambda i: f'{{"a":{i}}}', 10),
    "names": _object(lambda i: f'"{i}"'),
    "a name twice, late": lambda size: _object(lambda i: f'"{i}"', f'"{size // 8 - 1}"')(size),
    "one name": _object(lambda _: '"a"'),
    "long name": lambda size: '{"' + "a" * size + '":0}',
    "words": lambda size: "truefalsenull" * (size // 13),
}
"""Of about so many characters: JSON or nearly."""


def json_text(unit: str) -> Callable[[int], str]:
    """A maker of JSON strings of such a text."""
    return lambda size: json.dumps(text(unit)(size), ensure_ascii=False)
