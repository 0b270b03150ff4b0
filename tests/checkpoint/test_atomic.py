"""New files and folders appear whole or not at all, whatever stops the writer."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from herd.checkpoint.atomic import new_file, new_folder
from herd.errors import DoesNotFit, NotFound, UsageError


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as temp:
        (temp / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "1"


def test_an_empty_folder_may_stand_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a") as temp:
        (temp / "x").write_text("1")
    assert names(tmp_path / "a") == ["x"]


@pytest.mark.parametrize("old", ["folder", "file", "link"])
def test_overwrite_replaces_the_whole(tmp_path: Path, old: str) -> None:
    target, elsewhere = tmp_path / "a", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_text("1")
    if old == "folder":
        target.mkdir()
        (target / "old").write_text("0")
    elif old == "file":
        target.write_text("0")
    else:
        target.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="exists already"), new_folder(target):
        pass
    with new_folder(target, overwrite=True) as temp:
        (temp / "new").write_text("1")
    assert names(tmp_path) == ["a", "elsewhere"]
    assert names(target) == ["new"]
    assert names(elsewhere) == ["keep"]  # what a link pointed to is not ours to remove


def test_a_file_appears_whole_and_replaces_only_when_told(tmp_path: Path) -> None:
    with new_file(tmp_path / "a") as temp:
        temp.write_text("1")
        assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match="exists already"), new_file(tmp_path / "a"):
        pass
    with new_file(tmp_path / "a", overwrite=True) as temp:
        temp.write_text("2")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "2"
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder"), new_file(tmp_path / "folder", overwrite=True):
        pass


def test_failures_leave_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("0")

    def half_a_file() -> None:
        with new_file(tmp_path / "file", overwrite=True) as temp:
            temp.write_text("1")
            raise RuntimeError

    def half_a_folder() -> None:
        with new_folder(tmp_path / "folder") as temp:
            (temp / "x").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError):
        half_a_file()
    with pytest.raises(KeyboardInterrupt):
        half_a_folder()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "0"


def test_an_interruption_between_the_two_renames_brings_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("old")
    rename = Path.rename

    def stopped(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr("herd.checkpoint.atomic._exchange", lambda a, b: False)  # a file system that cannot
    monkeypatch.setattr(Path, "rename", stopped)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a", overwrite=True):
        pass
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "old"


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_a_full_disk_is_one_line(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DoesNotFit, match="the disk is full"), make(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not names(tmp_path)


@pytest.mark.parametrize("make", [new_file, new_folder])
def test_no_folder_to_write_into(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NotFound, match="no folder"), make(tmp_path / "no" / "a"):
        pass


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with new_file(tmp_path / "a"):
            pass
        with new_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o750


KILLED = """
import os, signal, sys
from pathlib import Path
from herd.checkpoint.atomic import new_file, new_folder
make = new_folder if sys.argv[2] == "folder" else new_file
with make(Path(sys.argv[1]), overwrite=True) as temp:
    (temp / "x" if temp.is_dir() else temp).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_killed_writer_leaves_the_old_version(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a"
    if kind == "folder":
        target.mkdir()
        (target / "x").write_text("whole")
    else:
        target.write_text("whole")
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), kind], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (target / "x" if kind == "folder" else target).read_text() == "whole"
