"""What others notice of an attack: /health, and streams of two keys of their own. A worker (see harness.Worker)."""

import asyncio
import json
import socket
import sys
import threading
import time
from typing import Any

from serve_load import TOKEN, Stream, open_stream, request

EVERY_S = 0.02
"""From one question after /health to the next."""
TOKENS = 150
HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class Watch:
    """The worst since the last report."""

    def __init__(self, port: int, model: str, secrets: list[str]) -> None:
        self._port, self._model = port, model
        self._lock = threading.Lock()
        self._forget()
        threading.Thread(target=self._ask_health, daemon=True).start()
        for secret in secrets:
            threading.Thread(target=lambda s=secret: asyncio.run(self._read_streams(s)), daemon=True).start()

    def _forget(self) -> None:
        self._worst: dict[str, Any] = {
            "health_s": 0.0,
            "unhealthy": 0,
            "gap_s": 0.0,
            "first_s": 0.0,
            "tokens": 0,
            "ends": {},
        }

    def report(self) -> dict[str, Any]:
        """The worst since the last one: seconds of /health, between tokens and to the first; how streams ended."""
        with self._lock:
            found = self._worst
            self._forget()
            return found

    def _most(self, name: str, value: float) -> None:
        with self._lock:
            self._worst[name] = max(self._worst[name], value)

    def _count(self, table: str, name: str = "") -> None:
        with self._lock:
            if name:
                self._worst[table][name] = self._worst[table].get(name, 0) + 1
            else:
                self._worst[table] += 1

    def _ask_health(self) -> None:
        while True:
            began_s = time.monotonic()
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
                    connection.sendall(HEALTH)
                    healthy = b"200 OK" in connection.recv(4096)
            except OSError:
                healthy = False
            self._most("health_s", time.monotonic() - began_s)
            if not healthy:
                self._count("unhealthy")
            time.sleep(EVERY_S)

    async def _read_streams(self, secret: str) -> None:
        """One stream after another; gaps are noted while they last, so that one that hangs is seen."""
        while True:
            asked = request("chat", self._model, TOKENS, secret)
            try:
                stream = await open_stream(self._port, lambda a=asked: Stream(a, TOKEN["chat"]))
            except OSError:
                self._count("ends", "no connection")
                await asyncio.sleep(0.5)
                continue
            seen = 0
            while not stream.over.done():
                await asyncio.wait({stream.over}, timeout=0.1)
                seen = self._note(stream, seen)
            self._count("ends", str(stream.status))
            await asyncio.sleep(0.05)

    def _note(self, stream: Stream, seen: int) -> int:
        times = stream.times
        for before, after in zip(times[max(seen - 1, 0) :], times[max(seen, 1) :], strict=False):
            self._most("gap_s", after - before)
        if times:
            self._most("first_s", times[0] - stream.began_s)
            if not stream.over.done():
                self._most("gap_s", time.monotonic() - times[-1])
        elif not stream.over.done():
            self._most("first_s", time.monotonic() - stream.began_s)
        with self._lock:
            self._worst["tokens"] += len(times) - seen
        return len(times)


def main() -> None:
    """Answer requests until the input ends."""
    watch: Watch | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked.pop("do") == "start":
            watch = Watch(**asked)
            found: dict[str, Any] = {}
        else:
            assert watch is not None, "start first"
            found = watch.report()
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
