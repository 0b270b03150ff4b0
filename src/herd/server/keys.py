"""API keys: the client, its rights, its quotas. Secrets are compared in constant time and kept as digests only.

Without any key the service is open to this machine alone (`options` refuses another interface), and everybody is
the key named "local".
"""

import hashlib
import hmac
import os
import stat
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.backends.gate import Said
from herd.errors import Busy, Forbidden, NotFound, QuotaSpent, Unauthorised, UsageError, fail
from herd.strict_json import first_twice
from herd.text.message_checks import check_name

Right = Literal["chat", "embed", "models", "manage", "metrics", "raw", "leave"]
"""chat: generate and tokenise; embed; models: list and show; manage: load, unload, copy, delete, pull; metrics; raw:
prompts with control tokens; leave: be answered by what is outside of the house."""
RIGHTS: tuple[Right, ...] = ("chat", "embed", "models", "manage", "metrics")
"""All but raw and leave, which are in no key that does not name them."""
POLICIES = ("", "off", "observe", "redact", "block")
SHORTEST = 16
"""Characters of a key: shorter ones can be guessed."""
MOST_FILE_BYTES = 4 << 20
"""Most bytes of a file of keys."""


class KeyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A [[key]] table of a keys file."""

    name: str
    secret: str = ""
    sha256: str = ""
    """SHA-256 of the secret, in hex: for files that are to hold no secret."""
    rights: tuple[Right, ...] = ("chat", "embed", "models")
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt and answer together."""
    at_once: int | None = None
    """Requests under way; None: the service's own limit."""
    priority: int = 0
    policy: str = ""
    """Safety policy: observe, redact, block, off; empty: the service's."""


@dataclass(eq=False)
class Key:
    """The key of a client. `name` stands in logs and metrics; the secret nowhere."""

    name: str
    digest: bytes = b""
    rights: frozenset[str] = frozenset(RIGHTS)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    at_once: int | None = None
    priority: int = 0
    policy: str = ""
    under_way: int = 0
    """Number of its requests that are under way."""
    gone: bool = False
    """Whether it is no key of the service any more; what is under way goes on, and nothing is kept for it."""
    requests: "Bucket" = field(default_factory=lambda: Bucket(None))
    tokens: "Bucket" = field(default_factory=lambda: Bucket(None))

    def __post_init__(self) -> None:
        self.requests = Bucket(self.requests_per_minute)
        self.tokens = Bucket(self.tokens_per_minute)

    def become(self, other: "Key") -> None:
        """Take over the settings of `other`; what was used, and requests under way, stay counted."""
        self.digest, self.rights, self.at_once = other.digest, other.rights, other.at_once
        self.requests_per_minute, self.tokens_per_minute = other.requests_per_minute, other.tokens_per_minute
        self.priority, self.policy = other.priority, other.policy
        self.requests.change(other.requests_per_minute)
        self.tokens.change(other.tokens_per_minute)

    @property
    def says_of_leaving(self) -> Said:
        """What it says of whether its requests may leave the house."""
        return Said("leave" in self.rights, f"key {self.name} has no right to leave")

    def check_right(self, right: str) -> None:
        """Raise Forbidden unless the key has this right."""
        if right not in self.rights:
            fail(Forbidden, f"key {self.name} may not {right}", expected="a key with that right")

    def enter(self, most: int) -> None:
        """Count one more request under way; call `leave` when it is over. Raises Busy, QuotaSpent."""
        allowed = most if self.at_once is None else min(most, self.at_once)
        if self.under_way >= allowed:
            fail(Busy, f"requests of key {self.name} under way", got=self.under_way, expected=f"at most {allowed}")
        self.check_quota(self.requests, "requests", 1)
        self.check_quota(self.tokens, "tokens", 1)
        self.requests.take(1)
        self.under_way += 1

    def check_quota(self, bucket: "Bucket", what: str, count: int) -> None:
        """Raise QuotaSpent when a quota has less than `count` left."""
        wait_s = bucket.wait_s(count)
        if wait_s > 0:
            error = QuotaSpent(f"key {self.name}: its {what} of this minute are used up; again in {wait_s:.0f} s")
            error.retry_after_s = wait_s
            raise error

    def leave(self) -> None:
        """Count one request under way less."""
        self.under_way -= 1


