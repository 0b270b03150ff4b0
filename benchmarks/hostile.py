"""A service among hostile requests: what /health, other keys' streams and memory notice of each kind.

`herd serve` runs as it is installed, with a model of the store, three keys and images from the network allowed; one
key attacks. Each kind is doubled from 4 KiB to the service's limit; or all are mixed at random.

    scripts/bench hostile [--model smollm2] [--only KIND,...] [--seconds 60] [--mix MINUTES] [--seed 0] [--json FILE]

A finding is /health over 250 ms or not answering, a gap of over 1 s in a stream of another key, memory of the service
beyond the sum of its own table (`herd serve --limits`), an answer of 500, or a process that ended. With any the exit
status is 1.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Worker, machine
from hostile_kinds import KINDS, MOST, Target

HEALTH_S, GAP_S = 0.25, 1.0
START = 4 << 10
SECRETS = {name: f"{name}-secret-of-this-benchmark" for name in ("attacker", "first", "second")}
EMBED_TOO = '["chat", "embed", "models"]'


class Served:
    """`herd serve` as a process; leave the `with`, and it ends."""

    def __init__(self, model: str, folder: Path) -> None:
        self.model = model
        keys = folder / "keys.toml"
        keys.write_text(
            "".join(f'[[key]]\nname = "{n}"\nsecret = "{s}"\nrights = {EMBED_TOO}\n' for n, s in SECRETS.items())
        )
        keys.chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        herd = [sys.executable, "-m", "herd"]
        said = subprocess.run([*herd, "serve", "--limits"], capture_output=True, text=True, check=True).stdout
        self.most_bytes = _sum(said)
        command = [*herd, "serve", model, "--port", str(self.port), "--no-ollama-port", "--keys", str(keys)]
        command += ["--remote-media", "--policy", "redact", "--log", "json"]
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._wait()
        self.idle_bytes = self.resident()

    def _wait(self) -> None:
        head = b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nx-api-key: %s\r\n\r\n"
        for _ in range(1200):
            time.sleep(0.1)
            if self.process.poll() is not None:
                sys.exit(f"herd serve ended: {self.log.read_text()[-2000:]}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                    connection.sendall(head % SECRETS["first"].encode())
                    if b"200 OK" in connection.recv(4096):
                        return
            except OSError:
                continue
        sys.exit("herd serve was not ready within two minutes")

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def resident(self) -> int:
        """Bytes of the service's process, without its engine's."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return 0
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10 if "VmRSS" in status else 0  # type: ignore[index]

    def mistakes(self) -> Counter[str]:
        """Lines of its log that tell of errors nobody foresaw, and of engines that died."""
        found: Counter[str] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            if '"event": "error"' in line or '"event": "restart"' in line or "Traceback" in line:
                said = json.loads(line) if line.startswith("{") else {"event": line}
                found[f"{said.get('event')} {said.get('error', '')} {said.get('at', '')}".strip()] += 1
        return found


def _sum(limits: str) -> int:
    """The last number of the line that sums the holders."""
    line = next((line for line in reversed(limits.splitlines()) if "sum" in line.lower()), "")
    numbers = re.findall(r"\d[\d,]*", line)
    return int(numbers[0].replace(",", "")) if numbers else 0


