"""A model's answer -> text and calls of tools, while it is being written. Any split of the answer gives the same.

Forms that are read, wherever they stand in the answer (Llama 4 writes several, whatever it was told):

    [f(a=1, b="x"), g()]                        Python's, values as in Python or JSON
    {"name": "f", "parameters": {...}}          JSON; "arguments" too, with or without "type", alone or in a list
    <function=f>{...}</function>
    <tool_call>{...}</tool_call>                Hermes' form, which ChatML models write
    ```json ... ```                             around one of the first two

Only names of tools that the request has make a call. Whatever turns out to be none comes out as the text it is. At the
end of an answer that the model itself ended, a missing last `]`, `}`, `</...>` or fence is made up for, once all
arguments are complete; an answer that was cut is not added to. What it is not: a judge of arguments; those are the
caller's.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from herd.errors import UsageError, fail
from herd.messages import ToolCall
from herd.text.call_values import (
    END,
    SPACE,
    WORDS,
    NoCall,
    Reader,
    json_text,
    literal,
    spaces,
    value,
    whole_characters,
    word,
)
from herd.text.tools import dumps

OPENERS = frozenset("[{<`")
"""Characters with which a call may begin."""
MOST_HELD = 1 << 20
"""Characters that are held back while they may still be a call."""
MEMBERS = {"name", "type", "function", "parameters", "arguments", "id"}
"""Of a call in JSON; an object with another one is an answer."""
KEYS = tuple(f'"{name}"' for name in sorted(MEMBERS))


@dataclass(frozen=True)
class TextPiece:
    """Text that is no call."""

    text: str


@dataclass(frozen=True)
class CallStart:
    """A call begins. index: which of the answer's."""

    index: int
    name: str


