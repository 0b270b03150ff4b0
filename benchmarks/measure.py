"""Ours and the peer on one file, in every setting of the peer that matters: rounds of probe, ours, peer.

together   both are in memory; the two of a round run one after another, in either order
in turn    they do not fit together: ours is loaded and runs half of its rounds, then the peer, then both again
"""

import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sides import OurSide, PeerSide, Run, Setting
from workloads import NO_REPACK, Workload

NEAR = 0.88
"""Settings of the peer this close to its best in the brief runs are measured in full."""
REST_S = 0.1
"""Between runs, so that the other side's threads have gone to sleep."""
FLASHES = (True, False)


@dataclass
class Measured:
    """One workload in one setting of the peer."""

    workload: Workload
    model: str
    setting: Setting
    rounds: list[tuple[float | None, Run, Run]]
    """(probe, ours, peer)"""
    loaded: dict
    """What our worker said of the model."""
    mode: str

    @property
    def ours(self):
        return statistics.median(o.figure for _, o, _ in self.rounds)

    @property
    def peer(self):
        return statistics.median(p.figure for _, _, p in self.rounds)

    @property
    def ratio(self):
        return statistics.median(o.figure / p.figure for _, o, p in self.rounds)

    @property
    def probe(self):
        found = [x for x, _, _ in self.rounds if x is not None]
        return statistics.median(found) if found else None

    @property
    def others(self):
        """Share of the machine that other processes took while the two ran."""
        runs = [r for _, o, p in self.rounds for r in (o, p)]
        return sum(r.others_s for r in runs) / sum(r.seconds for r in runs) / os.cpu_count()


@dataclass(frozen=True)
class Plan:
    """How all of it is run."""

    python: str
    """The peer's interpreter."""
    threads: int
    pack: bool
    place: Path
    """Where slices lie, our packed forms (home/) and the peer's filled caches (states/)."""
    rounds: int | None
    """None: each workload's own."""
    probe: object

    def count(self, w):
        return self.rounds or w.rounds

    def look(self, w):
        return self.probe(w.probe, self.threads)


def together(plan, model, path, workloads) -> Iterator[Measured]:
    """Brief runs in every setting, then full ones in those near the peer's best."""
    ours = OurSide(path, plan.threads, plan.pack, plan.place / "home")
    repacks = (False,) if model in NO_REPACK else (False, True)
    brief, tried = {}, []
    for peer in _peers(plan, model, path, repacks):
        for w in workloads:
            for flash in FLASHES:
                rounds = _rounds(plan, w, ours, peer, flash, min(plan.count(w), 1 if w.count >= 2048 else 2))
                tried.append(Measured(w, model, Setting(peer.repack, flash), rounds, ours.loaded, "together"))
                brief[w, tried[-1].setting] = 1 / tried[-1].ratio
    short = {w for w in workloads if plan.count(w) <= 2}
    yield from (m for m in tried if m.workload in short)
    best = {w: max(r for (x, _), r in brief.items() if x is w) for w in workloads}
    full = [w for w in workloads if w not in short]
    for peer in _peers(plan, model, path, repacks[::-1] if full else ()):
        for w in full:
            for flash in FLASHES:
                setting = Setting(peer.repack, flash)
                if brief[w, setting] >= NEAR * best[w]:
                    rounds = _rounds(plan, w, ours, peer, flash, plan.count(w))
                    yield Measured(w, model, setting, rounds, ours.loaded, "together")
    ours.close()


def _peers(plan, model, path, repacks):
    for repack in repacks:
        peer = PeerSide(plan.python, path, model, plan.threads, repack, plan.place / "states")
        yield peer
        peer.close()


def _rounds(plan, w, ours, peer, flash, count):
    ours.ready(w)
    peer.ready(w, flash)
    for side in (ours, peer):  # pages of files, threads, first-use work
        side.warm(w)
    rounds = []
    for i in range(count):
        found = {}
        time.sleep(REST_S)
        probe = plan.look(w)
        for side in (ours, peer) if i % 2 == 0 else (peer, ours):
            time.sleep(REST_S)
            found[side] = side.run(w)
        rounds.append((probe, found[ours], found[peer]))
    return rounds


def in_turn(plan, model, path, workloads) -> Iterator[Measured]:
    """Half of the rounds of ours, half of the peer's in each setting, and both again."""
    repacks = (False,) if model in NO_REPACK else (False, True)
    left, theirs, loaded = {w: [] for w in workloads}, {}, {}
    for _ in range(2):
        ours = OurSide(path, plan.threads, plan.pack, plan.place / "home")
        loaded = ours.loaded
        for w in workloads:
            ours.ready(w)
            ours.warm(w)
            left[w] += [(plan.look(w), ours.run(w)) for _ in range(-(-plan.count(w) // 2))]
        ours.close()
        for peer in _peers(plan, model, path, repacks):
            for w in workloads:
                for flash in FLASHES:
                    peer.ready(w, flash)
                    peer.warm(w)
                    runs = theirs.setdefault((w, Setting(peer.repack, flash)), [])
                    for _ in range(-(-plan.count(w) // 2)):
                        plan.look(w)  # as before each of ours
                        runs.append(peer.run(w))
    for (w, setting), runs in theirs.items():
        rounds = [(probe, o, p) for (probe, o), p in zip(left[w], runs, strict=True)]
        yield Measured(w, model, setting, rounds, loaded, "in turn")
