"""Messages: who said what, as data. What a chat format cannot say is refused elsewhere (`herd.text.message_checks`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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


def plain_text(content: Content) -> str:
    """The text of a content, images left out."""
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, TextPart))
