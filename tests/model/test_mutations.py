"""Deliberate mistakes, each of which must break parity by a wide margin: what the parity tests can see.

A mistake is an op set that differs from the reference in one thing, or a changed config, tree of weights, context or
prompt. Each names the parity case that sees it. The unchanged op set passes in the same harness with the same
tolerance; a mistake has to miss it at least MARGIN times.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from parity_cases import CASES, Case, ours, theirs, tolerance

from helpers import put
from herd.batch import packed, segments
from herd.config import RopeScaling

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from herd.ops.torch import CosSin, TorchOps, rms  # noqa: E402

MARGIN = 10
EXPERTS = "experts in every layer"
MIXED = "experts interleaved with dense layers"
DENSE = "dense, no chunk"
LLAMA = "dense Llama"
IMAGES = "images of one and of several tiles"
CHUNK = CASES[MIXED].config.chunk
assert CHUNK is not None

Run = Callable[[Case], np.ndarray]
MISTAKES: dict[str, tuple[str, Run]] = {}


def mistake(name: str, *cases: str) -> Callable[[Any], Any]:
    """Register an op set class, or a function case -> logits, as a mistake that each of `cases` must see."""

    def register(made: Any) -> Any:
        for case in cases:
            run = (lambda case, ops=made: ours(ops(), case)) if isinstance(made, type) else made
            assert f"{name} [{case}]" not in MISTAKES
            MISTAKES[f"{name} [{case}]"] = (case, run)
        return made

    return register


def config_mistake(name: str, *cases: str, **changed: Any) -> None:
    """Weights as they are, another config."""

    def run(case: Case) -> np.ndarray:
        config = replace(case.config, **changed)
        return ours(TorchOps(), case, config=config, context=packed([len(case.ids)], config.chunk))

    mistake(name, *cases)(run)


def weight_mistake(name: str, *cases: str) -> Callable[[Any], Any]:
    """A function that changes a tree of numpy weights in place."""

    def register(change: Callable[[Any, Case], None]) -> Any:
        def run(case: Case) -> np.ndarray:
            weights = deepcopy(case.weights)
            change(weights, case)
            return ours(TorchOps(), case, weights=weights)

        return mistake(name, *cases)(run)

    return register


def see_all(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """Attention of all rows to all keys, but for a mask."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)[0].transpose(0, 1)


# -- attention ----------------------------------------------------------------------------------------------------

config_mistake("no chunks", MIXED, chunk=None)
config_mistake("chunk one longer", MIXED, chunk=CHUNK + 1)
config_mistake("chunk one shorter", MIXED, chunk=CHUNK - 1)
config_mistake("chunks where a layer attends in full", "a RoPE layer with full attention", chunk_pattern=None)
config_mistake("temperature missing", MIXED, temperature_tuning=False)
config_mistake("temperature where there is none", "no temperature", temperature_tuning=True)
config_mistake("temperature floor one off", MIXED, floor_scale=CASES[MIXED].config.floor_scale + 1)
config_mistake("temperature scale doubled", MIXED, attn_scale=0.2)
config_mistake("QK norm dropped", MIXED, DENSE, use_qk_norm=False)
config_mistake("QK norm where there is none", "no QK norm, no rope scaling", use_qk_norm=True)
config_mistake("QK norm with the usual eps", "a large eps", norm_eps=1e-5)
config_mistake("no rope scaling", MIXED, LLAMA, rope_scaling=None)
config_mistake("rope factors wrong", MIXED, rope_scaling=RopeScaling(4.0, 1.0, 4.0, 64))
config_mistake("rope blend dropped", LLAMA, rope_scaling=RopeScaling(8.0, 4.0, 4.0, 64))
config_mistake("rope theta wrong", MIXED, rope_theta=500000.0)
config_mistake("NoPE layers in the wrong places", MIXED, rope_pattern=(False, True, True, True))


@mistake("sliding window instead of chunks", MIXED, IMAGES)
def sliding_window(case: Case) -> np.ndarray:
    class Windowed(TorchOps):
        def qkv(self, *args: Any) -> Any:
            self.rope = args[6] is not None
            return super().qkv(*args)

        def attend(self, q: Any, k: Any, v: Any, segments: Any, kv: Any, causal: bool = True) -> Any:
            if not self.rope or not causal:
                return super().attend(q, k, v, segments, kv, causal)
            t = torch.arange(len(q))
            apart = t[:, None] - t
            mask = (apart >= 0) & (apart < CHUNK)
            return see_all(q, k, v, mask)

    whole = replace(case.config, chunk=None)
    return ours(Windowed(), case, config=whole, context=packed([len(case.ids)], None))


