"""What tokens that were read and made here would have cost at hosts: of the same model, or, where none has it, of Scout
and of models of other makers.

What it is not: what they cost here (`cost`). No host is taken to have kept what prompts have in common, though some
charge less for what they have.
"""

import datetime
from collections.abc import Collection
from typing import NamedTuple

from herd.planning.prices import Price, Prices

OTHERS = ("scout",)
"""Models of the table that others are compared with: the cheapest row of each, and the cheapest that has batches."""


class HostedTokens(NamedTuple):
    """So many tokens at one host."""

    price: Price
    dollars: float
    batch_dollars: float | None
    """Dollars in a batch there; None: the host has none, or does not say."""

    @property
    def least(self) -> float:
        """The less of both."""
        return self.dollars if self.batch_dollars is None else self.batch_dollars


def hosted_tokens(
    names: Collection[str], prices: Prices, today: datetime.date, prompt_tokens: int, output_tokens: int
) -> list[HostedTokens]:
    """What tokens cost at hosts that have the model and have not ended it, the cheapest first. names: what a price
    table may call the model."""
    alive = [row for row in prices if not row.has_ended(today)]
    rows = [row for row in alive if row.model.lower() in names or row.id.lower() in names]
    if not rows:
        known = {row.model for row in alive if row.model in ("scout", "maverick", "guard")}
        rows = [row for row in alive if row.model not in known]
        for name in OTHERS:
            same = [row for row in alive if row.model == name]
            rows += sorted(same, key=lambda row: row.dollars(prompt_tokens, output_tokens))[:1]
            in_batches = [row for row in same if row.batch is not None and row not in rows]
            rows += sorted(in_batches, key=lambda row: row.dollars(prompt_tokens, output_tokens))[:1]
    found = []
    for row in rows:
        dollars = row.dollars(prompt_tokens, output_tokens)
        found.append(HostedTokens(row, dollars, None if row.batch is None else row.batch * dollars))
    return sorted(found, key=lambda one: one.least)
