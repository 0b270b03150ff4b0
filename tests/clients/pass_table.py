"""The table of docs/clients.md: written by a test run, compared by the others, never edited by hand."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[2] / "docs" / "clients.md"
BEGIN, END = "<!-- pass table: written by tests/clients, do not edit -->", "<!-- end of the pass table -->"
HEAD = "| client | version | scenario | result |\n| --- | --- | --- | --- |\n"


class Row(NamedTuple):
    """One line."""

    client: str
    version: str
    scenario: str
    result: str

    def __str__(self) -> str:
        return f"| {self.client} | {self.version} | {self.scenario} | {self.result} |"


def row_of(line: dict[str, Any]) -> Row:
    """What a scenario script printed, as a row."""
    name, broke = line["scenario"], not line["ok"]
    if line["without"]:
        field = line["without"].replace(".*", "[]")
        return Row(line["client"], line["version"], f"{name}, needs `{field}`", "pass" if broke else "fail")
    return Row(line["client"], line["version"], name, "fail" if broke else "pass")


def read() -> list[Row]:
    """The rows that are in the file."""
    text = FILE.read_text()
    table = text[text.index(BEGIN) : text.index(END)].splitlines()[3:]
    return [Row(*(cell.strip() for cell in line.strip("|").split(" | "))) for line in table if line.startswith("| ")]


def by_client(rows: Iterable[Row]) -> list[Row]:
    """In the file's order: a client's scenarios as its script has them."""
    return sorted(rows, key=lambda row: row.client)


def differs(rows: Sequence[Row]) -> bool:
    """Whether the file says something else of these rows' clients."""
    clients = {row.client for row in rows}
    return [row for row in read() if row.client in clients] != by_client(rows)


def write(rows: Sequence[Row]) -> None:
    """Put rows in the place of all that the file has of the same clients."""
    clients = {row.client for row in rows}
    lines = by_client([*(row for row in read() if row.client not in clients), *rows])
    text = FILE.read_text()
    before, after = text[: text.index(BEGIN)], text[text.index(END) :]
    FILE.write_text(before + BEGIN + "\n" + HEAD + "".join(f"{row}\n" for row in lines) + after)
