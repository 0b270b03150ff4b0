"""The layers of the native op set against float64: norms, qkv, MLP, experts, head, vision, adapters and observers."""

import dataclasses

import numpy as np
import pytest
from native_plain import (
    EPS,
    FLOATS,
    PACKED,
    array,
    attend,
    ffn,
    gelu,
    inputs_of,
    linear,
    matrix,
    moe,
    norm,
    rms,
    rotate,
    values,
    whole_steps,
)

from helpers import Choices
from herd.ops.contract import Adapters, Extras, LowRank
from herd.weights import Dense, Experts, LoRA, Mlp, Moe, Norm, Pair, Vision

D = 96
# Chains of a few products of width D and of functions with slopes near one: every value passes about ten roundings of
# float32, and sums of D products of size one lose sqrt(D) of them. 100 * eps * the largest value bounds that with room.
CHAIN = 100 * EPS


def close(y, expected, factor=1.0):
    assert y.dtype == np.float32 and y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=0, atol=factor * CHAIN * max(1.0, np.abs(expected).max(initial=0)))


def rms_norm(rng, width=D, kind="f32"):
    return Norm(array(rng, width, kind, 0.3), None, 1e-3, "norm")


def layer_norm(rng, width=D):
    return Norm(array(rng, width), array(rng, width), 1e-3, "norm")


@pytest.mark.parametrize("make", [rms_norm, layer_norm])
@pytest.mark.parametrize("width", [1, 15, 16, 33, 300])
def test_norms(ops, make, width):
    rng = np.random.default_rng(1)
    n = make(rng, width)
    for scale in (1e-4, 1.0, 300.0):
        x = array(rng, (5, width)) * np.float32(scale) + np.float32(0.1 * scale)
        close(ops.norm(x, n), norm(x, n))


def test_norm_weights_of_16_bits(ops):
    rng = np.random.default_rng(1)
    x = array(rng, (3, D))
    for kind in ("f16", "bf16"):
        n = rms_norm(rng, D, kind)
        close(ops.norm(x, n), norm(x, n))


@pytest.mark.parametrize("rows", [1, 2, 17])
@pytest.mark.parametrize("options", ["", "rope", "rope unit", "scale", "rope unit scale bias layernorm"])
def test_qkv(ops, rows, options):
    rng = np.random.default_rng(2)
    N, K, H = 6, 2, 20
    bias = "bias" in options
    wq, wk, wv = (matrix(rng, "f32", (n * H, D), bias=bias) for n in (N, K, K))
    n = layer_norm(rng) if "layernorm" in options else rms_norm(rng)
    x = array(rng, (rows, D))
    positions = rng.integers(0, 10_000_000, rows)
    freqs = [500000.0 ** (-2 * m / H) for m in range(H // 2)]
    cos_sin = ops.angles(positions, freqs) if "rope" in options else None
    scale = ops.temperature(positions, 8192, 0.1) if "scale" in options else None
    q, k, v = ops.qkv(x, n, wq, wk, wv, H, cos_sin, 1e-3 if "unit" in options else None, scale)
    h = norm(x, n)
    eq, ek, ev = (linear(h, w).reshape(rows, -1, H) for w in (wq, wk, wv))
    if cos_sin is not None:
        angles = positions[:, None] * np.asarray(freqs)
        eq, ek = (rotate(y, np.cos(angles), np.sin(angles)) for y in (eq, ek))
    if "unit" in options:
        eq, ek = rms(eq, 1e-3), rms(ek, 1e-3)
    if scale is not None:
        eq *= (1 + 0.1 * np.log(1 + np.floor((positions + 1) / 8192)))[:, None, None]
    close(q, eq), close(k, ek), close(v, ev)


def test_qkv_takes_a_different_format_for_each_projection(ops):
    rng = np.random.default_rng(3)
    n = Norm(np.ones(256, np.float32), None, 1e-3)
    for rows in (1, 9):
        # A row of whole steps over its root mean square is no longer one: quantised activations, so a wide bound.
        x = array(rng, (rows, 256))
        wq, wk, wv = (matrix(rng, kind, (64, 256)) for kind in ("q4_k", "q6_k", "q4_0"))
        h = norm(x, n)
        for y, w in zip(ops.qkv(x, n, wq, wk, wv, 32, None, None, None), (wq, wk, wv), strict=True):
            expected = linear(h, w)
            assert np.abs(y.reshape(rows, -1) - expected).max() < 0.03 * np.abs(expected).max()


def test_angles_keep_their_phase_far_out(ops):
    positions = np.array([0, 8191, 10_485_759, 2**40])
    cos, sin = ops.angles(positions, [1.0, 0.1])
    expected = positions[:, None] * np.array([1.0, 0.1])
    np.testing.assert_allclose(cos, np.cos(expected), rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(expected), rtol=0, atol=1e-7)
    assert ops.temperature(np.array([8190, 8191]), 8192, 0.1).tolist() == [1.0, np.float32(1 + 0.1 * np.log(2))]


def test_out_add_and_the_missing_residual(ops):
    rng = np.random.default_rng(4)
    for rows in (1, 7):
        x, o = array(rng, (rows, D)), array(rng, (rows, 3, 16))
        w = matrix(rng, "f32", (D, 48), bias=True)
        expected = linear(o.reshape(rows, -1), w)
        close(ops.out_add(x.copy(), o, w, residual=False), expected)
        close(ops.out_add(x.copy(), o, w), x + expected)


def dense_mlp(rng, gate, kind="f32", width=D, hidden=131):
    return Mlp(
        matrix(rng, kind, (hidden, width), name="shared.gate") if gate else None,
        matrix(rng, kind, (hidden, width), bias=not gate, name="shared.up"),
        matrix(rng, kind, (width, hidden), bias=not gate, name="shared.down"),
    )


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 17])
def test_mlp(ops, gate, rows):
    rng = np.random.default_rng(5)
    m, n, x = dense_mlp(rng, gate), rms_norm(rng), array(rng, (rows, D))
    expected = ffn(norm(x, n), m)
    close(ops.mlp_add(x.copy(), n, m, residual=False), expected)
    close(ops.mlp_add(x.copy(), n, m), x + expected)


