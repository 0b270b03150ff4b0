"""The files that peer.py runs on: slices made when missing, into one folder; SmolLM2 out of the store."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import HERE
from workloads import SIZES, SLICES

from herd.errors import HerdError
from herd.store import stored


def folder(asked):
    """Where slices lie: asked for, or herd-bench in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "herd-bench"
    place = Path(asked) if asked else default
    (place / "states").mkdir(parents=True, exist_ok=True)
    return place


def find(place, model):
    """The file of a model, made if need be. Raises SystemExit when it cannot be had."""
    path = place / f"{model}.gguf"
    if path.exists():
        return path
    if model == "smollm2":
        try:
            return Path(stored.resolve(model))
        except HerdError:
            raise SystemExit(f"smollm2 is neither {path} nor in the store; herd pull smollm2") from None
    free = shutil.disk_usage(place).free
    if free < SIZES[model] * 1.1:
        raise SystemExit(
            f"{model} takes {SIZES[model] / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {place}; --models FOLDER"
        )
    print(f"making {path}", file=sys.stderr, flush=True)
    part = path.with_suffix(".part")
    subprocess.run(
        [sys.executable, str(HERE / "make_slice.py"), str(part), *SLICES[model]], check=True, stdout=sys.stderr
    )
    part.rename(path)
    return path
