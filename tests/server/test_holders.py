"""Whatever clients fill in the service's memory stays within its row of `herd serve --limits`.

Each row is filled through the running service, or where it is made, with the worst that there is, and what Python has
allocated is looked at. A row without a filling fails, and so does a container in the source that no row stands for.
"""

import gc
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from serving import FakeCatalogue, client_of, fake_llm, fake_service, running

import herd.errors
import herd.media.limits
from helpers import PATIENCE_S, until
from herd.llm import LLM
from herd.server import profiles
from herd.server.batches.index import Index
from herd.server.batches.worker import WORDS
from herd.server.catalogue import ABOUT_BYTES
from herd.server.file_store import LINE_BYTES, PROBLEMS, RECORD_BYTES, BatchProblem, FileStore, StoredBatch
from herd.server.holders import RECORDS_FACTOR, holders, sum_of
from herd.server.keys import Key
from herd.server.limits import Limits
from herd.server.log import MOST_BYTES, Log
from herd.server.metrics import MOST_MODELS, SERIES_BYTES, Metrics
from herd.server.profiles import Profile, Profiles
from herd.server.requests.admission import InFlight
from herd.server.service import Service

LIMITS = Limits(
    media_body_bytes=4 << 20,
    body_bytes=4 << 20,
    bytes_in_flight=8 << 20,
    answers_bytes=24 << 20,
    reply_bytes=8 << 20,
    key_stored_bytes=2 << 20,
    stored_bytes=4 << 20,
    connections=50,
)
ROWS = {holder.name: holder for holder in holders(LIMITS)}
SLACK = 3 << 20
"""Bytes of the service and of the test itself, that no client filled."""


@contextmanager
def _measured() -> Iterator[Callable[[], tuple[int, int]]]:
    """Bytes allocated since: (now, at most)."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def grown() -> tuple[int, int]:
        gc.collect()
        now, most = tracemalloc.get_traced_memory()
        return now - before, most - before

    try:
        yield grown
    finally:
        tracemalloc.stop()


def _send(address: str, path: str, body: bytes, *, length: int | None = None) -> socket.socket:
    """Begin a request on a connection of its own; nothing of the answer is read."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length or len(body)}\r\n\r\n"
    connection.sendall(head.encode())
    connection.sendall(body)
    return connection


# -- one filling a row -------------------------------------------------------------------------------------------------

WORST_BODIES = {
    "characters of four bytes": lambda: "x" * 300_000 + "\U0001f600",
    "empty objects": lambda: [{}] * 30_000,
    "short texts": lambda: ["\u00e9\u20ac"] * 30_000,
    "numbers": lambda: [1000] * 30_000,
    "names": lambda: {f"{i:x}": 0 for i in range(15_000)},
}


def _bodies(folder: Path) -> None:
    """Requests that have been parsed and wait for their model."""
    for kind, worst in WORST_BODIES.items():
        _bodies_of(folder, kind, worst())


def _bodies_of(folder: Path, kind: str, worst: object) -> None:
    loaded, asked = threading.Event(), threading.Event()

    def load(path: str) -> LLM:
        asked.set()
        loaded.wait(PATIENCE_S)
        return fake_llm("Hi")

    service = fake_service(folder, limits=LIMITS, load=load)
    message = {"role": "user", "content": worst if isinstance(worst, str) else "Hi"}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "examples": [worst]}}}
    body = json.dumps({"model": "fake", "messages": [message], "tools": [tool]}, ensure_ascii=False).encode()
    with running(service) as address, ExitStack() as stack, _measured() as grown:
        for _ in range(20):
            stack.enter_context(_send(address, "/v1/chat/completions", body))
        assert asked.wait(PATIENCE_S)
        until("few are read", lambda: service.in_flight.held > LIMITS.bytes_in_flight / 4)
        time.sleep(0.5)  # some are refused, the others wait
        assert grown()[0] <= ROWS["bodies"].most_bytes + SLACK, kind
        loaded.set()


def _parsing(folder: Path) -> None:
    """Bodies of the largest size, sent at once, that make no sense at their end."""
    service = fake_service(folder, limits=LIMITS)
    with running(service) as address, ExitStack() as stack:
        text = "x" * (LIMITS.body_bytes - 100)
        body = json.dumps({"model": "fake", "nonsense": text + "\U0001f600"}, ensure_ascii=False).encode()
        with _measured() as grown:
            sent = [stack.enter_context(_send(address, "/v1/chat/completions", body)) for _ in range(6)]
            for connection in sent:
                connection.recv(1000)
            assert grown()[1] <= ROWS["parsing"].most_bytes + ROWS["bodies"].most_bytes + SLACK


