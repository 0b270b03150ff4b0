"""Files to files: any checkpoint that loads becomes Hugging Face safetensors or GGUF, one tensor at a time.

What it is: `convert`. The tokenizer, its template and the sampling advice come along. What it is not: a search for the
best mixture of number formats (`herd.quantize`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from herd.checkpoint.gguf.file import Encode
from herd.checkpoint.gguf.names import gguf_names
from herd.checkpoint.gguf.write import FILE_TYPES, write_gguf
from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.hf.write import save_hf
from herd.checkpoint.meta.folder import MetaCheckpoint
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint, GgufCheckpoint, HfCheckpoint
from herd.checkpoint.tokenizer_files import gguf_tokenizer_keys, hf_tokenizer_texts, with_templates
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.disk.small_files import read_json, safe_path
from herd.errors import BadTokenizer, NotFound, UsageError, fail
from herd.formats import FORMATS, get
from herd.formats.dtypes import dtype_name
from herd.formats.substitutes import fitting, why_not
from herd.passes.imatrix import gguf_encoder, load_importances
from herd.progress import Progress, silent
from herd.store.registry import stem_of
from herd.weights import apart, fold, is_vision

HF_TYPES = ("f32", "f16", "bf16")
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
    "USE_POLICY.md",
)
"""What belongs to a model besides its weights: copied as it is between Hugging Face folders."""
_OWN = ("general.architecture", "general.file_type", "general.quantization_version", "general.alignment")
"""Keys that describe a file, not its model: written anew."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    path: Path
    type: str
    num_bytes: int
    """Bytes of all files together."""
    notes: tuple[str, ...] = ()
    """What is not the same as in the source, and where another program computes something else."""


