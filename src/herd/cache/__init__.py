"""KV pages: integers and ownership."""

from herd.cache.pages import Lease, Pager

__all__ = ["Lease", "Pager"]
