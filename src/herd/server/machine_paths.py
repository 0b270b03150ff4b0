"""Removes paths of this machine from what clients are told: only the last name of each is left.

Errors name files by their whole path, which is right on a terminal and nobody's business on the network. Folders that
are known (of models, of the user) are found whatever characters they have; other absolute paths by where they begin.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

_TOPS = {"home", "root", "tmp", "usr", "var", "etc", "opt", "mnt", "media", "srv", "run", "dev", "proc", "sys", "Users"}
_ENDS = r"\s'\"`,;:()\[\]{}<>|"
"""Characters that end a path in a sentence; known folders may have them, too."""
_known: set[str] = set()
_pattern: re.Pattern[str] | None = None


def hide(path: Path) -> None:
    """Add a file or folder, and the folder that it lies in, to the known paths."""
    global _pattern
    found = {str(p) for p in (path.absolute(), path.absolute().parent) if len(p.parts) > 1}
    if not found <= _known:
        _known.update(found)
        _pattern = None


def without_paths(text: str) -> str:
    """The text with each absolute path replaced by its last name."""
    global _pattern
    if "/" not in text:
        return text
    if _pattern is None:
        _pattern = _compiled()
    return _pattern.sub(_last_name, text)


def _compiled() -> re.Pattern[str]:
    for path in (Path.home(), Path(tempfile.gettempdir()), Path(sys.prefix), Path(__file__).parents[2]):
        hide(path)
    tops = sorted(_TOPS | {name for name in os.listdir("/") if name.isprintable()}, key=len, reverse=True)
    begins = [
        *sorted(map(re.escape, _known), key=len, reverse=True),
        "/(?:" + "|".join(map(re.escape, tops)) + ")(?=/)",
    ]
    return re.compile(rf"(?<![\w./~])(?:{'|'.join(begins)})(?![\w-])(?:/[^{_ENDS}]*)?")


def _last_name(found: re.Match[str]) -> str:
    return found[0].rstrip("/").rsplit("/", 1)[-1]
