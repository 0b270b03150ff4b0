"""Each operation of the reference against its equation in float64 numpy; kinds of weight; rounding of bfloat16."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from herd import formats
from herd.batch import Context, Segments, segments
from herd.errors import UsageError
from herd.formats import strips
from herd.model import place_weights
from herd.weights import Dense, Experts, LoRA, Mlp, Moe, Norm, Packed, Pair, Vision

torch = pytest.importorskip("torch")
from devices import DEVICES  # noqa: E402

from herd.ops.torch import TorchOps  # noqa: E402
from random_blocks import random_codes  # noqa: E402

T, D, H, N, K, F, E = 7, 32, 8, 4, 2, 32, 3
EXACT = {"rtol": 1e-12, "atol": 1e-12}
"""Float64 against float64: sums of up to 128 products of size 1, eps 1.1e-16, gains of a few."""


@pytest.fixture(params=DEVICES)
def ops(request: pytest.FixtureRequest) -> Any:
    return TorchOps(request.param, torch.float64)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def dense(rng: np.random.Generator, outputs: int, inputs: int, bias: bool = False, name: str = "w") -> Dense:
    return Dense(rng.normal(size=(outputs, inputs)) / np.sqrt(inputs), rng.normal(size=outputs) if bias else None, name)


def rms_norm(rng: np.random.Generator) -> Norm:
    return Norm(1 + 0.1 * rng.normal(size=D), None, 1e-3, "norm")


def plain_norm(x: np.ndarray, n: Norm) -> np.ndarray:
    if n.bias is None:
        return n.w * x / np.sqrt((x * x).mean(-1, keepdims=True) + n.eps)
    x = x - x.mean(-1, keepdims=True)
    return n.w * x / np.sqrt((x * x).mean(-1, keepdims=True) + n.eps) + n.bias


def plain_linear(x: np.ndarray, w: Dense) -> np.ndarray:
    return x @ w.w.T + (0 if w.bias is None else w.bias)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    from math import erf

    return x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2


def plain_mlp(h: np.ndarray, mlp: Mlp) -> np.ndarray:
    up = plain_linear(h, mlp.up)
    if mlp.gate is None:
        return plain_linear(gelu(up), mlp.down)
    gate = plain_linear(h, mlp.gate)
    return plain_linear(gate * sigmoid(gate) * up, mlp.down)


def rotate(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Adjacent pairs as complex numbers times e^(i angle)."""
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None]
    return np.stack([z.real, z.imag], -1).reshape(x.shape)


def plain_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool) -> np.ndarray:
    """One query, one head at a time; the queries are the last of the positions."""
    out = np.zeros_like(q)
    for t in range(len(q)):
        for n in range(q.shape[1]):
            seen = len(k) - len(q) + t + 1 if causal else len(k)
            kv = n // (q.shape[1] // k.shape[1])
            p = np.exp(k[:seen, kv] @ q[t, n] / np.sqrt(q.shape[-1]))
            out[t, n] = p @ v[:seen, kv] / p.sum()
    return out


