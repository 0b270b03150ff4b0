"""Calls of tools out of bfcl-eval's data: read without its code, out of a folder of its form; its own where it is."""

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from herd.errors import BadFile, MissingExtra, NotFound
from herd.evals import find
from herd.evals.bfcl import KINDS
from herd.evals.checkers import CHECKERS
from herd.events import Reply, Timings, Usage
from herd.messages import ToolCall

ROW = {
    "id": "a_0",
    "question": [[{"role": "user", "content": "The area, please."}]],
    "function": [
        {
            "name": "shape.area",
            "description": "Area of a shape.",
            "parameters": {
                "type": "dict",
                "properties": {
                    "base": {"type": "float", "optional": True},
                    "sides": {"type": "tuple", "items": {"type": "any"}},
                    "type": {"type": "string"},
                },
                "required": ["base"],
            },
        }
    ],
}
TRUTH = {"id": "a_0", "ground_truth": [{"shape.area": {"base": [2.5], "sides": ["", [1, 2]]}}]}


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], kind: str = "simple_python") -> None:
    data = folder / "bfcl_eval/data"
    (data / "possible_answer").mkdir(parents=True)
    (folder / "bfcl_eval/__init__.py").write_text("raise SystemExit('its code is not run')")
    (data / f"BFCL_v4_{kind}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / f"possible_answer/BFCL_v4_{kind}.json").write_text(json.dumps(TRUTH) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()


def test_its_types_and_names_become_those_of_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, [ROW])
    task = find("bfcl:simple")
    (item,) = task.items
    assert (task.name, item["question"]) == ("bfcl-simple", "The area, please.")
    (tool,) = item["tools"]
    assert tool["name"] == "shape_area" and tool["parameters"] == {
        "type": "object",
        "properties": {
            "base": {"type": "number"},
            "sides": {"type": "array", "items": {}},
            "type": {"type": "string"},
        },
        "required": ["base"],
    }
    assert item["calls"] == [{"name": "shape_area", "accepts": {"base": [2.5], "sides": ["", [1, 2]]}}]
    assert "bfcl_eval" not in sys.modules


def test_where_nothing_fits_no_call_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, [ROW], "irrelevance")
    assert find("bfcl:irrelevance").items[0]["calls"] == []


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="no task bfcl:nothing: expected bfcl:simple, "):
        find("bfcl:nothing")
    if find_spec("bfcl_eval") is None:
        with pytest.raises(MissingExtra, match="pip install --no-deps bfcl-eval"):
            find("bfcl:simple")
    installed(tmp_path, monkeypatch, [ROW, {"id": "a_1"}])
    with pytest.raises(BadFile, match=r"BFCL_v4_simple_python\.json, line 2: got KeyError"):
        find("bfcl:simple")
    with pytest.raises(NotFound, match=r"BFCL_v4_multiple\.json"):
        find("bfcl:multiple")


@pytest.mark.skipif(find_spec("bfcl_eval") is None, reason="bfcl-eval is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_its_own_items_accept_what_they_say_and_nothing_else(kind: str) -> None:
    judge = CHECKERS["tool_call_any"].judge
    assert judge is not None
    for item in find(f"bfcl:{kind}").items:
        calls = tuple(ToolCall(one["name"], first(one["accepts"]), "x") for one in item["calls"])
        assert judge(Reply("", "stop", Usage(1, 1), Timings(), tool_calls=calls[::-1]), item, None)
        more = (*calls, ToolCall("another", {}, "x"))
        assert not judge(Reply("", "stop", Usage(1, 1), Timings(), tool_calls=more), item, None)


def first(accepts: dict[str, Any]) -> dict[str, Any]:
    """The first of the values that each argument accepts; left out where that is nothing."""
    return {name: plain(values[0]) for name, values in accepts.items() if values[0] != ""}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return first({name: one if isinstance(one, list) else [one] for name, one in value.items()})
    return [plain(one) for one in value] if isinstance(value, list) else value
