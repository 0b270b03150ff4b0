"""Read GGUF files: mapped, checked at open, nothing copied.

What it is: `open_gguf(path)` -> `Gguf` with keys, tensors and their bytes as views of the mapping. A model split into
`NAME-00001-of-0000N.gguf` opens by any of its parts. What it is not: which tensor is which weight (`checkpoint.gguf`).
"""

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from herd import formats
from herd.containers.gguf_header import GgufHeader, Keys, TensorInfo
from herd.containers.gguf_parse import parse
from herd.disk.mapping import MappedFile, reading
from herd.errors import BadCheckpoint, NotFound, fail

MAX_PARTS = 1024
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf\Z", re.DOTALL)
_VIEWS = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}


class _Part(MappedFile):
    """One mapped file with its parsed header."""

    def __init__(self, path: Path) -> None:
        try:
            # Non-blocking, so that a FIFO with no writer cannot hang us.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            fail(NotFound, f"no file {path}")
        except OSError as e:
            fail(BadCheckpoint, f"{path}: cannot be opened", got=e.strerror)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                fail(BadCheckpoint, f"{path}: not a regular file")
            if found.st_size < 24:
                fail(BadCheckpoint, f"{path}: too short for a GGUF header", got=f"{found.st_size} bytes", expected=24)
            super().__init__(path, handle)
        finally:
            os.close(handle)
        with reading(path, self.check_readable):
            self.header: GgufHeader = parse(str(path), self.map)
        self.header.keys.check = self.check_unchanged


class Gguf:
    """An open GGUF model: one file, or all parts of a split one."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self.path = parts[0].path
        self.keys: Keys = parts[0].header.keys
        """Metadata, of the first part."""
        self.version = parts[0].header.version
        self.tensors: dict[str, TensorInfo] = {}
        self._part_of: dict[str, _Part] = {}
        for part in parts:
            for name, info in part.header.tensors.items():
                if name in self.tensors:
                    fail(BadCheckpoint, f"{part.path}: tensor {name} stands in two parts")
                self.tensors[name] = info
                self._part_of[name] = part

    @property
    def files(self) -> Sequence[MappedFile]:
        """The mapped files, in the order of the parts."""
        return self._parts

    @property
    def paths(self) -> list[Path]:
        """Paths of all files, in the order of the parts."""
        return [part.path for part in self._parts]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(part.num_bytes for part in self._parts)

    def check_unchanged(self) -> None:
        """Raise BadCheckpoint when a file was cut, rewritten or replaced since it was opened (size, time, inode), or
        could not be read. Called at every access here; whoever computes with the views asks again afterwards."""
        for part in self._parts:
            part.check_unchanged()

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, uint8 [..., row_bytes], a read-only view of the file. Raises BadCheckpoint."""
        info = self.info(name)
        part = self._part_of[name]
        part.check_unchanged()
        data = np.frombuffer(part.map, np.uint8, info.num_bytes, info.start)
        return data.reshape(*info.shape[:-1], formats.row_bytes(info.format, info.shape[-1]))

    def array(self, name: str) -> npt.NDArray[Any]:
        """A plain tensor as it lies in the file: float32, float16, or uint16 for bfloat16 bits. A read-only view.

        Raises BadCheckpoint when the tensor is quantised (see `raw`) or missing.
        """
        info = self.info(name)
        if info.format not in _VIEWS:
            fail(BadCheckpoint, f"{self.path}: tensor {name}", got=info.format, expected=", ".join(_VIEWS))
        return self.raw(name).view(_VIEWS[info.format])

    def decoded(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor of any format as float32, a copy."""
        info = self.info(name)
        return formats.decode(info.format, self.raw(name), info.shape[-1])

    def info(self, name: str) -> TensorInfo:
        """Format and shape of a tensor. Raises BadCheckpoint when the file has none of this name."""
        if name not in self.tensors:
            fail(BadCheckpoint, f"{self.path}: no tensor {name}")
        return self.tensors[name]


def open_gguf(path: Path | str) -> Gguf:
    """Map a GGUF file, or all parts of a split one, and check its header.

    Raises NotFound, or BadCheckpoint with one line that names file, field and limit. Under 64 MiB of extra memory
    whatever the file claims; no tensor data is read.
    """
    path = Path(path)
    first = _Part(path)
    count = _split_count(first)
    if count == 1:
        return Gguf([first])
    match = _PART.match(str(path))
    if match is None or int(match[3]) != count:
        fail(
            BadCheckpoint,
            f"{path}: one of {count} parts under another name",
            expected=f"NAME-00001-of-{count:05}.gguf",
            do="give the parts their names back, in one folder",
        )
    parts = []
    for i in range(count):
        name = Path(f"{match[1]}-{i + 1:05}-of-{count:05}.gguf")
        if not name.exists():
            fail(BadCheckpoint, f"{name}: part {i + 1} of {count} is missing", do="put all parts into one folder")
        part = first if int(match[2]) == i + 1 else _Part(name)
        if _split_count(part) != count or part.header.keys["split.no"] != i:
            fail(BadCheckpoint, f"{name}: split.no and split.count do not fit its name")
        parts.append(part)
    whole = Gguf(parts)
    wanted = whole.keys.get("split.tensors.count")
    if wanted is not None and wanted != len(whole.tensors):
        fail(BadCheckpoint, f"{path}: split.tensors.count", got=len(whole.tensors), expected=wanted)
    return whole


def _split_count(part: _Part) -> int:
    keys = part.header.keys
    count = keys.get("split.count", 0)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_PARTS:
        fail(BadCheckpoint, f"{part.path}: split.count", got=count, expected=f"0 to {MAX_PARTS}")
    if count > 1 and "split.no" not in keys:
        fail(BadCheckpoint, f"{part.path}: split.count without split.no")
    return max(1, count)
