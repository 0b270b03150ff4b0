"""The op contract: what every op set computes, in the order of a forward pass. Equations and shapes.

An op set is an object: it holds its device, thread pool and parallel group. `ops.torch` is the reference,
differentiable on any device; `ops.native` is C++ on the CPU, numpy in and out. `model/` calls only what stands here.

Rules that hold for every op:
- Activations are flat: x_TD has one row per token, of any sequence. Native activations are float32.
- Statistics (norms, softmax, router scores, rope, temperature) in at least float32; float64 stays float64.
- Operations are big on purpose: a decode step makes four calls a layer, or one in all (`layers`).
- `x_TD` given to an op that adds a residual is consumed: the op may reuse its memory.
- An op with weights takes `extras`: low-rank adapters per row and input statistics per weight. None by default.
- An op that adds the residual leaves it out on `residual=False`, so that a parallel pass can reduce before it adds.
- Nothing between `place` and the logits waits for a device: segments, rows and experts' rows are arrays there, and
  sizes follow from shapes. Who looks at values waits: observers, `routing`, `finite`, `draw`.
- Weight kinds (`herd.weights`) are known to `linear`, `grouped` and `embed` of an op set alone.
- What an op set cannot do raises NotImplementedError or UsageError with the reason; nothing falls back in silence.

Tolerances against a float64 computation of the same values: for a sum of K products, atol = c * eps * |a|_2 * |b|_2
with eps of the narrowest format on the path and c <= 4; quantised activations (int8, groups of 32) add
scale_group / 2 per element, see tests/ops.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from herd.batch import Context, Ints
from herd.config import Llama4Config
from herd.weights import Array, Linear, Mlp, Model, Moe, Norm, Vision, WeightNode

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LowRank:
    """The low-rank pair of an adapter for one weight: y += scale * (x down^T) up^T.

    down [r, I], up [O, r]; for an expert stack down [E, r, I], up [E, O, r] (a gate_up pair counts as one weight,
    gate rows first).
    """

    down: Array
    up: Array
    scale: float


@dataclass(frozen=True)
class Adapters:
    """Several adapters in one batch: `pairs[weight name][adapter id]`, None where one leaves a weight alone."""

    pairs: Mapping[str, Sequence[LowRank | None]]
    rows_T: Array
    """Adapter id of each row of the pass, -1 for none. int."""


class Observer(Protocol):
    """Collects input statistics per weight, for calibration."""

    def seen(self, name: str, x_RI: Array, expert: int | None = None) -> None:
        """Take rows that went into the weight `name` (and, in an expert stack, into `expert`)."""


@dataclass(frozen=True)
class Extras:
    """What may accompany a pass: adapters and observers."""

    adapters: Adapters | None = None
    observe: Observer | None = None


@dataclass(frozen=True)
class Draws:
    """How n tokens are drawn from rows of logits, as host arrays; `engine.sampler` says what each number means. A row
    may be named several times (several samples of one prompt)."""

    rows_n: Ints
    """Row of the logits that each is drawn from."""
    temperatures_n: Doubles
    """0: greedy."""
    top_ks_n: Ints
    """0: all."""
    top_ps_n: Doubles
    min_ps_n: Doubles
    uniforms_n: Doubles
    """The number in [0, 1) that each is drawn with."""
    tops_n: Ints
    """Likeliest tokens wanted beside each, with log-probabilities; 0: that of the drawn one alone; -1: none at all."""
    barred_B: Ints
    """Ids that are never drawn."""


@dataclass(frozen=True)
class Drawn:
    """The result of `draw`, on the host. K is the largest of `tops_n`."""

    ids_n: Ints
    largest_n: Doubles
    """The largest logit of the row; no finite number: the row holds one that is none, and its id means nothing."""
    logprobs_n: Doubles
    """Log-probabilities of the drawn ids, in the distribution of the raw logits; of no meaning where none was
    wanted."""
    top_ids_nK: Ints
    """Likeliest first, ties by id; the first `tops_n` have a meaning."""
    top_logprobs_nK: Doubles


class Routing(Protocol):
    """Receives the router's choice of one layer (`--trace`)."""

    def __call__(self, layer: int, experts_TA: Array, scores_TA: Array) -> None:
        """Take a choice. experts_TA: int; scores_TA: after the sigmoid."""


