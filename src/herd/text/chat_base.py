"""What every chat format shares: messages in, ids out, text never a control token."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from herd.errors import UsageError, fail
from herd.messages import Content, ImagePart, Message, TextPart
from herd.text.call_form import LLAMA, CallForm
from herd.text.message_checks import check_begun, check_messages
from herd.text.tokenizer import Tokenizer
from herd.text.tools import Tool, function_of

MAX_TILES = 256  # of one image; a model's own limit is smaller and checked where tiles are cut


class ChatFormat(ABC):
    """One way of writing a dialog as ids.

    The list of ids is built directly: control ids come from this package's code, every outside string (content, tool
    result, tool definition) is encoded by itself as plain text. So no text can close a turn or open another. What a
    template found in a file writes is held to the same by `herd.text.templates`. The assistant's own text alone may
    hold markers that an assistant writes (`<think>`, `<tool_call>`).

    name       as in `--chat-format`
    needs      added tokens without which it says nothing, special or not
    ends       those that end the assistant's turn
    writes     others that it writes, where the vocabulary has them
    spelt      a token that every template of this form spells out
    tokenizer  the vocabulary, in which all of these are control
    stop_ids   ids that end the assistant's turn
    call_form  how its models write calls of tools
    tells_tools  whether a dialog says which tools there are; a template may leave them out
    note       why it is not what the model's file asks for; empty as a rule
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    ends: ClassVar[tuple[str, ...]] = ()
    writes: ClassVar[tuple[str, ...]] = ()
    spelt: ClassVar[str] = ""
    call_form: CallForm = LLAMA
    tells_tools: bool = True
    note: str = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        for text in self.needs:
            if text not in tokenizer.added:
                fail(
                    UsageError,
                    f"chat format {self.name} needs the token {text}, which this vocabulary lacks",
                    do="choose another with --chat-format",
                )
        self.tokenizer = tokenizer.with_markers((*self.needs, *self.ends, *self.writes))
        ends = {tokenizer.added[text] for text in self.ends if text in tokenizer.added}
        self.stop_ids = frozenset(tokenizer.eos_ids | ends)

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        open_assistant: bool = True,
        tokens_per_tile: int = 144,
        begun: bool = False,
        owner: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The dialog as ids; with `open_assistant` the model's answer comes next.

        tools are objects with name, description, parameters (JSON schema); tokens_per_tile is how many `<|patch|>` ids
        one tile of an image takes (Llama 4: 144); begun: the last turn, the assistant's, stays open, and what comes
        next goes on with it (`continue_final_message` of Hugging Face's templates). owner: whose it is, where it may
        have to wait; variables: what a template is told besides: other formats have no use for them. Raises UsageError:
        an unknown role, a bad name, an image in a format without image tokens, a last turn that cannot be gone on with.
        """
        check_messages(messages)
        if tokens_per_tile < 1:
            fail(UsageError, "tokens_per_tile", got=tokens_per_tile, expected="at least 1")
        for tool in tools or ():
            function_of(tool)
        inner = copy.copy(self)
        inner.tokenizer = self.tokenizer.placed("text")  # of these texts all but a few stand behind others
        if begun:
            check_begun(messages)
            return inner._begun(messages, tools or (), tokens_per_tile)
        ids = inner._dialog(messages, tools or (), tokens_per_tile)
        return [*ids, *inner._open()] if open_assistant else ids

    def definitions(self, tools: Sequence[Tool]) -> str:
        """What a dialog says about tools, at least: how long that is depends on the format. Raises UsageError."""
        return ""

    def within(self, most: int) -> "Self":
        """The format for one dialog: `encode` raises ContextTooLong as soon as its texts have more than `most` ids."""
        one = copy.copy(self)
        one.tokenizer = self.tokenizer.within(most)
        return one

    def close(self) -> None:  # noqa: B027
        """Let go of what it needs besides memory: nothing, as a rule."""

    def encode_image(self, image: ImagePart, tokens_per_tile: int = 144) -> list[int]:
        """The ids that stand for one image. Raises UsageError where the format has none."""
        fail(UsageError, f"chat format {self.name} has no image tokens", got="an image", do="use a model with vision")

    @abstractmethod
    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        """All turns of a checked dialog."""

    @abstractmethod
    def _open(self) -> list[int]:
        """The header of the assistant's next turn."""

    @abstractmethod
    def _close(self) -> list[int]:
        """What ends a turn of the assistant's without calls."""

    def _begun(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        """All turns of a checked dialog, the last one without its end."""
        ids, close = self._dialog(messages, tools, tokens_per_tile), self._close()
        assert ids[len(ids) - len(close) :] == close, "a turn that has another end"
        return ids[: len(ids) - len(close)]

    def _said(self, message: Message, tokens_per_tile: int) -> list[int]:
        """A turn's content and context, as whoever the role names may write them."""
        own = message.role == "assistant"
        ids = self._content(message.content, tokens_per_tile, self.tokenizer.for_assistant() if own else None)
        if message.context is not None:
            ids += self.tokenizer.encode("\n\n") + self._content(message.context, tokens_per_tile)
        return ids

    def _written(self, text: str) -> list[int]:
        """Ids of this package's own words, in which a marker is its token where the vocabulary has it."""
        return self.tokenizer.for_author().encode(text)

    def _content(self, content: Content, tokens_per_tile: int, tokenizer: Tokenizer | None = None) -> list[int]:
        """Pieces one after the other, each encoded by itself; by the format's tokenizer, or another."""
        encode = (tokenizer or self.tokenizer).encode
        if isinstance(content, str):
            return encode(content)
        ids: list[int] = []
        for part in content:
            match part:
                case TextPart(text):
                    ids += encode(text)
                case ImagePart():
                    ids += self.encode_image(part, tokens_per_tile)
        return ids


def check_tiles(image: ImagePart) -> None:
    """Raise UsageError unless the image has a sensible number of tiles."""
    for side in (image.tiles_wide, image.tiles_high):
        if type(side) is not int or side < 1:
            fail(UsageError, "tiles of an image", got=side, expected="a positive number")
    if image.tiles_wide * image.tiles_high > MAX_TILES:
        fail(UsageError, "tiles of an image", got=image.tiles_wide * image.tiles_high, expected=f"at most {MAX_TILES}")


def with_system(messages: Sequence[Message], text: str) -> list[Message]:
    """The dialog with `text` at the end of its system turn, as a piece of its own after an empty line."""
    if messages[0].role != "system":
        return [Message("system", text), *messages]
    first = messages[0].content
    parts = (TextPart(first),) if isinstance(first, str) else first
    return [Message("system", (*parts, TextPart("\n\n"), TextPart(text))), *messages[1:]]
