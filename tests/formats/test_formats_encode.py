"""Encoders: the gguf package's bits where it has an encoder, derived error bounds, and how good the searches are."""

import numpy as np
import pytest

from herd import formats
from herd.errors import BadCheckpoint, UsageError

NAMES = list(formats.WRITTEN)
PACKED = [name for name in NAMES if formats.get(name).packed]
HALF = 2.0**-11
"""Relative rounding error of a normal float16."""


def gaussian(rows: int = 64, inputs: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, inputs), np.float32)


def relative_error(name: str, x: np.ndarray) -> float:
    y = formats.decode(name, formats.encode(name, x), x.shape[-1])
    return float(np.sqrt(np.mean((y - x) ** 2, dtype=np.float64) / np.mean(x**2, dtype=np.float64)))


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
@pytest.mark.parametrize("kind", ["gaussian", "large", "tiny", "lopsided", "zeros", "halves"])
def test_encode_gives_the_bytes_of_the_gguf_package(name, kind):
    gguf = pytest.importorskip("gguf")
    x = gaussian(seed=NAMES.index(name))
    x = {
        "gaussian": x,
        "large": x * 3000,
        "tiny": x * 1e-5,  # subnormal scales
        "lopsided": x * 0.1 + 5,
        "zeros": np.where(np.arange(512) < 256, x, 0).astype(np.float32),
        "halves": np.round(x * 8) / 8,  # many values exactly between two codes
    }[kind]
    want = gguf.quants.quantize(x, gguf.GGMLQuantizationType(formats.get(name).ggml_type))
    np.testing.assert_array_equal(formats.encode(name, x), want.view(np.uint8).reshape(len(x), -1))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 3000.0])
def test_no_weight_is_further_off_than_its_format_allows(scale):
    x = gaussian(256) * np.float32(scale)
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    low, spread = blocks.min(axis=1, keepdims=True), np.ptp(blocks, axis=1, keepdims=True)
    tiny = 2.0**-25  # half the smallest subnormal float16
    # Rounding to a code, then the scale's own rounding times the code (and a float32 sum).
    bounds = {
        "q4_0": largest / 8 + 8 * (largest / 8 * HALF + tiny),
        "q4_1": spread / 30 + 15 * (spread / 15 * HALF + tiny) + np.abs(low) * HALF + tiny,
        "q5_0": largest / 16 + 16 * (largest / 16 * HALF + tiny),
        "q5_1": spread / 62 + 31 * (spread / 31 * HALF + tiny) + np.abs(low) * HALF + tiny,
        "q8_0": largest / 254 + 127 * (largest / 127 * HALF + tiny),
        "f16": np.abs(blocks) * HALF + tiny,
        "bf16": np.abs(blocks) * 2.0**-8,
        "f32": np.zeros_like(blocks),
    }
    for name, bound in bounds.items():
        error = np.abs(formats.decode(name, formats.encode(name, x), 512).reshape(-1, 32) - blocks)
        assert (error <= bound * (1 + 1e-5)).all(), (name, float((error / np.maximum(bound, 1e-30)).max()))


@pytest.mark.parametrize(
    ("name", "group", "steps"), [("q2_k", 16, 3), ("q3_k", 16, 7), ("q4_k", 32, 15), ("q5_k", 32, 31), ("q6_k", 16, 63)]
)
def test_two_level_formats_stay_within_a_grid_step_of_the_widest_group(name, group, steps):
    # A group's scale is a whole number of d: off by up to d/2, that is 1/30 (4 bits), 1/126 (6 bits), 1/64 (6 bits and
    # a sign) or 1/256 (8 bits) of the widest group's scale; a minimum likewise. Every weight then lies within half a
    # step and what the scales' rounding moves its code.
    x = gaussian(256).reshape(-1, 256)
    error = np.abs(formats.decode(name, formats.encode(name, x), 256) - x).reshape(len(x), -1, group).max(axis=2)
    groups = x.reshape(len(x), -1, group)
    spread = np.maximum(groups.max(axis=2), 0) - np.minimum(groups.min(axis=2), 0)
    if name in ("q3_k", "q6_k"):
        spread = 2 * np.abs(groups).max(axis=2)
    widest = spread.max(axis=1, keepdims=True)
    moved = {"q2_k": 2 / 30, "q3_k": 1 / 64, "q4_k": 2 / 126, "q5_k": 2 / 126, "q6_k": 1 / 256}[name]
    # Searches may clip the extremes of a group by up to 1.8 steps to serve the others better.
    assert (error <= spread / steps * (0.5 + 1.8) + widest * moved).all()


