"""Threads of native op sets: each has its own, all of its operations run on them, and they end with it. Counted."""

import subprocess
import sys

import pytest

from herd import _native
from herd.ops.native import NativeOps

COUNTED = """
import threading, time
import numpy as np
from dataclasses import replace
from herd import _native
from herd.checkpoint.random_weights import random_model
from herd.config import TINY
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops import native_composed as composed
from herd.ops.native import NativeOps
from herd.weights import Dense

def alive_becomes(count):
    until = time.monotonic() + 120  # threads end on their own, a moment after they are told
    while _native.threads_alive() != count and time.monotonic() < until:
        time.sleep(0.001)
    return _native.threads_alive() == count

def taking_part(*op_sets):
    return [_native.threads_taking_part(ops.threads) for ops in op_sets]

"""


def run(code):
    done = subprocess.run([sys.executable, "-c", COUNTED + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_op_sets_compute_on_as_many_threads_as_each_was_given_and_to_the_same_bits():
    run("""
config, ids = replace(TINY, vision=None), np.random.default_rng(3).integers(0, 256, 90).tolist()
model = random_model(config)

def logits(ops):
    runner = Runner(config, place_weights(ops, model), ops, context=128, kv_dtype="bf16")
    lease = runner.lease()
    prompt = runner.run([Chunk(lease, ids[:80], rows=range(80))])
    return np.concatenate([prompt, *(runner.run([Chunk(lease, [i])]) for i in ids[80:])])

one, five = NativeOps(1), NativeOps(5)
assert _native.threads_alive() == 0  # before the first operation
found = [logits(five), logits(one), logits(five)]
assert (found[0] == found[1]).all() and (found[0] == found[2]).all()
assert taking_part(five, one, five) == [5, 1, 5]
assert _native.threads_alive() == 4
three = NativeOps(3)
assert (logits(three) == found[0]).all()
assert taking_part(one, three, five) == [1, 3, 5]
assert _native.threads_alive() == 6
del three
assert alive_becomes(4)
del five
assert alive_becomes(0)
""")


def test_another_number_of_threads_ends_no_operation_under_way():
    """Of the threads of the process, which alone can be set."""
    run("""
rng = np.random.default_rng(0)
w, x = Dense(rng.normal(size=(600, 256)).astype(np.float32)), rng.normal(size=(3, 256)).astype(np.float32)
expected, wrong = composed.linear(x, w), []

def work():
    for _ in range(200):
        if not (composed.linear(x, w) == expected).all():
            wrong.append(1)

workers = [threading.Thread(target=work) for _ in range(3)]
for one in workers:
    one.start()
count = 0
while any(one.is_alive() for one in workers):
    count += 1
    _native.set_threads(1 + count % 3)
assert not wrong
_native.set_threads(1)
assert alive_becomes(0)
""")


def test_no_operation_of_an_op_set_runs_on_the_threads_of_the_process():
    """Every operation, on a tree with vision, adapters and LoRA: the shared threads (7 here) never start."""
    found = run("""
from herd.batch import packed
from herd.model import encode_images, forward
from herd.ops.contract import Adapters, Extras, LowRank
from herd.weights import LoRA

_native.set_threads(7)
ops, model = NativeOps(3), random_model(TINY)
down, up = np.ones((2, 64), np.float32), np.ones((128, 2), np.float32)
blocks = list(model.blocks)
blocks[0] = replace(blocks[0], q=LoRA(blocks[0].q, down, up, 0.1))
w = place_weights(ops, replace(model, blocks=tuple(blocks)))
pairs = {b.q.name: [LowRank(down, up, 0.1)] for b in w.blocks[1:]}
e = TINY.num_experts
pairs |= {b.ffn.down.name: [LowRank(np.ones((e, 2, 96), np.float32), np.ones((e, 64, 2), np.float32), 0.1)]
          for b in w.blocks if b.ffn.kind == "moe"}
extras = Extras(Adapters(pairs, np.zeros(40, np.int64)))
pixels = np.ones((2, 3, 28, 28), np.float32)
encode_images(ops, TINY.vision, w.vision, pixels)
ids, context = np.arange(40), ops.place(packed([40], TINY.chunk))
for x in (None, extras):
    forward(ops, TINY, w, ids, context, extras=x)
config = replace(TINY, chunk=256)
for kv in ("bf16", "int4"):
    runner = Runner(config, place_weights(ops, model), ops, context=1024, kv_dtype=kv, sequences=2)
    lease = runner.lease()
    for _ in range(3):
        runner.run([Chunk(lease, [1] * 100)])
    runner.run([Chunk(lease, [1])])
    kv = runner.kv[3]
    keys, values = ops.kv_read(kv, [0, 1])
    ops.kv_write(kv, [0, 1], keys, values)
    ops.copy_pages(kv, [0], [1], 256)
ops.close_pages(kv, [0], [0])
h = np.ones((3, 64), np.float32)
moe = next(b.ffn for b in w.blocks if b.ffn.kind == "moe")
ops.experts(h, moe, *ops.route(h, moe.router, 1), e)
print(_native.threads_alive(), _native.isa_info()["threads"], _native.threads_taking_part(), _native.threads_alive())
""")
    assert found == "2 7 7 8\n"


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_an_op_set_says_how_many_it_has(threads):
    assert NativeOps(threads).threads.count == threads


def test_all_processors_when_nothing_is_said():
    assert NativeOps().threads.count == _native.isa_info()["threads"] >= 1
