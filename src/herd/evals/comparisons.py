"""Comparisons that are kept: where two runs of an upgrade lie, and what was found.

    $HERD_HOME/evals/NAME/KEY/A/TASK/results.jsonl      the version that the name meant
                              B/TASK/results.jsonl      the other one
                              comparison.json

KEY tells what was compared (versions, tasks, seed, flags), so the same upgrade goes on where it was interrupted, and
another one never mixes with it. What it is not: the comparison itself (`comparing`).
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.atomic import make_folders, new_file
from herd.errors import HerdError
from herd.evals.comparing import Compared
from herd.evals.results import RESULTS, read
from herd.evals.statistics import Verdict
from herd.store import registry

FIRST, SECOND = "A", "B"
"""Folders of the two runs."""


def folder_of(name: str, key: Mapping[str, Any]) -> Path:
    """Where a comparison of two versions of NAME lies. key: all that tells it from any other."""
    digest = hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()[:12]
    return registry.home() / "evals" / registry.check_name(name).replace("/", "--") / digest


def take_over(folder: Path, job: Mapping[str, str]) -> bool:
    """Copy the results of a task from an earlier comparison of the same name, where one holds the same job; whether
    there was one. folder: of the run's task, KEY/A/TASK. What is there already stays."""
    if (folder / RESULTS).exists():
        return False
    for path in sorted(folder.parents[2].glob(f"*/[{FIRST}{SECOND}]/{folder.name}/{RESULTS}")):
        try:
            same = read(path).job == dict(job)
        except (HerdError, OSError):
            continue
        if same:
            make_folders(folder)
            with new_file(folder / RESULTS) as temporary:
                shutil.copyfile(path, temporary)
            return True
    return False


def save(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write what was found into a comparison's folder, whole or not at all."""
    make_folders(folder)
    path = folder / "comparison.json"
    with new_file(path, overwrite=True) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1) + b"\n")
    return path


def overall(rows: Iterable[Compared]) -> Verdict:
    """What all tasks together say of the second model: worse where one is, else better where one is, the same where all
    are, and else that nobody can tell."""
    found = {row.verdict for row in rows}
    for verdict in ("worse", "better"):
        if verdict in found:
            return verdict
    return "same" if found == {"same"} else "cannot tell"