def _answers(folder: Path) -> None:
    """Answers without end: streams that nobody reads, and whole ones, with log-probabilities."""
    for stream in (True, False):
        service = fake_service(folder, lambda ids: 65, limits=LIMITS, context=1 << 20, num_pages=1 << 20)
        _answers_of(service, stream=stream)
        assert service.answering.held == 0


def _answers_of(service: Service, *, stream: bool) -> None:
    body = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "n": 4, "stream": stream}
    data = json.dumps({**body, "logprobs": True, "top_logprobs": 20}).encode()
    with client_of(service) as client:
        client.post("/v1/completions", json={"model": "fake", "prompt": "Hi", "max_tokens": 1}).raise_for_status()
        with ExitStack() as stack, _measured() as grown:
            address = str(client.base_url).rstrip("/")
            peak = [0]
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(service.answering, "take", noting(service.answering, peak))
            asking = [stack.enter_context(_send(address, "/v1/chat/completions", data)) for _ in range(3)]
            if stream:
                until("little is held", lambda: peak[0] > LIMITS.answers_bytes / 8)
            for connection in asking if not stream else ():
                connection.settimeout(PATIENCE_S)
                said = connection.recv(1000)
                assert b" 413 " in said or b" 429 " in said, said
            assert grown()[1] <= ROWS["answers"].most_bytes + SLACK
        until("it is held for ever", lambda: not service.answering.held)


def noting(memory: InFlight, peak: list[int]) -> Callable[[Key, int], None]:
    """Its `take`, and the most that was ever held."""
    take = memory.take

    def noted(key: Key, count: int) -> None:
        take(key, count)
        peak[0] = max(peak[0], memory.held)

    return noted


def _pixels(folder: Path) -> None:
    """The largest images of each kind, in processes of their own: decoders allocate beside Python."""
    script = folder / "decode.py"
    script.write_text(DECODE)
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    for line in run.stdout.splitlines():
        kind, per_pixel = line.split()
        assert float(per_pixel) <= herd.media.limits.PIXEL_BYTES, kind


DECODE = """
import io
import numpy as np
from PIL import Image
from herd.media import load_image

W, H, CUT = 1500, 1000, 17 * 336 * 336

def status(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

noise = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
rgb = Image.fromarray(noise).resize((W, H))
exif = Image.Exif()
exif[0x0112] = 6
grey = Image.fromarray((np.arange(W * H) % 60000).astype(np.uint16).reshape(H, W))
kinds = {
    "png": (rgb.convert("RGBA"), "PNG", {"compress_level": 1}),
    "grey16": (grey, "PNG", {"compress_level": 1, "transparency": 5}),
    "palette": (rgb.quantize(256), "PNG", {"transparency": 3}),
    "jpeg": (rgb, "JPEG", {"progressive": True, "exif": exif}),
    "cmyk": (rgb.convert("CMYK"), "JPEG", {}),
    "gif": (rgb.quantize(256), "GIF", {"transparency": 3}),
    "bmp": (rgb, "BMP", {}),
    "webp": (rgb.convert("RGBA"), "WEBP", {"quality": 1, "method": 0}),
}
files = {}
for kind, (image, form, options) in kinds.items():
    out = io.BytesIO()
    image.save(out, form, **options)
    files[kind] = out.getvalue()
for kind, data in files.items():
    before = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")
    load_image(data)
    print(kind, (status("VmHWM") - before) / (W * H + CUT))
"""


def _stored(folder: Path) -> None:
    """More responses than are kept, in dialogs that grow."""
    service = fake_service(folder, limits=LIMITS, context=100_000)
    with client_of(service) as client, ExitStack() as stack:
        client.post("/v1/responses", json={"model": "fake", "input": "Hi", "store": False}).raise_for_status()
        grown = stack.enter_context(_measured())
        last = None
        for i in range(60):
            told = [{"type": "namespace", "name": f"n{j}", "description": "y" * 10_000, "tools": []} for j in range(10)]
            body = {"model": "fake", "input": "x" * 500, "tools": told}
            found = client.post("/v1/responses", json={**body, "previous_response_id": last if i % 4 else None})
            last = found.raise_for_status().json()["id"]
        assert service.responses.size_bytes <= LIMITS.key_stored_bytes and len(service.responses) > 10
        assert grown()[0] <= ROWS["stored responses"].most_bytes + SLACK


