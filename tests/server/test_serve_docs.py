"""docs/serve.md says of every route's fields what the tables say, and names every metric. Run this file to write it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from herd.server.metrics import Metrics
from herd.server.requests.fields import FieldTable
from herd.server.tables import TABLES

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
BLOCK = re.compile(r"(<!-- (fields|metrics): [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)


def fields() -> str:
    """A section a route."""
    return "\n".join(line for table in TABLES.values() for line in (f"### {table.name}", "", *lines_of(table), ""))


def lines_of(table: FieldTable[Any]) -> Iterator[str]:
    """What is honoured, reported and refused; fields with one reason together."""
    rows = list(table.rows())
    yield "- honoured: " + names(name for name, what, _ in rows if what == "honoured")
    for fate in ("reported", "refused"):
        reasons: dict[str, list[str]] = {}
        for name, what, why in rows:
            if what == fate:
                reasons.setdefault(why, []).append(name)
        if reasons:
            yield f"- {fate}: " + "; ".join(f"{names(of)} ({why})" for why, of in reasons.items())


def names(of: Any) -> str:
    return ", ".join(f"`{name}`" for name in of)


def metrics() -> str:
    """A row a metric, by the name that Prometheus is told."""
    rows = ["| metric | labels | |", "| --- | --- | --- |"]
    for one in Metrics().registry._collector_to_names:
        for metric in one.describe():
            suffix = "_total" if metric.type == "counter" else ""
            labels = getattr(metric, "_labelnames", None) or getattr(one, "_labelnames", ())
            rows.append(f"| `{metric.name}{suffix}` | {names(labels)} | {metric.documentation} |")
    return "\n".join(rows) + "\n"


def written(text: str) -> str:
    """The document with its blocks as they have to be."""
    blocks: Mapping[str, str] = {"fields": fields(), "metrics": metrics()}
    return BLOCK.sub(lambda found: found[1] + blocks[found[2]] + found[3], text)


def test_the_document_says_what_the_tables_say() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == 2
    assert text == written(text), f"python {Path(__file__).relative_to(DOCS.parents[1])} writes it"


def test_a_table_in_words() -> None:
    told = "\n".join(lines_of(TABLES["POST /v1/completions"]))
    assert "- honoured: `response_format`, " in told
    assert "`suffix` (the model does not fill in gaps)" in told.partition("- refused: ")[2]


if __name__ == "__main__":
    DOCS.write_text(written(DOCS.read_text(encoding="utf-8")), encoding="utf-8")
