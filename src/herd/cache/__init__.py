"""KV pages: integers and ownership; prefixes that sequences share."""

from herd.cache.pages import Counts, Lease, Pager, pages_of
from herd.cache.prefixes import PrefixTree, Stats

__all__ = ["Counts", "Lease", "Pager", "PrefixTree", "Stats", "pages_of"]