def _connections(folder: Path) -> None:
    """Connections that have sent most of a head, or ask without reading what they asked for."""
    service = fake_service(folder, limits=LIMITS)
    with running(service) as address, ExitStack() as stack, _measured() as grown:
        host, port = address.removeprefix("http://").split(":")
        head = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n" + f"x: {'y' * 60_000}\r\n"
        for i in range(LIMITS.connections):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            stack.enter_context(connection)
            connection.sendall((head + ("\r\n" if i % 2 else "")).encode())
        time.sleep(1)
        assert grown()[1] <= ROWS["connections"].most_bytes + SLACK


def _records(folder: Path) -> None:
    """A file of as many profiles as there may be, of characters of four bytes, written once more."""
    with _measured() as grown, pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "MAX_BYTES", 1 << 20)
        mine = Profiles(folder / "profiles.json")
        text = "x" * 50_000 + "\U0001f600"
        for i in range(100):
            try:
                mine.add(f"p{i}", Profile("fake", system=text))
            except herd.errors.UsageError:
                break
        assert len(mine.read()) == 20
        assert grown()[1] <= RECORDS_FACTOR * (1 << 20), "of one file of a mebibyte"


def _descriptions(folder: Path) -> None:
    """What is known of a model."""
    catalogue = FakeCatalogue("fake", folder=folder)
    catalogue.about("fake")
    with _measured() as grown:
        kept = [catalogue.about("fake") for _ in range(20)]
        assert grown()[0] / len(kept) <= ABOUT_BYTES


def _metrics(folder: Path) -> None:
    """Names, users and ids of clients make no series; models do, up to a number."""
    service = fake_service(folder, limits=LIMITS)
    with client_of(service) as client:
        before = len(service.metrics.text().splitlines())
        for i in range(50):
            message = [{"role": "user", "content": "Hi"}]
            client.post("/v1/chat/completions", json={"model": f"no-{i}", "messages": message})
            client.post("/v1/chat/completions", json={"model": "fake", "user": f"u{i}", "messages": message})
            client.get(f"/v1/responses/resp_{i}")
        assert len(service.metrics.text().splitlines()) < before + 120
    mine = Metrics()
    with _measured() as grown:
        for i in range(200):
            name = mine.name_of(f"org/model-{i}")
            for histogram in (mine.first_token_s, mine.whole_s, mine.output_token_s):
                histogram.labels(name).observe(1)
            for reason in ("stop", "length", "interrupted", "policy", "tool_calls"):
                mine.finished.labels(name, reason).inc()
            for counter in (mine.prompt_tokens, mine.cached_tokens, mine.output_tokens):
                counter.labels(name).inc()
            mine.running.labels(name).inc()
        assert grown()[0] <= 200 * SERIES_BYTES
    assert len({mine.name_of(f"m{i}") for i in range(3 * MOST_MODELS)}) <= MOST_MODELS + 1


def _log(folder: Path) -> None:
    """Lines that nobody reads."""

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            waits.wait(PATIENCE_S)
            return len(text)

    waits = threading.Event()
    log = Log("json", Stuck())
    with _measured() as grown:
        for i in range(20_000):
            log.event("request", id=str(i), said="\U0001f600" * 500)
        assert grown()[1] <= MOST_BYTES + SLACK
        assert log.dropped > 0
    waits.set()
    log.close()


