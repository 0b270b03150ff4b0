"""The prefix cache: a tree of blocks of one page of positions, for each salt, that shares pages between sequences.

    salt ── block 0 ─┬─ block 1 ─┬─ block 2 ── tail      a block is named by SHA-256 over salt, parent and its keys;
                     │           └─ tail                 a hit compares the keys, too. Two salts share nothing.
                     └─ block 1'

Each block holds its page of the full pool for good, and its chunk page while there is one: a prefix that ends inside
a chunk needs the chunk pages from the start of that chunk, one that ends at a multiple of the chunk needs none. So
chunk pages are evicted alone, from the end of a chunk backwards, and the blocks then still serve whole chunks.
A tail, or the head of a longer block, is reused too: its page is shared and copied at the first write.

With an exact pool (int4) block 0 and tails hold exact pages and the other blocks coarse ones, so of a finished block
that is not the first only the whole can be reused.

What it is not: a cache of text or of keys; it holds integers. Blocks are at most as many as there are pages.
"""

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Sequence
from itertools import starmap
from weakref import WeakKeyDictionary

from herd.cache.keys import encode
from herd.cache.nodes import PrefixNode, Tree, by_code, child_digest, heads, root_of
from herd.cache.pages import Lease, PageCounts, Pager

Keys = Sequence[Hashable]