@mistake("chunk borders counted from the second token", MIXED)
def shifted_chunks(case: Case) -> np.ndarray:
    T = len(case.ids)
    pieces = [CHUNK - 1] + [min(CHUNK, T - t) for t in range(CHUNK - 1, T, CHUNK)]
    context = replace(case.context, chunk=segments(pieces))
    # angles from the chunk's own first token stay right within each shifted chunk only if positions shift, too
    moved = replace(context, positions_T=context.positions_T + 1)

    class Unmoved(TorchOps):
        def temperature(self, positions_T: Any, floor_scale: int, attn_scale: float) -> Any:
            return super().temperature(positions_T - 1, floor_scale, attn_scale)

    return ours(Unmoved(), case, context=moved)


@mistake("temperature counted from 0", MIXED)
class LateTemperature(TorchOps):
    def temperature(self, positions_T: Any, floor_scale: int, attn_scale: float) -> Any:
        return super().temperature(positions_T - 1, floor_scale, attn_scale)


@mistake("temperature on the keys, too", MIXED)
class KeyTemperature(TorchOps):
    def qkv(self, *args: Any) -> Any:
        q, k, v = super().qkv(*args)
        return q, k if args[8] is None else k * args[8][:, None, None], v


@mistake("rope in half-split pairs", MIXED, LLAMA)
class HalfSplit(TorchOps):
    def rotate(self, x: Any, cos_sin: CosSin) -> Any:
        a, b = x.chunk(2, -1)
        cos, sin = cos_sin.cos[:, None], cos_sin.sin[:, None]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


@mistake("rope dropped", MIXED, IMAGES)
class Unrotated(TorchOps):
    def rotate(self, x: Any, cos_sin: CosSin) -> Any:
        return x


@mistake("rope only on the query", MIXED)
class QueryRope(TorchOps):
    def rotate(self, x: Any, cos_sin: CosSin) -> Any:
        return super().rotate(x, cos_sin) if x.shape[1] == CASES[MIXED].config.num_heads else x


@mistake("rope on NoPE layers", MIXED, DENSE)
def rope_everywhere(case: Case) -> np.ndarray:
    class Rope(TorchOps):
        def qkv(self, x: Any, n: Any, q: Any, k: Any, v: Any, H: int, cos_sin: Any, *rest: Any) -> Any:
            return super().qkv(x, n, q, k, v, H, cos_sin or far, *rest)

    far = TorchOps().angles(case.context.positions_T, case.config.rope_freqs())
    return ours(Rope(), case)


@mistake("QK norm on NoPE layers, too", MIXED, DENSE)
def norm_everywhere(case: Case) -> np.ndarray:
    class Normed(TorchOps):
        def qkv(self, x: Any, n: Any, q: Any, k: Any, v: Any, H: int, cos_sin: Any, eps: Any, *rest: Any) -> Any:
            return super().qkv(x, n, q, k, v, H, cos_sin, eps or case.config.norm_eps, *rest)

    return ours(Normed(), case)


@mistake("QK norm over all heads at once", MIXED)
class JointNorm(TorchOps):
    def qkv(self, x: Any, n: Any, wq: Any, wk: Any, wv: Any, H: int, rope: Any, eps: Any, *rest: Any) -> Any:
        q, k, v = super().qkv(x, n, wq, wk, wv, H, rope, None, *rest)
        if eps is not None:
            q, k = (rms(h.flatten(1), eps).view_as(h) for h in (q, k))
        return q, k, v


@mistake("1 / sqrt(H) missing", MIXED, DENSE, IMAGES)
class Unscaled(TorchOps):
    def attend(self, q: Any, *rest: Any, **named: Any) -> Any:
        return super().attend(q * q.shape[-1] ** 0.5, *rest, **named)


@mistake("1 / sqrt(H) left out after QK norm only", MIXED)
class UnscaledNormed(TorchOps):
    def qkv(self, *args: Any) -> Any:
        q, k, v = super().qkv(*args)
        return q if args[7] is None else q * q.shape[-1] ** 0.5, k, v


@mistake("query heads dealt to KV heads in turn", MIXED, LLAMA)
class DealtHeads(TorchOps):
    def attend(self, q: Any, k: Any, v: Any, *rest: Any, **named: Any) -> Any:
        turns = q.shape[1] // k.shape[1]
        k, v = k.repeat(1, turns, 1), v.repeat(1, turns, 1)
        return super().attend(q, k, v, *rest, **named)


@mistake("not causal", MIXED)
class Clairvoyant(TorchOps):
    def attend(self, q: Any, k: Any, v: Any, segments: Any, kv: Any, causal: bool = True) -> Any:
        return super().attend(q, k, v, segments, kv, False)


