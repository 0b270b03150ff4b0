"""The page's modules without a browser: run by the Node.js that comes with playwright, over a small document."""

import json
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

driver = pytest.importorskip("playwright._impl._driver", reason="playwright is not installed: pip install playwright")
SCRIPTS = Path(__file__).parent / "page"
PAGE = Path(str(resources.files("herd.server"))) / "page"
BEFORE_PATTERN = "(,=:[!&|?{};~^+-*%<>"
"""After one of these a slash begins a regular expression; after a name, a number or a closing bracket it divides."""


def run(script: str, given: Any) -> Any:
    """What tests/server/page/SCRIPT answers to JSON on its input."""
    node = driver.compute_driver_executable()[0]
    ended = subprocess.run(
        [node, SCRIPTS / script, PAGE],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


def sources() -> dict[str, str]:
    """The page's own modules by name."""
    return {file.name: file.read_text() for file in sorted(PAGE.glob("*.js"))}


def patterns(source: str) -> Iterator[str]:
    """All regular expressions of a module, as they are written: /source/flags."""
    last, at = "", 0
    depths: list[int] = []  # of braces, for each template that is open
    while at < len(source):
        here = source[at]
        if source.startswith("//", at):
            at = source.find("\n", at) % (len(source) + 1)
        elif source.startswith("/*", at):
            at = source.index("*/", at) + 2
        elif here in "\"'":
            at, last = _past(source, at + 1, here), here
        elif here == "`" or (here == "}" and depths and depths[-1] == 0):
            if here == "}":
                depths.pop()
            at, opened = _past_template(source, at + 1)
            depths += [0] if opened else []
            last = "(" if opened else "`"
        elif here == "/" and (last in BEFORE_PATTERN or source[:at].rstrip().endswith(" return")):
            end = _past(source, at + 1, "/")
            while source[end].isalpha():
                end += 1
            yield source[at:end]
            at, last = end, "/x"
        else:
            if depths and here in "{}":
                depths[-1] += 1 if here == "{" else -1
            last = last if here.isspace() else here
            at += 1


def _past(source: str, at: int, mark: str) -> int:
    """Behind the mark that ends a string or a pattern: in brackets a slash is a character."""
    inside = False
    while source[at] != mark or inside:
        inside = mark == "/" and (source[at] == "[" or (inside and source[at] != "]"))
        at += 2 if source[at] == "\\" else 1
    return at + 1


def _past_template(source: str, at: int) -> tuple[int, bool]:
    """Behind a piece of a template, and whether an expression begins there."""
    while source[at] != "`":
        if source.startswith("${", at):
            return at + 2, True
        at += 2 if source[at] == "\\" else 1
    return at + 1, False