def test_packed_mlp(ops):
    """Packed weights of both sides: against the same formulas with the float64 values of the weights."""
    rng = np.random.default_rng(6)
    for kind in PACKED:
        width = inputs_of(kind, True) * 2
        m, n = dense_mlp(rng, True, kind, width, width), rms_norm(rng, width)
        for rows in (1, 6):
            x = array(rng, (rows, width))
            expected = ffn(norm(x, n), m)
            # Two quantisations of activations to 1/254 of a group's largest: about 1 percent of a value each.
            error = ops.mlp_add(x.copy(), n, m, residual=False) - expected
            assert np.sqrt((error**2).mean()) < 0.03 * np.sqrt((expected**2).mean())


def experts(rng, kind, E, F=48, form="experts"):
    router = matrix(rng, "f32", (E, D), name="router")
    shared = dense_mlp(rng, True)
    if form == "experts":
        return Moe(
            router,
            Experts(array(rng, (E, D, 2 * F), kind, D**-0.5), "gate_up"),
            Experts(array(rng, (E, F, D), kind, F**-0.5), "down"),
            shared,
        )
    down = matrix(rng, kind, (E, D, F), name="down")
    if form == "joined":
        return Moe(router, matrix(rng, kind, (E, 2 * F, D), name="gate_up"), down, shared)
    pair = Pair(matrix(rng, kind, (E, F, D), name="gate"), matrix(rng, kind, (E, F, D), name="up"), "gate_up")
    return Moe(router, pair, down, shared)


@pytest.mark.parametrize("form", ["experts", "joined", "pair"])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("chosen", [1, 2])
def test_experts(ops, form, rows, chosen):
    rng = np.random.default_rng(7)
    kind = FLOATS[rows % 3]
    m, n, x = experts(rng, kind, 7, form=form), rms_norm(rng), array(rng, (rows, D))
    seen = []
    expected, ids, scores = moe(norm(x, n), m, chosen)
    y = ops.moe_add(x.copy(), n, m, 7, chosen, residual=False, routing=lambda e, s: seen.append((e, s)))
    close(y, expected)
    assert (seen[0][0] == ids).all()
    np.testing.assert_allclose(seen[0][1], scores, atol=1e-6)
    close(ops.moe_add(x.copy(), n, m, 7, chosen), x + expected)