# -- norms --------------------------------------------------------------------------------------------------------


@mistake("norms with the usual eps", "a large eps", MIXED, IMAGES)
class UsualEps(TorchOps):
    def norm(self, x: Any, norm: Any) -> Any:
        return super().norm(x, replace(norm, eps=1e-5))


@mistake("norm weight read as 1 + w", MIXED)
class PlusOne(TorchOps):
    def norm(self, x: Any, norm: Any) -> Any:
        return super().norm(x, replace(norm, w=norm.w + 1 if norm.bias is None else norm.w))


@mistake("RMS norm takes the mean away", MIXED)
class Centred(TorchOps):
    def norm(self, x: Any, norm: Any) -> Any:
        return super().norm(x - x.mean(-1, keepdim=True) if norm.bias is None else x, norm)


@mistake("no final norm weight", MIXED)
class PlainFinal(TorchOps):
    def head(self, x: Any, norm: Any, *rest: Any) -> Any:
        return super().head(x, replace(norm, w=torch.ones_like(norm.w)), *rest)


# -- experts and MLPs ---------------------------------------------------------------------------------------------


@mistake("score on the expert's output", EXPERTS, "two experts a token")
class ScoredOutput(TorchOps):
    def scaled(self, h: Any, scores_R: Any) -> Any:
        self.scores_R = scores_R
        return h

    def grouped(self, x: Any, ends: Any, w: Any, *rest: Any) -> Any:
        y = super().grouped(x, ends, w, *rest)
        return y * self.scores_R[:, None] if w.name.endswith("down_proj") else y


@mistake("score left out", EXPERTS)
class Unscored(TorchOps):
    def scaled(self, h: Any, scores_R: Any) -> Any:
        return h


@mistake("softmax router", EXPERTS, "two experts a token")
class Softmax(TorchOps):
    def route(self, h: Any, router: Any, A: int, extras: Any) -> Any:
        experts_TA, _ = super().route(h, router, A, extras)
        return experts_TA, self.linear(h, router).softmax(-1).gather(1, experts_TA)


@mistake("scores of the chosen made to sum to 1", EXPERTS, "two experts a token")
class SumToOne(TorchOps):
    def route(self, h: Any, router: Any, A: int, extras: Any) -> Any:
        experts_TA, scores_TA = super().route(h, router, A, extras)
        return experts_TA, scores_TA / scores_TA.sum(-1, keepdim=True)


@mistake("only the first of two experts", "two experts a token")
class First(TorchOps):
    def route(self, h: Any, router: Any, A: int, extras: Any) -> Any:
        experts_TA, scores_TA = super().route(h, router, A, extras)
        return experts_TA, scores_TA * (torch.arange(A) == 0)


@mistake("the router reads x before the norm", EXPERTS)
class RawRouter(TorchOps):
    def moe_add(self, x: Any, *args: Any, **named: Any) -> Any:
        self.x = x
        return super().moe_add(x, *args, **named)

    def route(self, h: Any, *args: Any) -> Any:
        return super().route(self.x, *args)


@mistake("rows of the experts not put back in order", EXPERTS)
class Shuffled(TorchOps):
    def grouped(self, x: Any, ends: Any, w: Any, *rest: Any) -> Any:
        y = super().grouped(x, ends, w, *rest)
        return y.roll(1, 0) if w.name.endswith("down_proj") else y


@mistake("GELU for SiLU", MIXED)
class Gelu(TorchOps):
    def ffn(self, h: Any, mlp: Any, extras: Any) -> Any:
        if mlp.gate is None:
            return super().ffn(h, mlp, extras)
        return self.linear(F.gelu(self.linear(h, mlp.gate)) * self.linear(h, mlp.up), mlp.down)


@weight_mistake("gate and up swapped", MIXED, LLAMA)
def swap_mlp(w: Any, case: Case) -> None:
    for b in w.blocks:
        mlp = b.ffn.shared if b.ffn.kind == "moe" else b.ffn
        put(mlp, gate=mlp.up, up=mlp.gate)


@weight_mistake("gate and up of the experts swapped", EXPERTS)
def swap_experts(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.ffn.gate_up, w=np.roll(b.ffn.gate_up.w, case.config.expert_width, 2))


@weight_mistake("gate and up columns of the experts taken in turn", EXPERTS)
def interleave(w: Any, case: Case) -> None:
    for b in w.blocks:
        x = b.ffn.gate_up.w
        put(b.ffn.gate_up, w=np.concatenate([x[:, :, 0::2], x[:, :, 1::2]], 2))


