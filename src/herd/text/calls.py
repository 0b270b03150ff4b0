"""A model's answer -> text and calls of tools, while it is being written. Any split of the answer gives the same.

Forms that are read, wherever they stand in the answer (Llama 4 writes several, whatever it was told):

    [f(a=1, b="x"), g()]                        Python's, values as in Python or JSON
    {"name": "f", "parameters": {...}}          JSON; "arguments" too, with or without "type", alone or in a list
    <function=f>{...}</function>
    <tool_call>{...}</tool_call>                Hermes' form, which ChatML models write
    ```json ... ```                             around one of the first two

and the form that the model's chat template writes, where that is none of these (`herd.text.own_calls`).

Only names of tools that the request has make a call. It begins once a value in its arguments has begun, and what is
sure of them is told from then on; its end is that of its arguments. Whatever turns out to be none before that comes out
as the text it is. What turns out to be none later, or ends before its arguments do, is a call that was cut: it has
begun, and nothing takes that back. Behind one that broke off all is text.

At the end of an answer a missing last `]`, `}`, `</...>` or fence is made up for. Nothing is made up for in arguments.
What it is not: a judge of arguments; those are the caller's.
"""

import json
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from herd.errors import UsageError, fail
from herd.messages import CutCall, ToolCall
from herd.text.call_arguments import Arguments
from herd.text.call_form import LLAMA, TOKENS, CallForm, is_token, rule
from herd.text.call_parameters import one_by_one
from herd.text.call_values import (
    END,
    SPACE,
    WORDS,
    NoCall,
    literal,
    mapping,
    member,
    one_of,
    spaces,
    string,
    value,
    word,
)
from herd.text.own_calls import OwnCalls, Types

OPENERS = frozenset("[{<`")
"""Characters with which a call may begin."""
MOST_HELD = 1 << 20
"""Characters that are held back while they may still be a call."""
MEMBERS = ("name", "type", "function", "parameters", "arguments", "id")
"""Members of a call in JSON; an object with another one is an answer."""
KEYS = tuple(f'"{name}"' for name in MEMBERS)
Rest: TypeAlias = Generator[None, str, str]
"""Reads a form, and returns the character after it."""


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


@dataclass(frozen=True)
class CallCut:
    """It is not, and never will be: the pieces of its arguments are a beginning. No other call comes."""

    index: int
    call: CutCall


Piece: TypeAlias = TextPiece | CallStart | CallArguments | CallEnd | CallCut


class _Call:
    """A call that is being read. index: None: nothing was told of it yet."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.arguments = Arguments()
        self.has_arguments = name is not None  # else they are still to be found
        self.index: int | None = None

    @property
    def begun(self) -> bool:
        """Whether it is a call, whatever comes."""
        return self.name is not None and self.arguments.begun


class _Back(NoCall):
    """What is being read is not a call, and not all of it has been looked at as what else it may be.

    count: characters at its end that are still to be.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count


