"""What a model has said so far, as passages: text, and what its calls of tools hold, decoded, where it stands.

Places are characters of all passages joined, one after the other. It grows at its end alone, and what is asked for near
its end costs no more for what came before.
"""

from typing import Any, Literal, NamedTuple, TypeAlias

from herd.messages import CutCall, ToolCall
from herd.text.call_arguments import said_so_far
from herd.text.leaves import leaves

Kind: TypeAlias = Literal["text", "stop", "name", "key", "value", "number"]


class Passage(NamedTuple):
    """text: the model's own; stop: the stop string that ended it, which is not shown; the others: of a call.

    start   characters before it
    own     those of them that are the model's own text; below 0 in a part that was begun before it
    call    which of the calls, from 0; None: no call's
    """

    kind: Kind
    text: str
    start: int
    own: int = 0
    call: int | None = None

    @property
    def end(self) -> int:
        """Characters before what follows it."""
        return self.start + len(self.text)


class Said:
    """All passages. Text that follows text is one passage."""

    def __init__(self, begun: str = "") -> None:
        """begun: what somebody has begun, with which the model goes on; its passages come first."""
        self.length = 0
        """Characters so far."""
        self.begun = len(begun)
        """Characters of them that are not the model's own."""
        self.num_calls = 0
        self._closed: list[Passage] = []
        self._others = len(begun)  # characters that are not the model's own text
        self._text: list[str] = []
        self._text_from = 0
        self._joined: list[str] = []  # of the open text, one piece from _joined_from on, and what came since
        self._joined_from = 0
        self.add(begun)

    def add(self, text: str) -> None:
        """Add text of the model."""
        if not text:
            return
        if not self._text:
            self._text_from = self._joined_from = self.length
        self._text.append(text)
        self._joined.append(text)
        self.length += len(text)

    def add_call(self, call: ToolCall | CutCall) -> None:
        """A call, whole or as far as it came."""
        self._close()
        self._add("name", call.name, self.num_calls)
        for leaf in leaves(_arguments(call)):
            self._add(leaf.kind, leaf.text, self.num_calls)
        self.num_calls += 1

    def add_stop(self, stop: str) -> None:
        """The stop string that came."""
        self._close()
        self._add("stop", stop, None)

    def since(self, start: int) -> list[Passage]:
        """Passages that end beyond `start`, the text that it is in from there on. Asked for with places that only
        grow, the whole costs steps in proportion to what was said."""
        found = []
        for passage in reversed(self._closed):
            if passage.end <= start:
                break
            found.append(_from(passage, start))
        found.reverse()
        if self._text and self.length > start:
            found.append(self._open(max(start, self._text_from)))
        return found

    def all(self) -> list[Passage]:
        """Every passage, whole."""
        if not self._text:
            return list(self._closed)
        return [*self._closed, self._open(self._text_from)]

    @property
    def text(self) -> str:
        """All passages, joined."""
        return "".join(passage.text for passage in self.all())

    def _open(self, start: int) -> Passage:
        """The text that may still grow, from `start` on."""
        if start < self._joined_from:
            text = "".join(self._text)[start - self._text_from :]
        else:
            text = "".join(self._joined)[start - self._joined_from :]
            self._joined, self._joined_from = [text], start
        return Passage("text", text, start, start - self._others)

    def _close(self) -> None:
        """The text that was open is a passage."""
        if self._text:
            text = "".join(self._text)
            self._closed.append(Passage("text", text, self._text_from, self._text_from - self._others))
            self._text, self._joined = [], []

    def _add(self, kind: Kind, text: str, call: int | None) -> None:
        self._closed.append(Passage(kind, text, self.length, self.length - self._others, call))
        self.length += len(text)
        self._others += len(text)


def _arguments(call: ToolCall | CutCall) -> Any:
    """What stands in a call. Of one that was cut, and whose text is no beginning of JSON, the text."""
    if isinstance(call, ToolCall):
        return call.arguments
    try:
        return said_so_far(call.arguments, open_too=True)
    except ValueError:
        return call.arguments


def _from(passage: Passage, start: int) -> Passage:
    """The part of a text from `start` on; what is in calls stays whole."""
    before = start - passage.start
    if passage.kind != "text" or before <= 0:
        return passage
    return Passage(passage.kind, passage.text[before:], start, passage.own + before)
