"""Small files that come with a checkpoint or that people write: paths that stay in the folder, JSON and TOML with
limits first.

Limits: size, depth, number of values, no repeated keys. Anything wrong is one typed error naming the file; memory stays
under 50 MiB whatever the content.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from herd.errors import BadCheckpoint, BadFile, HerdError, NotFound, fail, printable
from herd.strict_json import excess, unique

MAX_BYTES = 1 << 20
"""Most bytes of config.json and its like."""
MAX_INDEX_BYTES = 8 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Members of objects; elements of lists may be twice as many."""
MAX_KEY_PARTS = 32
"""Most parts of a dotted key of a TOML file: its parser takes time with their square."""
_PART = r"""(?:[\w-]{1,200}+|"(?:[^"\\\n]|\\.){0,200}+"|'[^'\n]{0,200}+')[ \t]{0,200}+"""
_LONG_KEY = re.compile(r"""(?<![\w"'-])(?:""" + _PART + r"\.[ \t]{0,200}+){32}", re.ASCII)


def regular_file(path: Path, error: type[HerdError] = BadFile) -> os.stat_result:
    """The `stat` of a regular file. Raises NotFound, or `error` for a folder, pipe, device or socket (never opened)."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        fail(NotFound, f"{path} does not exist")
    except OSError as problem:  # a loop of links, a name too long, no permission
        fail(error, f"{path}: {problem.strerror}")
    if not stat.S_ISREG(found.st_mode):
        fail(error, f"{path} is not a regular file")
    return found


def safe_path(folder: Path, name: str) -> Path:
    """`folder`/`name`, where `name` is a plain file name whose file truly lies there. Raises NotFound,
    BadCheckpoint."""
    if not name or "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
        fail(BadCheckpoint, "a file's name", got=name, expected="a plain name in the same folder")
    path = folder / name
    regular_file(path, BadCheckpoint)
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as problem:
        fail(BadCheckpoint, f"{path}: {problem}")
    if real.is_relative_to(home):
        return path
    in_cache = home.parent.name == "snapshots" and real.parent == home.parent.parent / "blobs"
    if not in_cache:
        fail(BadCheckpoint, f"{path} is a link that leaves its folder", got=str(real), do="copy the file in")
    return path


def read_json(path: Path, error: type[HerdError] = BadFile, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises NotFound or `error`."""
    size = regular_file(path, error).st_size
    if size > max_bytes:
        fail(error, f"{path.name}: size", got=f"{size} bytes", expected=f"at most {max_bytes}")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as problem:
        fail(error, f"{path}: {problem.strerror}")
    return parse_object(data[:max_bytes], path.name, error)


def parse_object(data: bytes, what: str, error: type[HerdError] = BadFile) -> dict[str, Any]:
    """The JSON object in `data`; `what` names it in errors."""
    if len(data) > MAX_BYTES and not data.isascii():
        # Python holds such a text at 4 bytes a character; an index has no need of it.
        fail(error, f"{what}: over {MAX_BYTES} bytes and not all ASCII")
    found = excess(data, depth=MAX_DEPTH, values=2 * MAX_VALUES)
    if found is not None:
        most = f"nested more than {MAX_DEPTH} deep" if found == "deeper nesting" else f"more than {MAX_VALUES} values"
        fail(error, f"{what}: {most}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as problem:
        fail(error, f"{what}: not UTF-8 at byte {problem.start}")

    def twice(name: str) -> NoReturn:
        fail(error, f"{what}: a key stands twice", got=name)

    def constant(name: str) -> NoReturn:
        fail(error, f"{what}: {name} is not JSON")

    try:
        value = json.loads(text, object_pairs_hook=unique(twice), parse_constant=constant)
    except HerdError:
        raise
    except (ValueError, RecursionError) as problem:
        fail(error, f"{what}: not JSON", got=str(problem))
    if not isinstance(value, dict):
        fail(error, f"{what}: JSON", got=type(value).__name__, expected="an object")
    return value


def listed(names: Mapping[str, Any] | list[str] | set[str] | tuple[str, ...], most: int = 3) -> str:
    """A few names of many, as text for one line of an error."""
    ordered = sorted(names)
    shown = ", ".join(printable(n[:80]) for n in ordered[:most])
    return shown if len(ordered) <= most else f"{shown} and {len(ordered) - most} more"


def read_toml(path: Path, what: str, error: type[HerdError] = BadFile, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The table in a TOML file; `what` names it in errors. Raises NotFound or `error`."""
    size = regular_file(path, error).st_size
    if size > max_bytes:
        fail(error, f"{what}: size", got=f"{size} bytes", expected=f"at most {max_bytes}")
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes).decode()
        if _LONG_KEY.search(text):
            fail(error, f"{what}: a key", got="more parts", expected=f"at most {MAX_KEY_PARTS}, with dots between")
        return tomllib.loads(text)
    except OSError as problem:
        fail(error, f"{what}: {problem.strerror}")
    except HerdError:
        raise
    except (ValueError, RecursionError) as problem:
        fail(error, what, got=str(problem)[:200], expected="TOML")
