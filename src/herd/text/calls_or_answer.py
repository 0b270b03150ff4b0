"""Answers that are calls of tools or fit a schema: the grammar of both, and which of them an answer is.

How it begins says which: `{"type": "function", "name": "f", "parameters": ` or the same without its type, where f is a
tool; ChatML models begin with `<tool_call>`. From there on all is calls; any other answer is text to its end, whatever
stands in it. What it is not: a reader of calls (`herd.text.calls`), a compiler of grammars (`herd.grammar`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from herd.text.calls import CallParser, Piece, TextPiece, object_schema


def calls_or_answer_grammar(tools: Sequence[Mapping[str, Any]], answer: Any, *, hermes: bool, parallel: bool) -> str:
    """A grammar (llguidance's Lark) of calls, arguments by each tool's schema, or else of what fits a schema.

    answer: that schema. hermes, parallel: as in `call_grammar`.
    """
    rules = []
    for i, tool in enumerate(tools):
        heads = (" ".join(map(_literal, head)) for head in _heads(tool["name"], hermes))
        rules += [f"call_{i}: ({' | '.join(heads)}) args_{i} {json.dumps(_TAIL[hermes])}"]
        rules += [f"args_{i}: %json {json.dumps(object_schema(tool))}"]
    one = f"({' | '.join(f'call_{i}' for i in range(len(tools)))})"
    more = f' ("\\n" {one})*' if parallel else ""
    return "\n".join([f"start: {one}{more} | answer", f"answer: %json {json.dumps(answer)}", *rules]) + "\n"


def _literal(text: str) -> str:
    """A text in quotes, as JSON and Lark have it."""
    return json.dumps(text, ensure_ascii=False)


_TAIL = {False: "}", True: "}\n</tool_call>"}


def _heads(name: str, hermes: bool) -> Iterator[list[str]]:
    """How a call of a tool begins, up to its arguments: in the pieces that JSON is made of, since the answer may begin
    with some of the same."""
    named = ['"name"', ": ", _literal(name), ", ", '"arguments"' if hermes else '"parameters"', ": "]
    if hermes:
        yield ["<tool_call>\n", "{", *named]
    else:
        yield ["{", '"type"', ": ", '"function"', ", ", *named]
        yield ["{", *named]


class CallsOrAnswer:
    """Reads one answer of that grammar, as `CallParser` reads any.

    calls: reads calls. names: of the tools. hermes: as in `call_grammar`.
    """

    def __init__(self, calls: CallParser, names: Sequence[str], *, hermes: bool) -> None:
        self._calls = calls
        self._heads = ["".join(head) for name in names for head in _heads(name, hermes)]
        self._head = ""
        """The beginning, while it may be one of either."""
        self._begun = 0
        """Characters of it that the answer goes on with."""
        self._is_calls: bool | None = None

    @property
    def holding(self) -> bool:
        """Whether something that was pushed has come out as neither text nor call yet."""
        return bool(self._head) or self._calls.holding

    def begin(self, text: str) -> None:
        """See `CallParser`."""
        self._begun = len(text)
        self.push(None, text)

    def push(self, token_id: int | None, text: str) -> list[Piece]:
        """Take one more token, or some text; returns what has become certain."""
        if self._is_calls is None:
            text = self._head = self._head + text
            if any(text.startswith(head) for head in self._heads):
                self._is_calls = True
            elif any(head.startswith(text) for head in self._heads):
                return []
            else:
                self._is_calls = False
            self._head = ""
            if self._is_calls:
                self._calls.begin(text[: self._begun])
            text = text[self._begun :]
        if self._is_calls:
            return self._calls.push(token_id, text)
        return [TextPiece(text)] if text else []

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The end of the answer. cut: by a limit or by somebody, not by the model."""
        text, self._head = self._head[self._begun :], ""
        return [TextPiece(text)] if text else self._calls.finish(cut=cut)
