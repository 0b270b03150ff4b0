"""Where requests of a backend go: the address, the model there, the key, and what the other side can do.

    Secret   a key that shows itself nowhere
    Target   one model of one host or engine

All addresses come from here: nothing that a request says becomes one. What it is not: whether a request may go there,
how it goes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal, NoReturn, TypeAlias, get_args
from urllib.parse import urlsplit

from herd.chat_model import Capabilities
from herd.errors import UsageError, fail
from herd.value_checks import flag, number, whole
from herd.value_checks import text as check_text

Form: TypeAlias = Literal["openai", "converse", "replicate"]
PARALLEL = "not parallel"
"""At most one call, among the choices of a target."""
CHOICES = frozenset({"none", "required", PARALLEL})
"""All that may be said of tools beside `auto`."""
HIDDEN = "***"
"""What a key shows of itself."""
PART = 8
"""Characters of a key that give it away."""
LONGEST_ADDRESS = 2048
LONGEST_KEY = 8192
"""Characters of a key; tokens of clouds take thousands."""
MOST_CONTEXT = 1 << 28
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_OURS = ("host", "content-length", "content-type", "transfer-encoding", "connection", "accept", "accept-encoding")
"""Headers that are the transport's own."""


class Secret:
    """A key. Its text is asked for by name (`reveal`) where it is sent; `repr`, `str`, formats and copies that other
    code makes of it show none of it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Raises UsageError, without the key, for one that is empty, too long, or no header could carry."""
        good = isinstance(text, str) and 0 < len(text) <= LONGEST_KEY and text.isascii() and text.isprintable()
        if not good or " " in text:
            fail(UsageError, "a key", got="one that no header can carry", expected="printable ASCII without spaces")
        self._text = text

    def reveal(self) -> str:
        """The key itself, for the header that it stands in."""
        return self._text

    def hide_in(self, words: str) -> str:
        """Words of strangers without the key, should they repeat it: of every part of theirs that has eight characters
        or more in common with it nothing is left."""
        part = min(PART, len(self._text))
        parts = {self._text[i : i + part] for i in range(len(self._text) - part + 1)}
        hidden = bytearray(len(words))
        for i in range(len(words) - part + 1):
            if words[i : i + part] in parts:
                hidden[i : i + part] = b"\1" * part
        runs = groupby(zip(hidden, words, strict=True), key=itemgetter(0))
        return "".join(HIDDEN if hide else "".join(char for _, char in run) for hide, run in runs)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __str__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(Secret)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not written down")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How much and how long is read from the other side. Whatever goes beyond ends the request with a typed error."""

    head_bytes: int = 64 << 10
    """Bytes of status line and headers."""
    body_bytes: int = 64 << 20
    """Bytes of a whole body, streamed or not."""
    whole_bytes: int = 4 << 20
    """Bytes of a body that is one JSON text: a list of models, an answer that is not streamed."""
    line_bytes: int = 1 << 20
    """Bytes of one line of a stream."""
    event_bytes: int = 2 << 20
    """Bytes of one event of a stream."""
    events: int = 1_000_000
    """Events of one stream, comments included."""
    depth: int = 64
    """Brackets within brackets of one JSON text."""
    values: int = 1_000_000
    """Values of one JSON text."""
    connect_s: float = 10.0
    """Seconds to a connection, TLS included."""
    first_s: float = 120.0
    """Seconds from the request to the first byte of the answer's body."""
    idle_s: float = 120.0
    """Seconds between two bytes."""
    total_s: float = 3600.0
    """Seconds of one request, retries included."""
    retries: int = 2
    """Times that a request is sent again before the first byte of an answer."""
    retry_after_s: float = 30.0
    """The longest that the other side may ask to be waited for; more than that is told at once."""

    def __post_init__(self) -> None:
        for one in fields(self):
            number(one.name, getattr(self, one.name), 0, 1 << 40)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One model of one host or engine. Raises UsageError for an address that is none, that holds a name and password,
    or that would send a key in the clear beyond this machine."""

    name: str
    """What it is called here."""
    base_url: str
    """The address that paths are added to, such as https://api.deepinfra.com/v1/openai."""
    model: str
    """What the other side calls the model."""
    key: Secret | None = None
    form: Form = "openai"
    in_house: bool = False
    """Whether it runs in the person's own house, so that private texts may go there."""
    context: int | None = None
    """Tokens that prompt and answer may have together, where it is known."""
    capabilities: Capabilities = field(default_factory=Capabilities)
    """What the other side can do."""
    options: frozenset[str] = frozenset({"temperature", "top_p", "max_tokens", "stop", "seed"})
    """Options of requests that the other side honours, beside those that a capability stands for."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields that every request has beside its own, such as OpenRouter's `provider`."""
    origins: frozenset[str] = frozenset()
    """Further places of the same host, such as https://stream.replicate.com, that an answer may name."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that every request has beside its own; no key belongs here."""
    key_header: str = "Authorization"
    """The header of the key: Authorization (as a bearer token), or another one, which holds the key alone."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the most tokens of an answer are called there."""
    choices: frozenset[str] = CHOICES
    """What may be said of tools beside `auto`, where there are any."""
    json_object: bool = True
    """Whether any JSON object may be asked for without a schema."""
    tells_usage: bool = True
    """Whether streams may be asked for their usage (`stream_options`)."""
    names_choice: bool = True
    """Whether it can be told by name which tool has to be called."""
    always_goes_on: bool = False
    """Whether it goes on with an assistant's turn at the end whatever it is told, so that no other turn follows one."""
    trust_env: bool = False
    """Whether proxies and certificates that the environment names are used."""
    bounds: Bounds = Bounds()

    def __post_init__(self) -> None:
        for one in ("name", "base_url", "model"):
            check_text(one, getattr(self, one))
        for one in ("in_house", "tells_usage", "names_choice", "always_goes_on", "trust_env", "json_object"):
            flag(one, getattr(self, one))
        if self.context is not None:
            whole("context", self.context, 1, MOST_CONTEXT)
        if not self.name or not self.model:
            fail(UsageError, "a backend", got="no name or no model", expected="both")
        if self.form not in get_args(Form):
            fail(UsageError, "form", got=self.form, expected=", ".join(get_args(Form)))
        if self.trust_env and self.in_house:
            fail(
                UsageError,
                "trust_env",
                got="true for a backend in the house",
                expected="false: no proxy sees its texts",
            )
        _check_headers(self.headers)
        for address in (self.base_url, *self.origins):
            _check_address(address, self.key is not None)
        scheme, _, rest = self.base_url.partition(":")  # as whoever connects spells it: HTTPS is https
        object.__setattr__(self, "base_url", f"{scheme.lower()}:{rest}".rstrip("/"))

    @property
    def host(self) -> str:
        """The host of its address, without port."""
        return host_of(self.base_url)

    def url(self, path: str) -> str:
        """The address of one of its paths, such as /chat/completions. A query of the base address stays its end."""
        base, _, query = self.base_url.partition("?")
        return f"{base.rstrip('/')}{path}?{query}" if query else f"{base}{path}"