def _batches(folder: Path) -> None:
    """Records of the largest batches, and the lines of a file."""
    problem = BatchProblem("invalid_json_line", "\U0001f600" * WORDS, 1 << 30, "x" * 64)
    store = FileStore(folder / "files", LIMITS)
    with _measured() as grown:
        for i in range(30):
            metadata = {f"{n:02}" + "\U0001f600" * 62: "\U0001f600" * 512 for n in range(16)}
            errors = [msgspec.convert(msgspec.to_builtins(problem), BatchProblem) for _ in range(PROBLEMS)]
            batch = StoredBatch(
                id=f"batch_{i}", owner="k", endpoint="/v1/completions", input_file_id="x", completion_window="24h",
                status="failed", private=True, created_at=1, expires_at=2, errors=errors, metadata=metadata,
            )  # fmt: skip
            store.keep_batch(batch, new=True)
        assert grown()[0] <= 30 * RECORD_BYTES
    store.close()
    path, count = folder / "lines", 20_000
    line = '{"custom_id": "%d", "method": "POST", "url": "/v1/completions", "body": {"model": "x", "prompt": "%d"}}\n'
    path.write_text("".join(line % (i, i) for i in range(count)))
    with _measured() as grown:
        index = Index(path, LIMITS)
        assert grown()[1] <= count * LINE_BYTES + SLACK
        assert len(index) == count


FILLINGS: dict[str, Callable[[Path], None]] = {
    "bodies": _bodies,
    "parsing": _parsing,
    "answers": _answers,
    "pixels": _pixels,
    "stored responses": _stored,
    "connections": _connections,
    "records": _records,
    "batches": _batches,
    "descriptions": _descriptions,
    "metrics": _metrics,
    "log": _log,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_what_clients_can_fill_stays_within_its_row(name: str, tmp_path: Path) -> None:
    FILLINGS[name](tmp_path)


def test_every_row_has_a_filling_and_the_sum_is_theirs() -> None:
    assert ROWS.keys() == FILLINGS.keys()
    assert sum_of(LIMITS) == sum(holder.most_bytes for holder in ROWS.values())
    assert sum_of(Limits()) < 12 << 30


# -- containers in the source ------------------------------------------------------------------------------------------

CONTAINER = re.compile(
    r"lru_cache\(|@cache\b|OrderedDict\(|deque\(|Queue\(|defaultdict\(|bytearray\(|Weak\w+Dictionary\("
)
PLACES = (
    "server",
    "llm",
    "safety",
    "lanes.py",
    "gate.py",
    "engine/outputs.py",
    "engine/executors/child.py",
    "engine/engine.py",
)
STANDS_FOR = {
    "server/http/framing.py": "connections",
    "server/batches/running.py": "batches",
    "server/batches/files.py": "uploads under way: a block of each",
    "server/http/multipart.py": "uploads under way: a block of each",
    "server/http/connection.py": "connections",
    "server/http/turns.py": "connections",
    "server/page.py": "files of the package",
    "server/ollama/models.py": "progress of pulls, MOST_LINES each",
    "server/log.py": "log",
    "server/requests/fields.py": "types in the source",
    "server/shared/intake.py": "bodies",
    "server/response_store.py": "stored responses",
    "server/response_log.py": "stored responses",
    "server/requests/fetcher.py": "bodies",
    "server/catalogue.py": "descriptions",
    "llm/streams.py": "answers",
    "llm/replies.py": "a caller's own list",
    "lanes.py": "bodies",
    "llm/loading.py": "models that are loaded",
    "llm/measuring.py": "requests of one call, TOGETHER of them",
    "llm/grammar_trials.py": "digests, KNOWN each model",
    "llm/dialog_writing.py": "bodies",
    "gate.py": "answers",
    "engine/outputs.py": "answers",
    "engine/engine.py": "a thread that waits, none in the service",
    "engine/executors/child.py": "questions to the engine under way",
}
"""What the containers of a file are bounded by: a row above, or what no client can fill."""


def test_every_container_in_the_source_is_in_a_row_or_beyond_clients() -> None:
    root = Path(herd.__file__).parent
    files = [f for place in PLACES for f in ([root / place] if place.endswith(".py") else (root / place).rglob("*.py"))]
    found = {str(f.relative_to(root)) for f in files if CONTAINER.search(f.read_text("utf-8"))}
    assert found == STANDS_FOR.keys()


def test_limits_are_printed_with_the_sum() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "herd", "serve", "--limits"], capture_output=True, text=True, check=True
    )
    shown = dict(re.findall(r"^(\S.*?)\s{2,}(\d+)", run.stdout, re.MULTILINE))
    assert int(shown["sum"]) == sum_of(Limits())
    assert {name: int(shown[name]) for name in ROWS} == {one.name: one.most_bytes for one in holders(Limits())}
    assert {name: int(shown[name]) for name in Limits.__struct_fields__}.items() >= {"queue": 1024}.items()
