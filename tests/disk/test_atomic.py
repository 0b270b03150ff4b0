"""New files and folders appear whole or not at all, whatever stops the writer."""

import errno
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from herd.disk.atomic import new_file, new_folder, remove_left
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

    monkeypatch.setattr("herd.disk.atomic._exchange", lambda a, b: False)  # a file system that cannot
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


MAKERS = {"folder": new_folder, "file": new_file}
LEFT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from herd.disk.atomic import remove_left
remove_left(Path(sys.argv[1]))
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from herd.disk.atomic import new_file, new_folder, remove_left
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
    assert len(list(tmp_path.iterdir())) == 2
    with MAKERS[kind](target, overwrite=True) as temp:
        assert sorted(tmp_path.iterdir()) == sorted([temp, target]), "the next one removes what it left"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_living_writer_makes_is_never_removed(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a"
    with MAKERS[kind](target, overwrite=True) as first:
        for _ in range(3):
            with MAKERS[kind](target, overwrite=True):
                assert first.exists()
            remove_left(target)
        assert first.exists()
        other = subprocess.run([sys.executable, "-c", LEFT, str(target)], check=True)
        assert other.returncode == 0 and first.exists()
    remove_left(target)
    assert list(tmp_path.iterdir()) == [target]


def test_only_what_is_left_of_that_target_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "a.b"
    others = [".a.b.part", ".a.b.0123456789ab.partial", ".axb.0123456789ab.part", ".a.b.0123456789AB.part", "a.b.part",
              ".a.b.c.0123456789ab.part", "x.a.b.0123456789ab.part", ".a.b.0123456789ab.old"]  # fmt: skip
    left = [".a.b.0123456789ab.part", ".a.b.ba9876543210.part"]
    for name in (*others, *left):
        (tmp_path / name).touch()
    link = tmp_path / ".a.b.aaaaaaaaaaaa.part"
    link.symlink_to(tmp_path / "a.b.part")
    remove_left(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, link.name])
    target.touch()
    remove_left(target)
    assert not (tmp_path / ".a.b.0123456789ab.old").exists(), "there is a newer version"
    assert len(list(tmp_path.iterdir())) == len(others) + 1


def test_many_writers_at_once_all_end_well(tmp_path: Path) -> None:
    """A name that is made and not yet held may be taken for left: its writer takes another one."""
    target = tmp_path / "a"

    def write(number: int) -> None:
        for _ in range(30):
            with new_file(target, overwrite=True) as temp:
                temp.write_text(str(number))
            remove_left(target)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert target.read_text() in "01234567" and list(tmp_path.iterdir()) == [target]