class Bucket:
    """A quota that fills up at `per_minute` (a token bucket). What is reserved counts as used until it is given back;
    it is overdrawn only by taking more than could be reserved."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = None if per_minute is None else per_minute / 60.0
        self._most = float(per_minute or 0)
        self._left = self._most
        self._reserved = 0
        self._clock = clock
        self._at_s = clock()

    def change(self, per_minute: int | None) -> None:
        """Set another quota; what was used of the former one counts as used of this."""
        if self._rate is not None:
            self._fill()
        used = self._most - self._left
        self._rate = None if per_minute is None else per_minute / 60.0
        self._most = float(per_minute or 0)
        self._left = 0.0 if per_minute is None else self._most - used
        self._at_s = self._clock()

    def wait_s(self, count: int = 1) -> float:
        """Seconds until `count` are left; where that is more than it ever holds, until it is full."""
        if self._rate is None:
            return 0.0
        self._fill()
        return max(0.0, (min(count, self._most) - self._left + self._reserved) / self._rate)

    def reserve(self, count: int) -> int:
        """Reserve `count`, or as many as are left; returns how many. Take each of them later, or give it back."""
        if self._rate is None:
            return 0
        self._fill()
        found = max(0, min(count, int(self._left) - self._reserved))
        self._reserved += found
        return found

    def give_back(self, count: int) -> None:
        """Release a reservation of `count`: they were not used, or are taken now."""
        self._reserved -= count

    def take(self, count: int) -> None:
        """Use up `count`."""
        if self._rate is not None:
            self._fill()
            self._left -= count

    def _fill(self) -> None:
        assert self._rate is not None
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s


class Keyring:
    """All keys. Without any, every caller is the key "local", without limits.

    leave: whether what that one asks may leave the house.
    """

    def __init__(self, keys: Sequence[Key] = (), *, leave: bool = False) -> None:
        _check(keys)
        self._keys = tuple(keys)
        self._local = Key("local", rights=frozenset((*RIGHTS, "raw", *(["leave"] if leave else ()))))

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def under_way(self) -> int:
        """Number of requests of all keys that are under way."""
        return self._local.under_way + sum(key.under_way for key in self._keys)

    def named(self, name: str) -> Key | None:
        """The key of a name; None: there is none."""
        return next((key for key in (self._keys or (self._local,)) if key.name == name), None)

    def replace(self, keys: Sequence[Key]) -> list[str]:
        """Replace all keys; returns the names of those that are gone. A key that stays, by its name, keeps its counts.

        Raises UsageError when a key is not allowed, or there is none, which would leave the service open: nothing has
        changed then.
        """
        _check(keys)
        if not keys:
            fail(UsageError, "keys", got="none", expected="one at least")
        old = {key.name: key for key in self._keys}
        for key in keys:
            if key.name in old:
                old[key.name].become(key)
        self._keys = tuple(old.pop(key.name, key) for key in keys)
        for key in old.values():
            key.gone = True
        return list(old)

    def name_of(self, authorization: str, x_api_key: str) -> str:
        """The name of the key of these headers; "" when there is none, or an unknown one."""
        try:
            return self.find(authorization, x_api_key).name
        except Unauthorised:
            return ""

    def find(self, authorization: str, x_api_key: str) -> Key:
        """The key of a request's headers: `Authorization: Bearer KEY`, or `x-api-key: KEY`. Raises Unauthorised.

        All digests are compared, each in constant time, so that time tells nothing about any of them.
        """
        if not self._keys:
            return self._local
        scheme, _, bearer = authorization.partition(" ")
        secret = bearer.strip() if scheme.lower() == "bearer" else x_api_key.strip()
        digest = digest_of(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None or not secret:
            fail(
                Unauthorised,
                "API key",
                got="none" if not secret else "an unknown one",
                expected="a key of this service",
            )
        return found


def _check(keys: Sequence[Key]) -> None:
    for key in keys:
        _check_policy(key.name, key.policy)
    if (name := first_twice(key.name for key in keys)) is not None:
        fail(UsageError, "keys", got=f"the name {name} twice", expected="a name for each")


def _check_policy(name: str, policy: str) -> None:
    if policy not in POLICIES:
        fail(UsageError, f"key {name}: policy", got=policy, expected="off, observe, redact or block")


def digest_of(secret: str) -> bytes:
    """The SHA-256 of a secret: keys are random and long, so nothing slower is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def plain_key(secret: str, name: str = "key", *, leave: bool = False) -> Key:
    """A key with all rights but raw. leave: and with that one. Raises UsageError for one that could be guessed."""
    if len(secret) < SHORTEST or not secret.isascii() or not secret.isprintable() or " " in secret:
        fail(UsageError, "API key", got=f"{len(secret)} characters", expected=f"{SHORTEST} or more of printable ASCII")
    return Key(name, digest_of(secret), frozenset((*RIGHTS, *(["leave"] if leave else ()))))


def read_keys(path: Path, tell: Callable[[str], None] = lambda line: None) -> list[Key]:
    """The keys of a TOML file of [[key]] tables. tell: called with a line for each table that is no valid key; it is
    left out.

    Raises NotFound, and UsageError for a file that others may read, that is no TOML, or that holds no valid key:
    without any key the service would be open.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            raw = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        fail(NotFound, f"keys file {path}: {error.strerror}")
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        fail(
            UsageError, f"keys file {path}", got=f"mode {stat.S_IMODE(mode):o}", expected="600", do=f"chmod 600 {path}"
        )
    if len(raw) > MOST_FILE_BYTES:
        fail(UsageError, f"keys file {path}", got="more bytes", expected=f"at most {MOST_FILE_BYTES}")
    try:
        tables: Any = tomllib.loads(raw.decode()).get("key")
    except (ValueError, RecursionError) as error:
        fail(UsageError, f"keys file {path}", got=str(error), expected="[[key]] tables with name, secret, rights")
    found: dict[str, Key] = {}
    why = "no [[key]] table"
    for i, table in enumerate(tables if isinstance(tables, list) else ()):
        try:
            key = _key(msgspec.convert(table, KeyOptions), path)
            if key.name in found:
                fail(UsageError, f"{path}: key", got=f"the name {key.name} twice", expected="a name for each")
        except (msgspec.ValidationError, UsageError) as error:
            why = f"[[key]] number {i + 1}: {error}"
            tell(f"{path.name}: left out: {why}")
        else:
            found[key.name] = key
    if not found:
        fail(UsageError, f"keys file {path}: {why}", expected="[[key]] tables with name, secret, rights")
    return list(found.values())


def _key(one: KeyOptions, path: Path) -> Key:
    check_name(one.name, f"{path}: name")
    _check_policy(one.name, one.policy)
    if one.secret:
        digest = plain_key(one.secret).digest
    else:
        try:
            digest = bytes.fromhex(one.sha256)
        except ValueError:
            digest = b""
        if len(digest) != 32:
            fail(UsageError, f"{path}: key {one.name}", got="neither secret nor sha256", expected="one of them")
    return Key(
        one.name,
        digest,
        frozenset(one.rights),
        one.requests_per_minute,
        one.tokens_per_minute,
        one.at_once,
        one.priority,
        one.policy,
    )
