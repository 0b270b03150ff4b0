"""Linear layers of the native op set against float64, for every format and every instruction set of this processor."""

import numpy as np
import pytest
from native_plain import (
    FLOATS,
    PACKED,
    array,
    gelu,
    inputs_of,
    linear,
    matrix,
    product_bound,
    silu,
    steps_bound,
    values,
    whole_steps,
)

from herd import _native
from herd.formats import strips
from herd.ops import native_composed as composed
from herd.ops.native_weights import to_strips
from herd.weights import Dense, Experts, Packed
from random_blocks import random_codes

ROWS = (1, 2, 3, 5, 17, 70)
OUTPUTS = (1, 50, 131)


def check(y, expected, bound):
    worst = np.abs(y - expected) / bound
    assert y.dtype == np.float32 and y.shape == expected.shape
    assert worst.max() < 1, worst.max()


@pytest.mark.parametrize("kind", FLOATS)
def test_float_weights(ops, kind):
    rng = np.random.default_rng(1)
    for rows in ROWS:
        for outputs, small in zip(OUTPUTS, (True, False, False), strict=True):
            w = matrix(rng, kind, (outputs, inputs_of(kind, small)), bias=rows % 2 == 1)
            x = array(rng, (rows, w.w.shape[1]))
            bias = 0 if w.bias is None else 4e-7 * np.abs(w.bias)
            check(composed.linear(x, w), linear(x, w), product_bound(x, w) + bias)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_with_activations_that_int8_holds(ops, kind):
    rng = np.random.default_rng(2)
    for rows in ROWS:
        for outputs, small in zip(OUTPUTS, (True, False, False), strict=True):
            w = matrix(rng, kind, (outputs, inputs_of(kind, small)), bias=rows % 2 == 1)
            x = whole_steps(rng, rows, w.shape[1])
            bias = 0 if w.bias is None else 4e-7 * np.abs(w.bias)
            check(composed.linear(x, w), linear(x, w), product_bound(x, w) + bias)


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_with_any_activations(ops, kind):
    rng = np.random.default_rng(3)
    w = matrix(rng, kind, (67, inputs_of(kind, False)))
    for rows in (1, 4, 23):
        x = array(rng, (rows, w.shape[1])) * 10.0 ** rng.integers(-6, 6, (rows, 1)).astype(np.float32)
        x[0, :32] = 0  # a group of zeros has no scale
        check(composed.linear(x, w), linear(x, w), steps_bound(x, w) + product_bound(x, w))
        # Rounding errors are independent: their sum stays far below the worst case.
        spread = np.abs(composed.linear(x, w) - linear(x, w)).mean() / steps_bound(x, w).mean()
        assert spread < 0.1, spread


@pytest.mark.parametrize("kind", PACKED)
def test_codes_of_every_value(ops, kind):
    """Random bytes: every code, scale and minimum that a block can hold, -128 and odd float16 scales among them."""
    rng = np.random.default_rng(4)
    block, size = {"q4_0": (32, 18), "q4_1": (32, 20), "q8_0": (32, 34), "q4_k": (256, 144), "q6_k": (256, 210)}[kind]
    codes = rng.integers(0, 256, (50, 3, size), dtype=np.uint8)
    if kind == "q8_0":
        codes[:7, :, 2:] = 128
    for at in {"q4_0": (0,), "q4_1": (0, 2), "q8_0": (0,), "q4_k": (0, 2), "q6_k": (208,)}[kind]:
        codes[..., at : at + 2] = rng.standard_normal((50, 3, 1)).astype(np.float16).view(np.uint8)
    w = Packed(kind, codes.reshape(50, -1), (50, 3 * block))
    for rows in (1, 2, 4, 9):
        x = whole_steps(rng, rows, 3 * block)
        check(composed.linear(x, w), linear(x, w), product_bound(x, w))


@pytest.mark.parametrize("kind", FLOATS + PACKED)
def test_expert_stacks_in_both_orders(ops, kind):
    rng = np.random.default_rng(5)
    stack = matrix(rng, kind, (3, 70, inputs_of(kind, False)))
    for rows in (1, 3, 11):
        x = whole_steps(rng, rows, values(stack, 0).shape[1])
        for e in (2, 0):
            own = Dense(values(stack, e).astype(np.float32))
            check(composed.expert(x, stack, e), linear(x, stack, e), product_bound(x, own))
            if kind in FLOATS:
                turned = Experts(np.ascontiguousarray(np.swapaxes(stack.w, 1, 2)))
                check(composed.expert(x, turned, e), linear(x, stack, e), product_bound(x, own))


