"""The handling of every field of a request: honoured, reported as without effect, or refused; none is silently dropped.

A `FieldTable` is a route's fields as data: the struct of those that are honoured (typed, so checked), and for the
others why they are not. It validates, it is the documentation (docs/clients.md) and it is what tests walk through.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import inspect

from herd.errors import UsageError, printable

S = TypeVar("S", bound=msgspec.Struct)
E = TypeVar("E", bound=BaseException)
NOTHING: tuple[Any, ...] = (None, False, "", [], {})
"""Values that ask for nothing; 0 is false."""
MOST_NAME = 256
"""Characters of a model's name, before anybody looks for it or quotes it."""
STOPS = ("stop", "stop_sequences")
"""Fields with strings that end an answer: empty ones are none."""
MINUS_ONE = {
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "num_ctx", "seed")),
    "top_k": 0,
}
"""Fields in which -1 stands for none, as servers of these names have it -> how that is written: null; of `top_k`, for
which a model may recommend a number, 0."""
Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=MOST_NAME)]
"""The name by which a client calls a model."""


class Refused(UsageError):
    """A field with a value that is not supported; `param` is its name."""

    def __init__(self, message: str, param: str = "") -> None:
        super().__init__(message)
        self.param = param


def in_words_of(error: E, names: Mapping[str, str]) -> E | Refused:
    """An error about an option by the name that the client called it by, where that is another. names: ours -> the
    client's."""
    ours, _, rest = str(error).partition(":")
    if not isinstance(error, UsageError) or ours not in names:
        return error
    return Refused(f"{names[ours]}:{rest}", names[ours])


@dataclass(frozen=True)
class FieldTable(Generic[S]):
    """The fields of one kind of request."""

    name: str
    honoured: type[S]
    reported: Mapping[str, str] = field(default_factory=dict)
    """Accepted and without effect: name -> why. Told in the header x-herd-ignored."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """A value other than null, false, 0 or empty is an error: name, or path as of `unknown`, -> why."""
    harmless: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values of refused fields that ask for nothing, by name, where these are others than null, false, 0 and empty."""

    def read(self, body: Mapping[str, Any], *, strict: bool = False) -> tuple[S, tuple[str, ...]]:
        """Read a body: returns the typed request, and the fields that have no effect. strict: such a field is refused
        as well. Values are read as their kind of field means them (see `meant`), whatever the dialect.

        Raises Refused (a UsageError) naming the field.
        """
        extra = [*_unknown(body, _info(self.honoured), "")]
        body = meant(body, _info(self.honoured))
        for path, value in extra:
            if path in self.refused and value not in self.harmless.get(path, NOTHING):
                raise Refused(f"{path}: not supported: {self.refused[path]}", path)
        try:
            found = msgspec.convert(body, self.honoured)
        except msgspec.ValidationError as error:
            text, _, where = str(error).partition(" - at `$")
            where = where.rstrip("`").lstrip(".")
            if not where and "field `" in text:
                where = text.split("`")[-2]
            raise Refused(_line(where or "body", text), where[:100]) from None
        # null has said nothing: clients send it for what they leave to the server
        ignored = tuple(path for path in dict.fromkeys(path for path, _ in extra) if path not in self.refused)
        if strict and ignored:
            raise Refused(f"{ignored[0]}: {self.reported.get(ignored[0], 'not a field of this request')}", ignored[0])
        return found, ignored

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(name, how it is handled, why) of every field."""
        for one in msgspec.structs.fields(self.honoured):
            yield one.encode_name, "honoured", ""
        for name, why in self.reported.items():
            yield name, "reported", why
        for name, why in self.refused.items():
            yield name, "refused", why


def _line(where: str, text: str) -> str:
    """A message of msgspec's, which may quote the value, as one line of ours."""
    line = f"{where[:100]}: {text[:1].lower()}{text[1:]}"
    shown = printable(line[:200])
    return shown if len(line) <= 200 else shown + "…"


