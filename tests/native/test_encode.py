"""Native encoders against the plain ones of `herd.formats`: bytes where the format rounds plainly, error elsewhere."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from herd import _native, formats

PLAIN = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
ALL = (*PLAIN, *SEARCHED)


@pytest.fixture(autouse=True)
def same_machine() -> Iterator[None]:
    isa = _native.isa_info()["chosen"]
    yield
    _native.set_isa_for_tests(isa)


def sample(rows: int = 37, inputs: int = 768, seed: int = 0) -> Any:
    """Heavy tails, a lopsided row, a row of zeros, a row of one value, a tiny and a large row."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(4, (rows, inputs)) * 0.02).astype(np.float32)
    x[1] = np.abs(x[1])
    x[2] = 0
    x[3] = -0.37
    x[4] *= 1e-6
    x[5] *= 1e4
    x[6, ::7] = 0
    return x


def importances(inputs: int = 768) -> Any:
    w = np.exp(np.random.default_rng(9).standard_normal(inputs)).astype(np.float32)
    return w / w.mean()


def encode(name: str, x: Any, weights: Any = None, threads: Any = None) -> tuple[Any, Any]:
    out = np.full((len(x), formats.row_bytes(name, x.shape[1])), 0xAA, np.uint8)
    return out, _native.encode(name, x, weights, out, threads)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_formats_have_the_bytes_of_the_plain_encoder(name: str) -> None:
    x = sample()
    codes, _ = encode(name, x)
    assert (codes == formats.encode(name, x)).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_the_error_is_not_above_the_plain_encoders(name: str, weighted: bool) -> None:
    x = sample()
    w = importances() if weighted else None
    error = [
        np.einsum("ri,ri,i->", e, e, np.ones(768) if w is None else w)
        for codes in (encode(name, x[7:], w)[0], formats.encode(name, x[7:], w))
        for e in [(formats.decode(name, codes, 768) - x[7:]).astype(np.float64)]
    ]
    assert error[0] <= error[1] * (1 + 1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_what_was_lost_is_what_the_bytes_say(name: str, weighted: bool) -> None:
    x = sample()
    w = importances() if weighted else None
    codes, (error2, weighted2, x2, most, fault) = encode(name, x, w)
    e = (formats.decode(name, codes, 768) - x).astype(np.float64)
    assert fault is None
    assert error2 == pytest.approx(np.square(e).sum(), rel=1e-4)
    assert weighted2 == pytest.approx((np.square(e) * (1 if w is None else w)).sum(), rel=1e-4)
    assert x2 == pytest.approx(np.square(x.astype(np.float64)).sum(), rel=1e-5)
    assert most == pytest.approx(np.abs(e).max(), rel=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_the_bytes_are_the_same_on_every_processor_and_any_number_of_threads(name: str, weighted: bool) -> None:
    x = sample()
    w = importances() if weighted else None
    expected = None
    for isa in _native.isa_info()["available"]:
        for threads in (1, 3):
            _native.set_isa_for_tests(isa)
            codes, _ = encode(name, x, w, _native.Threads(threads))
            expected = codes if expected is None else expected
            assert (codes == expected).all(), (isa, threads)


@pytest.mark.parametrize("name", ["q4_0", "q4_k", "q6_k", "iq4_xs"])
def test_any_strides_and_float_types(name: str) -> None:
    x = sample(20, 512).astype(np.float16)
    expected, _ = encode(name, x.astype(np.float32))
    turned = np.ascontiguousarray(x.T).T
    assert (encode(name, turned)[0] == expected).all()
    wide = np.zeros((40, 512), np.float32)
    wide[::2] = x
    assert (encode(name, wide[::2])[0] == expected).all()
    bits = formats.bf16_from_float32(x)
    assert (encode(name, bits)[0] == encode(name, formats.float32_from_bf16(bits))[0]).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("bad", "why"), [(np.nan, "not finite"), (-np.inf, "not finite"), (1e30, "too large")])
def test_the_first_weight_that_cannot_be_held_is_named(name: str, bad: float, why: str) -> None:
    x = sample(40, 8192)
    x[33, 5000] = x[21, 8191] = x[21, 8000] = bad
    assert encode(name, x)[1][4] == (why, 21, 8000)


@pytest.mark.parametrize("name", ALL)
def test_a_scale_that_leaves_float16_is_refused_at_its_weight(name: str) -> None:
    x = sample(20, 256)
    x[17, 99] = -(2.0**33)
    assert encode(name, x)[1][4] == ("too large", 17, 99)
    with pytest.raises(ValueError, match="65504"):
        formats.encode(name, x)


def test_wrong_arrays_are_refused_by_name() -> None:
    x, out = np.zeros((2, 256), np.float32), np.zeros((2, 144), np.uint8)
    for args, message in (
        (("q9", x, None, out), "format: got q9"),
        (("q4_k", x[:, :100], None, out), "K: got 100, expected a multiple of 256"),
        (("q4_k", x.astype(np.float64), None, out), "element type 'd'"),
        (("q4_k", x, None, out[:1]), r"out: got \[1, 144\]"),
        (("q4_k", x, np.zeros(256, np.float32), out), "importance: got 0.0* at column 0"),
        (("q4_k", x[0], None, out), "1 axes"),
    ):
        with pytest.raises(ValueError, match=message):
            _native.encode(*args)
