"""What backends may cost: limits that hold over requests at once, processes, kills and years."""

import asyncio
import os
import random
import stat
import subprocess
import sys
import threading
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from fake_host import patient
from PIL import Image

from herd.backends import spending
from herd.backends.model import BackendModel
from herd.backends.paid import PaidModel
from herd.backends.spending import NANO, Account, Held, Rates, dollars, sums_of
from herd.errors import BadFile, LimitReached

RATES = Rates(1.0, 10.0)
"""Dollars a million: a token of a prompt is 1,000 nanodollars, of an answer 10,000."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))


def account(limit: float = 1.0, name: str = "far", id_: str = "a1") -> Account:
    return Account(name, id_, int(limit * NANO), RATES)


@pytest.mark.parametrize("rates", [(0.1, 0.3), (0.371, 1.484), (2.5, 15.0), (0.0028, 0.28), (0.0, 0.0)])
def test_tokens_cost_their_rates_and_never_less(rates: tuple[float, float]) -> None:
    rng = random.Random(0)
    for _ in range(200):
        prompt, output = rng.randrange(1 << 20), rng.randrange(1 << 14)
        exact = sum(Fraction(str(rate)) * count for rate, count in zip(rates, (prompt, output), strict=True)) * 1000
        found = Rates(*rates).nano(prompt, output)
        assert -Fraction(1, 1000) <= found - exact <= 1 + Fraction(1, 1000)


def test_the_most_is_set_aside_and_what_was_used_is_counted_in_its_place() -> None:
    held = account().hold(1000, 100)
    assert sums_of("a1").all == 2_000_000 == held.nano
    held.settle(500_000)
    assert (sums_of("a1").spent, sums_of("a1").held) == (500_000, {})
    held.settle(500_000)
    assert sums_of("a1").all == 500_000, "counted twice"


def test_what_nobody_told_counts_as_the_most() -> None:
    account().hold(1000, 100).settle(None)
    assert sums_of("a1").spent == 2_000_000


def test_a_request_that_could_go_over_the_limit_is_refused_and_nothing_is_set_aside() -> None:
    mine = account(0.01)
    mine.hold(0, 900).settle(9_000_000)
    with pytest.raises(LimitReached) as caught:
        mine.hold(1, 100)
    assert str(caught.value) == (
        "far: its spending limit of $0.01: got $0.009 spent or set aside, and up to $0.001001 for this request; "
        "ask for fewer tokens, or herd backend limit far DOLLARS"
    )
    assert (caught.value.http_status, caught.value.code) == (402, "spending_limit")
    mine.hold(0, 100)
    with pytest.raises(LimitReached):
        mine.hold(1, 0)
    account(0.01, id_="other").hold(0, 1000)


def test_a_host_that_used_more_than_was_set_aside_ends_it() -> None:
    mine = account(0.001)
    mine.hold(10, 10).settle(5_000_000)
    with pytest.raises(LimitReached):
        mine.hold(1, 0)


def test_any_number_of_threads_at_once_stays_within_the_limit() -> None:
    mine, got, refused = account(0.001), list[Held](), []

    def ask() -> None:
        for _ in range(10):
            try:
                got.append(mine.hold(0, 10))
            except LimitReached:
                refused.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (10, 30)


@pytest.mark.parametrize("context", [None, 1000])
@pytest.mark.parametrize("images", [0, 3])
def test_the_most_counts_what_was_asked_for_and_images_of_one_colour(context: int | None, images: int) -> None:
    """A context that nobody said bounds nothing; an image of a few bytes may be some thousand tokens."""
    image = BytesIO()
    Image.new("1", (2000, 2000)).save(image, "PNG")
    part = {"type": "image", "image": image.getvalue()}
    turns: list[dict[str, Any]] = [{"role": "user", "content": [*[part] * images, {"type": "text", "text": "hi"}]}]
    model = PaidModel(BackendModel(patient("http://127.0.0.1:1", context=context)), account(1e6))

    async def ask() -> None:
        stream = model.astream(turns, max_tokens=200_000, n=2)
        await stream.prepare()
        bound = stream.asked_bytes + 4096 + images * 2500
        assert sums_of("a1").all >= Rates(1.0, 10.0).nano(bound, 2 * min(200_000, context or 200_000))
        assert stream.asked_bytes < images * 2500 + 1000
        await stream.aclose()
        assert sums_of("a1").all == 0

    asyncio.run(ask())


KILLED = """
import os, sys
from herd.backends.spending import NANO, Account, Rates
account = Account("far", "a1", NANO, Rates(1.0, 10.0))
account.hold(0, 100).settle(700_000)
account.hold(0, 50)
os.kill(os.getpid(), 9)
"""


def test_a_process_that_is_killed_leaves_what_it_set_aside_counted() -> None:
    assert subprocess.run([sys.executable, "-c", KILLED], check=False).returncode == -9
    assert (sums_of("a1").spent, sums_of("a1").all) == (700_000, 1_200_000)


def test_a_line_that_was_cut_is_no_line_wherever_it_was_cut() -> None:
    account().hold(0, 100).settle(700_000)
    account().hold(0, 50)
    whole = spending.path().read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        spending.path().write_bytes(whole[:cut])
        told = sums_of("a1").all
        lines = sum(end <= cut for end in ends)
        assert told == (0, 1_000_000, 700_000)[lines]
        account().hold(0, 1)
        assert sums_of("a1").all == told + 10_000


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"kind":"spent"}', b'{"kind":"lent","account":"a1","nano":1}'])
def test_a_broken_line_is_told_and_nothing_is_spent_past_it(line: bytes) -> None:
    account().hold(0, 1)
    with spending.path().open("ab") as file:
        file.write(line + b"\n")
    for call in (lambda: account().hold(0, 1), lambda: sums_of("a1")):
        with pytest.raises(BadFile, match=r"line 2: .*mend that line"):
            call()


def test_a_long_journal_is_written_anew_with_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spending, "MOST_LINES", 20)
    open_ = [account(id_=name).hold(0, i + 1) for i, name in enumerate("ab")]
    for i in range(30):
        account(id_="ab"[i % 2]).hold(0, 5).settle(10_000)
    assert [sums_of(name).spent for name in "ab"] == [150_000, 150_000]
    assert [sums_of(name).all for name in "ab"] == [160_000, 170_000]
    assert len(spending.path().read_bytes().splitlines()) <= 20
    for one in open_:
        one.settle(0)
    assert [sums_of(name).all for name in "ab"] == [150_000, 150_000]
    assert stat.S_IMODE(os.stat(spending.path()).st_mode) == 0o600


@pytest.mark.parametrize(
    ("nano", "said"),
    [(0, "$0"), (5 * NANO, "$5"), (NANO // 2, "$0.50"), (123_000, "$0.000123"), (1, "$0.000000001"), (10**10, "$10"),
     (1_250_000_000, "$1.25")],
)  # fmt: skip
def test_dollars_are_told_in_full(nano: int, said: str) -> None:
    assert dollars(nano) == said
