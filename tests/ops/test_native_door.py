"""The door of the native module: wrong arrays, threads, forks, the choice of instruction set."""

import copy
import os
import pickle
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
from native_plain import array, matrix

from helpers import PATIENCE_S
from herd import _native
from herd.batch import Context, Segments, segments
from herd.errors import UsageError
from herd.model import place_weights
from herd.ops import native_composed as composed
from herd.ops import native_weights as handles
from herd.ops.native import NativeOps
from herd.weights import Dense, Experts, Mlp, Moe, Norm, Packed


@pytest.fixture
def any_ops():
    return NativeOps(2)


def ints(*x):
    return np.array(x, np.int64)


def weight(*shape):
    return Dense(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Packed("q4_0", np.zeros((2, 18), np.uint8), (2, 64)), "weight bytes: got 36, expected 72 for q4_0"),
        (Packed("q4_0", np.zeros((2, 18), np.uint8), (2, 33)), "got 33, expected a multiple of 32 for q4_0"),
        (Packed("q4_k", np.zeros((1, 144), np.uint8), (1, 32)), "got 32, expected a multiple of 256 for q4_k"),
        (Packed("q9_9", np.zeros((2, 18), np.uint8), (2, 32)), "weight format: got q9_9, expected one of f32"),
        (Packed("q4_0", np.zeros((2, 18), np.int16), (2, 32)), "weight"),
        (Packed("q8_0", np.zeros(34, np.uint8), (1, 1, 1, 32)), r"weight shape: got \[1, 1, 1, 32\]"),
        (Packed("q8_0", np.zeros(34, np.uint8), (0, 32)), "weight shape"),
        (Packed("q8_0", np.zeros(34, np.uint8), (2**32, 2**32 - 32)), "weight"),
        (Dense(np.zeros((2, 32), np.int32)), "float32, float16 or uint16"),
        (Dense(np.zeros((2, 32), np.float32), np.zeros(3, np.float32)), r"bias shape: got \[3\], expected \[2\]"),
    ],
)
def test_weights_that_are_not_what_they_say(node, message):
    with pytest.raises(ValueError, match=message):
        composed.linear(np.zeros((1, 32), np.float32), node)


