"""What is counted in JSON of strangers, against counts over what Python's parser makes of it."""

import json
from random import Random
from typing import Any, NoReturn

import pytest

from herd.strict_json import excess, first_twice, unique


def made(rng: Random, depth: int) -> Any:
    """A value with every kind of character in its strings."""
    text = "".join(rng.choices('"\\[]{},:a\n\N{GRINNING FACE}', k=rng.randrange(6)))
    if depth == 0 or rng.random() < 0.3:
        return rng.choice([text, 1, -2.5, None, True])
    inside = [made(rng, depth - 1) for _ in range(rng.randrange(4))]
    return inside if rng.random() < 0.5 else {f"{text}{i}": value for i, value in enumerate(inside)}


def measured(value: Any) -> tuple[int, int]:
    """(levels, commas and colons) of a value."""
    if not isinstance(value, list | dict):
        return 0, 0
    inside = [measured(v) for v in (value if isinstance(value, list) else value.values())]
    separators = max(len(inside) - 1, 0) + (len(inside) if isinstance(value, dict) else 0)
    return 1 + max((d for d, _ in inside), default=0), separators + sum(n for _, n in inside)


@pytest.mark.parametrize("seed", range(50))
def test_depth_and_values_are_those_of_the_parsed_text(seed: int) -> None:
    value = [made(Random(seed), 5)]
    data = json.dumps(value, ensure_ascii=bool(seed % 2)).encode()
    depth, values = measured(value)
    assert excess(data, depth=depth, values=values) is None
    assert excess(data, depth=depth - 1, values=values) == "deeper nesting"
    assert values == 0 or excess(data, depth=depth, values=values - 1) == "more values"


def test_a_string_without_end_ends_the_count() -> None:
    assert excess(b'[1, "' + b"[,:" * 100, depth=1, values=1) is None
    assert excess(b'"' + b'\\"' * 100 + b"[" * 100, depth=1, values=1) is None


def test_the_first_name_that_has_stood_before_is_told() -> None:
    assert first_twice("abcbca") == "b"
    assert first_twice("abc") is None

    def refuse(name: str) -> NoReturn:
        raise KeyError(name)

    hook = unique(refuse)
    assert json.loads('{"a": {"a": 1}, "b": 2}', object_pairs_hook=hook) == {"a": {"a": 1}, "b": 2}
    with pytest.raises(KeyError, match="c"):
        json.loads('{"a": {"b": 1, "c": 2, "c": 3}}', object_pairs_hook=hook)
