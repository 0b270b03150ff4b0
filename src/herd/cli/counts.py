"""What somebody types for a count or a number: options of these types say what is wrong with it."""

from math import isfinite
from typing import Any

import click


class Size(click.ParamType[int]):
    """A count: 8192, 8k (8000), 8K (8192), 1.5M."""

    name = "count"
    FACTORS = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}  # noqa: RUF012 (a click type is never changed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read what someone typed."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        factor = self.FACTORS.get(text[-1:], 1)
        try:
            number = float(text[:-1] if factor > 1 else text) * factor
            if number < 1 or number != int(number):
                raise ValueError
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a count like 8192, 8k (8000) or 8K (8192)", param, ctx)
        return int(number)


class FiniteRange(click.FloatRange):
    """A number within bounds; what is no number lies in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read what someone typed."""
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}", param, ctx)
        return number


class ContextSize(click.ParamType[int | str]):
    """A count of tokens, or auto."""

    name = "count|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Read what someone typed."""
        if value == "auto":
            return "auto"
        try:
            return Size().convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message}, or auto", param, ctx)
