"""A GGUF file under construction: places are known from the config alone, then tensors are written in any order.

What it is not: which files a model becomes, and how they get their names (`write`).
"""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from herd import formats
from herd.checkpoint.gguf.keys import divisors, key_bytes, string_bytes
from herd.checkpoint.gguf.names import ROPE_FREQS, gguf_names
from herd.checkpoint.pieces import expert_pieces, matrix_pieces
from herd.checkpoint.strip_pieces import rows_of
from herd.checkpoint.walk import WeightSpec, walk
from herd.config import Llama4Config
from herd.errors import BadCheckpoint, fail
from herd.formats.substitutes import fitting
from herd.weights import Dense, Experts, apart, is_packed_as, is_vision

ALIGNMENT = 32

Encode = Callable[[str, str, npt.NDArray[Any], int], npt.NDArray[np.uint8]]
"""(tensor of the file, block format, float rows [n, I] of any strides, the row they begin at) -> codes of the rows."""


@dataclass
class Written:
    """A file that was written: its size, the formats in it, what was substituted, where llama.cpp will differ."""

    path: Path
    num_bytes: int
    types: dict[str, int] = field(default_factory=dict)
    """Tensors of each number format."""
    substituted: dict[str, str] = field(default_factory=dict)
    """Tensors whose rows are no whole number of blocks of the type asked for, and what they became instead."""
    notes: list[str] = field(default_factory=list)
    """Where llama.cpp's logits will differ from Herd's, and from which length of text on."""
    mmproj: "Written | None" = None


@dataclass(frozen=True)
class _Place:
    """The place of a tensor in the file; `shape` row-major, `start` in the data."""

    name: str
    format: formats.Format
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        return self.format.row_bytes(self.shape[-1])

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape[:-1], dtype=object)) * self.row_bytes


