"""An open checkpoint: its config, weights, tokenizer and advice, whichever kind of file they come from."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from herd.checkpoint.check_finite import check_source
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.checkpoint.hf.kinds import hf_source
from herd.config import MAX_VOCAB, Llama4Config
from herd.config.gguf_keys import check_gguf
from herd.config.hf import from_hf, hf_notes
from herd.config.hf_keys import check_hf
from herd.containers.gguf import Gguf
from herd.disk.manifest import check_manifest
from herd.disk.mapping import MappedFile, reading
from herd.disk.small_files import listed, read_json, safe_path
from herd.errors import BadConfig, BadTokenizer, NotFound, fail
from herd.text.tokenizer import Tokenizer
from herd.weights import Model, Source, build

log = logging.getLogger(__name__)

# name of an option: key in generation_config.json, key in GGUF, lowest, highest
_ADVICE = {
    "temperature": ("temperature", "general.sampling.temp", 0.0, 100.0),
    "top_p": ("top_p", "general.sampling.top_p", 0.0, 1.0),
    "top_k": ("top_k", "general.sampling.top_k", 0, 1 << 24),
    "min_p": ("min_p", "general.sampling.min_p", 0.0, 1.0),
    "repetition_penalty": ("repetition_penalty", "general.sampling.penalty_repeat", 0.01, 10.0),
}
# A vocabulary may be padded to a round number of rows, not more than this.
_PADDING = 1024


class Checkpoint(ABC):
    """A model on disk, open. Close it, or use it in `with`; what it has loaded stays valid while it is held."""

    path: Path
    format: Literal["safetensors", "gguf", "meta"]
    config: Llama4Config
    size_bytes: int
    """Size of the weight files."""
    advice: Mapping[str, float]
    """Sampling options that the checkpoint recommends, by their name in SamplingOptions; often empty."""
    unused: Sequence[str] = ()
    """A line for each file that lies there, could belong to the model and is not used."""

    @abstractmethod
    def source(self) -> Source:
        """The weights as a source, one by one. Raises BadCheckpoint at once when names or shapes are not the
        config's."""

    @property
    @abstractmethod
    def mapped(self) -> Sequence[MappedFile]:
        """The open, mapped files with weights."""

    def check_unchanged(self) -> None:
        """Raise BadCheckpoint when a file was changed, replaced or removed since it was opened, or could not be
        read."""
        for file in self.mapped:
            file.check_unchanged()

    def check_readable(self) -> None:
        """Raise BadCheckpoint when a page of a mapped file could not be read: it reads as zeros, so results since then
        are worthless. Cheap: the disk is not asked."""
        for file in self.mapped:
            file.check_readable()

    def reading(self) -> AbstractContextManager[None]:
        """A context around work that reads the weights: raises what `check_unchanged` raises in place of a result."""
        return reading(self.path, self.check_unchanged)

    def verify(self) -> bool:
        """Check digests, then that all numbers are finite. True when digests were known; raises BadCheckpoint."""
        with self.reading():
            known = self.check_digests()
            self.check_finite()
        return known

    def check_finite(self) -> None:
        """Read all weights once; raise BadCheckpoint naming tensors with a NaN or an infinity."""
        check_source(self.path, self.config, self.source())

    def check_digests(self) -> bool:
        """Compare every file with the digests that came with it. False when there are none: nothing is known then.

        Raises BadCheckpoint naming the file that differs.
        """
        return False

    @abstractmethod
    def _read_tokenizer(self) -> Tokenizer: ...

    def load(self) -> Model:
        """The weights as a tree, mapped where the file's form allows it. Raises BadCheckpoint."""
        with self.reading():
            return build(self.config, self.source())

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer, read once. Raises NotFound, BadTokenizer (also when it does not fit the weights)."""
        return self._tokenizer

    @property
    def template(self) -> str | None:
        """The chat template as text. Raises as `load_tokenizer`."""
        return self._tokenizer.template

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = self._read_tokenizer().with_rows(self.config.vocab_size)
        for note in tokenizer.notes:
            tell(f"{self.path}: {note}")
        rows, tokens = self.config.vocab_size, tokenizer.vocab_size
        if tokens > rows or rows - tokens > max(_PADDING, rows // 50):
            fail(
                BadTokenizer,
                f"{self.path}: the tokenizer does not fit the weights: {tokens} tokens, {rows} rows of embeddings",
                do="take the tokenizer that the model came with",
            )
        for name, token_id in (("bos", self.config.bos_id), *(("eos", i) for i in self.config.eos_ids)):
            if token_id is not None and token_id >= tokens:
                fail(BadTokenizer, f"{self.path}: {name} id", got=token_id, expected=f"below {tokens}, the tokenizer's")
        return tokenizer

    @abstractmethod
    def close(self) -> None:
        """Close the files, now or when the last array that looks into them goes."""

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class HfCheckpoint(Checkpoint):
    """A Hugging Face model of config.json and safetensors: a folder, or one file whose folder has the rest."""

    format: Literal["safetensors", "gguf", "meta"] = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path if path.is_dir() else path.parent
        if not (self.folder / "config.json").exists():
            fail(NotFound, f"{self.folder} has no config.json", do="it belongs beside the safetensors files")
        data = read_json(safe_path(self.folder, "config.json"), BadConfig)
        if "auto_map" in data:
            log.warning("%s: config.json names code of its own (auto_map): ignored, never run", path)
        generation = self._optional("generation_config.json")
        try:
            config = from_hf(data)
        except BadConfig as problem:
            raise BadConfig(f"{self.folder / 'config.json'}: {problem}") from None
        eos = (*config.eos_ids, *_ids(generation.get("eos_token_id")))
        self.config = replace(config, eos_ids=tuple(dict.fromkeys(eos)))
        self.advice = _advice(generation, 0)
        if generation.get("do_sample") is False:
            self.advice = {"temperature": 0.0}
        _tell_unknown(self.folder / "config.json", check_hf(data))
        self._source = hf_source(path, config, data)
        self.config = replace(self.config, tied_embeddings=self._source.config.tied_embeddings)
        for note in (*(f"{path}: {line}" for line in hf_notes(data, config)), *self._source.notes):
            tell(note)
        self.size_bytes = self._source.num_bytes

    def source(self) -> Source:
        """See Checkpoint."""
        return self._source

    def types(self) -> dict[str, int]:
        """Number format -> bytes of weights."""
        return self._source.types()

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """See Checkpoint."""
        return self._source.files

    def check_digests(self) -> bool:
        """See Checkpoint: compares with the herd.manifest.json that Herd writes."""
        return check_manifest(self.folder)

    def close(self) -> None:
        """See Checkpoint."""
        self._source.close()

    def _read_tokenizer(self) -> Tokenizer:
        return Tokenizer.from_hf_folder(self.folder)

    def _optional(self, name: str) -> dict[str, Any]:
        exists = (self.folder / name).exists()
        return read_json(safe_path(self.folder, name), BadConfig) if exists else {}


class GgufCheckpoint(Checkpoint):
    """A GGUF model, and the file with its vision part when it has one."""

    format: Literal["safetensors", "gguf", "meta"] = "gguf"

    def __init__(self, path: Path, reader: Gguf, mmproj: Gguf | None, unused: Sequence[str] = ()) -> None:
        self.path = path
        self.unused = unused
        self.reader = reader
        self.mmproj = mmproj
        self.config = config_from_gguf(reader, mmproj)
        for line in unused:
            tell(line)
        _tell_unknown(path, check_gguf(reader.keys, str(reader.keys.get("general.architecture"))))
        self.advice = _advice(reader.keys, 1)
        self.size_bytes = reader.num_bytes + (mmproj.num_bytes if mmproj else 0)
        self._source = GgufSource(reader, self.config, mmproj)

    def source(self) -> Source:
        """See Checkpoint."""
        return self._source

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """See Checkpoint."""
        return (*self.reader.files, *(self.mmproj.files if self.mmproj is not None else ()))

    def close(self) -> None:
        """Do nothing: the map goes with the last array that looks into it, and with this object."""

    def tokenizer_keys(self) -> dict[str, Any]:
        """The `tokenizer.*` keys as Python values: arrays as lists."""
        found = {name: self.reader.keys[name] for name in self.reader.keys if name.startswith("tokenizer.")}
        return {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in found.items()}

    def _read_tokenizer(self) -> Tokenizer:
        if self.reader.keys.get("tokenizer.ggml.model", "none") in ("none", "no_vocab"):
            fail(NotFound, f"{self.path} has no tokenizer")
        return Tokenizer.from_gguf(self.tokenizer_keys(), self.path.name)


def _tell_unknown(path: Path, keys: Sequence[str]) -> None:
    if keys:
        tell(f"{path}: keys that Herd does not know are passed over: {listed(tuple(keys), 8)}")


@lru_cache(maxsize=256)
def tell(line: str) -> None:
    """Log a warning, once in the life of the process."""
    log.warning("%s", line)


def _ids(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, list) else [] if value is None else [value]
    for item in items:
        if type(item) is not int or not 0 <= item < MAX_VOCAB:
            fail(BadConfig, "generation_config.json eos_token_id", got=value, expected="ids of the vocabulary")
    return tuple(items)


def _advice(keys: Mapping[str, Any], column: Literal[0, 1]) -> dict[str, float]:
    found: dict[str, float] = {}
    for option, (hf, gguf, low, high) in _ADVICE.items():
        key = (hf, gguf)[column]
        value = keys.get(key)
        if value is None:
            continue
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            fail(BadConfig, f"sampling advice {key}", got=value, expected=f"{low} to {high}")
        found[option] = value
    return found
