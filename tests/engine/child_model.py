"""The child of tests/engine/test_child.py: a FakeModel behind pipes, told by `setup` how to behave."""

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from herd.engine.fake import FakeModel
from herd.engine.serve import Report, serve
from herd.errors import BadCheckpoint, fail


def load(setup: bytes, report: Report) -> tuple[Any, dict[str, Any]]:
    told = json.loads(setup)
    print("words that must not come between the frames")
    report("weights", 1, 2)
    if told.get("fails") == "typed":
        fail(BadCheckpoint, "weights", got="sand", expected="numbers")
    if told.get("fails") == "untyped":
        raise ZeroDivisionError("by zero")
    if told.get("fails") == "dies":
        import os

        os._exit(7)
    report("weights", 2, 2)

    def next_id(ids: list[int]) -> Any:
        time.sleep(told.get("pass_s", 0.0))
        if 200 in ids:
            raise RuntimeError("200 breaks")
        return (sum(ids) * 7 + len(ids)) % 100

    return FakeModel(next_id, patch_id=266, chunk=16), {"piece": 64, "places": 4}


if __name__ == "__main__":
    serve(load)
