"""How a model writes calls of tools: the form that forced calls take, and calls beside a schema.

A format that is built in has one of the two below; a chat template is asked for its own by a dialog with one call and
one with two. `herd.text.calls` reads more forms than these, whatever the model was told.
"""

import json
import re
from typing import NamedTuple

ID = "\0"
"""Stands for the id of a call in a form: nine letters and digits, as Mistral's templates want them."""
EXAMPLE_ID = "a1B2c3D4e"
"""One such id."""
CONTROL = "\1"
"""Stands for a control token in what a template wrote."""
MOST = 1024
"""Characters of a whole form that is learnt; those in use have under 150. A grammar holds them for each tool, and the
model writes them."""
_PIECES = re.compile(r'"[^"]{0,256}+"|[:,] ?|.', re.DOTALL)


class CallForm(NamedTuple):
    """What stands around names and arguments: head name between arguments (join name between arguments)* tail."""

    head: str
    between: str
    join: str | None
    """None: a turn has one call."""
    tail: str

    def name(self, name: str) -> str:
        """A name as it is written: in JSON's quotes, or as it is."""
        return json.dumps(name, ensure_ascii=False)[1:-1] if self.head.endswith('"') else name

    def example(self, name: str, arguments: str) -> str:
        """One call."""
        return f"{self.head}{self.name(name)}{self.between}{arguments}{self.tail}".replace(ID, EXAMPLE_ID)


def _of_json(kind: str, key: str, before: str = "", after: str = "") -> CallForm:
    head, tail = f'{before}{{{kind}"name": "', f"}}{after}"
    return CallForm(head, f'", "{key}": ', f"{tail}\n{head}", tail)


LLAMA = _of_json('"type": "function", ', "parameters")
"""The form of Llama models."""
BARE = _of_json("", "parameters")
"""The form of Llama models without its type."""
HERMES = _of_json("", "arguments", "<tool_call>\n", "\n</tool_call>")
"""The form of ChatML models."""


def rule(text: str) -> str:
    """A part of a form in a grammar (llguidance's Lark)."""
    return " /[a-zA-Z0-9]{9}/ ".join(map(_literal, text.split(ID)))


def pieces(text: str) -> str:
    """A part of a form in the pieces that JSON is made of, for what may turn out to be JSON of another kind."""
    return " ".join(map(_literal, _PIECES.findall(text)))


def learnt(header: str, one: str, two: str | None, name: str, arguments: tuple[str, str]) -> CallForm:
    """The form that a chat template writes; LLAMA where that cannot be told from what it wrote.

    header: what stands before an answer. one: a dialog whose answer is one call; two: with two of them; None: the
    template writes no two. CONTROL stands in them for each control token. name: of each call, whose id is EXAMPLE_ID.
    arguments: of the first and the second, in JSON.
    """
    call = one.removeprefix(header).replace(EXAMPLE_ID, ID)
    head, _, rest = call.partition(name)
    between, found, tail = rest.partition(arguments[0])
    if not one.startswith(header) or call.count(name) != 1 or not found or CONTROL in between:
        return LLAMA
    join, again, rest = (two or "").replace(EXAMPLE_ID, ID).partition(arguments[0])[2].partition(name)
    several = again and arguments[1] in rest and CONTROL not in join
    head, tail = head.rpartition(CONTROL)[2].lstrip(), tail.partition(CONTROL)[0].rstrip()
    form = CallForm(head, between, join if several else None, tail)
    around = "".join(part or "" for part in form)
    # arguments that stand anywhere else would be those of every call
    return form if len(around) <= MOST and not any(said in around for said in arguments) else LLAMA


def _literal(text: str) -> str:
    """A text in quotes, as JSON and Lark have it; Lark's lexer takes no DEL as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
