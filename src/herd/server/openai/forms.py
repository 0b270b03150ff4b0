"""What an answer must be, in all the ways in which OpenAI's clients ask for it: `response_format`, and the fields by
which vLLM and llama.cpp are asked.

Nothing here compiles a grammar; the model does, where it can be stopped.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from herd.grammars import Grammar, Kind
from herd.server.requests.fields import Refused

Schema: TypeAlias = dict[str, Any] | str
"""As an object, or as its JSON text."""


class PlainText(msgspec.Struct, tag_field="type", tag="text"):
    """No form is asked for."""


class JsonObject(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object, or one of a schema, as llama.cpp and Together have it."""

    schema: dict[str, Any] | None = None


class NamedSchema(msgspec.Struct):
    """A schema and what it is called."""

    name: str
    schema: dict[str, Any] = {}
    description: str | None = None
    strict: bool | None = None
    """Schemas are enforced either way."""


class JsonSchema(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON of a schema."""

    json_schema: NamedSchema


ResponseFormat: TypeAlias = PlainText | JsonObject | JsonSchema


class StructuredOutputs(msgspec.Struct, kw_only=True):
    """vLLM's field; one of these."""

    json: Schema | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class FormFields(msgspec.Struct, kw_only=True):
    """Fields that say what the answer must be; one of them at most. Empty ones say nothing."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    """Lark, in llguidance's dialect."""
    json_schema: Schema | None = None
    """llama.cpp's and SGLang's."""


ONE_LINE = "JSON is written on one line, with at most one space between its parts"
REFUSED_FORMS = {
    "structured_outputs.structural_tag": "see tools",
    "structured_outputs.whitespace_pattern": ONE_LINE,
    "structured_outputs.disable_any_whitespace": ONE_LINE,
    "structured_outputs.disable_additional_properties": 'write "additionalProperties": false into the schema',
    **dict.fromkeys(("response_format.schema", "response_format.json_schema"), "its type is another; say json_schema"),
    **dict.fromkeys(("response_format.value", "response_format.grammar"), "say json_schema, or see guided_grammar"),
}
"""Members of these fields that ask for what is not done."""
USE = "use response_format, or guided_json, guided_regex, guided_choice or guided_grammar (Lark)"


class Form(NamedTuple):
    """What an answer must be: a schema (True: any JSON object), or a grammar."""

    schema: Mapping[str, Any] | bool | None = None
    grammar: Grammar | None = None


def without_empty(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A body without a response_format that is an empty object, which says nothing."""
    return body if body.get("response_format") != {} else {k: v for k, v in body.items() if k != "response_format"}


def form_of(asked: FormFields) -> Form:
    """What the answer must be. Raises Refused for two at once, UsageError for what is too long."""
    found = {name: form for name, form in _forms(asked).items() if form is not None}
    first, *more = found or [""]
    if more:
        raise Refused(f"{more[0]}: got it beside {first}; give one of them", more[0])
    return found.get(first) or Form()


def _forms(asked: FormFields) -> dict[str, Form | None]:
    """What each field asks for."""
    inner = asked.structured_outputs or StructuredOutputs()
    return {
        "response_format": _of_format(asked.response_format),
        "json_schema": _of_schema(asked.json_schema),
        "guided_json": _of_schema(asked.guided_json),
        "guided_regex": _of_text("regex", asked.guided_regex),
        "guided_choice": _of_choice(asked.guided_choice),
        "guided_grammar": _of_text("lark", asked.guided_grammar),
        "structured_outputs.json": _of_schema(inner.json),
        "structured_outputs.json_object": Form(schema=True) if inner.json_object else None,
        "structured_outputs.regex": _of_text("regex", inner.regex),
        "structured_outputs.choice": _of_choice(inner.choice),
        "structured_outputs.grammar": _of_text("lark", inner.grammar),
    }


def _of_format(form: ResponseFormat | None) -> Form | None:
    match form:
        case JsonObject(schema):
            return Form(schema=schema or True)
        case JsonSchema(named):
            return Form(schema=named.schema)
    return None


def _of_schema(schema: Schema | None) -> Form | None:
    return _of_text("schema", schema) if isinstance(schema, str) else Form(schema=schema) if schema else None


def _of_text(kind: Kind, text: str | None) -> Form | None:
    return Form(grammar=Grammar(kind, text)) if text else None


def _of_choice(texts: list[str] | None) -> Form | None:
    """The form of an answer that is one of these texts."""
    return _of_text("lark", "start: " + " | ".join(json.dumps(x, ensure_ascii=False) for x in texts)) if texts else None