class GgufFile:
    """A GGUF file under construction: places first, then tensors in any order."""

    def __init__(
        self,
        path: Path,
        config: Llama4Config,
        keys: Mapping[str, Any],
        type: str,
        *,
        vision: bool,
        types: Mapping[str, str] | None = None,
        encode: Encode | None = None,
    ) -> None:
        self.report = Written(path, 0)
        self._type, self._types, self._encode = type, types or {}, encode
        self._wanted: dict[str, WeightSpec] = {}
        self._places: dict[str, _Place] = {}
        self._left: set[str] = set()
        self._size = 0
        for w in walk(config):
            for name, shape in w.tensors.items():
                if is_vision(name) == vision:
                    self._plan(w, name, shape)
        self._divisors = None if vision else divisors(config)
        if self._divisors is not None:
            self._place(ROPE_FREQS, "f32", self._divisors.shape)
        self._head = self._header(keys)
        self.report.num_bytes = len(self._head) + self._size

    def _plan(self, w: WeightSpec, name: str, shape: tuple[int, ...]) -> None:
        self._wanted[name] = w
        self._left.add(name)
        names = gguf_names(name)
        if w.kind == "experts":
            E, inputs, outputs = shape
            shape = (E, outputs // len(names), inputs)
        for tensor in names:
            small = len(shape) == 1 or w.kind == "vector" or name.endswith(".router.weight")
            wanted = self._types.get(tensor) or self._types.get(name, self._type)
            self._place(tensor, "f32" if small else self._fitting(tensor, wanted, shape[-1]), shape)

    def _fitting(self, tensor: str, wanted: str, inputs: int) -> str:
        chosen = fitting(wanted, inputs) or "f16"
        if chosen != wanted:
            self.report.substituted[tensor] = chosen
        return chosen

    def _place(self, tensor: str, format: str, shape: tuple[int, ...]) -> None:
        place = _Place(tensor, formats.get(format), shape, self._size)
        self._places[tensor] = place
        self._size += -(-place.num_bytes // ALIGNMENT) * ALIGNMENT
        self.report.types[format] = self.report.types.get(format, 0) + 1

    def _header(self, keys: Mapping[str, Any]) -> bytes:
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self._places), len(keys))]
        parts += [key_bytes(name, value) for name, value in keys.items()]
        for place in self._places.values():
            sizes = place.shape[::-1]
            parts.append(string_bytes(place.name))
            parts.append(struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, place.format.ggml_type, place.start))
        head = b"".join(parts)
        return head + bytes(-len(head) % ALIGNMENT)

    @property
    def head(self) -> bytes:
        """The bytes of the file before the data."""
        return self._head

    def begin(self, out: BinaryIO) -> None:
        """Write the head and the rope divisors; in a file that has tensors already they are the same."""
        self._out = out
        out.write(self._head)
        out.truncate(self.report.num_bytes)
        if self._divisors is not None:
            self._rows(self._places[ROPE_FREQS], 0, self._divisors)

    @property
    def tensor_bytes(self) -> int:
        """Size in bytes of all tensors of the model that belong into this file."""
        return sum(map(self._bytes_of, self._wanted))

    def skip(self, name: str) -> int:
        """Count a tensor as written already; returns its bytes."""
        self._left.discard(name)
        return self._bytes_of(name)

    def _bytes_of(self, name: str) -> int:
        return sum(self._places[tensor].num_bytes for tensor in gguf_names(name))

    def put(self, name: str, node: Any) -> int:
        """Write one tensor of the model; returns its bytes. Raises BadCheckpoint for a name or shape that the config
        does not have."""
        if name not in self._left:
            what = "stands twice" if name in self._wanted else "belongs to no model of this config"
            fail(BadCheckpoint, f"tensor {name} {what}")
        self._left.remove(name)
        wanted = self._wanted[name]
        places = [self._places[tensor] for tensor in gguf_names(name)]
        try:
            if wanted.kind == "experts":
                self._experts(places, wanted, Experts(node, name) if isinstance(node, np.ndarray) else node)
            else:
                self._matrix(places[0], name, wanted, node)
        except BadCheckpoint as e:
            raise BadCheckpoint(str(e) if name in str(e) else f"{name}: {e}") from None
        return self._bytes_of(name)

    def sync(self) -> None:
        """Flush and sync everything that was written so far."""
        self._out.flush()
        os.fsync(self._out.fileno())

    def _matrix(self, place: _Place, name: str, wanted: WeightSpec, node: Any) -> None:
        if self._copied(place, node):
            return
        if isinstance(node, np.ndarray):
            if node.shape != place.shape:
                fail(BadCheckpoint, f"{name}: shape", got=node.shape, expected=place.shape)
            if node.ndim != 2:
                self._rows(place, 0, node)
                return
            node = Dense(node, None, name)
        at = 0
        for rows in matrix_pieces(node, name, *wanted.shape):
            self._rows(place, at, rows)
            at += len(rows)

    def _experts(self, places: list[_Place], wanted: WeightSpec, node: Any) -> None:
        if len(places) == len(apart(node)) == 2:
            # Apart, as they are: joining them could mix number formats.
            for place, half in zip(places, apart(node), strict=True):
                self._experts([place], wanted, half)
            return
        if len(places) == 1 and self._copied(places[0], node):
            return
        E, inputs, _ = wanted.shape
        width = places[0].shape[1]
        for e, expert_IO in enumerate(expert_pieces(node, wanted.name, E, inputs, width * len(places))):
            for i, place in enumerate(places):
                self._rows(place, e * width, expert_IO[:, i * width : (i + 1) * width].T)

    def _copied(self, place: _Place, node: Any) -> bool:
        """Write codes that are in the wanted format already, bit for bit; returns False when they are not."""
        if not is_packed_as(node, place.format.name, place.shape):
            return False
        start = 0
        for rows in rows_of(node):
            self._bytes(place, start, rows)
            start += len(rows)
        return True

    def _rows(self, place: _Place, start: int, rows: npt.NDArray[Any]) -> None:
        if self._encode is not None and place.format.packed:
            self._bytes(place, start, self._encode(place.name, place.format.name, rows, start))
        else:
            self._bytes(place, start, place.format.encode(formats.to_float32(rows)))

    def _bytes(self, place: _Place, start: int, codes: npt.NDArray[np.uint8]) -> None:
        self._out.seek(len(self._head) + place.start + start * place.row_bytes)
        self._out.write(np.ascontiguousarray(codes).data)

    def finish(self) -> None:
        """Raise BadCheckpoint when a tensor has not been written."""
        if self._left:
            names = sorted(self._left)
            fail(BadCheckpoint, f"{self.report.path}: {len(names)} tensors were not given", got=", ".join(names[:5]))
        self._out.flush()
