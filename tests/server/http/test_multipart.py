"""Forms as they come: the same parts however they are cut, and nothing but forms."""

import email
import email.policy
import random

import httpx
import pytest

from herd.errors import UsageError
from herd.server.http.multipart import Multipart, Piece


def read(content_type: str, data: bytes, cuts: list[int]) -> list[tuple[str, str | None, bytes]]:
    """(name, file name, bytes) of each part, fed in pieces."""
    parts = Multipart(content_type)
    pieces: list[Piece] = []
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        pieces += parts.feed(data[begin:end])
    assert parts.over
    found: list[tuple[str, str | None, bytes]] = []
    for piece in pieces:
        if piece.kind == "head":
            found.append((piece.name, piece.filename, b""))
        elif piece.kind == "data":
            found[-1] = (*found[-1][:2], found[-1][2] + piece.data)
    return found


def test_parts_are_those_of_other_readers_however_they_are_cut() -> None:
    file = b"a\r\n--\r\n-- \r\n--b" * 50 + b"\r\n"
    fields, files = {"purpose": "batch", "none": ""}, {"file": ("x;y.jsonl", file)}
    request = httpx.Request("POST", "http://x", data=fields, files=files)
    kind, data = request.headers["content-type"], request.read()
    message = email.message_from_bytes(b"content-type: " + kind.encode() + b"\r\n\r\n" + data, policy=email.policy.HTTP)
    wanted = [
        (part.get_param("name", header="content-disposition"), part.get_filename(), part.get_payload(decode=True))
        for part in message.iter_parts()  # type: ignore[attr-defined]
    ]
    assert [name for name, _, _ in wanted] == ["purpose", "none", "file"]
    draw = random.Random(5)
    for cuts in ([], list(range(1, len(data))), *([sorted(draw.sample(range(len(data)), 9)) for _ in range(30)])):
        assert read(kind, data, cuts) == wanted


HEAD = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"x" + HEAD, "something before the first part"),
        (b"--bx\r\n", "a boundary that goes on"),
        (b"--b\r\n\r\n\r\nx", "expected form-data; name="),
        (b"--b\r\ncontent-disposition: attachment\r\n\r\n", "expected form-data"),
        (HEAD[:-4] + b"\r\n" + HEAD[5:], "expected form-data; name="),
        (b"--b\r\n" + b"x" * 9000, "at most 8192"),
        ((HEAD + b"\r\n") * 40, "parts: got more, expected at most 32"),
    ],
)
def test_what_is_no_form_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        [*Multipart("multipart/form-data; boundary=b").feed(data)]


FORM = "multipart/form-data"


@pytest.mark.parametrize(
    "kind", ["", "text/plain; boundary=b", FORM, f"{FORM}; boundary=", f"{FORM}; boundary={'b' * 99}"]
)
def test_a_content_type_without_boundary_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="content-type"):
        Multipart(kind)


def test_a_form_that_ends_early_is_not_over() -> None:
    parts = Multipart("multipart/form-data; boundary=b")
    assert [piece.kind for piece in parts.feed(HEAD + b"abc")] == ["head"]
    assert not parts.over