@pytest.mark.parametrize("kind", FLOATS + PACKED)
def test_embedding_rows_are_the_formats_values(ops, kind):
    rng = np.random.default_rng(6)
    w = matrix(rng, kind, (19, inputs_of(kind, False)))
    ids = np.array([18, 0, 7, 7])
    # Decoding may round s * q + m once more or less than numpy does.
    np.testing.assert_allclose(ops.embed(ids, w), values(w)[ids], rtol=0, atol=4 * 2.0**-24 * np.abs(values(w)).max())


def test_half_and_bfloat_specials_survive(ops):
    """Subnormals, the largest values, infinities and signed zeros of the 16-bit formats widen exactly."""
    bits = np.array([0, 0x8000, 1, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x3C00, 0x8001], np.uint16)
    bits = np.concatenate([bits] * 3)[None]
    for w in (Dense(bits.view(np.float16)), Dense(bits)):
        assert ops.embed([0], w).astype(np.float64).tobytes() == values(w).tobytes()


def test_gelu_is_the_erf_form_to_a_millionth(isa):
    x = np.linspace(-12, 12, 20011, dtype=np.float32)
    y = x.copy()
    _native.gelu(y)
    assert np.abs(y - gelu(x.astype(np.float64))).max() < 1e-6
    tanh = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.abs(y - tanh).max() > 1e-4


def test_silu_times_up(isa):
    rng = np.random.default_rng(7)
    gate, up = (array(rng, (3, 37)) * 30 for _ in range(2))
    gate[0, :4] = (100, -100, 0, -88)
    y = np.empty_like(gate)
    _native.silu_mul(gate, up, y)
    np.testing.assert_allclose(y, silu(gate.astype(np.float64)) * up, rtol=1e-6, atol=1e-30)


def test_instruction_sets_agree_on_integers():
    """The integer sums are exact, so two instruction sets differ by float rounding alone."""
    rng = np.random.default_rng(8)
    for kind in PACKED:
        w = matrix(rng, kind, (48, inputs_of(kind, False)))
        x = array(rng, (5, w.shape[1]))
        found = []
        for name in _native.isa_info()["available"]:
            _native.set_isa_for_tests(name)
            found.append(composed.linear(x, w))
        _native.set_isa_for_tests(_native.isa_info()["available"][0])
        for y in found[1:]:
            # A product that rounds across a half differs by one step of one input at most, and rarely.
            assert np.median(np.abs(y - found[0])) <= 4e-6 * np.abs(found[0]).max()


@pytest.mark.parametrize("kind", sorted(strips.UNITS))
def test_a_row_is_the_same_bits_in_every_batch_and_layout(ops, kind):
    """One row, up to seventy and five hundred; from the file's rows and from strips."""
    rng = np.random.default_rng(7)
    for inputs, outputs in ((256, 50), (768, 16), (5120, 49), (8192, 48)):
        codes = random_codes(kind, rng, (4, inputs))[rng.integers(0, 4, outputs)]
        w = Packed(kind, codes, (outputs, inputs))
        x = array(rng, (512, inputs))
        expected = composed.linear(x, w)
        packed = to_strips(w)
        assert (packed.codes == strips.to_strips(kind, codes)).all()
        for layout in (w, packed):
            assert (composed.linear(x, layout) == expected).all()
            for rows in (*range(1, 14), 17, 22, 25, 31, 70) if inputs < 5120 else (1, 3, 8, 9, 24, 70):
                at = int(rng.integers(0, 512 - rows))
                assert (composed.linear(x[at : at + rows], layout) == expected[at : at + rows]).all(), rows


@pytest.mark.parametrize("kind", FLOATS)
def test_a_row_of_float_weights_is_the_same_bits_in_every_batch(ops, kind):
    rng = np.random.default_rng(8)
    w = matrix(rng, kind, (67, 1029))
    x = array(rng, (512, 1029))
    expected = composed.linear(x, w)
    for rows in (*range(1, 14), 31, 70):
        assert (composed.linear(x[7 : 7 + rows], w) == expected[7 : 7 + rows]).all(), rows


def test_activations_that_are_no_numbers_are_not_lost(ops):
    x = np.ones((3, 256), np.float32)
    x[1, 17] = np.nan
    x[2, 200] = np.inf
    for kind in sorted(strips.UNITS):
        y = composed.linear(x, Packed(kind, random_codes(kind, np.random.default_rng(0), (16, 256)), (16, 256)))
        assert np.isfinite(y[0]).all() and np.isnan(y[1:]).all(), kind
