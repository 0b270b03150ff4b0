"""Frames of a binary event stream: read as botocore reads them, refused where it refuses them, within bounds."""

import asyncio
import random
import struct
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_host import BOUNDS, patient
from frames_there import Header, event, exception, frame, packed, sealed, text

from herd.backends.failures import Broken
from herd.backends.frames import MOST_HEADERS, Frame, Frames, frames
from herd.backends.target import Bounds

THERE = patient("http://127.0.0.1:1/v1")
LARGE = patient("http://127.0.0.1:1/v1", bounds=Bounds())
GOOD = [
    event("messageStart", {"role": "assistant"}),
    event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Grüße, 🌍"}}),
    exception("throttlingException", "slow down"),
    frame({}, b""),
    sealed(
        packed([
            ("yes", 0, b""), ("no", 1, b""), ("byte", 2, b"\xff"), ("short", 3, b"\xff\xfe"), ("int", 4, b"\0\0\0\5"),
            ("long", 5, b"\x80" + b"\0" * 7), ("bytes", 6, b"\0\2ab"), text("text", "é"), ("time", 8, b"\0" * 8),
            ("uuid", 9, bytes(range(16))), text("", ""),
        ]),
        b"payload",
    ),
]  # fmt: skip


def read(data: bytes, size: int = 1 << 20, target: Any = LARGE) -> list[Frame]:
    """Frames of what comes in pieces of a size. Raises Broken."""
    reader, found = Frames(target), list[Frame]()
    for at in range(0, len(data), size):
        found += reader.feed(data[at : at + size])
    if reader.is_within:
        raise Broken("cut")
    return found


def theirs(data: bytes) -> list[tuple[dict[str, Any], bytes]] | None:
    """What botocore reads; None: it refuses it, or there is a rest that is no frame."""
    eventstream = pytest.importorskip("botocore.eventstream")
    buffer = eventstream.EventStreamBuffer()
    buffer.add_data(data)
    try:
        found = [(dict(one.headers), bytes(one.payload)) for one in buffer]
    except (eventstream.ParserError, KeyError, ValueError, struct.error):
        return None
    return None if buffer._data else found


def ours(data: bytes, size: int = 1 << 20) -> list[tuple[dict[str, Any], bytes]] | None:
    try:
        return [(dict(one.headers), one.payload) for one in read(data, size)]
    except Broken:
        return None


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 20])
def test_frames_are_read_in_whatever_pieces_they_come(size: int) -> None:
    data = b"".join(GOOD)
    assert [found] == [theirs(data)] if (found := ours(data, size)) is not None else pytest.fail("refused")
    kinds = read(data, size)[-1].headers
    assert (kinds["yes"], kinds["no"], kinds["byte"], kinds["short"], kinds["int"]) == (True, False, -1, -2, 5)
    assert (kinds["long"], kinds["bytes"], kinds["text"], kinds[""]) == (-(1 << 63), b"ab", "é", "")


def fits(data: bytes) -> bool:
    """Whether frames hold what their lengths say: headers within their part, values within the headers. botocore slices
    what is too short and takes it, here it is refused."""
    at = 0
    while at + 12 <= len(data):
        size, header_size = struct.unpack_from("!II", data, at)
        if size < 16 + header_size or at + size > len(data):
            return False
        head, k = data[at + 12 : at + 12 + header_size], 0
        while k < len(head):
            k += 1 + head[k]
            if k >= len(head):
                return False
            kind = head[k]
            if kind in (6, 7) and k + 3 > len(head):
                return False
            k += 1 + {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}.get(kind, 0)
            if kind in (6, 7):
                k += 2 + struct.unpack_from("!H", head, k)[0]
            if k > len(head):
                return False
        at += size
    return at == len(data)


def headers_of(rng: random.Random) -> list[Header]:
    """Headers that may be good, of any type."""
    sizes = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
    found: list[Header] = []
    for _ in range(rng.randrange(5)):
        name = rng.choice(["a", "b", ":event-type", "é", "c" * 200])
        kind = rng.randrange(11)
        value = rng.randbytes(sizes[kind]) if kind in sizes else text("", rng.choice(["", "x", "ü" * 9]))[2]
        found.append((name, kind, value))
    return found


