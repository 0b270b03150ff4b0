"""Answers that fit a schema, and what they become."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from speaking import saying

from herd.errors import UsageError
from herd.llm import Message, Reply

TEXT = '{"city": "Rome", "degrees": 12}'
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
    "required": ["city", "degrees"],
    "additionalProperties": False,
}


@dataclass
class Plain:
    city: str
    degrees: int


class Struct(msgspec.Struct):
    city: str
    degrees: int


class Chosen(msgspec.Struct):
    """Its own check is one that no schema says."""

    city: str
    degrees: int

    def __post_init__(self) -> None:
        if self.degrees < 20:
            raise ValueError("too cold")


class Pydantic:
    """What a pydantic model looks like from outside."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pydantic) and self.values == other.values

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return SCHEMA

    @classmethod
    def model_validate_json(cls, text: str) -> "Pydantic":
        return cls(**json.loads(text))


@pytest.mark.parametrize(
    ("schema", "parsed"),
    [
        (True, {"city": "Rome", "degrees": 12}),
        (SCHEMA, {"city": "Rome", "degrees": 12}),
        (Plain, Plain("Rome", 12)),
        (Struct, Struct("Rome", 12)),
        (Pydantic, Pydantic(city="Rome", degrees=12)),
        (Chosen, None),
        (None, None),
        (False, None),
    ],
)
def test_a_reply_is_what_its_schema_makes_of_it(schema: Any, parsed: Any) -> None:
    llm = saying(TEXT)
    reply = llm.chat("weather?", schema=schema)
    assert (reply.text, reply.finish_reason, reply.parsed) == (TEXT, "stop", parsed)
    assert asyncio.run(llm.achat("weather?", schema=schema)).parsed == parsed
    assert [r.parsed for r in llm.chat_samples("weather?", 2, schema=schema)] == [parsed] * 2
    assert Reply.from_dict(json.loads(json.dumps(reply.to_dict()))) == reply


def test_a_model_that_would_say_something_else_is_held_to_its_schema() -> None:
    reply = saying("Sure! It is 12 degrees.").chat("weather?", schema={"enum": ["warm", "cold"]}, max_tokens=20)
    assert reply.parsed in ("warm", "cold")
    assert json.loads(reply.text) == reply.parsed


def test_what_is_cut_is_not_parsed() -> None:
    llm = saying(TEXT)
    short = llm.chat("weather?", schema=Plain, max_tokens=10)
    assert (short.finish_reason, short.parsed) == ("length", None)
    # `[12` is no JSON; and even if it were: a stop string cut it
    cut = saying("[12]").chat("numbers?", schema={"type": "array"}, stop=["]"])
    assert (cut.finish_reason, cut.stop, cut.parsed) == ("stop", "]", None)


class Censor:
    """A policy that replaces the whole reply."""

    hold_tokens = 0

    def before(self, messages: "list[Message]") -> None:
        return None

    def window(self, text: str, shown: int) -> None:
        return None

    def after(self, reply: Reply) -> str:
        return "{}"


def test_what_a_policy_put_in_its_place_is_not_parsed() -> None:
    reply = saying(TEXT).chat("weather?", schema=True, policy=Censor())  # type: ignore[arg-type]
    assert (reply.text, reply.finish_reason, reply.parsed) == ("{}", "policy", None)


@pytest.mark.parametrize("schema", [5, "json", object()])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(UsageError, match="schema: got"):
        saying(TEXT).chat("weather?", schema=schema)


class Broken:
    """As pydantic refuses a type that no schema says."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        raise RuntimeError("Cannot generate a JsonSchema\nfor a callable")


def test_a_type_that_has_no_schema_is_refused_in_one_line_with_the_reason() -> None:
    absent = dataclass(type("Absent", (), {"__annotations__": {"city": "Nowhere"}, "__module__": __name__}))
    for schema, why in ((Broken, "for a callable"), (absent, "name 'Nowhere' is not defined")):
        for ask in (saying(TEXT).chat, saying(TEXT).complete):
            with pytest.raises(UsageError, match=rf"^schema: got <class '.*'> \({why}\), expected True") as error:
                ask("x", schema=schema)  # type: ignore[operator]
            assert "\n" not in str(error.value)


def test_what_is_not_all_of_a_policy_is_refused() -> None:
    class Half:
        before = window = after = print

    with pytest.raises(UsageError, match="policy: got Half, expected a Policy"):
        saying(TEXT).chat("x", policy=Half())  # type: ignore[typeddict-item]
