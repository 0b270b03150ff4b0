"""What the source holds that could be worse than linear, found by walking it: patterns, loops, searches in loops."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import regex

import herd

ROOT = Path(herd.__file__).parent
MODULES = tuple(
    sorted(
        m.name for m in pkgutil.walk_packages(herd.__path__, "herd.") if m.name not in ("herd.__main__", "herd._native")
    )
)
METHODS = {"match", "fullmatch", "search", "finditer", "findall", "split", "sub", "subn"}
OVER = METHODS - {"match", "fullmatch"}
"""Methods that try from place to place."""


@cache
def tree(module: str) -> ast.Module:
    """A module, parsed."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def patterns() -> dict[str, Any]:
    """Compiled patterns that stand in modules, by the module that makes them and their name there."""
    found: dict[int, tuple[str, Any]] = {}
    for module in MODULES:
        if "torch" in module and importlib.util.find_spec("torch") is None:
            continue  # the core needs none of it
        made = {target.id for node in tree(module).body for target in _targets(node)}
        for name, value in vars(importlib.import_module(module)).items():
            if isinstance(value, re.Pattern | regex.Pattern) and name in made:
                found[id(value)] = (f"{module}.{name}", value)
    return dict(found.values())


def _targets(node: ast.stmt) -> list[ast.Name]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target for target in targets if isinstance(target, ast.Name)]


@cache
def uses() -> dict[str, set[str]]:
    """Name of a pattern -> the methods of patterns that are called on that name, anywhere in the source."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Attribute) and node.attr in METHODS:
                value = node.value
                name = (
                    value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
                )
                found.setdefault(name, set()).add(node.attr)
    return found


def inline() -> set[str]:
    """Functions that compile or use a pattern that is no module's: module, function, and what is called."""
    found = set()
    for module in MODULES:
        for where, function in functions(module):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    value = node.func.value
                    if (
                        isinstance(value, ast.Name)
                        and value.id in ("re", "regex")
                        and node.func.attr in {*METHODS, "compile"}
                    ):
                        found.add(f"{where}: {value.id}.{node.func.attr}")
    return found


def functions(module: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, function) of all that a module defines, inner ones as parts of theirs."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{prefix}.{child.name}", child
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}.{child.name}")

    return walk(tree(module), module)


def loops(rooms: tuple[str, ...]) -> set[str]:
    """Functions of those modules and packages that go on `while` something: scanners by hand are written so."""
    return {
        where
        for module in MODULES
        if module.startswith(rooms)
        for where, function in functions(module)
        if any(isinstance(node, ast.While) for node in ast.walk(function))
    }


REPEATING = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def searches() -> set[str]:
    """What looks through, or moves, everything again for each step of a loop: `place: expression`.

    Counting, indexing, removing or popping at the front in a loop; a slice to the end in a `while`; a text of an object
    that grows by `+=`; comparing a name with many (difflib).
    """
    found = set()
    for module in MODULES:
        for where, function in functions(module):
            for loop in (node for node in ast.walk(function) if isinstance(node, REPEATING)):
                for node in ast.walk(loop):
                    if _looks_again(node) or (isinstance(loop, ast.While) and _rest(node)):
                        found.add(f"{where}: {_shown(node)}")
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and _shown(node).endswith("get_close_matches"):
                    found.add(f"{where}: {_shown(node)}")
        found.update(_growing(module))
    return found


def _shown(node: ast.AST) -> str:
    """Of a call, what is called."""
    return ast.unparse(node.func if isinstance(node, ast.Call) else node)


def _looks_again(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return any(
            isinstance(op, ast.In | ast.NotIn)
            and isinstance(other, ast.Subscript)
            and isinstance(other.slice, ast.Slice)
            for op, other in zip(node.ops, node.comparators, strict=True)
        )
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    first = node.args[0] if node.args else None
    at_front = isinstance(first, ast.Constant) and first.value == 0
    return node.func.attr in ("count", "index", "remove") or (node.func.attr in ("pop", "insert") and at_front)


def _rest(node: ast.AST) -> bool:
    """A slice from a place that moves to the end."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice)):
        return False
    return node.slice.upper is None and node.slice.lower is not None and not isinstance(node.slice.lower, ast.Constant)


def _growing(module: str) -> Iterator[str]:
    """Members that begin as a text and grow by `+=`: each time all of it is copied."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ClassDef):
            texts = {
                ast.unparse(target)
                for one in ast.walk(node)
                if isinstance(one, ast.Assign | ast.AnnAssign) and isinstance(one.value, ast.Constant)
                for target in (one.targets if isinstance(one, ast.Assign) else [one.target])
                if isinstance(one.value.value, str | bytes)
            }
            for one in ast.walk(node):
                if not (isinstance(one, ast.AugAssign) and isinstance(one.op, ast.Add)):
                    continue
                if isinstance(one.target, ast.Attribute) and ast.unparse(one.target) in texts:
                    yield f"{module}.{node.name}: {ast.unparse(one)}"