@dataclass(frozen=True)
class CallArguments:
    """A piece of its arguments: joined, they are one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True)
class CallEnd:
    """It is complete."""

    index: int
    call: ToolCall


Piece: TypeAlias = TextPiece | CallStart | CallArguments | CallEnd


class CallParser:
    """Reads one answer.

    tools: name -> the names of its parameters in order (for arguments without a name). markers: ids of control tokens
    around a call, which have no text of their own (`<|python_start|>`); text that spells one is text.
    """

    def __init__(self, tools: Mapping[str, Sequence[str]], markers: Collection[int] = ()) -> None:
        self._tools = tools
        self._names = tuple(dict.fromkeys(dumps(name, ascii_only=a) for name in tools for a in (True, False)))
        self._markers = frozenset(markers)
        self._index = 0
        self._text: list[str] = []
        self._space: list[str] = []
        """White space after a call: dropped before another call and at the end."""
        self._called = False
        self._held: list[str] = []
        self._reader: Reader | None = None

    @property
    def holding(self) -> bool:
        """Whether something that was pushed has come out as neither text nor call yet."""
        return self._reader is not None or bool(self._space)

    def begin(self, text: str) -> None:
        """Read what the answer goes on with, before anything of the answer: it never comes out as text, and of its
        calls only one that the answer goes on with does."""
        self.push(None, text)
        self._held, self._space, self._index = [], [], 0

    def push(self, token_id: int | None, text: str) -> list[Piece]:
        """One more token, or some text."""
        found: list[Piece] = []
        if token_id in self._markers:
            return found  # it only says that a call is to come, or has come
        if self._reader is None and not self._called and not OPENERS.intersection(text):
            return [TextPiece(text)] if text else found
        for char in text:
            self._char(char, found)
        self._flush(found)
        return found

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The end of the answer. cut: by a limit or by somebody, not by the model."""
        found: list[Piece] = []
        if self._reader is not None and cut:
            self._give_up()
        elif self._reader is not None:
            self._send(END, found)
        self._space = []
        self._flush(found)
        return found

    def _char(self, char: str, found: list[Piece]) -> None:
        if self._reader is not None and self._send(char, found):
            return
        if char in OPENERS:
            self._reader = self._call(char)
            self._held = [char]
            next(self._reader)
        elif self._called and char in SPACE + ";,":
            self._space.append(char)
        else:
            self._say(char)

    def _send(self, char: str, found: list[Piece]) -> bool:
        """Give the reader a character; whether it took it."""
        assert self._reader is not None
        try:
            self._reader.send(char)
        except NoCall:
            self._give_up()
            return False
        except StopIteration as done:
            self._reader = None
            calls, after = done.value
            self._space = []
            self._flush(found)
            for call in calls:
                found += self._pieces(call)
            self._called = True
            assert after in (char, END), (after, char)
            return bool(after == END)  # else the character after the call is still to be read
        self._held.append(char)
        if len(self._held) > MOST_HELD:
            self._give_up()
        return True

    def _give_up(self) -> None:
        """What was held back is text."""
        self._reader = None
        self._say("".join(self._held))

    def _say(self, text: str) -> None:
        self._text += [*self._space, text]
        self._space, self._called = [], False

    def _flush(self, found: list[Piece]) -> None:
        text = "".join(self._text)
        self._text = []
        if text:
            found.append(TextPiece(text))

    def _pieces(self, call: ToolCall) -> list[Piece]:
        index, self._index = self._index, self._index + 1
        arguments = dumps(dict(call.arguments), ascii_only=False)
        return [CallStart(index, call.name), CallArguments(index, arguments), CallEnd(index, call)]

    # -- the forms ---------------------------------------------------------------------------------------------------

    def _call(self, first: str) -> Reader:
        """The calls that begin with `first`, and the character after them."""
        if first == "<":
            return (yield from self._tagged())
        if first == "`":
            return (yield from self._fenced())
        return (yield from self._bare(first))

    def _bare(self, char: str) -> Reader:
        """`[f()]`, `[{...}]` or `{...}`. At the text's end its last brackets may be missing."""
        if char == "{":
            call, char = yield from self._json(char)
            return [call], char
        _, char = yield from spaces((yield))
        read = self._json if char == "{" else self._python
        found = []
        while True:
            call, char = yield from read(char)
            found.append(call)
            _, char = yield from spaces(char)
            if char == "]":
                char = yield
                return found, char
            if char == END:
                return found, END
            if char not in (",", ";"):
                raise NoCall
            _, char = yield from spaces((yield))

    def _tagged(self) -> Reader:
        char = yield
        if char == "f":
            _, char = yield from literal("function=", char)
            name, char = yield from word(char)
            _, char = yield from literal(">", char)
            _, char = yield from spaces(char)
            text, char = yield from json_text(char)
            call = self._known(name, _object(text))
            _, char = yield from _closing("</function>", char)
            return [call], char
        _, char = yield from literal("tool_call>", char)
        _, char = yield from spaces(char)
        found, char = yield from self._several(char)
        _, char = yield from _closing("</tool_call>", char)
        return found, char

    def _fenced(self) -> Reader:
        _, char = yield from literal("``", (yield))
        while char and char.isalpha():
            char = yield
        _, char = yield from spaces(char)
        found, char = yield from self._several(char)
        _, char = yield from _closing("```", char)
        return found, char

    def _several(self, char: str) -> Reader:
        """One or more of `_bare`, with white space, `;` or `,` between them."""
        found: list[ToolCall] = []
        while char in ("{", "["):
            calls, char = yield from self._bare(char)
            found += calls
            while char and char in SPACE + ";,":
                char = yield
        if not found:
            raise NoCall
        return found, char

    def _json(self, char: str) -> Reader:
        """{"name": ..., "parameters" or "arguments": {...}}, or OpenAI's {"type": "function", "function": {...}}."""
        text = json_text(char, whole=False)
        next(text)
        head = _Head(self._names)
        while True:
            char = yield
            head.push(char)
            try:
                text.send(char)
            except StopIteration as done:
                found, char = done.value
                return self._from_json(_object(found)), char

    def _from_json(self, found: dict[str, Any]) -> ToolCall:
        inner = found.get("function")
        if isinstance(inner, dict):
            found = inner
        name = found.get("name", inner)
        if not found.keys() <= MEMBERS:
            raise NoCall
        arguments = found.get("parameters", found.get("arguments", {}))
        if isinstance(arguments, str):  # OpenAI's JSON in JSON
            arguments = _object(arguments)
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise NoCall
        return self._known(name, arguments)

    def _python(self, char: str) -> Reader:
        """f(a=1, b="x"); arguments without a name take the tool's parameters in order."""
        name, char = yield from word(char)
        name = name.removesuffix(".call")  # Meta's built-in tools are called so
        if name not in self._tools:
            raise NoCall
        _, char = yield from spaces(char)
        if char != "(":
            raise NoCall
        _, char = yield from spaces((yield))
        arguments: dict[str, Any] = {}
        unnamed = iter(self._tools[name])
        while char != ")":
            (key, found), char = yield from self._argument(char)
            if key is None:
                key = next(unnamed, None)
            if key is None or key in arguments:
                raise NoCall
            arguments[key] = found
            _, char = yield from spaces(char)
            if char == ",":
                _, char = yield from spaces((yield))
            elif char != ")":
                raise NoCall
        char = yield
        return ToolCall(name, arguments), char

    def _argument(self, char: str) -> Reader:
        """(name or None, value) of one."""
        if not (char and (char.isalpha() or char == "_")):
            found, char = yield from value(char)
            return (None, found), char
        name, char = yield from word(char)
        _, char = yield from spaces(char)
        if char != "=":
            if name not in WORDS:
                raise NoCall
            return (None, WORDS[name]), char
        _, char = yield from spaces((yield))
        found, char = yield from value(char)
        return (name, found), char

    def _known(self, name: str, arguments: dict[str, Any]) -> ToolCall:
        if name not in self._tools:
            raise NoCall
        return ToolCall(name, arguments)


