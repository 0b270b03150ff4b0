"""Speeds that others measured, beside the table of machines: none is above what the named machine can do at best.

So a slip of the table by two shows (a link both ways, sparse operations, one card for two), as does one of a speed.
"""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from herd.planning.machine_rows import CardRow, ProcessorRow, UnifiedRow, machine_rows

PUBLISHED = tomllib.loads((Path(__file__).parents[2] / "benchmarks/data/published.toml").read_text())
ROWS = PUBLISHED["speed"]
ACTIVE = {"scout": 16.13e9, "maverick": 16.13e9, "llama3-8b": 7.50e9, "llama3-70b": 69.5e9}
"""Weights that a token multiplies with, the input table left out."""
ROUTED = {"scout": 6.04e9, "maverick": 3.02e9}
"""Of these, weights of routed experts: 48 or 24 layers of 3 x 5120 x 8192."""
OPTIONAL = {"card", "cards", "processor", "unified", "memory_gib", "answer", "users", "unsure", "note"}
NEEDED = {"model", "form", "bits", "kind", "context", "tokens_s", "engine", "source", "date"}


def machine(row: dict[str, Any]) -> CardRow | ProcessorRow | UnifiedRow:
    """Where a token's weights are read, but for the routed experts of a card with a processor."""
    rows = machine_rows()
    if "card" in row:
        return rows.cards[row["card"]]
    return rows.processors[row["processor"]] if "processor" in row else rows.unified[row["unified"]]


def name(row: dict[str, Any]) -> str:
    where = "+".join(str(row[key]) for key in ("card", "processor", "unified") if key in row)
    return f"{row['kind']}-{row['model']}-{row['form']}-{where}".replace(" ", "")


def test_there_are_fifteen_machines_and_every_row_has_its_source() -> None:
    assert len({tuple(row.get(key) for key in ("card", "cards", "processor", "unified")) for row in ROWS}) >= 15
    for row in ROWS:
        assert row.keys() >= NEEDED and row.keys() <= NEEDED | OPTIONAL, row
        assert row["source"] in PUBLISHED["sources"] and row["date"][:2] == "20", row
        assert not row.get("unsure") or row["note"], row


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_no_published_speed_is_above_what_its_machine_can_do(row: dict[str, Any]) -> None:
    where, cards, weights = machine(row), row.get("cards", 1), ACTIVE[row["model"]]
    if row["kind"] == "decode":
        routed = ROUTED[row["model"]] if {"card", "processor"} <= row.keys() else 0.0
        seconds = (weights - routed) * row["bits"] / 8 / where.read_bytes_s
        if routed:
            seconds += routed * row["bits"] / 8 / machine_rows().processors[row["processor"]].read_bytes_s
        assert 0.25 < row["tokens_s"] * seconds < 1
        return
    tokens = row["tokens_s"] * (1 + row["context"] / row["answer"] if row["kind"] == "throughput" else 1)
    operations = where.int8_ops_s if isinstance(where, CardRow | ProcessorRow) else where.bf16_ops_s
    narrow = 2 if "FP4" in row["form"] else 1
    assert 0 < 2 * weights * tokens / (operations * narrow * cards) < 1
