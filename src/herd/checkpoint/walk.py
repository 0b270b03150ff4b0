"""The list of a model's weights; and a tree in memory as a source, for writing it.

`walk` is `weights.build` with a source that only writes down what it is asked for, so that writers and checks know
names and shapes from the same place as loaders.
"""

import dataclasses
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.config import Llama4Config
from herd.disk.small_files import listed
from herd.errors import BadCheckpoint, UsageError, fail
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear, Model, Norm, build


@dataclass(frozen=True)
class WeightSpec:
    """One request of the walk, by its canonical name (see `weights.Source`)."""

    kind: str
    """vector, matrix or experts"""
    name: str
    shape: tuple[int, ...]
    """The shape: of a vector as asked; of a matrix [O, I]; of experts [E, I, O]."""
    bias: bool = False

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Full canonical tensor names and their shapes: one, or two with a bias."""
        if self.kind != "matrix":
            return {self.name: self.shape}
        found = {self.name + ".weight": self.shape}
        return {**found, self.name + ".bias": self.shape[:1]} if self.bias else found


class _Recorder:
    """A source whose tree holds names where arrays would be."""

    def __init__(self) -> None:
        self.wanted: list[WeightSpec] = []

    def vector(self, name: str, shape: tuple[int, ...]) -> Any:
        self.wanted.append(WeightSpec("vector", name, shape))
        return name

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        self.wanted.append(WeightSpec("matrix", name, (outputs, inputs), bias))
        return Dense(name, None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        self.wanted.append(WeightSpec("experts", name, (num_experts, inputs, outputs)))
        return Experts(name, name)


def walk(config: Llama4Config) -> list[WeightSpec]:
    """All weights of a model of this config, in file order."""
    recorder = _Recorder()
    build(config, recorder)
    return recorder.wanted


class TreeSource:
    """A source over a tree in memory, for writing it. Nodes are returned as they are, whatever their names say.

    Raises UsageError when the tree has another form than the config's.
    """

    def __init__(self, config: Llama4Config, model: Model) -> None:
        self.config = config
        self._nodes: dict[str, Any] = {}
        self._match(build(config, _Recorder()), model)

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of that name."""
        array = self._nodes[name]
        if tuple(array.shape) != shape:
            fail(UsageError, f"{name} in memory: shape", got=tuple(array.shape), expected=shape)
        return array  # type: ignore[no-any-return]

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """The node of that name."""
        return self._nodes[name]  # type: ignore[no-any-return]

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """The node of that name."""
        return self._nodes[name]  # type: ignore[no-any-return]

    def _match(self, names: Any, node: Any) -> None:
        if isinstance(names, str):
            self._nodes[names] = node
        elif isinstance(names, Linear):
            self._nodes[names.name] = node
        elif isinstance(names, tuple):
            if not isinstance(node, tuple) or len(node) != len(names):
                fail(UsageError, "the model has another number of layers than its config", expected=len(names))
            for a, b in zip(names, node, strict=True):
                self._match(a, b)
        elif isinstance(names, Norm):
            self._match(names.w, node.w)
            self._match(names.bias, node.bias)
        elif dataclasses.is_dataclass(names):
            if type(node) is not type(names):
                fail(UsageError, "the model is of another form", got=type(node).__name__, expected=type(names).__name__)
            for field in dataclasses.fields(names):
                self._match(getattr(names, field.name), getattr(node, field.name))


def check_names(
    path: Path,
    wanted: Set[str],
    have: Set[str],
    do: str = "files and config.json do not belong together, or files are missing",
) -> None:
    """Raise BadCheckpoint for files that lack a tensor the config wants, or hold one that it does not know."""
    told = [
        f"{len(names)} tensors {how} ({listed(set(names))})"
        for how, names in (("are missing", wanted - have), ("are unknown to the config", have - wanted))
        if names
    ]
    if told:
        fail(BadCheckpoint, f"{path}: {', '.join(told)}", do=do)