def test_packed_experts_and_experts_without_rows(ops):
    rng = np.random.default_rng(8)
    m = experts(rng, "q4_1", 4, F=64, form="pair")
    m.router.w.flags.writeable = True
    m.router.w[:] = 0  # all logits equal: every row goes to expert 0, the lowest
    n = Norm(np.ones(D, np.float32), None, 1e-3)
    for rows in (1, 9):
        x = array(rng, (rows, D))
        trace = Choices()
        y = ops.moe_add(x.copy(), n, m, 4, 1, residual=False, routing=lambda e, s, t=trace: t(0, e, s))
        assert (trace.choices[0][1] == 0).all()
        assert (trace.choices[0][2] == 0.5).all()
        expected = moe(norm(x, n), m, 1)[0]
        assert np.sqrt(((y - expected) ** 2).mean()) < 0.02 * np.sqrt((expected**2).mean())


def test_ties_go_to_the_lower_expert(ops):
    rng = np.random.default_rng(9)
    m = experts(rng, "f32", 5)
    router = np.zeros((5, D), np.float32)
    router[1] = router[3] = 1.0
    m = dataclasses.replace(m, router=Dense(router))
    n = Norm(np.ones(D, np.float32), None, 1e-3)
    x = np.abs(array(rng, (3, D)))
    seen = []
    ops.moe_add(x.copy(), n, m, 5, 3, routing=lambda e, s: seen.append(e))
    assert seen[0].tolist() == [[1, 3, 0]] * 3
    ops.moe_add(-x, n, m, 5, 3, routing=lambda e, s: seen.append(e))
    assert seen[1].tolist() == [[0, 2, 4]] * 3


def test_head_of_wanted_rows(ops):
    rng = np.random.default_rng(10)
    n, w, x = rms_norm(rng), matrix(rng, "bf16", (301, D)), array(rng, (6, D))
    close(ops.head(x, n, w), linear(norm(x, n), w))
    for rows in ([5], [4, 0, 4], []):
        close(ops.head(x, n, w, np.array(rows, np.int64)), linear(norm(x, n), w)[rows])


class Seen:
    def __init__(self):
        self.calls = []

    def seen(self, name, x, expert=None):
        self.calls.append((name, len(x), expert))


def low_rank(rng, w, E=None, kind="f32"):
    outputs, inputs = values(w, None if E is None else 0).shape
    lead = () if E is None else (E,)
    return array(rng, (*lead, 2, inputs), kind), array(rng, (*lead, outputs, 2), kind)


def test_lora_nodes(ops):
    rng = np.random.default_rng(11)
    m = experts(rng, "f32", 3)

    def wrap(w, E=None):
        return LoRA(w, *low_rank(rng, w, E, "bf16"), 0.5, w.name)

    m = Moe(m.router, wrap(m.gate_up, 3), wrap(m.down, 3), Mlp(m.shared.gate, wrap(m.shared.up), m.shared.down))
    n, x = rms_norm(rng), array(rng, (6, D))
    plain = dataclasses.replace(m, gate_up=m.gate_up, down=m.down)
    expected = moe(norm(x, n), plain, 1)[0]
    close(ops.moe_add(x.copy(), n, m, 3, 1, residual=False), expected, 4)
    wo = wrap(matrix(rng, "f32", (D, 48)))
    o = array(rng, (6, 3, 16))
    close(ops.out_add(x.copy(), o, wo), x + linear(o.reshape(6, -1), wo), 4)