class CallParser:
    """Reads one answer.

    tools: name -> the names of its parameters in order (for arguments without a name). markers: ids of control tokens
    around a call, which have no text of their own (`<|python_start|>`); text that spells one is text. forced: the
    answer can be nothing but calls, so that what is cut before one has begun is no text. form: how the model writes
    calls, and types: what each parameter of a tool may be (`herd.text.call_parameters`), for forms of its own.
    """

    def __init__(
        self,
        tools: Mapping[str, Sequence[str]],
        markers: Collection[int] = (),
        *,
        forced: bool = False,
        form: CallForm = LLAMA,
        types: Mapping[str, Mapping[str, Types]] = MappingProxyType({}),
    ) -> None:
        self._tools = tools
        self._own = OwnCalls(form, tools, types) if form.own else None
        self._signs = dict(zip(form.tokens, TOKENS, strict=False))
        self._openers = OPENERS.union(self._signs.values(), {self._own.first} if self._own else ())
        self._back: list[str] = []
        """Characters that are read before others, the first one last."""
        self._names = _spelt(tools)
        self._markers = frozenset(markers)
        self._forced = forced
        self._index = 0
        self._text: list[str] = []
        self._space: list[str] = []
        """White space after a call: dropped before another call and at the end."""
        self._called = False
        self._held: list[str] = []
        """What came since something of it was told."""
        self._reader: Rest | None = None
        self._call: _Call | None = None
        self._has_read = False
        """Whether the reader has read a whole call."""
        self._first = 0
        """Which call is the reader's first."""
        self._broken = False
        self._late: list[Piece] = []
        """Pieces of a call that the answer goes on with, told with its first one."""

    @property
    def holding(self) -> bool:
        """Whether something that was pushed has come out as neither text nor call yet."""
        return self._reader is not None or bool(self._space)

    def begin(self, text: str) -> None:
        """Read what the answer goes on with, before anything of the answer: it never comes out as text, and of its
        calls only one that the answer goes on with does."""
        found = self.push(None, text)
        first = self._index if self._reader is None else self._first
        for piece in found:
            if not isinstance(piece, TextPiece) and piece.index >= first:
                self._late.append(replace(piece, index=piece.index - first))
        self._held, self._space, self._index = [], [], self._index - first
        if self._call is not None and self._call.index is not None:
            self._call.index -= first

    def push(self, token_id: int | None, text: str) -> list[Piece]:
        """Take one more token, or some text; returns what has become certain."""
        text = self.heard(token_id, text)
        if (token_id in self._markers and token_id not in self._signs) or not text:
            return []  # a marker only says that a call is to come, or has come
        found, self._late = self._late, []
        if self._reader is None and not (self._called or self._openers.intersection(text)):
            return [*found, TextPiece(text)]
        for char in text:
            self._chars(char, found)
        self._flush(found)
        self._tell(found)
        return found

    def heard(self, token_id: int | None, text: str) -> str:
        """The text of a token, or the sign for a control token of the model's form."""
        return text if token_id is None else self._signs.get(token_id, text)

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The end of the answer. cut: by a limit or by somebody, not by the model."""
        found, self._late = self._late, []
        while self._reader is not None:
            begun = self._call is not None and self._call.begun
            self._send(END, found, dropped=begun or (cut and (self._forced or self._has_read)))
            self._chars("", found)
        self._space = []
        self._flush(found)
        return found

    def _chars(self, char: str, found: list[Piece]) -> None:
        """A character, or none, and those that have to be read again."""
        if char:
            self._char(char, found)
        while self._back:
            self._char(self._back.pop(), found)

    def _char(self, char: str, found: list[Piece]) -> None:
        if self._reader is not None and self._send(char, found):
            return
        if self._broken:
            self._say(char)
        elif char in self._openers:
            self._reader = self._form(char)
            self._held = [char]
            self._has_read, self._first = False, self._index
            next(self._reader)
        elif self._called and char in SPACE + ";,":
            self._space.append(char)
        else:
            self._say(char)

    def _send(self, char: str, found: list[Piece], *, dropped: bool = False) -> bool:
        """Give the reader a character; whether it took it. dropped: what is no call then is no text either."""
        assert self._reader is not None
        self._held.append(char)
        try:
            self._reader.send(char)
        except _Back as error:
            if not dropped:
                again = [one for one in self._held[-error.count :] if one != END]
                del self._held[-error.count :]
                self._back += reversed(again)
            self._give_up(found, dropped=dropped)
            return True
        except NoCall:
            self._held.pop()
            self._give_up(found, dropped=dropped)
            return False
        except StopIteration as done:
            self._settle(found)
            self._reader = None
            self._held.clear()
            self._called = True
            return bool(done.value == END)  # else the character after the call is still to be read
        self._settle(found)
        if char == END or len(self._held) > MOST_HELD:
            self._give_up(found, dropped=dropped)
        return True

    def _settle(self, found: list[Piece]) -> None:
        """What was written down of a call is sure now."""
        call = self._call
        if call is None or not (call.arguments.settle() or call.arguments.over) or not call.begun:
            return
        self._held.clear()
        if call.arguments.over:
            index = self._tell(found)
            assert index is not None and call.name is not None
            found.append(CallEnd(index, ToolCall(call.name, json.loads(call.arguments.text))))
            self._call, self._has_read = None, True

    def _tell(self, found: list[Piece]) -> int | None:
        """Tell what is sure of the call that has begun; its index."""
        call = self._call
        if call is None or not call.begun:
            return None
        assert call.name is not None
        if call.index is None:
            self._space = []
            self._flush(found)
            call.index, self._index = self._index, self._index + 1
            found.append(CallStart(call.index, call.name))
        fragment = call.arguments.take()
        if fragment:
            found.append(CallArguments(call.index, fragment))
        return call.index

    def _give_up(self, found: list[Piece], *, dropped: bool = False) -> None:
        """What was held back is text, and a call that has begun is cut."""
        index, call = self._tell(found), self._call
        if index is not None:
            assert call is not None and call.name is not None
            found.append(CallCut(index, CutCall(call.name, call.arguments.text)))
            self._broken = True
        self._reader = self._call = None
        if not dropped:
            self._say("".join(self._held))
        self._held.clear()

    def _say(self, text: str) -> None:
        self._text += [*self._space, text]
        self._space, self._called = [], False

    def _flush(self, found: list[Piece]) -> None:
        text = "".join(self._text)
        self._text = []
        if self._signs:
            text = "".join(char for char in text if not is_token(char))
        if text:
            found.append(TextPiece(text))

    # -- the forms ---------------------------------------------------------------------------------------------------

    def _form(self, first: str) -> Rest:
        """The calls that begin with `first`: those of the model's own form, or others."""
        if self._own is None or first != self._own.first:
            return (yield from self._usual(first))
        reader, seen = self._in_own(self._own), [first]
        next(reader)
        while True:
            char = yield
            is_call = self._has_read or (self._call is not None and self._call.arguments.touched)
            if not is_call:
                seen.append(char)
            try:
                reader.send(char)
            except StopIteration as done:
                return str(done.value)
            except NoCall:
                if is_call:
                    raise
                break
        self._call = None
        return (yield from self._again(seen))

    def _in_own(self, own: OwnCalls) -> Rest:
        """Calls in the model's own form, from the second character on."""
        char, more = (yield from own.head((yield))), True
        while more:
            name, char = yield from own.name(char)
            self._call = _Call(name)
            more, char = yield from own.arguments(name, char, self._call.arguments)
        return char

    def _again(self, seen: Sequence[str]) -> Rest:
        """Read characters once more, which began as the model's own form does, and go on."""
        if seen[0] not in OPENERS:
            raise _Back(len(seen) - 1)
        reader = self._usual(seen[0])
        next(reader)
        for i, char in enumerate(seen[1:], 1):
            try:
                reader.send(char)
            except (NoCall, StopIteration):
                raise _Back(len(seen) - i) from None
        while True:
            char = yield
            try:
                reader.send(char)
            except StopIteration as done:
                return str(done.value)

    def _usual(self, first: str) -> Rest:
        """Calls that begin with `first` in a form that any model may write."""
        if first == "<":
            return (yield from self._tagged())
        if first == "`":
            return (yield from self._fenced())
        return (yield from self._bare(first))

    def _bare(self, char: str) -> Rest:
        """`[f()]`, `[{...}]` or `{...}`. At the text's end its last brackets may be missing."""
        if char == "{":
            return (yield from self._json())
        _, char = yield from spaces((yield))
        is_json = char == "{"
        while True:
            if is_json and char != "{":
                raise NoCall
            char = yield from self._json() if is_json else self._python(char)
            _, char = yield from spaces(char)
            if char == "]":
                self._held.clear()
                return (yield)
            if char == END:
                return END
            if char not in (",", ";"):
                raise NoCall
            _, char = yield from spaces((yield))

    def _tagged(self) -> Rest:
        char = yield
        if char == "f":
            _, char = yield from literal("function=", char)
            name, char = yield from word(char)
            if name not in self._tools:
                raise NoCall
            _, char = yield from literal(">", char)
            _, char = yield from spaces(char)
            if char != "{":
                raise NoCall
            self._call = _Call(name)
            char = yield from mapping(self._call.arguments)
            return (yield from _closing("</function>", char))
        _, char = yield from literal("tool_call>", char)
        _, char = yield from spaces(char)
        char = yield from self._several(char)
        return (yield from _closing("</tool_call>", char))

    def _fenced(self) -> Rest:
        _, char = yield from literal("``", (yield))
        while char and char.isalpha():
            char = yield
        _, char = yield from spaces(char)
        char = yield from self._several(char)
        return (yield from _closing("```", char))

    def _several(self, char: str) -> Rest:
        """One or more of `_bare`, with white space, `;` or `,` between them."""
        if char not in ("{", "["):
            raise NoCall
        while char in ("{", "["):
            char = yield from self._bare(char)
            while char and char in SPACE + ";,":
                char = yield
        return char

    def _json(self) -> Rest:
        """After `{`: "name": ..., "parameters" or "arguments": {...}, or OpenAI's "type": "function", "function":
        {...}. At the text's end its last bracket may be missing, once a call is whole."""
        call = self._call = _Call()
        char = yield from self._members(call)
        if call.name is None:
            raise NoCall
        if not call.has_arguments:
            _no_arguments(call.arguments)
        if char == END:
            return END
        self._held.clear()
        return (yield)

    def _members(self, call: _Call, *, inner: bool = False) -> Rest:
        """Members of a call up to their `}`, or to the END that may stand in its place."""
        _, char = yield from spaces((yield))
        while char != "}":
            key, char = yield from one_of(KEYS, char)
            _, char = yield from spaces(char)
            _, char = yield from literal(":", char)
            _, char = yield from spaces(char)
            char = yield from self._member(key, char, call, inner=inner)
            _, char = yield from spaces(char)
            if char == END and call.name is not None and call.has_arguments:
                return END
            if char == ",":
                _, char = yield from spaces((yield))
            elif char != "}":
                raise NoCall
        return char

    def _member(self, key: str, char: str, call: _Call, *, inner: bool) -> Rest:
        """The value of a member of a call; of one that is there again nothing is taken."""
        if key == '"function"' and char == "{" and not inner:
            char = yield from self._members(call, inner=True)
            return (yield) if char == "}" else END
        if key in ('"name"', '"function"'):
            spelt, char = yield from one_of(tuple(self._names), char)
            call.name = call.name or self._names[spelt]
        elif key in ('"parameters"', '"arguments"') and not call.has_arguments:
            call.has_arguments = True
            char = yield from _arguments(char, call.arguments)
        else:
            _, char = yield from value(char, Arguments())
        return char

    def _python(self, char: str) -> Rest:
        """f(a=1, b="x"); arguments without a name take the tool's parameters in order."""
        name, char = yield from word(char)
        name = name.removesuffix(".call")  # Meta's built-in tools are called so
        if name not in self._tools:
            raise NoCall
        _, char = yield from spaces(char)
        if char != "(":
            raise NoCall
        _, char = yield from spaces((yield))
        self._call = _Call(name)
        out = self._call.arguments
        out.open("{")
        unnamed, names = iter(self._tools[name]), set[str]()
        while char != ")":
            char = yield from _argument(char, out, unnamed, names)
            _, char = yield from spaces(char)
            if char == ",":
                _, char = yield from spaces((yield))
            elif char != ")":
                raise NoCall
        out.close()
        return (yield)


