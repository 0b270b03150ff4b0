"""An event loop on a thread of its own, for whoever has none: coroutines are handed to it, from any thread.

What it is not: a pool.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from herd.chat_model import ChatStream
from herd.errors import NotReady

T = TypeVar("T")
ROUNDS = 3
"""Times that tasks are cancelled before a loop ends."""


class LoopThread:
    """A thread that runs an event loop, from the first call on."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def is_running(self) -> bool:
        """Whether its loop runs."""
        return self._loop is not None

    @property
    def is_here(self) -> bool:
        """Whether the caller is on its thread."""
        return threading.current_thread() is self._thread

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What a coroutine gives that is made and runs on that loop. A caller that is interrupted cancels it. Raises
        NotReady once it is closed."""
        future = self.submit(make)
        try:
            return future.result()
        except CancelledError:
            raise NotReady("the model was closed") from None
        except BaseException:
            future.cancel()
            raise

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """`run` without waiting. Raises NotReady once it is closed."""
        with self._lock:  # so that what was submitted is there when the loop stops
            loop = self._running()
            return asyncio.run_coroutine_threadsafe(_made(make), loop)

    def leave(self, stream: ChatStream) -> None:
        """Close a stream; the loop's own thread, which may be the one that collects what nobody reads, does not wait
        for it."""
        with suppress(NotReady):  # closed, and the stream with it
            if self.is_here:
                self.submit(stream.aclose)
            else:
                self.run(stream.aclose)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise NotReady("the model is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="herd-remote", daemon=True)
            self._thread.start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def close(self) -> None:
        """Cancel what runs, and end the thread."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if not self.is_here:  # which may be the one that collects what nobody uses
                thread.join()


async def _made(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await make()


async def _cancel_all() -> None:
    """Cancel all other tasks, and wait for their end; those that close what the cancelled ones leave, too."""
    for _ in range(ROUNDS):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)
