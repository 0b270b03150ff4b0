"""/v1/files: what clients keep with the service for batches, and what batches make."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from herd.errors import TooLarge, Unsupported, UsageError, fail
from herd.server.file_store import KEPT_S, FileStore, StoredFile, Upload, page
from herd.server.http.body import read_body
from herd.server.http.multipart import Multipart, Piece
from herd.server.http.streams import PIECE, Stream
from herd.server.requests.fields import Refused, within
from herd.server.service import Caller, Service
from herd.server.shared.replies import json_response

MOST_FIELD = 1024
"""Bytes of a field of a form that is no file."""
MOST_NAME = 256
"""Characters of a file's name."""
PAGE, MOST_PAGE = 100, 1000
SHORTEST_S = 3600
BESIDE = 64 << 10
"""Bytes of a form beside its file."""
BLOCK = 256 << 10
"""Bytes that are written at once."""


def files_of(service: Service) -> FileStore:
    """The files of a service. Raises Unsupported where none are kept."""
    if service.files is None:
        fail(Unsupported, "this service keeps no files", do="start it with herd serve --files FOLDER")
    return service.files


async def upload(service: Service, request: Request, caller: Caller) -> Response:
    """Keep a file of requests, as a form with `purpose` and `file`; it goes to the disk as it comes."""
    store = files_of(service)
    service.refuse_when_stopping()
    form = _Form(service, store, caller, Multipart(request.headers.get("content-type", "")))
    try:
        most = service.limits.file_bytes + BESIDE
        declared = int(request.headers.get("content-length", "0"))
        form.expected = min(declared or most, most)
        async for data in read_body(request, service.limits, lambda count: None, most=most):
            for piece in form.parts.feed(data):
                await form.take(piece)
        return json_response((await form.kept()).to_dict())
    finally:
        if form.upload is not None:
            await asyncio.shield(service.wait(caller, form.upload.close))


class _Form:
    """A form as it comes."""

    def __init__(self, service: Service, store: FileStore, caller: Caller, parts: Multipart) -> None:
        self.parts = parts
        self.expected = 0
        """Most bytes that its file may have."""
        self.upload: Upload | None = None
        self._service, self._store, self._caller = service, store, caller
        self._fields: dict[str, str] = {}
        self._filename = ""
        self._name = ""
        self._value = bytearray()
        self._block = bytearray()

    async def take(self, piece: Piece) -> None:
        """Take the next piece. Raises Refused, TooLarge, DoesNotFit."""
        if piece.kind == "head":
            self._begin(piece)
        elif piece.kind == "data":
            if self._name != "file":
                self._value += piece.data
                within(self._name[:32], len(self._value), MOST_FIELD)
            elif self.upload is not None:
                self._block += piece.data
                size, most = self.upload.size_bytes + len(self._block), self._service.limits.file_bytes
                if size > most:
                    fail(TooLarge, "file", got="more bytes", expected=f"at most {most}")
                if len(self._block) >= BLOCK:
                    await self._flush()
        elif self._name != "file":
            self._fields[self._name] = bytes(self._value).decode("utf-8", "replace")
        else:
            await self._flush()

    async def kept(self) -> StoredFile:
        """The file, once all has come. Raises Refused."""
        if not self.parts.over:
            fail(UsageError, "body", got="the beginning of a form", expected="all of it")
        fields, upload = self._fields, self.upload
        if fields.get("purpose") != "batch":
            raise Refused(f"purpose: got {fields.get('purpose', '')[:32]!r}, expected batch", "purpose")
        if upload is None:
            raise Refused("file: missing, expected a file of requests, one a line", "file")
        seconds = _expiry(fields)
        private = "leave" not in self._caller.key.rights
        return await self._service.wait(
            self._caller, lambda: upload.keep(self._filename, seconds, private=private), upload.size_bytes
        )

    def _begin(self, piece: Piece) -> None:
        self._name, self._value = piece.name, bytearray()
        if piece.name in self._fields or (piece.name == "file" and self.upload is not None):
            raise Refused(f"{piece.name[:32]}: got it twice", piece.name[:32])
        if piece.name == "file":
            within("file name", len(piece.filename or ""), MOST_NAME)
            self._filename = piece.filename or "requests.jsonl"
            self.upload = self._store.begin(self._caller.key, min(self.expected, self._service.limits.file_bytes))
        elif piece.name not in ("purpose", "expires_after[anchor]", "expires_after[seconds]"):
            raise Refused(f"{piece.name[:32]}: expected purpose, file or expires_after", piece.name[:32])

    async def _flush(self) -> None:
        upload, data = self.upload, bytes(self._block)
        self._block.clear()
        if upload is not None and data:
            await self._service.wait(self._caller, lambda: upload.write(data), len(data))


def _expiry(fields: dict[str, str]) -> int:
    """Seconds that a file stays. Raises Refused."""
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise Refused("expires_after.anchor: expected created_at", "expires_after.anchor")
    text = fields.get("expires_after[seconds]", str(KEPT_S))
    seconds = int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0
    if not SHORTEST_S <= seconds <= KEPT_S:
        expected = f"expected {SHORTEST_S} to {KEPT_S}"
        raise Refused(f"expires_after.seconds: got {text[:20]!r}, {expected}", "expires_after.seconds")
    return seconds


async def listed(service: Service, request: Request, caller: Caller) -> Response:
    """Files of this key, a page of them, the newest first unless `order=asc`."""
    asked = request.query_params
    found = files_of(service).files_of(caller.key)
    if purpose := asked.get("purpose"):
        found = [file for file in found if file.purpose == purpose]
    return json_response(page_of(found, asked, PAGE, MOST_PAGE))


def page_of(records: list[Any], asked: Any, usual: int, most: int) -> dict[str, Any]:
    """A page of records, as clients see it. Raises Refused, NotFound."""
    order, limit = asked.get("order") or "desc", asked.get("limit") or str(usual)
    if order not in ("asc", "desc"):
        raise Refused(f"order: got {order[:20]!r}, expected asc or desc", "order")
    number = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 9 else 0
    if not 1 <= number <= most:
        raise Refused(f"limit: got {limit[:20]!r}, expected 1 to {most}", "limit")
    some, more = page(iter(records if order == "asc" else records[::-1]), asked.get("after") or None, number)
    data = [one.to_dict() for one in some]
    ends = {"first_id": some[0].id, "last_id": some[-1].id} if some else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": more, **ends}


async def retrieve(service: Service, request: Request, caller: Caller) -> Response:
    """A file's record."""
    return json_response(files_of(service).file(caller.key, request.path_params["id"]).to_dict())


async def delete(service: Service, request: Request, caller: Caller) -> Response:
    """Remove a file."""
    store = files_of(service)
    file = store.file(caller.key, request.path_params["id"])
    await service.wait(caller, lambda: store.drop_file(file))
    return json_response({"id": file.id, "object": "file", "deleted": True})


async def content(service: Service, request: Request, caller: Caller) -> Stream:
    """The bytes of a file, as they stand on the disk."""
    store = files_of(service)
    file = store.file(caller.key, request.path_params["id"])
    opened = await service.wait(caller, lambda: store.path(file).open("rb"))

    async def pieces() -> AsyncGenerator[bytes, None]:
        while data := await service.wait(caller, lambda: opened.read(PIECE), PIECE):
            yield data

    async def ended() -> None:
        with suppress(OSError):
            opened.close()

    headers = {"content-length": str(file.bytes)}
    limit_s = service.limits.write_timeout_s
    return Stream(pieces(), "application/octet-stream", headers=headers, write_timeout_s=limit_s, ended=ended)
