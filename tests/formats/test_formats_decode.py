"""Decoders against the gguf package, bit for bit, on random bytes: NaN, infinite and subnormal scales included."""

import numpy as np
import pytest

from herd import formats
from herd.errors import BadCheckpoint
from random_blocks import set_scales

NAMES = list(formats.FORMATS)
PACKED = [name for name in NAMES if formats.get(name).packed]


def peer_decode(name: str, codes: np.ndarray) -> np.ndarray:
    gguf = pytest.importorskip("gguf")
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(codes, gguf.GGMLQuantizationType(formats.get(name).ggml_type))


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    nan = np.isnan(want)
    np.testing.assert_array_equal(nan, np.isnan(got))
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", NAMES)
def test_random_bytes_decode_to_the_bits_of_the_gguf_package(name):
    f = formats.get(name)
    codes = np.random.default_rng(1).integers(0, 256, (500, 3 * f.block_bytes), np.uint8)
    want = peer_decode(name, codes)
    assert_same_bits(formats.decode(name, codes, 3 * f.block), want)
    assert np.isnan(want).any() or name == "mxfp4"  # the random bytes did meet the odd scales


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("scale", [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00])
def test_every_kind_of_scale_decodes_as_the_gguf_package_does(name, scale):
    f = formats.get(name)
    codes = np.random.default_rng(scale).integers(0, 256, (64, f.block_bytes), np.uint8)
    set_scales(name, codes, scale)
    assert_same_bits(formats.decode(name, codes, f.block), peer_decode(name, codes))


def test_decode_keeps_leading_axes_and_takes_views():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (3, 4, 2 * 144), np.uint8)
    whole = formats.decode("q4_k", codes, 512)
    assert whole.shape == (3, 4, 512)
    assert_same_bits(formats.decode("q4_k", codes[::2, 1], 512), whole[::2, 1])


def test_a_row_longer_than_a_piece_decodes_like_its_parts():
    codes = np.random.default_rng(3).integers(0, 256, (1, 20_000, 18), np.uint8)
    codes[..., 1] &= 0x3F  # finite scales
    row = formats.decode("q4_0", codes.reshape(1, -1), 20_000 * 32)
    np.testing.assert_array_equal(row.reshape(20_000, 32), formats.decode("q4_0", codes[0], 32))


@pytest.mark.parametrize(
    ("name", "inputs", "shape", "dtype", "message"),
    [
        ("q4_0", 33, (1, 18), np.uint8, "q4_0 row: got 33 weights, expected a multiple of 32"),
        ("q6_k", 128, (1, 105), np.uint8, "q6_k row: got 128 weights, expected a multiple of 256"),
        ("q4_0", 0, (1, 0), np.uint8, "q4_0 row: got 0 weights"),
        (
            "q8_0",
            32,
            (2, 33),
            np.uint8,
            r"q8_0 codes of rows of 32 weights: got uint8 \(2, 33\), expected uint8 \[..., 34\]",
        ),
        ("q8_0", 32, (2, 34), np.int8, "got int8"),
        ("nvfp4", 64, (1, 36), np.uint8, "number format: got nvfp4, expected f32, f16, bf16, q4_0"),
    ],
)
def test_wrong_codes_are_refused_with_what_was_got_and_expected(name, inputs, shape, dtype, message):
    with pytest.raises(BadCheckpoint, match=message):
        formats.decode(name, np.zeros(shape, dtype), inputs)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_ggml(name):
    gguf = pytest.importorskip("gguf")
    f = formats.get(name)
    kind = gguf.GGMLQuantizationType(f.ggml_type)
    assert kind.name.lower() == name
    assert gguf.GGML_QUANT_SIZES[kind] == (f.block, f.block_bytes)
    assert formats.by_ggml_type(f.ggml_type) is f
    assert formats.row_bytes(name, 3 * f.block) == 3 * f.block_bytes
