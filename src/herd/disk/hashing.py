"""Digests of files. The identity of a model's files is `herd.store.files`."""

import hashlib
from pathlib import Path

from herd.progress import Progress, silent

BLOCK = 1 << 20
"""Bytes that are read at once."""


def sha256(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    size, done = path.stat().st_size, 0
    with open(path, "rb") as f:
        while block := f.read(BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"checking {path.name}", done, max(size, done))
    return digest.hexdigest()
