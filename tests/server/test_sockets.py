"""Sockets of the service, and the bound of its queue."""

import asyncio
import socket
import threading

from serving import BYTES

from helpers import PATIENCE_S
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import Busy
from herd.llm import LLM
from herd.server.run import bind
from herd.text.chat import Llama4


def test_small_writes_leave_at_once() -> None:
    """Nagle's algorithm would hold a token back until the one before is acknowledged, 40 ms later."""

    async def accepted() -> int:
        came: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            came.set_result(found)
            writer.close()

        listening = bind("127.0.0.1", 0)
        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            found = await came
            writer.close()
            return found

    assert asyncio.run(accepted())


def test_the_queue_of_a_model_has_the_bound_that_it_was_given() -> None:
    async def waiting() -> int:
        streams = [llm.astream("Go on.", max_tokens=1000, client=str(i)) for i in range(10)]
        try:
            for count, stream in enumerate(streams):
                try:
                    await stream.ready()
                except Busy:
                    return count
            return len(streams)
        finally:
            for stream in streams:
                await stream.aclose()

    on = threading.Event()  # no pass ends before
    model = FakeModel(lambda ids: ord("x"), cost=lambda rows: float(not on.wait(PATIENCE_S)))
    with LLM(TINY, model, BYTES, Llama4(BYTES), parallel=1, queue=4) as llm:
        try:
            assert asyncio.run(waiting()) == 4
        finally:
            on.set()
