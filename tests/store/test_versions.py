"""Versions under one name: added without a switch, switched to and back with a history, kept apart by `rm`; killed at
any moment, a name means one of them.
"""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import PATIENCE_S, until
from herd.checkpoint import save_hf
from herd.checkpoint.random_weights import RandomSource
from herd.config import TINY
from herd.errors import NotFound, UsageError
from herd.store import registry, stored
from herd.store.registry import FileRecord, Version

CONFIG = replace(TINY, vision=None, num_layers=1, moe_interleave=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOGNAME", "ada")
    return tmp_path / "home"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two models; the first is called tiny."""
    found = tuple(save_hf(tmp_path / f"m{seed}", CONFIG, RandomSource(CONFIG, seed)) for seed in (0, 1))
    stored.import_path(found[0], "tiny")
    return found[0], found[1]


def test_a_version_is_added_without_a_switch_and_used_and_left_again(two: tuple[Path, Path]) -> None:
    old = stored.find("tiny")[1]
    new = stored.add_version("tiny", str(two[1]))
    assert stored.resolve("tiny") == two[0] and len(stored.entries()["tiny"].versions) == 2
    assert stored.entries()["tiny"].history == ()
    began_s = time.time()
    stored.use(f"tiny@{new.id}", "upgrade", "/compared")
    assert stored.resolve("tiny") == two[1]
    stored.use(f"tiny:{old.id[:6]}")
    stored.use(f"tiny:{old.id}")
    lines = stored.entries()["tiny"].history
    assert [(x.before, x.to, x.why, x.compared, x.who) for x in lines] == [
        (old.id, new.id, "upgrade", "/compared", "ada"),
        (new.id, old.id, "use", "", "ada"),
    ], "a switch to what is in use already is none"
    assert all(began_s <= x.when_s <= time.time() for x in lines)
    stored.import_path(two[1], "tiny")
    assert stored.entries()["tiny"].history[-1].why == "import"
    stored.rm(f"tiny:{new.id}")
    assert stored.resolve("tiny") == two[0] and stored.entries()["tiny"].history[-1].why == "rm"
    assert two[1].exists()


def test_a_switch_that_was_decided_by_an_older_version_undoes_no_later_one(two: tuple[Path, Path]) -> None:
    old = stored.find("tiny")[1]
    new = stored.add_version("tiny", str(two[1]))
    with pytest.raises(UsageError, match=f"tiny means another version by now: got {old.id}, expected ffff"):
        stored.use(f"tiny@{new.id}", "upgrade", instead_of="ffff")
    assert stored.find("tiny")[1] == old and stored.entries()["tiny"].history == ()
    for _ in range(2):  # the second time it is done already
        stored.use(f"tiny@{new.id}", "upgrade", instead_of=old.id)
    assert stored.find("tiny")[1] == new and len(stored.entries()["tiny"].history) == 1


def test_a_copy_of_the_version_in_use_is_not_used_in_its_place(two: tuple[Path, Path], tmp_path: Path) -> None:
    before = stored.entries()
    copy = shutil.copytree(two[0], tmp_path / "copy")
    assert stored.add_version("tiny", str(copy)).id == stored.find("tiny")[1].id
    assert stored.entries() == before
    stored.import_path(copy, "tiny")
    assert stored.resolve("tiny") == copy


def test_a_verification_keeps_history_and_tasks(two: tuple[Path, Path]) -> None:
    stored.import_path(two[1], "tiny")
    stored.remember_tasks("tiny", ["smoke-text", "/x.toml"])
    before = stored.entries()["tiny"]
    stored.verify("tiny")
    after = stored.entries()["tiny"]
    assert after.now.digest is not None
    assert (after.history, after.tasks) == (before.history, ("smoke-text", "/x.toml"))


def test_history_keeps_its_last_lines(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MOST_SWITCHES", 3)
    ids = [stored.find("tiny")[1].id, stored.add_version("tiny", str(two[1])).id]
    for turn in range(5):
        stored.use(f"tiny@{ids[(turn + 1) % 2]}")
    assert [x.to for x in stored.entries()["tiny"].history] == [ids[1], ids[0], ids[1]]


def pulled(home: Path, name: str) -> Version:
    """A version whose file the store owns, as a pull leaves it."""
    file = home / "models" / name / "abc123abc123" / "w.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * 10)
    version = Version("abc123abc123", str(file.relative_to(home)), {"w.gguf": FileRecord(10, 0)}, "package", added_s=1)
    registry.add(name, version, "pull")
    return version


def test_a_version_that_is_another_name_s_keeps_its_files_until_it_is_forgotten(
    two: tuple[Path, Path], home: Path
) -> None:
    file = pulled(home, "other").location
    shared = stored.add_version("tiny", "other")
    assert shared.location == file and shared.in_place and shared.source == "other@abc123abc123"
    with pytest.raises(UsageError, match="herd rm tiny@abc123abc123 first"):
        stored.rm("other")
    assert file.exists() and "other" in stored.entries()
    assert stored.rm(f"tiny@{shared.id}").freed_bytes == 0
    assert file.exists()
    stored.rm("other")
    assert not file.exists()


def test_what_cannot_be_a_version_changes_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    before = stored.entries()
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    for new in ("nowhere", "tiny@ffffff", str(tmp_path / "bad.gguf"), "tiny:ffffff"):
        with pytest.raises((NotFound, UsageError, ValueError)):
            stored.add_version("tiny", new)
    with pytest.raises(NotFound):
        stored.add_version("nobody", str(two[1]))
    assert stored.entries() == before


SWITCHES = """
from herd.store import stored
print("begun", flush=True)
while True:
    for version in {ids!r}:
        stored.use("tiny@" + version)
"""


def test_whoever_is_killed_leaves_a_name_with_one_version_or_the_other(two: tuple[Path, Path]) -> None:
    ids = (stored.add_version("tiny", str(two[1])).id, stored.find("tiny")[1].id)
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", SWITCHES.format(ids=ids)], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None and process.stdout.readline() == b"begun\n"
            seen = len(stored.entries()["tiny"].history)
            until("no switch", lambda seen=seen, turn=turn: len(stored.entries()["tiny"].history) > seen + turn)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
        found = registry.read()
        assert not found.broken and found.models["tiny"].current in ids
        assert {v.id for v in found.models["tiny"].versions} == set(ids)
        assert stored.resolve("tiny") in two
