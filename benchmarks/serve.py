"""What HTTP costs: a token's overhead by dialect, many streams, disconnects, twice the capacity.

The service runs in a process of its own over an engine without weights that makes tokens at a given rate (in a third
process, as `herd serve` has it); the clients are here. CPU figures are of the service's process alone.

    scripts/bench serve [--only one,shared,open,hangups,overload] [--overload-s 300] [--rounds 3] [--json FILE]
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Worker, machine
from serve_load import TOKEN, Stream, open_stream, request
from serve_model import NAME
from serve_service import secret_of

KEYS = 100
"""Clients with a key each: the service bounds what one of them may have under way."""


class Service:
    """A fresh service; leave the `with`, and its process ends."""

    def __init__(self, *, per_key: int = 64, **pace: Any) -> None:
        self.worker = Worker(sys.executable, "serve_service.py")
        self.period_s = pace["period_s"]
        self.port = self.worker.start(pace=pace, keys=KEYS, per_key=per_key)["port"]

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.close()

    async def stream(self, dialect: str, tokens: int, key: int = 0, **more: Any) -> Stream:
        """Begin a stream as one of the clients."""
        asked = request(dialect, NAME, tokens, secret_of(key % KEYS))
        return await open_stream(self.port, lambda: Stream(asked, TOKEN[dialect], **more))

    def cpu_s(self) -> float:
        """CPU seconds of the service's process so far."""
        return float(self.worker.cpu()["cpu_s"])


def p(values: Sequence[float], percent: float) -> float:
    """A percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def gaps(streams: Sequence[Stream], since_s: float = 0.0) -> list[float]:
    """Seconds between tokens that came after a moment."""
    return [b - a for s in streams for a, b in zip(s.times, s.times[1:], strict=False) if a >= since_s]


# -- one stream --------------------------------------------------------------------------------------------------------


async def one_stream(rounds: int) -> dict[str, Any]:
    """What a token costs beyond reading the model's own stream in the service's process, at 100 tokens/s."""
    period_s, tokens = 0.01, 200
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ("direct", *TOKEN)}
    with Service(period_s=period_s, places=8) as service:
        for dialect in TOKEN:
            await (await service.stream(dialect, 20)).over  # once unseen: imports, caches
        for _ in range(rounds):
            own = await asyncio.to_thread(service.worker.direct, tokens=tokens)
            rows["direct"].append((own["cpu_s"], own["delay_s"]))
            for dialect in TOKEN:
                rows[dialect].append(await _one(service, dialect, tokens))
    base_cpu, base_delay = (statistics.median(x) for x in zip(*rows["direct"], strict=True))
    found = {"direct": {"cpu_ms": base_cpu * 1e3, "delay_ms": base_delay * 1e3}}
    for dialect in TOKEN:
        cpu, delay = (statistics.median(x) for x in zip(*rows[dialect], strict=True))
        found[dialect] = {"cpu_ms": (cpu - base_cpu) * 1e3, "delay_ms": (delay - base_delay) * 1e3}
    return found


async def _one(service: Service, dialect: str, tokens: int) -> tuple[float, float]:
    """CPU seconds and median delay of a token."""
    stream = await service.stream(dialect, tokens)
    while not stream.times:
        await asyncio.sleep(0.005)
    before, had = service.cpu_s(), len(stream.times)
    await stream.over
    assert len(stream.times) == tokens, (dialect, stream.status, len(stream.times))
    return (service.cpu_s() - before) / (tokens - had), statistics.median(t % service.period_s for t in stream.times)


# -- many streams ------------------------------------------------------------------------------------------------------


async def many(streams: int, rate: float, seconds: float) -> dict[str, float]:
    """So many streams that share a rate of tokens: the service's share of a core, /health, gaps between tokens."""
    period_s = streams / rate
    tokens = int((seconds + 30) / period_s)
    probe = Worker(sys.executable, "serve_load.py")
    with Service(period_s=period_s, places=streams, per_key=streams) as service:
        began_s = time.monotonic()
        opened = [await service.stream("chat", tokens, key) for key in range(streams)]
        while not all(s.times for s in opened):
            assert not any(s.over.done() for s in opened), [s.status for s in opened if s.over.done()][:3]
            await asyncio.sleep(0.05)
        all_open_s = time.monotonic()
        had, cpu_s = sum(len(s.times) for s in opened), service.cpu_s()
        await asyncio.sleep(seconds)
        cpu_s, took_s = service.cpu_s() - cpu_s, time.monotonic() - all_open_s
        made = sum(len(s.times) for s in opened) - had
        health = (await asyncio.to_thread(probe.probe, port=service.port, seconds=seconds))["seconds"]
        between = gaps(opened, all_open_s)
        for stream in opened:
            stream.cut()
    probe.close()
    return {
        "streams": streams,
        "tokens_per_s": made / took_s,
        "core_percent": 100 * cpu_s / took_s,
        "cpu_us_per_token": 1e6 * cpu_s / made,
        "open_s": all_open_s - began_s,
        "health_p50_ms": 1e3 * p(health, 50),
        "health_p99_ms": 1e3 * p(health, 99),
        "gap_p50_ms": 1e3 * p(between, 50),
        "gap_p99_ms": 1e3 * p(between, 99),
        "period_ms": 1e3 * period_s,
    }


# -- clients that go away ----------------------------------------------------------------------------------------------


