"""Which messages a chat format can say: their roles, names and kinds of content. `chat.py` turns them into ids."""

import unicodedata
from collections.abc import Sequence

from herd.errors import UsageError, fail
from herd.messages import Content, ImagePart, Message, TextPart

ROLES = ("system", "user", "assistant", "tool")
MOST_NAME = 128
_SIGNS = "_.-"


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


def check_begun(messages: Sequence[Message]) -> None:
    """Raise UsageError unless the last turn is one that a model can go on with: the assistant's, without calls, and not
    over."""
    last, where = messages[-1], f"messages[{len(messages) - 1}]"
    if last.role != "assistant":
        fail(UsageError, f"{where}.role", got=last.role, expected="assistant, to go on with what it has begun")
    if last.tool_calls:
        do = "give their results as turns of role tool"
        fail(UsageError, where, got="an answer with tool calls", expected="text: calls are not gone on with", do=do)
    if last.end_of_message:
        fail(UsageError, f"{where}.end_of_message", got="true", expected="an answer that is not over")


def _has_image(content: Content) -> bool:
    return not isinstance(content, str) and any(isinstance(part, ImagePart) for part in content)


def check_name(name: object, what: str) -> str:
    """A tool's or a speaker's name, if it is one: letters and digits of any script, `_`, `.`, `-`, at most 128. Raises
    UsageError."""
    if not isinstance(name, str) or not 1 <= len(name) <= MOST_NAME or not all(map(in_name, name)):
        fail(UsageError, what, got=name, expected=f"1 to {MOST_NAME} letters, digits, or _ . -")
    return name


def in_name(char: str) -> bool:
    """Whether a character may stand in a name: a letter with its marks, a digit, or one of three signs."""
    return char in _SIGNS or unicodedata.category(char)[0] in "LMN"
