"""The nodes of the prefix tree: blocks of one page of positions, the tree of each salt, and the order of last use."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from heapq import heapify, heappop, heappush
from itertools import count
from operator import attrgetter

from herd.cache.keys import shared

POOLS = ("full", "chunk", "exact")
by_code = attrgetter("code")
_serial = count()


class PrefixNode:
    """A block: at most one page of positions behind `parent`, and the pages that hold it (-1: none in this pool).

    A full block may have children. A tail, shorter than a page, has none. The root of a salt holds nothing.
    """

    __slots__ = ("alive", "children", "chunk_children", "code", "digest", "pages", "parent", "place", "size", "used")

    def __init__(self, parent: "PrefixNode | None", code: bytes, digest: bytes, size: int) -> None:
        self.parent, self.code, self.digest, self.size = parent, code, digest, size
        self.place: int = -1 if parent is None else parent.place + 1
        self.pages: dict[str, int] = {"full": -1, "chunk": -1, "exact": -1}
        self.children: list[PrefixNode] = []
        """Children in the order of their codes, so that those that share most with a run of keys lie beside it."""
        self.chunk_children: int = 0
        """Children of the same chunk with a chunk page."""
        self.used = 0
        self.alive = True

    def covering(self, code: bytes) -> "PrefixNode | None":
        """The first child, in the order of codes, that starts with these keys."""
        i = bisect_left(self.children, code, key=by_code)
        return self.children[i] if i < len(self.children) and self.children[i].code.startswith(code) else None


def child_digest(parent: PrefixNode, code: bytes) -> bytes:
    """The 256-bit name of a block: SHA-256 over the parent's name and the block's keys."""
    return sha256(parent.digest + code).digest()


def root_of(salt: bytes) -> PrefixNode:
    """The root of a salt's tree: all names below it depend on the salt."""
    return PrefixNode(None, b"", sha256(b"herd prefix\0" + salt).digest(), 0)


def heads(node: PrefixNode, code: bytes, most: int = 64) -> list[tuple[int, PrefixNode]]:
    """(keys in common, child) for children that start like `code`, most in common first, among the `most` nearest."""
    at = bisect_left(node.children, code, key=by_code)
    near = node.children[max(0, at - most) : at + most]
    found = [(n, child) for child in near if (n := shared(child.code, code))]
    return sorted(found, key=lambda f: -f[0])


class LeastRecentlyUsed:
    """Nodes by last use, oldest first: a heap whose stale entries are dropped when they come up."""

    def __init__(self, belongs: Callable[[PrefixNode], bool]) -> None:
        self.belongs = belongs
        self.heap: list[tuple[int, int, PrefixNode]] = []

    def push(self, node: PrefixNode, expected: int) -> None:
        """Note a node's latest use. `expected`: about how many nodes there are, to know when to sweep stale entries."""
        heappush(self.heap, (node.used, next(_serial), node))
        if len(self.heap) > 64 + 4 * expected:
            latest = {e[2]: e for e in self.heap if self._valid(e)}
            self.heap = list(latest.values())
            heapify(self.heap)

    def pop(self, usable: Callable[[PrefixNode], bool]) -> PrefixNode | None:
        """Take out the oldest node that is usable, and return it; those that are not usable stay. None: there is
        none."""
        kept, found = [], None
        while self.heap and found is None:
            entry = heappop(self.heap)
            if self._valid(entry):
                if usable(entry[2]):
                    found = entry[2]
                else:
                    kept.append(entry)
        for entry in kept:
            heappush(self.heap, entry)
        return found

    def __contains__(self, node: PrefixNode) -> bool:
        return any(e[2] is node and self._valid(e) for e in self.heap)

    def _valid(self, entry: tuple[int, int, PrefixNode]) -> bool:
        used, _, node = entry
        return node.alive and node.used == used and self.belongs(node)


@dataclass(eq=False)
class Tree:
    """The blocks of one salt."""

    salt: bytes
    root: PrefixNode
    num_nodes: int = 0
    num_pages: dict[str, int] = field(default_factory=lambda: dict.fromkeys(POOLS, 0))
    oldest: dict[str, LeastRecentlyUsed] = field(
        default_factory=lambda: {
            "full": LeastRecentlyUsed(lambda n: not n.children and n.pages["exact"] < 0),
            "chunk": LeastRecentlyUsed(lambda n: not n.chunk_children and n.pages["chunk"] >= 0),
            "exact": LeastRecentlyUsed(lambda n: not n.children and n.pages["exact"] >= 0),
        }
    )
    """Leaves without an exact page; nodes whose chunk page no other of the tree needs; leaves with an exact page."""

    def note(self, node: PrefixNode) -> None:
        """Enter a node, with its last use, in every heap of a pool that it can be evicted from."""
        for oldest in self.oldest.values():
            if oldest.belongs(node):
                oldest.push(node, self.num_nodes)
