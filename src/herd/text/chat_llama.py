"""Llama's chat formats: Meta's for Llama 4 and Llama 3, and the form of Hugging Face's Llama 4 template.

A turn is header-start, the role's text, header-end, an empty line, the content, and an end token. Sources: Meta's
llama-models, models/llama4/chat_format.py and models/llama3/chat_format.py; for the Hugging Face form, the chat
template in transformers' processing_llama4.py.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from herd.errors import UsageError, fail
from herd.messages import Content, ImagePart, Message, plain_text
from herd.text.chat_base import ChatFormat, check_tiles, with_system
from herd.text.message_checks import ROLES
from herd.text.special import IMAGES
from herd.text.tokenizer import Tokenizer
from herd.text.tools import FORMS, Tool, call_text, definitions_text, dumps


class _Turns(ChatFormat):
    """What Llama 3 and 4 share. `start`, `stop`: the header's tokens; `eom`, `eot`: a turn's ends."""

    start: ClassVar[str]
    stop: ClassVar[str]
    eom: ClassVar[str]
    eot: ClassVar[str]

    def __init__(self, tokenizer: Tokenizer, tool_form: str = "json") -> None:
        super().__init__(tokenizer)
        if tool_form not in FORMS:
            fail(UsageError, "form of tool calls", got=tool_form, expected="one of " + ", ".join(FORMS))
        self.tool_form = tool_form
        self._roles = {role: self._header("ipython" if role == "tool" else role) for role in ROLES}

    def definitions(self, tools: Sequence[Tool]) -> str:
        """See `ChatFormat`."""
        return definitions_text(tools, self.tool_form)

    def _header(self, text: str) -> list[int]:
        encode = self.tokenizer.encode
        return [*self._special(self.start), *encode(text), *self._special(self.stop), *encode("\n\n")]

    def _special(self, text: str) -> list[int]:
        return [self.tokenizer.added[text]]

    def _open(self) -> list[int]:
        return list(self._roles["assistant"])

    def _close(self) -> list[int]:
        return self._special(self.eot)

    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        if tools:
            messages = with_system(messages, self.definitions(tools))
        ids = self._special("<|begin_of_text|>")
        for message in messages:
            ids += self._turn(message, tokens_per_tile)
        return ids

    def _turn(self, message: Message, tokens_per_tile: int) -> list[int]:
        ids = [*self._roles[message.role], *self._before(message), *self._said(message, tokens_per_tile)]
        for call in message.tool_calls:  # each by itself: joined, two calls would have other ids
            ids += self.tokenizer.encode(call_text(call, self.tool_form))
        return ids + self._special(self.eom if self._goes_on(message) else self.eot)

    def _before(self, message: Message) -> list[int]:
        """Control ids between the header and the content."""
        return []

    @abstractmethod
    def _goes_on(self, message: Message) -> bool:
        """Whether the turn ends with end-of-message: more will come before the user speaks."""


class Llama4(_Turns):
    """Meta's format for Llama 4, with images."""

    name = "llama4"
    start, stop, eom, eot = "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>"
    needs = ("<|begin_of_text|>", start, stop, eom, eot)
    ends = (eom, eot)
    writes = (*IMAGES, "<|python_start|>", "<|python_end|>")
    spelt = start

    def encode_image(self, image: ImagePart, tokens_per_tile: int = 144) -> list[int]:
        """`<|image_start|>`, local tiles row by row with separators if several, `<|image|>`, one tile, the end.

        Exactly `image.num_tiles * tokens_per_tile` ids are `<|patch|>`; features fill them in order.
        """
        return image_ids(self.tokenizer, image, tokens_per_tile)

    def _goes_on(self, message: Message) -> bool:
        return message.role == "tool" or bool(message.tool_calls) or message.end_of_message


