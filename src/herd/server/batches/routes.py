"""Routes of files and batches."""

from herd.server.batches import batches, files
from herd.server.routes import Route

ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/files", files.upload, "chat"),
    Route("GET", "/v1/files", files.listed, "chat"),
    Route("GET", "/v1/files/{id}", files.retrieve, "chat"),
    Route("DELETE", "/v1/files/{id}", files.delete, "chat"),
    Route("GET", "/v1/files/{id}/content", files.content, "chat"),
    Route("POST", "/v1/batches", batches.create, "chat"),
    Route("GET", "/v1/batches", batches.listed, "chat"),
    Route("GET", "/v1/batches/{id}", batches.retrieve, "chat"),
    Route("POST", "/v1/batches/{id}/cancel", batches.cancel, "chat"),
)
