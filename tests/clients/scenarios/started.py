"""A program of others before the service: started on a free port, waited for, ended."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(command: Sequence[str], own: Mapping[str, str], folder: str, health: str, start_s: float) -> Iterator[str]:
    """Its address, once it answers; it ends with the context.

    command: a program of this environment, and its arguments. own: variables beside ours. folder: where it runs, and
    its log lies. health: a path that answers once it is ready, within start_s seconds. Raises RuntimeError with the end
    of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    whole = [str(Path(sys.executable).parent / command[0]), *command[1:], "--host", "127.0.0.1", "--port", port]
    log = Path(folder) / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(whole, stdout=out, stderr=out, env={**os.environ, **own}, cwd=folder)
    try:
        _wait(f"http://127.0.0.1:{port}{health}", process, log, start_s)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path, start_s: float) -> None:
    until_s = time.monotonic() + start_s
    while time.monotonic() < until_s and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer: {log.read_text()[-2000:]}")
