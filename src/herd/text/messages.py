"""Messages: who said what, as data. Nothing here is text of a prompt; `chat.py` turns messages into ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from herd.errors import UsageError, fail

ROLES = ("system", "user", "assistant", "tool")
MOST_NAME = 64
_NAME = re.compile(rf"[A-Za-z0-9_.-]{{1,{MOST_NAME}}}")


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


def check_messages(messages: Sequence[Message]) -> None:
    """Raise UsageError unless every role, tool name and kind of content is one that a chat format can say."""
    if not messages:
        fail(UsageError, "messages", got="none", expected="at least one")
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if message.role not in ROLES:
            fail(UsageError, f"{where}.role", got=message.role, expected="one of " + ", ".join(ROLES))
        if message.name is not None:
            check_name(message.name, f"{where}.name")
        if message.tool_calls and message.role != "assistant":
            fail(UsageError, f"{where}.tool_calls", got=f"role {message.role}", expected="role assistant")
        if message.context is not None and message.role != "user":
            fail(UsageError, f"{where}.context", got=f"role {message.role}", expected="role user")
        for call in message.tool_calls:
            check_name(call.name, f"{where}.tool_calls: name")
        for content in (message.content, message.context or ""):
            parts = () if isinstance(content, str) else content if isinstance(content, (tuple, list)) else (content,)
            if not all(isinstance(part, (TextPart, ImagePart)) for part in parts):
                fail(
                    UsageError, f"{where}.content", got=type(content).__name__, expected="text, or text and image parts"
                )
        if (message.role == "system" and _has_image(message.content)) or _has_image(message.context or ""):
            fail(
                UsageError,
                f"{where}: an image in a system turn or a context",
                expected="images in the content of others",
            )


def _has_image(content: Content) -> bool:
    return not isinstance(content, str) and any(isinstance(part, ImagePart) for part in content)


def check_name(name: object, what: str) -> str:
    """A tool's or a speaker's name, if it is one: letters, digits, `_`, `.`, `-`, at most 64. Raises UsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        fail(UsageError, what, got=name, expected=f"1 to {MOST_NAME} of A-Z a-z 0-9 _ . -")
    return name
