"""Mapped files that are cut or that cannot be read while something reads them: an error that names them, no SIGBUS."""

import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import PATIENCE_S, TINY_TEXT, hf_folder
from herd import _native
from herd.checkpoint import open_checkpoint
from herd.convert import convert
from herd.disk.mapping import MappedFile, reading
from herd.errors import BadCheckpoint
from herd.quantize import quantize
from herd.store.auto_pack import packed_for
from herd.store.packed_copies import folder_of

GGUF = Path(__file__).parents[1] / "fixtures" / "gguf"
PAGE = mmap.PAGESIZE


def mapped(path: Path) -> MappedFile:
    handle = os.open(path, os.O_RDONLY)
    try:
        return MappedFile(path, handle)
    finally:
        os.close(handle)


@pytest.fixture
def file(tmp_path: Path) -> MappedFile:
    (tmp_path / "w").write_bytes(b"x" * (3 * PAGE + 100))
    return mapped(tmp_path / "w")


def test_a_cut_file_reads_as_zeros_and_is_told_ever_after(file: MappedFile) -> None:
    view = np.frombuffer(file.map, np.uint8)
    assert view.sum() == ord("x") * file.num_bytes
    file.check_readable()
    os.truncate(file.path, 10)
    file.check_readable()  # nothing was read yet
    assert view[2 * PAGE + 5] == 0
    assert view.sum() == 0  # all of it, so that no page is waited for again
    expected = f"{file.path}: changed while in use: got 10 bytes, expected the same file as at the start, "
    expected += f"{file.num_bytes} bytes; restore the file and load the model again"
    lines = []
    for _ in range(2):
        with pytest.raises(BadCheckpoint) as caught:
            file.check_readable()
        lines.append(str(caught.value))
        os.truncate(file.path, file.num_bytes)  # coming back helps nobody who looks at zeros
    assert lines == [expected, expected]


def test_a_disk_that_fails_is_told_with_the_place(file: MappedFile) -> None:
    """The file is as it was, but a page of it could not be read."""
    found = file.path.stat()
    os.truncate(file.path, 10)
    assert file.map[2 * PAGE + 5] == 0
    os.truncate(file.path, file.num_bytes)
    os.utime(file.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(
        BadCheckpoint, match=f"w: cannot be read while in use: got an error of its disk at byte {2 * PAGE + 5}"
    ):
        file.check_unchanged()


def test_other_files_are_not_to_blame(tmp_path: Path, file: MappedFile) -> None:
    (tmp_path / "v").write_bytes(b"y" * PAGE)
    other = mapped(tmp_path / "v")
    os.truncate(file.path, 0)
    assert file.map[0] == 0
    other.check_unchanged()
    assert other.map[7] == ord("y")


def test_a_map_that_is_gone_is_watched_no_more(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"x" * PAGE)
    numbers = set()
    for _ in range(600):
        file = mapped(tmp_path / "w")
        numbers.add(file.map._number)
        file.close()
    assert len(numbers) == 1  # its place in the table is used again
    held = mapped(tmp_path / "w")
    view = np.frombuffer(held.map, np.uint8)
    held.close()  # not yet: somebody looks
    os.truncate(tmp_path / "w", 0)
    assert view[0] == 0
    many = [mapped(Path(__file__)) for _ in range(600)]
    assert len({m.map._number for m in many}) == 600
    with pytest.raises(ValueError, match="from its first byte"):
        _native.watch(np.frombuffer(many[0].map, np.uint8)[1:])


def test_a_system_call_that_meets_the_page_is_told_as_well(file: MappedFile, tmp_path: Path) -> None:
    os.truncate(file.path, 0)
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    try:
        with (
            pytest.raises(BadCheckpoint, match="changed while in use: got 0 bytes"),
            reading(tmp_path / "model", file.check_unchanged),
        ):
            os.write(out, file.map)
        with (
            pytest.raises(BadCheckpoint, match="model: cannot be read while in use: got Bad address"),
            reading(tmp_path / "model", lambda: None),
        ):
            os.write(out, file.map)
    finally:
        os.close(out)


# -- whoever had the signal before ---------------------------------------------------------------------------------

OTHER = """
import faulthandler, mmap, os, signal, sys, tempfile
from herd import _native
def cut():
    f = tempfile.NamedTemporaryFile()
    f.write(b"x" * 10000)
    f.flush()
    m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    return f, m
f, m = cut()
how = sys.argv[1]
if how == "before":
    faulthandler.enable()
_native.watch(m)
if how == "after":
    faulthandler.enable()
    _native.count_faults()  # what each pass of the engine asks
if how == "python":
    heard = []
    signal.signal(signal.SIGBUS, lambda *_: heard.append(1))
    _native.count_faults()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGBUS)
    assert len(heard) == 3
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    _native.count_faults()
os.truncate(f.name, 0)
assert m[5000] == 0 and _native.count_faults() == 1
if how == "sent":
    os.kill(os.getpid(), signal.SIGBUS)
g, n = cut()
os.truncate(g.name, 0)
print("so far", flush=True)
n[5000]
"""


@pytest.mark.parametrize("how", ["alone", "before", "after", "python", "sent"])
def test_every_other_bus_error_ends_the_process_as_ever(how: str) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", OTHER, how], capture_output=True, text=True, env=env, timeout=PATIENCE_S
    )
    assert done.returncode == -signal.SIGBUS, done.stderr
    assert (done.stdout == "so far\n") == (how != "sent")
    assert ("Fatal Python error: Bus error" in done.stderr) == (how in ("before", "after"))


# -- conversions -----------------------------------------------------------------------------------------------------


def cut_at(path: Path, at: int) -> Callable[..., None]:
    """A progress callback that cuts the file when it is called for the nth time."""
    calls = 0

    def progress(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            os.truncate(path, 3000)

    return progress


JOBS: dict[str, Callable[[Path, Path, Callable[..., None]], Any]] = {
    "hf": lambda source, out, tell: convert(source, out / "t", progress=tell),
    "gguf": lambda source, out, tell: convert(source, out / "t.gguf", progress=tell),
    "gguf q8_0": lambda source, out, tell: convert(source, out / "t.gguf", "q8_0", progress=tell),
    "quantize": lambda source, out, tell: quantize(source, out / "t", "q5_0", compare=False, progress=tell),
    "quantize gguf": lambda source, out, tell: quantize(source, out / "t.gguf", "q5_0", compare=False, progress=tell),
}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_source_that_is_cut_meanwhile_is_told_and_nothing_is_left(tmp_path: Path, job: str, kind: str) -> None:
    if kind == "folder":
        source = hf_folder(tmp_path / "source", TINY_TEXT)
        weights = source / "model.safetensors"
    else:
        source = weights = tmp_path / "source.gguf"
        shutil.copyfile(GGUF / "llama4-f16.gguf", source)
    (tmp_path / "out").mkdir()
    with pytest.raises(BadCheckpoint, match=f"{weights.name}: changed while in use: got 3000 bytes"):
        JOBS[job](source, tmp_path / "out", cut_at(weights, 4))
    assert not list((tmp_path / "out").iterdir())


def test_a_source_that_is_cut_while_it_is_packed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "m.gguf"
    shutil.copyfile(GGUF / "llama4-q4_k.gguf", model)
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("herd.store.auto_pack.LARGE", 1)
    with open_checkpoint(model) as own:
        with pytest.raises(BadCheckpoint, match=r"m\.gguf: changed while in use: got 3000 bytes"):
            packed_for(own, progress=cut_at(model, 3))
        assert not list(folder_of(model).parent.iterdir())
