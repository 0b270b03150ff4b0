"""Anthropic's tools that its clients run themselves (a shell, an editor of files, a memory): a type and a date stand in
a request, and the model is told them as functions, with the parameters that the clients take.

Source: Anthropic's documentation of each tool, its Python client's commands of the memory, AI SDK's schemas of all.
What it is not: tools that Anthropic's own machines run (`foreign` leaves them out).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

UNDO_UNTIL, NEW_STR_UNTIL = "20250124", "20250429"
"""The last editors that can undo, and whose insertions are called `new_str` as replacements are."""


class Family(NamedTuple):
    """Versions of one tool. name, parameters: of a version (its date)."""

    description: str
    name: Callable[[str], str]
    parameters: Callable[[str], dict[str, Any]]


def served(tool: Mapping[str, Any]) -> dict[str, Any] | None:
    """A tool of a client as a function, with all else that its request says of it; None: it is none of these."""
    family, _, version = str(tool.get("type")).rpartition("_")
    if family not in FAMILIES or not (len(version) == 8 and version.isascii() and version.isdigit()):
        return None
    of = FAMILIES[family]
    made = {"name": of.name(version), "description": of.description, "input_schema": of.parameters(version)}
    return {**made, **{k: v for k, v in tool.items() if v is not None}, "type": "custom"}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _line(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": [*names], "description": "What to do"}


LINES = {
    "type": "array",
    "items": {"type": "integer"},
    "description": "view: the first and the last line to show, counted from 1; -1 as the last: to the end",
}
AFTER = _line("insert: the line to insert after; 0: at the start")


def _bash(version: str) -> dict[str, Any]:
    restart = {"type": "boolean", "description": "true: begin a new session of the shell instead"}
    return _object(["command"], command=_text("The command to run"), restart=restart)


def _editor(version: str) -> dict[str, Any]:
    undo = ["undo_edit"] if version <= UNDO_UNTIL else []
    is_old = version <= NEW_STR_UNTIL
    new = "str_replace: the text that takes its place"
    inserted = {} if is_old else {"insert_text": _text("insert: the text to insert")}
    return _object(
        ["command", "path"],
        command=_commands("view", "create", "str_replace", "insert", *undo),
        path=_text("Absolute path of a file, or of a folder to view"),
        file_text=_text("create: all of the file's text"),
        old_str=_text("str_replace: the text to replace, which stands once in the file"),
        new_str=_text(f"{new}; insert: the text to insert" if is_old else new),
        insert_line=AFTER,
        **inserted,
        view_range=LINES,
    )


def _memory(version: str) -> dict[str, Any]:
    return _object(
        ["command"],
        command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
        path=_text("The file or folder, below /memories; all commands but rename need it"),
        file_text=_text("create: all of the file's text"),
        old_str=_text("str_replace: the text to replace"),
        new_str=_text("str_replace: the text that takes its place"),
        insert_line=AFTER,
        insert_text=_text("insert: the text to insert"),
        old_path=_text("rename: what it is called now"),
        new_path=_text("rename: what it is to be called"),
        view_range=LINES,
    )


FAMILIES: Mapping[str, Family] = {
    "bash": Family("Runs commands in a shell that stays open between calls.", lambda version: "bash", _bash),
    "text_editor": Family(
        "Views, creates and edits text files.",
        lambda version: "str_replace_editor" if version <= UNDO_UNTIL else "str_replace_based_edit_tool",
        _editor,
    ),
    "memory": Family(
        "Keeps notes from one conversation to the next, as files below /memories.", lambda version: "memory", _memory
    ),
}
"""The families of client tools, by the type without its date."""
