"""Kinds of weight: told apart in one place, and what is asked of any of them."""

import ast
import inspect
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import herd
from herd.weights import Dense, Experts, Linear, LoRA, Mlp, Packed, Pair, apart, fold, is_packed_as, name_of, shape_of

PACKAGE = Path(herd.__file__).parent
KINDS = {kind.__name__: kind for kind in get_args(Linear)}
WORDS = {"dense", "packed", "pair", "lora"}
"""Of their `kind`; `experts` is a kind of request to a source as well."""

MATRIX = Dense(np.zeros((6, 4), np.float32), None, "m")
STACK = Experts(np.zeros((3, 4, 6), np.float32), "e")
CODES = Packed("q8_0", np.zeros((6, 34), np.uint8), (6, 32), name="p")
BOTH = Pair(CODES, CODES, "b")
CHANGED = LoRA(MATRIX, np.zeros((2, 4)), np.zeros((6, 2)), 1.0)
NODES: dict[str, Any] = {"dense": MATRIX, "experts": STACK, "packed": CODES, "pair": BOTH, "lora": CHANGED}


def told_apart(tree: ast.AST) -> list[int]:
    """Lines that ask of which kind a weight is."""
    lines = []
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("isinstance"), args=[_, kinds]):
                asked = {name.id for name in ast.walk(kinds) if isinstance(name, ast.Name)} & KINDS.keys()
            case ast.MatchClass(cls=ast.Name(name)):
                asked = {name} & KINDS.keys()
            case ast.Compare(left=ast.Attribute(attr="kind"), comparators=[words]):
                asked = {one.value for one in ast.walk(words) if isinstance(one, ast.Constant)} & WORDS
            case _:
                continue
        if asked:
            lines.append(node.lineno)
    return lines


def test_kinds_are_told_apart_by_fold_alone() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "ops" and (lines := told_apart(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert not found, "use herd.weights.fold"
    assert told_apart(ast.parse("if isinstance(x, Dense | Pair) or x.kind == 'lora': pass")) == [1, 1]


def test_every_kind_has_its_function() -> None:
    takes = set(inspect.signature(fold).parameters) - {"node", "other"}
    assert takes == NODES.keys() == {kind.__dataclass_fields__["kind"].default for kind in KINDS.values()}
    for kind, node in NODES.items():
        assert fold(node, **{kind: lambda w: w}, other=lambda w: None) is node
        assert fold(node, other=lambda w: w) is node
        with pytest.raises(AssertionError, match=f"nothing is made of {type(node).__name__}"):
            fold(node)
    assert fold(Mlp(None, MATRIX, MATRIX), dense=lambda w: None, other=lambda w: "another") == "another"


def test_names_shapes_and_halves() -> None:
    assert {kind: name_of(node) for kind, node in NODES.items()} == {
        "dense": "m", "experts": "e", "packed": "p", "pair": "b", "lora": "m"
    }  # fmt: skip
    assert {kind: shape_of(node) for kind, node in NODES.items()} == {
        "dense": (6, 4), "experts": (3, 6, 4), "packed": (6, 32), "pair": (12, 32), "lora": (6, 4)
    }  # fmt: skip
    assert apart(BOTH) == (CODES, CODES)
    assert all(apart(node) == (node,) for kind, node in NODES.items() if kind != "pair")
    assert [kind for kind, node in NODES.items() if is_packed_as(node, "q8_0", (6, 32))] == ["packed"]
    assert not is_packed_as(CODES, "q4_0", (6, 32))
    assert not is_packed_as(CODES, "q8_0", (32, 6))
