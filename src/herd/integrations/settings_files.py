"""Settings merged into a file of another program's: what they do not name is kept, or nothing is written.

JSON is read, merged and written again, which keeps all else but its spacing; a file with comments, or with a name
twice, is refused. TOML gets tables appended, and values outside tables put before all else, so that comments and order
stay; a table that is there already, with other values, is refused. The file before is kept beside it.
"""

import json
import shutil
import time
import tomllib
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from herd.disk.atomic import make_folders, new_file
from herd.errors import BadFile, fail
from herd.integrations.clients import NO_KEY

BY_HAND = "change it by hand: herd connect NAME prints what belongs there"


def merge_file(path: Path, settings: Mapping[str, Any], kind: Literal["json", "toml"]) -> Path | None:
    """Merge settings into a file, made if it is missing. The backup of what stood there; None: nothing did, or the file
    has them already. NO_KEY takes the place of no other text. Raises BadFile, with nothing written, for what cannot be
    merged safely."""
    path = path.resolve()  # a link stays one
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except UnicodeDecodeError:
        fail(BadFile, f"{path}: not UTF-8", do=BY_HAND)
    after = (merged_json if kind == "json" else merged_toml)(before, settings, path)
    if after == before:
        return None
    make_folders(path.parent)
    backup = None
    if before:
        backup = _free(path.with_name(f"{path.name}.before-herd-{time.strftime('%Y%m%d-%H%M%S')}"))
        with new_file(backup) as temporary:
            shutil.copy2(path, temporary)
    with new_file(path, overwrite=True) as temporary:
        temporary.chmod(path.stat().st_mode & 0o777 if before else 0o600)  # a new one may hold a key
        temporary.write_text(after, encoding="utf-8")
    return backup


def _free(path: Path) -> Path:
    """The name that is given, or it with a number: a backup is never written over."""
    numbered = (path.with_name(f"{path.name}-{n}") for n in count(2))
    return next(name for name in chain([path], numbered) if not name.exists())


def merged_json(before: str, settings: Mapping[str, Any], path: Path) -> str:
    """The file's text with the settings in it."""
    try:
        found = json.loads(before or "{}", object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        fail(BadFile, f"{path}: not plain JSON ({error})", do=BY_HAND)
    if not isinstance(found, dict):
        fail(BadFile, f"{path}", got=type(found).__name__, expected="a JSON object", do=BY_HAND)
    merged = _merged(found, settings, str(path))
    return before if merged == found else json.dumps(merged, indent=2, ensure_ascii=False) + "\n"


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a name that comes twice would lose a value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Objects member by member; of anything else the new value. Raises BadFile where one is an object and one not."""
    found = dict(old)
    for name, value in new.items():
        have = found.get(name)
        if isinstance(have, dict) and isinstance(value, Mapping):
            found[name] = _merged(have, value, f"{where}: {name}")
        elif have is not None and isinstance(have, dict) != isinstance(value, Mapping):
            fail(BadFile, f"{where}: {name}", got=type(have).__name__, expected="what the client has there", do=BY_HAND)
        elif have is None or value != NO_KEY:
            found[name] = value
    return found


def merged_toml(before: str, settings: Mapping[str, Any], path: Path) -> str:
    """The file's text with the tables that are missing at its end, and before it values that stand in no table."""
    try:
        found = tomllib.loads(before)
        tables = [(names, table) for names, table in _tables(settings) if not _has(found, names, table, path)]
        if not tables:
            return before
        top = [_table_text(names, table) for names, table in tables if not names]
        rest = [_table_text(names, table) for names, table in tables if names]
        ended = before if before.endswith("\n") else f"{before}\n"
        after = "\n".join([*top, *([ended] if before else []), *rest])
        assert tomllib.loads(after) == _merged(found, settings, str(path)), "what was appended is not what was meant"
    except tomllib.TOMLDecodeError as error:
        fail(BadFile, f"{path}: not TOML that tables can be added to ({error})", do=BY_HAND)
    return after


def _tables(settings: Mapping[str, Any], names: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Tables that have values of their own, by their names from the top; the top, without a name, comes first."""
    own = {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
    inner = [found for n, v in settings.items() if isinstance(v, Mapping) for found in _tables(v, (*names, n))]
    return [(names, own), *inner] if own else inner


def _has(found: Any, names: Sequence[str], table: Mapping[str, Any], path: Path) -> bool:
    """Whether a table is there. Raises BadFile for one with other values."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    have = {name: found[name] for name in table if name in found} if isinstance(found, dict) else found
    if have is None or (not names and not have):
        return False
    others = [name for name, value in table.items() if name not in have or (have[name] != value != NO_KEY)]
    if others:
        where = "".join(f"{name}." for name in names)
        there = ", ".join(f"{where}{name}" for name in others)
        fail(BadFile, f"{path}: {there}: not there, or with another value", do=BY_HAND)
    return True


def _table_text(names: Sequence[str], table: Mapping[str, Any]) -> str:
    """A table; the top has no head. JSON's strings, numbers and truth values are TOML's."""
    head = f"[{'.'.join(names)}]\n" if names else ""
    return head + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in table.items())


def shown(settings: Mapping[str, Any], kind: Literal["json", "toml"]) -> str:
    """Settings as a person would write them into the file."""
    if kind == "json":
        return json.dumps(settings, indent=2, ensure_ascii=False)
    return "\n".join(_table_text(names, table) for names, table in _tables(settings)).rstrip()
