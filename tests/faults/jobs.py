"""What Herd writes, as jobs that can be run again and again: into a folder, over an older version or over nothing."""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from helpers import TINY, hf_folder
from herd.checkpoint import open_checkpoint
from herd.config import Llama4Config
from herd.convert import convert
from herd.quantize import quantize, writing
from herd.store import stored
from herd.store.auto_pack import packed_for
from herd.store.packed_over import PackedOver

GGUF = Path(__file__).parents[1] / "fixtures" / "gguf"
SMALL = replace(TINY, num_layers=2, vision=None)
SEEING = replace(TINY, num_layers=2)

Run = Callable[[Path, Path, str], Any]
"""(source, folder to write into, old or new): write that version there, over whatever there is."""


@dataclass(frozen=True)
class Job:
    """A way of writing. config: of its source; None: a GGUF fixture. resumable: what an interrupted run finished is
    not done again. quiet: a full disk is no error, the model is used as it is."""

    run: Run
    config: Llama4Config | None = None
    resumable: bool = False
    quiet: bool = False

    def prepare(self, folder: Path) -> Path:
        """Make the source."""
        if self.config is not None:
            return hf_folder(folder / "source", self.config)
        shutil.copyfile(GGUF / "llama4-q4_k.gguf", folder / "source.gguf")
        return folder / "source.gguf"


def _quantize(name: str) -> Run:
    kind = {"old": "q4_0", "new": "q5_0"}
    return lambda source, out, version: quantize(
        source, out / name, kind[version], threads=1, compare=False, overwrite=True
    )


def _pack(source: Path, out: Path, version: str) -> Any:
    """The old version is that of the file before it was touched."""
    os.environ["HERD_HOME"] = str(out)
    os.utime(source, ns=(1, 1) if version == "old" else (2, 2))
    with open_checkpoint(source) as own:
        over = packed_for(own)
        found = isinstance(over, PackedOver)
        over.close()
    return found


def _register(source: Path, out: Path, version: str) -> Any:
    os.environ["HERD_HOME"] = str(out)
    stored.time.time = lambda: 1.0  # type: ignore[attr-defined]
    return stored.import_path(source, version)


JOBS = {
    "convert folder": Job(
        lambda s, out, v: convert(s, out / "t", {"old": "f16", "new": "f32"}[v], overwrite=True), SMALL
    ),
    "convert gguf": Job(
        lambda s, out, v: convert(s, out / "t.gguf", {"old": "f16", "new": "q8_0"}[v], overwrite=True), SMALL
    ),
    "quantize folder": Job(_quantize("t"), SMALL, resumable=True),
    "quantize gguf": Job(_quantize("t.gguf"), SEEING, resumable=True),
    "pack": Job(_pack, quiet=True),
    "register": Job(_register),
}


def encoded(run: Callable[[], Any]) -> set[str]:
    """The tensors that are encoded while `run` runs."""
    found: set[str] = set()
    real = writing.encode_rows

    def spy(format: str, rows: Any, importance: Any, where: str, *rest: Any) -> Any:
        found.add(where.split(" expert ")[0])
        return real(format, rows, importance, where, *rest)

    writing.encode_rows = spy
    try:
        run()
    finally:
        writing.encode_rows = real
    return found


def visible(out: Path) -> dict[str, str]:
    """Name -> digest of everything in `out` that a person, or Herd, would take for finished; a folder is one thing."""
    found = {}
    for path in sorted(out.iterdir()):
        if path.name == "packed":
            found |= {f"packed/{name}": digest for name, digest in visible(path).items()}
        elif not path.name.startswith(".") and path.name != "locks":
            found[path.name] = digest_of(path)
    return found


def digest_of(path: Path) -> str:
    """Of names and contents."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def hidden(out: Path) -> list[str]:
    """What is not finished."""
    return sorted(str(p.relative_to(out)) for p in out.rglob(".*"))
