"""Bedrock's Converse: its own fields, and its own binary stream.

    POST {base}/model/{id}/converse-stream    frames (`herd.backends.frames`)
    POST {base}/model/{id}/converse           one JSON text: for tools of a Llama, whose calls Bedrock does not stream

The key is a bearer token (AWS_BEARER_TOKEN_BEDROCK); requests signed with an account's own keys (Signature V4) are not
spoken. The runtime lists no models. What it is not: the fields (`converse_request`), the events (`converse_stream`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from herd.backends.converse_request import body_of, can, images_in, is_llama
from herd.backends.converse_stream import Translation, chunks_of
from herd.backends.frames import KIND, frames
from herd.backends.gate import Pass
from herd.backends.reading import value_of
from herd.backends.target import Target
from herd.backends.transport import WHOLE, Reads, Transport
from herd.backends.wire import Sending
from herd.chat_model import Capabilities, Turns


class ConverseForm:
    """See WireForm."""

    def can(self, capabilities: Capabilities) -> Capabilities:
        """See WireForm: images and tools."""
        return can(capabilities)

    def forces(self, target: Target) -> bool:
        """See WireForm."""
        return not is_llama(target)

    def body_of(self, target: Target, messages: Turns, options: Mapping[str, Any]) -> dict[str, Any]:
        """See WireForm."""
        return body_of(target, messages, options)

    def images_in(self, body: Mapping[str, Any]) -> int:
        """See WireForm."""
        return images_in(body)

    async def talk(self, sending: Sending) -> AsyncGenerator[Any, None]:
        """See WireForm."""
        target = sending.transport.target
        whole = is_llama(target) and bool(sending.options.get("tools"))
        path = f"/model/{quote(target.model, safe='')}/{'converse' if whole else 'converse-stream'}"
        reads = WHOLE if whole else Reads(KIND, _chunks, or_json=False)
        post = sending.transport.post(path, sending.body, sending.passed, timeout_s=sending.timeout_s, reads=reads)
        async with aclosing(post):
            async for found in post:
                if whole:
                    for chunk in chunks_of(target, found):
                        yield chunk
                else:
                    yield found

    async def models(self, transport: Transport, passed: Pass) -> tuple[str, ...] | None:
        """See WireForm: they are listed at another address, which this key does not open."""
        return None


async def _chunks(pieces: AsyncIterator[bytes], target: Target) -> AsyncGenerator[Any, None]:
    """Chunks of an answer that comes as frames."""
    translation = Translation(target)
    async with aclosing(frames(pieces, target)) as found:
        async for frame in found:
            value = await value_of(frame.payload, target) if frame.payload else {}
            for chunk in translation.event(frame, value):
                yield chunk
