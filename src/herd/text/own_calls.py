"""Reads calls in a model's own form (`herd.text.call_form`), a character at a time, as `herd.text.calls` reads others.

White space between the signs of a form may be any; in a text that is written as it is, what the form puts around it is
no part of it. A value of another type that is none is the text that stands there: whether it fits a schema is not
judged here.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence

from herd.text.call_arguments import Arguments
from herd.text.call_form import ID, CallForm, Parameters, is_token
from herd.text.call_values import DIGITS, END, SPACE, WORDS, NoCall, mapping, spaces, value, word

Rest = Generator[None, str, str]
"""Reads something, and returns the character after it."""
Types = frozenset[str]
"""JSON's types that a value may have."""
ALL_TYPES = Types({"null", "boolean", "integer", "number", "string", "array", "object"})
_CORE = str.maketrans("", "", SPACE)


class OwnCalls:
    """Reads what stands behind the beginning of a call. types: tool -> its parameters -> what they may be."""

    def __init__(self, form: CallForm, tools: Collection[str], types: Mapping[str, Mapping[str, Types]]) -> None:
        self._form, self._tools, self._types = form, tools, types
        self._head, self._between, self._tail, self._join = map(_core, (form.head, form.between, form.tail, form.join))
        self.first = self._head[0]
        """The character with which a call begins."""
        if self._join.startswith(self._tail):
            self._join = ""  # another call has a beginning of its own
        self._ends = [end for end in (self._tail, self._join) if end]

    def head(self, char: str) -> Rest:
        """The beginning of a call from its second character on, up to a name."""
        return (yield from signs(self._head[1:], char))

    def name(self, char: str) -> Generator[None, str, tuple[str, str]]:
        """A name and what stands behind it."""
        _, char = yield from spaces(char)
        name, char = yield from word(char)
        if name not in self._tools:
            raise NoCall
        return name, (yield from signs(self._between, char))

    def arguments(self, name: str, char: str, out: Arguments) -> Generator[None, str, tuple[bool, str]]:
        """The arguments of a call and what ends it; whether another one follows."""
        if self._form.parameters is not None:
            reader = _OneByOne(self._form.parameters, self._types.get(name, {}), self._ends, out)
            end, char = yield from reader.all(char)
            return end == self._join != "", char
        _, char = yield from spaces(char)
        if char != "{":
            raise NoCall
        char = yield from mapping(out)
        end, char = yield from one_of(self._ends, char, lambda left: None)
        return end == self._join != "", char


class _OneByOne:
    """Reads the arguments of one call that are written one by one."""

    def __init__(self, form: Parameters, types: Mapping[str, Types], ends: Sequence[str], out: Arguments) -> None:
        self._types, self._ends, self._out, self._raw = types, ends, out, form.raw
        self._open, self._middle, self._close = map(_core, form[:3])
        self._before = form.middle[len(form.middle.rstrip(SPACE)) :]
        self._shut = form.close.strip(SPACE)
        self._closes = (self._shut, form.close.rstrip(SPACE))

    def all(self, char: str) -> Generator[None, str, tuple[str, str]]:
        """All of them; what stands behind them, and the character after it."""
        names = set[str]()
        while True:
            found, char = yield from one_of([self._open, *self._ends], char, self._over)
            if found != self._open:
                if not self._out.over:
                    raise NoCall
                return found, char
            key, char = yield from self._key(char)
            char = yield from self._value(key, char, Arguments() if key in names else self._out)
            names.add(key)

    def _over(self, left: Sequence[str]) -> None:
        """What can still follow: where that is no parameter, the arguments are complete."""
        if not self._out.touched:
            self._out.open("{")
        if self._open not in left and not self._out.over:
            self._out.close()

    def _key(self, char: str) -> Generator[None, str, tuple[str, str]]:
        found: list[str] = []
        while char != self._middle[0]:
            if char == END or is_token(char):
                raise NoCall
            found.append(char)
            char = yield
        return "".join(found), (yield from signs(self._middle, char))

    def _value(self, key: str, char: str, out: Arguments) -> Rest:
        types = self._types.get(key, ALL_TYPES)
        out.key(key)
        lead, char = yield from self._lead(char)
        if "string" not in types or not self._raw:
            _, char = yield from spaces(char)
            if not self._raw or (char and char in "[{"):
                _, char = yield from value(char, out)
                return (yield from signs(self._close, char))
            lead = ""
        said: list[str] = []
        if begins_value(lead or char, types):
            char = yield from self._text(lead, char, said.append)
            write("".join(said), types, out)
        else:
            out.begin_text()
            char = yield from self._text(lead, char, out.more_text)
            out.end_text()
        return char

    def _lead(self, char: str) -> Generator[None, str, tuple[str, str]]:
        """What a form puts before a value; where that is not whole, it belongs to the value."""
        lead = ""
        for wanted in self._before:
            if char != wanted:
                return lead, char
            lead += char
            char = yield
        return "", char

    def _text(self, held: str, char: str, say: Callable[[str], None]) -> Rest:
        """A text as it is, up to where it is closed; held: its beginning; say: is told its characters."""
        while True:
            while held and not any(close.startswith(held) for close in self._closes):
                if is_token(held[0]):
                    raise NoCall
                say(held[0])
                held = held[1:]
            if held in self._closes:
                return char
            if char == END:
                raise NoCall
            held += char
            char = yield


