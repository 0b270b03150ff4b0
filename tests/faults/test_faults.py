"""A full disk, kill -9 and a power cut at changes that Herd makes to what it writes: some, a hundred, or all.

tests/faults/disk.c stands between Herd and the system; driver.py runs a job once for each point. Whatever happens, the
source is as it was, what can be seen is the old or the new version, whole, and the same command run again gives what an
undisturbed run gives, to the bit. Downloads: tests/store/test_hub.py and test_store.py.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE_S

HERE = Path(__file__).parent
POINTS = int(os.environ.get("HERD_FAULT_POINTS", "100"))
"""Of the slow tier: the first, the last and others between, the same ones in every run. A job makes up to some hundred
changes, mostly one kind after the other for each tensor; a large number tries all of them."""
JOBS = ("convert folder", "convert gguf", "quantize folder", "quantize gguf", "pack", "register")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux: system calls are intercepted by a preloaded library")
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitizer is preloaded")
    library = tmp_path_factory.mktemp("disk") / "disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", HERE / "disk.c", "-o", library, "-ldl"]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    return library


def sweep(disk: Path, folder: Path, job: str, fault: str, most: int) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "LD_PRELOAD": str(disk),
        "HERD_HOME": str(folder / "home"),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, HERE / "driver.py", job, fault, str(most), folder]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert found["points"] >= 8
    assert found["changes"] >= found["points"]


@pytest.mark.brief
@pytest.mark.parametrize("fault", ["full", "kill", "power"])
@pytest.mark.parametrize("job", JOBS)
def test_every_version_stays_whole(disk: Path, tmp_path: Path, job: str, fault: str) -> None:
    """At 18 points of each job, evenly spread."""
    sweep(disk, tmp_path, job, fault, 18)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "kill", "power"])
@pytest.mark.parametrize("job", JOBS)
def test_every_version_stays_whole_at_many_points(disk: Path, tmp_path: Path, job: str, fault: str) -> None:
    sweep(disk, tmp_path, job, fault, POINTS)