@pytest.mark.parametrize(
    ("name", "gauss", "laplace", "uniform"),
    [
        # root mean square error / standard deviation, on Gaussian, Laplace, uniform; in comments llama.cpp's encoder
        # (llama-cpp-python 0.3.36, ggml_quantize_chunk without importances) on the same numbers
        ("q4_0", 0.0860, 0.1068, 0.0651),
        ("q4_1", 0.0783, 0.0918, 0.0608),
        ("q5_0", 0.0428, 0.0536, 0.0313),
        ("q5_1", 0.0380, 0.0445, 0.0294),
        ("q8_0", 0.00536, 0.00673, 0.00377),
        ("iq4_nl", 0.0734, 0.0848, 0.0618),  # 0.0762, 0.0879, 0.0640
        ("q2_k", 0.2627, 0.2900, 0.2178),  # 0.2970, 0.3427, 0.2330
        ("q3_k", 0.1437, 0.1678, 0.1182),  # 0.1509, 0.1758, 0.1253
        ("q4_k", 0.0702, 0.0829, 0.0539),  # 0.0715, 0.0847, 0.0545
        ("q5_k", 0.0346, 0.0408, 0.0265),  # 0.0362, 0.0429, 0.0276
        ("q6_k", 0.0173, 0.0212, 0.0130),  # 0.0178, 0.0218, 0.0133
        ("iq4_xs", 0.0740, 0.0855, 0.0623),  # 0.0768, 0.0887, 0.0646
    ],
)
def test_the_error_is_as_small_as_documented(name, gauss, laplace, uniform):
    rng = np.random.default_rng(0)
    assert relative_error(name, rng.standard_normal((256, 1024)).astype(np.float32)) < gauss * 1.01
    assert relative_error(name, rng.laplace(size=(256, 1024)).astype(np.float32)) < laplace * 1.01
    assert relative_error(name, rng.uniform(-1, 1, (256, 1024)).astype(np.float32)) < uniform * 1.01


@pytest.mark.parametrize("name", ["q4_k", "q6_k"])
def test_the_search_beats_the_obvious_scale(name):
    # The obvious: map each group's extremes to the extreme codes.
    x = gaussian(64, 256)
    obvious = {"q4_k": 0.078, "q6_k": 0.0187}[name]
    assert relative_error(name, x) < obvious


def test_the_search_for_iq4_nl_is_within_a_hundredth_of_trying_every_scale():
    x = gaussian(40, 32, 5).astype(np.float64)
    values = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
    best = np.full(len(x), np.inf)
    for part in np.concatenate([np.arange(60, 160, 0.05), -np.arange(60, 160, 0.05)]):
        d = (np.abs(x).max(axis=1) / part).astype(np.float16).astype(np.float64)[:, None, None]
        best = np.minimum(best, np.square(x[:, :, None] - d * values).min(axis=2).sum(axis=1))
    error = np.square(formats.decode("iq4_nl", formats.encode("iq4_nl", x), 32) - x).sum(axis=1)
    assert error.sum() < 1.01 * best.sum()
    assert error.sum() >= 0.999 * best.sum()  # nothing beats all scales: the measure is sound


IMPORTANCES = np.exp(1.5 * np.random.default_rng(6).standard_normal(512))


@pytest.mark.parametrize(
    ("name", "most"),
    [
        # weighted squared error over that of the bytes chosen without importances
        *(("q4_0", 0.72), ("q4_1", 0.58), ("q5_0", 0.73), ("q5_1", 0.57), ("q8_0", 0.75), ("iq4_nl", 0.74)),
        *(("q2_k", 0.66), ("q3_k", 0.75), ("q4_k", 0.71), ("q5_k", 0.74), ("q6_k", 0.8), ("iq4_xs", 0.74)),
    ],
)
def test_importances_make_the_weighted_error_smaller(name, most):
    x = gaussian(64, 512, 7)

    def error(codes):
        return float((IMPORTANCES * np.square(formats.decode(name, codes, 512) - x.astype(np.float64))).sum())

    assert error(formats.encode(name, x, IMPORTANCES)) < most * error(formats.encode(name, x))