def unknown(value: Any, type_: Any) -> Iterator[str]:
    """Paths of members that no struct of `type_` has, such as `messages[].cache_control`; each once, null ones not."""
    yield from dict.fromkeys(path for path, _ in _unknown(value, _info(type_), ""))


@cache
def _info(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _unknown(value: Any, kind: inspect.Type, path: str) -> Iterator[tuple[str, Any]]:
    """Paths, and what stands there."""
    if isinstance(kind, inspect.UnionType):
        kind = _chosen(value, kind)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        known = {f.encode_name: f.type for f in kind.fields}
        for name, member in value.items():
            if name in known:
                yield from _unknown(member, known[name], _join(path, name))
            elif name != kind.tag_field and member is not None:
                yield _join(path, name), member
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType) and isinstance(value, list):
        for element in value:
            yield from _unknown(element, kind.item_type, f"{path}[]")


def meant(value: Any, kind: inspect.Type, name: str = "") -> Any:
    """A value as clients mean it in a field of this kind and name; a copy where it says something otherwise.

    A whole number may be written as 4.0; -1 is what MINUS_ONE says; of STOPS empty strings are none.
    """
    if name in MINUS_ONE and type(value) in (int, float) and value == -1:
        return MINUS_ONE[name]
    if name in STOPS and isinstance(value, str | list):
        value = [one for one in value if one != ""] if isinstance(value, list) else value or None
    if isinstance(kind, inspect.UnionType):
        kind = _chosen(value, kind)
    if isinstance(kind, inspect.IntType):
        return whole_of(value)
    if isinstance(kind, inspect.StructType) and isinstance(value, dict):
        types = {f.encode_name: f.type for f in kind.fields}
        return {key: meant(one, types[key], key) if key in types else one for key, one in value.items()}
    if isinstance(kind, inspect.ListType | inspect.VarTupleType) and isinstance(value, list):
        return [meant(one, kind.item_type) for one in value]
    return value


def whole_of(value: Any) -> Any:
    """A float that stands for a whole number as that number; anything else as it is."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < MOST_WHOLE
    return int(value) if is_whole else value


MOST_WHOLE = 1 << 63
"""A float beyond it stands for no number that anybody would count with."""


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _chosen(value: Any, union: inspect.UnionType) -> inspect.Type:
    """The member of a union that a value belongs to."""
    for one in union.types:
        if isinstance(one, inspect.StructType) and isinstance(value, dict):
            if one.tag_field is None or value.get(one.tag_field) == one.tag:
                return one
        elif isinstance(one, inspect.ListType) and isinstance(value, list):
            return one
    if isinstance(value, float) and not any(isinstance(one, inspect.FloatType) for one in union.types):
        return next((one for one in union.types if isinstance(one, inspect.IntType)), inspect.AnyType())
    return inspect.AnyType()


def told(ignored: Sequence[str]) -> dict[str, str]:
    """The header that names the fields without effect. Names are a client's: what a header cannot hold is left out."""
    kept = ("".join(c for c in name[:64] if "!" <= c <= "~" and c != ",") for name in ignored[:32])
    return {"x-herd-ignored": ", ".join(name or "?" for name in kept)} if ignored else {}


def noted(notes: Iterable[str]) -> dict[str, str]:
    """The header that says what became of a request otherwise than it may be meant."""
    found = "; ".join(dict.fromkeys(note for note in notes if note))
    return {"x-herd-note": found} if found else {}


def answered(names: Sequence[str]) -> dict[str, str]:
    """The header that says which backends answered."""
    return {"x-herd-answered-by": ", ".join(names)} if names else {}


def kinds(names: Collection[str]) -> str:
    """Names that a client gave, for a note: what a header cannot hold is left out, and so are all but the first."""
    kept = ("".join(c for c in name[:64] if " " <= c <= "~" and c not in ",;") for name in [*names][:16])
    more = f" and {len(names) - 16} more" if len(names) > 16 else ""
    return ", ".join(name or "?" for name in kept) + more


def within(name: str, value: int, most: int) -> None:
    """Raise Refused when a value is above its limit."""
    if value > most:
        raise Refused(f"{name}: got {value}, expected at most {most}", name)
