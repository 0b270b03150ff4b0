"""Counts as somebody types them. Apart from `options`, which knows the engine: a plan needs none of it."""

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