def begins_value(begun: str, types: Types) -> bool:
    """Whether a value of these types that is no text may begin so."""
    first = begun[:1]
    kinds = {"n": "null", "t": "boolean", "f": "boolean", "[": "array", "{": "object"}
    if first in SPACE:
        return types != {"string"}
    if first in DIGITS:
        return not types.isdisjoint(("integer", "number"))
    return kinds.get(first.lower(), "") in types


def write(text: str, types: Types, out: Arguments) -> None:
    """What a value says that may be of these types: one of JSON's, or the text."""
    if not _is_value(text, types):
        out.begin_text()
        out.more_text(text)
        out.end_text()
        return
    reader = value(text.strip(SPACE)[0], out)
    try:
        next(reader)
        for char in text.strip(SPACE)[1:]:
            reader.send(char)
        reader.send(END)
    except StopIteration:
        return


def reads_as_text(text: str, types: Types) -> bool:
    """Whether a text that may be of these types is read as that text."""
    return not _is_value(text, types)


def _is_value(text: str, types: Types) -> bool:
    """Whether a text is a value of JSON (or Python) of one of these types that is no text."""
    text = text.strip(SPACE)
    if not text or text[0] in "\"'(" or types.isdisjoint(_types_of(text)):
        return False
    reader, rest = value(text[0], Arguments()), iter([*text[1:], END])
    try:
        next(reader)
        for char in rest:
            reader.send(char)
    except NoCall:
        return False
    except StopIteration:
        return next(rest, None) is None
    return False


def _types_of(text: str) -> Collection[str]:
    """What a value is that begins so."""
    if text[0] in "[{":
        return ("array",) if text[0] == "[" else ("object",)
    if text[0] in DIGITS:
        return ("integer", "number")
    meant = WORDS.get(text, "")
    return () if meant == "" else ("null",) if meant is None else ("boolean",)


def signs(text: str, char: str) -> Rest:
    """These signs, whatever white space stands between them."""
    for wanted in text:
        _, char = yield from spaces(char)
        if wanted == ID:
            _, char = yield from word(char)
        elif char == wanted:
            char = yield
        else:
            raise NoCall
    return char


def one_of(
    texts: Sequence[str], char: str, tell: Callable[[Sequence[str]], None]
) -> Generator[None, str, tuple[str, str]]:
    """One of these texts, the first that is complete, as `signs`. tell: is told after each character which are left. At
    the end of the text it may be cut or missing, once `tell` has closed what is before it."""
    left, seen = list(texts), 0
    while True:
        if not left or any(len(text) == seen for text in left):
            return next((text for text in left if len(text) == seen), ""), char
        _, char = yield from spaces(char)
        if char == END:
            return "", END
        if all(text[seen] == ID for text in left):
            _, char = yield from word(char)
        else:
            left = [text for text in left if text[seen] == char]
            if not left:
                raise NoCall
            tell(left)
            char = yield
        seen += 1


def _core(text: str | None) -> str:
    return (text or "").translate(_CORE)
