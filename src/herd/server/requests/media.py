"""Images of a request -> bytes. The only door through which the service takes media.

Data addresses are decoded here, within limits that count before decoding. Addresses on the network go through
`herd.server.requests.fetcher`, if the service was started with `--remote-media`. Nothing is ever opened as a file.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from herd.errors import BadMedia, Forbidden, fail
from herd.media.limits import IMAGE_LIMITS
from herd.server.requests.admission import Admission

_DATA = re.compile(
    r"data:(?P<type>[a-zA-Z0-9.+-]{1,64}+/[a-zA-Z0-9.+-]{1,64}+)?+(?:;(?!base64,)[a-zA-Z0-9=.+-]{1,64}+){0,4}+;base64,"
)
_STEP = 1 << 20
"""Characters decoded in one call: a multiple of four."""


def check_count(count: int) -> None:
    """Raise BadMedia for more images than one request may show; before any of them is decoded or fetched."""
    if count > IMAGE_LIMITS.request_images:
        fail(BadMedia, "images in one request", got=count, expected=f"at most {IMAGE_LIMITS.request_images}")


class Images:
    """Images of one request: decoded where they came with it; those on the network wait until they are fetched.

    remote: whether they may be addresses on the network.
    """

    def __init__(self, *, remote: bool) -> None:
        self._remote = remote
        self._waiting: list[tuple[dict[str, Any], str, str]] = []

    def part(self, url: str, where: str) -> dict[str, Any]:
        """A part of a turn for the image behind an address. Raises BadMedia, Forbidden."""
        part: dict[str, Any] = {"type": "image"}
        if url[:5].lower() == "data:":
            part["image"] = data_image(url, where)
        elif url[:7].lower() != "http://" and url[:8].lower() != "https://":
            got = f"an address of kind {url[:12].split(':')[0]!r}"
            fail(BadMedia, where, got=got, expected="data:, http: or https:")
        elif not self._remote:
            fail(Forbidden, f"{where}: addresses on the network", do="send the image as data:image/...;base64,...")
        else:
            self._waiting.append((part, url, where))
        return part

    async def fetch(self, owner: str, admission: Admission) -> None:
        """Fetch those on the network, one after another, into their parts. owner: in whose lane names are looked up.

        Room for the largest image is held before it comes. Raises what fetching raises, Busy.
        """
        from herd.server.requests.fetcher import fetch

        waiting, self._waiting = self._waiting, []
        for part, url, where in waiting:
            admission.hold(IMAGE_LIMITS.file_bytes)
            part["image"] = await fetch(url, where, owner)
            admission.let_go(IMAGE_LIMITS.file_bytes - len(part["image"]))


def data_image(url: str, where: str) -> bytes:
    """The bytes of `data:image/...;base64,...`. Raises BadMedia. The type it states is not believed."""
    found = _DATA.match(url)
    if found is None:
        fail(BadMedia, where, got=url[:40], expected="data:image/...;base64,...")
    return base64_image(url[found.end() :], where)


def base64_image(text: str, where: str) -> bytes:
    """The bytes of an image in base64. Raises BadMedia for too many of them or bad ones."""
    if len(text) * 3 // 4 > IMAGE_LIMITS.file_bytes + 3:
        fail(BadMedia, where, got=f"about {len(text) * 3 // 4} bytes", expected=f"at most {IMAGE_LIMITS.file_bytes}")
    try:
        return b"".join(_decoded(text))
    except (binascii.Error, ValueError) as error:
        fail(BadMedia, where, got=f"bad base64: {error}", expected="an image in base64")


def _decoded(text: str) -> Iterator[bytes]:
    """Decoded in steps, so that other threads need not wait for all of it. Raises ValueError."""
    for at in range(0, len(text), _STEP):
        part = text[at : at + _STEP]
        if at + _STEP < len(text) and "=" in part:
            raise ValueError("padding before the end")
        yield base64.b64decode(part, validate=True)