class Ops(Protocol):
    """An op set. T rows, D width, N query heads, K KV heads, H head size, F hidden, E experts, A experts per row,
    V vocabulary, I tiles, M patches of a tile, U vision width, R chosen rows."""

    name: str
    draws: bool
    """Whether tokens are drawn by `draw`, where the logits are; else the host has the logits, and draws."""

    # -- once a pass, outside `forward` ----------------------------------------------------------------------------

    def array(self, x: Any) -> Array:
        """Convert a numpy array (float32, float16, or uint16 holding bfloat16; integers stay) to an array of this op
        set."""

    def numpy(self, x: Array) -> Any:
        """Convert an array to numpy float32."""

    def bind(self, node: WeightNode) -> None:
        """Prepare a weight node of this op set's arrays, once, before the first pass. Nodes are frozen, so this holds
        for as long as the node. `model.place_weights` calls it for every named node."""

    def place(self, context: Context) -> Any:
        """Copy a pass's host integers to the device, once. The result has the fields of Context, its segments in the
        form that this op set's `attend` takes."""

    def new_kv(
        self,
        num_slots: int,
        num_kv_heads: int,
        head_size: int,
        dtype: str = "f32",
        *,
        exact_slots: int = 0,
        rope: bool = True,
    ) -> Any:
        """An opaque cache of one layer: keys and values of `num_slots` positions. dtype: f32, f16, bf16, int8 or int4
        (docs/kv.md). int4 is held in pages of 256: `num_slots` coarse ones, and `exact_slots` of bf16 to which rows are
        written; rope: whether the layer's keys carry positions (int4 keys have their scales per channel when not)."""

    def kv_read(self, kv: Any, slots: Any) -> tuple[Any, Any]:
        """keys, values [n, K, H] as numpy float32 copies of these slots (saved prefixes, tests). int4: slots below
        exact_slots are of the exact pool, coarse slot i is exact_slots + i."""

    def kv_write(self, kv: Any, slots: Any, keys: Any, values: Any) -> None:
        """The inverse of kv_read. int4: exact slots only."""

    def copy_pages(self, kv: Any, source: Any, target: Any, page_size: int, *, exact: bool = False) -> None:
        """Copy whole pages inside a cache: copy on write, forks. exact: pages of int4's exact pool."""

    def close_pages(self, kv: Any, exact: Any, pages: Any) -> None:
        """int4: write these exact pages to these coarse ones, as `attend` does with Segments.closing."""

    # -- text ------------------------------------------------------------------------------------------------------

    def embed(self, ids_T: Any, w: Linear) -> Array:
        """x_TD = w[ids_T] (rows decoded when packed)."""

    def put_rows(self, x_TD: Array, rows_R: Any, new_RD: Array) -> Array:
        """x_TD[rows_R] = new_RD."""

    def angles(self, positions_T: Array, freqs_M: Sequence[float], scale: float = 1.0) -> Any:
        """scale times cos, sin of t * f_m, float32, of shape [T, M] with M = H/2. The products are formed in
        float64."""

    def temperature(self, positions_T: Array, floor_scale: int, attn_scale: float) -> Array:
        """1 + attn_scale * ln(1 + floor((t + 1) / floor_scale)), [T] float32."""

    def qkv(
        self,
        x_TD: Array,
        norm: Norm,
        wq: Linear,
        wk: Linear,
        wv: Linear,
        head_size: int,
        cos_sin: Any | None,
        qk_eps: float | None,
        q_scale_T: Array | None,
        extras: Extras | None = None,
    ) -> tuple[Array, Array, Array]:
        """q_TNH, k_TKH, v_TKH of norm(x). Then, each when given and in this order: rotate adjacent pairs of q and k,
        divide each head of q and k by sqrt(mean(h^2) + qk_eps), multiply q's rows by q_scale_T."""

    def attend(
        self, q_TNH: Array, k_TKH: Array, v_TKH: Array, segments: Any, kv: Any | None, causal: bool = True
    ) -> Array:
        """o_TNH. With kv: write k and v to segments.slots_T, then softmax(q k^T / sqrt(H)) v exactly, segment by
        segment, query head n with KV head n // (N/K). Without kv the keys are the rows of the segment. int4: between
        the two, segments.closing is written to the coarse pool; see batch.Segments.exact_pages for what a row sees."""

    def out_add(
        self, x_TD: Array, o_TNH: Array, wo: Linear, extras: Extras | None = None, residual: bool = True
    ) -> Array:
        """Returns x + wo o."""

    def mlp_add(self, x_TD: Array, norm: Norm, mlp: Mlp, extras: Extras | None = None, residual: bool = True) -> Array:
        """Returns x + mlp(norm(x)); see weights.Mlp for the two forms."""

    def moe_add(
        self,
        x_TD: Array,
        norm: Norm,
        moe: Moe,
        num_experts: int,
        experts_per_token: int,
        extras: Extras | None = None,
        residual: bool = True,
        routing: Any | None = None,
    ) -> Array:
        """h = norm(x); l_TE = router h; the A largest l (ties: the lower expert); s = sigmoid(l);
        x + shared(h) + sum over A of expert_e(s * h). Only the chosen experts are computed.
        routing(experts_TA, scores_TA) receives the choice."""

    def route(
        self, h_TD: Array, router: Linear, experts_per_token: int, extras: Extras | None = None
    ) -> tuple[Array, Array]:
        """experts_TA (int) and scores_TA of rows that are normed: the choice that `moe_add` makes."""

    def experts(
        self,
        h_TD: Array,
        moe: Moe,
        experts_TA: Array,
        scores_TA: Array,
        num_experts: int,
        extras: Extras | None = None,
    ) -> Array:
        """Sum over A of expert_e(s * h), of a choice that was made: `moe_add` without norm, router, shared expert and
        residual. Only `moe.gate_up` and `moe.down` need be of this op set (see `hybrid`)."""

    def norm(self, x_TD: Array, norm: Norm) -> Array:
        """The norm alone: the rows that the head would see (embeddings, distillation)."""

    def head(
        self, x_TD: Array, norm: Norm, w: Linear, rows_R: Any | None = None, extras: Extras | None = None
    ) -> Array:
        """logits [R or T, V] in float32 of norm(x) for the wanted rows only."""

    def head_loss(self, x_TD: Array, norm: Norm, w: Linear, targets_T: Any, extras: Extras | None = None) -> Array:
        """[T] float32: -ln softmax(head(x))[target] of each row, to be weighed and summed by the caller; 0, without a
        gradient, where the target is below 0. Logits are made for a few rows at a time, forward and again backward:
        nothing of T * V numbers is held. Differentiable where the op set is; observers of `extras` see the rows again
        when gradients are formed."""

    def finite(self, x: Array) -> bool:
        """Whether all values are finite; one number crosses to the host."""

    def draw(self, logits_RV: Array, draws: Draws) -> Drawn:
        """Tokens of rows of logits; only what `Drawn` holds crosses to the host. Greedy: the id that the host takes
        (ties: the lowest). Sampled: in float64, in the order of the host's sampler, so the host's id unless the number
        drawn lies within rounding (c. 1e-13) of a border between two ids. Only where `draws` is True."""

    def layers(
        self,
        x_TD: Array,
        w: Model,
        c: Llama4Config,
        far: Any | None,
        near: Any | None,
        temperature_T: Array | None,
        context: Any,
        kv: Sequence[Any],
        routing: Routing | None = None,
        adapters: Adapters | None = None,
    ) -> Array | None:
        """All layers of the text model in one call, with the bits of the operations above: what model/text.py does
        with them. far, near: cos_sin of the layers that see everything and of the chunked ones. None, x_TD untouched,
        where this op set has nothing to gain from it, or cannot (these adapters): then take the operations."""

    # -- vision: its blocks are the same qkv, attend, out_add, mlp_add -----------------------------------------------

    def patches(self, pixels_I3SS: Array, vision: Vision, patch_size: int, extras: Extras | None = None) -> Array:
        """Unfold (raster order; feature c*P*P + dy*P + dx), project, append the class token last, add places, norm:
        x [I*M, U]."""

    def angles_from(self, angles_TM: Any) -> Any:
        """cos, sin of given angles, as `angles` returns them."""

    def adapt(
        self,
        x_TU: Array,
        vision: Vision,
        num_tiles: int,
        grid: int,
        pixel_shuffle: int,
        extras: Extras | None = None,
    ) -> Array:
        """Norm, drop the class token, join pixel_shuffle^2 neighbours (dy, dx, channel), gelu(fc2(gelu(fc1))),
        project: [I * tokens_per_tile, D]."""
