"""Several replies under way as one stream of events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from herd.events import Event
from herd.server.service import ReplyInProgress


async def merged(answers: Sequence[ReplyInProgress]) -> AsyncGenerator[tuple[int, Event], None]:
    """(which of the replies, event) of all of them, as they come. The first error ends it; whoever opened the replies
    closes them."""
    streams = [answer.events() for answer in answers]
    if len(streams) == 1:
        async for event in streams[0]:
            yield 0, event
        return
    waiting = {asyncio.ensure_future(anext(stream, None)): i for i, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i, found = waiting.pop(task), task.result()
                if found is not None:
                    waiting[asyncio.ensure_future(anext(streams[i], None))] = i
                    yield i, found
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