@pytest.mark.slow
def test_the_compiler_is_not_loaded_before_it_is_asked_for() -> None:
    """It takes longer than the rest of a start."""
    code = """
import sys, torch
from herd.batch import Context, segments
from herd.ops.torch import TorchOps
ops, s = TorchOps(), segments([2, 3])
q = torch.ones(5, 2, 4, requires_grad=True)
ops.attend(q, q, q, ops.place(Context(s.starts, s, s)).full, None).sum().backward()
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- in and out ---------------------------------------------------------------------------------------------------


def test_arrays_come_in_as_what_they_stand_for() -> None:
    ops = TorchOps()
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)  # 1, -2, infinity in bfloat16
    assert ops.array(bits).tolist() == [1.0, -2.0, float("inf")]
    assert ops.array(np.array([0.5], np.float16)).dtype == torch.float32
    assert ops.array(np.array([1, 2], np.uint8)).dtype == torch.uint8
    assert ops.array(torch.ones(2, dtype=torch.float64)).dtype == torch.float32
    frozen = np.ones(3, np.float32)
    frozen.flags.writeable = False
    out = ops.array(frozen)
    out += 1
    assert frozen.tolist() == [1, 1, 1], "a mapped file must not be written to"
    assert ops.numpy(TorchOps(dtype=torch.bfloat16).array(np.ones(1))).dtype == np.float32


def test_an_unknown_kind_of_weight_is_refused_by_name(ops: Any) -> None:
    pair = Pair(Dense(np.ones((E, F, D)), None), Dense(np.ones((E, F, D)), None))
    with pytest.raises(NotImplementedError, match="linear over weight kind 'pair'"):
        ops.linear(ops.array(np.ones((1, D))), place_weights(ops, pair))
    norm, ends = place_weights(ops, rms_norm(np.random.default_rng(0))), torch.ones(1, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="experts of weight kind 'norm'"):
        ops.grouped(ops.array(np.ones((1, D))), ends, norm, None, torch.zeros(1))


def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"device: got tpu9, expected cpu, cuda or cuda:N"):
        TorchOps(device="tpu9")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(UsageError, match=r"device cuda: got PyTorch .* built for the CPU only; install"):
        TorchOps(device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=r"device cuda: got no CUDA card that PyTorch can use; see"):
        TorchOps(device="cuda")


def test_a_wide_packed_matrix_is_decoded_in_pieces(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    values = rng.standard_normal((70, 64)).astype(np.float32)
    codes, bias = formats.encode("q8_0", values), rng.standard_normal(70).astype(np.float32)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    ops = TorchOps(dtype=torch.float64)
    nodes = [
        Packed("q8_0", c, (70, 64), bias, "w", layout)
        for c, layout in ((codes, "rows"), (strips.to_strips("q8_0", codes), "strips"))
    ]
    full = [ops.linear(ops.array(x), place_weights(ops, n)).numpy() for n in nodes]
    monkeypatch.setattr("herd.ops.torch.DECODED", 32 * 64)
    for node, one in zip(nodes, full, strict=True):
        np.testing.assert_array_equal(ops.linear(ops.array(x), place_weights(ops, node)).numpy(), one)
    expected = x.astype(np.float64) @ formats.decode("q8_0", codes, 64).astype(np.float64).T + bias
    np.testing.assert_allclose(full[1], expected, atol=1e-12)


def test_the_cache_gives_back_what_was_put_in(ops: Any, rng: np.random.Generator) -> None:
    kv = ops.new_kv(12, K, H)
    keys, values = rng.normal(size=(2, 5, K, H)).astype(np.float32)
    slots = [7, 0, 3, 11, 4]
    ops.kv_write(kv, slots, keys, values)
    got = ops.kv_read(kv, slots)
    np.testing.assert_array_equal(got[0], keys)
    np.testing.assert_array_equal(got[1], values)
    assert not ops.kv_read(kv, [1, 2, 5, 6, 8, 9, 10])[0].any(), "no other slot is touched"
    before = ops.kv_read(kv, range(12))
    ops.copy_pages(kv, [0, 1], [2, 0], page_size=4)  # page 0 is read before it is written
    after = ops.kv_read(kv, range(12))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, np.concatenate([old[4:8], old[4:8], old[0:4]]))


@pytest.mark.parametrize(("dtype", "kind"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_the_cache_holds_the_type_asked_for(dtype: str, kind: Any) -> None:
    assert {t.dtype for t in TorchOps().new_kv(4, K, H, dtype)} == {kind}


# -- once a pass --------------------------------------------------------------------------------------------------


def test_angles_keep_their_phase_at_ten_million() -> None:
    """Against integers: the turn of t * f is reduced exactly, with f as a fraction."""
    from fractions import Fraction

    far = np.array([0, 1, 8191, 1_048_575, 10_485_759])
    freqs = [1.0, 0.1, 500000.0**-0.25]
    cos, sin = TorchOps().angles(far, freqs)
    assert cos.dtype == torch.float32 and cos.shape == (5, 3)
    pi = Fraction(31415926535897932384626433832795028841, 10**37)
    for i, t in enumerate(far.tolist()):
        for j, f in enumerate(freqs):
            turn = float((t * Fraction(f)) % (2 * pi))
            # float64 product of 10^7: eps 1.1e-16 * 10^7 = 1.2e-9; float32 result: 6e-8
            assert abs(float(cos[i, j]) - np.cos(turn)) < 1e-7
            assert abs(float(sin[i, j]) - np.sin(turn)) < 1e-7


def test_temperature_steps_where_the_family_says() -> None:
    t = np.array([0, 8190, 8191, 16382, 16383, 10_485_759])
    got = TorchOps().temperature(t, 8192, 0.1).numpy()
    np.testing.assert_allclose(got, 1 + 0.1 * np.log([1, 1, 2, 2, 3, 1281]), rtol=2e-7)
    assert got[1] == 1.0
    assert round(float(got[2]), 4) == 1.0693


# -- text ---------------------------------------------------------------------------------------------------------


def test_embed_takes_rows_dense_or_packed(rng: np.random.Generator) -> None:
    ops, table = TorchOps(), rng.normal(size=(10, 32)).astype(np.float32)
    ids = np.array([9, 0, 9, 4])
    np.testing.assert_array_equal(ops.numpy(ops.embed(ids, place_weights(ops, Dense(table)))), table[ids])
    packed = Packed("q8_0", formats.encode("q8_0", table), (10, 32))
    exact = formats.decode("q8_0", packed.codes, 32)
    np.testing.assert_array_equal(ops.numpy(ops.embed(ids, place_weights(ops, packed))), exact[ids])
    packed = Packed("q8_0", strips.to_strips("q8_0", packed.codes), (10, 32), layout="strips")
    np.testing.assert_array_equal(ops.numpy(ops.embed(ids, place_weights(ops, packed))), exact[ids])


def test_put_rows_replaces_only_its_rows(ops: Any, rng: np.random.Generator) -> None:
    x, new = rng.normal(size=(T, D)), rng.normal(size=(2, D))
    got = ops.put_rows(ops.array(x.copy()), [5, 2], ops.array(new))
    expected = x.copy()
    expected[[5, 2]] = new
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("eps", [None, 0.02])
@pytest.mark.parametrize("rope", [False, True])
def test_qkv(rope: bool, eps: float | None, scale: bool, bias: bool, ops: Any, rng: np.random.Generator) -> None:
    norm = rms_norm(rng)
    ws = [dense(rng, heads * H, D, bias) for heads in (N, K, K)]
    x, angles = rng.normal(size=(T, D)), rng.uniform(-9, 9, (T, H // 2))
    scales = rng.uniform(1, 2, T)
    got = ops.qkv(
        ops.array(x.copy()),
        *(place_weights(ops, w) for w in (norm, *ws)),
        H,
        ops.angles_from(angles) if rope else None,
        eps,
        ops.array(scales) if scale else None,
    )
    h = plain_norm(x, norm)
    q, k, v = (plain_linear(h, w).reshape(T, -1, H) for w in ws)
    if rope:
        q, k = rotate(q, angles), rotate(k, angles)
    if eps is not None:
        q, k = (y / np.sqrt((y * y).mean(-1, keepdims=True) + eps) for y in (q, k))
    if scale:
        q = q * scales[:, None, None]
    for mine, plain in zip(got, (q, k, v), strict=True):
        np.testing.assert_allclose(mine, plain, **EXACT)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_stays_inside_its_segment(causal: bool, ops: Any, rng: np.random.Generator) -> None:
    q, k, v = (rng.normal(size=(T, heads, H)) for heads in (N, K, K))
    s = segments([3, 0, 1, 3])
    placed = ops.place(Context(np.arange(T), s, s)).full
    got = ops.attend(ops.array(q), ops.array(k), ops.array(v), placed, None, causal)
    for a, b in ((0, 3), (3, 4), (4, 7)):
        np.testing.assert_allclose(got[a:b], plain_attention(q[a:b], k[a:b], v[a:b], causal), **EXACT)


def test_attention_over_pages_sees_the_past_and_its_own_rows(ops: Any, rng: np.random.Generator) -> None:
    """Two sequences: one with 5 keys in pages 3, 1 and 2 new rows; one new, in page 0."""
    Z, past = 4, 5
    q, k, v = (rng.normal(size=(3, heads, H)) for heads in (N, K, K))
    old_k, old_v = rng.normal(size=(2, past, K, H)).astype(np.float32).astype(np.float64)
    kv = ops.new_kv(4 * Z, K, H)
    kv.keys.fill_(np.nan)  # what is not owned is never read
    kv.values.fill_(np.nan)
    ops.kv_write(kv, [12, 13, 14, 15, 4], old_k, old_v)
    s = Segments(np.array([0, 2, 3]), np.array([7, 1]), np.array([[3, 1], [0, 0]]), np.array([5, 6, 0]), Z)
    placed = ops.place(Context(np.array([5, 6, 0]), s, s)).full
    got = ops.attend(ops.array(q), ops.array(k), ops.array(v), placed, kv)
    first = plain_attention(q[:2], np.concatenate([old_k, k[:2]]), np.concatenate([old_v, v[:2]]), True)
    np.testing.assert_allclose(got[:2], first, **EXACT)
    np.testing.assert_allclose(got[2:], plain_attention(q[2:], k[2:], v[2:], True), **EXACT)
    np.testing.assert_allclose(ops.kv_read(kv, [5, 6, 0])[0], k, rtol=1e-6)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_mlp_add_and_out_add(gated: bool, bias: bool, residual: bool, ops: Any, rng: np.random.Generator) -> None:
    norm = Norm(1 + 0.1 * rng.normal(size=D), rng.normal(size=D), 1e-3) if bias else rms_norm(rng)
    mlp = Mlp(dense(rng, F, D, bias) if gated else None, dense(rng, F, D, bias), dense(rng, D, F, bias))
    wo = dense(rng, D, N * H, bias)
    x, o = rng.normal(size=(T, D)), rng.normal(size=(T, N, H))
    kept = x if residual else 0
    got = ops.mlp_add(ops.array(x.copy()), place_weights(ops, norm), place_weights(ops, mlp), residual=residual)
    np.testing.assert_allclose(got, kept + plain_mlp(plain_norm(x, norm), mlp), **EXACT)
    got = ops.out_add(ops.array(x.copy()), ops.array(o), place_weights(ops, wo), residual=residual)
    np.testing.assert_allclose(got, kept + plain_linear(o.reshape(T, -1), wo), **EXACT)


def moe(rng: np.random.Generator) -> Moe:
    return Moe(
        dense(rng, E, D, name="router"),
        Experts(rng.normal(size=(E, D, 2 * F)) / np.sqrt(D), "gate_up"),
        Experts(rng.normal(size=(E, F, D)) / np.sqrt(F), "down"),
        Mlp(dense(rng, F, D), dense(rng, F, D), dense(rng, D, F)),
    )


def plain_moe(x: np.ndarray, norm: Norm, w: Moe, experts_per_token: int) -> np.ndarray:
    """Token by token."""
    h = plain_norm(x, norm)
    y = plain_mlp(h, w.shared)
    for t in range(len(x)):
        logits = plain_linear(h[t], w.router)
        for e in sorted(range(E), key=lambda e: (-logits[e], e))[:experts_per_token]:
            gate, up = np.split(sigmoid(logits[e]) * h[t] @ w.gate_up.w[e], 2)
            y[t] += gate * sigmoid(gate) * up @ w.down.w[e]
    return y


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("experts_per_token", [1, 2, E])
def test_moe_add(experts_per_token: int, residual: bool, ops: Any, rng: np.random.Generator) -> None:
    norm, w = rms_norm(rng), moe(rng)
    x = rng.normal(size=(T, D))
    seen: list[Any] = []
    got = ops.moe_add(
        ops.array(x.copy()),
        place_weights(ops, norm),
        place_weights(ops, w),
        E,
        experts_per_token,
        residual=residual,
        routing=lambda *choice: seen.append(choice),
    )
    np.testing.assert_allclose(got, (x if residual else 0) + plain_moe(x, norm, w, experts_per_token), **EXACT)
    ((experts_TA, scores_TA),) = seen
    assert experts_TA.shape == scores_TA.shape == (T, experts_per_token)


def test_a_tie_goes_to_the_lower_expert_and_no_rows_are_fine(ops: Any, rng: np.random.Generator) -> None:
    norm, w = rms_norm(rng), moe(rng)
    w.router.w[:] = 0
    seen: list[Any] = []
    x = rng.normal(size=(T, D))
    args = place_weights(ops, norm), place_weights(ops, w), E, 2
    got = ops.moe_add(ops.array(x.copy()), *args, routing=lambda *choice: seen.append(choice))
    assert seen[0][0].tolist() == [[0, 1]] * T
    np.testing.assert_allclose(got, x + plain_moe(x, norm, w, 2), **EXACT)
    assert ops.moe_add(ops.array(np.zeros((0, D))), *args).shape == (0, D)


def test_only_chosen_experts_are_computed(ops: Any, rng: np.random.Generator) -> None:
    norm, w = rms_norm(rng), moe(rng)
    x = rng.normal(size=(T, D))
    used = plain_linear(plain_norm(x, norm), w.router).argmax(-1)
    x = x[used != 1]
    expected = x + plain_moe(x, norm, w, 1)
    w.gate_up.w[1], w.down.w[1] = np.nan, np.nan
    got = ops.moe_add(ops.array(x.copy()), place_weights(ops, norm), place_weights(ops, w), E, 1)
    np.testing.assert_allclose(got, expected, **EXACT)


def test_norm_and_head(ops: Any, rng: np.random.Generator) -> None:
    norm, head = rms_norm(rng), dense(rng, 19, D)
    x = rng.normal(size=(T, D))
    placed = place_weights(ops, norm), place_weights(ops, head)
    np.testing.assert_allclose(ops.norm(ops.array(x), placed[0]), plain_norm(x, norm), **EXACT)
    expected = plain_linear(plain_norm(x, norm), head)
    np.testing.assert_allclose(ops.head(ops.array(x), *placed), expected, **EXACT)
    np.testing.assert_allclose(ops.head(ops.array(x), *placed, np.array([4, 4, 0])), expected[[4, 4, 0]], **EXACT)


# -- kinds of weight ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, f in formats.FORMATS.items() if f.fits(D)])
def test_a_packed_matrix_is_the_dense_one_of_its_values(name: str, rng: np.random.Generator) -> None:
    ops = TorchOps()
    codes = random_codes(name, rng, (F, D))
    bias = rng.normal(size=F).astype(np.float32)
    values = formats.decode(name, codes, D)
    x = ops.array(rng.normal(size=(T, D)).astype(np.float32))
    want = ops.linear(x, place_weights(ops, Dense(values, bias)))
    np.testing.assert_array_equal(ops.linear(x, place_weights(ops, Packed(name, codes, (F, D), bias))), want)
    if name in strips.UNITS:
        node = Packed(name, strips.to_strips(name, codes), (F, D), bias, layout="strips")
        np.testing.assert_array_equal(ops.linear(x, place_weights(ops, node)), want)


def test_every_form_of_an_expert_stack_is_the_same_stack(rng: np.random.Generator) -> None:
    ops = TorchOps()
    gate, up = rng.normal(size=(2, E, F, D)).astype(np.float32)
    codes = [formats.encode("q8_0", x) for x in (gate, up)]
    gate, up = (formats.decode("q8_0", c, D) for c in codes)
    joined = np.concatenate([gate, up], 1)
    forms = {
        "input-major": Experts(joined.swapaxes(1, 2)),
        "output-major": Dense(joined),
        "apart": Pair(Dense(gate), Dense(up)),
        "packed apart": Pair(*(Packed("q8_0", c, (E, F, D)) for c in codes)),
        "packed": Packed("q8_0", formats.encode("q8_0", joined), (E, 2 * F, D)),
        "strips": Packed(
            "q8_0", strips.to_strips("q8_0", formats.encode("q8_0", joined)), (E, 2 * F, D), layout="strips"
        ),
    }
    x = rng.normal(size=(T, D)).astype(np.float32)
    ends, rows = torch.tensor([4, 4, T]), torch.arange(T)
    expected = np.concatenate([x[:4] @ joined[0].T, x[4:] @ joined[2].T])
    for name, node in forms.items():
        got = ops.grouped(ops.array(x), ends, place_weights(ops, node), None, rows)
        # float32 sums of D products, c = 4 as in ops.contract
        limit = 4 * 2.0**-24 * np.linalg.norm(x, axis=1).max() * np.linalg.norm(joined, axis=2).max()
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit, err_msg=name)


def test_a_lora_node_adds_its_pair(ops: Any, rng: np.random.Generator) -> None:
    base, down, up = dense(rng, F, D, bias=True), rng.normal(size=(2, D)), rng.normal(size=(F, 2))
    x = rng.normal(size=(T, D))
    got = ops.linear(ops.array(x), place_weights(ops, LoRA(base, down, up, 0.5, "w")))
    np.testing.assert_allclose(got, plain_linear(x, base) + 0.5 * x @ down.T @ up.T, **EXACT)


# -- vision -------------------------------------------------------------------------------------------------------


def vision(rng: np.random.Generator, patch: int, grid: int, shuffle: int) -> Vision:
    def layer_norm() -> Norm:
        return Norm(1 + 0.1 * rng.normal(size=D), rng.normal(size=D), 1e-3)

    return Vision(
        dense(rng, D, 3 * patch**2),
        rng.normal(size=D),
        rng.normal(size=(grid**2 + 1, D)),
        layer_norm(),
        [],
        layer_norm(),
        dense(rng, 24, D * shuffle**2),
        dense(rng, 20, 24),
        dense(rng, 12, 20),
    )


def test_patches_are_unfolded_in_raster_order_with_the_class_token_last(ops: Any, rng: np.random.Generator) -> None:
    I, P, g = 2, 3, 4  # noqa: E741
    w = vision(rng, P, g, 2)
    pixels = rng.normal(size=(I, 3, g * P, g * P))
    got = ops.patches(pixels, place_weights(ops, w), P)
    rows = []
    for i in range(I):
        for y in range(g):
            for x in range(g):
                features = [
                    pixels[i, c, y * P + dy, x * P + dx] for c in range(3) for dy in range(P) for dx in range(P)
                ]
                rows.append(w.patch.w @ features + w.places_MU[y * g + x])
        rows.append(w.class_U + w.places_MU[-1])
    np.testing.assert_allclose(got, plain_norm(np.stack(rows), w.pre), **EXACT)


@pytest.mark.parametrize("shuffle", [1, 2])
def test_adapt_joins_neighbours_row_by_row(shuffle: int, ops: Any, rng: np.random.Generator) -> None:
    I, g = 2, 4  # noqa: E741
    w = vision(rng, 3, g, shuffle)
    x = rng.normal(size=(I * (g * g + 1), D))
    got = ops.adapt(ops.array(x), place_weights(ops, w), I, g, shuffle)
    normed = plain_norm(x, w.post).reshape(I, g * g + 1, D)
    rows = []
    for tile in normed:
        for Y in range(g // shuffle):
            for X in range(g // shuffle):
                corners = [(Y * shuffle + dy) * g + X * shuffle + dx for dy in range(shuffle) for dx in range(shuffle)]
                rows.append(np.concatenate([tile[c] for c in corners]))
    inner = gelu(plain_linear(np.stack(rows), w.fc1))
    np.testing.assert_allclose(got, plain_linear(gelu(plain_linear(inner, w.fc2)), w.project), **EXACT)


# -- rounding -----------------------------------------------------------------------------------------------------


def bf16(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(np.asarray(x, np.float32)).bfloat16().float().numpy()


def test_bfloat16_statistics_are_float32_and_rounded_before_the_weight(rng: np.random.Generator) -> None:
    """Values near 1000 with eps tiny: a mean of squares in bfloat16 would be off by a percent."""
    ops = TorchOps(dtype=torch.bfloat16)
    x, w = bf16(1000 + rng.normal(size=(T, D))), bf16(rng.uniform(0.5, 2, D))
    got = ops.numpy(ops.norm(ops.array(x), place_weights(ops, Norm(w, None, 1e-5))))
    f = x.astype(np.float32)
    rounded = bf16(f / np.sqrt(np.square(f).mean(-1, keepdims=True, dtype=np.float32) + np.float32(1e-5)))
    np.testing.assert_array_equal(got, bf16(w * rounded))


def test_bfloat16_rope_turns_in_float32(rng: np.random.Generator) -> None:
    ops = TorchOps(dtype=torch.bfloat16)
    x, angles = bf16(rng.normal(size=(T, N, H))), rng.uniform(0, 1e4, (T, H // 2))
    got = ops.numpy(ops.rotate(ops.array(x), ops.angles_from(angles)))
    # one rounding to bfloat16 of a value at most the pair's length
    assert np.abs(got - rotate(x.astype(np.float64), angles)).max() < 2.0**-8 * np.sqrt(2) * np.abs(x).max()
    assert ops.angles_from(angles).cos.dtype == torch.float32


def test_logits_are_float32_whatever_the_model(rng: np.random.Generator) -> None:
    ops = TorchOps(dtype=torch.bfloat16)
    norm, head = rms_norm(rng), dense(rng, 5, D)
    out = ops.head(ops.array(rng.normal(size=(T, D))), place_weights(ops, norm), place_weights(ops, head))
    assert out.dtype == torch.float32
