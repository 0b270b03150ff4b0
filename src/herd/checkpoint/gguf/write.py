"""Write a model as GGUF that llama.cpp loads: streamed, one expert or a few rows in memory at a time.

What it is: `write_gguf` for the text model and, beside it, the mmproj file of a vision tower. Every place in the file
is known from the config before the first weight is read, so tensors may come in any order. The file appears under its
name complete and synced, or not at all. What it is not: a tokenizer (its keys are given), a choice of mixed precision.
"""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from herd.checkpoint.gguf.file import Encode, GgufFile, Written
from herd.checkpoint.gguf.keys import FILE_TYPES, config_keys, token_keys, vision_keys
from herd.checkpoint.gguf.unfinished import GgufWork, Resumable
from herd.checkpoint.walk import TreeSource, walk
from herd.config import Llama4Config
from herd.disk.atomic import check_disk, new_file
from herd.disk.mapping import IN_MEMORY, MappingGuard
from herd.errors import UsageError, fail
from herd.progress import Progress, silent
from herd.weights import Model, Source, is_vision

__all__ = ["FILE_TYPES", "Written", "write_gguf"]

Named = Iterable[tuple[str, npt.NDArray[Any]]]
"""Full canonical tensor names (`model.layers.0.self_attn.q_proj.weight`) and float arrays, uint16 holding bfloat16."""


def write_gguf(
    path: Path | str,
    config: Llama4Config,
    weights: Model | Source | Named,
    tokenizer_keys: Mapping[str, Any],
    type: str = "f16",
    *,
    mmproj: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    types: Mapping[str, str] | None = None,
    encode: Encode | None = None,
    guard: MappingGuard = IN_MEMORY,
    resumable: Resumable | None = None,
) -> Written:
    """Write matrices in the number format `type`; norms, router and rope divisors in f32.

    `tokenizer_keys`: all `tokenizer.*` (and, if wanted, `general.*`) keys. A matrix that is already packed in the
    wanted format is copied bit for bit. A matrix whose rows do not fill blocks of the type gets what stands in for it
    (`formats.substitutes`), or f16; `Written.substituted` lists these. A model with vision needs `mmproj`, the name of
    its second file (f16, or f32 when that is the type).

    types: canonical name of a matrix (with `.weight`) or stack, or a tensor's name in GGUF, which counts first -> its
    own number format instead of `type`. encode:
    makes the codes of block formats; None: `herd.formats`. guard: of the mapped files that the weights come from.
    resumable: keep what is finished when the run is interrupted or killed, and take it up; None: leave nothing.
    progress: told of each tensor once it is written.

    Raises UsageError (the file exists, unknown type, a config that GGUF cannot express), DoesNotFit (disk),
    BadCheckpoint (a tensor missing, of another shape, or with values that the format cannot hold).
    """
    path = Path(path)
    if type not in FILE_TYPES:
        fail(UsageError, "number format of a GGUF file", got=type, expected=", ".join(FILE_TYPES))
    if config.vision is not None and mmproj is None:
        fail(UsageError, f"{path}: GGUF keeps the vision part in a second file", do="name a file for it (mmproj)")
    if config.vision is None and mmproj is not None:
        fail(UsageError, f"{mmproj}: the model has no vision part to write")
    # A stream of named tensors can be walked once: each goes to the file that it belongs to.
    keys, notes = config_keys(config)
    keys = {**keys, "general.quantization_version": 2, "general.file_type": FILE_TYPES[type]}
    keys = {**keys, **token_keys(config), **tokenizer_keys}
    text = GgufFile(path, config, keys, type, vision=False, types=types, encode=encode)
    text.report.notes = notes
    files = [text]
    if mmproj is not None:
        plain = "f32" if type == "f32" else "f16"
        files.append(GgufFile(Path(mmproj), config, vision_keys(config, plain), plain, vision=True))
        text.report.mmproj = files[1].report
    _write(files, partial(_nodes, config, weights), overwrite, progress, guard, resumable)
    return text.report


def _write(
    files: list[GgufFile],
    nodes: Callable[[Container[str]], Iterator[tuple[str, Any]]],
    overwrite: bool,
    progress: Progress,
    guard: MappingGuard,
    resumable: Resumable | None,
) -> None:
    """Write all files; both are checked to be whole before either takes its name."""
    paths, sizes = [file.report.path for file in files], [file.report.num_bytes for file in files]
    work: GgufWork | None = None
    done: Container[str] = ()
    with ExitStack() as stack:
        if resumable is None:
            temps = [stack.enter_context(new_file(path, overwrite=overwrite)) for path in paths]
            check_disk(paths[0], sum(sizes))
        else:
            heads = hashlib.sha256(b"".join(file.head for file in files)).hexdigest()
            how = replace(resumable, job={**resumable.job, "head": heads[:16]})
            work = stack.enter_context(GgufWork(paths, sizes, how, overwrite=overwrite))
            temps, done = work.paths, work.done
            for name in work.done:
                resumable.kept(name)
            if work.whole:
                return
        for file, temp in zip(files, temps, strict=True):
            file.begin(stack.enter_context(temp.open("r+b")))
        if work is not None:
            work.begun()
        written, total = 0, sum(file.tensor_bytes for file in files)
        with guard.reading():
            for name, node in nodes(done):
                file = files[-1] if is_vision(name) else files[0]
                if name in done:
                    written += file.skip(name)
                    continue
                written += file.put(name, node)
                if work is not None:
                    file.sync()
                    guard.check_readable()
                    work.add(name)
                progress(name, written, total)
        for file in files:
            file.finish()


def _nodes(
    config: Llama4Config, weights: Model | Source | Named, done: Container[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Full canonical names, each with an array or a weight node; nothing is read for names in `done`."""
    source: Any = TreeSource(config, weights) if isinstance(weights, Model) else weights
    if not hasattr(source, "matrix"):
        yield from source
        return
    for w in walk(config):
        if all(name in done for name in w.tensors):
            yield from ((name, None) for name in w.tensors)
        elif w.kind == "vector":
            yield w.name, source.vector(w.name, w.shape)
        elif w.kind == "experts":
            yield w.name, source.experts(w.name, *w.shape)
        else:
            node = source.matrix(w.name, *w.shape, bias=w.bias)
            yield w.name + ".weight", node
            if w.bias:
                yield w.name + ".bias", node.bias
