"""ChatML (SmolLM2, Qwen and many others) and plain text (models without a chat format)."""

import copy
from collections.abc import Sequence

from herd.errors import UsageError, fail
from herd.messages import Message
from herd.text.call_form import HERMES
from herd.text.chat_base import ChatFormat, with_system
from herd.text.tokenizer import Tokenizer
from herd.text.tools import Tool, dumps, hermes_text

SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class ChatML(ChatFormat):
    """`<|im_start|>role`, a line end, the content, `<|im_end|>`, a line end.

    default_system is said when a dialog begins without a system turn: some templates do that.
    """

    name = "chatml"
    needs = ("<|im_start|>", "<|im_end|>")
    ends = ("<|im_end|>",)
    writes = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    spelt = "<|im_start|>"
    call_form = HERMES

    def __init__(self, tokenizer: Tokenizer, default_system: str | None = None) -> None:
        super().__init__(tokenizer)
        self.default_system = default_system

    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        if self.default_system is not None and messages[0].role != "system":
            messages = [Message("system", self.default_system), *messages]
        if tools:
            messages = with_system(messages, self.definitions(tools))
        encode = self.tokenizer.encode
        ids: list[int] = []
        for message in messages:
            said = self._said(message, tokens_per_tile)
            if message.role == "tool":
                said = [*self._written("<tool_response>\n"), *said, *self._written("\n</tool_response>")]
            ids += self._header(message.role) + said
            for call in message.tool_calls:
                text = dumps({"name": call.name, "arguments": dict(call.arguments)})
                ids += self._written("<tool_call>\n") + encode(text) + self._written("\n</tool_call>")
            ids += self._close()
        return ids

    def definitions(self, tools: Sequence[Tool]) -> str:
        """See `ChatFormat`."""
        return hermes_text(tools)

    def _header(self, role: str) -> list[int]:
        return [self.tokenizer.added["<|im_start|>"], *self.tokenizer.encode(role + "\n", place="token")]

    def _open(self) -> list[int]:
        return self._header("assistant")

    def _close(self) -> list[int]:
        return [self.tokenizer.added["<|im_end|>"], *self.tokenizer.encode("\n", place="token")]


class Plain(ChatFormat):
    """The format of base models: no roles, no control token but the first; texts with an empty line between."""

    name = "plain"

    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        if tools or any(message.tool_calls for message in messages):
            fail(UsageError, "chat format plain cannot say tools", do="choose another with --chat-format")
        ids = [self.tokenizer.bos_id] if self.tokenizer.add_bos and self.tokenizer.bos_id is not None else []
        first = copy.copy(self)
        first.tokenizer = self.tokenizer.placed("start")
        for i, message in enumerate(messages):
            ids += self.tokenizer.encode("\n\n") if i else []
            ids += (self if i else first)._said(message, tokens_per_tile)
        return ids

    def _open(self) -> list[int]:
        return []

    def _close(self) -> list[int]:
        return []
