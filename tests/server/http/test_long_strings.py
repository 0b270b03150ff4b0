"""Long strings of a body are set aside before it is parsed: what is parsed is the same, and so are its errors."""

import json
import random

import pytest

from herd.errors import TooLarge, UsageError
from herd.server.http.body import parse
from herd.server.http.long_strings import LONG, LongStrings
from herd.server.limits import Limits

PLAIN = "Ab+/" * (LONG // 4)
FILL = " " * (1 << 20)
"""Makes a body long enough to be looked at."""
LIMITS = Limits(body_bytes=2 << 20)


def body(value: object, **how: object) -> bytes:
    return (json.dumps(value, **how) + FILL).encode()  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [
    PLAIN,
    [PLAIN, PLAIN, "short", 1, None],
    {"a": {"url": "data:image/png;base64," + PLAIN}, "b": [PLAIN + "=", {"c": PLAIN}]},
    {"a": PLAIN + "\U0001f600", "b": PLAIN},
    {"a": PLAIN + '"', "b": "\\" + PLAIN, "c": '"' + PLAIN},
    {PLAIN: 1, PLAIN + "x": PLAIN},
    {"a": "]}{[,:" * LONG},
], ids=range(7))  # fmt: skip
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_is_parsed_is_what_was_sent(value: object, ascii_only: bool) -> None:
    assert parse(body(value, ensure_ascii=ascii_only), LIMITS) == value


def test_any_mix_of_strings_comes_back() -> None:
    chance = random.Random(7)
    alphabets = ("aB0+/= ", 'a"\\', "é漢😀a", "a\n\t")
    for _ in range(20):
        texts = ["".join(chance.choices(chance.choice(alphabets), k=chance.choice((0, 9, LONG - 1, LONG, LONG + 1))))
                 for _ in range(12)]  # fmt: skip
        value = {f"n{i}": [text, {"x": text}] for i, text in enumerate(texts)}
        assert parse(body(value, ensure_ascii=chance.random() < 0.5), Limits()) == value


def test_only_plain_strings_that_are_no_names_are_taken_out() -> None:
    found = LongStrings(body({PLAIN: "x" + PLAIN, "e": PLAIN + "é", "q": PLAIN + '"'}, ensure_ascii=False))
    assert b"x" + PLAIN.encode() not in found.text
    assert PLAIN.encode() + b'"' in found.text and PLAIN.encode() + b"\\" in found.text
    assert PLAIN.encode() + "é".encode() in found.text


def test_nobody_can_name_a_mark_of_another_body() -> None:
    first, second = LongStrings(body([PLAIN])), LongStrings(body([PLAIN]))
    [mark] = json.loads(first.text)
    assert second.put_back([mark]) == [mark] and first.put_back([mark]) == [PLAIN]


def test_text_beside_images_has_the_limit_of_a_body_without_them() -> None:
    assert parse(body(["a" * (LIMITS.body_bytes * 2)]), LIMITS)
    with pytest.raises(TooLarge, match="beside images"):
        parse(body(["é" * LIMITS.body_bytes], ensure_ascii=False), LIMITS)
    with pytest.raises(TooLarge, match="beside images"):
        parse(body([{"content": "a" * 1000}] * (LIMITS.body_bytes // 1000)), LIMITS)


@pytest.mark.parametrize("end", ["", "é"])
def test_errors_name_the_place_in_the_body(end: str) -> None:
    data = json.dumps([end, PLAIN, PLAIN], ensure_ascii=False)[:-1].encode() + b", oops]" + FILL.encode()
    with pytest.raises(UsageError, match=f"at byte {data.index(b'oops')}"):
        parse(data, LIMITS)
    with pytest.raises(UsageError, match=f"not UTF-8 at {data.index(b'oops')}"):
        parse(data.replace(b"oops", b"\xffoops"), LIMITS)


@pytest.mark.parametrize("bad", ["\x00", "\n", "\x1f"])
def test_control_characters_are_still_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="control character"):
        parse(f'["{PLAIN}{bad}{PLAIN}"]'.encode() + FILL.encode(), LIMITS)


def test_a_string_without_an_end_is_refused() -> None:
    for end in ("", "\\", '\\"'):
        with pytest.raises(UsageError, match="Unterminated string"):
            parse(FILL.encode() + b'["' + PLAIN.encode() + end.encode(), LIMITS)
