"""The service under load in a process of its own: requests on stdin (see harness.Worker), one JSON line each back."""

import asyncio
import gc
import json
import os
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from serve_model import NAME, StepTimes, paced

from herd.errors import NotFound
from herd.events import TextEvent
from herd.llm import AsyncStream
from herd.server.app import create_app
from herd.server.catalogue import CatalogueEntry
from herd.server.http.connection import uvicorn_options
from herd.server.keys import Key, Keyring, digest_of
from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.models import FOREVER, Models
from herd.server.options import ServerOptions
from herd.server.profiles import Profiles
from herd.server.run import bind
from herd.server.service import Service

FREE_S = 20.0
"""How long a place or a page may take to come free before it counts as leaked."""


class OneModel:
    """A catalogue of one model without files."""

    profiles = Profiles(Path("/nowhere/profiles.json"))

    def names(self) -> dict[str, CatalogueEntry]:
        return {NAME: CatalogueEntry(NAME, Path("/nowhere"), digest="", size_bytes=0, added_s=0.0)}

    def find(self, name: str) -> CatalogueEntry:
        if name != NAME:
            raise NotFound(f"model: got {name!r}, expected {NAME}")
        return self.names()[name]


class Running:
    """The service on a thread, and what can be asked of it."""

    def __init__(self, pace: StepTimes, keys: int, per_key: int) -> None:
        self.period_s = pace.period_s
        self.llm = paced(pace)
        listening = bind("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        made = tuple(Key(f"key{i}", digest_of(secret_of(i))) for i in range(keys))
        log, limits = Log("off"), Limits(per_key=per_key, queue=pace.queue)
        models = Models(OneModel(), lambda path: self.llm, keep_alive_s=FOREVER, log=log)
        self.service = Service(models, keyring=Keyring(made), limits=limits, log=log)
        app = create_app(self.service, ServerOptions(port=0, keys=made, log="off", limits=limits))
        self.server = uvicorn.Server(uvicorn.Config(app, **uvicorn_options(limits)))
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, args=(listening,), daemon=True).start()
        while not self.server.started:
            time.sleep(0.01)

    def _run(self, listening: socket.socket) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self.server.serve(sockets=[listening]))

    def usage(self) -> dict[str, float]:
        """What this process holds, once all that is garbage is gone."""
        gc.collect()
        return {"threads": threading.active_count(), "descriptors": len(os.listdir("/proc/self/fd"))}

    def cpu(self) -> dict[str, float]:
        """CPU seconds of this process so far."""
        return {"cpu_s": time.process_time()}

    def now(self) -> dict[str, int]:
        """Requests that wait, and resident memory. Cheap: to collect garbage here would hold up the service."""
        with open("/proc/self/statm") as f:
            pages = int(f.read().split()[1])
        return {
            "waiting": self.llm._engine._table.gate.total,
            "rss_bytes": pages * os.sysconf("SC_PAGESIZE"),
        }

    def wait_free(self) -> dict[str, float]:
        """Seconds until no sequence runs or waits in the engine, which runs in this process, and none is expected."""
        began_s = time.monotonic()
        core = self.llm._engine.executor._core
        while core._entries or self.llm._engine._table.jobs:
            if time.monotonic() - began_s > FREE_S:
                break
            time.sleep(0.0005)
        return {"seconds": time.monotonic() - began_s, "left": len(core._entries)}

    def lost(self) -> dict[str, int]:
        """Pages that nobody gave back, once cached prefixes are forgotten; slots likewise."""
        room = self.llm._engine.runner.cache
        room.check()
        room.forget()
        pages = sum(room.total()) - sum(room.free())
        return {
            "pages": pages,
            "slots": len(self.llm._engine.executor._core._entries),
            "requests": sum(key.under_way for key in self.service.keyring._keys),
        }

    def direct(self, tokens: int) -> dict[str, float]:
        """A stream read on the service's own loop, without HTTP: CPU seconds a token, and delays as a client has."""
        return asyncio.run_coroutine_threadsafe(self._direct(tokens), self.loop).result()

    async def _direct(self, tokens: int) -> dict[str, float]:
        stream: AsyncStream = self.llm.astream("Go on.", max_tokens=tokens)
        await stream.ready()
        delays, began_s = [], 0.0
        async for event in stream:
            if isinstance(event, TextEvent):
                delays.append(time.monotonic() % self.period_s)
                began_s = began_s or time.process_time()
        return {
            "cpu_s": (time.process_time() - began_s) / (len(delays) - 1),
            "delay_s": statistics.median(delays),
        }


def secret_of(number: int) -> str:
    """The secret of a key."""
    return f"benchmark-key-{number:04d}"


def main() -> None:
    running: Running | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        do = asked.pop("do")
        if do == "start":
            running = Running(StepTimes(**asked.pop("pace")), **asked)
            answer: dict[str, Any] = {"port": running.port}
        else:
            answer = getattr(running, do)(**asked)
        print(json.dumps(answer), flush=True)
    if running is not None:
        running.llm.close()
    os._exit(0)


if __name__ == "__main__":
    main()
