"""Images that came as text: base64, or an address that holds it (`data:`, RFC 2397). Limits count before decoding."""

import base64
import binascii
import re
from collections.abc import Iterator

from herd.errors import BadMedia, fail
from herd.media.limits import IMAGE_LIMITS

_DATA = re.compile(
    r"data:(?P<type>[a-zA-Z0-9.+-]{1,64}+/[a-zA-Z0-9.+-]{1,64}+)?+(?:;(?!base64,)[a-zA-Z0-9=.+-]{1,64}+){0,4}+;base64,",
    re.IGNORECASE,
)
_STEP = 1 << 20
"""Characters decoded in one call: a multiple of four."""


def encoded_bytes(text: str) -> int:
    """About how many bytes a text in base64 stands for, three at most more than it does."""
    return len(text) * 3 // 4


def image_of(text: str, where: str) -> bytes:
    """The bytes of an image in a text: an address that holds it, or base64 alone. Raises BadMedia."""
    return data_image(text, where) if text[:5].lower() == "data:" else base64_image(text, where)


def data_image(url: str, where: str) -> bytes:
    """The bytes of `data:image/...;base64,...`. Raises BadMedia. The type it states is not believed."""
    found = _DATA.match(url)
    if found is None:
        fail(BadMedia, where, got=url[:40], expected="data:image/...;base64,...")
    return base64_image(url[found.end() :], where)


def base64_image(text: str, where: str) -> bytes:
    """The bytes of an image in base64, in one line or in lines (RFC 2045). Raises BadMedia for too many of them or bad
    ones."""
    text = _joined(text)
    if not text:
        fail(BadMedia, where, got="nothing", expected="an image in base64")
    if encoded_bytes(text) > IMAGE_LIMITS.file_bytes + 3:
        fail(BadMedia, where, got=f"about {encoded_bytes(text)} bytes", expected=f"at most {IMAGE_LIMITS.file_bytes}")
    try:
        return b"".join(_decoded(text))
    except (binascii.Error, ValueError) as error:
        fail(BadMedia, where, got=f"bad base64: {error}", expected="an image in base64")


def _joined(text: str) -> str:
    """A text without the ends of its lines, made in steps as below."""
    if "\n" not in text and "\r" not in text:
        return text
    parts = (text[at : at + _STEP] for at in range(0, len(text), _STEP))
    return "".join(part.replace("\r", "").replace("\n", "") for part in parts)


def _decoded(text: str) -> Iterator[bytes]:
    """Decoded in steps, so that other threads need not wait for all of it. Raises ValueError."""
    for at in range(0, len(text), _STEP):
        part = text[at : at + _STEP]
        if at + _STEP < len(text) and "=" in part:
            raise ValueError("padding before the end")
        yield base64.b64decode(part, validate=True)