def test_adapters_by_row_and_observers(ops):
    rng = np.random.default_rng(12)
    m, n, x = experts(rng, "f32", 3), rms_norm(rng), array(rng, (6, D))
    pairs = {
        "gate_up": [None, LowRank(*low_rank(rng, m.gate_up, 3), 0.5)],
        "down": [LowRank(*low_rank(rng, m.down, 3), 2.0), None],
        "shared.up": [LowRank(*low_rank(rng, m.shared.up), 0.5), LowRank(*low_rank(rng, m.shared.up), -1.0)],
    }
    rows_T = np.array([0, 1, -1, 1, 0, -1])
    observer = Seen()
    extras = Extras(Adapters(pairs, rows_T), observer)
    y = ops.moe_add(x.copy(), n, m, 3, 1, extras, residual=False)

    def merged(w, name, i):
        pair = pairs[name][i] if i >= 0 else None
        return w if pair is None else LoRA(w, pair.down, pair.up, pair.scale)

    for t, i in enumerate(rows_T):
        shared = Mlp(m.shared.gate, merged(m.shared.up, "shared.up", i), m.shared.down)
        own = Moe(m.router, merged(m.gate_up, "gate_up", i), merged(m.down, "down", i), shared)
        close(y[t : t + 1], moe(norm(x[t : t + 1], n), own, 1)[0], 4)
    names = [c[0] for c in observer.calls]
    assert names[:4] == ["router", "shared.up", "shared.gate", "shared.down"]
    routed = [c for c in observer.calls if c[2] is not None]
    assert sum(c[1] for c in routed if c[0] == "gate_up") == 6
    w = matrix(rng, "f32", (11, D), name="head")
    pairs["head"] = [LowRank(*low_rank(rng, w), 1.0), None]
    logits = ops.head(x, n, w, np.array([4, 3]), Extras(Adapters(pairs, rows_T)))
    close(logits[:1], linear(norm(x[4:5], n), merged(w, "head", 0)), 4)
    close(logits[1:], linear(norm(x[3:4], n), w))


def test_vision_ends(ops):
    rng = np.random.default_rng(13)
    I, S, P, U = 2, 28, 7, 36  # noqa: E741
    g = S // P
    v = Vision(
        matrix(rng, "f32", (U, 3 * P * P)),
        array(rng, U),
        array(rng, (g * g + 1, U)),
        layer_norm(rng, U),
        [],
        layer_norm(rng, U),
        matrix(rng, "f32", (50, 4 * U)),
        matrix(rng, "f32", (44, 50)),
        matrix(rng, "f32", (64, 44)),
    )
    pixels = array(rng, (I, 3, S, S))
    x = ops.patches(pixels, v, P)
    expected = np.empty((I, g * g + 1, U))
    for i in range(I):
        for r in range(g):
            for c in range(g):
                patch = pixels[i, :, r * P : (r + 1) * P, c * P : (c + 1) * P].reshape(1, -1)
                expected[i, r * g + c] = linear(patch, v.patch)[0]
        expected[i, -1] = v.class_U
    close(x, norm(expected + v.places_MU, v.pre).reshape(-1, U))
    h = norm(x, v.post).reshape(I, -1, U)
    joined = [
        np.concatenate([h[i, (2 * r + dy) * g + 2 * c + dx] for dy in range(2) for dx in range(2)])
        for i in range(I)
        for r in range(g // 2)
        for c in range(g // 2)
    ]
    y = linear(gelu(linear(gelu(linear(np.array(joined), v.fc1)), v.fc2)), v.project)
    close(ops.adapt(x, v, I, g, 2), y)


def test_put_rows_and_arrays(ops):
    x = np.zeros((3, 4), np.float32)
    assert ops.put_rows(x, [2, 0], np.ones((2, 4), np.float32))[:, 0].tolist() == [1, 0, 1]
    assert ops.array(np.arange(3)).dtype.kind == "i"
    assert ops.array(np.zeros(2)).dtype == np.float32
    assert ops.numpy(np.array([0x3F80], np.uint16)).tolist() == [1.0]
    x = whole_steps(np.random.default_rng(0), 1, 32)
    x.flags.writeable = False  # a residual stream that cannot be consumed is copied
    n, m = Norm(np.ones(32, np.float32), None, 1e-3), dense_mlp(np.random.default_rng(0), True, width=32)
    before = x.copy()
    close(ops.mlp_add(x, n, m), x + ffn(norm(x, n), m))
    assert (x == before).all()


def test_attention_inside_the_reference_is_right():
    """The float64 attention used by these tests, by hand for one head and two keys."""
    q, k = np.array([[[2.0]]]), np.array([[[1.0]], [[-1.0]]])
    v = np.array([[[10.0]], [[20.0]]])
    p = 1 / (1 + np.exp(-4.0))
    assert np.isclose(attend(q, k, v, None)[0, 0, 0], 10 * p + 20 * (1 - p))
