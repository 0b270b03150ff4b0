"""Records what a real engine answers, byte by byte, as fixtures of tests/backends (`engines.py record`).

A relay on loopback stands between Herd and the engine: it keeps the request as Herd wrote it, and each piece of the
answer as the engine sent it. Beside each answer that streams stands the engine's own whole one for the same request,
so that what Herd makes of the stream is held against what the engine says itself. Dates, ids, times and paths, which
differ each time, are replaced by constants.
"""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from engines_cases import CHAT

from herd.backends.failures import reason_of
from herd.backends.model import BackendModel
from herd.backends.presets import preset_of
from herd.backends.target import Bounds, Secret, Target
from herd.errors import HerdError

FOLDER = Path(__file__).parents[1] / "tests" / "backends" / "recorded"
KEPT = ("content-type", "retry-after", "transfer-encoding")
_SAME = (
    (re.compile(rb'("created": ?)\d+'), rb"\g<1>0"),
    (re.compile(rb'("(?:[a-z]+_)?(?:ms|per_second)": ?)[0-9.e+-]+'), rb"\g<1>1.0"),
    (re.compile(rb'("id": ?")(chatcmpl|cmpl|modelperm)-(?!tool)[0-9A-Za-z-]+'), rb"\g<1>\g<2>-0"),
    (re.compile(rb"/[0-9A-Za-z_./-]*/(engines|smol|models)[0-9A-Za-z_./-]*"), rb"/MODEL"),
)
_CALL = re.compile(rb'("id": ?")((?:chatcmpl-tool-|call_)?[0-9A-Za-z]{16,})(")')


@dataclass
class Kept:
    """One exchange. pieces: of the body, as they came."""

    method: str = ""
    path: str = ""
    asked: bytes = b""
    status: int = 0
    headers: dict = field(default_factory=dict)
    pieces: list = field(default_factory=list)
    cut: bool = False


class Relay:
    """Passes connections on to an engine, and keeps what is said. Each connection is one exchange."""

    def __init__(self, url):
        self.there = urlsplit(url)
        self.kept = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}{self.there.path}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._pass, args=(connection,), daemon=True).start()

    def _pass(self, here):
        with (
            here,
            socket.create_connection((self.there.hostname, self.there.port)) as there,
            contextlib.suppress(OSError),
        ):
            kept = Kept()
            self.kept.append(kept)
            file = here.makefile("rb")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline()
                if not line:
                    return
                head += line
            kept.method, kept.path = head.split(b" ", 2)[0].decode(), head.split(b" ", 2)[1].decode()
            size = re.search(rb"(?i)content-length: (\d+)", head)
            kept.asked = file.read(int(size[1])) if size else b""
            there.sendall(head + kept.asked)
            kept_answer(there, here, kept)


def kept_answer(there, here, kept):
    """Read an answer, pass its bytes on, and keep them."""

    class Tee:
        def __init__(self, file):
            self.file = file

        def readline(self):
            return self._on(self.file.readline())

        def read(self, count):
            return self._on(self.file.read(count))

        def some(self, count):
            return self._on(self.file.read1(count))

        def _on(self, data):
            here.sendall(data)
            return data

    file = Tee(there.makefile("rb"))
    kept.status = int(file.readline().split()[1])
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        kept.headers[name.lower()] = value.strip()
    if kept.headers.get("transfer-encoding") == "chunked":
        while True:
            line = file.readline()
            size = int(line, 16) if line.strip() else None
            if size is None:
                kept.cut = True
                return
            piece = file.read(size + 2)
            if size == 0:
                return
            if len(piece) < size + 2:
                kept.cut = True
            kept.pieces.append(piece[:size])
    left = int(kept.headers.get("content-length", 1 << 40))
    while left > 0 and (piece := file.some(min(left, 1 << 16))):
        kept.pieces.append(piece)
        left -= len(piece)


def target(engine, url, model, key):
    preset = preset_of(engine)
    return Target(
        name=engine, base_url=url, model=model, key=Secret(key) if key else None, in_house=True,
        capabilities=preset.capabilities, options=preset.options, names_choice=preset.names_choice,
            always_goes_on=preset.always_goes_on,
        bounds=Bounds(retries=0),
    )  # fmt: skip


