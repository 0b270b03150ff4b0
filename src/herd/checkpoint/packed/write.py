"""Write Herd's packed form, tensor by tensor in bounded memory (see `form`).

    with PackedWriter(target, config, files=companions, job={"source": digest, "type": "q4_k"}, resume=True) as out:
        for wanted in walk(config):
            if not out.has(wanted.name):
                out.put(wanted.name, node)          # or out.rows(tensor, format, shape, pieces of codes)

The folder appears under its name complete and synced, or not at all. What it is not: a choice of formats.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from herd.checkpoint.packed.form import GATE_UP, PackedTensor, halves, quantization_config
from herd.checkpoint.packed.shards import Shards, header_room
from herd.checkpoint.pieces import unmerged
from herd.checkpoint.strip_pieces import float_pieces, strip_pieces, strips_of
from herd.checkpoint.walk import WeightSpec, walk
from herd.config import Llama4Config
from herd.config.hf import from_hf, to_hf
from herd.containers.safetensors_write import SHARD_BYTES
from herd.disk.atomic import checked_target, publish
from herd.disk.manifest import write_manifest
from herd.disk.mapping import IN_MEMORY, MappingGuard
from herd.disk.staging import LOCK, StagingFolder
from herd.errors import BadCheckpoint, BadConfig, UsageError, fail
from herd.formats import strips
from herd.formats.dtypes import Array
from herd.weights import Dense, Packed, Pair, apart, fold

_DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
_NAMES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


class PackedWriter:
    """Writes the folder `target`. Used in `with`: the end of the block finishes it, an error removes what was made.

    files: copied in under their own names; texts: written, name -> content. job: what the weights are made from and
    how (a digest of the source, options), as strings. needed_bytes: of disk, checked first.
    resume: take up what an interrupted run of the same job finished (`has` tells), and keep what is finished when this
    one is interrupted (killed, Ctrl-C); without it a run begins anew. Unfinished work lies in .NAME.packing beside the
    target and is never taken for a model. guard: of the mapped files that the weights come from.
    Raises UsageError (target exists, another process writes it, the unfinished run was of another job: the
    difference), NotFound (no parent folder), DoesNotFit (disk), BadConfig (a config that config.json cannot say).
    """

    def __init__(
        self,
        target: Path | str,
        config: Llama4Config,
        *,
        files: Iterable[Path] = (),
        texts: Mapping[str, str] | None = None,
        job: Mapping[str, str] | None = None,
        needed_bytes: int = 0,
        overwrite: bool = False,
        resume: bool = False,
        shard_bytes: int = SHARD_BYTES,
        guard: MappingGuard = IN_MEMORY,
    ) -> None:
        self.target = checked_target(Path(target), overwrite)
        self.config = config
        self._head = _config_text(config)
        self._files, self._texts = tuple(files), dict(texts or {})
        digest = hashlib.sha256(json.dumps(self._head, sort_keys=True).encode()).hexdigest()
        self._job = {**(job or {}), "config": digest[:16]}
        self._needed_bytes = needed_bytes
        self._resume = resume
        self._shard_bytes = shard_bytes
        self._wanted = {w.name: w for w in walk(config)}
        self._guard = guard
        self._place = StagingFolder(self.target, resume=resume)
        self._temp = self._place.path

    def __enter__(self) -> "PackedWriter":
        self._place.enter()
        try:
            self._place.check_disk(self._needed_bytes)
            self._shards = Shards(
                self._temp,
                self._job,
                header_room(t for w in self._wanted.values() for t in _all_names(w)),
                resume=self._resume,
                durable=self._resume,
                shard_bytes=self._shard_bytes,
                guard=self._guard,
            )
        except UsageError:
            self._place.leave()  # another job's work: not ours to remove
            raise
        except BaseException as problem:
            self._place.fail(problem)
            raise
        return self

    def has(self, name: str) -> bool:
        """Whether `name` (of a request of `weights.build`, or of one tensor) is finished, by an earlier run or this
        one."""
        done = self._shards.done
        wanted = self._wanted.get(name)
        if wanted is None or wanted.kind == "vector":
            return name in done
        if name.endswith(GATE_UP) and name not in done:
            return all(half in done for half in halves(name))
        return all(tensor in done for tensor in wanted.tensors)

    def put(self, name: str, node: Any) -> None:
        """Write the weights that the request `name` of `weights.build` asks for: an array for a vector, else a node.

        Packed becomes strips (codes may lie in either layout); floats stay as they are. Raises BadCheckpoint (a shape
        that is not the config's), UsageError (a kind of node that has no place in a file).
        """
        wanted = self._wanted.get(name)
        if wanted is None:
            fail(BadCheckpoint, f"tensor {name} belongs to no model of this config")
        if wanted.kind == "vector":
            self.floats(name, np.asarray(node))
        elif wanted.kind == "matrix":
            self._node(name + ".weight", node, wanted.shape)
            if wanted.bias:
                self.floats(name + ".bias", np.asarray(node.bias))
        else:
            self._experts(name, node, *wanted.shape)

    def rows(self, tensor: str, format: str, shape: tuple[int, ...], pieces: Iterable[Array]) -> None:
        """Write one quantised tensor from codes as they are made, uint8 [n, row_bytes] pieces of any number of rows, in
        the order of `shape` ([O, I], or [E, O, I]: experts one after the other). `tensor` is a name in the file: a
        matrix's with `.weight`; of experts `...experts.gate_proj`, `.up_proj`, `.down_proj`."""
        if tensor in self._shards.done:
            return
        strips.block_bytes(format)
        packed = PackedTensor(format, tuple(shape), "strips")
        self._write(tensor, "U8", packed.stored_shape(), strip_pieces(format, shape, pieces), packed)

    def floats(self, tensor: str, array: Any) -> None:
        """Write one float tensor as it is: float32, float16, or uint16 for bfloat16, shaped as Hugging Face has it."""
        self._write(tensor, _dtype(tensor, array), array.shape, float_pieces(array), None)

    def _experts(self, name: str, node: Any, num_experts: int, inputs: int, outputs: int) -> None:
        def both(w: Pair) -> None:
            for half, part in zip(halves(name), apart(w), strict=True):
                self._node(half, part, (num_experts, outputs // 2, inputs))

        def stack(w: Any) -> None:
            if name.endswith(GATE_UP):
                fail(UsageError, f"{name} is {type(w).__name__}", expected="Experts, or a Pair of gate and up")
            self._node(name, w, (num_experts, outputs, inputs))

        fold(node, pair=both, experts=lambda w: self.floats(name, w.w), other=stack)

    def _node(self, tensor: str, node: Any, shape: tuple[int, ...]) -> None:
        """Write a matrix, or an output-major stack."""

        def check(have: tuple[int, ...]) -> None:
            if have != tuple(shape):
                fail(BadCheckpoint, f"{tensor}: shape", got=list(have), expected=list(shape))

        def dense(w: Dense) -> None:
            check(tuple(w.w.shape))
            dtype = _dtype(tensor, w.w)
            packed = PackedTensor(_NAMES[dtype], tuple(shape), "rows") if len(shape) == 3 else None
            self._write(tensor, dtype, w.w.shape, float_pieces(w.w), packed)

        def packed(w: Packed) -> None:
            check(tuple(w.shape))
            made = PackedTensor(w.format, tuple(shape), "strips")
            self._write(tensor, "U8", made.stored_shape(), strips_of(w), made)

        fold(node, dense=dense, packed=packed, other=lambda w: unmerged(tensor, w))

    def _write(
        self, tensor: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[Array], packed: PackedTensor | None
    ) -> None:
        self._shards.write(tensor, dtype, tuple(shape), pieces, packed)

    # -- the end -----------------------------------------------------------------------------------------------------

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._finish()
            except BaseException as problem:
                self._fail(problem)
                raise
            self._place.leave()
        else:
            self._fail(error)

    def _finish(self) -> None:
        missing = [name for name in self._wanted if not self.has(name)]
        if missing:
            fail(BadCheckpoint, f"{self.target}: {len(missing)} tensors were not given", got=", ".join(missing[:5]))
        (self._temp / "config.json").write_text(json.dumps(self._head, indent=2) + "\n")
        for path in self._files:
            shutil.copyfile(path, self._temp / path.name)
        for name, text in self._texts.items():
            (self._temp / name).write_text(text)
        digests = self._shards.finish()
        (self._temp / LOCK).unlink()
        write_manifest(self._temp, digests)
        publish(self._temp, self.target)

    def _fail(self, problem: BaseException) -> None:
        self._shards.close()
        self._place.fail(problem)


def _config_text(config: Llama4Config) -> dict[str, Any]:
    head = {**to_hf(config), "quantization_config": quantization_config()}
    again = from_hf(head)
    ours, said = ([*c.rope_freqs(), c.rope_attention] for c in (config, again))
    if again.layers != config.layers or not np.allclose(ours, said, 1e-5, 0):
        fail(BadConfig, "config.json cannot say what this model is", do="keep the form it has")
    return head


def _all_names(wanted: WeightSpec) -> Iterator[str]:
    yield from wanted.tensors
    if wanted.name.endswith(GATE_UP):
        yield from halves(wanted.name)


def _dtype(tensor: str, array: Any) -> str:
    name = _DTYPES.get(str(array.dtype))
    if name is None:
        fail(BadCheckpoint, f"{tensor}: dtype", got=str(array.dtype), expected=", ".join(_DTYPES))
    return name