def image_ids(tokenizer: Tokenizer, image: ImagePart, tokens_per_tile: int) -> list[int]:
    """See `Llama4.encode_image`. Raises UsageError for a vocabulary without image tokens."""
    check_tiles(image)
    if missing := [name for name in IMAGES if name not in tokenizer.added]:
        fail(UsageError, f"this vocabulary has no {missing[0]}", got="an image", do="use a model with vision")
    start, end, whole, patch, column, row = (tokenizer.added[name] for name in IMAGES)
    tile = [patch] * tokens_per_tile
    ids = [start]
    if image.tiles_wide * image.tiles_high > 1:
        one_row = [*tile, *(image.tiles_wide - 1) * [column, *tile], row]
        ids += image.tiles_high * one_row
    ids += [whole, *tile, end]
    assert ids.count(patch) == image.num_tiles * tokens_per_tile, (image, tokens_per_tile)
    return ids


class Llama4HF(Llama4):
    """The form of Hugging Face's template: every turn ends with `<|eot|>`, tools go into the first user turn.

    Its ids are the template's for ordinary text. Where content begins with whitespace they can differ: here it is
    encoded by itself, there it is joined with the header's empty line.
    """

    name = "llama4-hf"

    def definitions(self, tools: Sequence[Tool]) -> str:
        """See `ChatFormat`."""
        return "".join(self._definition(tool) for tool in tools)

    def _definition(self, tool: Tool) -> str:
        return dumps(tool, indent=4, ascii_only=False) + "\n\n"  # "}" and an empty line are one token

    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        ids, rest = self._special("<|begin_of_text|>"), list(messages)
        if rest[0].role == "system":
            first_other = next((i for i, m in enumerate(rest) if m.role != "system"), len(rest))
            leading = first_other if tools else 1  # the turn after it would get the tools, as a user's
            said = [plain_text(m.content).strip() for m in rest[:leading]]
            rest = rest[leading:]
            ids += self._roles["system"]
            ids += self.tokenizer.encode("Environment: ipython\n") if tools else []
            ids += self.tokenizer.encode("\n\n".join(said)) + self._special(self.eot)
        if tools:
            if not rest:
                fail(UsageError, "chat format llama4-hf puts tools into the first user turn", got="no user turn")
            ids += self._roles["user"] + self.tokenizer.encode(_HF_GUIDANCE)
            for tool in tools:
                ids += self.tokenizer.encode(self._definition(tool))
            first: Content = rest.pop(0).content
            ids += self._content(first.strip() if isinstance(first, str) else first, tokens_per_tile)
            ids += self._special(self.eot)
        for message in rest:
            ids += self._hf_turn(message, tokens_per_tile)
        return ids

    def _hf_turn(self, message: Message, tokens_per_tile: int) -> list[int]:
        ids = list(self._roles[message.role])
        if message.role == "tool":
            content = dumps(message.content, ascii_only=False) if isinstance(message.content, str) else message.content
            ids += self._content(content, tokens_per_tile)
        elif message.tool_calls:
            ids += self._special("<|python_start|>") + self._said(message, tokens_per_tile)
            calls = (
                f'{{"name": "{c.name}", "parameters": {dumps(dict(c.arguments), ascii_only=False)}}}'
                for c in message.tool_calls
            )
            ids += self._special("<|python_end|>") + self.tokenizer.encode("".join(calls))
        else:
            ids += self._said(message, tokens_per_tile)
        return ids + self._special(self.eot)


# The template's words: a model was trained on them, so they are kept letter for letter.
_HF_GUIDANCE = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)


class Llama3(_Turns):
    """Meta's format for Llama 3 to 3.3, text only."""

    name = "llama3"
    start, stop, eom, eot = "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"
    needs = ("<|begin_of_text|>", start, stop, eot)
    ends = (eom, eot)
    writes = ("<|python_tag|>",)
    spelt = start

    def _before(self, message: Message) -> list[int]:
        runs_code = message.tool_calls and message.tool_calls[0].name == "code_interpreter"
        return self._special("<|python_tag|>") if runs_code and "<|python_tag|>" in self.tokenizer.added else []

    def _goes_on(self, message: Message) -> bool:
        return message.end_of_message and self.eom in self.tokenizer.added