def record(engine, url, model, key, only="", calls_url=""):
    """Write the file of one engine. Returns how many rows Herd took otherwise than expected."""
    relays = {False: Relay(url), True: Relay(calls_url or url)}
    rows, wrong = [], 0
    for case in CHAT:
        if engine not in case.engines or only not in case.name:
            continue
        relay = relays[case.calls]
        relay.kept.clear()
        used = key if case.key is None else case.key
        there = target(engine, relay.url, case.model or model, used)
        if case.raw is not None:
            _ask(relay.url, case, model, used)
            told = ""
        else:
            told = asyncio.run(_told(there, case))
        row = _row(case, relay.kept[-1] if relay.kept else None, told)
        if (row.get("asked") or {}).get("stream") and case.expects == "answer" and case.raw is None:
            row["whole"] = _whole(relay.there.geturl(), row["asked"], key)
        rows.append(row)
        good = told == "" or told.partition(":")[0] == case.expects
        wrong += not good
        print(f"{'ok   ' if good else 'WRONG'} {engine:<13}{case.name:<32}{row['status']} {told[:150]}", flush=True)
    file = FOLDER / f"{engine}.json"
    if file.exists():  # rows that were not asked for stay, those of engines that were killed among them
        new = {row["name"]: row for row in rows}
        old = json.loads(file.read_text(encoding="utf-8"))["rows"]
        rows = [new.pop(row["name"], row) for row in old] + [*new.values()]
    if rows:
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            json.dumps({"engine": engine, "model": model, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
        )
        print(f"{file}: {file.stat().st_size} bytes")
    return wrong


async def _told(there, case):
    """What Herd makes of an answer, on a line."""
    try:
        said = []
        async with contextlib.aclosing(BackendModel(there).astream(case.turns, **case.options)) as stream:
            async for event in stream:
                if hasattr(event, "reply"):
                    reply, used = event.reply, event.reply.usage
                    calls = [(call.name, call.arguments) for call in reply.tool_calls]
                    more = f"{calls} {reply.cut_call or ''} {reply.stop or ''}"
                    tokens = f"{used.prompt_tokens}+{used.output_tokens}"
                    said.append(f"{reply.text!r} {reply.finish_reason} {tokens} {more}")
        return "answer: " + " | ".join(said)
    except HerdError as error:
        return f"{reason_of(error)}: {type(error).__name__}: {error}"


def _ask(url, case, model, key):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=300)
    path = case.path if case.path.startswith("//") else parts.path + case.path
    body = case.raw.replace(b"MODEL", model.encode())
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", "Connection": "close"}
    connection.request(case.method, path, body or None, headers)
    connection.getresponse().read()


def _whole(url, asked, key):
    """The engine's own whole answer to what was asked as a stream."""
    parts = urlsplit(url)
    body = {name: value for name, value in asked.items() if name != "stream_options"} | {"stream": False}
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=300)
    connection.request("POST", parts.path + "/chat/completions", json.dumps(body), {
        "Content-Type": "application/json", "Authorization": f"Bearer {key}"})  # fmt: skip
    return json.loads(same(connection.getresponse().read()))


def _row(case, kept, told):
    row = {"name": case.name, "expects": case.expects, "turns": case.turns, "options": case.options}
    if kept is None:
        return row | {"status": 0, "refused": told}
    calls = {}
    pieces = [same(piece, calls) for piece in kept.pieces]
    row |= {"method": kept.method, "path": kept.path, "status": kept.status}
    row["headers"] = {name: value for name, value in kept.headers.items() if name in KEPT}
    row["cut"] = kept.cut
    if case.raw is None:
        row["asked"] = json.loads(kept.asked)
        if len(kept.asked) > 8000:  # of a prompt that is too long only the beginning matters
            row["asked"], row["turns"] = None, [{"role": "user", "content": "word " * 8}]
    else:
        row["raw"] = case.raw.decode()
    row["pieces"] = [piece.decode("utf-8", "surrogateescape") for piece in pieces]
    return row


def same(data, calls=None):
    """Bytes without what differs each time."""
    for pattern, put in _SAME:
        data = pattern.sub(put, data)
    calls = {} if calls is None else calls
    return _CALL.sub(lambda m: m[1] + calls.setdefault(m[2], b"call_recorded_%d" % len(calls)) + m[3], data)