def _argument(char: str, out: Arguments, unnamed: Iterator[str], names: set[str]) -> Rest:
    """One argument of Python's form. unnamed: the parameters that are left for those without a name. names: of the
    arguments before it."""
    if not (char and (char.isalpha() or char == "_")):
        out.key(_next(unnamed, names))
        _, char = yield from value(char, out)
        return char
    name, char = yield from word(char)
    _, char = yield from spaces(char)
    if char == "=":
        _, char = yield from spaces((yield))
        _, char = yield from member(name, char, out, names)
    elif name in WORDS:
        out.key(_next(unnamed, names))
        out.scalar(WORDS[name])
    else:
        raise NoCall
    return char


def _next(unnamed: Iterator[str], names: set[str]) -> str:
    """The parameter that an argument without a name is for. Raises NoCall where none is left."""
    name = next(unnamed, None)
    if name is None or name in names:
        raise NoCall
    names.add(name)
    return name


def _arguments(char: str, out: Arguments) -> Rest:
    """Arguments in JSON: an object; null, which are none; or OpenAI's JSON in a text."""
    if char == "{":
        return (yield from mapping(out))
    if char and char in "\"'":
        return (yield from _in_text(char, out))
    _, char = yield from literal("null", char)
    _no_arguments(out)
    return char


