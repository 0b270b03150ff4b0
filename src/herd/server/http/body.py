"""Bytes of a request -> JSON within limits -> a typed request.

One parser decides (Python's own, with hooks): a second one could disagree about what a body says. Before it runs, a
scan bounds nesting and the number of values, so that no body costs more than its share.
"""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from herd import strict_json
from herd.errors import TimedOut, TooLarge, UsageError, fail
from herd.server.http.long_strings import LongStrings
from herd.server.limits import Limits

MOST_DIGITS = 400
"""Most digits of one number: more than a double can tell apart, fewer than would be slow to read."""
SLOWEST = 16 << 10
"""Bytes a second: a body that comes more slowly, after its first seconds, holds a connection for nothing."""
_STEP = 1 << 20
SURROGATE = re.compile(r"[\ud800-\udfff]")


async def read_body(
    request: Request, limits: Limits, hold: Callable[[int], None], *, media: bool = False, most: int | None = None
) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece. hold: reserves memory before any of it is kept: for the declared length,
    else as it comes. most: the most bytes; None: those of any body.

    Raises TooLarge early (declared size, then as it comes), TimedOut for a body that does not come, what `hold` raises.
    """
    if most is None:
        most = limits.media_body_bytes if media else limits.body_bytes
    declared = _declared(request)
    if declared > most:
        _too_large(str(declared), most)
    hold(declared)
    size = 0
    stream = request.stream().__aiter__()
    begun_s = time.monotonic()
    while True:
        left_s = begun_s + limits.body_timeout_s + size / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 0.001)):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            expected = f"{SLOWEST} bytes a second after {limits.body_timeout_s} s"
            fail(TimedOut, "body", got=f"{size} bytes in {time.monotonic() - begun_s:.0f} s", expected=expected)
        except ClientDisconnect:
            fail(UsageError, "body", got="a closed connection", expected="the rest of the body")
        size += len(piece)
        if size > most:
            _too_large(f"more than {most}", most)
        if size > declared:
            hold(min(len(piece), size - declared))
        yield piece


def values_of(piece: bytes) -> int:
    """The most values that a part of a JSON text can hold."""
    return piece.count(b",") + piece.count(b":") + piece.count(b"[") + piece.count(b"{")


def _declared(request: Request) -> int:
    """The content length of a request's header; 0 without one. h11 has refused what is no number."""
    given = request.headers.get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0


def _too_large(got: str, most: int) -> NoReturn:
    fail(TooLarge, "body", got=f"{got} bytes", expected=f"at most {most}")


def read_object(data: bytes, limits: Limits) -> dict[str, Any]:
    """The body as a JSON object. Raises UsageError when it is none.

    The content type is not looked at: curl's default is a form's.
    """
    found = parse(data, limits)
    if not isinstance(found, dict):
        fail(UsageError, "body", got=_kind(found), expected="a JSON object")
    return found


def parse(data: bytes, limits: Limits) -> Any:
    """Parse the JSON of a body: no duplicate keys, no NaN, no lone surrogates, nesting and values within limits.

    Raises UsageError.
    """
    escapes = _scan(data, limits)
    strings = LongStrings(data)
    if len(strings.text) > limits.body_bytes:
        _too_large(f"{len(strings.text)} bytes beside images", limits.body_bytes)
    try:
        text = strings.text.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(
            UsageError,
            "body",
            got=f"bytes that are not UTF-8 at {strings.position(error.start)}",
            expected="JSON in UTF-8",
        )
    try:
        found = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        what = "nothing" if not text.strip() else f"{error.msg} at byte {strings.position(_bytes(text, error.pos))}"
        fail(UsageError, "body", got=what, expected="a JSON object")
    except RecursionError:
        fail(UsageError, "body", got="nesting beyond the parser's", expected=f"at most {limits.json_depth} levels")
    if escapes:  # only an escape can write half a character
        _check_surrogates(found)
    return strings.put_back(found)


def _bytes(text: str, end: int) -> int:
    """Number of UTF-8 bytes of the first `end` characters."""
    return sum(len(text[at : min(at + _STEP, end)].encode()) for at in range(0, end, _STEP))


def _scan(data: bytes, limits: Limits) -> int:
    """Number of backslashes. Raises UsageError for nesting or numbers of values beyond the limits, before anything is
    built."""
    most = {"deeper nesting": f"{limits.json_depth} levels", "more values": f"{limits.json_values}"}
    escapes = strict_json.count(data, b"\\")
    if escapes > limits.json_escapes:
        fail(UsageError, "body", got="more backslashes", expected=f"at most {limits.json_escapes}")
    found = strict_json.excess(data, depth=limits.json_depth, values=limits.json_values)
    if found is not None:
        fail(UsageError, "body", got=found, expected=f"at most {most[found]}")
    return escapes


def _twice(name: str) -> NoReturn:
    fail(UsageError, "body", got=f"twice the field {name!r}", expected="each field once")


def _constant(name: str) -> NoReturn:
    fail(UsageError, "body", got=name, expected="JSON, which has no such number")


def _number(text: str) -> str:
    if len(text) > MOST_DIGITS:
        fail(UsageError, "body", got=f"a number of {len(text)} digits", expected=f"at most {MOST_DIGITS}")
    return text


def _float(text: str) -> float:
    found = float(_number(text))
    if found in (float("inf"), float("-inf")):
        fail(UsageError, "body", got=f"{text}, beyond any number here", expected="a number below 1.8e308")
    return found


_DECODER = json.JSONDecoder(
    object_pairs_hook=strict_json.unique(_twice),
    parse_constant=_constant,
    parse_int=lambda text: int(_number(text)),
    parse_float=_float,
)


def _check_surrogates(found: Any) -> None:
    stack = [found]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            if SURROGATE.search(value):
                fail(UsageError, "body", got="half of a surrogate pair", expected="whole characters")
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, dict):
            stack += value.keys()
            stack += value.values()


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
