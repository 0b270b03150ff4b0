"""The service as a process: sockets, signals, the lines that it prints. `herd serve` calls `serve`.

First SIGINT or SIGTERM: no more requests are taken, those under way have `drain_s` seconds; the second one ends it now.
SIGHUP: the file of keys is read again, if there is one.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import cast

import uvicorn

from herd.errors import HerdError, Interrupted, UsageError, fail
from herd.policies import Policy
from herd.safety import Audit, Guard, Layers, ModelJudge, Settings
from herd.safety.policy import Mode
from herd.server.app import create_app
from herd.server.catalogue import RegisteredModel, StoreCatalogue
from herd.server.file_store import FileStore
from herd.server.http.connection import Connection, for_event_loop, uvicorn_options
from herd.server.keys import Key, Keyring
from herd.server.loading import FileLoader
from herd.server.log import LibraryLogHandler, Log
from herd.server.models import Models
from herd.server.options import ServerOptions
from herd.server.requests.generate_request import GenerateRequest
from herd.server.service import Caller, PolicyFor, Service

NONE: Mapping[str, RegisteredModel] = {}
QUEUE = 2048
"""Connections that wait in the system to be accepted. uvicorn would accept as many in one turn of its event loop."""
SWITCH_S = 0.0005
"""How long a thread that computes may keep the event loop from going on. Python's own 5 ms, at each of a dozen system
calls of a request, are 60 ms for a /health."""
COLLECT = 2_000, 5, 500
"""How many objects the collector of garbage lets be made before it looks through the youngest, and how often before it
looks through older ones too. It holds up everybody meanwhile: by Python's own 700, 10, 10 it would look through all of
some thousand connections again and again, 0.1 to 0.6 s each time. Those that end leave it next to nothing."""
NOW_S = 1.0
"""Seconds that the process may take to end once all is said: Python would wait for a thread that loads a model."""
SAID_S = 10.0
"""Seconds that the process may take to end while there is an error to tell."""


def service_of(options: ServerOptions, load: FileLoader, registered: Mapping[str, RegisteredModel] = NONE) -> Service:
    """The service that these options describe. load: path of a model -> the loaded one. registered: models that are not
    files, by name."""
    log = Log(options.log)
    audit = None if options.audit is None else Audit(options.audit)
    guard = None if options.guard is None else Guard(ModelJudge(load(str(options.guard))))
    catalogue = StoreCatalogue(options.served, options.aliases, lambda line: log.event("record", said=line))
    for name, model in registered.items():
        catalogue.register(name, model)
    for name in options.preload:
        catalogue.find(name)  # a name that is wrong is said now, not in a log line later
    return Service(
        Models(catalogue, load, keep_alive_s=options.keep_alive_s, log=log),
        keyring=Keyring(options.keys, leave=options.leave),
        limits=options.limits,
        log=log,
        strict=options.strict,
        remote_media=options.remote_media,
        policies=policies_of(options.policy, audit, guard),
        guard=guard,
        preload=options.preload,
        context=options.context,
        files=_files_of(options, log),
    )


def _files_of(options: ServerOptions, log: Log) -> FileStore | None:
    """Files and batches of clients, where they are kept. Raises UsageError, DoesNotFit."""
    if options.files is None:
        return None
    found = FileStore(options.files, options.limits)
    for line in found.left_out:
        log.event("record", said=line)
    return found


def policies_of(default: str, audit: Audit | None, guard: Guard | None = None) -> PolicyFor:
    """The function that chooses a request's policy: by its key's own setting, else by the service's."""

    def policy(caller: Caller, ask: GenerateRequest) -> Policy | None:
        mode = caller.key.policy or default
        if mode == "off":
            return None
        structured = ask.has_form or bool(ask.tools)
        settings = Settings(cast(Mode, mode))
        return Layers(settings, guard=guard, audit=audit, request_id=caller.request_id, structured=structured)

    return policy


ReadKeys = Callable[[Callable[[str], None]], Sequence[Key]]
"""All keys as they are now; what it is given hears of those that were left out. Raises HerdError."""


