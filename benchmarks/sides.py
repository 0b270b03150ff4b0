"""The two sides of a comparison, and how a workload is run on each: contexts, filled caches, one timed run."""

import subprocess
import sys
import time
from dataclasses import dataclass

from harness import Ours, Peer
from workloads import ATTENTION

DEEP = 16384 + 1024
"""Positions of a context for workloads at a depth."""
SHORT = 256
"""Positions a sequence of a context for the others, beside what they run."""
DEPTHS = 3
"""Filled sequences that ours keeps."""


@dataclass(frozen=True)
class Setting:
    """How the peer is run."""

    repack: bool
    flash: bool

    def __str__(self):
        return f"{'repacked' if self.repack else 'as in the file'}, flash {'on' if self.flash else 'off'}"


@dataclass(frozen=True)
class Run:
    figure: float
    """Tokens a second; of `busy`, the share of the quiet speed."""
    seconds: float
    others_s: float


class OurSide:
    def __init__(self, path, threads, pack, home):
        self.worker = Ours(home)
        self.loaded = self.worker.load(path=path, threads=threads, pack=pack)

    def ready(self, w):
        """A context for this workload, its cache filled."""
        if w.depth:
            self.worker.context(length=DEEP, sequences=DEPTHS, piece=w.piece)
            self.worker.fill(depth=w.depth)
        else:
            self.worker.context(length=SHORT + w.count, sequences=w.sequences, piece=w.piece)

    def warm(self, w):
        warm(self.worker, w)

    def run(self, w):
        return _run(self.worker, w)

    def close(self):
        self.worker.close()


class PeerSide:
    """states: the folder where filled caches are kept, by the shape of the model's attention."""

    def __init__(self, python, path, model, threads, repack, states):
        self.worker = Peer(python)
        self.loaded = self.worker.load(path=path, threads=threads, repack=repack)
        self.repack = repack
        self._shape = ATTENTION[model.split("-")[0]]
        self._states = states
        self._context = None

    def ready(self, w, flash):
        key = (DEEP if w.depth else SHORT + w.count, w.sequences, flash, w.piece)
        if key != self._context:
            self.worker.context(length=key[0], sequences=w.sequences, flash=flash, ubatch=w.piece)
            self._context = key
        if w.depth:
            self._fill(w.depth, "flash" if flash else "plain")

    def _fill(self, depth, kind):
        """Filled once, then restored: what is in the cache does not change what a token costs."""
        kept = {int(p.stem.rsplit("-", 1)[1]): p for p in self._states.glob(f"{self._shape}-{kind}-*.state")}
        below = max((d for d in kept if d <= depth), default=0)
        if below:
            self.worker.restore(path=str(kept[below]), depth=below)
        if below < depth:
            self.worker.fill(depth=depth)
            self.worker.save(path=str(self._states / f"{self._shape}-{kind}-{depth}.state"))

    def warm(self, w):
        warm(self.worker, w)

    def run(self, w):
        return _run(self.worker, w)

    def close(self):
        self.worker.close()


def warm(worker, w):
    """A little of the workload, untimed: pages of files, threads, first-use work."""
    if w.op == "many":
        worker.many(sequences=w.sequences, steps=1)
    else:
        worker.decode(count=2, depth=w.depth)
    if w.op == "prefill" and not w.depth:
        worker.prefill(count=64)


def _run(worker, w):
    if w.op == "busy":
        quiet = worker.decode(count=w.count)
        with Busy():
            beside = worker.decode(count=w.count)
        return Run(quiet["seconds"] / beside["seconds"], quiet["seconds"], quiet["others_s"])
    if w.op == "many":
        t = worker.many(sequences=w.sequences, steps=w.count)
    elif w.op == "prefill":
        t = worker.prefill(count=w.count, depth=w.depth)
    else:
        t = worker.decode(count=w.count, depth=w.depth)
    return Run(w.tokens / t["seconds"], t["seconds"], t["others_s"])


class Busy:
    """One process that never rests, for the length of a `with` block."""

    def __enter__(self):
        self._process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        time.sleep(0.3)

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
