"""The identity of a model's files: sizes, SHA-256, and the ids made from them."""

import glob
import hashlib
import os
import re
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from herd.disk.hashing import BLOCK
from herd.disk.manifest import check_manifest, read_manifest
from herd.errors import BadCheckpoint, NotFound, fail
from herd.progress import Progress, silent
from herd.store.registry import FileRecord

SUFFIXES = (".safetensors", ".gguf", ".pth", ".pt", ".json", ".model", ".txt", ".md")
"""Files that belong to a model's folder; anything else there is not ours to judge."""
PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")


def scan(path: Path) -> dict[str, FileRecord]:
    """The files of a model, without their digests: a folder's own (subfolders are not entered), or one file with the
    other parts of a split GGUF.

    Raises NotFound, or BadCheckpoint when nothing there holds weights.
    """
    if not path.exists():
        fail(NotFound, f"no file or folder {path}")
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    elif part := PART.fullmatch(path.name):
        found = sorted(path.parent.glob(f"{glob.escape(part[1])}-*-of-{part[2]}.gguf"))
    else:
        found = [path]
    files = {}
    for p in found:
        status = p.stat()
        if stat.S_ISREG(status.st_mode):
            files[p.name] = FileRecord(status.st_size, status.st_mtime_ns)
    if not any(name.endswith((".safetensors", ".gguf", ".pth")) for name in files):
        fail(BadCheckpoint, str(path), got="no weights", expected="a .gguf file, or a folder with .safetensors or .pth")
    return files


def check_own(path: Path, progress: Progress = silent) -> dict[str, str | None]:
    """Compare a model's files with what they say of themselves: a manifest that Herd wrote beside them, the sums in
    torch's archives. The names of those that are as they were written -> their SHA-256, None where another sum was
    compared; nothing for files that say nothing. Raises BadCheckpoint."""
    if not path.is_dir():
        return {}
    if check_manifest(path, progress):
        return {name: record["sha256"] for name, record in (read_manifest(path) or {}).items()}
    from herd.containers.torch_file import TorchFile  # numpy, which listing models does without

    archives = sorted(path.glob("consolidated.*.pth"))
    for archive in archives:
        with closing(TorchFile(archive)) as file:
            file.check_sums()
    return dict.fromkeys(archive.name for archive in archives)


def digest_of(files: Mapping[str, FileRecord]) -> str | None:
    """One digest for all files: that of the only file, or of the sorted lines "NAME SHA256"; None while one is
    unknown."""
    if any(record.sha256 is None for record in files.values()):
        return None
    if len(files) == 1:
        return next(iter(files.values())).sha256
    lines = "".join(f"{name} {files[name].sha256}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def quick_id(folder: Path, files: Mapping[str, FileRecord]) -> str:
    """An id of 12 hexadecimal digits from names, sizes and both ends of each file: made in milliseconds, even for 200
    GB."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {files[name].size}\n".encode())
        with open(folder / name, "rb") as f:
            digest.update(f.read(BLOCK))
            f.seek(max(0, files[name].size - BLOCK), os.SEEK_SET)
            digest.update(f.read(BLOCK))
    return digest.hexdigest()[:12]
