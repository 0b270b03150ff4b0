"""The KV cache: pages and their owners, as integers; cached prefixes that sequences share."""

from herd.cache.pages import Lease, PageCounts, Pager, pages_of
from herd.cache.prefixes import PrefixTree

__all__ = ["Lease", "PageCounts", "Pager", "PrefixTree", "pages_of"]
