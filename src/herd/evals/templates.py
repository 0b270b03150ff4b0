"""Prompts out of items: {fields} of a template filled in, and worked examples before them.

What it is not: a language. A template has names of fields in braces, and nothing else; {{ and }} are braces.
"""

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from herd.errors import BadFile, fail

Item = Mapping[str, Any]


def parts(template: str) -> list[tuple[str, str | None]]:
    """(text, the field after it) of a template. Raises BadFile for what is more than a field's name."""
    found = []
    try:
        for text, name, spec, conversion in Formatter().parse(template):
            if name is not None and (spec or conversion or not name.isidentifier()):
                fail(BadFile, "prompt", got="{" + name + "}", expected="names of fields in braces; {{ is a brace")
            found.append((text, name))
    except ValueError as error:
        if isinstance(error, BadFile):
            raise
        fail(BadFile, "prompt", got=str(error), expected="names of fields in braces; {{ is a brace")
    return found


def filled(template: str, item: Item) -> str:
    """A template with an item's texts and numbers in their places. Raises BadFile for a field that it has not."""
    told = []
    for text, name in parts(template):
        told.append(text)
        if name is not None:
            value = item.get(name)
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                fail(BadFile, f"field {name}", got=value, expected="a text or a number, as the prompt needs it")
            told.append(str(value))
    return "".join(told)


def answers(item: Item) -> list[str]:
    """The texts that answer an item: one, or some of which each does."""
    given = item["answer"]
    return [str(one) for one in given] if isinstance(given, list) else [str(given)]


def turns(system: str, template: str, shots: Sequence[Item], item: Item) -> list[dict[str, str]]:
    """An item as a dialog, after worked examples."""
    found = [{"role": "system", "content": system}] if system else []
    for shot in shots:
        found.append({"role": "user", "content": filled(template, shot)})
        found.append({"role": "assistant", "content": answers(shot)[0]})
    return [*found, {"role": "user", "content": filled(template, item)}]


def choices(template: str, separator: str, shots: Sequence[Item], item: Item) -> list[tuple[str, str]]:
    """(prompt, continuation) of each choice of an item, after worked examples."""
    before = [filled(template, shot) + separator + shot["choices"][shot["answer"]] for shot in shots]
    prompt = "\n\n".join([*before, filled(template, item)])
    return [(prompt, separator + choice) for choice in item["choices"]]
