"""Tables of fields: nothing is dropped in silence."""

import math
from typing import Any

import msgspec
import pytest
from places import HOLE, bodies

from herd.server.requests.fields import MINUS_ONE, STOPS, FieldTable, Refused, told
from herd.server.tables import TABLES


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


# -- what clients write for the same: every field of every table ------------------------------------------------------


def filled(value: Any, hole: Any) -> Any:
    """A body with something in its hole."""
    if isinstance(value, dict):
        return {hole if key == HOLE else key: filled(one, hole) for key, one in value.items()}
    return [filled(one, hole) for one in value] if isinstance(value, list) else hole if value == HOLE else value


def accepts(table: FieldTable[Any], body: Any, *holes: Any) -> bool:
    """Whether a body is read with each of these in its hole."""
    try:
        return all(table.read(filled(body, hole)) for hole in holes)
    except Refused:
        return False


PLACES = [(table, path, body) for table in TABLES.values() for path, body in bodies(table) if path != HOLE]
NUMBERS = [one for one in PLACES if accepts(one[0], one[2], 4) and not accepts(one[0], one[2], "x")]


def name_of(path: str) -> str:
    return path.rpartition(".")[2].removesuffix("[]")


def test_each_number_is_the_same_with_a_fraction_of_nothing() -> None:
    assert {
        "max_tokens",
        "num_predict",
        "n",
        "top_k",
        "seed",
        "dimensions",
        "tokens",
        "top_logprobs",
        "stop_token_ids",
    } <= {name_of(path) for _, path, _ in NUMBERS}
    assert len(NUMBERS) > 60
    for table, path, body in NUMBERS:
        plain, float_ = (table.read(filled(body, number))[0] for number in (4, 4.0))
        assert repr(float_) == repr(plain), (table.name, path)


def test_a_fraction_and_what_nobody_counts_with_are_no_whole_numbers() -> None:
    whole = [one for one in NUMBERS if not accepts(one[0], one[2], 4.5)]
    assert len(whole) > 30
    for table, path, body in whole:
        for number in (-4.5, 1e300, -1e300, 2.0**63, math.inf, math.nan, True, "4", "4.0"):
            assert not accepts(table, body, number), (table.name, path, number)


def test_an_empty_string_stops_nothing() -> None:
    texts = [one for one in PLACES if accepts(one[0], one[2], ["x"]) and not accepts(one[0], one[2], 4, "x", {})]
    stops = [one for one in texts if "stop" in name_of(one[1]) and "[]" not in one[1]]
    assert {name_of(path) for _, path, _ in stops} == {*STOPS}
    assert {table.name for table, _, _ in stops} >= {
        *("POST /v1/chat/completions", "POST /v1/completions", "POST /api/chat", "POST /api/generate"),
        *("POST /v1/messages", "POST /api/create"),
    }
    for table, _, body in stops:
        nothing, some = (table.read(filled(body, hole))[0] for hole in (None, ["x", "y"]))
        assert table.read(filled(body, ""))[0] == nothing
        assert table.read(filled(body, ["x", "", "y", ""]))[0] == some
        assert table.read(filled(body, [""]))[0] == table.read(filled(body, []))[0]


def test_minus_one_stands_for_nothing_in_limits_and_seeds() -> None:
    found = [one for one in NUMBERS if name_of(one[1]) in MINUS_ONE]
    assert {name_of(path) for _, path, _ in found} == {*MINUS_ONE}
    alike = ("max_", "num_predict", "num_ctx", "top_k", "seed")
    assert {name_of(path) for _, path, _ in NUMBERS if name_of(path).startswith(alike)} == {*MINUS_ONE}
    for table, path, body in found:
        none = 0 if name_of(path) == "top_k" else None  # a model may recommend another than none
        nothing = table.read(filled(body, none))[0]
        for number in (-1, -1.0):
            assert table.read(filled(body, number))[0] == nothing, (table.name, path)
