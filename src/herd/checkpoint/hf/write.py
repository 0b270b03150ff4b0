"""Write a model as a Hugging Face folder: config.json and safetensors, tensor by tensor from any source.

Depending on the config, transformers' Llama4ForConditionalGeneration, Llama4ForCausalLM or LlamaForCausalLM loads it.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.hf.names import Style, file_name, style_of, to_half_split
from herd.checkpoint.pieces import expert_rows, matrix_pieces
from herd.checkpoint.walk import TreeSource, WeightSpec, walk
from herd.config import Llama4Config
from herd.config.hf import to_hf
from herd.containers.safetensors_write import FILE_DTYPE, SHARD_BYTES, TensorToWrite, write_shards
from herd.disk.atomic import check_disk, new_folder
from herd.disk.manifest import write_manifest
from herd.disk.mapping import IN_MEMORY, MappingGuard
from herd.formats.dtypes import Array, cast, dtype_name
from herd.progress import Progress, silent
from herd.weights import Model, Source


def save_hf(
    folder: Path | str,
    config: Llama4Config,
    weights: Model | Source,
    dtype: str = "float32",
    *,
    files: Iterable[Path] = (),
    texts: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    progress: Progress = silent,
    guard: MappingGuard = IN_MEMORY,
) -> Path:
    """Write `weights` (a tree or a source) as a folder that appears complete or not at all; returns it.

    `files` are copied in under their own names (a tokenizer), `texts` written (name -> content). A manifest tells
    size and digest of each file. progress: told of each tensor once it is written. guard: of the mapped files that the
    weights come from.
    Raises UsageError (folder not empty), DoesNotFit (disk), BadCheckpoint (float16 too small for a value).
    """
    folder = Path(folder)
    dtype = dtype_name(dtype)
    source: Source = TreeSource(config, weights) if isinstance(weights, Model) else weights
    tensors = hf_tensors(config, source, dtype)
    with new_folder(folder, overwrite=overwrite) as temp:
        check_disk(temp, sum(t.num_bytes for t in tensors) + (1 << 20))
        (temp / "config.json").write_text(json.dumps(to_hf(config, dtype), indent=2) + "\n")
        for path in files:
            shutil.copyfile(path, temp / path.name)
        for name, text in (texts or {}).items():
            (temp / name).write_text(text)
        with guard.reading():
            digests = write_shards(temp, tensors, shard_bytes=shard_bytes, progress=progress)
        write_manifest(temp, digests)
    return folder


def hf_tensors(config: Llama4Config, source: Source, dtype: str = "float32") -> list[TensorToWrite]:
    """Every tensor of the model under its name in a file; values are read from `source` when a tensor is written."""
    style = style_of(config)
    found: list[TensorToWrite] = []
    for wanted in walk(config):
        for name, shape in wanted.tensors.items():
            pieces = partial(_cast_pieces, config, source, wanted, name, style, dtype)
            found.append(TensorToWrite(file_name(name, style), FILE_DTYPE[dtype], shape, pieces))
    return found


def _cast_pieces(
    config: Llama4Config, source: Source, wanted: WeightSpec, name: str, style: Style, dtype: str
) -> Iterator[Array]:
    return (cast(piece, dtype, name) for piece in _pieces(config, source, wanted, name, style))


def _pieces(config: Llama4Config, source: Source, wanted: WeightSpec, name: str, style: Style) -> Iterator[Array]:
    if wanted.kind == "vector":
        yield source.vector(name, wanted.shape)
    elif wanted.kind == "experts":
        yield from expert_rows(source.experts(name, *wanted.shape), name, *wanted.shape)
    else:
        node: Any = source.matrix(wanted.name, *wanted.shape, bias=wanted.bias)
        is_turned = style == "llama" and wanted.name.endswith((".q_proj", ".k_proj"))
        if name.endswith(".bias"):
            yield to_half_split(np.asarray(node.bias), config.head_size) if is_turned else node.bias
        elif is_turned:
            outputs, inputs = wanted.shape
            for rows in matrix_pieces(node, name, outputs, inputs, row_multiple=config.head_size):
                yield to_half_split(rows, config.head_size)
        else:
            yield from matrix_pieces(node, name, *wanted.shape)