def mutated(rng: random.Random) -> bytes:
    """A few frames, one thing about them changed: bits, lengths, cuts, headers; checksums right or not."""
    chosen = rng.choices(GOOD, k=rng.randrange(1, 4))
    data = bytearray(b"".join(chosen))
    match rng.randrange(8):
        case 0:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 1:
            del data[rng.randrange(len(data)) :]
        case 2:
            at = rng.randrange(len(data))
            del data[at : at + rng.randrange(1, 20)]
        case 3:
            at = rng.randrange(len(data))
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        case 4:  # lengths that lie, their checksums right
            head, payload = packed(headers_of(rng)), rng.randbytes(rng.randrange(30))
            size, near = 16 + len(head) + len(payload), rng.choice([-9, -4, -1, 1, 4, 9])
            told = {"size": size + near} if rng.random() < 0.5 else {"header_size": max(len(head) + near, 0)}
            data += sealed(head, payload, **told)
        case 5:  # headers of any kind, all checksums right
            data += sealed(packed(headers_of(rng)), b"x")
        case 6:  # bytes that are none, all checksums right
            data += sealed(rng.randbytes(rng.randrange(40)), b"x")
        case 7:
            struct.pack_into("!I", data, 0, rng.choice([0, 11, 12, 15, 16, 1 << 31, (1 << 32) - 1]))
    return bytes(data)


def test_2000_mutated_streams_are_judged_as_botocore_judges_them() -> None:
    rng, judged = random.Random(5), {"good": 0, "bad": 0, "lax": 0}
    for number in range(2000):
        data = mutated(rng)
        expected, found = theirs(data), ours(data, rng.choice([1 << 20, 5]) if number % 4 == 0 else 1 << 20)
        if expected is not None and not fits(data):
            judged["lax"] += 1
            assert found is None, data
            continue
        assert found == expected, data
        judged["good" if found is not None else "bad"] += 1
    assert judged["good"] > 150 and judged["bad"] > 1000 and judged["lax"] < 200, judged


def lengths(size: int, header_size: int) -> bytes:
    return sealed(b"", b"", size, header_size)[:12]


LIES = [lengths((1 << 32) - 1, 0), lengths(BOUNDS.event_bytes + 17, 0), lengths(300_000, 200_000), lengths(15, 0)]


@pytest.mark.parametrize("begun", LIES)
def test_lengths_are_refused_before_anything_of_the_frame_comes(begun: bytes) -> None:
    with pytest.raises(Broken):
        list(Frames(THERE).feed(begun))


def test_a_frame_may_be_as_long_as_its_bound_and_no_longer() -> None:
    assert len(read(frame({}, b"a" * BOUNDS.event_bytes), target=THERE)) == 1
    with pytest.raises(Broken, match="more than"):
        read(frame({}, b"a" * (BOUNDS.event_bytes + 1)), target=THERE)
    many = packed([text(f"h{i}", "") for i in range(MOST_HEADERS + 1)])
    with pytest.raises(Broken, match="too many"):
        read(sealed(many, b""))


def test_memory_is_in_proportion_to_what_comes_byte_by_byte() -> None:
    data = frame({}, b"a" * (1 << 16))
    tracemalloc.start()
    try:
        assert len(read(data, 1)) == 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(data)


@pytest.mark.parametrize("count", [BOUNDS.events, BOUNDS.events + 1])
def test_events_are_counted_and_an_end_within_a_frame_is_told(count: int) -> None:
    async def pieces(data: bytes) -> AsyncIterator[bytes]:
        yield data

    async def all_of(data: bytes) -> int:
        return len([one async for one in frames(pieces(data), THERE)])

    if count <= BOUNDS.events:
        assert asyncio.run(all_of(GOOD[3] * count)) == count
    else:
        with pytest.raises(Broken, match="more than"):
            asyncio.run(all_of(GOOD[3] * count))
    with pytest.raises(Broken, match="within a frame"):
        asyncio.run(all_of(GOOD[0][:-1]))
