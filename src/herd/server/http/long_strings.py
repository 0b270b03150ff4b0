"""Long strings of a body, taken out before it is parsed and put back afterwards: base64 of images, nearly always.

What a parser does with a body holds the interpreter for as long as it takes, and one character outside ASCII makes all
of it four times as large. Without its images a body is short. What it is not: a parser; what it leaves is parsed.
"""

import secrets
from typing import Any

from herd.lanes import give_way
from herd.strict_json import past_string

LONG = 64 << 10
"""Bytes from which a string is taken out, if it is plain: ASCII, without escapes and control characters."""
_STEP = 1 << 20
"""Bytes looked at in one call; a body that is shorter stays whole."""
_CONTROLS = bytes(range(32))


class LongStrings:
    """A body in two parts. text: the body with a mark, which nobody can guess, in place of the content of each long
    string."""

    def __init__(self, body: bytes) -> None:
        self._nonce = secrets.token_hex(16)
        self._strings: dict[str, str] = {}
        self._cuts: list[tuple[int, int]] = []
        """Where in `text` a mark ends, and how many bytes fewer than the body it has from there on."""
        self.text = self._without(body)

    def put_back(self, value: Any) -> Any:
        """Put the strings back into a parsed text, which is changed; returns it."""
        whole = [value]
        todo: list[dict[str, Any] | list[Any]] = [whole] if self._strings else []
        while todo:
            node = todo.pop()
            for place, member in node.items() if isinstance(node, dict) else enumerate(node):
                if isinstance(member, str):
                    if len(member) == self._mark_length:
                        node[place] = self._strings.get(member, member)  # type: ignore[index]
                elif isinstance(member, dict | list):
                    todo.append(member)
        return whole[0]

    def position(self, at: int) -> int:
        """The place in the body that corresponds to a place of the text."""
        return at + max((fewer for end, fewer in self._cuts if end <= at), default=0)

    @property
    def _mark_length(self) -> int:
        return len(self._nonce) + 8

    def _without(self, body: bytes) -> bytes:
        if len(body) <= _STEP:
            return body
        parts: list[bytes] = []
        kept = at = fewer = length = 0
        while (opened := _quote(body, at)) >= 0:
            at = past_string(body, opened + 1)
            found = None if at - opened - 2 < LONG or _is_name(body, at) else _plain(body, opened + 1, at - 1)
            if found is None or body[at - 1 : at] != b'"':
                continue
            mark = f"{self._nonce}{len(self._strings):08}"
            self._strings[mark] = found
            parts += [body[kept : opened + 1], mark.encode()]
            length += opened + 1 - kept + len(mark)
            fewer += len(found) - len(mark)
            self._cuts.append((length, fewer))
            kept = at - 1
        return b"".join([*parts, body[kept:]]) if parts else body


def _quote(body: bytes, at: int) -> int:
    """Index of the next quote from `at` on; -1: there is none."""
    while at < len(body):
        found = body.find(b'"', at, at + _STEP)
        if found >= 0:
            return found
        at += _STEP
    return -1


def _is_name(body: bytes, at: int) -> bool:
    """Whether a string that ends at `at` is the name of a member."""
    return body[at : at + 64].lstrip(b" \t\r\n")[:1] == b":"


def _plain(body: bytes, begin: int, end: int) -> str | None:
    """The text between two indices, if it is ASCII without escapes and control characters; else None."""
    parts = []
    for at in range(begin, end, _STEP):
        part = body[at : min(at + _STEP, end)]
        if not part.isascii() or b"\\" in part or len(part.translate(None, _CONTROLS)) < len(part):
            return None
        parts.append(part.decode("ascii"))
        give_way()
    return "".join(parts)
