"""The registry of models on this machine: one JSON file, read whole, replaced atomically under a lock.

What it is: records of versions and the rules of names. What it is not: downloads, hashing, weights (`stored`, `fetch`).

    $HERD_HOME/models.json          {"version": 1, "models": {NAME: {"current": ID, "versions": [...]}}}
    $HERD_HOME/models/NAME/ID/...   what was pulled; imported files stay where they are
    $HERD_HOME/partial/             downloads that can be resumed
    $HERD_HOME/locks/               one lock for the registry, one per name being pulled

Locks are the kernel's (flock), so a killed process holds none.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from herd.disk.atomic import explain_full_disk, make_folders
from herd.disk.records import UNREADABLE, Broken, CachedFile, Records, parse_records
from herd.errors import BadFile, UsageError, fail

REGISTRY_VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}+(/[A-Za-z0-9][A-Za-z0-9._-]{0,95}+)?+")
MAX_REGISTRY_BYTES = 64 << 20
MAX_RECORD_BYTES = 8 << 20
"""Most bytes of the record of one name: its versions, and the state of each of their files."""
MOST_SWITCHES = 200
"""Lines of a name's history; older ones go."""


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of a version, as it was when recorded. `sha256` is None until something had to read it all."""

    size: int
    mtime_ns: int
    sha256: str | None = None


class Version(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of a model. `id` names it: the first 12 digits of its SHA-256, or, for files imported in place and
    never read whole, of the SHA-256 of sizes and of both ends of each file."""

    id: str
    path: str
    """The file or folder to load: absolute when imported, relative to home() when pulled, so that home can move."""
    files: dict[str, FileRecord]
    """Path relative to the folder (or the file's own name) -> its record."""
    source: str
    """The place that it came from, for people."""
    in_place: bool = False
    """Imported: Herd neither copied it nor may delete it."""
    digest: str | None = None
    """SHA-256 of the one file, or of the sorted list of names and digests; None: not computed yet."""
    licence: str | None = None
    added_s: float = 0.0
    """Unix time."""

    @property
    def location(self) -> Path:
        """`path` as an absolute path."""
        return home() / self.path

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.size for record in self.files.values())

    def file(self, name: str) -> Path:
        """The path of the recorded file of this name."""
        return (self.location if self.location.is_dir() else self.location.parent) / name

    def called(self, digest: str) -> bool:
        """Whether `digest`, a prefix that a user typed, means this version."""
        return self.id.startswith(digest) or (self.digest is not None and self.digest.startswith(digest))


class Switch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name that began to mean another version."""

    to: str
    """Id of the version that it meant from then on."""
    before: str
    """Id of the version that it meant before; that one may be gone."""
    when_s: float
    """Unix time."""
    who: str
    """The person whose program did it, as the machine calls them."""
    why: str
    """What did it: "upgrade", "use", "import", "pull", "rm"."""
    compared: str = ""
    """The folder of the comparison that it was decided by."""


class ModelEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """The versions under one name, oldest first, and the id of the one in use."""

    current: str
    versions: tuple[Version, ...]
    history: tuple[Switch, ...] = ()
    """Switches from one version to another, oldest first; at most MOST_SWITCHES, the last ones."""
    tasks: tuple[str, ...] = ()
    """Tasks that the name was evaluated on last: absolute paths, and names of those that come with Herd."""

    @property
    def now(self) -> Version:
        """The version in use."""
        return next(v for v in self.versions if v.id == self.current)

    def switched(self, to: str, why: str, compared: str = "") -> "ModelEntry":
        """The entry that means version `to`, with a line of history where that is another one."""
        if to == self.current:
            return self
        line = Switch(to, self.current, time.time(), _who(), why, compared)
        return msgspec.structs.replace(self, current=to, history=(*self.history, line)[-MOST_SWITCHES:])


class _Stored(msgspec.Struct):
    """models.json, as it is written."""

    version: int = REGISTRY_VERSION
    models: dict[str, msgspec.Raw] = {}


@dataclass
class Registry:
    """The content of models.json."""

    models: dict[str, ModelEntry] = field(default_factory=dict)
    broken: dict[str, Broken] = field(default_factory=dict)
    """Records that cannot be understood: no models, and kept as they are."""


def home() -> Path:
    """$HERD_HOME, else $XDG_DATA_HOME/herd, else ~/.local/share/herd. Not created here."""
    if own := os.environ.get("HERD_HOME"):
        return Path(own).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "share") / "herd"


def stem_of(path: Path) -> str:
    """The default name of a model at this path: the last part of the path, without the ending of a file of weights."""
    return path.name.removesuffix(".gguf").removesuffix(".safetensors")


def name_from(path: Path, most: int) -> str:
    """`stem_of` as a name of at most `most` characters that `check_name` accepts; "model" where nothing of it is
    left."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem_of(path)).strip("._-")[:most] or "model"