async def hangups(count: int, wave: int = 50) -> dict[str, float]:
    """Clients that go away at a random byte of their request or of its answer, in waves; what is left of them.

    Then single ones that go away in the middle of an answer: how long until the engine has their place again.
    """
    rng = random.Random(4)
    period_s = 0.02
    with Service(period_s=period_s, places=wave, child=False) as service:
        await _wave(service, rng, wave)  # once unseen: threads and modules that come with the first requests stay
        await asyncio.sleep(1.0)
        before = service.worker.usage()
        waves = [await _wave(service, rng, min(wave, count - start)) for start in range(0, count, wave)]
        single = [await _middle(service, rng) for _ in range(20)]
        await asyncio.sleep(1.0)
        after, lost = service.worker.usage(), service.worker.lost()
    return {
        "disconnects": count,
        **{f"lost_{name}": value for name, value in lost.items()},
        **{f"lost_{name}": after[name] - before[name] for name in ("threads", "descriptors")},
        "free_p50_ms": 1e3 * p(single, 50),
        "free_max_ms": 1e3 * max(single),
        "wave_free_p50_ms": 1e3 * p(waves, 50),
        "wave_free_max_ms": 1e3 * max(waves),
        "step_ms": 1e3 * period_s,
    }


async def _wave(service: Service, rng: random.Random, count: int) -> float:
    """Seconds from the last of so many disconnects until the engine has nothing to do for any of them."""
    streams = []
    for key in range(count):
        dialect = rng.choice(list(TOKEN))
        longest = 2 * len(request(dialect, NAME, 1000, secret_of(0))) if key % 2 else 20_000
        hang_up, reset = rng.randint(1, longest), rng.random() < 0.5
        streams.append(await service.stream(dialect, 1000, key, hang_up=hang_up, reset=reset))
    await asyncio.wait([s.over for s in streams])
    return float((await asyncio.to_thread(service.worker.wait_free))["seconds"])


async def _middle(service: Service, rng: random.Random) -> float:
    """The same after one disconnect."""
    stream = await service.stream(rng.choice(list(TOKEN)), 1000)
    while len(stream.times) < 5:
        await asyncio.sleep(0.005)
    await asyncio.sleep(rng.random() * service.period_s)
    began_s = time.monotonic()
    stream.cut()
    await asyncio.to_thread(service.worker.wait_free)
    return time.monotonic() - began_s


# -- more than it can do -----------------------------------------------------------------------------------------------


async def overload(seconds: float) -> dict[str, Any]:
    """Twice as many requests as it can answer, beside half as many: who is refused, how, and what the others feel."""
    places, period_s, tokens, queue = 8, 0.02, 50, 32
    capacity = places / period_s / tokens
    with Service(period_s=period_s, places=places, queue=queue) as service:
        calm = await _arrivals(service, capacity / 2, min(seconds, 20.0), tokens)
        busy = await _arrivals(service, capacity * 2, seconds, tokens)
    return {"capacity_per_s": capacity, "seconds": seconds, "queue": queue, "calm": calm, "busy": busy}


async def _arrivals(service: Service, per_s: float, seconds: float, tokens: int) -> dict[str, float]:
    """Requests that come at random, at so many a second."""
    rng = random.Random(5)
    streams: list[Stream] = []
    rss, waiting = [], []
    end_s, next_s, look_s = time.monotonic() + seconds, time.monotonic(), 0.0
    while time.monotonic() < end_s:
        next_s += rng.expovariate(per_s)
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        streams.append(await service.stream("chat", tokens, rng.randrange(KEYS)))
        if time.monotonic() > look_s:
            now = await asyncio.to_thread(service.worker.now)
            waiting.append(now["waiting"])
            rss.append(now["rss_bytes"])
            look_s = time.monotonic() + 1.0
    await asyncio.wait([s.over for s in streams])
    admitted = [s for s in streams if s.status == 200]
    refused = [s for s in streams if s.status == 429]
    first = [s.times[0] - s.began_s for s in admitted]
    between = gaps(admitted)
    return {
        "requests": len(streams),
        "admitted": len(admitted),
        "whole": sum(len(s.times) == tokens for s in admitted),
        "refused_429": len(refused),
        "without_retry_after": sum(not s.retry_after for s in refused),
        "other_status": len(streams) - len(admitted) - len(refused),
        "most_waiting": max(waiting),
        "first_token_p50_ms": 1e3 * p(first, 50),
        "first_token_max_ms": 1e3 * max(first),
        "gap_p50_ms": 1e3 * p(between, 50),
        "gap_p99_ms": 1e3 * p(between, 99),
        "rss_early_mib": statistics.median(rss[len(rss) // 5 : 2 * len(rss) // 5 + 1]) / 2**20,
        "rss_late_mib": statistics.median(rss[4 * len(rss) // 5 :]) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="one,shared,open,hangups,overload")
    parser.add_argument("--overload-s", type=float, default=300.0, help="seconds at twice the capacity")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    parts = {
        "one": lambda: one_stream(arguments.rounds),
        "shared": lambda: many(32, 500.0, 5.0),
        "open": lambda: many(1000, 1000.0, 10.0),
        "hangups": lambda: hangups(1000),
        "overload": lambda: overload(arguments.overload_s),
    }
    found: dict[str, Any] = {"benchmark": "serve", "machine": machine()}
    print(machine())
    for name in arguments.only.split(","):
        found[name] = asyncio.run(parts[name]())
        show(name, found[name])
    found["machine_after"] = machine()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def show(name: str, figures: dict[str, Any], indent: int = 0) -> None:
    """Nested figures as lines."""
    print(f"{' ' * indent}{name}")
    for key, value in figures.items():
        if isinstance(value, dict):
            show(key, value, indent + 2)
        else:
            print(
                f"{' ' * (indent + 2)}{key:<24}{value:12.3f}"
                if isinstance(value, float)
                else f"{' ' * (indent + 2)}{key:<24}{value:>8}"
            )


if __name__ == "__main__":
    main()
