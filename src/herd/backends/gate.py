"""Who may leave the house, decided in one place: no connection is made to a place without a Pass, and only `allow`
makes one.

    strictest    what key, profile, stored response and others say of a request -> whether it may leave
    allow        that, and a place -> a Pass to it, or StaysHere
    Pass         what whoever connects asks for; it belongs to one place

A place is in the house when it is this machine, or when a person said so of an address of a private network; then it
needs no permission, and whoever connects checks that the address is one (`Pass.check_peer`), so that a name cannot move
out. All others need one, also for what holds no text: names that are looked up, lists of models, probes. What it is
not: a socket, a key, a rule about words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

from herd.errors import StaysHere, fail

IN_HOUSE = tuple(
    map(
        ip_network,
        (
            *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
            *("::1/128", "fc00::/7", "fe80::/10"),
        ),
    )
)
"""Networks of a house: loopback, private (RFC 1918, RFC 4193) and link-local ones. Others that registries call private,
shared ones of providers (100.64.0.0/10) among them, are not known to be anybody's own."""
PERMISSION = "allow it: --leave, or the right leave of its key"
_MAKER = object()


class Destination(Protocol):
    """What requests may be sent to."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def base_url(self) -> str:
        """Its address."""

    @property
    def in_house(self) -> bool:
        """Whether it is this machine, or a person said that it is in the house."""


@dataclass(frozen=True)
class Said:
    """What one source says of whether a request may leave."""

    may_leave: bool | None
    """True: it may; False: it stays; None: nothing is said."""
    why: str = ""
    """Why it stays, in a few words: "the profile notes is private"."""


@dataclass(frozen=True)
class Decision:
    """Whether a request may leave, and why it may not."""

    leave: bool
    why: str = ""

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A context that tells why, where what is done in it would have to leave and may not."""
        try:
            yield
        except StaysHere as error:
            if self.leave or not self.why:
                raise
            raise StaysHere(f"{error} ({self.why})") from None


def strictest(*said: Said) -> Decision:
    """The strictest of what is said: a request stays where one source says so, and where none allows it to leave."""
    for one in said:
        if one.may_leave is False:
            return Decision(False, one.why)
    if any(one.may_leave for one in said):
        return Decision(True)
    return Decision(False, "nothing allows it to leave")


class Pass:
    """Permission to send one request to one place. Made by `allow` alone; each request asks anew."""

    __slots__ = ("_place",)
    _place: Destination

    def __init__(self, place: Destination, maker: object = None) -> None:
        if maker is not _MAKER:
            raise TypeError("a Pass is made by herd.backends.gate.allow")
        object.__setattr__(self, "_place", place)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Pass stays as it was made")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Pass is not copied")

    def __repr__(self) -> str:
        return f"Pass({self._place.name!r})"

    def check(self, place: Destination) -> None:
        """Raise StaysHere unless it is one for this place."""
        if self._place is not place:
            fail(StaysHere, f"a pass to {self._place.name} is none to {place.name}")

    def check_peer(self, address: str) -> None:
        """Raise StaysHere where the address at the other end of a connection is outside of the house and the place is
        said to be in it; asked before anything is sent. address: as a socket tells it."""
        if self._place.in_house and not is_in_house(address):
            what = f"{_shown(self._place)} is said to be in the house, and its name leads to {address}"
            fail(StaysHere, what, do="mend the name, or add it without --in-house")


def allow(place: Destination, *, leave: bool) -> Pass:
    """A pass to a place, for one request. leave: whether that may leave the house. Raises StaysHere."""
    if not place.in_house and leave is not True:
        fail(StaysHere, f"{_shown(place)} is outside of the house, and this request stays in it", do=PERMISSION)
    return Pass(place, _MAKER)


def is_in_house(address: str) -> bool:
    """Whether an IP address, as a socket tells it, is of a network that a house has."""
    found = _address(address)
    return found is not None and any(found in network for network in IN_HOUSE)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address; one of IPv4 that is written as IPv6 is what it stands for. None: it is none."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _shown(place: Destination) -> str:
    """The name and the host: an address may hold more that is nobody's business."""
    return f"{place.name} ({urlsplit(place.base_url).hostname})"
