"""Every place of a request's body, from the tables of fields: bodies with one hole, all else as small as it may be."""

from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from herd.server.openai import moderations, response_items
from herd.server.requests.fields import FieldTable

HOLE = "@hole@"
KNOWN: dict[str, Any] = {
    **{"model": "fake", "from": "fake", "source": "fake", "destination": "made", "role": "user", "type": "function"},
    **{"max_tokens": 2, "input": "a", "prompt": "a", "format": "json", "arguments": "{}", "tokens": [1]},
    **{"num_predict": 2, "max_completion_tokens": 2, "max_output_tokens": 2, "parameters": {"type": "object"}},
    **{"schema": {"type": "object"}, "input_schema": {"type": "object"}},
}
"""What is small, by the name of a field, where a type alone does not tell it."""
BESIDES = {
    "POST /v1/chat/completions": {"max_tokens": 2},
    "POST /v1/completions": {"max_tokens": 2},
    "POST /v1/responses": {"max_output_tokens": 2, "store": False},
    "POST /v1/responses/input_tokens": {"model": "fake", "input": "a"},
    "POST /api/chat": {"stream": False, "options": {"num_predict": 2}},
    "POST /api/generate": {"stream": False, "options": {"num_predict": 2}, "prompt": "a"},
    "POST /tokenize": {},
    **{f"POST /api/{name}": {"model": "none"} for name in ("show", "pull")},
    "DELETE /api/delete": {"model": "none"},
    "POST /api/create": {"model": "made", "from": "fake"},
}
"""Fields that a route gets besides those that it must have."""
INSIDE: dict[str, dict[str, Any]] = {
    "POST /v1/responses": {"input": list[response_items.Item]},
    "POST /v1/responses/input_tokens": {"input": list[response_items.Item]},
    "POST /v1/moderations": {"input": list[moderations.Part]},
    "POST /v1/completions": {"prompt": list[str]},
}
"""What a field holds that its table calls anything."""


def bodies(table: FieldTable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, body with the hole there) of every field, list, element, member and part."""
    for path, value in _holed(inspect.type_info(table.honoured), "", ""):
        if value != HOLE:
            yield path, {**BESIDES.get(table.name, {}), **value}
    small = {**_sample(inspect.type_info(table.honoured), ""), **BESIDES.get(table.name, {})}
    for field, type_ in INSIDE.get(table.name, {}).items():
        for path, value in _holed(inspect.type_info(type_), field, field):
            yield path, {**small, field: value}
    for name in ("an_unknown_one", HOLE):
        yield name, {**small, name: HOLE}


def _holed(kind: inspect.Type, name: str, path: str) -> Iterator[tuple[str, Any]]:
    """Values of a type with one hole, each with the path to it."""
    if isinstance(kind, inspect.UnionType):
        seen: set[str] = set()
        for one in kind.types:
            for at, value in _holed(one, name, path):
                if f"{at}{value}" not in seen:
                    seen.add(f"{at}{value}")
                    yield at, value
        return
    if isinstance(kind, inspect.NoneType):
        return
    yield path, HOLE
    if isinstance(kind, inspect.StructType):
        for role in _roles(kind):
            small = {**_sample(kind, name), **role}
            for field in kind.fields:
                for at, value in _holed(field.type, field.encode_name, f"{path}.{field.encode_name}".lstrip(".")):
                    yield at, {**small, field.encode_name: value}
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType):
        yield from ((at, [value]) for at, value in _holed(kind.item_type, name, f"{path}[]"))
    elif isinstance(kind, inspect.DictType):
        yield from ((at, {"1": value}) for at, value in _holed(kind.value_type, name, f"{path}.*"))
    elif isinstance(kind, inspect.AnyType):
        yield f"{path}[]", [HOLE]


def _roles(kind: inspect.StructType) -> list[dict[str, str]]:
    """Who may say it: a call is the assistant's, a result the user's or a tool's."""
    roles = next(
        (f.type.values for f in kind.fields if f.name == "role" and isinstance(f.type, inspect.LiteralType)), None
    )
    return [{}] if roles is None else [{"role": role} for role in roles if role in ("user", "assistant", "tool")]


def _sample(kind: inspect.Type, name: str) -> Any:
    """A small value of a type."""
    if isinstance(kind, inspect.StructType):
        tag = {kind.tag_field: kind.tag} if kind.tag_field is not None else {}
        return {
            **{f.encode_name: _sample(f.type, f.encode_name) for f in kind.fields if f.required or f.name == "content"},
            **tag,
        }
    if isinstance(kind, inspect.LiteralType):
        return KNOWN[name] if KNOWN.get(name) in kind.values else kind.values[0]
    if isinstance(kind, inspect.DictType):
        return KNOWN[name] if isinstance(KNOWN.get(name), dict) else {}
    if name in KNOWN and not isinstance(kind, inspect.ListType):
        return KNOWN[name]
    if isinstance(kind, inspect.UnionType):
        return _sample(next(one for one in kind.types if not isinstance(one, inspect.NoneType)), name)
    if isinstance(kind, inspect.ListType):
        return KNOWN[name] if isinstance(KNOWN.get(name), list) else [_sample(kind.item_type, name)]
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return 1
    return False if isinstance(kind, inspect.BoolType) else "a"
