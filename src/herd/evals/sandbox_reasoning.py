"""Scorers of reasoning-gym within a sandbox, each answer in a process of its own. Handed over as text to
`sandbox_inside.py`.

    in     {"paths", "name", "seed", "size"}, then {"number", "question", "answer"} for each answer
    out    {"loaded": true}, or {"failed": why}; then {"score": number}, {"other": true} or {"failed": why}
"""

import json
import os
import sys
from typing import Any


def run(answer: Any, requests: Any) -> None:
    """Serve until the other side is gone."""
    told = json.loads(requests.readline())
    sys.path += told["paths"]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        import reasoning_gym

        made = reasoning_gym.create_dataset(told["name"], size=told["size"], seed=told["seed"])
    except BaseException as error:
        answer({"failed": f"{type(error).__name__}: {error}"[:300]})
        return
    answer({"loaded": True})
    while line := requests.readline():
        asked = json.loads(line)
        ask, reply = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ask)
            os.write(reply, json.dumps(scored(made, asked)).encode())
            os._exit(0)
        os.close(reply)
        with os.fdopen(ask, "rb") as file:
            said = file.read(4096)
        os.waitpid(child, 0)
        answer(json.loads(said) if said else {"failed": "the scorer ended"})


def scored(made: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """How right an answer is, as its scorer says."""
    try:
        entry = made[asked["number"]]
        if entry["question"] != asked["question"]:
            return {"other": True}
        return {"score": float(made.score_answer(asked["answer"], entry))}
    except BaseException as error:
        return {"failed": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "inside":
    run(answer, requests)  # type: ignore[name-defined]  # noqa: F821