def cases():
    x, n = np.zeros((2, 32), np.float32), Norm(np.ones(32, np.float32), None, 1e-3)
    w, q = weight(32, 32), np.zeros((2, 2, 16), np.float32)
    mlp = Mlp(w, w, w)
    stack = Moe(
        weight(3, 32), Experts(np.ones((3, 32, 64), np.float32)), Experts(np.ones((3, 32, 32), np.float32)), mlp
    )

    def moe(**parts):
        return Moe(**{**{k: getattr(stack, k) for k in ("router", "gate_up", "down", "shared")}, **parts})

    paged = (ints(0, 2), ints(2))
    yield "inputs of a weight", lambda o: o.mlp_add(x, n, Mlp(w, w, weight(32, 31))), r"expected \[32, 32\]"
    yield (
        "a norm's width",
        lambda o: o.norm(x, Norm(np.ones(31, np.float32), None, 1e-3)),
        "norm width: got 31, expected 32",
    )
    yield "a norm's bias", lambda o: o.norm(x, Norm(n.w, np.ones(3, np.float32), 1e-3)), "norm bias"
    yield "gate and up", lambda o: o.mlp_add(x, n, Mlp(weight(16, 32), w, w)), "gate weight"
    yield "a stack for a matrix", lambda o: o.mlp_add(x, n, Mlp(w, weight(2, 32, 32), w)), "stack"
    yield "token ids above", lambda o: o.embed([0, 32], w), "token id: got 32, expected 0 to 31"
    yield "token ids below", lambda o: o.embed([-1], w), "token id: got -1"
    yield "an input-major table", lambda o: o.embed([0], Experts(np.ones((1, 4, 4), np.float32))), "embedding"
    yield "wanted rows", lambda o: o.head(x, n, w, ints(2)), "rows_R: got 2, expected below 2"
    yield "wanted rows below", lambda o: o.head(x, n, w, ints(-1)), "rows_R: got -1"
    yield "heads", lambda o: o.qkv(x, n, w, w, w, 24, None, None, None), "multiples of the head size 24"
    yield "values' outputs", lambda o: o.qkv(x, n, w, w, weight(16, 32), 16, None, None, None), "wv"
    yield (
        "an odd head",
        lambda o: o.qkv(x, n, *[weight(3, 32)] * 3, 3, o.angles([0, 1], [1.0]), None, None),
        "head size",
    )
    yield "angles of other rows", lambda o: o.qkv(x, n, w, w, w, 16, o.angles([0], [1.0] * 8), None, None), "cos_TM"
    yield "too many experts", lambda o: o.moe_add(x, n, stack, 3, 4), "1 <= A <= E"
    yield "experts of the config", lambda o: o.moe_add(x, n, stack, 2, 1), "router"
    yield (
        "a stack's shape",
        lambda o: o.moe_add(x, n, moe(down=Experts(np.ones((3, 31, 32), np.float32))), 3, 1),
        "expert down",
    )
    yield (
        "odd gate and up",
        lambda o: o.moe_add(x, n, moe(gate_up=Experts(np.ones((3, 32, 63), np.float32))), 3, 1),
        "even number",
    )
    yield (
        "query heads",
        lambda o: o.attend(np.zeros((2, 3, 16), np.float32), q, q, segments([2]), None),
        "multiple of the 2",
    )
    yield "rows of segments", lambda o: o.attend(q, q, q, segments([3]), None), "rows: got 2, expected 3"
    yield "descending starts", lambda o: o.attend(q, q, q, Segments(ints(0, 3, 2), ints(3, -1)), None), "ascending"
    yield "a late start", lambda o: o.attend(q, q, q, Segments(ints(1, 2), ints(1)), None), r"starts\[0\]"
    yield (
        "keys without pages",
        lambda o: o.attend(q, q, q, Segments(ints(0, 2), ints(3)), None),
        "kv_lens: got 3, expected 2",
    )
    yield (
        "fewer keys than rows",
        lambda o: o.attend(q, q, q, Segments(ints(0, 2), ints(1), ints(0)[None], ints(0, 1), 4), o.new_kv(8, 2, 16)),
        "at least the segment's 2 rows",
    )
    yield (
        "a page outside the cache",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(2)[None], ints(0, 1), 4), o.new_kv(8, 2, 16)),
        "at most the cache's 8",
    )
    yield (
        "a page below",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(-1)[None], ints(0, 1), 4), o.new_kv(8, 2, 16)),
        "pages: got -1",
    )
    yield (
        "a page that overflows",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(2**62)[None], ints(0, 1), 4), o.new_kv(8, 2, 16)),
        "pages: got",
    )
    yield (
        "a slot outside the cache",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(0)[None], ints(0, 8), 4), o.new_kv(8, 2, 16)),
        "at most the cache's 8",
    )
    yield (
        "a slot below",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(0)[None], ints(0, -1), 4), o.new_kv(8, 2, 16)),
        "slots_T: got -1",
    )
    yield (
        "too few pages",
        lambda o: o.attend(q, q, q, Segments(ints(0, 2), ints(9), ints(0, 1)[None], ints(0, 1), 4), o.new_kv(8, 2, 16)),
        "got 2 pages, expected 3 for 9 keys",
    )
    yield (
        "page size zero",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(0)[None], ints(0, 1), 0), o.new_kv(8, 2, 16)),
        "page_size: got 0",
    )
    yield (
        "a cache of other heads",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(0)[None], ints(0, 1), 4), o.new_kv(8, 1, 16)),
        "cache heads",
    )
    yield (
        "pages without a cache",
        lambda o: o.attend(q, q, q, Segments(*paged, ints(0)[None], ints(0, 1), 4), None),
        "no cache",
    )
    yield "a cache without pages", lambda o: o.attend(q, q, q, segments([2]), o.new_kv(8, 2, 16)), "no pages"
    yield "an impossible cache", lambda o: o.new_kv(2**60, 2, 16), "cache of slots"
    yield "a negative cache", lambda o: o.new_kv(-1, 2, 16), "cache of slots"
    yield "a packed cache", lambda o: o.new_kv(4, 2, 16, "q8_0"), "f32, f16, bf16, int8 or int4"
    yield "slots to read", lambda o: o.kv_read(o.new_kv(4, 2, 16), [4]), "slots: got 4, expected below 4"
    yield "keys to write", lambda o: o.kv_write(o.new_kv(4, 2, 16), [0], q, q), r"keys: got shape \[2, 2, 16\]"
    yield "pages to copy", lambda o: o.copy_pages(o.new_kv(8, 2, 16), [0], [2], 4), "page: got 2, expected below 2"
    yield "unequal pages to copy", lambda o: o.copy_pages(o.new_kv(8, 2, 16), [0, 1], [1], 4), "target pages"
    yield "negative threads", lambda o: NativeOps(-1), "threads: got -1"


@pytest.mark.parametrize(("call", "message"), [pytest.param(c, m, id=name) for name, c, m in cases()])
def test_wrong_arrays_are_refused_in_one_line(any_ops, call, message):
    with pytest.raises(ValueError, match=message) as e:
        call(any_ops)
    assert "\n" not in str(e.value)