def convert(
    source: Path | str,
    target: Path | str,
    type: str | None = None,
    *,
    mmproj: Path | str | None = None,
    imatrix: Path | str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Converted:
    """Write the checkpoint at `source` as `target`: a GGUF file when its name ends in .gguf (the vision part beside it,
    as mmproj-NAME), else a Hugging Face folder.

    type: f32, f16 or bf16; for GGUF any of `herd.formats.WRITTEN`; None: the source's own, tensor by tensor where it is
    quantised (a folder made of such a source is bf16). mmproj: the vision part of a GGUF source; None: the one beside
    it that belongs to it. One that lies there and does not come along is among the notes. imatrix: a file that tells
    which columns matter, for block formats of a GGUF. progress: told of each tensor once it is written. The target
    appears complete or not at all.

    A matrix whose rows no block of the type divides gets what stands in for it (`formats.substitutes`), or stays as it
    is where that would be no smaller; both are among the notes, and so is what was quantised before.
    Raises what `open_checkpoint` raises; UsageError (target exists, unknown type), DoesNotFit (disk: needed and free),
    BadCheckpoint (a value that the type cannot hold).
    """
    target = Path(target)
    with open_checkpoint(source, mmproj=mmproj) as checkpoint:
        if target.suffix == ".gguf":
            weighing = None if imatrix is None else Path(imatrix)
            return _to_gguf(checkpoint, target, type, weighing, overwrite, progress)
        if imatrix is not None:
            fail(UsageError, f"an imatrix for {target}", got="a folder of floats", expected="a .gguf of a block format")
        own = own_type(checkpoint)
        return _to_hf(checkpoint, target, type or (own if own in HF_TYPES else "bf16"), overwrite, progress)


def own_type(checkpoint: Checkpoint) -> str:
    """The number format that a checkpoint's matrices have, judged by the first layer's output projection."""
    c = checkpoint.config
    node: Any = checkpoint.source().matrix("model.layers.0.self_attn.o_proj", c.width, c.num_heads * c.head_size)
    return _format_of(node)


def _format_of(node: Any) -> str:
    floats = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16"}
    return fold(node, packed=lambda w: w.format, other=lambda w: floats.get(w.w.dtype, "bf16"))


def packed_formats(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensor (by its name in GGUF) -> block format of every matrix and stack of a checkpoint that is in one. No weight
    is read."""
    return _packed(_own_formats(checkpoint))


def _packed(formats: dict[str, str]) -> dict[str, str]:
    return {name: own for name, own in formats.items() if own not in HF_TYPES}


def _own_formats(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensor (by its name in GGUF) -> format of every matrix and stack of the text model; of a folder of plain floats,
    nothing."""
    source = checkpoint.source()
    if type(source) is HfSource:  # asking for rows of q and k would copy them
        return {}
    found: dict[str, str] = {}
    for w in walk(checkpoint.config):
        if w.kind == "vector" or is_vision(w.name):
            continue
        node = source.experts(w.name, *w.shape) if w.kind == "experts" else source.matrix(w.name, *w.shape, bias=w.bias)
        names, own = gguf_names(next(iter(w.tensors))), [_format_of(part) for part in apart(node)]
        found |= zip(names, own if len(own) == len(names) else own * len(names), strict=True)
    return found


def twice_rounded(formats: Iterable[str]) -> list[str]:
    """A note on matrices in these block formats that are quantised again; none where there are none."""
    found = Counter(formats)
    kinds = ", ".join(sorted(found))
    again = f"{found.total()} tensors were quantised before ({kinds}) and are again: less is lost from the floats"
    return [again] if found else []


def _to_hf(checkpoint: Checkpoint, target: Path, type: str, overwrite: bool, progress: Progress) -> Converted:
    if type not in HF_TYPES:
        fail(UsageError, "type of a safetensors folder", got=type, expected=", ".join(HF_TYPES), do="or name a .gguf")
    files, texts, notes = folder_companions(checkpoint)
    save_hf(
        target,
        checkpoint.config,
        checkpoint.source(),
        dtype_name(type),
        files=files,
        texts=texts,
        overwrite=overwrite,
        progress=progress,
        guard=checkpoint,
    )
    return Converted(target, type, sum(p.stat().st_size for p in target.iterdir()), tuple(notes))


def folder_companions(checkpoint: Checkpoint) -> tuple[list[Path], dict[str, str], list[str]]:
    """What goes into a folder beside the weights: files to copy, texts to write (name -> content), and notes."""
    files: list[Path] = []
    texts: dict[str, str] = {}
    notes = list(checkpoint.unused)
    if isinstance(checkpoint, HfCheckpoint):
        files = [safe_path(checkpoint.folder, n) for n in _COMPANIONS if (checkpoint.folder / n).exists()]
        if texts := _named_templates(checkpoint):
            files = [path for path in files if path.name not in ("tokenizer_config.json", "chat_template.jinja")]
    elif isinstance(checkpoint, MetaCheckpoint):
        files = [safe_path(checkpoint.path, n) for n in _COMPANIONS if (checkpoint.path / n).exists()]
    elif isinstance(checkpoint, GgufCheckpoint):
        try:
            tokenizer = checkpoint.load_tokenizer()
            keys, where = checkpoint.tokenizer_keys(), str(checkpoint.path)
            texts = hf_tokenizer_texts(keys, tokenizer, checkpoint.config, checkpoint.advice, where)
            texts |= _licence(checkpoint)
        except NotFound:
            notes.append("the source has no tokenizer")
    return files, texts, notes


def _named_templates(checkpoint: HfCheckpoint) -> dict[str, str]:
    """The templates of a folder within (additional_chat_templates) go where files lie side by side:
    tokenizer_config.json lists them all, and no chat_template.jinja is left that would count for the first."""
    name = "tokenizer_config.json"
    if not (checkpoint.folder / "additional_chat_templates").is_dir() or not (checkpoint.folder / name).exists():
        return {}
    read = read_json(safe_path(checkpoint.folder, name), BadTokenizer)
    return {name: json.dumps(with_templates(read, checkpoint.load_tokenizer()), ensure_ascii=False, indent=2) + "\n"}


def _licence(checkpoint: GgufCheckpoint) -> dict[str, str]:
    """A model card with the licence alone, as Hugging Face keeps it."""
    licence = checkpoint.reader.keys.get("general.license")
    if not isinstance(licence, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", licence):
        return {}
    return {"README.md": f"---\nlicense: {licence}\n---\n"}


def _to_gguf(
    checkpoint: Checkpoint, target: Path, asked: str | None, imatrix: Path | None, overwrite: bool, progress: Progress
) -> Converted:
    type = asked or own_type(checkpoint)
    if type not in FILE_TYPES:
        do = f"name one with --type: {type} is read, not written" if type in FORMATS else ""
        fail(UsageError, "type of a GGUF file", got=type, expected=", ".join(FILE_TYPES), do=do)
    encode: Encode | None = None
    told: list[str] = []
    if imatrix is not None:
        if asked is None or type in HF_TYPES:
            got = "no type" if asked is None else f"type {type}"
            fail(UsageError, "an imatrix", got=got, expected="a block format to encode in")
        importances, told = load_importances(imatrix, checkpoint.config)
        encode = gguf_encoder(checkpoint.config, importances)
    keys, notes = gguf_companions(checkpoint)
    own, becomes = _own_formats(checkpoint), _standing_in(checkpoint.config, type)
    before = _packed(own)
    # what stands in for a type stands in for nothing that is as small already
    kept = {n: f for n, f in before.items() if becomes[n] != type and get(f).bits <= get(becomes[n]).bits}
    kept = own if asked is None else kept
    mmproj = target.with_name(f"mmproj-{target.name}") if checkpoint.config.vision is not None else None
    written = write_gguf(
        target,
        checkpoint.config,
        checkpoint.source(),
        keys,
        type,
        mmproj=mmproj,
        overwrite=overwrite,
        progress=progress,
        types=kept,
        encode=encode,
        guard=checkpoint,
    )
    notes += told
    for kind, count in sorted(Counter(written.substituted.values()).items()):
        notes.append(f"{count} tensors became {kind}: {why_not(type)}")
    if kept and asked is not None:
        notes.append(f"{len(kept)} tensors stay {', '.join(sorted(set(kept.values())))}: {why_not(type)}")
    if type not in HF_TYPES:
        notes += twice_rounded(f for name, f in before.items() if name not in kept and becomes[name] != f)
    size = written.num_bytes + (written.mmproj.num_bytes if written.mmproj else 0)
    return Converted(target, type, size, (*notes, *written.notes))


def _standing_in(config: Llama4Config, type: str) -> dict[str, str]:
    """Tensor (by its name in GGUF) -> what it becomes, of every matrix and stack, when all are to become `type`."""
    matrices = (w for w in walk(config) if w.kind != "vector")
    inputs = {name: w.shape[1] for w in matrices for name in gguf_names(next(iter(w.tensors)))}
    return {name: fitting(type, count) or "f16" for name, count in inputs.items()}


def gguf_companions(checkpoint: Checkpoint) -> tuple[dict[str, Any], list[str]]:
    """Keys of a GGUF file that come with the model (tokenizer, advice, name), and notes."""
    notes = list(checkpoint.unused)
    keys: dict[str, Any] = {"general.name": stem_of(checkpoint.path.resolve())}
    if isinstance(checkpoint, GgufCheckpoint):
        old = checkpoint.reader.keys
        keys |= {k: old[k] for k in old if k.startswith(("tokenizer.", "general.")) and k not in _OWN}
    elif isinstance(checkpoint, HfCheckpoint):
        keys |= {f"general.sampling.{_SAMPLING[k]}": v for k, v in checkpoint.advice.items()}
        try:
            tokenizer = checkpoint.load_tokenizer()
            found, told = gguf_tokenizer_keys(checkpoint.folder, tokenizer, checkpoint.config)
            keys |= found
            notes += told
        except NotFound:
            notes.append("the source has no tokenizer.json: the file gets none")
    if "tokenizer.ggml.model" not in keys:
        keys["tokenizer.ggml.model"] = "none"
    return keys, notes


_SAMPLING = {
    "temperature": "temp",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
