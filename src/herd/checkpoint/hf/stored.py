"""The tensors of a folder by their canonical names, with what readers of quantised forms ask about them.

Experts stand in files in four ways; here they always stand one by one, output-major, as `experts.N.gate_proj`:

    experts.N.gate_proj.weight [F, D]        one by one: as it is
    experts.gate_projs.N.weight [F, D]       one by one under another name (linearised models)
    experts.gate_proj.weight [E, F, ...]     stacked output-major (MLX): views
    experts.gate_up_proj [E, D, 2F]          fused input-major, quantised: views of transposed halves, scales cut alike.
                                             Of floats it stays as it is
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from herd.containers.safetensors import SafeFile
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array

FLOATS = ("F32", "F16", "BF16")
_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_FUSED = ("gate_up_proj", "down_proj")
MAX_PARTS = 1 << 17
"""Tensors once stacks are taken apart: Maverick's, of three a matrix, are 28,000."""


@dataclass(frozen=True)
class Tensor:
    """One tensor, read when asked for."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    stored: str
    """Its name in the file."""

    def part(self, cut: Callable[[Array], Array], shape: tuple[int, ...]) -> "Tensor":
        """A view of it, of this shape."""
        return Tensor(self.dtype, shape, lambda: np.asarray(cut(self.read())), self.stored)


class Stored:
    """Canonical name -> Tensor, with checks. Raises BadCheckpoint that names the tensor.

    experts: how many a stack has; one of another size stays as it is, to be refused.
    """

    def __init__(self, path: Path, where: Mapping[str, tuple[SafeFile, str]], experts: int = 0) -> None:
        self.path = path
        self.tensors: dict[str, Tensor] = {}
        self.asked: set[str] = set()
        """Names of the tensors that were looked at: what is left over, no form has a use for."""
        for name, (file, stored) in where.items():
            entry = file.entries[stored]
            tensor = Tensor(entry.dtype, entry.shape, lambda file=file, stored=stored: file.array(stored), stored)  # type: ignore[misc]
            self._add(stored, _apart(name, tensor, where, experts))

    def _add(self, stored: str, found: Mapping[str, Tensor]) -> None:
        twice = self.tensors.keys() & found.keys()
        if twice:
            first = self.tensors[min(twice)].stored
            fail(BadCheckpoint, f"{self.path}: two tensors mean one", got=f"{first} and {stored}")
        self.tensors |= found
        if len(self.tensors) > MAX_PARTS:
            fail(BadCheckpoint, f"{self.path}: tensors of all experts", got=len(self.tensors), expected=MAX_PARTS)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def need(self, name: str) -> Tensor:
        """The tensor `name`. Raises BadCheckpoint when it is not there."""
        if name not in self.tensors:
            fail(BadCheckpoint, f"{self.path}: a tensor is missing", got=name)
        self.asked.add(name)
        return self.tensors[name]

    def array(self, name: str) -> Array:
        """Its content."""
        return self.need(name).read()

    def dtype(self, name: str) -> str:
        """Its dtype, as safetensors calls it."""
        return self.need(name).dtype

    def expect(self, name: str, dtypes: str | Sequence[str], *shapes: tuple[int, ...]) -> Array:
        """Its content, when it has one of these dtypes and one of these shapes."""
        found = self.need(name)
        wanted = (dtypes,) if isinstance(dtypes, str) else dtypes
        if found.dtype not in wanted or found.shape not in shapes:
            expected = f"{' or '.join(wanted)} {' or '.join(str(list(shape)) for shape in shapes)}"
            fail(BadCheckpoint, f"{self.path}: {name}", got=f"{found.dtype} {list(found.shape)}", expected=expected)
        return found.read()

    def groups(self, name: str, inputs: int, axis: int = 1) -> int:
        """Number of groups of inputs that the scales `name` have along `axis`: a divisor of the inputs."""
        shape = self.need(name).shape
        groups = shape[axis] if len(shape) == 2 else 1
        if not groups or inputs % groups:
            fail(BadCheckpoint, f"{self.path}: groups of {name}", got=groups, expected=f"a divisor of {inputs}")
        return groups

    def bits(self, name: str, words: int, inputs: int, known: Sequence[int]) -> int:
        """Bits a code when `words` of 32 bits hold `inputs` codes: one of `known`."""
        for bits in known:
            if words * 32 == inputs * bits:
                return bits
        expected = f"{inputs} codes of {', '.join(map(str, known))} bits"
        return fail(BadCheckpoint, f"{self.path}: {name}", got=f"{words} words of 32 bits", expected=expected)

    def divides(self, name: str, count: int, by: int, what: str) -> None:
        """Check that codes of `name` fill their words: `count` inputs or outputs (`what`) are a multiple of `by`."""
        if count % by:
            fail(BadCheckpoint, f"{self.path}: {what} of {name}", got=count, expected=f"a multiple of {by}")

    def order(self, name: str, inputs: int, groups: int) -> Array | None:
        """The group of each input, when the tensor `name` is there and says other than one after the other."""
        if name not in self.tensors:
            return None
        found = self.expect(name, ("I32", "I64"), (inputs,))
        if (found == -1).all() or np.array_equal(found, np.arange(inputs) // (inputs // groups)):
            return None
        if found.min() < 0 or found.max() >= groups:
            got = f"{found.min()} to {found.max()}"
            fail(BadCheckpoint, f"{self.path}: {name}", got=got, expected=f"0 to {groups - 1}")
        return found.astype(np.intp)


def _apart(name: str, tensor: Tensor, where: Mapping[str, tuple[SafeFile, str]], experts: int) -> dict[str, Tensor]:
    stem, found, rest = name.partition(".experts.")
    if not found:
        return {name: tensor}
    first, _, ending = rest.partition(".")
    if first.endswith("_projs"):
        number, _, ending = ending.partition(".")
        return {f"{stem}.experts.{number}.{first[:-1]}.{ending}": tensor}
    if first in _PROJECTIONS and ending and tensor.shape[:1] == (experts,):
        views = ((e, tensor.part(lambda x, e=e: x[e], tensor.shape[1:])) for e in range(experts))  # type: ignore[misc]
        return {f"{stem}.experts.{e}.{first}.{ending}": view for e, view in views}
    fused = next((p for p in _FUSED if rest.startswith(p)), None)
    weight = where.get(f"{stem}.experts.{fused}")
    if fused is None or weight is None:
        return {name: tensor}
    file, stored = weight
    whole = file.entries[stored]
    halves = ("gate_proj", "up_proj") if fused == "gate_up_proj" else ("down_proj",)
    if whole.dtype in FLOATS or len(whole.shape) != 3 or whole.shape[0] != experts or whole.shape[2] % len(halves):
        return {name: tensor}
    return _fused(stem, halves, rest.removeprefix(fused), tensor, whole.shape)


def _fused(stem: str, halves: Sequence[str], ending: str, tensor: Tensor, weight: tuple[int, ...]) -> dict[str, Tensor]:
    """The parts of a fused stack [E, I, O] of codes, or of its scales ([E, groups, O], [E, O, 1], one for all, ...)."""
    count, _, outputs = weight
    ending = ".weight" + ending.removeprefix("_weight") if ending else ".weight"
    width = outputs // len(halves)
    found: dict[str, Tensor] = {}
    for e in range(count):
        for k, half in enumerate(halves):
            cut, shape = _cut(tensor.shape, e, k * width, width, count, outputs)
            found[f"{stem}.experts.{e}.{half}{ending}"] = tensor.part(cut, shape)
    return found


def _cut(
    shape: tuple[int, ...], e: int, start: int, width: int, count: int, outputs: int
) -> tuple[Callable[[Array], Array], tuple[int, ...]]:
    """How expert e's outputs from `start` are cut out of a tensor of this shape, and the shape of the result."""
    if len(shape) == 3 and shape[0] == count and shape[2] == outputs:
        return lambda x: x[e, :, start : start + width].T, (width, shape[1])
    if len(shape) == 3 and shape[0] == count and shape[1:] == (outputs, 1):
        return lambda x: x[e, start : start + width], (width, 1)
    if shape and shape[0] == count:
        return lambda x: x[e], shape[1:]
    return lambda x: x, shape