def serve(
    options: ServerOptions,
    load: FileLoader,
    say: Callable[[str], None],
    read_keys: ReadKeys | None = None,
    registered: Mapping[str, RegisteredModel] = NONE,
) -> None:
    """Serve until a signal ends it. say: gets the lines for people. read_keys: called at SIGHUP. registered: models
    that are not files, by the names that clients use.

    Raises UsageError for a port that is taken, Interrupted when a second signal cut short requests under way, and the
    error with which the model of the start could not be loaded.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*COLLECT)
    main = bind(options.host, options.port)  # before a guard is loaded, which takes a while
    sockets = [main]
    try:
        service = service_of(options, load, registered)
    except BaseException:
        main.close()
        raise
    if options.ollama_port is not None and options.ollama_port != options.port:
        try:
            sockets.append(bind(options.host, options.ollama_port))
        except HerdError:
            say(f"port {options.ollama_port} is taken: Ollama's clients need OLLAMA_HOST={address(main)}")
    config = uvicorn.Config(
        create_app(service, options, lambda error: server.fail(error)),
        timeout_graceful_shutdown=options.limits.drain_s,
        **uvicorn_options(options.limits, service.keyring),
    )
    logging.getLogger().addHandler(LibraryLogHandler(service.log))
    server = Server(config, service, read_keys)
    for line in greeting(service, sockets):
        with contextlib.suppress(OSError):  # whoever started it may not read what it says
            say(line)
    server.run(sockets=sockets)
    if server.failure is not None:
        raise server.failure
    if server.force_exit:
        raise Interrupted("stopped at once; answers under way were cut short")


class Server(uvicorn.Server):
    """uvicorn's server, with two signals of either kind: the first one drains, the second one ends it at once."""

    def __init__(self, config: uvicorn.Config, service: Service, read_keys: ReadKeys | None = None) -> None:
        super().__init__(config)
        self._service = service
        self._read_keys = read_keys
        self._reading: asyncio.Task[None] | None = None
        self.failure: HerdError | None = None
        """The error that ended it."""

    def fail(self, error: HerdError) -> None:
        """End as at a signal, with this error: there is nothing to serve."""
        self.failure = self.failure or error
        self._service.stopping = True
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.should_exit:
            self.force_exit = True
            self._end_soon()
            signal.signal(sig, signal.SIG_DFL)  # a third one needs nobody's help
        self._service.stopping = True
        self.should_exit = True
        # uvicorn would raise the signal again at the end, and a drained service ends with 0
        self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        connections = cast(type[Connection], self.config.http)
        asyncio.get_running_loop().set_exception_handler(for_event_loop(connections, self._service.log))
        if self._read_keys is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up, self._read_keys)
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(QUEUE)  # uvicorn makes one of the two numbers the other

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain; then end without waiting for anything, such as a model that is still being loaded."""
        await super().shutdown(sockets)
        self._end_soon()

    def _hang_up(self, read: ReadKeys) -> None:
        self._reading = asyncio.create_task(reload_keys(self._service, read, self._reading))

    def _end_soon(self) -> None:
        status, after_s = Interrupted.exit_status if self.force_exit else 0, NOW_S
        if self.failure is not None:
            status, after_s = self.failure.exit_status, SAID_S
        last = threading.Timer(after_s, os._exit, (status,))
        last.daemon = True
        last.start()


async def reload_keys(service: Service, read: ReadKeys, before: "asyncio.Task[None] | None" = None) -> None:
    """Replace the keys by those that there are now, after another reload that is under way. Where one of them is wrong
    nothing changes, and the log says why."""
    if before is not None:
        await asyncio.wait([before])
    left_out: list[str] = []
    try:
        keys = await asyncio.to_thread(read, left_out.append)
        if left_out:
            fail(UsageError, left_out[0])
        gone = service.keyring.replace(keys)
    except HerdError as error:
        service.log.event("keys stay as they were", said=str(error))
        return
    for name in gone:
        service.responses.forget(name)
        if service.files is not None:
            await asyncio.to_thread(service.files.forget, name)
    service.log.event("keys", keys=len(keys), gone=len(gone))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError when the port is taken or the interface is not there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle off for sockets that say they are TCP, and those that accept give it on
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix" and sys.platform != "cygwin":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(QUEUE)
        found.setblocking(False)
    except OSError as error:
        found.close()
        do = "choose another with --port" if error.errno == errno.EADDRINUSE else "choose another --host or --port"
        fail(UsageError, f"{host}:{port}: {error.strerror}", do=do)
    return found


def address(listening: socket.socket) -> str:
    """The address http://HOST:PORT of a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def greeting(service: Service, sockets: list[socket.socket]) -> list[str]:
    """The lines to print at the start."""
    main = address(sockets[0])
    lines = [f"Herd at {main}: a page for people, OpenAI's clients at {main}/v1, Anthropic's and Ollama's at {main}"]
    if len(sockets) > 1:
        lines.append(f"also {address(sockets[1])}, where Ollama's clients look")
    if service.preload:
        lines.append(f"loading {', '.join(service.preload)}")
    lines.append(f"API keys: {len(service.keyring)}" if service.keyring else "no API key: this machine only")
    return lines
