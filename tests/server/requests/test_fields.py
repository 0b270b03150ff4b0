"""Tables of fields: nothing is dropped in silence."""

from typing import Any

import msgspec
import pytest

from herd.server.requests.fields import FieldTable, Refused, told


class Inner(msgspec.Struct, tag_field="type", tag="inner"):
    a: int


class Other(msgspec.Struct, tag_field="type", tag="other"):
    b: str


class Outer(msgspec.Struct):
    name: str
    parts: list[Inner | Other] | str | None = None
    count: int | None = None


TABLE: FieldTable[Outer] = FieldTable(
    "x", Outer, reported={"colour": "there is none"}, refused={"sound": "there is none"}
)


def test_honoured_fields_are_typed_and_the_rest_is_reported_by_path() -> None:
    body: dict[str, Any] = {
        "name": "x",
        "parts": [{"type": "inner", "a": 1, "c": 2}, {"type": "other", "b": "y", "cache": {}}],
        "colour": "red",
        "size": 3,
        "nothing": None,
    }
    found, ignored = TABLE.read(body)
    assert found.parts == [Inner(1), Other("y")]
    assert sorted(ignored) == ["colour", "parts[].c", "parts[].cache", "size"]


def test_strict_refuses_what_would_be_reported() -> None:
    with pytest.raises(Refused, match="colour: there is none") as caught:
        TABLE.read({"name": "x", "colour": "red"}, strict=True)
    assert caught.value.param == "colour"
    TABLE.read({"name": "x", "colour": None}, strict=True)


def test_refused_fields_may_be_sent_when_they_ask_for_nothing() -> None:
    for nothing in (None, False, "", [], {}):
        assert TABLE.read({"name": "x", "sound": nothing})[1] == ()
    with pytest.raises(Refused, match="sound: not supported: there is none"):
        TABLE.read({"name": "x", "sound": 1})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 1}, "name"),
        ({"name": "x", "count": "3"}, "count"),
        ({"name": "x", "count": True}, "count"),
        ({"name": "x", "count": 1.5}, "count"),
        ({"name": "x", "parts": [{"type": "inner", "a": "1"}]}, "parts[0].a"),
        ({"name": "x", "parts": [{"type": "sound"}]}, "parts[0]"),
        ({"name": "x", "parts": 3}, "parts"),
    ],
)
def test_a_wrong_type_names_its_field(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        TABLE.read(body)
    assert caught.value.param.startswith(param)
    assert str(caught.value).startswith(caught.value.param)


def test_names_of_fields_cannot_break_a_header() -> None:
    assert told(()) == {}
    found = told(["a", " ", "b\r\nset-cookie: x", "\u0100c", "d" * 1000, *(["e"] * 1000)])["x-herd-ignored"]
    assert found.startswith("a, ?, bset-cookie:x, c, ddd")
    assert "\r" not in found
    assert "\n" not in found
    assert len(found) < 300
