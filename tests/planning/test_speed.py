"""Limits of speed against figures worked out by hand, and against counts over real weights."""

import math
from dataclasses import replace

import pytest

from helpers import random_model
from herd.config import GUARD, MAVERICK, SCOUT, TINY, Llama4Config
from herd.planning import work
from herd.planning.machines import Card, Machine, machine_of
from herd.planning.parts import weights_by_kind
from herd.planning.placement import place
from herd.planning.sizes import file_sizes, type_sizes
from herd.planning.speed import Estimate, attention_ops, decode, decode_step, kv_read_bytes, pairs, prefill, touched

DESK = Machine(
    "desk", (Card("rtx4090", 24 << 30, 857e9, 132e12, 25e9),), 64 << 30, 75e9, 7e12, disk_read_bytes_s=7e9
)  # fmt: skip


def at_45_bits(config: Llama4Config) -> int:
    return round(weights_by_kind(config).total * 4.5 / 8)


def test_an_h200_reads_scout_474_times_a_second() -> None:
    """16.13 B weights a token at 4.5 bits over 4.3 TB/s, keys and values left out."""
    machine = machine_of("h200")
    assert machine.cards[0].read_bytes_s == 4.3e12
    placement = place(file_sizes(SCOUT, "4.5 bits", at_45_bits(SCOUT)), 1 << 20, 1 << 20, machine)
    step = decode(SCOUT, placement, machine, 1, 0, "bf16")
    assert step.tokens_s == pytest.approx(474, rel=0.01)


@pytest.mark.parametrize(("config", "expected"), [(SCOUT, 18.2), (MAVERICK, 31.0)])
def test_a_card_with_all_experts_in_memory(config: Llama4Config, expected: float) -> None:
    """Always used over the card, routed over the memory, two crossings of 30 us a layer of experts."""
    sizes = file_sizes(config, "4.5 bits", at_45_bits(config))
    machine = replace(DESK, memory_bytes=512 << 30)
    full = place(sizes, 0, 0, machine)
    rows = tuple(replace(r, card=0, memory=r.card + r.memory) if r.kind == "routed" else r for r in full.rows)
    step = decode(config, replace(full, rows=rows), machine, 1, 0, "bf16")
    assert step.tokens_s == pytest.approx(expected, rel=0.03)


def test_what_the_card_has_left_over_takes_experts() -> None:
    sizes = file_sizes(SCOUT, "4.5 bits", at_45_bits(SCOUT))
    placement = place(sizes, 1_610_612_736, 200_000_000, DESK)
    assert placement.row("routed").card / sizes.routed == pytest.approx(0.29, abs=0.03)
    assert placement.fits
    assert decode(SCOUT, placement, DESK, 1, 0, "bf16").tokens_s == pytest.approx(23.4, rel=0.05)


def test_maverick_beside_64_gb_reads_its_disk() -> None:
    """With what the card has left over 36% of the experts are resident: 1.09 GB a token from 7 GB/s."""
    sizes = file_sizes(MAVERICK, "4.5 bits", at_45_bits(MAVERICK))
    placement = place(sizes, 1_610_612_736, 200_000_000, DESK)
    step = decode(MAVERICK, placement, DESK, 1, 0, "bf16")
    disk = next(t for t in step.terms if "disk" in t.what)
    assert disk.amount == pytest.approx(1.09e9, rel=0.1)
    assert step.tokens_s == pytest.approx(5.8, rel=0.05)
    assert placement.runs
    assert not placement.fits


@pytest.mark.parametrize(
    ("rows", "of_16", "of_128"), [(2, 1.94, 1.99), (4, 3.64, 3.95), (8, 6.45, 7.8), (64, 15.7, 50.5)]
)
def test_rows_rarely_share_an_expert(rows: int, of_16: float, of_128: float) -> None:
    assert 16 * touched(SCOUT, rows) == pytest.approx(of_16, abs=0.05)
    assert 128 * touched(MAVERICK, rows) == pytest.approx(of_128, abs=0.1)
    assert touched(GUARD, rows) == 0


@pytest.mark.parametrize("start", [0, 5, 16, 40])
@pytest.mark.parametrize("rows", [1, 7, 16, 50])
@pytest.mark.parametrize("chunk", [None, 16, 7])
def test_pairs_are_those_of_a_loop(rows: int, start: int, chunk: int | None) -> None:
    counted = sum((p % chunk if chunk else p) + 1 for p in range(start, start + rows))
    assert pairs(rows, start, chunk) == counted


def test_a_step_counts_what_the_weights_themselves_count() -> None:
    weights = random_model(TINY, 1)
    for rows in (1, 3):
        step = decode_step(TINY, 0, rows, 10, "bf16")
        ops = step.ops_fixed + step.ops_routed
        assert ops == pytest.approx(work.token_ops(TINY, weights, rows, rows), rel=0.01)
        assert step.ops_attention == rows * work.attention_ops(TINY, 10, 1)
        assert step.cache == rows * work.kv_bytes(TINY, 10, "bf16")
    assert attention_ops(TINY, 40, 7) == work.attention_ops(TINY, 7, 40)


def test_beyond_its_first_chunk_a_layer_reads_half_a_chunk_on_average() -> None:
    c = replace(TINY, max_context=4096)
    assert c.chunk is not None
    mean = sum(work.kv_bytes(c, d, "bf16") for d in range(64, 64 + c.chunk)) / c.chunk
    assert kv_read_bytes(c, 64 + c.chunk // 2, "bf16") == pytest.approx(mean, rel=0.03)


def test_streaming_experts_to_a_card_has_the_limit_of_arithmetic_or_of_the_link() -> None:
    """8,192 rows a pass: 54.4 GB of experts over 25 GB/s take 2.2 s, whatever the rows."""
    sizes = file_sizes(SCOUT, "4.5 bits", at_45_bits(SCOUT))
    full = place(sizes, 1_610_612_736, 200_000_000, DESK)
    rows = tuple(replace(r, card=0, memory=r.total) if r.kind == "routed" else r for r in full.rows)
    read = prefill(SCOUT, replace(full, rows=rows), DESK, 65536)
    copied = next(t for t in read.terms if "copy" in t.what)
    assert copied.seconds == pytest.approx(2.2, rel=0.05)
    assert read.times == 8
    assert read.tokens_s == pytest.approx(3700, rel=0.15)


def test_more_of_a_machine_is_never_slower() -> None:
    sizes = type_sizes(SCOUT, "q4_k")
    slow = place(sizes, 1 << 30, 1 << 28, DESK)
    fast = replace(DESK, read_bytes_s=2 * DESK.read_bytes_s)
    assert decode(SCOUT, slow, fast, 1, 0, "bf16").seconds < decode(SCOUT, slow, DESK, 1, 0, "bf16").seconds
    bigger = replace(DESK, memory_bytes=128 << 30)
    more = place(type_sizes(MAVERICK, "q4_k"), 1 << 30, 1 << 28, bigger)
    less = place(type_sizes(MAVERICK, "q4_k"), 1 << 30, 1 << 28, DESK)
    assert more.on_disk < less.on_disk


def test_an_estimate_of_nothing_is_nothing() -> None:
    assert Estimate(1, ()).tokens_s == 0
    assert math.isfinite(decode(TINY, place(type_sizes(TINY, "q8_0"), 0, 0, DESK), DESK, 1, 0, "f32").tokens_s)
