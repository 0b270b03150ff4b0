"""Audits of pages and prefixes: assertions with numbers, for tests, and for an engine that is idle."""

from herd.cache.nodes import POOLS, PrefixNode, Tree
from herd.cache.pages import Lease, Pager
from herd.cache.prefixes import PrefixTree


def check_pages(pager: Pager) -> None:
    """Assert that every page is free or has as many holders as are counted, and that each lease holds what its length
    needs."""
    for name, pool in pager.pools.items():
        held = [p for lease in pager.leases for p in pager.held_by(lease, name)]
        pool.check(name, held + [p for holder in pager.holders for p in holder.held(name)])
    for lease in pager.leases:
        _check_lease(pager, lease)


def check_blocks(prefixes: PrefixTree) -> None:
    """Assert that blocks hold the pages they must, are found by name and can be evicted, and that no chunk page stands
    behind a missing one."""
    found = [node for tree in prefixes.trees.values() for node in _check_tree(prefixes.pager, tree)]
    assert len(found) == len(prefixes.blocks), (len(found), len(prefixes.blocks))
    assert all(prefixes.blocks[n.digest] is n for n in found), "a block under another's name"


def _check_lease(pager: Pager, lease: Lease) -> None:
    Z, C, end = pager.page_size, pager.chunk, lease.length + lease.pending
    if pager.exact:
        assert len(lease.pages) == end // Z, (len(lease.pages), end)
        places = {0} if end else set()
        touched = range(lease.length // Z, -(-end // Z))
        assert set(lease.exact_pages) == places | set(touched), (lease.exact_pages, lease.length, end)
    else:
        assert len(lease.pages) == -(-end // Z), (len(lease.pages), end)
        assert not lease.exact_pages
    if C is None:
        assert not lease.chunk_pages
        return
    for number, pages in lease.chunk_pages.items():
        begin = number * C
        assert lease.length - C < begin < end, (number, lease.length, end)
        assert len(pages) == -(-min(C, end - begin) // Z), (number, len(pages), end)
    held = sum(map(len, lease.chunk_pages.values()))
    assert held == -(-(end - lease.length // C * C) // Z), (held, lease.length, end)


def _check_tree(pager: Pager, tree: Tree) -> list[PrefixNode]:
    C = pager.chunk
    todo, found = [tree.root], []
    while todo:
        node = todo.pop()
        assert [c.code for c in node.children] == sorted({c.code for c in node.children}), "order of children"
        held = sum(c.pages["chunk"] >= 0 for c in node.children if C and c.place * pager.page_size % C)
        assert held == node.chunk_children, (held, node.chunk_children)
        assert not held or node.pages["chunk"] >= 0, "a chunk page behind a missing one"
        todo += node.children
        if node is not tree.root:
            found.append(node)
            _check_block(pager, tree, node)
    assert tree.num_nodes == len(found), (tree.num_nodes, len(found))
    for pool in POOLS:
        assert tree.num_pages[pool] == sum(n.pages[pool] >= 0 for n in found), pool
    return found


def _check_block(pager: Pager, tree: Tree, node: PrefixNode) -> None:
    tail = node.size < pager.page_size
    exact = pager.exact and (tail or node.place == 0)
    assert node.alive and node.parent is not None and node.parent.alive
    assert (node.pages["exact"] >= 0) == exact and (node.pages["full"] >= 0) == (not exact), node.pages
    assert pager.chunk is not None or node.pages["chunk"] < 0
    assert not tail or (not node.children and (pager.chunk is None or node.pages["chunk"] >= 0)), "a tail"
    for kind, oldest in tree.oldest.items():
        assert not oldest.belongs(node) or node in oldest, f"a block that can never be evicted: {kind}"
