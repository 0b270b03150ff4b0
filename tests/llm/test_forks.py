"""A fork of the process that loaded a model: every use there is refused at once, and neither its end nor that of what
it came from is felt by the other, or leaves a process behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import until

HERE = Path(__file__).parent
MAKE = """
import asyncio, json, os, signal, sys, time
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/../engine", sys.argv[2] + "/.."]
from test_hostile_arguments import GOOD, _read, called
from child_model import COMMAND, fake
from speaking import BYTES
from herd.config import TINY
from herd.engine.executors.child import ChildExecutor
from herd.errors import UsageError
from herd.llm import LLM
from herd.text.chat import Llama4

told = {"pass_s": 0.002}
runner = (
    fake(lambda ids: time.sleep(0.002) or 65)
    if sys.argv[1] == "thread"
    else ChildExecutor(COMMAND, json.dumps(told).encode())
)
model = LLM(TINY, runner, BYTES, Llama4(BYTES), name="fake")
"""
USES = (
    MAKE
    + """
stream = model.stream("Hi", max_tokens=1000)
first = [next(stream) for _ in range(3)]
job = next(iter(model._running()._table.jobs.values()))
fresh = model.stream("Hi", max_tokens=4)
model.chat("Hi", max_tokens=4, grammar="regex:a+")  # a process that tries grammars waits for more

def outcome(use):
    try:
        use()
    except UsageError as error:
        return "refused" if "fork" in str(error) else str(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "answered"

pid = os.fork()
if not pid:
    signal.alarm(120)
    told = {}
    for name, arguments in GOOD.items():
        use = (lambda: asyncio.run(_read(model, name, arguments))) if name.startswith("astream") else (
            lambda: called(model, name, arguments))
        told[name] = outcome(use)
    engine = model._engine
    told["a stream under way"] = outcome(lambda: list(stream))
    told["a stream that has not begun"] = outcome(lambda: list(fresh))
    told["cancel"] = outcome(lambda: engine.cancel(job))
    told["start"] = outcome(lambda: engine.start(job))
    told["warm_up"] = outcome(model.warm_up)
    told["alive"] = str(model.alive)
    told["close"] = outcome(model.close)
    print(json.dumps(told), flush=True)
    sys.exit(3)  # with all that an interpreter does at its end

_, status = os.waitpid(pid, 0)
rest = list(stream)
again = model.chat("Hi", max_tokens=4, grammar="regex:b+")
print(json.dumps([os.waitstatus_to_exitcode(status), rest[-1].reply.usage.output_tokens, again.text, model.alive]))
model.close()
"""
)
WITHOUT_AN_ENGINE = {"tokenize", "spellings", "detokenize", "count", "embed_tokens"}
"""What only the vocabulary answers."""


@pytest.mark.parametrize("engine", ["thread", "child"])
def test_a_fork_is_refused_every_use_and_its_end_is_not_felt(engine: str) -> None:

    found = subprocess.run([sys.executable, "-c", USES, engine, str(HERE)], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    lines = [json.loads(line) for line in found.stdout.splitlines()]
    told, after = lines
    assert {name for name, end in told.items() if end == "answered"} == WITHOUT_AN_ENGINE | {"close"}
    others = set(told) - WITHOUT_AN_ENGINE - {"close", "alive"}
    assert {name: told[name] for name in others} == dict.fromkeys(others, "refused")
    assert told["alive"] == "False"
    status, tokens, text, alive = after
    assert (status, tokens, alive) == (3, 1000, True)
    assert text.startswith("b")
    assert "Traceback" not in found.stderr


ORPHANS = (
    MAKE
    + """
next(model.stream("Hi", max_tokens=40))
pid = os.fork()
if not pid:
    time.sleep(600)
    os._exit(0)
print(runner.pid, pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
)


def test_what_computes_ends_with_its_parent_while_a_fork_lives_on() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS, "child", str(HERE)], stdout=subprocess.PIPE, text=True) as of:
        assert of.stdout is not None
        engine, fork = (int(word) for word in of.stdout.readline().split())
        try:
            until("the engine's process outlives what started it", lambda: not _runs(engine))
            assert _runs(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] not in "ZX"
    except OSError:
        return False