def host_of(address: str) -> str:
    """The host of an address, without port; "" where it has none."""
    return urlsplit(address).hostname or ""


def origin_of(address: str) -> str:
    """Scheme, host and port of an address, as one spells them with the port; "" where it has none or is none."""
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return ""
    if not parts.hostname or port is None or "@" in parts.netloc or "\\" in address:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host as an address spells it is this machine itself: localhost, 127.0.0.0/8 or ::1."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_address(address: str, keyed: bool) -> None:
    """Raise UsageError for an address that no request goes to."""
    wanted = "an address such as https://host/v1"
    clean = address.isascii() and address.isprintable() and " " not in address and "\\" not in address
    if not clean or len(address) > LONGEST_ADDRESS:
        fail(UsageError, "base_url", got=_without_login(address), expected=wanted)
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good:
        fail(UsageError, "base_url", got=_without_login(address), expected=wanted)
    if parts.username is not None or parts.password is not None:
        fail(UsageError, "base_url", got="a name or password in it", expected=wanted, do="give the key as the key")
    if keyed and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        fail(
            UsageError,
            "base_url",
            got="a key over plain http",
            expected="https, or an address of this machine",
            do="use https, or leave the key out",
        )


def _without_login(address: str) -> str:
    """An address that is wrong, without what may be a name and password in it."""
    return address.rpartition("@")[2]


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise UsageError for a header that is none, or that is the transport's or a key's."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or name.lower() in (*_OURS, "authorization", "cookie", "api-key"):
            fail(UsageError, "headers", got=name, expected="a header that is neither the transport's nor a key's")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            fail(UsageError, f"headers: {name}", got="what no header can carry", expected="printable ASCII")
