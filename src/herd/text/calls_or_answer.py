"""Answers that are calls of tools or fit a schema: the grammar of both, and which of them an answer is.

How it begins says which: as a call in the model's form (`herd.text.call_form`), up to the arguments of a tool that
there is. From there on all is calls; any other answer is text to its end, whatever stands in it. What it is not: a
reader of calls (`herd.text.calls`), a compiler of grammars (`herd.grammar`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from herd.text.call_form import BARE, LLAMA, CallForm, pieces, rule
from herd.text.calls import CallParser, Piece, TextPiece, argument_rules


def calls_or_answer_grammar(tools: Sequence[Mapping[str, Any]], answer: Any, form: CallForm, *, parallel: bool) -> str:
    """A grammar (llguidance's Lark) of calls in a model's form, arguments by each tool's schema, or else of what fits a
    schema.

    answer: that schema. parallel: as in `call_grammar`.
    """
    rules = [line for i, tool in enumerate(tools) for line in argument_rules(f"args_{i}", tool, form)]
    names, starts = [tool["name"] for tool in tools], []
    for k, one in enumerate(_forms(form)):
        rules += [f"first_{k}: {_named(one.head, one, names)}"]
        more = ""
        if parallel and one.join is not None:
            rules += [f"next_{k}: {_named(one.join, one, names)}"]
            more = f" next_{k}*"
        starts.append(f"first_{k}{more} {rule(one.tail, one.tokens)}")
    start = " | ".join([*starts, "answer"])
    return "\n".join([f"start: {start}", f"answer: %json {json.dumps(answer)}", *rules]) + "\n"


def _named(before: str, form: CallForm, names: Sequence[str]) -> str:
    """A call of one of the tools, up to the end of its arguments."""
    heads = (pieces(before + form.name(name) + form.between, form.tokens) for name in names)
    return " | ".join(f"{head} args_{i}" for i, head in enumerate(heads))


def _forms(form: CallForm) -> tuple[CallForm, ...]:
    """The forms that calls may have there: Llama's models write theirs with and without its type."""
    return (LLAMA, BARE) if form in (LLAMA, BARE) else (form,)


class CallsOrAnswer:
    """Reads one answer of that grammar, as `CallParser` reads any.

    calls: reads calls. names: of the tools. form: that of its grammar.
    """

    def __init__(self, calls: CallParser, names: Sequence[str], form: CallForm) -> None:
        self._calls = calls
        self._heads = [one.head + one.name(name) + one.between for name in names for one in _forms(form)]
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
        text = self._calls.heard(token_id, text)
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
            return self._calls.push(None, text)
        return [TextPiece(text)] if text else []

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The end of the answer. cut: by a limit or by somebody, not by the model."""
        text, self._head = self._head[self._begun :], ""
        return [TextPiece(text)] if text else self._calls.finish(cut=cut)
