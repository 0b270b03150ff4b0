"""Bodies: what is JSON within limits, and every way of not being it."""

import json

import pytest

from herd.errors import UsageError
from herd.server.http.body import parse
from herd.server.limits import Limits

LIMITS = Limits(json_values=1000)

BAD = {
    "nothing": b"",
    "white space": b"  \n",
    "cut": b'{"a": 1',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-8 of a surrogate": b'{"a": "\xed\xa0\x80"}',
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "lone surrogate": rb'{"a": "\ud800"}',
    "lone surrogate as a key": rb'{"\udc00": 1}',
    "surrogates the wrong way round": rb'{"a": ["\udc00\ud800"]}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "beyond a double": b'{"a": 1e999}',
    "a million digits": b'{"a": ' + b"1" * 1_000_000 + b"}",
    "a million digits after the point": b'{"a": 0.' + b"1" * 1_000_000 + b"}",
    "the same key twice": b'{"a": 1, "a": 2}',
    "the same key twice, inside": b'{"a": [{"b": 1, "c": 2, "b": 1}]}',
    "lists in lists": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "opened only": b"[" * 1_000_000,
    "many keys": json.dumps({str(i): i for i in range(100_000)}).encode(),
    "many elements": b"[" + b"1," * 100_000 + b"1]",
    "NUL": b'{"a": "\x00"}',
    "single quotes": b"{'a': 1}",
    "a comment": b'{"a": 1} // b',
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_json_within_limits_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(BAD[name], LIMITS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_brackets_and_commas_in_strings_do_not_count() -> None:
    text = {"a": '[[{{",\\"' * 10_000, "b": "\\"}
    assert parse(json.dumps(text).encode(), LIMITS) == text


def test_whole_characters_beyond_the_basic_plane_pass() -> None:
    assert parse(rb'{"a": "\ud83d\ude00"}', LIMITS) == {"a": "\N{GRINNING FACE}"}
    assert parse('{"\N{GRINNING FACE}": 1}'.encode(), LIMITS) == {"\N{GRINNING FACE}": 1}


def test_nesting_and_values_at_their_limits_pass() -> None:
    deep = b"[" * LIMITS.json_depth + b"]" * LIMITS.json_depth
    assert isinstance(parse(deep, LIMITS), list)
    with pytest.raises(UsageError, match="nest"):
        parse(b"[" + deep + b"]", LIMITS)
    wide = b"[" + b"1," * LIMITS.json_values + b"1]"
    assert len(parse(wide, LIMITS)) == LIMITS.json_values + 1
    with pytest.raises(UsageError, match="values"):
        parse(b"[1," + wide[1:], LIMITS)
