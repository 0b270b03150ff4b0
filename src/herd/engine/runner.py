"""Ids in, logits out: one pass of the model over pieces of sequences, with its cache.

    pieces -> cache.step -> ops.place -> hidden, head -> logits of the wanted rows;  cache.commit when they are accepted

`ModelRunner` is the seam: the engine needs no more than this, and `fake.FakeModel` has the same without weights.
What it is not: a sampler, a schedule, a tokenizer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from herd.batch import Context
from herd.cache import Lease, Pager
from herd.cache.manager import KVCacheManager
from herd.cache.prefixes import PrefixTree
from herd.config import Llama4Config
from herd.engine.adapters import Adapter, ready, row_map
from herd.engine.device_draws import DeviceLogits
from herd.engine.trace import RoutingTrace
from herd.errors import UsageError, fail
from herd.model import check_same, encode_images, hidden, place_weights
from herd.model.text import block
from herd.ops.contract import Extras, Ops
from herd.planning.buffers import TILES_PER_PASS
from herd.planning.layers import layer_caches
from herd.planning.pools import MAX_PAGE, chunk_of, pools_for
from herd.weights import Model

Logits = npt.NDArray[np.float32]
LOGITS_BYTES = 32 << 20
"""Bytes of the logits that a reader is given at once: 41 rows of 202,048, enough that reading the head's weights is not
what takes the time."""


class NotFinite(ArithmeticError):
    """Activations of a pass hold an infinity or a NaN."""


class RowReader(Protocol):
    """Takes rows of a piece inside the pass, so that only a block of their logits is in memory at once; they are not
    returned."""

    states: bool
    """Whether it takes what the last layer gave, of all rows; else logits of the wanted ones."""

    def take(self, position: int, rows_RX: Logits) -> None:
        """Take rows of consecutive positions from this one on. An error that it raises ends the pass; the same rows
        come again when the pass is run once more."""


@dataclass(frozen=True)
class Chunk:
    """The next ids of one sequence, as a piece of a pass."""

    lease: Lease
    ids: Sequence[int]
    features: Sequence[Any] = ()
    """Blocks of image features, together a row for each patch id among `ids`, as `encode_images` made them."""
    rows: Sequence[int] | None = None
    """Which of `ids` want logits; None: the last; empty: none. With a reader consecutive ones."""
    adapter: Adapter | None = None
    """The adapter, as `ModelRunner.ready_adapter` made it; a sequence has the same one all along."""
    reader: RowReader | None = None
    """Takes them; None: `compute` gives them back."""


class ModelRunner(Protocol):
    """A model with its KV cache, whatever computes it."""

    vocab_size: int
    context: int
    """Positions a sequence may have in the cache."""
    patch_id: int | None
    """The id whose rows are image features; None: a text model."""
    tokens_per_tile: int
    cache: KVCacheManager

    def lease(self) -> Lease:
        """A new, empty sequence."""

    def drop(self, lease: Lease) -> None:
        """Free the pages of a sequence that has ended."""

    def encode_images(self, pixels_I3SS: Any) -> Any:
        """Image features [I * tokens_per_tile, D] of these tiles, sliceable by row."""

    def compute(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits | DeviceLogits:
        """Run one pass; its rows stay pending until `cache.commit` of each lease.

        Returns the logits [R, V] of the wanted rows, piece after piece, without those that a reader took; on the host
        unless tokens are drawn where the logits are. A pass that raises leaves every sequence as it was.
        """

    def run(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits:
        """Run one pass and commit all of its rows."""

    def ready_weights(self, weights: Any, check: Callable[[], None] | None = None) -> Callable[[], None]:
        """Check and place other weights, on any thread. Calling what is returned, between two passes, swaps them in all
        at once and cannot fail.

        check: as of `Runner`, for the place that they come from; None: as before. Raises UsageError naming the first
        part whose name, shape or kind differs: nothing has changed then.
        """

    def ready_adapter(self, name: str, tensors: Mapping[str, Any]) -> Adapter:
        """Check and place an adapter, on any thread; see adapters.ready for what is checked and raised."""

    def first_not_finite(self, piece: Chunk) -> str | None:
        """The name of the first part of the model (embedding, layer N, head) whose output for this piece is not finite;
        None when all are. The sequence stays as it was."""


def rows_wanted(pieces: Sequence[Chunk]) -> list[int]:
    """Indices of the rows of a pass, all pieces one after the other, whose logits are returned."""
    rows: list[int] = []
    start = 0
    for piece in pieces:
        if piece.reader is None:
            rows += [start + r for r in _rows_of(piece)]
        start += len(piece.ids)
    return rows


def _rows_of(piece: Chunk) -> Sequence[int]:
    return (len(piece.ids) - 1,) if piece.rows is None else piece.rows


def read_blocks(pieces: Sequence[Chunk], most: int) -> Iterator[tuple[int, int, range]]:
    """The rows of a pass that readers take, in blocks: (index of the piece, position of the first row, rows of the
    pass). most: rows whose logits are in memory at once."""
    start = 0
    for index, piece in enumerate(pieces):
        if piece.reader is not None:
            rows = range(len(piece.ids)) if piece.reader.states else _rows_of(piece)
            size = len(rows) if piece.reader.states else most
            for i in range(0, len(rows), max(size, 1)):
                first, last = rows[i], rows[min(i + size, len(rows)) - 1]
                yield index, piece.lease.length + first, range(start + first, start + last + 1)
        start += len(piece.ids)


class Runner:
    """The real model: weights over an op set.

    context: positions in the cache, for all sequences together. piece: the most new rows of a pass that cross a chunk
    edge; it sizes the chunked layers' pool. sequences: how many share the cache (planning.pools has its pages).
    kv_dtype: one of planning.layers.KV_DTYPES, see there. page_size: positions of a page; None chooses. check: called
    around each pass; raises a HerdError when weights could not be read: the pass fails then, and none begins after.
    Raises UsageError where int4's pages of 256 do not divide the chunk.
    """

    def __init__(
        self,
        config: Llama4Config,
        weights: Model,
        ops: Ops,
        *,
        context: int,
        kv_dtype: str = "f32",
        piece: int = 512,
        sequences: int = 1,
        page_size: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self._check = check
        self.weights, self.ops = weights, ops
        self.vocab_size = config.vocab_size
        self.context = context
        self.patch_id = config.patch_id if config.vision is not None else None
        self.tokens_per_tile = config.tokens_per_tile
        size, full, chunked, exact = pools_for(config, context, kv_dtype, piece, sequences, page_size)
        if exact and size != MAX_PAGE:
            fail(
                UsageError, "kv int4", got=f"pages of {size} positions", expected=f"pages of {MAX_PAGE}", do="use int8"
            )
        self.pager = Pager(chunk_of(config), size, full, chunked, exact or None)
        self.cache = KVCacheManager(self.pager, PrefixTree(self.pager))
        heads = config.num_kv_heads, config.head_size
        self.kv = []
        for layer in layer_caches(config, kv_dtype):
            pages = chunked if layer.chunked else full
            options: dict[str, Any] = {"exact_slots": exact * size, "rope": layer.rope} if layer.exact else {}
            self.kv.append(ops.new_kv(pages * size, *heads, layer.dtype, **options))

    def lease(self) -> Lease:
        """A new, empty sequence."""
        return self.cache.lease()

    def drop(self, lease: Lease) -> None:
        """Free the pages of a sequence that has ended."""
        self.cache.drop(lease)

    def rollback(self, lease: Lease, length: int) -> int:
        """See Pager.rollback."""
        return self.cache.rollback(lease, length)

    def encode_images(self, pixels_I3SS: Any) -> Any:
        """See ModelRunner: a few tiles a pass. Raises UsageError for a text model, and what `check` raises."""
        if self.config.vision is None or self.weights.vision is None:
            fail(UsageError, "an image was given to a text model", do="choose a model with vision")
        self._check()
        vision, weights, step = self.config.vision, self.weights.vision, TILES_PER_PASS
        parts = [
            encode_images(self.ops, vision, weights, self.ops.array(pixels_I3SS[i : i + step]))
            for i in range(0, len(pixels_I3SS), step)
        ]
        self._check()
        return self._joined(parts)

    def compute(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits | DeviceLogits:
        """See ModelRunner. Raises NotFinite, and what `check` raises."""
        self._check()
        wanted = rows_wanted(pieces)
        context = self._step(pieces, wanted)
        done = False
        try:
            if routing is not None:
                routing.pass_over(context.positions_T)
            placed = self.ops.place(context)
            x_TD = self._hidden(pieces, placed, routing)
            if not self.ops.finite(x_TD):
                self._check()
                raise NotFinite("activations are not finite")
            logits: Logits | DeviceLogits = np.zeros((0, self.vocab_size), np.float32)
            if wanted:
                lying = DeviceLogits(self.ops, self.ops.head(x_TD, self.weights.norm, self.weights.head, placed.rows))
                logits = lying if self.ops.draws else lying.host()
            self._read(pieces, x_TD)
            self._check()
            done = True
        finally:
            if not done:
                for piece in pieces:
                    self.cache.commit(piece.lease, 0)
        return logits

    def run(self, pieces: Sequence[Chunk], routing: RoutingTrace | None = None) -> Logits:
        """See ModelRunner."""
        logits = self.compute(pieces, routing)
        for piece in pieces:
            self.cache.commit(piece.lease)
        return logits.host() if isinstance(logits, DeviceLogits) else logits

    def _logits(self, x_TD: Any, rows: Any) -> Logits:
        return np.asarray(self.ops.numpy(self.ops.head(x_TD, self.weights.norm, self.weights.head, rows)), np.float32)

    def _read(self, pieces: Sequence[Chunk], x_TD: Any) -> None:
        """Give rows to the readers of their pieces."""
        for index, position, rows in read_blocks(pieces, max(1, LOGITS_BYTES // (4 * self.vocab_size))):
            reader = pieces[index].reader
            assert reader is not None
            if reader.states:
                reader.take(position, np.asarray(self.ops.numpy(x_TD[rows.start : rows.stop]), np.float32))
            else:
                reader.take(position, self._logits(x_TD, np.asarray(rows, np.int64)))

    def ready_weights(self, weights: Any, check: Callable[[], None] | None = None) -> Callable[[], None]:
        """See ModelRunner. weights: a `Model`; its arrays are not copied where the op set can hold them as they are,
        so leave them alone afterwards. Both trees are in memory until the new one is in use."""
        check_same(weights, self.weights)
        placed = place_weights(self.ops, weights, where=getattr(self.ops, "where", None))
        check_same(placed, self.weights, numbers=True)

        def use() -> None:
            self.weights, self._check = placed, check or self._check

        return use

    def ready_adapter(self, name: str, tensors: Mapping[str, Any]) -> Adapter:
        """See ModelRunner. tensors: `ops.contract.LowRank` pairs of numpy arrays; they are copied."""
        return ready(name, tensors, self.weights, self.ops)

    def first_not_finite(self, piece: Chunk) -> str | None:
        """See ModelRunner. Raises what `check` raises."""
        self._check()
        found: list[str] = []
        layer = 0

        def watched(ops: Ops, x_TD: Any, *arguments: Any) -> Any:
            nonlocal layer
            if layer == 0:
                look("the embedding", x_TD)
            x_TD = block(ops, x_TD, *arguments)
            look(f"layer {layer}", x_TD)
            layer += 1
            return x_TD

        def look(name: str, x: Any) -> None:
            if not found and not self.ops.finite(x):
                found.append(name)

        context = self._step([piece], rows_wanted([piece]))
        try:
            placed = self.ops.place(context)
            x_TD = self._hidden([piece], placed, None, watched)
            if placed.rows is not None and len(placed.rows):
                look("the head", self.ops.head(x_TD, self.weights.norm, self.weights.head, placed.rows))
        finally:
            self.cache.commit(piece.lease, 0)
        return found[0] if found else None

    def _step(self, pieces: Sequence[Chunk], rows: Sequence[int]) -> Context:
        """Allot pages to a pass. Copies of pages are made at once, even if the pass fails: the leases own the targets
        already."""
        context, copies = self.cache.step([(p.lease, len(p.ids)) for p in pieces], rows)
        for pool in {name for name, _, _ in copies}:
            sources = [source for name, source, _ in copies if name == pool]
            targets = [target for name, _, target in copies if name == pool]
            options = {"exact": True} if pool == "exact" else {}
            for layer, kv in zip(self.config.layers, self.kv, strict=True):
                if layer.chunked == (pool == "chunk"):
                    self.ops.copy_pages(kv, sources, targets, self.cache.pager.page_size, **options)
        return context

    def _hidden(self, pieces: Sequence[Chunk], placed: Any, routing: RoutingTrace | None, call: Any = block) -> Any:
        ids_T = np.concatenate([np.asarray(p.ids, np.int64) for p in pieces])
        seen = [part for p in pieces for part in p.features if len(part)]
        adapters = row_map([(p.adapter, len(p.ids)) for p in pieces])
        return hidden(
            self.ops,
            self.config,
            self.weights,
            ids_T,
            placed,
            kv=self.kv,
            extras=None if adapters is None else Extras(replace(adapters, rows_T=self.ops.array(adapters.rows_T))),
            routing=routing,
            features_RD=self._joined(seen) if seen else None,
            call=call,
        )

    def _joined(self, parts: Sequence[Any]) -> Any:
        return parts[0] if len(parts) == 1 else self.ops.array(np.concatenate([self.ops.numpy(x) for x in parts]))
