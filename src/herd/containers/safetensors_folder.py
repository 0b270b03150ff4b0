"""Which safetensors files make up a Hugging Face folder, and which tensor is in which: the files say it, an index names
them.

A name in an index is a plain file name; a file is a regular one inside the folder. Links that leave it are refused,
but for the layout of Hugging Face's own cache, snapshots/REVISION/FILE -> ../../blobs/DIGEST.
"""

import re
from pathlib import Path

from herd.containers.safetensors import SafeFile
from herd.disk.small_files import MAX_INDEX_BYTES, listed, read_json, safe_path
from herd.errors import BadCheckpoint, NotFound, fail

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_SHARDS = 4096
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, or the one file given. Raises NotFound, BadCheckpoint."""
    if not path.is_dir():
        index = path.parent / INDEX
        if index.is_file() and {path.name} < set(_weight_map(path.parent).values()):
            fail(BadCheckpoint, f"{path.name} is one shard of several", do=f"name the folder {path.parent}")
        return [safe_path(path.parent, path.name)]
    single, index = path / SINGLE, path / INDEX
    if index.exists() or index.is_symlink():
        if single.exists() and SINGLE not in _weight_map(path).values():  # mlx-lm indexes a single file, too
            fail(BadCheckpoint, f"{path} has both {SINGLE} and {INDEX}", do="remove the one that is not meant")
        return _shards(path)
    found = sorted(p.name for p in path.glob("*.safetensors"))
    if not found:
        fail(NotFound, f"{path} has no safetensors file")
    if SINGLE in found:
        found = [SINGLE]
    if len(found) > 1:
        fail(BadCheckpoint, f"{path} has several safetensors files and no {INDEX}", got=listed(found))
    return [safe_path(path, found[0])]


def open_files(path: Path) -> list[SafeFile]:
    """All files of a checkpoint, open, with every tensor of the index, none in two. Raises NotFound, BadCheckpoint.

    A tensor may be in another of the files than the index says, or unknown to it (`not_as_indexed`).
    """
    files: list[SafeFile] = []
    try:
        for part in weight_files(path):
            files.append(SafeFile(part))
        _check_unique(files)
        if path.is_dir() and (path / INDEX).is_file():
            _check_index(_weight_map(path), files)
    except BaseException:
        for file in files:
            file.close()
        raise
    return files


def _weight_map(folder: Path) -> dict[str, str]:
    safe_path(folder, INDEX)
    where = read_json(folder / INDEX, BadCheckpoint, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(where, dict) or not where:
        fail(BadCheckpoint, f"{INDEX}: weight_map", got=type(where).__name__, expected="an object: tensor -> file")
    for shard in where.values():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            fail(BadCheckpoint, f"{INDEX}: file name", got=shard, expected="a plain name.safetensors in the folder")
    return where


def _shards(folder: Path) -> list[Path]:
    names = sorted(set(_weight_map(folder).values()))
    if len(names) > MAX_SHARDS:
        fail(BadCheckpoint, f"{INDEX}: files", got=len(names), expected=f"at most {MAX_SHARDS}")
    missing = [name for name in names if not (folder / name).exists() and not (folder / name).is_symlink()]
    if missing:
        fail(
            BadCheckpoint,
            f"{folder}: {len(missing)} of {len(names)} shards are missing",
            got=listed(missing),
            do="fetch them again",
        )
    return [safe_path(folder, name) for name in names]


def _check_unique(files: list[SafeFile]) -> None:
    where: dict[str, str] = {}
    for file in files:
        twice = file.entries.keys() & where.keys()
        if twice:
            name = min(twice)
            fail(
                BadCheckpoint,
                f"{len(twice)} tensors are in two files",
                got=f"{listed(twice)} in {where[name]} and {file.path.name}",
            )
        where |= dict.fromkeys(file.entries, file.path.name)


def _check_index(where: dict[str, str], files: list[SafeFile]) -> None:
    have = set().union(*(file.entries for file in files))
    if missing := where.keys() - have:
        said = ", ".join(sorted({where[name] for name in missing})[:3])
        fail(
            BadCheckpoint,
            f"{len(missing)} tensors of {INDEX} are in none of its files",
            got=f"{listed(missing)}, by the index in {said}",
            do="fetch them again",
        )


def not_as_indexed(path: Path, files: list[SafeFile]) -> list[str]:
    """A line where tensors are in other files of a folder than its index says, or are not in the index."""
    if not path.is_dir() or not (path / INDEX).is_file():
        return []
    where = _weight_map(path)
    moved = {name for file in files for name in file.entries if where.get(name) != file.path.name}
    if not moved:
        return []
    return [f"{path / INDEX} does not say where {len(moved)} tensors are; they were found: {listed(moved)}"]
