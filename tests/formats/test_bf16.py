"""bfloat16 bits: rounding to nearest even over every pattern that matters, against torch and by hand."""

import numpy as np
import pytest

from herd.formats import bf16_from_float32, float32_from_bf16, to_float32


def test_every_bfloat16_comes_back_as_itself():
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    again = bf16_from_float32(float32_from_bf16(bits))
    nan = np.isnan(float32_from_bf16(bits))
    np.testing.assert_array_equal(again[~nan], bits[~nan])
    np.testing.assert_array_equal(again[nan], bits[nan] | 0x40)  # made quiet, sign and payload kept


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0x3F808000, 0x3F80),  # a tie goes to the even neighbour below
        (0x3F818000, 0x3F82),  # and above
        (0x3F808001, 0x3F81),
        (0x3F807FFF, 0x3F80),
        (0x7F7FFFFF, 0x7F80),  # the largest float32 rounds to infinity
        (0xFF7FFFFF, 0xFF80),
        (0x7F800000, 0x7F80),
        (0x7F800001, 0x7FC0),  # a NaN whose payload lies below stays a NaN
        (0xFFFFFFFF, 0xFFFF),
        (0x80000000, 0x8000),
        (0x00008000, 0x0000),  # subnormal tie
        (0x00018000, 0x0002),
    ],
)
def test_rounding_by_hand(value, bits):
    assert int(bf16_from_float32(np.array([value], np.uint32).view(np.float32))[0]) == bits


def test_random_floats_round_as_torch_rounds_them():
    torch = pytest.importorskip("torch")
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 200_000, np.uint32)
    x = patterns.view(np.float32)
    x = x[~np.isnan(x)]
    want = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(bf16_from_float32(x), want)


def test_to_float32_takes_all_three_kinds():
    x = np.array([[1.5, -2.0]], np.float32)
    for held in (x, x.astype(np.float16), bf16_from_float32(x)):
        np.testing.assert_array_equal(to_float32(held), x)
        assert to_float32(held).dtype == np.float32
