"""What a power cut leaves of a folder: a recorded series of changes, replayed over a model of a disk that keeps what
was synced and, of the rest, nothing, the names only, or whatever it likes.

A file's bytes are safe once the file is synced, its name once its folder is (POSIX, fsync); a rename is one step.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(eq=False)
class Node:
    """A file (`names` is None) or a folder: as the programs see it, and as the disk has it."""

    data: bytearray = field(default_factory=bytearray)
    safe_data: bytes = b""
    names: dict[str, "Node"] | None = None
    safe_names: dict[str, "Node"] = field(default_factory=dict)

    def sync(self) -> None:
        self.safe_data = bytes(self.data)
        if self.names is not None:
            self.safe_names = dict(self.names)


def load(path: Path) -> Node:
    """What lies at `path`, all of it safe."""
    node = Node(names={}) if path.is_dir() else Node(bytearray(path.read_bytes()))
    if node.names is not None:
        node.names.update({p.name: load(p) for p in path.iterdir()})
    node.sync()
    return node


Step = tuple[str, str, str, int, bytes]


def steps(trace: bytes) -> Iterator[Step]:
    """(what, path, other path, offset, bytes) of each change that tests/faults/disk.c wrote down."""
    at = 0
    while at < len(trace):
        end = trace.index(b"\n", at)
        what, a, b, offset, length = trace[at:end].decode().split("\t")
        at = end + 1
        size = int(length) if what == "write" else 0
        yield what, a, b, int(offset), trace[at : at + size]
        at += size


class Disk:
    """The folder `root`, changed step by step."""

    def __init__(self, root: Path) -> None:
        self._root, self.top = root, load(root)

    def do(self, step: Step) -> None:
        """One change."""
        what, a, b, offset, data = step
        folder, name = self._parent(a)
        assert folder.names is not None
        if what == "create":
            folder.names[name] = Node()
        elif what == "mkdir":
            folder.names[name] = Node(names={})
        elif what == "write":
            self._grow(folder.names[name].data, offset)
            folder.names[name].data[offset : offset + len(data)] = data
        elif what == "cut":
            self._grow(folder.names[name].data, offset)
            del folder.names[name].data[offset:]
        elif what == "sync":
            (folder.names[name] if name else self.top).sync()
        elif what == "remove":
            del folder.names[name]
        else:
            other, new = self._parent(b)
            assert other.names is not None
            moved = folder.names.pop(name)
            if what == "exchange":
                folder.names[name] = other.names[new]
            other.names[new] = moved

    def after_power_cut(self, kind: str, seed: int, target: Path) -> None:
        """Write what is left to `target`, an empty folder. kind: nothing (of what was not synced), names, or any."""
        self._write(self.top, target, kind, random.Random(seed))

    def _write(self, node: Node, path: Path, kind: str, dice: random.Random) -> None:
        assert node.names is not None
        path.mkdir(exist_ok=True)
        seen = kind == "names" or (kind == "any" and dice.random() < 0.5)
        for name, child in sorted((node.names if seen else node.safe_names).items()):
            if child.names is not None:
                self._write(child, path / name, kind, dice)
            else:
                kept = kind == "any" and dice.random() < 0.5
                (path / name).write_bytes(child.data if kept else child.safe_data)

    def _parent(self, path: str) -> tuple[Node, str]:
        parts = Path(path).relative_to(self._root).parts
        node = self.top
        for part in parts[:-1]:
            assert node.names is not None
            node = node.names[part]
        return node, parts[-1] if parts else ""

    @staticmethod
    def _grow(data: bytearray, size: int) -> None:
        if len(data) < size:
            data.extend(bytes(size - len(data)))
