"""Values that callers give, checked by type and range; each refusal is one line that names the value.

What it is not: a check against a model (`engine.request_checks`).
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np

from herd.errors import ContextTooLong, UsageError, fail

MAX_ID = 1 << 24
NAME = 64
"""Characters of an unknown name that are compared with the known ones."""
MAX_IDS = 1 << 28
"""Ids that one call may give, so that no `range` is written out without end; a context holds far fewer."""


def shown(value: object) -> object:
    """As `fail` should tell it: of None it would tell nothing."""
    return "null" if value is None else value


def whole(name: str, value: object, low: int, high: int) -> None:
    """Raise UsageError unless it is a whole number from low to high; True is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        fail(UsageError, name, got=shown(value), expected=f"a whole number from {low} to {high}")


def number(name: str, value: object, low: float, high: float) -> None:
    """Raise UsageError unless it is a number from low to high."""
    # NaN compares false
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        fail(UsageError, name, got=shown(value), expected=f"a number from {low:g} to {high:g}")


def flag(name: str, value: object) -> None:
    """Raise UsageError unless it is True or False."""
    if not isinstance(value, bool):
        fail(UsageError, name, got=shown(value), expected="true or false")


def text(name: str, value: object) -> None:
    """Raise UsageError unless it is a text that UTF-8 can write."""
    if not isinstance(value, str):
        fail(UsageError, name, got=shown(value), expected="a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        fail(UsageError, name, got="a lone surrogate", expected="a text")


def many(name: str, value: Any) -> Sequence[Any]:
    """A list of something, or another sequence. Raises UsageError for a text, bytes, and what is none."""
    if isinstance(value, str | bytes | bytearray | memoryview | range) or not isinstance(value, Sequence):
        fail(UsageError, name, got=type(value).__name__, expected="a list")
    return value


def known(what: str, given: Iterable[object], names: Collection[str]) -> None:
    """Raise UsageError for the first name that is none of `names`, with the nearest of them and all."""
    unknown = [name for name in given if name not in names]
    if unknown:
        near = nearest(unknown[0], names)
        do = f"did you mean {near}?" if near else ""
        expected = "one of " + ", ".join(names) if names else "none"
        fail(UsageError, what, got=shown(unknown[0]), expected=expected, do=do)


def nearest(name: object, names: Collection[str]) -> str | None:
    """The known name that a name most likely stands for, where one is near."""
    from difflib import get_close_matches  # wrong names alone need it

    near = get_close_matches(name[:NAME], names, n=1) if isinstance(name, str) else []
    return near[0] if near else None


class KnownFields(msgspec.StructMeta):
    """The type of structs that callers make: an unknown field raises UsageError, as a wrong value does."""

    if not TYPE_CHECKING:  # checkers know the fields themselves

        def __call__(self, *values: Any, **fields: Any) -> Any:
            """A struct of these fields."""
            known(f"field of {self.__name__}", fields, self.__struct_fields__)
            return super().__call__(*values, **fields)


def token_ids(name: str, ids: Any, vocab_size: int, most: int = MAX_IDS) -> list[int]:
    """Ids as plain numbers, of a sequence or a one-dimensional array of whole numbers.

    Raises UsageError for another type, for more than `most`, and for what is no id from 0 to vocab_size - 1.
    """
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu":
        ids = ids.tolist() if len(ids) <= most else range(len(ids))
    if isinstance(ids, str | bytes | bytearray | memoryview) or not isinstance(ids, Sequence):
        fail(UsageError, name, got=type(ids).__name__, expected="a list of token ids")
    if len(ids) > most:
        fail(UsageError, name, got=f"{len(ids)} ids", expected=f"at most {most}")
    found = [i if type(i) is int else _plain(name, i) for i in ids]
    if found and (min(found) < 0 or max(found) >= vocab_size):
        wrong = next(i for i in found if not 0 <= i < vocab_size)
        fail(UsageError, name, got=f"id {_brief(wrong)}", expected=f"ids from 0 to {vocab_size - 1}")
    return found


def too_long(what: str) -> NoReturn:
    """Raise ContextTooLong: what is longer than what, in a half sentence with both counts."""
    fail(ContextTooLong, what, do="shorten it, or load the model with a larger context")


def _plain(name: str, token_id: object) -> int:
    """One that is not written as a plain number."""
    if isinstance(token_id, bool) or not isinstance(token_id, int | np.integer):
        fail(UsageError, name, got=shown(token_id), expected="whole numbers, one a token")
    return int(token_id)


def _brief(number: int) -> str:
    return str(number) if abs(number) < 1 << 64 else f"a number of {number.bit_length()} bits"
