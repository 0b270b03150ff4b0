"""Sizes against the published sums, and messages that say what would fit."""

import re
from dataclasses import replace

import pytest

from herd.config import GUARD, MAVERICK, SCOUT, TINY
from herd.errors import DoesNotFit
from herd.planning.layers import KV_DTYPES, head_bytes, layer_caches
from herd.planning.memory import (
    AIR,
    FORMAT_BITS,
    cache_bytes,
    check_fits,
    gb,
    largest_context,
    need,
    weights_bytes,
    work_bytes,
)
from herd.planning.runtime import PROCESS, SERVICE, TOKEN


@pytest.mark.parametrize(("tokens", "expected_gb"), [(131_072, 7.65), (1_048_576, 52.7), (10_485_760, 516.6)])
def test_scouts_cache_in_bf16(tokens: int, expected_gb: float) -> None:
    assert cache_bytes(SCOUT, tokens, "bf16") / 1e9 == pytest.approx(expected_gb, abs=0.05)
    assert cache_bytes(SCOUT, tokens, "bf16") == 49_152 * tokens + 147_456 * 8192
    assert cache_bytes(SCOUT, tokens, "f32") == 2 * cache_bytes(SCOUT, tokens, "bf16")


def test_short_and_unchunked_caches() -> None:
    assert cache_bytes(SCOUT, 100, "bf16") == 100 * 48 * 4096
    assert cache_bytes(GUARD, 1000, "bf16") == 196_608 * 1000


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("head_size", [64, 128, 88, 32])
def test_a_position_takes_what_the_native_cache_takes(dtype: str, rope: bool, head_size: int) -> None:
    native = pytest.importorskip("herd._native")
    exact = 256 if dtype == "int4" else 0
    held = native.cache(512, 3, head_size, dtype, exact, rope).nbytes
    exact_bytes = 3 * exact * head_bytes("bf16", head_size)
    assert held == 512 * 3 * head_bytes(dtype, head_size, rope) + exact_bytes


def test_chunked_layers_are_never_coarser_than_int8() -> None:
    for kind in KV_DTYPES:
        for layer, held in zip(SCOUT.layers, layer_caches(SCOUT, kind), strict=True):
            assert (held.chunked, held.rope) == (layer.chunked, layer.rope)
            assert held.dtype == ("int8" if (kind, layer.chunked) == ("int4", True) else kind)
            assert held.exact == (held.dtype == "int4")
            assert held.slot_bytes(128) == head_bytes(held.dtype, 128, layer.rope)


def test_a_million_positions_of_a_quarter_of_scout() -> None:
    """One layer that sees everything in int4, three chunked ones in int8: at most 1.3 GiB."""
    part = replace(SCOUT, num_layers=4)
    assert sum(not layer.chunked for layer in part.layers) == 1
    assert cache_bytes(part, 1_048_576, "int4") < 1.3 * 2**30
    assert head_bytes("int4", 128, rope=False) * 8 / 256 == 4.5


@pytest.mark.parametrize(
    ("config", "bits", "expected_gb"),
    [(SCOUT, 16, 217.3), (MAVERICK, 16, 803.2), (GUARD, 16, 24.0),
     (replace(SCOUT, vision=None), 4.5, 60.6), (replace(MAVERICK, vision=None), 6.5625, 328.7)],
)  # fmt: skip
def test_weights(config, bits: float, expected_gb: float) -> None:
    assert weights_bytes(config, bits) / 1e9 == pytest.approx(expected_gb, abs=0.05)


def test_format_bits_are_those_of_the_formats() -> None:
    from herd import formats

    for name, bits in FORMAT_BITS.items():
        if name.startswith("q"):
            f = formats.get(name)
            assert f.bits == bits


def test_the_largest_context_is_the_border() -> None:
    weights = 60_600_000_000
    for available in (62_000_000_000, 80_000_000_000, 5_000_000_000_000):
        n = largest_context(SCOUT, weights, available)
        assert n % 256 == 0
        assert n > 0
        assert need(SCOUT, weights, n).total_bytes <= available
        assert n == SCOUT.max_context or need(SCOUT, weights, n + 256).total_bytes > available
    assert largest_context(SCOUT, weights, 10**9) == 0


def test_a_shorter_context_is_offered() -> None:
    with pytest.raises(DoesNotFit) as caught:
        check_fits("scout", SCOUT, 60_600_000_000, 1_048_576, 64_000_000_000)
    line = str(caught.value)
    assert line.startswith("scout does not fit: it needs 11")
    assert "64.0 GB are available" in line
    assert "\n" not in line
    offered = re.search(r"what would fit: a context of (\d+)", line)
    assert offered is not None
    check_fits("scout", SCOUT, 60_600_000_000, int(offered[1]), 64_000_000_000)


