"""How a model writes calls of tools: the form that forced calls take, and calls beside a schema.

A format that is built in has one of the two below; a chat template is asked for its own by dialogs with calls
(`herd.text.call_examples`). `herd.text.calls` reads more forms than these, whatever the model was told.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ID = "\0"
"""Stands for the id of a call in a form: nine letters and digits, as Mistral's templates want them."""
EXAMPLE_ID = "a1B2c3D4e"
"""One such id."""
CONTROL = "\1"
"""Stands for a control token in what a template wrote."""
MOST = 1024
"""Characters of a whole form that is learnt; those in use have under 150. A grammar holds them for each tool, and the
model writes them."""
TOKENS = tuple(map(chr, range(0xD800, 0xDC00)))
"""Stand for the control tokens of a form, in their order: halves of characters, which no text holds."""
_PIECES = re.compile(r'"[^"\0\ud800-\udbff]{0,256}+"|[:,] ?|.', re.DOTALL)
_SIGNS = re.compile("([\0\ud800-\udbff])")


class Parameters(NamedTuple):
    """Arguments that are written one by one: (open name middle value close)*."""

    open: str
    middle: str
    close: str
    raw: bool
    """Whether a text is written as it is, and ends where `close` begins; else as JSON. Other values are JSON."""
    words: tuple[str | None, str | None, str | None]
    """How true, false and null are written; None: not in a way that is read."""

    def written(self, arguments: Mapping[str, Any]) -> str:
        """Arguments in this form."""
        return "".join(f"{self.open}{name}{self.middle}{self.value(v)}{self.close}" for name, v in arguments.items())

    def value(self, value: Any) -> str:
        """A value in this form."""
        if isinstance(value, str) and self.raw:
            return value
        word = next((w for w, meant in zip(self.words, (True, False, None), strict=True) if value is meant), None)
        return json.dumps(value, ensure_ascii=False) if word is None else word


class CallForm(NamedTuple):
    """What stands around names and arguments: head name between arguments (join name between arguments)* tail."""

    head: str
    between: str
    join: str | None
    """None: a turn has one call."""
    tail: str
    parameters: Parameters | None = None
    """How arguments are written one by one; None: all as one JSON object."""
    tokens: tuple[int, ...] = ()
    """Ids of the control tokens in these texts, where TOKENS stand for them."""
    own: bool = False
    """Whether calls are found by these texts, since they have none of the forms that are always read."""

    def texts(self) -> list[str]:
        """All texts of the form."""
        found = [self.head, self.between, self.join or "", self.tail]
        return found if self.parameters is None else [*found, *self.parameters[:3]]

    def changed(self, change: Callable[[str], str]) -> "CallForm":
        """The form with each of its texts changed."""
        head, between, join, tail = (None if text is None else change(text) for text in self[:4])
        assert head is not None and between is not None and tail is not None
        form = self._replace(head=head, between=between, join=join, tail=tail)
        if form.parameters is None:
            return form
        open_, middle, close = map(change, form.parameters[:3])
        return form._replace(parameters=form.parameters._replace(open=open_, middle=middle, close=close))

    def name(self, name: str) -> str:
        """A name as it is written: in JSON's quotes, or as it is."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.head.endswith('"') else name

    def example(self, name: str, arguments: str) -> str:
        """One call, its arguments given as JSON; TOKENS stand for its control tokens."""
        return self.examples([(name, arguments)])

    def examples(self, calls: Sequence[tuple[str, str]]) -> str:
        """Several calls, one behind another. There is a join where they are more than one."""
        said = (f"{self.name(name)}{self.between}{self._written(arguments)}" for name, arguments in calls)
        return f"{self.head}{(self.join or '').join(said)}{self.tail}".replace(ID, EXAMPLE_ID)

    def _written(self, arguments: str) -> str:
        return arguments if self.parameters is None else self.parameters.written(json.loads(arguments))


def _of_json(kind: str, key: str, before: str = "", after: str = "") -> CallForm:
    head, tail = f'{before}{{{kind}"name": "', f"}}{after}"
    return CallForm(head, f'", "{key}": ', f"{tail}\n{head}", tail)


LLAMA = _of_json('"type": "function", ', "parameters")
"""The form of Llama models."""
BARE = _of_json("", "parameters")
"""The form of Llama models without its type."""
HERMES = _of_json("", "arguments", "<tool_call>\n", "\n</tool_call>")
"""The form of ChatML models."""


def is_token(char: str) -> bool:
    """Whether a character is one of TOKENS."""
    return "\ud800" <= char < "\udc00"


def rule(text: str, tokens: Sequence[int] = ()) -> str:
    """A part of a form in a grammar (llguidance's Lark). tokens: the form's."""
    return " ".join(_sign(piece, tokens) for piece in _SIGNS.split(text) if piece) or '""'


def pieces(text: str, tokens: Sequence[int] = ()) -> str:
    """A part of a form in the pieces that JSON is made of, for what may turn out to be JSON of another kind."""
    return " ".join(_sign(piece, tokens) for piece in _PIECES.findall(text))


def _sign(piece: str, tokens: Sequence[int]) -> str:
    """A text of a form, an id, or a control token, in a grammar."""
    if piece == ID:
        return "/[a-zA-Z0-9]{9}/"
    return f"<[{tokens[ord(piece) - ord(TOKENS[0])]}]>" if is_token(piece) else literal(piece)


def literal(text: str) -> str:
    """A text in quotes, as JSON and Lark have it; Lark's lexer takes no DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
