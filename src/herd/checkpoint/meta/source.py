"""Weights of Meta's consolidated.NN.pth files, joined over the files when asked for, mapped where one file has all.

Routed experts come as they are: bfloat16 input-major; FP8 with fp8_scales_N.pt (bfloat16 comes out); int4 with
int4_scales_N.pt (q4_0 or bfloat16 comes out): see `checkpoint.coded`. In files of the last two kinds, as Meta's own
script writes them:

    FP8    moe_w_in_eD_F float8 [E * D, F / files], scales layers.i.feed_forward.experts.w1 float32 [E, F / files];
           moe_w_out_eF_D float8 [E * F / files, D], scales w2 [E, D] of each file
    int4   two rows a byte (the even one low), signed: [E * D / 2, F / files] and [E * F / files / 2, D], called float8;
           scales [E, D / 128, F / files] and [E, F / files / 128, D]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.coded import E4M3, Grouped, Rows, low_nibbles_first, node_of, rows_of
from herd.checkpoint.meta.names import DROPPED, EXPERTS, SCALES, TensorPlace, place_of
from herd.checkpoint.packed.form import GATE_UP
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.containers.lazy_rows import LazyArray
from herd.containers.torch_file import TorchFile
from herd.disk.small_files import listed
from herd.errors import BadCheckpoint, fail
from herd.formats import bf16_from_float32, to_float32
from herd.formats.dtypes import Array
from herd.weights import Dense, Experts, Linear, Pair

_FLOATS = ("F32", "F16", "BF16")


class MetaSource:
    """A `weights.Source` over open files: those with weights, and those with scales ("fp8", "int4" or None).

    Names, shapes and dtypes are compared at once. Raises BadCheckpoint.
    """

    def __init__(
        self,
        path: Path,
        config: Llama4Config,
        files: Sequence[TorchFile],
        scales: Sequence[TorchFile] = (),
        kind: str | None = None,
    ) -> None:
        self.path, self.config = path, config
        self.files, self.scales, self.kind = files, scales, kind
        self._check()

    def vector(self, name: str, shape: tuple[int, ...]) -> Array:
        """See weights.Source."""
        return np.asarray(self._tensor(name, shape))

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False) -> Linear:
        """A matrix as a Dense node."""
        w = self._tensor(name + ".weight", (outputs, inputs))
        return Dense(w, np.asarray(self._tensor(name + ".bias", (outputs,))) if bias else None, name)

    def experts(self, name: str, num_experts: int, inputs: int, outputs: int) -> Linear:
        """A stack of floats or FP8; for int4 a Pair, or one output-major node."""
        stem = "layers." + name.split(".")[2] + ".feed_forward.experts."
        if name.endswith(GATE_UP):
            if self._is_int4(stem + EXPERTS[0]):
                gate, up = (self._int4_in(stem, which, num_experts, inputs, outputs // 2, name) for which in (0, 1))
                return Pair(gate, up, name)
            return self._gate_up(stem, name, num_experts, inputs, outputs)
        if self._is_int4(stem + EXPERTS[2]):
            node: Linear = self._int4_out(stem, num_experts, inputs, outputs, name)
            return node
        return self._down(stem, name, num_experts, inputs, outputs)

    # -- floats ------------------------------------------------------------------------------------------------------

    def _tensor(self, name: str, shape: tuple[int, ...]) -> Any:
        """An array or LazyArray of the canonical tensor `name`."""
        place = place_of(self.config, name, len(self.files))
        arrays = [file.array(place.name) for file in self.files[: 1 if place.axis is None else None]]
        if place.part is not None:
            arrays = [a[slice(*place.part)] for a in arrays]
        if place.is_transposed:
            arrays = [a.T for a in arrays]
        if len(arrays) == 1:
            return arrays[0]
        if len(shape) == 1:
            return np.concatenate(arrays)
        join = _rows if place.axis == 0 else _columns
        return LazyArray(shape, arrays[0].dtype, lambda at, start, stop: join(arrays, start, stop))

    def _gate_up(self, stem: str, name: str, E: int, inputs: int, outputs: int) -> Experts:
        """The stack [E, D, 2F]: gate columns of all files, then up columns."""
        shape = (E, inputs, -1)
        parts = [f.array(stem + which).reshape(shape) for which in EXPERTS[:2] for f in self.files]
        scales = self._scales(stem, 0) + self._scales(stem, 1)
        values = [_scaled(part, scale) for part, scale in zip(parts, scales, strict=True)]
        dtype = parts[0].dtype if scales[0] is None else np.uint16
        return Experts(
            LazyArray((E, inputs, outputs), dtype, lambda at, i, j: _beside([v(at[0], i, j) for v in values])), name
        )

    def _down(self, stem: str, name: str, E: int, inputs: int, outputs: int) -> Experts:
        """The stack [E, F, D]: rows of one file after the other."""
        parts = [f.array(stem + EXPERTS[2]).reshape(E, -1, outputs) for f in self.files]
        scales = self._scales(stem, 2)
        if len(parts) == 1 and scales[0] is None:
            return Experts(parts[0], name)
        values = [_scaled(part, scale) for part, scale in zip(parts, scales, strict=True)]
        height, dtype = parts[0].shape[1], parts[0].dtype if scales[0] is None else np.uint16

        def rows(at: tuple[int, ...], start: int, stop: int) -> Array:
            found = [
                values[k](at[0], max(start - k * height, 0), min(stop - k * height, height))
                for k in range(start // height, -(-stop // height))
            ]
            return np.concatenate(found) if found else values[0](at[0], 0, 0)

        return Experts(LazyArray((E, inputs, outputs), dtype, rows), name)

    def _scales(self, stem: str, which: int) -> list[Any]:
        """The scales in each file for gate, up or down; None for each file when the stack is not quantised."""
        if not self._is_coded(stem + EXPERTS[which]):
            return [None] * len(self.files)
        return [file.array(stem + SCALES[which]) for file in self.scales]

    def _is_coded(self, name: str) -> bool:
        return self.files[0].dtype(name) == "F8_E4M3"

    def _is_int4(self, name: str) -> bool:
        return self.kind == "int4" and self._is_coded(name)

    # -- int4 --------------------------------------------------------------------------------------------------------

    def _int4_in(self, stem: str, which: int, E: int, inputs: int, outputs: int, name: str) -> Any:
        """Gate or up [E, F, D]: outputs of one file after the other; two inputs in a byte."""
        bytes_ = [f.array(stem + EXPERTS[which]).reshape(E, inputs // 2, -1) for f in self.files]
        scales = self._scales(stem, which)

        def part(e: int) -> Grouped:
            def read(start: int, stop: int) -> Array:
                return _nibbles(_rows([b[e].T for b in bytes_], start, stop))

            return _int4(read, np.concatenate([s[e].T for s in scales]), inputs)

        return node_of([part(e) for e in range(E)], outputs, inputs, name, stack=True)

    def _int4_out(self, stem: str, E: int, inputs: int, outputs: int, name: str) -> Any:
        """Down [E, D, F]: inputs of one file after the other."""
        bytes_ = [f.array(stem + EXPERTS[2]).reshape(E, -1, outputs) for f in self.files]
        scales = self._scales(stem, 2)

        def part(e: int) -> Grouped:
            def read(start: int, stop: int) -> Array:
                return np.concatenate([_nibbles(b[e].T[start:stop]) for b in bytes_], axis=1)

            return _int4(read, np.concatenate([s[e].T for s in scales], axis=1), inputs)

        return node_of([part(e) for e in range(E)], outputs, inputs, name, stack=True)

    # -- all of them -------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        names = {n for n in self.files[0].tensors if not n.endswith(DROPPED)}
        for file in self.files[1:]:
            other = {n for n in file.tensors if not n.endswith(DROPPED)}
            if other != names:
                fail(BadCheckpoint, f"{file.path.name}: other tensors than the first", got=listed(other ^ names))
        known: set[str] = set()
        for w in walk(self.config):
            if w.kind == "experts":
                stem = "layers." + w.name.split(".")[2] + ".feed_forward.experts."
                for which in (0, 1) if w.name.endswith(GATE_UP) else (2,):
                    self._check_experts(stem, which, *w.shape)
                    known.add(stem + EXPERTS[which])
                continue
            for name, shape in w.tensors.items():
                place = place_of(self.config, name, len(self.files))
                self._check_place(name, place, shape)
                known.add(place.name)
        if extra := names - known:
            fail(
                BadCheckpoint,
                f"{self.path}: {len(extra)} tensors that params.json does not know",
                got=listed(extra),
                do="files and params.json do not belong together",
            )

    def _check_place(self, name: str, place: TensorPlace, shape: tuple[int, ...]) -> None:
        want = list(reversed(shape)) if place.is_transposed else list(shape)
        if place.stored_rows is not None:
            want[0] = place.stored_rows
        if place.axis is not None:
            if want[place.axis] % len(self.files):
                fail(
                    BadCheckpoint,
                    f"{self.path}: {name}",
                    got=f"{want} in {len(self.files)} files",
                    expected="even parts",
                )
            want[place.axis] //= len(self.files)
        for file in self.files:
            self._expect(file, place.name, tuple(want), _FLOATS)
        if len({file.dtype(place.name) for file in self.files}) > 1:
            fail(BadCheckpoint, f"{self.path}: {place.name} has another dtype in each file")

    def _check_experts(self, stem: str, which: int, E: int, inputs: int, outputs: int) -> None:
        """Check shapes of gate, up (which 0, 1) or down (2) in every file, and of their scales."""
        files, name = len(self.files), stem + EXPERTS[which]
        F = inputs if which == 2 else outputs // 2
        if F % files:
            fail(BadCheckpoint, f"{self.path}: {name}", got=f"{F} in {files} files", expected="even parts")
        rows, columns = (F // files, outputs) if which == 2 else (inputs, F // files)
        self._need(self.files[0], name)
        coded = self._is_coded(name)
        if coded and self.kind is None:
            fail(
                BadCheckpoint,
                f"{self.path}: {name} is quantised",
                do="its fp8_scales_N.pt or int4_scales_N.pt belong here",
            )
        halved = 2 if self._is_int4(name) else 1
        for file in self.files:
            self._expect(file, name, (E * rows // halved, columns), ("F8_E4M3",) if coded else _FLOATS)
        if not coded:
            return
        shape = (E, rows // 128, columns) if halved == 2 else (E, columns)
        if halved == 2 and rows % 128:
            fail(BadCheckpoint, f"{self.path}: {name}", got=f"{rows} inputs a file", expected="groups of 128")
        for file in self.scales:
            self._expect(file, stem + SCALES[which], shape, _FLOATS)

    def _need(self, file: TorchFile, name: str) -> None:
        if name not in file.tensors:
            fail(BadCheckpoint, f"{file.path.name}: a tensor is missing", got=name)

    def _expect(self, file: TorchFile, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        self._need(file, name)
        if file.shape(name) != shape:
            fail(BadCheckpoint, f"{file.path.name}: shape of {name}", got=list(file.shape(name)), expected=list(shape))
        if file.dtype(name) not in dtypes:
            fail(BadCheckpoint, f"{file.path.name}: dtype of {name}", got=file.dtype(name), expected=", ".join(dtypes))


def types(files: Sequence[TorchFile]) -> Mapping[str, int]:
    """Number format -> bytes of weights."""
    found: dict[str, int] = {}
    for file in files:
        for name in file.tensors:
            kind = file.dtype(name).lower()
            found[kind] = found.get(kind, 0) + file.array(name).nbytes
    return found


def _rows(arrays: Sequence[Array], start: int, stop: int) -> Array:
    """Rows start to stop of arrays of the same height, one after the other."""
    height = len(arrays[0])
    found = [
        arrays[k][max(start - k * height, 0) : stop - k * height] for k in range(start // height, -(-stop // height))
    ]
    return np.concatenate(found) if found else arrays[0][:0]


def _columns(arrays: Sequence[Array], start: int, stop: int) -> Array:
    return np.concatenate([a[start:stop] for a in arrays], axis=1)


def _beside(parts: Sequence[Array]) -> Array:
    return np.concatenate(parts, axis=1)


def _scaled(part: Array, scale: Array | None) -> Any:
    """(e, start, stop) -> rows [n, columns] of a stack [E, rows, columns], as bfloat16 when there is a scale for
    its codes, [E, columns]."""
    if scale is None:
        return lambda e, start, stop: part[e, start:stop]
    return lambda e, start, stop: bf16_from_float32(E4M3[part[e, start:stop]] * to_float32(scale[e])[None])


def _int4(read: Rows, scales: Array, inputs: int) -> Grouped:
    outputs, groups = scales.shape
    return Grouped(read, rows_of(scales), outputs, inputs, groups)


def _nibbles(bytes_: Array) -> Array:
    """Unpack uint8 [n, I / 2] of signed 4-bit numbers, the even input low, to q + 8, uint8 [n, I]."""
    return low_nibbles_first(bytes_) ^ np.uint8(8)