class PrefixTree:
    """The prefix cache over a Pager, whose audit then counts the tree's holds; see the module."""

    def __init__(self, pager: Pager) -> None:
        self.pager = pager
        self.trees: dict[bytes, Tree] = {}
        self.blocks: dict[bytes, PrefixNode] = {}
        """Name -> block."""
        self._seen: WeakKeyDictionary[Lease, PrefixNode] = WeakKeyDictionary()
        """The last full block in which a lease was met, so that a lease that grows is not hashed from its start."""
        self._tick = 0
        self.evicted = PageCounts()
        """Pages that were given up for others since its start."""
        pager.holders.append(self)

    def adopt(self, lease: Lease, keys: Keys, salt: bytes, most: int) -> int:
        """Give an empty lease the pages of the longest cached prefix of `keys`, of at most `most` positions; returns
        its length. `most` is usually len(keys) - 1, since the logits of the last key have to be computed."""
        Z, C = self.pager.page_size, self.pager.chunk
        keys, tree = keys[: max(0, most)], self.trees.get(salt)
        path = [] if tree is None else self._known(tree.root, keys)
        length = len(path) * Z
        edge = length // C * C if C else length
        # the first block of the last chunk without a chunk page: only the blocks before it can be reused
        gap = next((i for i in range(edge // Z, len(path)) if path[i].pages["chunk"] < 0), len(path))
        if gap < len(path):
            length = gap * Z
        elif tree is not None:
            size, head = self._head(path[-1] if path else tree.root, keys[length : length + Z])
            if head is not None:
                length += size
                path.append(head)
        del path[-(-length // Z) :]
        if not length or tree is None:
            return 0
        self._give(lease, length, path)
        self._use(tree, path[-1])
        if len(path) * Z == length:
            self._meet(lease, path[-1])
        elif len(path) > 1:
            self._meet(lease, path[-2])
        return length

    def insert(self, lease: Lease, keys: Keys, salt: bytes, tail: bool = True) -> None:
        """Cache what a lease holds: keys[i] is the key of its position i (more keys than positions may be given). tail:
        also the positions behind its last full block; leave them out while the sequence goes on, or its next write
        copies that page. Chunk pages of a chunk that a commit has passed are gone, so insert a long prompt after each
        pass."""
        assert not lease.pending, "commit the last step first"
        assert len(keys) >= lease.length, (len(keys), lease.length)
        Z, length = self.pager.page_size, lease.length
        full = length // Z
        if length < (1 if tail else Z):
            return
        tree = self.trees.get(salt)
        if tree is None:
            tree = self.trees[salt] = Tree(salt, root_of(salt))
        node = self._start(lease, tree)
        path: list[PrefixNode] = []
        while node.place + 1 < full:
            start = (node.place + 1) * Z
            child = self._child(tree, node, encode(keys[start : start + Z]), Z, lease)
            if child is None:
                break
            path.append(child)
            node = child
        self._add_chunk_pages(tree, node, lease)
        self._meet(lease, node)
        if node is not tree.root:
            self._use(tree, node)
        for block in path:
            if self._divisible(block):
                self._drop_shorter(tree, block)
        if tail and length % Z and node.place + 1 == full:
            self._add_tail(tree, node, encode(keys[full * Z : length]), lease)
        self._forget_empty(tree)

    def evict(self, full: int = 0, chunk: int = 0, exact: int = 0) -> bool:
        """Evict the least recently used blocks that no lease holds until so many pages are free in each pool; False
        when nothing is left to evict. Of several salts the one that holds most in that pool gives first, so nobody can
        push out another's blocks beyond an equal share."""
        wanted = (("full", full), ("chunk", chunk), ("exact", exact))
        # not a generator: one pool that cannot be served does not stop the others
        return all(list(starmap(self._free, wanted)))

    def clear(self) -> None:
        """Evict everything: the last resort of a lease that is alone and needs the page of a copy."""
        for tree in list(self.trees.values()):
            nodes = list(tree.root.children)
            for node in nodes:
                nodes += node.children
            # children after their parents, so from the end every node is a leaf
            for node in reversed(nodes):
                self._remove(tree, node)
            self._forget_empty(tree)

    def held(self, pool: str) -> Iterable[int]:
        """See pages.PageHolder."""
        return [page for node in self.blocks.values() if (page := node.pages[pool]) >= 0]

    # -- finding -------------------------------------------------------------------------------------------------

    def _known(self, node: PrefixNode, keys: Keys) -> list[PrefixNode]:
        """Full blocks from the root that these keys start with."""
        Z, path = self.pager.page_size, []
        for start in range(0, len(keys) - Z + 1, Z):
            found = self._find(node, encode(keys[start : start + Z]))
            if found is None:
                break
            path.append(found)
            node = found
        return path

    def _find(self, parent: PrefixNode, code: bytes) -> PrefixNode | None:
        found = self.blocks.get(child_digest(parent, code))
        return found if found is not None and found.parent is parent and found.code == code else None

    def _head(self, parent: PrefixNode, keys: Keys) -> tuple[int, PrefixNode | None]:
        """The child whose page has most of these keys in common, and how many."""
        if not keys:
            return 0, None
        return next(((n, c) for n, c in heads(parent, encode(keys)) if self._divisible(c)), (0, None))

    def _divisible(self, node: PrefixNode) -> bool:
        """Whether a part of this block's positions can be reused."""
        if self.pager.chunk is not None and node.pages["chunk"] < 0:
            return False
        return node.pages["exact"] >= 0 if self.pager.exact else True

    def _give(self, lease: Lease, length: int, path: list[PrefixNode]) -> None:
        Z, C = self.pager.page_size, self.pager.chunk
        chunk = [n.pages["chunk"] for n in path[length // C * C // Z :]] if C else []
        exact = {}
        full = [n.pages["full"] for n in path]
        if self.pager.exact:
            full = [0, *full[1 : length // Z]] if length >= Z else []
            exact[0] = path[0].pages["exact"]
            if length % Z:
                exact[length // Z] = path[-1].pages["exact"]
        self.pager.give(lease, length, full, chunk, exact)

    # -- growing -------------------------------------------------------------------------------------------------

    def _start(self, lease: Lease, tree: Tree) -> PrefixNode:
        """The last block of the lease that the tree already has."""
        node = self._seen.get(lease, tree.root)
        while node.parent is not None and (not node.alive or node.place >= lease.unchanged):
            node = node.parent
        top = node
        while top.parent is not None:
            top = top.parent
        return node if top is tree.root else tree.root

    def _meet(self, lease: Lease, node: PrefixNode) -> None:
        self._seen[lease] = node
        lease.unchanged = node.place + 1

    def _child(self, tree: Tree, parent: PrefixNode, code: bytes, size: int, lease: Lease) -> PrefixNode | None:
        """The child with these keys; made of the lease's pages if there is none. None when another block has its
        name, which nobody will see: then the lease is not remembered further."""
        digest = child_digest(parent, code)
        known = self.blocks.get(digest)
        if known is not None:
            return known if known.parent is parent and known.code == code else None
        place = parent.place + 1
        node = PrefixNode(parent, code, digest, size)
        exact = self.pager.exact and (place == 0 or size < self.pager.page_size)
        pool, page = ("exact", lease.exact_pages[place]) if exact else ("full", lease.pages[place])
        node.used = self._tick
        self.blocks[digest] = node
        parent.children.insert(_place_of(parent, code), node)
        tree.num_nodes += 1
        self._hold(tree, node, pool, page)
        return node

    def _add_chunk_pages(self, tree: Tree, node: PrefixNode, lease: Lease) -> None:
        """Give the blocks of the lease's current chunk, up to `node`, the chunk pages that they lack."""
        Z, C = self.pager.page_size, self.pager.chunk
        if C is None or lease.length % C == 0:
            return
        first = lease.length // C * C // Z
        path = []
        while node.place >= first:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        for block in reversed(path):
            self._add_chunk_page(tree, block, lease)

    def _add_chunk_page(self, tree: Tree, node: PrefixNode, lease: Lease) -> None:
        Z, C = self.pager.page_size, self.pager.chunk
        if C is not None and node.pages["chunk"] < 0:
            self._hold(tree, node, "chunk", lease.chunk_pages[lease.length // C][node.place * Z % C // Z])
            if node.place * Z % C:
                assert node.parent is not None
                node.parent.chunk_children += 1

    def _add_tail(self, tree: Tree, parent: PrefixNode, code: bytes, lease: Lease) -> None:
        longer = parent.covering(code)
        if longer is not None and self._divisible(longer):
            self._use(tree, longer)
            return
        size = lease.length % self.pager.page_size
        tail = self._child(tree, parent, code, size, lease)
        if tail is not None:
            self._add_chunk_page(tree, tail, lease)
            self._use(tree, tail)
            self._drop_shorter(tree, tail)

    def _drop_shorter(self, tree: Tree, node: PrefixNode) -> None:
        """Remove tails that are a beginning of `node`: they are of no more use."""
        parent = node.parent
        assert parent is not None
        while (i := _place_of(parent, node.code)) and node.code.startswith(parent.children[i - 1].code):
            self._remove(tree, parent.children[i - 1])

    def _hold(self, tree: Tree, node: PrefixNode, pool: str, page: int) -> None:
        self.pager.pools[pool].share((page,))
        node.pages[pool] = page
        tree.num_pages[pool] += 1

    def _use(self, tree: Tree, node: PrefixNode) -> None:
        """Mark only the last block of a prefix as used: those before it cannot be evicted first, and are marked when it
        is."""
        self._tick += 1
        node.used = self._tick
        tree.note(node)

    # -- giving up -----------------------------------------------------------------------------------------------

    def _free(self, pool: str, wanted: int) -> bool:
        free = self.pager.pools[pool].free
        while len(free) < wanted:
            before = self.pager.free
            if not self._evict_one(pool):
                return False
            came_free = zip(self.evicted, before, self.pager.free, strict=True)
            self.evicted = PageCounts(*(done + new - old for done, old, new in came_free))
        return True

    def _evict_one(self, pool: str) -> bool:
        """Evict one block or chunk page, a step towards a free page of this pool; False when there is none to evict."""
        trees = sorted(self.trees.values(), key=lambda t: -t.num_pages[pool])
        # leaves that hold nothing of the pool stand before blocks that do
        for kind in {"full": ("full", "exact"), "exact": ("exact", "full"), "chunk": ("chunk",)}[pool]:
            for tree in trees:
                node = tree.oldest[kind].pop(self._only_chunk_here if pool == "chunk" else self._only_here)
                if node is not None:
                    if pool == "chunk" and node.size == self.pager.page_size:
                        self._let_go_chunk(tree, node)
                    else:
                        self._remove(tree, node)
                        self._forget_empty(tree)
                    return True
        return False

    def _only_here(self, node: PrefixNode) -> bool:
        """Whether no lease holds this block."""
        return all(p < 0 or self.pager.pools[pool].refs[p] == 1 for pool, p in node.pages.items())

    def _only_chunk_here(self, node: PrefixNode) -> bool:
        return self.pager.pools["chunk"].refs[node.pages["chunk"]] == 1

    def _let_go(self, tree: Tree, node: PrefixNode, pool: str) -> None:
        self.pager.pools[pool].release((node.pages[pool],))
        node.pages[pool] = -1
        tree.num_pages[pool] -= 1

    def _let_go_chunk(self, tree: Tree, node: PrefixNode) -> None:
        self._let_go(tree, node, "chunk")
        parent, C = node.parent, self.pager.chunk
        assert parent is not None and C is not None
        if node.place * self.pager.page_size % C:
            parent.chunk_children -= 1
            self._mark(tree, parent, node)

    def _remove(self, tree: Tree, node: PrefixNode) -> None:
        """Remove a leaf."""
        parent = node.parent
        assert parent is not None and not node.children, "only leaves go"
        if node.pages["chunk"] >= 0:
            self._let_go_chunk(tree, node)
        for pool in ("full", "exact"):
            if node.pages[pool] >= 0:
                self._let_go(tree, node, pool)
        i = _place_of(parent, node.code)
        assert parent.children[i] is node
        del parent.children[i]
        del self.blocks[node.digest]
        node.alive = False
        tree.num_nodes -= 1
        self._mark(tree, parent, node)

    def _mark(self, tree: Tree, parent: PrefixNode, node: PrefixNode) -> None:
        """Note that `parent` was used whenever `node` was."""
        if parent is not tree.root:
            parent.used = max(parent.used, node.used)
            tree.note(parent)

    def _forget_empty(self, tree: Tree) -> None:
        if not tree.root.children:
            tree.root.alive = False
            del self.trees[tree.salt]


def _place_of(parent: PrefixNode, code: bytes) -> int:
    return bisect_left(parent.children, code, key=by_code)
