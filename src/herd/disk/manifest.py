"""herd.manifest.json: size and SHA-256 of every file of a folder that Herd wrote, so that a flipped bit can be told.

A folder without one is not covered: weights that changed on disk, or a router that was swapped, look like weights.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from herd.disk.hashing import sha256
from herd.disk.small_files import MAX_INDEX_BYTES, read_json, safe_path
from herd.errors import BadCheckpoint, fail
from herd.progress import Progress, part_of, silent

MANIFEST = "herd.manifest.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_manifest(folder: Path, known: Mapping[str, str]) -> None:
    """Describe all files of `folder`; digests in `known` (by file name) are taken as they are."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": known.get(path.name) or sha256(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"version": 1, "files": files}, indent=1) + "\n")


def check_manifest(folder: Path, progress: Progress = silent) -> bool:
    """Compare every file with the manifest. False when there is none: then nothing is known of the files' content.

    Raises BadCheckpoint naming the first file that is missing, of another size or of another content.
    """
    files = read_manifest(folder)
    if files is None:
        return False
    total = sum(record["size"] for record in files.values())
    done = 0
    for name, record in files.items():
        path = safe_path(folder, name)
        if path.stat().st_size != record["size"]:
            fail(BadCheckpoint, f"{path}: size", got=path.stat().st_size, expected=record["size"])
        found = sha256(path, part_of(progress, f"checking {folder.name}", done, total))
        done += record["size"]
        if found != record["sha256"]:
            fail(
                BadCheckpoint,
                f"{path}: the content is not what was written",
                got=f"sha256 {found[:12]}…",
                expected=f"{record['sha256'][:12]}…",
                do="fetch or convert it again",
            )
    return True


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """{"size": bytes, "sha256": hexadecimal digits} of each file, by its name; None where there is no manifest. Raises
    BadCheckpoint."""
    if not (folder / MANIFEST).exists():
        return None
    files = read_json(safe_path(folder, MANIFEST), BadCheckpoint, MAX_INDEX_BYTES).get("files")
    if not isinstance(files, dict):
        fail(BadCheckpoint, f"{MANIFEST}: files", got=type(files).__name__, expected="an object: name -> size, sha256")
    for name, record in files.items():
        size = record.get("size") if isinstance(record, dict) else None
        if type(size) is not int or size < 0 or not _SHA256.fullmatch(str(record.get("sha256"))):
            fail(BadCheckpoint, f"{MANIFEST}: record of a file", got=f"{name}: {record}", expected="size and sha256")
    return files