class _Head:
    """The beginning of an object that may be a call: its first member's name, and if that is "name", its value. What is
    no call is told at once, so that an answer in JSON is not held back to its end."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """names: of tools, as JSON."""
        self._seen = ""
        self._names = names
        self._wanted: tuple[str, ...] | None = KEYS

    def push(self, char: str) -> None:
        """One more character. Raises NoCall."""
        if self._wanted is None or not char or (char in SPACE and not self._seen):
            return
        if self._wanted is self._names and not self._seen and char == ":":
            return
        self._seen += char
        if not any(wanted.startswith(self._seen) for wanted in self._wanted):
            raise NoCall
        if self._seen in self._wanted:
            self._wanted = self._names if self._seen == '"name"' else None
            self._seen = ""


def _closing(tag: str, char: str) -> Reader:
    """White space and a closing tag; at the end of the text it may be cut or missing."""
    _, char = yield from spaces(char)
    for wanted in tag:
        if char == END:
            return None, END
        if char != wanted:
            raise NoCall
        char = yield
    return None, char


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_constant, parse_float=_float)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise NoCall
    if "\\u" in text:
        whole_characters(json.dumps(found, ensure_ascii=False))
    return found


def _constant(name: str) -> float:
    """NaN and infinities are Python's, not JSON's: no client could read them."""
    raise NoCall


def _float(text: str) -> float:
    found = float(text)
    return found if math.isfinite(found) else _constant(text)


def parameters_of(tools: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[str]]:
    """What CallParser wants to know of tools: OpenAI's form, or {"name", "parameters"}."""
    found: dict[str, Sequence[str]] = {}
    for tool in tools:
        inner = tool.get("function", tool)
        schema = inner.get("parameters") or {}
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        found[str(inner["name"])] = tuple(properties) if isinstance(properties, Mapping) else ()
    return found


def object_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object whether it says so or not. Raises UsageError for another
    type."""
    given = tool.get("parameters") or {"properties": {}, "additionalProperties": False}
    if given.get("type", "object") != "object":
        fail(UsageError, f"tool {tool['name']}: type of parameters", got=given["type"], expected="object")
    return {**given, "type": "object"}


def call_grammar(tools: Sequence[Mapping[str, Any]], *, hermes: bool, only: str | None, parallel: bool) -> str:
    """A grammar (llguidance's Lark) of nothing but calls, arguments by each tool's schema.

    hermes: `<tool_call>` around each, as ChatML models write it; else Llama's JSON. only: the one tool that may be
    called. parallel: several calls may follow each other. JSON is used whatever form the model was shown: arguments can
    be enforced in it, and `CallParser` reads both.
    """
    rules, names = [], []
    for i, tool in enumerate(tools):
        inner = tool.get("function", tool)
        if only is not None and inner["name"] != only:
            continue
        key = "arguments" if hermes else "parameters"
        kind = "" if hermes else '"type": "function", '
        head = f'{{{kind}"name": {dumps(inner["name"], ascii_only=False)}, "{key}": '
        schema = object_schema(inner)
        rules += [f'call_{i}: {dumps(head, ascii_only=False)} args_{i} "}}"', f"args_{i}: %json {json.dumps(schema)}"]
        names.append(f"call_{i}")
    assert names, "no such tool"
    one = f"({' | '.join(names)})"
    if hermes:
        one = f'("<tool_call>\\n" {one} "\\n</tool_call>")'
    more = f' ("\\n" {one})*' if parallel else ""
    return "\n".join([f"start: {one}{more}", *rules]) + "\n"
