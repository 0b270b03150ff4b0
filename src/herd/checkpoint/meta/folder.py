"""Meta's own folder: consolidated.NN.pth, params.json, tokenizer.model; and, for quantised ones, files with scales."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from herd.checkpoint.meta import source as meta_source
from herd.checkpoint.meta.config import config_from_params
from herd.checkpoint.meta.source import MetaSource
from herd.checkpoint.opened import Checkpoint
from herd.containers.torch_file import TorchFile
from herd.disk.mapping import MappedFile
from herd.disk.small_files import listed, read_json, safe_path
from herd.errors import BadCheckpoint, BadConfig, NotFound, fail
from herd.text.tokenizer import Tokenizer
from herd.weights import Source

MAX_FILES = 128
_WEIGHTS = re.compile(r"consolidated\.(\d{2,3})\.pth")
_SCALES = re.compile(r"(fp8|int4)_scales_(\d{1,3})\.pt")


class MetaCheckpoint(Checkpoint):
    """An open folder in Meta's own form. Raises NotFound, BadCheckpoint, BadConfig."""

    format: Literal["safetensors", "gguf", "meta"] = "meta"

    def __init__(self, folder: Path) -> None:
        self.path = folder
        if not (folder / "params.json").exists():
            fail(NotFound, f"{folder} has no params.json", do="it belongs beside the consolidated files")
        params = read_json(safe_path(folder, "params.json"), BadConfig)
        names = sorted(p.name for p in folder.iterdir())
        weights = _numbered(folder, [m for n in names if (m := _WEIGHTS.fullmatch(n))], 1)
        if not weights:
            fail(NotFound, f"{folder} has no consolidated.00.pth")
        scales = [m for n in names if (m := _SCALES.fullmatch(n))]
        kinds = {m[1] for m in scales}
        if len(kinds) > 1:
            fail(BadCheckpoint, f"{folder} has scales of two kinds", got=listed([m[0] for m in scales]))
        paths = _numbered(folder, scales, 2)
        if paths and len(paths) != len(weights):
            fail(BadCheckpoint, f"{folder}: files with scales", got=len(paths), expected=len(weights))
        self.files: list[TorchFile] = []
        try:
            for path in (*weights, *paths):
                self.files.append(TorchFile(path))
            parts = self.files[: len(weights)]
            self.config = config_from_params(params, lambda n, axis: _size(parts, n, axis), str(folder / "params.json"))
            self.advice: Mapping[str, float] = {}
            self.size_bytes = sum(file.num_bytes for file in self.files)
            self._source = MetaSource(folder, self.config, parts, self.files[len(weights) :], next(iter(kinds), None))
        except BaseException:
            self.close()
            raise

    def source(self) -> Source:
        """See Checkpoint."""
        return self._source

    def types(self) -> dict[str, int]:
        """Number format -> bytes of weights."""
        return dict(meta_source.types(self.files))

    @property
    def mapped(self) -> Sequence[MappedFile]:
        """See Checkpoint."""
        return self.files

    def check_digests(self) -> bool:
        """See Checkpoint: compares the CRC-32 sums that the archives hold themselves."""
        for file in self.files:
            file.check_sums()
        return True

    def close(self) -> None:
        """See Checkpoint."""
        for file in self.files:
            file.close()

    def _read_tokenizer(self) -> Tokenizer:
        if not (self.path / "tokenizer.model").exists():
            fail(NotFound, f"{self.path} has no tokenizer", expected="tokenizer.model")
        return Tokenizer.from_rank_file(safe_path(self.path, "tokenizer.model"))


def _numbered(folder: Path, found: list[re.Match[str]], group: int) -> list[Path]:
    """The files in the order of their numbers, which begin at 0 and have no gap. Raises BadCheckpoint."""
    ordered = sorted(found, key=lambda m: int(m[group]))
    if [int(m[group]) for m in ordered] != list(range(len(ordered))) or len(ordered) > MAX_FILES:
        fail(BadCheckpoint, f"{folder}: numbers of files", got=listed([m[0] for m in ordered]), expected="0, 1, 2 ..")
    return [safe_path(folder, m[0]) for m in ordered]


def _size(files: list[TorchFile], name: str, axis: int) -> int:
    """Size of a tensor along an axis (negative: not cut into files), all files together; 0 when there is none."""
    shape = files[0].shape(name) if name in files[0].tensors else ()
    if not -len(shape) <= axis < len(shape):
        return 0
    return shape[axis] * (len(files) if axis == 0 else 1)