@weight_mistake("shared expert dropped", EXPERTS)
def drop_shared(w: Any, case: Case) -> None:
    for b in w.blocks:
        b.ffn.shared.down.w[:] = 0


@weight_mistake("routed experts dropped", EXPERTS)
def drop_routed(w: Any, case: Case) -> None:
    for b in w.blocks:
        b.ffn.down.w[:] = 0


@weight_mistake("expert down read as [out, in]", "square experts")
def transpose_down(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.ffn.down, w=b.ffn.down.w.swapaxes(1, 2))


@weight_mistake("expert gate and up read as [out, in]", "square gate and up")
def transpose_gate_up(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.ffn.gate_up, w=b.ffn.gate_up.w.swapaxes(1, 2))


@weight_mistake("experts in another order than the router's", EXPERTS)
def roll_experts(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.ffn.router, w=np.roll(b.ffn.router.w, 1, 0))


@weight_mistake("the two norms of a layer swapped", MIXED, IMAGES)
def swap_norms(w: Any, case: Case) -> None:
    for b in [*w.blocks, *(w.vision.blocks if w.vision else [])]:
        put(b, norm1=b.norm2, norm2=b.norm1)


@weight_mistake("rows of q and k left half-split", LLAMA)
def half_split_rows(w: Any, case: Case) -> None:
    from herd.checkpoint.hf.names import to_half_split

    for b in w.blocks:
        for x in (b.q, b.k):
            put(x, w=to_half_split(x.w, case.config.head_size))


@weight_mistake("biases of q and k left half-split", LLAMA)
def half_split_biases(w: Any, case: Case) -> None:
    from herd.checkpoint.hf.names import to_half_split

    for b in w.blocks:
        for x in (b.q, b.k):
            put(x, bias=to_half_split(x.bias, case.config.head_size))


@weight_mistake("biases of q and k dropped", "attention biases", LLAMA)
def no_query_bias(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.q, bias=None)
        put(b.k, bias=None)


@weight_mistake("biases of v and o dropped", "attention biases", LLAMA)
def no_value_bias(w: Any, case: Case) -> None:
    for b in w.blocks:
        put(b.v, bias=None)
        put(b.o, bias=None)


@weight_mistake("biases of the MLP dropped", LLAMA)
def no_mlp_bias(w: Any, case: Case) -> None:
    for b in w.blocks:
        for x in (b.ffn.gate, b.ffn.up, b.ffn.down):
            put(x, bias=None)


@weight_mistake("a head of its own instead of the tied one", "tied embeddings")
def untie(w: Any, case: Case) -> None:
    put(w, head=replace(w.embed, w=np.random.default_rng(0).normal(size=w.embed.w.shape).astype(np.float32)))


# -- vision -------------------------------------------------------------------------------------------------------


@mistake("tanh GELU in the tower", IMAGES)
class Tanh(TorchOps):
    def ffn(self, h: Any, mlp: Any, extras: Any) -> Any:
        if mlp.gate is not None:
            return super().ffn(h, mlp, extras)
        return self.linear(F.gelu(self.linear(h, mlp.up), approximate="tanh"), mlp.down)


@mistake("tanh GELU in the adapter", IMAGES)
class TanhAdapter(TorchOps):
    def last_gelu(self, x: Any) -> Any:
        return F.gelu(x, approximate="tanh")


@mistake("last GELU of the adapter dropped", IMAGES)
class NoLastGelu(TorchOps):
    def last_gelu(self, x: Any) -> Any:
        return x


@mistake("class token first", IMAGES)
class ClassFirst(TorchOps):
    def patches(self, pixels: Any, vision: Any, patch_size: int, extras: Any = None) -> Any:
        last = replace(vision, places_MU=torch.zeros_like(vision.places_MU), pre=None)
        x = super().patches(pixels, last, patch_size, extras).view(len(pixels), len(vision.places_MU), -1)
        return super().norm(x.roll(1, 1) + vision.places_MU, vision.pre).flatten(0, 1)

    def norm(self, x: Any, norm: Any) -> Any:
        return x if norm is None else super().norm(x, norm)


@mistake("class token dropped before the tower", IMAGES)
def no_class(case: Case) -> np.ndarray:
    class Classless(TorchOps):
        def attend(self, q: Any, k: Any, v: Any, segments: Any, kv: Any, causal: bool = True) -> Any:
            if causal:
                return super().attend(q, k, v, segments, kv, causal)
            q, k, v = (x.unflatten(0, (-1, segments.most_rows)) for x in (q, k, v))
            return torch.cat([see_all(*tile) for tile in zip(q, k[:, :-1], v[:, :-1], strict=True)])

    return ours(Classless(), case)


