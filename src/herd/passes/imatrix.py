"""llama.cpp's importance matrices as importances of a model, and back; an encoder of GGUF files that uses them.

Both hold the same numbers, mean squares of inputs (`importance`); names and the experts' order are GGUF's there.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from herd.checkpoint.gguf.file import Encode
from herd.checkpoint.gguf.imatrix import InputSums, read_imatrix
from herd.checkpoint.gguf.names import gguf_names
from herd.checkpoint.walk import WeightSpec, walk
from herd.config import Llama4Config
from herd.errors import BadCheckpoint, UsageError, fail
from herd.passes.encode import encode_rows
from herd.passes.importance import Importances, InputStatistics
from herd.weights import is_vision

_TABLES = ("model.embed_tokens", "lm_head")


def load_importances(path: Path, config: Llama4Config) -> tuple[Importances, list[str]]:
    """The importances in a file, and a line for what it says nothing about.

    Raises what `read_imatrix` raises; BadCheckpoint for a tensor of another shape than the model's, UsageError for a
    file that names none of the model's weights.
    """
    imatrix, found, without = read_imatrix(path), Importances(), []
    for wanted, tensors in _matrices(config):
        sums = next((imatrix.tensors[t] for t in tensors if t in imatrix.tensors), None)
        if sums is not None:
            _take(found, wanted, _as_stack(path, tensors[0], sums, wanted))
        elif wanted.name not in _TABLES:  # they are looked up, or left out of most files
            without.append(tensors[0])
    if not found.weights and not found.experts:
        fail(UsageError, f"{path} names none of the model's weights", do="take the one made for this model")
    notes = [f"{path} says nothing of {len(without)} tensors: {', '.join(without[:3])}"] if without else []
    return found, notes


def imatrix_of(config: Llama4Config, importances: Importances) -> dict[str, InputSums]:
    """The sums of a calibration by the names of GGUF."""
    found: dict[str, InputSums] = {}
    for wanted, tensors in _matrices(config):
        if wanted.kind == "experts":
            E, inputs, _ = wanted.shape
            rows = [importances.experts.get((wanted.name, e)) for e in range(E)]
            if not any(rows):
                continue
            squares = np.stack([np.zeros(inputs) if r is None else r.squares for r in rows])
            counts = np.array([0 if r is None else r.rows for r in rows])
        elif (own := importances.weights.get(wanted.name)) is not None:
            squares, counts = own.squares[None], np.array([own.rows])
        else:
            continue
        for tensor in tensors:
            found[tensor] = InputSums(squares.astype(np.float32), counts.astype(np.float32))
    return found


def gguf_encoder(config: Llama4Config, importances: Importances) -> Encode:
    """An encoder for `write_gguf` that weighs columns by their importances. It raises what `encode_rows` raises."""
    places: dict[str, tuple[str, int | None]] = {}
    for wanted, tensors in _matrices(config):
        outputs = wanted.shape[2] // len(tensors) if wanted.kind == "experts" else None
        places |= dict.fromkeys(tensors, (wanted.name, outputs))
    last: dict[tuple[str, int | None], Any] = {}

    def encode(tensor: str, format: str, rows: npt.NDArray[Any], first: int) -> npt.NDArray[np.uint8]:
        name, outputs = places[tensor]
        key = (name, None if outputs is None else first // outputs)
        if key not in last:
            last.clear()
            last[key] = importances.of(*key)
        where = tensor if outputs is None else f"{tensor} expert {key[1]}"
        return encode_rows(format, rows, last[key], where, first if outputs is None else first % outputs)[0]

    return encode


def _matrices(config: Llama4Config) -> Iterator[tuple[WeightSpec, tuple[str, ...]]]:
    """Every matrix and stack of the text model but routers, with its names in GGUF."""
    for wanted in walk(config):
        if wanted.kind == "vector" or is_vision(wanted.name) or wanted.name.endswith(".router"):
            continue
        yield wanted, gguf_names(next(iter(wanted.tensors)))


def _as_stack(path: Path, tensor: str, sums: InputSums, wanted: WeightSpec) -> InputSums:
    """The sums as [E, I] (or [1, I]); the older form has them in one row, and 1 throughout for unreached experts."""
    matrices, inputs = wanted.shape[:2] if wanted.kind == "experts" else (1, wanted.shape[1])
    if sums.squares.size != matrices * inputs or len(sums.counts) not in (1, matrices):
        got = f"{list(sums.squares.shape)} for {len(sums.counts)} matrices"
        fail(BadCheckpoint, f"{path}: {tensor}", got=got, expected=f"[{matrices}, {inputs}], as in the model")
    if len(sums.counts) == matrices:
        return sums
    squares = sums.squares.reshape(matrices, inputs)
    reached = (squares != sums.counts[0]).any(axis=1)
    return replace(sums, squares=squares, counts=np.where(reached, sums.counts[0], 0).astype(np.float32))


def _take(found: Importances, wanted: WeightSpec, sums: InputSums) -> None:
    for e, (squares, count) in enumerate(zip(sums.squares.astype(np.float64), sums.counts.tolist(), strict=True)):
        if count > 0 and wanted.kind == "experts":
            found.experts[wanted.name, e] = InputStatistics(squares, max(1, round(count)))
        elif count > 0:
            found.weights[wanted.name] = InputStatistics(squares, max(1, round(count)))
