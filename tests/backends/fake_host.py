"""A host on loopback that plays what it is told, byte by byte, good and hostile; and the models that ask it.

FakeHost     answers each connection with the next of its scripts; `asked` keeps what was sent to it
Script       a body, whole or in pieces, and how it ends
answer       a streamed answer in OpenAI's form
patient      a target with small bounds: what a hostile host sends is over them in milliseconds
"""

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from helpers import PATIENCE_S
from herd.backends.openai_request import SAME
from herd.backends.target import Bounds, Secret, Target
from herd.chat_model import Capabilities

KEY = "sk-canary-0123456789abcdef"
MODEL = "meta-llama/Llama-4-Scout-17B-16E-Instruct"
ALL = Capabilities(images=True, tools=True, schemas=True, logprobs=True, begun=True, template=True)
BOUNDS = Bounds(
    head_bytes=4096, body_bytes=1 << 20, line_bytes=4096, event_bytes=8192, events=100, depth=32, values=2000,
    connect_s=PATIENCE_S, first_s=PATIENCE_S, idle_s=PATIENCE_S, total_s=PATIENCE_S, retries=0,
)  # fmt: skip
"""Small bounds in bytes; times alone are long."""
IMPATIENT = replace(BOUNDS, first_s=0.2, idle_s=0.2)
"""For hosts that hang: the only bounds in seconds, and nothing but their end is waited for."""
JSON = "application/json"
STREAM = "text/event-stream"


@dataclass(frozen=True)
class Script:
    """What is sent for one request. pieces: of the body, or a function that is given `send` and may send for ever."""

    pieces: Sequence[bytes] | Callable[[Callable[[bytes], None]], None] = ()
    status: int = 200
    kind: str = STREAM
    headers: tuple[tuple[str, str], ...] = ()
    head: bytes | None = None
    """In place of status line and headers."""
    hangs: str = ""
    """before: nothing is sent at all; after: the connection stays open after the last piece, without its end."""
    cut: bool = False
    """Whether the connection ends before the body does."""

    def lines(self) -> bytes:
        """Status line and headers."""
        if self.head is not None:
            return self.head
        rows = [f"HTTP/1.1 {self.status} Said", f"Content-Type: {self.kind}", "Transfer-Encoding: chunked"]
        return "\r\n".join([*rows, *(f"{name}: {value}" for name, value in self.headers), "", ""]).encode("latin-1")


@dataclass
class Request:
    """What was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None


@dataclass
class FakeHost:
    """Plays its scripts in order, the last one again and again. What each request said is in `asked`; `left` is set
    when the other side has closed a connection on which a script hangs."""

    scripts: list[Script]
    asked: list[Request] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    address: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)

    def play(self, connection: socket.socket) -> None:
        """Answer one connection."""
        with connection, contextlib.suppress(OSError):
            request = _read(connection)
            if request is None:
                return
            self.asked.append(request)
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self._answer(connection, script)

    def _answer(self, connection: socket.socket, script: Script) -> None:
        if script.hangs != "before":
            connection.sendall(script.lines())
            self._body(connection, script)
        if script.hangs:
            self._wait(connection)

    def _body(self, connection: socket.socket, script: Script) -> None:
        def send(piece: bytes) -> None:
            if self.stopping.is_set():
                raise OSError("stopping")
            chunked = script.head is None
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)

        if callable(script.pieces):
            script.pieces(send)
        else:
            for piece in script.pieces:
                send(piece)
        if script.head is None and not script.cut and not script.hangs:
            connection.sendall(b"0\r\n\r\n")

    def _wait(self, connection: socket.socket) -> None:
        """Until the other side goes away; it has not left where it only says nothing for so long."""
        connection.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 16):
                pass
        self.left.set()


def _read(connection: socket.socket) -> Request | None:
    file = connection.makefile("rb")
    first = file.readline().decode().split()
    if len(first) < 2:
        return None
    headers = {}
    while (line := file.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = file.read(int(headers.get("content-length", 0)))
    return Request(first[0], first[1], headers, json.loads(body) if body else None)


@contextlib.contextmanager
def hosting(*scripts: Script, tls: ssl.SSLContext | None = None) -> Iterator[FakeHost]:
    """A fake host while it listens on loopback."""
    host = FakeHost(list(scripts))
    listening = socket.create_server(("127.0.0.1", 0))
    host.address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    def play(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # a handshake that the other side ends
            host.play(connection if tls is None else tls.wrap_socket(connection, server_side=True))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            host.connections += 1
            threading.Thread(target=play, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.stopping.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(PATIENCE_S)


def patient(address: str, **fields: Any) -> Target:
    """A target with small bounds and a key, which can all that the form knows."""
    given = {"name": "there", "base_url": address, "model": MODEL, "key": Secret(KEY), "in_house": True}
    options = frozenset({*SAME, "max_tokens"})
    return Target(**{**given, "capabilities": ALL, "options": options, "bounds": BOUNDS, **fields})  # type: ignore[arg-type]


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def chunk(delta: Any, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    """One chunk of a chat completion."""
    choice = {"index": index, "delta": delta, "finish_reason": finish, **more}
    return event({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})


def usage(prompt: Any = 7, output: Any = 3, **more: Any) -> bytes:
    """The last chunk: tokens."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output, **more}})


DONE = event(b"[DONE]")


def answer(*words: str, finish: str = "stop") -> Script:
    """An answer in so many pieces."""
    return Script(
        [chunk({"role": "assistant"}), *(chunk({"content": w}) for w in words), chunk({}, finish), usage(), DONE]
    )


def call(index: int, text: str, name: str | None = None, called: str | None = None) -> Any:
    """A piece of a call of a tool, as a delta."""
    function = {"arguments": text} | ({} if name is None else {"name": name})
    row = {"index": index, "function": function} | ({} if called is None else {"id": called, "type": "function"})
    return {"tool_calls": [row]}


def whole(value: Any, status: int = 200, **more: Any) -> Script:
    """A JSON body."""
    return Script([json.dumps(value).encode()], status, JSON, **more)
