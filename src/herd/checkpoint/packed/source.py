"""Weights of Herd's packed form, mapped: nodes look into the files, nothing is copied (see `form`)."""

from dataclasses import replace
from pathlib import Path

from herd.checkpoint.packed.form import GATE_UP, PAD, PackedTensor, from_metadata, halves
from herd.checkpoint.walk import check_names, walk
from herd.config import Llama4Config
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_folder import open_files
from herd.errors import BadCheckpoint, fail
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear, Packed, Pair


class PackedFiles:
    """The tensors of packed files by name, each as a node or an array. Raises NotFound, BadCheckpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = open_files(path)
        self._where: dict[str, tuple[SafeFile, PackedTensor | None]] = {}
        try:
            for file in self.files:
                table = from_metadata(file.path.name, file.metadata, file.entries)
                for name in file.entries:
                    if not name.startswith(PAD):
                        self._where[name] = (file, table.get(name))
        except BaseException:
            self.close()
            raise

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._where)

    def types(self) -> dict[str, int]:
        """Number format -> bytes of weights."""
        found: dict[str, int] = {}
        for name, (file, packed) in self._where.items():
            entry = file.entries[name]
            kind = packed.format if packed else entry.dtype.lower()
            found[kind] = found.get(kind, 0) + entry.end - entry.begin
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the weights that a tensor holds."""
        file, packed = self._where[name]
        return packed.shape if packed else file.entries[name].shape

    def is_float(self, name: str) -> bool:
        """Whether a tensor is a plain float array, shaped as Hugging Face has it."""
        return self._where[name][1] is None

    def array(self, name: str) -> Array:
        """A tensor as it lies in the file."""
        return self._where[name][0].array(name)

    def node(self, name: str, called: str) -> Dense | Packed:
        """A matrix or an output-major stack as a node, called `called`."""
        packed = self._where[name][1]
        if packed is None or packed.layout == "rows":
            return Dense(self.array(name), None, called)
        return Packed(packed.format, self.array(name), packed.shape, None, called, packed.layout)

    def close(self) -> None:
        """Unmap the files once nothing looks into them any more."""
        for file in self.files:
            file.close()


class PackedSource(PackedFiles):
    """A `weights.Source` over a whole packed folder. Names and shapes are compared with the config's at once.

    Raises NotFound, BadCheckpoint.
    """

    def __init__(self, path: Path, config: Llama4Config) -> None:
        super().__init__(path)
        self.config = config
        self.notes: list[str] = []
        try:
            self._check(config)
        except BaseException:
            self.close()
            raise

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """See weights.Source."""
        return self.array(name)

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as a mapped Packed or Dense node."""
        node = self.node(name + ".weight", name)
        return replace(node, bias=self.array(name + ".bias")) if bias else node

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A stack as a mapped Pair, Packed, or float stack."""
        if name in self._where:
            return Experts(self.array(name), name) if self.is_float(name) else self.node(name, name)
        gate, up = halves(name)
        return Pair(self.node(gate, name), self.node(up, name), name)

    def _check(self, config: Llama4Config) -> None:
        wanted: dict[str, tuple[int, ...]] = {}
        for item in walk(config):
            if item.kind == "experts":
                wanted |= self._expert_shapes(item.name, item.shape)
            else:
                wanted |= item.tensors
        check_names(self.path, wanted.keys(), self._where.keys())
        for name, shape in wanted.items():
            have = self.shape(name)
            if have != shape:
                fail(BadCheckpoint, f"{self.path}: shape of {name}", got=list(have), expected=list(shape))
        vectors = [w.name for w in walk(config) if w.kind == "vector"]
        vectors += [w.name + ".bias" for w in walk(config) if w.bias]
        for name in vectors:
            if not self.is_float(name):
                fail(BadCheckpoint, f"{self.path}: {name}", got="a packed matrix", expected="floats")

    def _expert_shapes(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Tensors and their shapes for a stack [E, I, O], by the form it has: joined input-major floats, or
        output-major [E, O, I], gate and up apart."""
        E, inputs, outputs = shape
        if name in self._where and self.is_float(name):
            return {name: shape}
        if name.endswith(GATE_UP):
            return dict.fromkeys(halves(name), (E, outputs // 2, inputs))
        return {name: (E, outputs, inputs)}