def _in_text(quote: str, out: Arguments) -> Rest:
    """An object in a text; an empty text holds one without members."""
    inner = _alone(out)
    next(inner)

    def say(text: str) -> None:
        for char in text:
            inner.send(char)

    _, char = yield from string(quote, say)
    try:
        inner.send(END)
    except StopIteration:
        return char
    raise NoCall


def _alone(out: Arguments) -> Generator[None, str, None]:
    """An object, or nothing, up to END."""
    _, char = yield from spaces((yield))
    if char == END:
        _no_arguments(out)
    elif char == "{":
        char = yield from mapping(out)
        _, char = yield from spaces(char)
    if char != END:
        raise NoCall


def _no_arguments(out: Arguments) -> None:
    """An object without members."""
    out.open("{")
    out.close()


def _closing(tag: str, char: str) -> Rest:
    """White space and a closing tag; at the end of the text it may be cut or missing."""
    _, char = yield from spaces(char)
    for wanted in tag:
        if char == END:
            return END
        if char != wanted:
            raise NoCall
        char = yield
    return char


def _spelt(tools: Mapping[str, Any]) -> dict[str, str]:
    """Names of tools, by how JSON may spell them."""
    return {json.dumps(name, ensure_ascii=ascii_only): name for name in tools for ascii_only in (True, False)}


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
    given = {name: said for name, said in (tool.get("parameters") or {}).items() if said is not None}
    given = given or {"properties": {}, "additionalProperties": False}
    if given.get("type", "object") != "object":
        fail(UsageError, f"tool {tool['name']}: type of parameters", got=given["type"], expected="object")
    return {**given, "type": "object"}


