"""Addresses of images: whatever they are, and wherever they redirect to, the answer is one line of ours."""

import asyncio
import random
import socket
import string
from typing import Any

import pytest

from herd.errors import BadMedia, HerdError
from herd.server.requests import fetcher

HOSTS = (
    "a" * 64, "a" * 64 + ".example", "a." * 127 + "a", "a" * 300, ".", "..", ".a", "a..b", "-", "--", "_", "*", "%00",
    "a%2fb", "xn--", "xn--a", "xn--" + "9" * 60, "[", "]", "[]", "[::", "[::1]", "[::1]x", "[v1.a]", "[::ffff:1.2.3.4]",
    "[fe80::1%25eth0]", "1.2.3.4.5", "0x7f.1", "256.256.256.256", "2130706433", "9" * 40, "a:b", "a:99999", "a:-1",
    "a:", ":80", "a@b", "@", "a\\b", "a|b", "a^b",
    "a`b", "{a}", "a\"b", "<a>", "a,b", "a;b", "a!b", "a$b", "a&b", "a'b", "(a)",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are encoded as the system does, and none is found."""

    def look_up(host: str, *_arguments: Any, **_options: Any) -> None:
        host.encode("idna")
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def ends_with(url: str) -> HerdError:
    with pytest.raises(HerdError) as caught:
        asyncio.run(fetcher.fetch(url, "image"))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_no_host_is_a_mistake_of_ours(scheme: str) -> None:
    for host in HOSTS:
        for rest in ("", "/", "/x.png?y#z", ":8080/x"):
            ends_with(f"{scheme}://{host}{rest}")


def test_a_label_of_more_than_63_characters_is_no_host() -> None:
    assert isinstance(ends_with(f"http://{'a' * 64}.example/x.png"), BadMedia)
    assert not isinstance(ends_with(f"http://{'a' * 63}.example/x.png"), BadMedia)
    assert isinstance(ends_with(f"http://{'a.' * 127}a/x.png"), BadMedia)


def test_no_mixture_of_characters_is_a_mistake_of_ours() -> None:
    rng = random.Random(2)
    letters = string.printable + "\u00fc\u3002\uff0e\u200d\0"
    for _ in range(2000):
        tail = "".join(rng.choice(letters) for _ in range(rng.randrange(30)))
        ends_with(rng.choice(["http://", "https://", "http:", "http://[", "http://a."]) + tail)


def test_no_redirect_is_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    places = (
        [f"http://{host}/" for host in HOSTS] + [f"//{host}" for host in HOSTS] + ["", "?", "#", "\xff", "http://["]
    )

    def leads_to(place: str) -> Any:
        async def get(url: str, where: str, *_owner: str) -> tuple[int, str, bytes]:
            fetcher._parts(url, where)
            return 302, place, b""

        return get

    for place in places:
        monkeypatch.setattr(fetcher, "_get", leads_to(place))
        ends_with("http://example.com/x.png")