@pytest.mark.parametrize("name", PACKED)
def test_only_the_ratios_of_importances_matter_and_unseen_columns_keep_their_size(name):
    x = gaussian(8, 512, 8)
    weights = IMPORTANCES.copy()
    weights[::3] = 0
    codes = formats.encode(name, x, weights)
    np.testing.assert_array_equal(formats.encode(name, x, weights * 1024), codes)
    unseen = formats.decode(name, codes, 512)[:, ::3]
    assert np.sqrt(np.mean((unseen - x[:, ::3]) ** 2)) < (0.5 if name == "q2_k" else 0.3)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_plain_floats_round_as_ever_whatever_the_importances(name):
    x = gaussian(2, 512)
    np.testing.assert_array_equal(formats.encode(name, x, IMPORTANCES), formats.encode(name, x))


@pytest.mark.parametrize("name", ["q4_0", "q4_k"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(256), r"importances of columns: got shape \(256,\), expected \(512,\)"),
        (np.ones((2, 512)), r"got shape \(2, 512\)"),
        (-np.eye(512)[0], "got a negative, NaN or infinite one"),
        (np.full(512, np.nan), "got a negative, NaN or infinite one"),
        (np.full(512, np.inf), "got a negative, NaN or infinite one"),
        (np.zeros(512), "got zeros, expected one above 0; encode without importances"),
    ],
)
def test_wrong_importances_are_refused(name, weights, message):
    with pytest.raises(UsageError, match=message):
        formats.encode(name, gaussian(2, 512), weights)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_values_on_a_grid_of_the_format_come_back_exactly(name):
    rng = np.random.default_rng(4)
    d = np.exp2(rng.integers(-8, 3, (32, 1))).astype(np.float32)
    low, high, offset = {
        "q4_0": (-8, 7, 0),
        "q4_1": (0, 15, -3),
        "q5_0": (-16, 15, 0),
        "q5_1": (0, 31, -3),
        "q8_0": (-127, 127, 0),
    }.get(name, (-128, 127, 0))
    q = rng.integers(low, high + 1, (32, 32))
    q[:, 0], q[:, 1] = low, high  # the whole range is used, so the grid can be told from the values
    x = (d * (q + offset)).astype(np.float32)
    np.testing.assert_array_equal(formats.decode(name, formats.encode(name, x), 32), x)


@pytest.mark.parametrize("name", PACKED)
def test_zeros_and_single_weights_survive(name):
    x = np.zeros((3, 256), np.float32)
    x[1, 7] = 1.5
    x[2, 9] = -1e-30  # below any float16
    y = formats.decode(name, formats.encode(name, x), 256)
    np.testing.assert_array_equal(y[0], 0)
    np.testing.assert_array_equal(y[2], 0)
    assert abs(y[1, 7] - 1.5) < 0.12
    # The formats of fixed values have no zero: their smallest is 1/127 of the largest.
    assert np.abs(np.delete(y[1], 7)).max() < (1.51 / 127 if name.startswith("iq4") else 1e-3)


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_blocks_refuse_a_weight_that_is_not_finite(name, value):
    x = gaussian(4, 256)
    x[2, 100] = value
    with pytest.raises(BadCheckpoint, match=f"{name} encode: got a NaN or infinite weight"):
        formats.encode(name, x)


@pytest.mark.parametrize("name", [*PACKED, "f16"])
@pytest.mark.parametrize("value", [1e9, 3e38, -3e38])
def test_a_weight_that_leaves_float16_is_refused_not_made_infinite(name, value):
    x = gaussian(4, 256)
    x[1, 3] = value
    x[1, 4] = -value
    with pytest.raises(BadCheckpoint, match="of at most 65504"):
        formats.encode(name, x)


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
def test_plain_floats_keep_nan_and_infinity(name):
    x = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    y = formats.decode(name, formats.encode(name, x), 4)
    assert np.isnan(y[0, 0])
    assert y[0, 1] == np.inf
    assert y[0, 2] == -np.inf
    assert np.signbit(y[0, 3])


def test_encode_takes_stacks_and_refuses_short_rows():
    x = gaussian(6, 512).reshape(2, 3, 512)
    np.testing.assert_array_equal(formats.encode("q4_k", x)[1], formats.encode("q4_k", x[1]))
    with pytest.raises(BadCheckpoint, match="q4_k row: got 96 weights, expected a multiple of 256"):
        formats.encode("q4_k", x[..., :96])
    with pytest.raises(BadCheckpoint, match="got a scalar"):
        formats.encode("f32", np.float32(1))


@pytest.mark.parametrize("name", sorted(set(formats.FORMATS) - set(formats.WRITTEN)))
def test_a_format_that_is_read_alone_says_so(name):
    with pytest.raises(UsageError, match=f"{name} is read, not written"):
        formats.encode(name, gaussian(1, 256))