def call_grammar(tools: Sequence[Mapping[str, Any]], form: CallForm, *, only: str | None, parallel: bool) -> str:
    """A grammar (llguidance's Lark) of nothing but calls in a model's form, arguments by each tool's schema.

    only: the one tool that may be called. parallel: several calls may follow each other, where the form has several.
    Raises UsageError for a schema that cannot be written in the form.
    """
    rules, names = [], []
    for i, tool in enumerate(tools):
        inner = tool.get("function", tool)
        if only is not None and inner["name"] != only:
            continue
        named = rule(form.name(inner["name"]) + form.between, form.tokens)
        rules += [f"call_{i}: {named} args_{i}", *argument_rules(f"args_{i}", inner, form)]
        names.append(f"call_{i}")
    assert names, "no such tool"
    one = f"({' | '.join(names)})"
    more = f" ({rule(form.join, form.tokens)} {one})*" if parallel and form.join is not None else ""
    start = f"start: {rule(form.head, form.tokens)} {one}{more} {rule(form.tail, form.tokens)}"
    return "\n".join([start, *rules]) + "\n"


def argument_rules(name: str, tool: Mapping[str, Any], form: CallForm) -> list[str]:
    """Rules of a grammar for the arguments of a tool, the first of this name. Raises UsageError."""
    if form.parameters is None:
        return [f"{name}: %json {json.dumps(object_schema(tool))}"]
    return one_by_one(name, tool["name"], object_schema(tool), form)
