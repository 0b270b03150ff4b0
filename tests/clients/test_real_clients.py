"""Real clients, unchanged, against a real `herd serve` on a real model: what comes has to be what they expect.

Each group of clients runs in an environment of its own (see `environments`); its script (scenarios/) prints a line a
scenario. HERD_WRITE_CLIENTS=1 writes the outcome into docs/clients.md; any other run compares.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import environments
import pass_table
import pytest
from proxy import proxy_of

MODEL = os.environ.get("HERD_SMOLLM2_GGUF", "")
CONTEXT = 2048
"""Small, so that a prompt that is too long is quickly written."""
START_S, GROUP_S = 240, 1500
GROUPS = ("sdks", "chains", "objects", "indexes", "routers", "frameworks", "command", "npm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(MODEL).is_file(), reason="HERD_SMOLLM2_GGUF names no SmolLM2 GGUF file"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with one model, smollm2, in a store that no other test knows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERD_HOME", str(tmp_path_factory.mktemp("home")))
        command = [sys.executable, "-m", "herd", "import", MODEL, "--name", "smollm2"]
        subprocess.run(command, check=True, timeout=START_S)
        with serving(tmp_path_factory.mktemp("serve") / "log", "smollm2", "--ctx", str(CONTEXT)) as found:
            yield found


@contextmanager
def serving(log: Path, *words: str) -> Iterator[str]:
    """`herd serve` on a free port, until it is ready and until it has ended on its own; its address."""
    command = [sys.executable, "-m", "herd", "serve", *words, "--port", "0", "--no-ollama-port"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield _address(process, log)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(timeout=START_S)
        finally:
            process.kill()
    assert status == 0, log.read_text()[-2000:]


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """What the service prints first. Requests wait for the model by themselves."""
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if found := re.search(r"Herd at (http://\S+): ", log.read_text()):
            return found.group(1)
        time.sleep(0.05)
    raise AssertionError(f"herd serve does not answer; it said: {log.read_text()[-2000:]}")


def outcome(group: str, url: str) -> list[dict[str, Any]]:
    """The lines of a group's script, run in a client's environment without a key or proxy of this one."""
    command = environments.command_of(group)
    env = {k: v for k, v in os.environ.items() if not k.upper().endswith(("_API_KEY", "_PROXY", "PYTHONPATH"))}
    with proxy_of(url) as proxy:
        done = subprocess.run([*command, url, proxy], capture_output=True, text=True, timeout=GROUP_S, env=env)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    assert done.returncode == 0, f"{group}: status {done.returncode} after {lines[-1:]}: {done.stderr[-3000:]}"
    assert lines, done.stderr[-3000:]
    return lines


@pytest.mark.parametrize("group", GROUPS)
def test_clients_work_unchanged(group: str, url: str) -> None:
    lines = outcome(group, url)
    broken = [line for line in lines if not line["ok"] and not line["without"]]
    assert not broken, "\n".join(f"{x['client']} {x['version']}, {x['scenario']}: {x['detail']}" for x in broken)
    spared = [line for line in lines if line["ok"] and line["without"]]
    assert not spared, "\n".join(f"{x['client']}, {x['scenario']}: works without {x['without']}" for x in spared)
    rows = [pass_table.row_of(line) for line in lines]
    if os.environ.get("HERD_WRITE_CLIENTS"):
        with environments.locked("table"):
            pass_table.write(rows)
    told = "docs/clients.md tells something else; write it anew: HERD_WRITE_CLIENTS=1 scripts/test --slow"
    assert not pass_table.differs(rows), told
