"""Every limit that is printed is one that something is held to."""

import ast
from pathlib import Path

import pytest

import herd
from herd import grammars
from herd.errors import UsageError
from herd.server.limits import Limits, table

PACKAGE = Path(herd.__file__).parent


def read_of_limits() -> set[str]:
    """Attributes that are taken of something called limits, anywhere but where they are defined."""
    found: set[str] = set()
    for path in [*(PACKAGE / "server").rglob("*.py"), *(PACKAGE / "cli").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).lower().endswith("limits"):
                found.add(node.attr)
    return found


def test_every_limit_is_read_where_it_is_enforced() -> None:
    assert set(Limits.__struct_fields__) <= read_of_limits()


def test_the_size_of_a_schema_that_is_printed_is_the_one_that_holds() -> None:
    most = next(row.value for row in table(Limits()) if row.name == "schema_bytes")
    grammars.Grammar("schema", " " * most)
    with pytest.raises(UsageError, match=f"at most {most}"):
        grammars.Grammar("schema", " " * (most + 1))
