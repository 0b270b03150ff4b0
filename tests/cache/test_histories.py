"""Random schedules of everything that can happen to pages, against a simulation of their content."""

import random

import pytest
from histories import Sequence, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SALTS = (b"a", b"b")
PER_KIND = 250
"""Schedules of each of the eight kinds of cache."""


def keys(rng: random.Random, count: int) -> list:
    """Keys that often share a start: few different tokens, now and then rows of a tile."""
    stem = [rng.randrange(2) for _ in range(rng.randrange(1, 4))]
    out: list = stem * 3 if rng.random() < 0.7 else []
    while len(out) < count:
        if rng.random() < 0.05:
            tile = bytes([rng.randrange(2)])
            out += [(tile, i) for i in range(3)]
        else:
            out.append(rng.randrange(3))
    return out[:count]


def random_keys(world: World, rng: random.Random) -> list:
    """New keys, or those of a sequence that was, up to somewhere, with others behind."""
    mine = keys(rng, rng.randrange(1, 70))
    if world.past and rng.random() < 0.85:
        old = rng.choice(world.past[-6:])
        return old[: rng.randrange(1, len(old) + 1)] + mine
    return mine


def act(world: World, rng: random.Random) -> None:
    choice = rng.random()
    if not world.sequences or (choice < 0.2 and len(world.sequences) < 5):
        mine = random_keys(world, rng)
        world.start(SALTS[rng.random() < 0.2], mine, rng.choice([len(mine) - 1, len(mine), rng.randrange(80)]))
        return
    sequence = rng.choice(world.sequences)
    if choice < 0.6:
        picked = rng.sample(world.sequences, rng.randrange(1, min(3, len(world.sequences)) + 1))
        work: list[tuple[Sequence, int]] = []
        for s in picked:
            n = rng.choice([1, 1, 2, 5, rng.randrange(1, 40)])
            # what is written is what the keys say, whatever was there before a rollback
            if len(s.keys) < s.lease.length + n or rng.random() < 0.2:
                s.keys[s.lease.length :] = keys(rng, n + 3)
            work.append((s, n))
        world.step(work, rng.choice([99, 99, 99, 0, 1, rng.randrange(10)]))
    elif choice < 0.68:
        world.rollback(sequence, rng.randrange(sequence.lease.length + 1))
        if rng.random() < 0.5:
            sequence.keys[sequence.lease.length :] = keys(rng, 5)
    elif choice < 0.76 and len(world.sequences) < 6:
        world.fork(sequence)
    elif choice < 0.88:
        tail = rng.random() < 0.6
        world.insert(sequence, tail)
        if tail:
            world.drop(sequence)
    elif choice < 0.9:
        world.drop(sequence)
    elif choice < 0.995:
        size = [pool.size for pool in world.pager.pools.values()]
        world.evict(*(rng.randrange(n + 1) * (rng.random() < 0.5) for n in size))
    else:
        world.tree.clear()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("page_size", [2, 8])
@pytest.mark.parametrize("chunk", [None, 16])
@settings(max_examples=PER_KIND, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 2**32), length=st.sampled_from([5, 15, 30]))
def test_every_position_reads_back_its_own_key(
    chunk: int | None, page_size: int, exact: bool, seed: int, length: int
) -> None:
    rng = random.Random(seed)
    world = World(chunk, page_size, (160 // page_size, 96 // page_size, 64 // page_size if exact else None))
    for _ in range(length):
        act(world, rng)
        world.check()
    for sequence in list(world.sequences):
        world.drop(sequence)
    world.tree.clear()
    world.check()
    assert world.pager.free == tuple(pool.size for pool in world.pager.pools.values())
