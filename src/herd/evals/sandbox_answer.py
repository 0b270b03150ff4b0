"""An answer's code and the tests of an item, within a sandbox. Handed over as text to `sandbox_inside.py`.

    in     {"code"}, then, once the code has run, {"tests", "word"}
    out    {"loaded": true}, then {"passed": the word}, or {"failed": why}
    in     {"compile": tests of items} alone
    out    {"broken": [the number of the first that is no Python, why]}, or {"broken": null}

The tests and the word come after the code, so that code which ends the process has not passed them.
"""

import json
import sys
import types
from typing import Any


def why(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error)[:200].split())}"


def broken(sources: list[str]) -> list[Any] | None:
    """The first that is no Python: its number, and why."""
    for number, source in enumerate(sources):
        try:
            compile(source, "tests.py", "exec")
        except Exception as error:
            return [number, why(error)]
    return None


def run(answer: Any, requests: Any) -> None:
    """Run both."""
    told = json.loads(requests.readline())
    if "compile" in told:
        answer({"broken": broken(told["compile"])})
        return
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    try:
        exec(compile(told["code"], "answer.py", "exec"), module.__dict__)
    except BaseException as error:
        answer({"failed": why(error)})
        return
    answer({"loaded": True})
    told = json.loads(requests.readline())
    try:
        exec(compile(told["tests"], "tests.py", "exec"), module.__dict__)
    except BaseException as error:
        answer({"failed": why(error)})
        return
    answer({"passed": told["word"]})


if __name__ == "inside":
    run(answer, requests)  # type: ignore[name-defined]  # noqa: F821
