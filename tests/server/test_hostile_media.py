"""Hostile images on every route that takes images: one line, 400, and others are answered."""

import base64
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image
from serving import client_of, fake_service


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"") -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def good() -> bytes:
    out = BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


BOMB = chunk(b"zTXt", b"x\0\0" + zlib.compress(b"a" * 50_000_000))
HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a picture of 50,000 squared": png(50_000, 50_000, b"\0" * 1000),
    "no pixels": png(0, 5),
    "cut": good()[:-20],
    "a broken checksum": good()[:40] + b"\xff" + good()[41:],
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "PSD": b"8BPS\0\1" + b"\0" * 40,
    "TIFF": b"II*\0" + b"\0" * 40,
    "PDF": b"%PDF-1.7\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "pixels that are missing": png(100, 100, b"\0"),
}


def bodies(images: list[str]) -> dict[str, Any]:
    """One request a route, each with these images in base64."""
    urls = [f"data:image/png;base64,{x}" for x in images]
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    blocks = [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": x}} for x in images]
    items = [{"type": "input_image", "image_url": url} for url in urls]
    return {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": parts}]},
        "/v1/responses": {"input": [{"role": "user", "content": items}]},
        "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": blocks}]},
        "/api/chat": {"messages": [{"role": "user", "content": "x", "images": images}], "stream": False},
        "/api/generate": {"prompt": "x", "images": images, "stream": False},
        "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": blocks}]},
        "/tokenize": {"messages": [{"role": "user", "content": parts}]},
    }


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"))) as found:
        yield found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_refused_on_every_route(client: httpx.Client, name: str) -> None:
    for path, body in bodies([base64.b64encode(HOSTILE[name]).decode()]).items():
        found = client.post(path, json={"model": "fake", **body})
        assert found.status_code == 400, (path, found.status_code, found.text)
        assert len(found.text) < 600
    assert client.get("/health").status_code == 200


def test_a_bomb_in_a_text_chunk_costs_nothing(client: httpx.Client) -> None:
    image = base64.b64encode(png(8, 8, b"\0" * 25 * 8, extra=BOMB)).decode()
    for path, body in bodies([image]).items():
        found = client.post(path, json={"model": "fake", **body})
        assert found.status_code in (200, 400), (path, found.text)


@pytest.mark.parametrize(
    "images", [["!!!!"], ["aGk"], ["a" * 30_000_000], [""], ["aGk="] * 17, ["aGk="] * 10_000], ids=range(6)
)
def test_bad_base64_and_too_many_images(client: httpx.Client, images: list[str]) -> None:
    for path, body in bodies(images).items():
        found = client.post(path, json={"model": "fake", **body})
        assert found.status_code == 400, (path, found.status_code, found.text[:300])
        assert len(found.text) < 600
        if len(images) > 16:
            assert "at most 16" in found.text, (path, found.text)


def test_a_path_or_an_address_is_never_opened(client: httpx.Client) -> None:
    for url in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/x", "https://example.com/x.png"):
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        source = {"type": "url", "url": url}
        blocks = [{"type": "image", "source": source}]
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}),
            ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
            ("/v1/messages", {"max_tokens": 5, "messages": [{"role": "user", "content": blocks}]}),
            ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": [url]}], "stream": False}),
        ):
            found = client.post(path, json={"model": "fake", **body})
            assert found.status_code in (400, 403), (path, url, found.text)
            assert "root:" not in found.text
