"""Who may leave the house: the gate that every connection asks."""

import copy
import ipaddress
import itertools
import pickle
import random
import re
from dataclasses import dataclass
from typing import Any

import pytest

from herd.backends.gate import Decision, Pass, Said, allow, is_in_house, strictest
from herd.errors import StaysHere


@dataclass(frozen=True)
class Somewhere:
    """A place; two of the same words are two places."""

    name: str = "far"
    base_url: str = "https://user:secret@far.example:8443/v1"
    in_house: bool = False


HERE = Somewhere("cellar", "http://cellar.lan:8000/v1", in_house=True)


def test_outside_of_the_house_only_what_may_leave_gets_a_pass() -> None:
    place = Somewhere()
    assert isinstance(allow(place, leave=True), Pass)
    with pytest.raises(StaysHere) as caught:
        allow(place, leave=False)
    line = str(caught.value)
    assert line.startswith("far (far.example) is outside of the house, and this request stays in it; allow it: --leave")
    assert "secret" not in line
    assert (caught.value.code, caught.value.http_status, caught.value.exit_status) == ("stays_here", 403, 1)


@pytest.mark.parametrize("almost", [None, 1, "yes", "true", [True], object()])
def test_only_true_allows(almost: Any) -> None:
    with pytest.raises(StaysHere):
        allow(Somewhere(), leave=almost)


def test_in_the_house_nobody_needs_to_allow_anything() -> None:
    for leave in (False, True):
        allow(HERE, leave=leave).check(HERE)


def test_a_pass_is_made_by_the_gate_alone_and_stays_as_it_was_made() -> None:
    for arguments in ((HERE,), (HERE, None), (HERE, object())):
        with pytest.raises(TypeError, match="made by"):
            Pass(*arguments)
    made = allow(HERE, leave=False)
    with pytest.raises(AttributeError):
        made._place = Somewhere()
    for again in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="not copied"):
            again(made)


def test_a_pass_is_of_one_place() -> None:
    one, other = Somewhere(), Somewhere()
    with pytest.raises(StaysHere, match="a pass to far is none to far"):
        allow(one, leave=True).check(other)
    allow(one, leave=True).check(one)


INSIDE = ("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.7", "169.254.3.4", "::1",
          "fe80::1%eth0", "fd00::1", "::ffff:192.168.1.7", "::ffff:127.0.0.1")  # fmt: skip
OUTSIDE = ("8.8.8.8", "172.15.255.255", "172.32.0.0", "11.0.0.0", "192.169.0.1", "100.64.0.1", "0.0.0.0", "203.0.113.7",
           "::", "2001:db8::1", "::ffff:8.8.8.8", "64:ff9b::a00:1", "2002:7f00:1::", "far.example", "", "1.2.3",
           "127.1", "0177.0.0.1", "2130706433")  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_a_place_in_the_house_answers_from_an_address_of_it(address: str) -> None:
    assert is_in_house(address)
    allow(HERE, leave=False).check_peer(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_name_cannot_move_a_place_out_of_the_house(address: str) -> None:
    assert not is_in_house(address)
    for leave in (False, True):
        with pytest.raises(StaysHere, match="said to be in the house, and its name leads to"):
            allow(HERE, leave=leave).check_peer(address)
    allow(Somewhere(), leave=True).check_peer(address)


def test_what_counts_as_in_the_house_is_never_an_address_of_the_whole_world() -> None:
    """Python's own table of what is global says so, of a few thousand addresses at the borders and anywhere."""
    rng = random.Random(0)
    borders = [int(net[k]) + d for net in map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",
               "169.254.0.0/16", "127.0.0.0/8")) for k in (0, -1) for d in (-1, 0, 1)]  # fmt: skip
    for number in [*borders, *(rng.getrandbits(32) for _ in range(2000))]:
        address = ipaddress.IPv4Address(number)
        assert not (is_in_house(str(address)) and address.is_global), address


def test_the_strictest_of_any_number_of_sources_holds() -> None:
    for count in range(5):
        for values in itertools.product((True, False, None), repeat=count):
            found = strictest(*(Said(value, f"source {i}") for i, value in enumerate(values)))
            assert found.leave == (True in values and False not in values)
            assert bool(found.why) != found.leave
            if False in values:
                assert found.why == f"source {values.index(False)}"


def test_a_decision_says_why_something_stayed() -> None:
    for decision, end in ((Decision(False, "a secret"), "of its key (a secret)"), (Decision(False), "of its key")):
        with pytest.raises(StaysHere, match=re.escape(end) + "$"), decision.explained():
            allow(Somewhere(), leave=decision.leave)
    with pytest.raises(StaysHere, match=r"leads to 8\.8\.8\.8.*--in-house$"), Decision(True).explained():
        allow(HERE, leave=True).check_peer("8.8.8.8")