@mistake("tiles see each other", IMAGES)
class OneTile(TorchOps):
    def attend(self, q: Any, k: Any, v: Any, spans: Any, kv: Any, causal: bool = True) -> Any:
        return super().attend(q, k, v, spans, kv, causal) if causal else see_all(q, k, v)


@mistake("causal tower", IMAGES)
class CausalTower(TorchOps):
    def attend(self, q: Any, k: Any, v: Any, segments: Any, kv: Any, causal: bool = True) -> Any:
        return super().attend(q, k, v, segments, kv, True)


@mistake("vision rope: row and column swapped", IMAGES)
class SwappedAxes(TorchOps):
    def angles_from(self, angles_TM: Any) -> Any:
        if isinstance(angles_TM, np.ndarray):
            angles_TM = np.roll(angles_TM, angles_TM.shape[1] // 2, 1)
        return super().angles_from(angles_TM)


@mistake("vision rope: pairs of row and column taken in turn", IMAGES)
class TurnedAxes(TorchOps):
    def angles_from(self, angles_TM: Any) -> Any:
        if isinstance(angles_TM, np.ndarray):
            x, y = np.split(angles_TM, 2, 1)
            angles_TM = np.stack([x, y], 2).reshape(len(angles_TM), -1)
        return super().angles_from(angles_TM)


@mistake("vision rope counted from 0", IMAGES)
class FromZero(TorchOps):
    def angles_from(self, angles_TM: Any) -> Any:
        if isinstance(angles_TM, np.ndarray):
            angles_TM = np.where(angles_TM > 0, angles_TM - angles_TM[0], 0)
        return super().angles_from(angles_TM)


@mistake("tiles in another order", IMAGES)
def reorder_tiles(case: Case) -> np.ndarray:
    assert case.pixels is not None
    return ours(TorchOps(), case, pixels=case.pixels[::-1].copy())


@mistake("global tile before the others", IMAGES)
def global_first(case: Case) -> np.ndarray:
    assert case.pixels is not None
    return ours(TorchOps(), case, pixels=case.pixels[[0, 3, 1, 2]])


@mistake("rows and columns of a tile swapped", IMAGES)
def transpose_tiles(case: Case) -> np.ndarray:
    assert case.pixels is not None
    return ours(TorchOps(), case, pixels=case.pixels.swapaxes(2, 3).copy())


@mistake("colours in reverse", IMAGES)
def reverse_colours(case: Case) -> np.ndarray:
    assert case.pixels is not None
    return ours(TorchOps(), case, pixels=case.pixels[:, ::-1].copy())


@weight_mistake("features of a patch ordered row, column, colour", IMAGES)
def colour_last(w: Any, case: Case) -> None:
    U, P = len(w.vision.patch.w), case.config.vision.patch_size
    put(w.vision.patch, w=w.vision.patch.w.reshape(U, P, P, 3).transpose(0, 3, 1, 2).reshape(U, -1))


@weight_mistake("pixel shuffle in the other order", IMAGES)
def other_shuffle(w: Any, case: Case) -> None:
    x, s = w.vision.fc1.w, case.config.vision.pixel_shuffle
    put(w.vision.fc1, w=x.reshape(len(x), s, s, -1).swapaxes(1, 2).reshape(x.shape))


@weight_mistake("biases of the tower dropped", IMAGES)
def no_bias(w: Any, case: Case) -> None:
    for b in w.vision.blocks:
        for linear in (b.q, b.k, b.v, b.o, b.ffn.up, b.ffn.down):
            put(linear, bias=None)


@weight_mistake("places left out", IMAGES)
def no_places(w: Any, case: Case) -> None:
    w.vision.places_MU[:] = 0


# -- the tests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_breaks_parity_by_a_wide_margin(name: str) -> None:
    case_name, run = MISTAKES[name]
    case, expected = CASES[case_name], theirs(case_name)
    limit = tolerance(case, expected)
    right = np.abs(ours(TorchOps(), case) - expected).max()
    wrong = np.abs(run(case) - expected).max()
    assert right < limit, "the unchanged op set has to pass here"
    # `not <=`: a NaN is a broken model, too, but never what is meant by a mistake here
    assert wrong > MARGIN * limit, f"{name}: off by {wrong:.1e}, seen only from {MARGIN * limit:.1e}"


def test_every_parity_case_is_there_for_a_mistake() -> None:
    seen = {case for case, _ in MISTAKES.values()}
    plain = {"one token", "patterns layer by layer", "a chunk that divides nothing"}
    other_widths = {"image of one tile", "vision of released widths"}
    assert set(CASES) == seen | plain | other_widths