class Round:
    """One kind at one size, or a mix: what was sent, and what others noticed."""

    def __init__(self, served: Served, watch: Worker) -> None:
        self._served, self._watch = served, watch
        self._known = served.mistakes()

    def run(self, name: str, size: int, limit_s: float) -> dict[str, Any]:
        """Send it, and say what came of it."""
        target = Target(self._served.port, self._served.model, SECRETS["attacker"])
        self._watch.report()
        began_s = time.monotonic()
        peak = asyncio.run(self._attack(name, target, size, limit_s))
        took_s = time.monotonic() - began_s
        found = {"kind": name, "size": size, "took_s": round(took_s, 2), "statuses": dict(target.statuses)}
        found |= self._watch.report()
        found["grown_bytes"] = max(0, peak - self._served.idle_bytes)
        mistakes = self._served.mistakes()
        found["mistakes"] = dict(mistakes - self._known)
        self._known = mistakes
        found["findings"] = list(self._findings(found))
        return found

    async def _attack(self, name: str, target: Target, size: int, limit_s: float) -> int:
        peak = self._served.resident()
        task = asyncio.ensure_future(KINDS[name](target, size))
        until = time.monotonic() + limit_s
        while not task.done() and time.monotonic() < until:
            await asyncio.wait({task}, timeout=0.05)
            peak = max(peak, self._served.resident())
        if not task.done():
            task.cancel()
            target.statuses["stopped here"] += 1
        await asyncio.gather(task, return_exceptions=True)
        return peak

    def _findings(self, found: dict[str, Any]) -> Iterator[str]:
        if found["health_s"] > HEALTH_S or found["unhealthy"]:
            yield f"/health {found['health_s'] * 1e3:.0f} ms, {found['unhealthy']} unanswered"
        if found["gap_s"] > GAP_S:
            yield f"a gap of {found['gap_s']:.1f} s in another key's stream"
        if self._served.most_bytes and found["grown_bytes"] > self._served.most_bytes:
            yield f"{found['grown_bytes'] >> 20} MiB of {self._served.most_bytes >> 20}"
        if bad := [s for s in found["statuses"] if s == "500"]:
            yield f"{found['statuses'][bad[0]]} times 500"
        for status, count in found["ends"].items():
            if status not in ("200", "429"):
                yield f"{count} streams of others ended with {status}"
        for mistake, count in found["mistakes"].items():
            yield f"{count} x {mistake}"
        if self._served.process.poll() is not None:
            yield "the service has ended"


def doubled(names: list[str], round_: Round, seconds: float) -> Iterator[dict[str, Any]]:
    """Every kind, each size twice the one before."""
    for name in names:
        began_s, size = time.monotonic(), START
        while size <= MOST and time.monotonic() - began_s < seconds:
            yield round_.run(name, size, seconds)
            size *= 2


def mixed(names: list[str], round_: Round, minutes: float, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Kinds and sizes at random."""
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until:
        yield round_.run(chance.choice(names), START << chance.randrange(15), 20.0)


def show(found: dict[str, Any]) -> None:
    """One line."""
    statuses = " ".join(f"{s}:{n}" for s, n in sorted(found["statuses"].items()))
    print(
        f"{found['kind'][:44]:44} {found['size'] / 1024:8.0f} KiB {found['took_s']:6.1f} s  "
        f"health {found['health_s'] * 1e3:5.0f} ms  gap {found['gap_s']:5.2f} s  first {found['first_s']:5.1f} s  "
        f"+{found['grown_bytes'] >> 20:5} MiB  {statuses}" + "".join(f"\n    FINDING {f}" for f in found["findings"]),
        flush=True,
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--only", help="kinds, with commas; parts of their names are enough")
    parser.add_argument("--mix", type=float, help="minutes of all kinds at random instead of each doubled")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which a kind is not doubled any more")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a file that gets every line as JSON")
    arguments = parser.parse_args()
    parts = arguments.only.split(",") if arguments.only else [""]
    names = [name for name in KINDS if any(part in name for part in parts)]
    print(machine())
    findings, lines = 0, []
    with tempfile.TemporaryDirectory() as folder, Served(arguments.model, Path(folder)) as served:
        print(f"idle {served.idle_bytes >> 20} MiB, the table's sum {served.most_bytes >> 20} MiB")
        watch = Worker(sys.executable, "hostile_watch.py")
        watch.start(port=served.port, model=served.model, secrets=[SECRETS["first"], SECRETS["second"]])
        time.sleep(3)
        calm = watch.report()
        print(f"calm: health {calm['health_s'] * 1e3:.0f} ms, gap {calm['gap_s']:.2f} s, first {calm['first_s']:.2f} s")
        round_ = Round(served, watch)
        mix = mixed(names, round_, arguments.mix, random.Random(arguments.seed)) if arguments.mix else None
        for found in mix or doubled(names, round_, arguments.seconds):
            show(found)
            lines.append(found)
            findings += len(found["findings"])
            if served.process.poll() is not None:
                break
        if arguments.json:
            arguments.json.write_text("\n".join(json.dumps(line) for line in lines))
    worst = {name: max(line[name] for line in lines) for name in ("health_s", "gap_s", "grown_bytes")}
    print(
        f"{len(lines)} rounds, {findings} findings; at most: health {worst['health_s'] * 1e3:.0f} ms, "
        f"gap {worst['gap_s']:.2f} s, +{worst['grown_bytes'] >> 20} MiB"
    )
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