def test_the_module_itself_checks_outputs():
    handle = _native.weight(np.ones((3, 4), np.float32), "f32", [3, 4])
    x = np.ones((2, 4), np.float32)
    frozen = np.empty((2, 3), np.float32)
    frozen.flags.writeable = False
    for y, message in [
        (np.empty((2, 2), np.float32), r"y_TO: got shape \[2, 2\], expected \[2, 3\]"),
        (np.empty((2, 3), np.float64), "y_TO: got element type 'd', expected float32"),
        (np.empty((3, 2), np.float32).T, "C-contiguous"),
        (frozen, "writable"),
        (3, "a int that is not writable"),
    ]:
        with pytest.raises(ValueError, match=message):
            _native.linear(x, handle, y)
    with pytest.raises(ValueError, match="expert: got 1, expected below 1"):
        _native.linear(x, handle, np.empty((2, 3), np.float32), 1)
    with pytest.raises(ValueError, match="outputs"):
        handle.outputs(2, 4)


def test_place_keeps_the_fields_of_a_context(any_ops):
    s = segments([2, 1])
    placed = any_ops.place(Context(np.arange(3), s, s, np.array([2])))
    assert placed.full is placed.chunk
    assert placed.positions_T.tolist() == [0, 1, 2]
    assert placed.rows.tolist() == [2]
    assert len(placed.full) == 2
    assert any_ops.place(placed).full is placed.full


def test_a_handle_is_made_once_and_never_copied_or_pickled(any_ops):
    w, x = weight(3, 4), np.ones((1, 4), np.float32)
    any_ops.bind(w)
    made = handles.weight(w)
    assert composed.linear(x, w)[0, 0] == 4
    assert handles.weight(w) is made
    for twin in (copy.copy(w), copy.deepcopy(w), pickle.loads(pickle.dumps(w)), replace(w)):
        assert handles.weight(twin) is not made
        assert composed.linear(x, twin)[0, 0] == 4
    twin = replace(w, w=np.full((3, 4), 2, np.float32))
    assert composed.linear(x, twin)[0, 0] == 8


def test_binding_checks_every_array_before_the_first_pass(any_ops):
    with pytest.raises(ValueError, match="weight bytes: got 36, expected 72 for q4_0"):
        place_weights(any_ops, Packed("q4_0", np.zeros((2, 18), np.uint8), (2, 64)))
    with pytest.raises(UsageError, match="weight w: got int32, expected float32, float16 or uint16"):
        place_weights(any_ops, Dense(np.zeros((2, 4), np.int32), name="w"))


def test_several_python_threads_at_once(any_ops):
    rng = np.random.default_rng(1)
    w = matrix(rng, "q4_0", (256, 256))
    inputs = [array(rng, (1 + i, 256)) for i in range(6)]
    expected = [composed.linear(x, w) for x in inputs]
    wrong = []

    def call(i):
        for _ in range(40):
            if not (composed.linear(inputs[i], w) == expected[i]).all():
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
        assert not t.is_alive()
    assert not wrong


def test_the_number_of_threads_changes_nothing():
    rng = np.random.default_rng(2)
    for kind in ("f32", "q4_k"):
        w = matrix(rng, kind, (300, 256))
        for rows in (1, 70):
            x = array(rng, (rows, 256))
            found = []
            for threads in (1, 2, 5):
                found.append(composed.linear(x, w, None, NativeOps(threads).threads))
            assert (found[0] == found[1]).all()
            assert (found[0] == found[2]).all()


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_a_forked_child_computes():
    """Threads do not survive a fork: the child makes its own instead of waiting for those of its parent."""
    code = """
import os, numpy as np
from herd import _native
from herd.ops.native import NativeOps
from herd.ops import native_composed as composed
from herd.weights import Dense
threads = NativeOps(3).threads
w, x = Dense(np.ones((5000, 64), np.float32)), np.ones((9, 64), np.float32)
assert (composed.linear(x, w, None, threads) == 64).all()
assert _native.threads_alive() == 2
child = os.fork()
if child == 0:
    ok = _native.threads_alive() == 0 and (composed.linear(x, w, None, threads) == 64).all()
    ok = ok and _native.threads_alive() == 2 and _native.threads_taking_part(threads) == 3
    os._exit(7 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert (composed.linear(x, w, None, threads) == 64).all()
print("done")
"""
    result = run(code)
    assert result.stdout == "done\n", result.stderr


def test_herd_isa_forces_a_path():
    code = "from herd import _native; print(_native.isa_info()['chosen'])"
    for name in _native.isa_info()["available"]:
        assert run(code, HERD_ISA=name).stdout.strip() == name
    assert run(code, HERD_ISA="").stdout.strip() == _native.isa_info()["available"][0]
    result = run(code, HERD_ISA="mmx")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "HERD_ISA: got mmx, expected one that this processor and build have: " in last


def test_what_doctor_shows():
    info = _native.isa_info()
    assert info["available"][-1] == "portable"
    assert info["chosen"] in info["available"]
    assert info["threads"] >= 1
    assert all(isinstance(f, str) for f in info["features"])
