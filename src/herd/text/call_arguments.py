"""The arguments of one call as JSON text, while they are read: what is sure of them, piece by piece.

The pieces, joined, are the `ToolCall.arguments_text` of the whole, in whatever form the model wrote it. What it is not:
a reader (`herd.text.call_values`), a judge of arguments.
"""

import json
from json.encoder import encode_basestring
from typing import Any

_CLOSING = {"{": "}", "[": "]"}


class Arguments:
    """What a reader writes down of the arguments of a call. `settle` says that what it wrote is sure."""

    def __init__(self) -> None:
        self.begun = False
        """Whether it is sure that a value has begun in them: names and brackets alone may be those of no call."""
        self.over = False
        """Whether their last bracket is closed."""
        self._has_value = False
        self._before: list[str] = []
        """What stands before the next value, and is written with it."""
        self._fresh: list[str] = []
        """Written, and not yet sure."""
        self._sure: list[str] = []
        """Sure, and not yet taken."""
        self._taken: list[str] = []
        self._open: list[str] = []
        self._is_first = True

    def settle(self) -> bool:
        """What was written so far is sure; whether there was something."""
        if not self._fresh:
            return False
        self._sure += self._fresh
        self._fresh.clear()
        self.begun = self._has_value
        return True

    def take(self) -> str:
        """What has become sure since it was last taken."""
        text = "".join(self._sure)
        self._sure.clear()
        self._taken.append(text)
        return text

    @property
    def text(self) -> str:
        """All that was taken."""
        return "".join(self._taken)

    @property
    def touched(self) -> bool:
        """Whether their first bracket has come."""
        return self.over or bool(self._open)

    def open(self, bracket: str) -> None:
        """`{` or `[`: an object or a list begins."""
        self._write(bracket)
        self._open.append(_CLOSING[bracket])
        self._is_first = True

    def close(self) -> None:
        """What was opened last is complete."""
        self._write(self._open.pop())
        self._is_first, self._has_value = False, True
        self.over = not self._open

    def element(self) -> None:
        """Another element of a list begins."""
        if not self._is_first:
            self._before.append(", ")
        self._is_first = False

    def key(self, name: str) -> None:
        """Another member of an object begins."""
        self.element()
        self._before.append(encode_basestring(name) + ": ")

    def scalar(self, value: bool | float | None) -> None:
        """A number, true, false or null."""
        self._write(json.dumps(value))
        self._has_value = True

    def begin_text(self) -> None:
        """A text begins."""
        self._write('"')

    def more_text(self, text: str) -> None:
        """A part of it."""
        self._write(encode_basestring(text)[1:-1])
        self._has_value = True

    def end_text(self) -> None:
        """It is complete."""
        self._write('"')
        self._has_value = True

    def _write(self, text: str) -> None:
        self._fresh += [*self._before, text]
        self._before.clear()


def said_so_far(text: str, *, open_too: bool) -> Any:
    """The value of a JSON text that was cut. open_too: with what was not written to its end, as far as it came, a name
    without a value too; else without it. Raises ValueError for what is not the beginning of JSON."""
    open_, in_text, end = _unclosed(text)
    body = text[:end] if in_text else text.rstrip().removesuffix(",")
    for more in ('"', '": null') if in_text else ("", "null"):
        try:
            value = json.loads(body + more + "".join(reversed(open_)))
        except (ValueError, RecursionError):
            continue
        if more and not open_too:
            _drop_last(value, len(open_))
        return value
    raise ValueError("no beginning of JSON")


def _unclosed(text: str) -> tuple[list[str], bool, int]:
    """What closes the brackets of a JSON text that was cut, outermost first; whether it ends inside a text; and where
    an escape begins there that is not whole, or the end."""
    open_: list[str] = []
    in_text, escape, left = False, 0, 0
    for i, char in enumerate(text):
        if left:
            left = 4 if char == "u" and escape == i - 1 else left - 1
        elif in_text and char == "\\":
            escape, left = i, 1
        elif char == '"':
            in_text = not in_text
        elif not in_text and char in _CLOSING:
            open_.append(_CLOSING[char])
        elif not in_text and open_ and char == open_[-1]:
            open_.pop()
    return open_, in_text, escape if left else len(text)


def _drop_last(value: Any, depth: int) -> None:
    """Take out the last element of what lies so deep at the end of a value."""
    for _ in range(depth - 1):
        value = value[-1] if isinstance(value, list) else next(reversed(value.values()))
    if isinstance(value, list):
        value.pop()
    elif isinstance(value, dict) and value:
        value.popitem()
