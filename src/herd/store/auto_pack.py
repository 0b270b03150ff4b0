"""What needs repacking is packed once into the store and mapped from then on (see `packed_copies` for where).

The same file in the same place has one packed form: when the file has changed, the next load packs it anew in place of
the stale one. A form that is damaged (sizes, headers, metadata; digests when `herd verify` asks) is made again. Two
processes at once: the second waits for the first.

What it is not: Herd's saved form of a whole model (`checkpoint.packed`); that has no need of this.
"""

import logging
import shutil
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

from herd.checkpoint.hf.source import HfSource
from herd.checkpoint.opened import Checkpoint, GgufCheckpoint, HfCheckpoint
from herd.checkpoint.packed.form import PackedTensor
from herd.checkpoint.packed.shards import Shards, header_room
from herd.checkpoint.packed.source import PackedFiles, PackedSource
from herd.checkpoint.strip_pieces import strips_of
from herd.checkpoint.walk import walk
from herd.disk.atomic import make_folders, new_folder, remove_left
from herd.disk.manifest import write_manifest
from herd.errors import DoesNotFit, HerdError, fail
from herd.progress import Progress, silent
from herd.store import packed_copies
from herd.store.packed_copies import SourceState
from herd.store.packed_over import PackedOver, packable

log = logging.getLogger(__name__)

LARGE = 1 << 28
"""Bytes of strips from which on the progress of packing is told."""
ROOM = 1 << 28
"""Bytes of disk that packing leaves free."""


def packed_for(
    checkpoint: Checkpoint, *, pack: bool = True, progress: Progress = silent, threads: Any = None
) -> Checkpoint:
    """`checkpoint` with its quantised matrices as strips: from the store, packed now when they are not there yet.

    The checkpoint itself is returned when there is nothing to pack, when `pack` is off, and (with one line in the log)
    when the store cannot hold the packed form. threads: see `strip_pieces.pack`. Closing the result closes
    `checkpoint`. Raises BadCheckpoint when the model's files change meanwhile.
    """
    if not pack or not isinstance(checkpoint, GgufCheckpoint | HfCheckpoint):
        return checkpoint
    if type(checkpoint.source()) in (HfSource, PackedSource):
        return checkpoint
    folder = packed_copies.folder_of(checkpoint.path)
    try:
        state = packed_copies.state_of(source_files(checkpoint))
        ready = _ready(checkpoint, folder, state)
        remove_left(folder)
        if ready is not None or next(packable(checkpoint.config, checkpoint.source()), None) is None:
            return ready or checkpoint
        if packed_copies.is_locked(folder):
            progress(f"waiting for another process to pack {checkpoint.path.name}", 0, checkpoint.size_bytes)
        make_folders(folder.parent)
        with packed_copies.lock(folder):
            ready = _ready(checkpoint, folder, state)
            if ready is None:
                packed_copies.sweep(folder)
                _pack(checkpoint, folder, state, progress, threads)
                ready = _ready(checkpoint, folder, state)
    except (DoesNotFit, OSError) as problem:
        log.warning("%s is used as it is, and slower: %s", checkpoint.path.name, problem)
        return checkpoint
    return ready or checkpoint


def source_files(checkpoint: GgufCheckpoint | HfCheckpoint) -> list[Path]:
    """The files that hold a checkpoint's weights."""
    if isinstance(checkpoint, GgufCheckpoint):
        return checkpoint.reader.paths + (checkpoint.mmproj.paths if checkpoint.mmproj else [])
    return sorted(checkpoint.folder.glob("*.safetensors")) if checkpoint.path.is_dir() else [checkpoint.path]


def _ready(checkpoint: Checkpoint, folder: Path, state: SourceState) -> PackedOver | None:
    """The packed form in `folder` when it is that of `state`, whole and in order."""
    if packed_copies.recorded(folder) != state:
        return None
    files = None
    try:
        files = PackedFiles(folder)
        return PackedOver(checkpoint, files)
    except (HerdError, OSError) as problem:
        if files is not None:
            files.close()
        log.warning("%s is damaged and is made again: %s", folder, problem)
        return None


def _pack(
    checkpoint: GgufCheckpoint | HfCheckpoint, folder: Path, state: SourceState, progress: Progress, threads: Any
) -> None:
    """Make the packed form in `folder`. Raises DoesNotFit, BadCheckpoint; OSError when the store cannot be written."""
    needed, what = checkpoint.size_bytes, f"packing {checkpoint.path.name} once"
    _check_room(folder, needed)
    tell = progress if needed >= LARGE else silent
    done = 0
    with new_folder(folder, overwrite=True) as temp:
        names = chain.from_iterable((w.name, *w.tensors) for w in walk(checkpoint.config))
        shards = Shards(temp, {}, header_room(names))
        try:
            with checkpoint.reading():
                for name, node in packable(checkpoint.config, checkpoint.source()):
                    tell(what, min(done, needed - 1), needed)
                    entry = PackedTensor(node.format, tuple(node.shape), "strips")
                    shards.write(name, "U8", entry.stored_shape(), strips_of(node, threads), entry)
                    done += prod(entry.stored_shape())
            digests = shards.finish()
        finally:
            shards.close()
        packed_copies.record(temp, state, checkpoint.path)
        write_manifest(temp, digests)
    tell(what, needed, needed)


def _check_room(folder: Path, needed: int) -> None:
    """Raise DoesNotFit when the disk has too little room. A stale form of the same model is removed first."""
    free = shutil.disk_usage(folder.parent).free
    if free < needed + ROOM <= free + packed_copies.folder_bytes(folder):
        shutil.rmtree(folder)
    elif free < needed + ROOM:
        fail(
            DoesNotFit,
            f"packing it takes {needed / 1e9:.2f} GB in {folder.parent}, {free / 1e9:.2f} GB are free",
            do="free some, set HERD_HOME to another disk, or load it with --no-pack",
        )
