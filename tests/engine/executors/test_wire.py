"""Frames that are none: nothing is taken for bytes that do not come, and the process that reads them answers or is
gone; so is one that sends them. Nobody waits for ever, and nothing is left behind."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from test_child import COMMAND, child, front, request

from helpers import PATIENCE_S
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.wire import (
    HEADER,
    MAX_FRAME,
    AddAdapter,
    BadFrame,
    Cancel,
    Channel,
    Done,
    Down,
    DropAdapter,
    Failed,
    Loading,
    NewWeights,
    Progressed,
    Ready,
    Routed,
    Setup,
    Up,
)
from herd.engine.messages import EndedEvent, MeasuredEvent, ReadEvent, StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, TokenScore, Want
from herd.errors import EngineDied, PassFailed, UsageError
from herd.events import Counters

GOOD_DOWN = [
    Setup(b"{}"),
    Request(
        number=1,
        ids=[1, 2, 3],
        options=SamplingOptions(max_tokens=2, logit_bias={3: 1.0}, stop=("x",)),
        end_ids=(257,),
        client="a",
        timeout_s=9.0,
        salt=b"s",
        pixels_I3SS=np.zeros((1, 3, 2, 2), np.float32),
        digests=(b"d" * 32,),
        samples=((2, 5),),
    ),
    NewWeights("/models/next"),
    AddAdapter("a", {"w": (np.zeros((2, 3), np.float32), np.zeros((4, 2), np.float32), 0.5)}),
    DropAdapter("a"),
    Cancel(1),
    Request(number=3, ids=[1, 2, 3], options=SamplingOptions(), want=Want(what="logprobs", start=2, top=3, keep=False)),
]
GOOD_UP = [
    Loading("weights", 1, 2),
    Ready(320, 64, None, 4, 0.1),
    Failed(PassFailed("x")),
    Done(),
    MeasuredEvent(1, None, 0.1, (TokenScore(5, -0.5, True, ((5, -0.5),)),)),
    MeasuredEvent(1, "stop", 0.1, (), np.zeros((2, 3), np.float32)),
    Routed(1, 0, [0], [[1]], [[0.5]]),
    Progressed(Counters(passes=3, rows=9)),
    StartedEvent(1, 0),
    ReadEvent(1, 3, 0.1),
    TokenEvent(1, 5, None, 0.1, 0.1),
    EndedEvent(1, None),
]
HUGE = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 9999,
]


def body(message: Any) -> bytes:
    out = io.BytesIO()
    Channel(io.BytesIO(), out, Down).send(message)
    return out.getvalue()[HEADER.size :]


def frame(data: bytes) -> bytes:
    return HEADER.pack(len(data)) + data


def hostile(rng: random.Random, good: list[bytes]) -> bytes:
    """A body that is nearly one, or not at all."""
    data = bytearray(rng.choice(good))
    match rng.randrange(6):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            at = rng.randrange(len(data))
            data[at:at] = rng.choice(HUGE)[:16]
        case 3:  # another type somewhere
            tree = msgspec.msgpack.decode(bytes(data))
            tree[rng.randrange(len(tree))] = rng.choice(
                [None, True, "x", b"x", -1, 2**63, 1.5, float("nan"), [], {}, [[]]]
            )
            return msgspec.msgpack.encode(tree)
        case 4:
            return rng.randbytes(rng.randrange(64))
        case 5:
            return rng.choice(HUGE) + bytes(data)
    return bytes(data)


def test_every_kind_of_message_is_tried() -> None:
    for side, good in ((Down, GOOD_DOWN), (Up, GOOD_UP)):
        assert {type(x) for x in good} == set(side.__args__)


@pytest.mark.parametrize(("reads", "good"), [(Down, GOOD_DOWN), (Up, GOOD_UP)])
def test_whatever_comes_is_a_message_or_a_bad_frame(reads: Any, good: list[Any]) -> None:
    rng, bodies = random.Random(1), [body(x) for x in good]
    refused = 0
    for _ in range(3000):
        data = hostile(rng, bodies)
        try:
            Channel(io.BytesIO(frame(data)), io.BytesIO(), reads).receive()
        except BadFrame:
            refused += 1
    assert refused > 1000


def test_no_length_takes_memory_before_its_bytes_have_come() -> None:
    bombs = [HEADER.pack(n) + b"abc" for n in (2**64 - 1, MAX_FRAME + 1, MAX_FRAME, 1 << 31)]
    bombs += [frame(bomb) for bomb in HUGE]
    tracemalloc.start()
    for bomb in bombs:
        with pytest.raises((BadFrame, EOFError)):
            Channel(io.BytesIO(bomb), io.BytesIO(), Down).receive()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_long_frame_arrives_in_pieces() -> None:
    pixels = np.random.default_rng(0).random((3, 3, 400, 400), np.float32)
    order = msgspec.structs.replace(GOOD_DOWN[1], pixels_I3SS=pixels)
    found = Channel(io.BytesIO(frame(body(order))), io.BytesIO(), Down).receive()
    assert np.array_equal(found.pixels_I3SS, pixels)


@pytest.mark.parametrize("bad", [Cancel(2**70), Loading("\ud800", 0, 0), Setup(object())])  # type: ignore[arg-type]
def test_what_cannot_be_written_is_the_senders_mistake_and_nothing_is_sent(bad: Any) -> None:
    out = io.BytesIO()
    with pytest.raises(UsageError, match="cannot be sent"):
        Channel(io.BytesIO(), out, Down).send(Cancel(1), bad)
    assert not out.getvalue()


# -- the process that computes -----------------------------------------------------------------------------------------


def started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


BAD_FRAMES = {
    "nothing": b"\x00" * 8,
    "a length without end": b"\xff" * 8,
    "a tag that nobody knows": frame(msgspec.msgpack.encode(["Explode", 1])),
    "an answer": frame(body(EndedEvent(1))),
    "another type": frame(msgspec.msgpack.encode(["Cancel", "x"])),
    "no array": frame(b"\xc0"),
    "options out of reach": frame(body(GOOD_DOWN[1]).replace(b"\x01\x02\x03", b"\xa1x\x02\x03")),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_process_that_cannot_read_a_frame_says_so_and_leaves(name: str) -> None:
    process = started()
    out, err = process.communicate(frame(body(Setup(b"{}"))) + BAD_FRAMES[name], timeout=PATIENCE_S)
    assert process.returncode == 1
    assert b"cannot be read" in err
    assert b"Traceback" not in err
    channel = Channel(io.BytesIO(out), io.BytesIO(), Up)
    kinds = [type(channel.receive()) for _ in range(3)]
    assert kinds == [Loading, Loading, Ready]


@pytest.mark.parametrize(
    "first", [frame(body(Cancel(1))), BAD_FRAMES["no array"], b"\xff" * 8, frame(body(Setup(b"\xff")))]
)
def test_a_process_that_gets_no_setup_says_what_failed_and_leaves(first: bytes) -> None:
    process = started()
    out, err = process.communicate(first, timeout=PATIENCE_S)
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert isinstance(Channel(io.BytesIO(out), io.BytesIO(), Up).receive(), Failed)


def test_frames_that_make_no_sense_are_answered_and_the_process_goes_on() -> None:
    process = started()
    good = msgspec.structs.replace(GOOD_DOWN[1], number=9, pixels_I3SS=None, digests=(), samples=(), end_ids=())
    bad = {
        "ids": [2**40],
        "client": "x" * 3,
        "end_ids": (-1,),
        "samples": ((5, 1), (5, 1)),
        "digests": (b"x",),
        "timeout_s": float("nan"),
        "priority": 2**60,
        "want": Want(what="logprobs", start=3),
    }
    orders = [msgspec.structs.replace(good, number=10 + n, **{name: bad[name]}) for n, name in enumerate(bad)]
    messages = [Cancel(7), *orders, Setup(b"again"), good]
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"".join(frame(body(m)) for m in [GOOD_DOWN[0], *messages]))
    process.stdin.flush()
    channel = Channel(process.stdout, io.BytesIO(), Up)
    heard: list[Any] = []
    while not heard or getattr(heard[-1], "number", None) != 9 or getattr(heard[-1], "reason", None) is None:
        heard.append(channel.receive())
    refused = {x.number for x in heard if isinstance(x, EndedEvent)}
    assert refused - {5} == {10 + n for n, name in enumerate(bad) if name != "client"}
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


# -- the process that asks ---------------------------------------------------------------------------------------------

READY = frame(body(GOOD_UP[1]))
PUPPET = (
    "import sys, time\n"
    "sys.stdin.buffer.read(8)\n"
    "sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])); sys.stdout.buffer.flush()\n"
    "sys.stdin.buffer.read(int(sys.argv[3]))\n"  # of what is asked
    "sys.stdout.buffer.write(bytes.fromhex(sys.argv[2])); sys.stdout.buffer.flush()\n"
    "time.sleep(600)\n"
)


def puppet(first: bytes, then: bytes = b"", after: int = 0) -> ChildExecutor:
    """A process that says what it is told, and then nothing for ever."""
    return ChildExecutor([sys.executable, "-c", PUPPET, first.hex(), then.hex(), str(after)], b"")


BAD_ANSWERS = [b"\xff" * 8, frame(b"\xc0"), frame(msgspec.msgpack.encode(["TokenEvent", "x"])), frame(body(Setup(b"")))]


@pytest.mark.parametrize("bad", BAD_ANSWERS)
def test_a_process_that_loads_and_sends_what_is_none_is_ended(bad: bytes) -> None:
    with pytest.raises(EngineDied, match="while it loaded"):
        puppet(bad)


@pytest.mark.parametrize("bad", [*BAD_ANSWERS, READY])
def test_a_process_that_answers_what_is_none_ends_every_request_and_is_ended(bad: bytes) -> None:
    backend = puppet(READY, bad, after=9)
    engine = front(backend)
    with pytest.raises(EngineDied):
        list(engine.stream(engine.submit(request([1]))))
    with pytest.raises(EngineDied):
        engine.submit(request([1]))
    assert backend._process.wait(PATIENCE_S) is not None, "no process is left"
    engine.close()


def test_a_process_that_does_not_read_can_be_closed() -> None:
    backend = puppet(READY)
    engine = front(backend)
    ended = threading.Event()
    tiles = np.zeros((1, 3, 400, 400), np.float32)  # more than a pipe holds

    order = Request(number=1, ids=[1], options=SamplingOptions(), pixels_I3SS=tiles, digests=(b"",))

    def ask() -> None:
        try:
            while True:
                backend.submit(order)
        except EngineDied:
            ended.set()

    thread = threading.Thread(target=ask)
    os.kill(backend.pid, signal.SIGSTOP)
    thread.start()
    thread.join(0.5)
    engine.close()
    assert ended.wait(PATIENCE_S)
    assert backend._process.poll() is not None


# -- a request whose trace cannot be written ---------------------------------------------------------------------------


def test_experts_that_cannot_be_written_cost_their_own_request() -> None:
    backend = child()
    engine = front(backend)

    class Full:
        def pass_over(self, positions_T: Any) -> None:
            raise OSError(28, "No space left on device")

        def __call__(self, *arguments: Any) -> None:
            raise AssertionError

    heard: list[Any] = []
    deliver = backend._deliver
    backend.connect(lambda events: (heard.extend(events), deliver(events))[1])
    backend._routes[5] = Full()  # type: ignore[assignment]
    backend._live.add(5)
    backend._heard(Routed(5, 0, [0], [[1]], [[0.5]]))
    assert isinstance(heard[0], EndedEvent)
    assert isinstance(heard[0].error, PassFailed)
    assert len(list(engine.stream(engine.submit(request([1], max_tokens=2))))) == 2
    engine.close()
