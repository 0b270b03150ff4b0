"""The options of a service, checked before it starts."""

from pathlib import Path
from typing import Literal

import msgspec

from herd.backends.target import is_loopback
from herd.errors import UsageError, fail
from herd.server.keys import Key
from herd.server.limits import Limits

PORT = 8484
OLLAMA_PORT = 11434
KEEP_ALIVE_S = 30 * 60.0


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options that a service is started with. Raises UsageError for what cannot be served safely."""

    host: str = "127.0.0.1"
    port: int = PORT
    ollama_port: int | None = OLLAMA_PORT
    """Bound as well if it is free, so that Ollama's clients find the service where they look. None: not."""
    keys: tuple[Key, ...] = ()
    served: dict[str, Path] = {}
    """Models given by path, by the names that clients use."""
    preload: tuple[str, ...] = ()
    aliases: dict[str, str] = {}
    keep_alive_s: float = KEEP_ALIVE_S
    context: int | Literal["auto"] = "auto"
    """Tokens of context that models are loaded with; auto: as many as fit in memory, for each model."""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    leave: bool = False
    """Whether what is asked without a key may leave the house, to models that are hosts or engines outside of it."""
    remote_media: bool = False
    """Whether images may be given as http(s) addresses, which the service then fetches."""
    strict: bool = False
    """Refuse fields without effect instead of reporting them."""
    policy: Literal["off", "observe", "redact", "block"] = "observe"
    guard: Path | None = None
    """A Llama Guard 4 that judges what goes in and comes out, after the rules."""
    audit: Path | None = None
    """A file that gets what policies decided, by hash."""
    files: Path | None = None
    """The folder of clients' files and batches; None: none are kept."""
    page: bool = True
    log: Literal["text", "json", "off"] = "text"
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, port in (("port", self.port), ("ollama port", self.ollama_port)):
            if port is not None and not 0 <= port <= 65535:
                fail(UsageError, name, got=port, expected="0 to 65535")
        if not self.keys and not is_loopback(self.host):
            fail(
                UsageError,
                f"serving on {self.host} without a key would let anybody in who reaches it",
                do="give --api-key or --keys FILE, or serve on 127.0.0.1",
            )
        if "*" in self.allow_origins and not self.keys:
            fail(UsageError, "--allow-origin '*' without a key would let any web page in", do="give --api-key as well")
        if self.keep_alive_s < 0:
            fail(UsageError, "keep-alive", got=self.keep_alive_s, expected="0 seconds or more")
