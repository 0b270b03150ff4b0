"""Calls of tools out of the Berkeley Function Calling Leaderboard's data, as its package `bfcl-eval` has them.

    bfcl:simple  bfcl:multiple  bfcl:parallel  bfcl:parallel_multiple  bfcl:irrelevance

Read as data, without the package's own code: `pip install --no-deps bfcl-eval` is enough. Dots in names of functions
are written _, as that leaderboard does for models that do not take them, and its types become those of JSON schemas.
What it is not: the leaderboard, whose score is of many more kinds.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from herd.disk.small_files import parse_object
from herd.errors import BadFile, MissingExtra, NotFound, fail

KINDS = {
    "simple": "simple_python",
    "multiple": "multiple",
    "parallel": "parallel",
    "parallel_multiple": "parallel_multiple",
    "irrelevance": "irrelevance",
}
"""Names of tasks, and of the files."""
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
"""Types of theirs that JSON schemas have not."""
MAX_FILE = 64 << 20


def items(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, item) of each item. Raises NotFound for another kind, MissingExtra, BadFile."""
    if kind not in KINDS:
        fail(NotFound, f"no task bfcl:{kind}", expected=", ".join(f"bfcl:{name}" for name in KINDS))
    folder = _folder()
    name = f"BFCL_v4_{KINDS[kind]}.json"
    answers = {}
    if kind != "irrelevance":
        answers = {row["id"]: row["ground_truth"] for _, row in _rows(folder / "possible_answer" / name)}
    for place, row in _rows(folder / name):
        try:
            yield place, _item(row, answers.get(row["id"], []))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            fail(BadFile, place, got=f"{type(error).__name__}: {error}", expected="an item of bfcl-eval")


def _folder() -> Path:
    spec = find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        fail(MissingExtra, "the tasks bfcl:... need bfcl-eval", do="pip install --no-deps bfcl-eval")
    return Path(spec.submodule_search_locations[0]) / "data"


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        fail(NotFound, str(path), expected="a file of bfcl-eval 2026", do="pip install --no-deps --upgrade bfcl-eval")
    if path.stat().st_size > MAX_FILE:
        fail(BadFile, path.name, got=f"{path.stat().st_size} bytes", expected=f"at most {MAX_FILE}")
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        place = f"{path.name}, line {number}"
        if line.strip():
            yield place, parse_object(line, place)


def _item(row: dict[str, Any], truth: list[dict[str, Any]]) -> dict[str, Any]:
    (turn,) = row["question"]
    return {
        "question": "\n\n".join(message["content"] for message in turn),
        "tools": [
            {
                "name": _name(tool["name"]),
                "description": tool["description"],
                "parameters": _schema(tool["parameters"]),
            }
            for tool in row["function"]
        ],
        "calls": [{"name": _name(name), "accepts": given} for one in truth for name, given in one.items()],
    }


def _name(name: str) -> str:
    return name.replace(".", "_")


def _schema(given: Any) -> Any:
    """A schema with the types of JSON."""
    if isinstance(given, list):
        return [_schema(one) for one in given]
    if not isinstance(given, dict):
        return given
    found = {}
    for name, value in given.items():
        if name == "type" and isinstance(value, str):
            if (kind := TYPES.get(value, value)) is not None:
                found[name] = kind
        elif name == "optional":
            continue  # `required` says it
        else:
            found[name] = _schema(value)
    return found
