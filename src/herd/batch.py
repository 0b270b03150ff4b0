"""Which rows belong together: `Segments` and `Context`, integers only.

Everything is flat: a forward pass takes ids_T and a Context. Chunked attention is packed attention with more and
shorter segments: a piece of a sequence that crosses chunk borders is one segment for the global layers and several
for the chunked ones, so one `attend` serves training, prefill, decode, both kinds of cache and vision tiles.
What it is not: the owner of pages (`cache/`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Rows starts[s]:starts[s+1] form segment s, and see kv_lens[s] keys once their own are written.

    Row j of the n rows of a segment sees its first kv_len - n + 1 + j keys (causal). Without `pages` the keys are the
    rows themselves and kv_len = n. With pages, key i of segment s lies in slot pages[s, i // page_size] * page_size +
    i % page_size, and the new rows are written to `slots_T` first.
    """

    starts: Ints
    """[segments + 1], from 0 to T."""
    kv_lens: Ints
    """[segments]"""
    pages: Ints | None = None
    """[segments, widest], padded with 0."""
    slots_T: Ints | None = None
    page_size: int = 0
    exact_pages: Ints | None = None
    """A cache whose finished pages are held coarsely (int4) has a second, small pool of exact ones. [segments, 2]: the
    exact page of the sequence's first page of positions (the sinks), and that of the segment's own. Then no segment
    crosses a page's border; its rows see the first page and their own exactly and those between from the coarse pool,
    wherever the pass was cut; `slots_T` are slots of the exact pool, and entry 0 of `pages` means nothing."""
    closing: Ints | None = None
    """[closed, 2]: exact page and coarse page of each page of positions that this pass fills: written to the coarse
    pool once the new rows are in, before anything is read. The first page of a sequence never closes."""

    def __len__(self) -> int:
        return len(self.kv_lens)


@dataclass(frozen=True)
class Context:
    """What a pass has to know of its rows."""

    positions_T: Ints
    full: Segments
    """Segments of layers that see everything before them."""
    chunk: Segments
    """Segments of chunked layers; the same object as `full` when nothing is chunked."""
    rows: Ints | None = None
    """Rows whose logits are wanted; None: all."""


def segments(lengths: Sequence[int]) -> Segments:
    """Segments one after another whose keys are their own rows."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return Segments(starts, np.asarray(lengths, np.int64))


def packed(lengths: Sequence[int], chunk: int | None, rows: Sequence[int] | None = None) -> Context:
    """A context without a cache: documents of these lengths, one after another, each from position 0."""
    pieces = [min(chunk, n - t) for n in lengths for t in range(0, n, chunk)] if chunk else None
    full = segments(lengths)
    return Context(
        np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]) if lengths else np.zeros(0, np.int64),
        full,
        full if pieces is None else segments(pieces),
        None if rows is None else np.asarray(rows, np.int64),
    )
