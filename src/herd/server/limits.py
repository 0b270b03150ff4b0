"""Every limit of the service in one struct; `herd serve --limits` prints them. Limits come before the work.

Limits of what is below HTTP (options, images, the queue) stand where they are checked, and are listed here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from herd.errors import UsageError, fail


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the service: of one request, of one connection, of all. Raises UsageError for one below 1."""

    body_bytes: int = 16 << 20
    """A body without media; of one with media what is outside long strings of plain ASCII, as base64 is."""
    media_body_bytes: int = 48 << 20
    """A body on a route that takes images as base64: 36 MiB of images, a third more in base64."""
    bytes_in_flight: int = 512 << 20
    """Bytes of bodies and fetched images of all requests under way; a key may hold as many as are free."""
    json_depth: int = 64
    """Nesting of a body."""
    json_values: int = 200_000
    """Members and elements in a body."""
    json_escapes: int = 8 << 20
    """Backslashes in a body: what they stand for is read one by one, and nothing else is done meanwhile."""
    messages: int = 10_000
    tools: int = 1024
    grammar_s: int = 2
    """Seconds for trying a schema or grammar before the engine has it."""
    grammar_bytes: int = 256 << 20
    """Bytes of memory that trying a schema or grammar may take."""
    samples: int = 16
    """n: answers to one prompt."""
    prompts: int = 64
    """Prompts of one request to complete."""
    embed_inputs: int = 2048
    """Texts of one request for embeddings."""
    moderated: int = 1 << 20
    """Characters of all texts of one request to moderate: the rules take seconds for so many."""
    name_bytes: int = 256
    """A model's name, a user, an id that a client chose."""
    queue: int = 1024
    """Requests that wait for a place in a model."""
    per_key: int = 64
    """Requests of one key under way at once; where no key is needed, `queue` is the limit."""
    connections: int = 4096
    """Open at once; over that the one that has been idle longest is closed, or the slowest that sends its body."""
    newcomer_share: int = 8
    """1 / newcomer_share of the connections is kept for those that have begun no request, and for /health."""
    request_line_bytes: int = 8 << 10
    header_bytes: int = 64 << 10
    """Bytes of a request's head, its line and the empty one included."""
    headers: int = 100
    """Fields of a head."""
    header_timeout_s: int = 10
    """Seconds from a connection's first moment to the end of its headers."""
    body_timeout_s: int = 30
    """Seconds for a body, and as long again as its bytes take at 16 KiB a second."""
    idle_timeout_s: int = 75
    """A connection kept open between requests."""
    write_timeout_s: int = 60
    """Seconds that a reader may read nothing."""
    linger_s: int = 5
    """Seconds that a connection whose request was answered before its end is read on, so that its answer arrives."""
    linger_bytes: int = 16 << 20
    """Bytes that are read then, and thrown away."""
    unread_bytes: int = 1 << 20
    """Unread bytes of a stream; a reader that is slower is dropped. A token takes 256, a log-probability 768 more."""
    reply_bytes: int = 256 << 20
    """Bytes of one answer in memory, all samples and log-probabilities included; then it is ended with an error."""
    answers_bytes: int = 2 << 30
    """Bytes of prompts' ids, tiles of images, tokens and whole replies of all requests under way; a key may hold as
    many as are free."""
    file_bytes: int = 1 << 30
    """Bytes of one file (/v1/files), and of the results of a batch."""
    key_file_bytes: int = 8 << 30
    """Bytes of a key's files on the disk; those on their way are counted."""
    key_files: int = 1000
    batch_lines: int = 100_000
    """Requests of one batch."""
    key_batches: int = 100
    """Batches of a key; the oldest that is over makes room."""
    batches: int = 1000
    """Batches of all keys."""
    batches_at_once: int = 4
    """Batches that run at once, one of a key; the others wait."""
    batch_at_once: int = 8
    """Requests of all batches under way while nobody else asks."""
    batch_beside: int = 2
    """Requests of all batches under way beside live ones."""
    drain_s: int = 30
    """Seconds from the first signal to the end of requests under way."""
    stored_responses: int = 1000
    """Stored responses (/v1/responses) of a key; the oldest go."""
    key_stored_bytes: int = 128 << 20
    """Bytes of a key's stored responses, as JSON; the oldest go."""
    stored_bytes: int = 256 << 20
    """Bytes of all keys' stored responses; the oldest of the key that has most go."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                fail(UsageError, f"limit {name}", got=value, expected="a whole number of 1 or more")


class Row(NamedTuple):
    """A limit as it is printed."""

    name: str
    value: int
    where: str


def table(limits: Limits) -> Iterator[Row]:
    """All limits: those of the service, and those that rooms below it check."""
    from herd import grammars
    from herd.engine import request
    from herd.media.limits import IMAGE_LIMITS, PIXELS_AT_ONCE
    from herd.server import keys, log, profiles
    from herd.store import registry

    for name in limits.__struct_fields__:
        yield Row(name, getattr(limits, name), "request or connection")
    for name, value in vars(IMAGE_LIMITS).items():
        yield Row(f"image_{name}", value, "image")
    yield Row("pixels_at_once", PIXELS_AT_ONCE, "all images that are being decoded")
    for name, value in (
        ("profiles_file_bytes", profiles.MAX_BYTES),
        ("profile_bytes", profiles.MAX_PROFILE_BYTES),
        ("profiles", profiles.MAX_PROFILES),
        ("models_file_bytes", registry.MAX_REGISTRY_BYTES),
        ("model_record_bytes", registry.MAX_RECORD_BYTES),
        ("keys_file_bytes", keys.MOST_FILE_BYTES),
    ):
        yield Row(name, value, "file")
    yield Row("schema_bytes", grammars.MAX_TEXT_BYTES, "schema or grammar")
    yield Row("log_bytes", log.MOST_BYTES, "lines that wait")
    yield Row("log_line", log.MOST_LINE, "characters of a line")
    for name in ("MAX_STOPS", "MAX_STOP_BYTES", "MAX_STOP_IDS", "MAX_LOGIT_BIAS", "MAX_LOGPROBS"):
        yield Row(name.lower(), getattr(request, name), "option")
