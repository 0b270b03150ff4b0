"""How long one callback holds the event loop of a service: CPU time of its thread, which noise does not lengthen."""

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Iterator
from typing import Any


class LoopWatch:
    """The longest callback of every loop that runs meanwhile, but of this thread's."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.what = ""

    def reset(self) -> None:
        """Begin anew."""
        self.longest_s, self.what = 0.0, ""


@contextlib.contextmanager
def watched() -> Iterator[LoopWatch]:
    """Watch until the end. Garbage is the whole process's and is not collected meanwhile: who meets it is chance."""
    watch, run, here = LoopWatch(), asyncio.Handle._run, threading.get_ident()

    def timed(handle: asyncio.Handle) -> None:
        began_s = time.thread_time()
        what = _name(handle)
        run(handle)
        took_s = time.thread_time() - began_s
        if took_s > watch.longest_s and threading.get_ident() != here:
            watch.longest_s, watch.what = took_s, what

    gc.disable()
    asyncio.Handle._run = timed  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        asyncio.Handle._run = run  # type: ignore[method-assign]
        gc.enable()


def _name(handle: asyncio.Handle) -> str:
    """What a callback belongs to: of a task, where it waited."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        frames = owner.get_stack(limit=1)
        where = f" at {frames[-1].f_code.co_filename.rsplit('/', 1)[-1]}:{frames[-1].f_lineno}" if frames else ""
        coroutine = owner.get_coro()
        awaited = []
        while coroutine is not None and len(awaited) < 12:
            awaited.append(getattr(coroutine, "__qualname__", "?"))
            coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
        return " > ".join(awaited) + where
    return str(getattr(callback, "__qualname__", callback))
