"""Messages: who said what, as data. What a chat format cannot say is refused elsewhere (`herd.text.message_checks`)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from herd.errors import UsageError, fail

SHOWN = 80
"""Characters of a field that a message shows of itself."""


@dataclass(frozen=True)
class TextPart:
    """A piece of text, encoded by itself."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """An image of tiles_wide x tiles_high tiles, and a global one if they are several. `data` is the caller's."""

    tiles_wide: int
    tiles_high: int
    data: Any = field(default=None, compare=False, repr=False)

    @property
    def num_tiles(self) -> int:
        """Tiles that the vision tower sees, the global one included."""
        local = self.tiles_wide * self.tiles_high
        return local + (local > 1)


Content = str | tuple[TextPart | ImagePart, ...]


@dataclass(frozen=True)
class ToolCall:
    """The model's wish to call a function: its name, its arguments by name, and the id that the answer refers to."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""

    @property
    def arguments_text(self) -> str:
        """The arguments as JSON text, the same whether a call was streamed or came whole. Raises UsageError for
        arguments that are no JSON."""
        try:
            return json.dumps(dict(self.arguments), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            fail(UsageError, f"arguments of a call of {self.name}", got=str(error), expected="JSON values")

    def to_dict(self) -> dict[str, Any]:
        """The call in OpenAI's form, arguments as JSON text. Raises UsageError for arguments that are no JSON."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments_text}}


@dataclass(frozen=True)
class CutCall:
    """A call that was begun and not written to its end: arguments are their JSON text as far as it came, which is never
    whole. Nothing should be done for it."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True)
class Message:
    """One turn of a dialog.

    content         text, or pieces of text and images in order
    tool_calls      of an assistant turn
    name            of the tool whose result this is (role "tool")
    tool_call_id    the call that this result answers
    context         of a user turn: retrieved text that follows the content after an empty line (Meta's form)
    end_of_message  of an assistant turn: it stopped with end-of-message, so the turn was not over
    """

    role: str
    content: Content
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    context: Content | None = None
    end_of_message: bool = False

    @property
    def text(self) -> str:
        """The content's text, images left out."""
        return plain_text(self.content)

    def __repr__(self) -> str:
        """What is said; long fields cut, those that say nothing left out."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        told = [f"{name}={_cut(value)}" for name, value in said.items() if value not in ((), None, False)]
        return f"Message({', '.join(told)})"

    def to_dict(self) -> dict[str, Any]:
        """A dict of plain values in OpenAI's form, which a dialog takes as well; `context` and `end_of_message`, which
        that form has no words for, under their own names where they say something.

        Raises UsageError for images: their tiles have no such form; keep the turn as it was written.
        """
        content = _plain_content(self.content)
        found: dict[str, Any] = {"role": self.role, "content": content}
        if self.tool_calls:
            found |= {"content": content or None, "tool_calls": [call.to_dict() for call in self.tool_calls]}
        context = None if self.context is None else _plain_content(self.context)
        more = {"name": self.name, "tool_call_id": self.tool_call_id, "context": context}
        found |= {key: value for key, value in more.items() if value is not None}
        return {**found, "end_of_message": True} if self.end_of_message else found


def plain_text(content: Content) -> str:
    """The text of a content, images left out."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, TextPart))


def _plain_content(content: Content) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    found = []
    for part in content:
        if not isinstance(part, TextPart):
            fail(
                UsageError,
                "a message as a dict",
                got="an image",
                expected="texts",
                do="keep the turn as it was written",
            )
        found.append({"type": "text", "text": part.text})
    return found


def _cut(value: Any) -> str:
    shown = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