def check_name(name: str) -> str:
    """Return `name` if a model may have it; raises UsageError. Names become folders, so nothing else gets through."""
    if not NAME.fullmatch(name) or ".." in name:
        fail(UsageError, "model name", got=name, expected="letters, digits, '.', '_' and '-', as NAME or ORG/NAME")
    return name


def folder(name: str) -> Path:
    """The folder of the versions of `name`. ORG/NAME becomes ORG--NAME: no nesting."""
    return home() / "models" / check_name(name).replace("/", "--")


def read() -> Registry:
    """The registry, empty when there is none; not to be changed (see `edit`). Raises BadFile when the file as a whole
    cannot be understood; a record that cannot be is in `broken`."""
    found = _file.now(home() / "models.json")
    return Registry() if found is None else found


def _read(path: Path, data: bytes) -> Registry:
    try:
        stored = msgspec.json.decode(data, type=_Stored)
    except UNREADABLE as error:
        fail(BadFile, str(path), got=str(error), do="move it away and import or pull the models again")
    if stored.version != REGISTRY_VERSION:
        fail(BadFile, f"{path}: version", got=stored.version, expected=REGISTRY_VERSION, do="use the newer herd")
    found = parse_records(stored.models, ModelEntry, _check, MAX_RECORD_BYTES)
    return Registry(found.good, found.broken)


def _check(name: str, entry: ModelEntry) -> None:
    """Check a record from the file. Raises UsageError, BadFile."""
    check_name(name)
    if all(v.id != entry.current for v in entry.versions):
        fail(BadFile, "it uses a version that it does not have", got=entry.current)


_file = CachedFile(_read, MAX_REGISTRY_BYTES)


@contextmanager
def edit() -> Iterator[Registry]:
    """Change the registry: it is locked, read, yielded, and written back whole unless the block raises. Raises
    UsageError for content that could not be read again."""
    with lock("registry"):
        now = read()
        registry = Registry(dict(now.models), dict(now.broken))
        yield registry
        for name in registry.models:
            registry.broken.pop(name, None)
        stored = _Stored(models=Records(registry.models, registry.broken).raw())
        data = msgspec.json.format(msgspec.json.encode(stored), indent=1)
        _file.write(home() / "models.json", data, lambda found: found.models == registry.models)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock called `name` across processes; waits for it. A process that ends in any way releases it.

    Raises DoesNotFit when the disk is too full for its file.
    """
    path = home() / "locks" / (name.replace("/", "--") + ".lock")
    make_folders(path.parent)
    try:
        file = open(path, "ab")  # noqa: SIM115 (closed by the block below)
    except OSError as problem:
        explain_full_disk(path, problem)
        raise
    with file as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def is_locked(name: str) -> bool:
    """Whether another holder has the lock called `name` right now."""
    path = home() / "locks" / (name.replace("/", "--") + ".lock")
    try:
        with open(path, "rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def add(name: str, version: Version, why: str = "import", *, switch: bool = True) -> None:
    """Record `version` under `name` and make it current; switch: unless it is False and there is another one. The same
    id again replaces its record; but without a switch the version in use stays where it lies. why: of the name's
    history."""
    with edit() as registry:
        old = registry.models.get(name)
        if old is None:
            registry.models[name] = ModelEntry(version.id, (version,))
            return
        if not switch and version.id == old.current and version.path != old.now.path:
            return
        kept = tuple(v for v in old.versions if v.id != version.id)
        found = msgspec.structs.replace(old, versions=(*kept, version))
        registry.models[name] = found.switched(version.id, why) if switch else found


def _who() -> str:
    """The person whose program this is, as the machine calls them."""
    import getpass  # none but a switch asks

    try:
        return getpass.getuser()[:64].encode("utf-8", "replace").decode()
    except (KeyError, OSError, ImportError):  # a container's user has no name
        return str(os.getuid())
