"""The guard of mapped files in C++, plain and under the address and undefined-behaviour sanitizers."""

import signal
import subprocess
from pathlib import Path

import pytest
from test_kernels import HERE, ROOT, tool

from helpers import PATIENCE_S

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("options", [(), SANITIZE], ids=["plain", "sanitized"])
def test_cut_files_under_threads(tmp_path: Path, options: tuple[str, ...]) -> None:
    program = tmp_path / "guard_check"
    sources = [HERE / "guard_check.cpp", ROOT / "native" / "guard.cpp"]
    command = [
        tool("g++"),
        "-std=c++20",
        "-O1",
        "-g",
        "-Wall",
        "-Wextra",
        "-pthread",
        *options,
        *sources,
        "-o",
        program,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
    done = subprocess.run([program, "foreign"], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "ok\n"
    if options:  # the sanitizer had the signal first, and has it still
        assert "AddressSanitizer: BUS" in done.stderr
        assert done.returncode == 1
    else:
        assert done.returncode == -signal.SIGBUS
