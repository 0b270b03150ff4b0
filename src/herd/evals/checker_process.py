"""The process that runs a checker of a person's own: a script that needs nothing of Herd's, run by its path.

    in    {"source", "name", "memory_bytes", "seconds"}, then {"reply", "item"} for each answer
    out   {"ready": true} or {"broken": why}, then {"value": number} or {"error": why} for each

What it prints goes nowhere. What it is not: a sandbox. It is the person's own code, run as that person.
"""

import json
import os
import signal
import sys
from typing import Any

WORDS = 300
"""Characters of an error that are told."""


def main() -> None:
    """Serve until the other side is gone."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nowhere, handle)
    setup = json.loads(requests.readline())
    name, seconds = setup["name"], setup["seconds"]
    limit(setup["memory_bytes"])
    space: dict[str, Any] = {"__name__": name.removesuffix(".py"), "__file__": name}

    def answer(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()

    watch(seconds)
    try:
        exec(compile(setup["source"], name, "exec"), space)
        told: dict[str, Any] = {"ready": True}
        if not callable(space.get("check")):
            told = {"broken": "it defines no function check(reply, item)"}
    except BaseException as error:
        told = {"broken": words(error, name)}
    answer(told)
    while True:
        signal.setitimer(signal.ITIMER_REAL, 0)
        line = requests.readline()
        if not line:
            return
        asked = json.loads(line)
        watch(seconds)
        try:
            told = verdict(space["check"](asked["reply"], asked["item"]))
        except BaseException as error:
            told = {"error": words(error, name)}
        answer(told)


def watch(seconds: float) -> None:
    """End this process where the next piece of work takes twice its time: nobody is there any more to kill it."""
    signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 1)


def verdict(value: Any) -> dict[str, Any]:
    """What a checker returned, as an answer."""
    if isinstance(value, int | float) and 0 <= value <= 1:
        return {"value": float(value)}
    return {"error": f"got {repr(value)[:WORDS]}, expected True, False or a number from 0 to 1"}


def words(error: BaseException, name: str) -> str:
    """An error in one line, with the line of the checker that it arose in."""
    at, line = error.__traceback__, 0
    while at is not None:
        if at.tb_frame.f_code.co_filename == name:
            line = at.tb_lineno
        at = at.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    where = f" (line {line})" if line else ""
    return f"{type(error).__name__}: {' '.join(str(error)[:WORDS].split())}{where}"


def limit(memory_bytes: int) -> None:
    """Bound what this process may take, where the system can."""
    try:
        import resource
    except ImportError:
        return
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 64 << 20)]
    limits += [(resource.RLIMIT_AS, memory_bytes)] if sys.platform == "linux" else []
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
