"""Whether a request gives the same tokens alone and among 31 others: random mixes on a slice, compared to the bit.

    mixes.py [--models FOLDER] [--mixes 200] [--first 0] [--alone 3] [--threads 2] [--json FILE]

A mix is 32 requests that share beginnings, arrive at any step, and compete for a cache that holds a few of them: so
prompts are found in the cache, cut into pieces and preempted, and what follows is guessed from what was said before.
The kind of cache goes round: bf16, int8, int4 (whose pages close behind a request while others run), f16. Some requests
of each mix are then asked alone, on a cache of their own: ids, reasons and log-probabilities have to be equal.

Time is counted in looks at the clock, not in seconds, so that a mix is the same each time: --first N --mixes 1 is mix N
again. Exit status: 1 when anything differs, or when one of the things that a proof has to have seen happened in no mix.
tests/engine/test_invariance.py does the same on the tiny model.
"""

import argparse
import itertools
import json
import os
import random
import time
from collections import Counter

import slices
from harness import machine

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.strip_pieces import native_pack
from herd.engine.core import Core
from herd.engine.messages import EndedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions
from herd.engine.runner import Runner
from herd.model import place_weights
from herd.ops.native import NativeOps
from herd.store.auto_pack import packed_for

MODEL = "small-q4_0"
REQUESTS = 32
CONTEXT = 640
"""Positions that all requests of a mix share; one of the longest nearly fills it."""
LONGEST = 520
"""Of a prompt's shared beginning: past two of int4's pages."""
PAGES = {"bf16": 32, "int8": 32, "int4": 256, "f16": 64}
"""Positions a page, by kind of cache."""
HAPPENED = ("cached_tokens", "preempted", "pieces", "proposed", "kept")
"""What a proof has to have seen: prompt tokens found in the cache, requests that gave up their places, prompts computed
in pieces, ids guessed, and those of them that were taken."""


class Model:
    """A slice, placed once."""

    def __init__(self, path, threads):
        self.ops = NativeOps(threads=threads)
        self.checkpoint = packed_for(open_checkpoint(path), pack=native_pack() is not None)
        self.config = self.checkpoint.config
        self.weights = place_weights(self.ops, self.checkpoint.load())

    def core(self, kv, budget, places, sequences):
        """A core with an empty cache."""
        runner = Runner(
            self.config,
            self.weights,
            self.ops,
            context=CONTEXT,
            kv_dtype=kv,
            piece=budget,
            sequences=sequences,
            page_size=PAGES[kv],
        )
        return Core(runner, budget=budget, places=places, clock=itertools.count().__next__)


def orders(rng, vocab):
    """Requests that begin like each other, greedy or drawn. A third of the beginnings repeats itself; a third of the
    requests leans to three ids, so that its answer repeats itself, too: then guesses are right as often as wrong."""
    base = [[rng.randrange(vocab) for _ in range(LONGEST)] for _ in range(3)]
    base[2] = (base[2][:7] * LONGEST)[:LONGEST]
    found = []
    for n in range(REQUESTS):
        beginning = rng.choice(base)[: int(LONGEST * rng.random() ** 6)]
        ids = [*beginning, *(rng.randrange(vocab) for _ in range(rng.randint(1, 24)))]
        options = SamplingOptions(
            temperature=rng.choice((0.0, 0.0, 1.0)),
            top_p=rng.choice((1.0, 0.9)),
            max_tokens=rng.randint(1, 16),
            logprobs=2,
            repetition_penalty=rng.choice((1.0, 1.0, 1.2)),
            logit_bias=rng.choice(({}, {}, dict.fromkeys(rng.sample(range(vocab), 3), 9.0))),
        )
        found.append(Request(number=n, ids=ids, options=options, seed=rng.randrange(1 << 20), client=rng.choice("ab")))
    return found


def answers(core, asked, rng):
    """What each order was answered, when they arrive at any step: number -> [(id, reason, log-probabilities)]."""
    said = {order.number: [] for order in asked}
    left = list(asked)
    while left or core.busy:
        while left and (rng.random() < 0.5 or not core.busy):
            core.add(left.pop())
        for event in core.step():
            if isinstance(event, TokenEvent):
                said[event.number].append((event.token_id, event.reason, event.logprob))
            elif isinstance(event, EndedEvent):
                raise SystemExit(f"request {event.number} ended without an answer: {event.error}")
    core.runner.cache.check()
    return said


def mix(model, seed, alone):
    """One mix: its kind of cache, what happened in it, and the requests that were answered otherwise alone."""
    rng = random.Random(seed)
    kv = list(PAGES)[seed % len(PAGES)]
    asked = orders(rng, model.config.vocab_size)
    budget = rng.choice((48, 128, 512))
    core = model.core(kv, budget, places=rng.choice((8, 32)), sequences=rng.choice((1, 4, 8)))
    core.scheduler.headroom, core.scheduler.turn = rng.choice((0, 32)), rng.choice((16, 256))
    together = answers(core, asked, rng)
    differ = []
    chosen = rng.sample(asked, alone)
    for order in chosen:
        one = model.core(kv, 512, places=1, sequences=1)
        if answers(one, [order], rng)[order.number] != together[order.number]:
            differ.append(order.number)
    happened = Counter({name: getattr(core.counters, name) for name in HAPPENED if name != "pieces"})
    happened["pieces"] = sum(len(order.ids) > budget for order in asked)
    happened["tokens"] = sum(map(len, together.values()))
    happened["compared"], happened["compared_tokens"] = alone, sum(len(together[o.number]) for o in chosen)
    return kv, happened, differ


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--models", help="where slices lie, or are made (default: herd-bench in the user's cache)")
    ap.add_argument("--mixes", type=int, default=200)
    ap.add_argument("--first", type=int, default=0, help="number of the first mix, which is its seed, too")
    ap.add_argument("--alone", type=int, default=3, help="requests of a mix that are asked alone")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--json", help="the counts into this file")
    a = ap.parse_args()
    place = slices.folder(a.models)
    os.environ["HERD_HOME"] = str(place / "home")  # what is packed goes there
    model = Model(slices.find(place, MODEL), a.threads)
    began_s, total, kinds, wrong = time.monotonic(), Counter(), Counter(), []
    for seed in range(a.first, a.first + a.mixes):
        kv, happened, differ = mix(model, seed, min(a.alone, REQUESTS))
        total += happened
        kinds[kv] += 1
        wrong += [(seed, number) for number in differ]
        counts = ", ".join(f"{name} {n}" for name, n in happened.items())
        verdict = f"DIFFERENT: requests {differ}" if differ else "equal"
        print(f"mix {seed} {kv}: {counts}: {verdict}", flush=True)
    report(a, total, kinds, wrong, time.monotonic() - began_s)


def report(a, total, kinds, wrong, seconds):
    """The line at the end, the file, the exit status."""
    counts = ", ".join(f"{name} {n}" for name, n in total.items())
    print(f"{a.mixes} mixes of {REQUESTS} on {MODEL}, {seconds:.0f} s: {counts}: {len(wrong)} different")
    if a.json:
        with open(a.json, "w") as file:
            kept = {
                "model": MODEL,
                "first": a.first,
                "mixes": a.mixes,
                "kv": kinds,
                "counts": total,
                "different": wrong,
            }
            json.dump({**kept, "seconds": seconds, "machine": machine(), "date": time.strftime("%Y-%m-%d %H:%M")}, file)
    missing = [name for name in HAPPENED if not total[name]]
    if missing:
        print(f"no proof: there were no {', '.join(missing)}")
    raise SystemExit(1 if wrong or missing else 0)


if __name__ == "__main__":
    main()
