"""Images of a request -> bytes. The only way in which the service takes media.

Data addresses, and base64 without one, are decoded (`herd.media.encoded`), within limits that count before. Addresses
on the network go through `herd.server.requests.fetcher`, if the service was started with `--remote-media`. Nothing is
ever opened as a file.
"""

from typing import Any

from herd.errors import BadMedia, Forbidden, fail
from herd.media.encoded import image_of
from herd.media.limits import IMAGE_LIMITS
from herd.server.requests.admission import Admission


def check_count(count: int) -> None:
    """Raise BadMedia for more images than one request may show; call it before any of them is decoded or fetched."""
    if count > IMAGE_LIMITS.request_images:
        fail(BadMedia, "images in one request", got=count, expected=f"at most {IMAGE_LIMITS.request_images}")


class Images:
    """Images of one request: those in the request are decoded at once, those on the network are fetched later.

    remote: whether addresses on the network are allowed.
    """

    def __init__(self, *, remote: bool) -> None:
        self._remote = remote
        self._waiting: list[tuple[dict[str, Any], str, str]] = []

    def part(self, url: str, where: str) -> dict[str, Any]:
        """A part of a turn for the image at an address, or in base64 alone. Raises BadMedia, Forbidden."""
        part: dict[str, Any] = {"type": "image"}
        kind, colon, _ = url[:12].lower().partition(":")
        if kind == "data" or not colon:
            part["image"] = image_of(url, where)
        elif url[:7].lower() != "http://" and url[:8].lower() != "https://":
            fail(BadMedia, where, got=f"an address of kind {kind!r}", expected="data:, http: or https:")
        elif not self._remote:
            fail(Forbidden, f"{where}: addresses on the network", do="send the image as data:image/...;base64,...")
        else:
            self._waiting.append((part, url, where))
        return part

    @property
    def on_network(self) -> bool:
        """Whether some are to be fetched."""
        return bool(self._waiting)

    async def fetch(self, owner: str, admission: Admission) -> None:
        """Fetch the images on the network, one after another, into their parts. owner: the lane in which names are
        looked up.

        Room for the largest image is held before it comes. Raises what fetching raises, Busy.
        """
        from herd.server.requests.fetcher import fetch

        waiting, self._waiting = self._waiting, []
        for part, url, where in waiting:
            admission.hold(IMAGE_LIMITS.file_bytes)
            part["image"] = await fetch(url, where, owner)
            admission.let_go(IMAGE_LIMITS.file_bytes - len(part["image"]))