def test_three_ways_out_are_offered() -> None:
    with pytest.raises(DoesNotFit) as caught:
        check_fits("scout", SCOUT, weights_bytes(SCOUT, 8.5), 262_144, 124_000_000_000)
    line = str(caught.value)
    found = re.search(r"a context of (\d+); a cache of (int\d) \(--kv int\d\); the same model as (\w+),", line)
    assert found is not None, line
    context, kind, form = found.groups()
    bits = {"q6_k": 6.5625, "q4_k": 4.5}[form]
    check_fits("scout", SCOUT, weights_bytes(SCOUT, 8.5), int(context), 124_000_000_000)
    check_fits("scout", SCOUT, weights_bytes(SCOUT, 8.5), 262_144, 124_000_000_000, kind)
    check_fits("scout", SCOUT, weights_bytes(SCOUT, bits), 262_144, 124_000_000_000)


def test_fewer_answers_at_once_are_offered() -> None:
    """512 of them take 25 GB of pages more than one does."""
    weights, available = 60_600_000_000, 75_000_000_000
    check_fits("scout", SCOUT, weights, 8192, available)
    with pytest.raises(DoesNotFit) as caught:
        check_fits("scout", SCOUT, weights, 8192, available, sequences=512)
    offered = re.search(r": at most (\d+) answers at once \(parallel=\1\)", str(caught.value))
    assert offered is not None, caught.value
    check_fits("scout", SCOUT, weights, 8192, available, sequences=int(offered[1]))
    with pytest.raises(DoesNotFit):
        check_fits("scout", SCOUT, weights, 8192, available, sequences=2 * int(offered[1]))


def test_a_smaller_form_is_offered() -> None:
    with pytest.raises(DoesNotFit, match=r"the same model as q6_k, 89.1 GB of weights \(herd quantize\)"):
        check_fits("scout", SCOUT, weights_bytes(SCOUT, 16), 8192, 100_000_000_000)


def test_nothing_fits() -> None:
    with pytest.raises(DoesNotFit, match="no form of this model fits here: take a smaller model"):
        check_fits("maverick", MAVERICK, weights_bytes(MAVERICK, 16), 8192, 16_000_000_000)


def test_what_fits_passes() -> None:
    needed = check_fits("tiny", TINY, 10**6, 4096, 10**9)
    assert needed.weights_bytes == 10**6
    assert needed.total_bytes < 10**9


def test_work_holds_the_widest_arrays() -> None:
    assert work_bytes(SCOUT, 512) > 512 * 4 * (SCOUT.width + 2 * SCOUT.expert_width)
    assert work_bytes(SCOUT, 512) == work_bytes(replace(SCOUT, vision=None), 512), "images are counted apart"


def test_images_take_a_pass_of_tiles_and_what_waits() -> None:
    text, one, two = (need(SCOUT, 0, 8192, images=n) for n in (0, 1, 2))
    assert text.images_bytes == 0
    assert two.images_bytes - one.images_bytes == 17 * 4 * (2 * 3 * 336**2 + 144 * 5120)
    tower = one.images_bytes - (two.images_bytes - one.images_bytes)
    assert tower > 4 * 577 * 4 * (5 * 1408 + 1408 + 5632), "4 tiles: x, q, k, v, o; inputs and inner rows of an MLP"
    assert need(replace(SCOUT, vision=None), 0, 8192).images_bytes == 0


def test_what_is_shared_with_files_and_what_is_not() -> None:
    found = need(SCOUT, 10**9, 8192, images=0, adapters=10**8)
    parts = found.cache_bytes + found.work_bytes + found.runtime_bytes + found.adapters_bytes
    assert found.anonymous_bytes == parts
    assert found.total_bytes == 10**9 + parts + found.guesses_bytes + AIR


def test_a_child_knows_the_vocabulary_too() -> None:
    thread, child = (need(SCOUT, 0, 8192, engine=engine) for engine in ("thread", "child"))
    assert child.runtime_bytes - thread.runtime_bytes == PROCESS + TOKEN * SCOUT.vocab_size
    served = need(SCOUT, 0, 8192, engine="child", service=True)
    assert served.runtime_bytes - child.runtime_bytes == SERVICE
    assert served.cache_bytes == child.cache_bytes == thread.cache_bytes


def test_sizes_for_people() -> None:
    assert [gb(n) for n in (10**6, 99_400_000, 10**8, 216_300_000_000)] == ["1.0 MB", "99.4 MB", "0.1 GB", "216.3 GB"]
