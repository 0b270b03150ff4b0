"""Where code that a model wrote may run: namespaces or bubblewrap, limits within, canaries first; nowhere else.

    chosen()        the first way whose canaries are all held; Unsupported with what was not
    Way.started()   a process within, which speaks lines of JSON

A way's walls: no file of the machine's but Python's own and the system's libraries, for reading; /tmp of its own, which
nothing can write to under bubblewrap; no network; no other process; no right. Within: limits of time, memory, processes
and bytes written, and a filter of calls (`sandbox_inside.py`). What it is not: a checker.
"""

import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.errors import Unsupported, fail
from herd.evals.children import Child, Excess, Gone, Late

HERE = Path(__file__).parent
MEMORY = 400 << 20
"""Bytes of addresses of one process."""
PROCESSES = 5
"""Processes and threads at a time, those of the walls among them: with MEMORY, less than 2 GiB in all."""
SCRATCH = 32 << 20
"""Bytes of its own folder."""
FILE = 16 << 20
"""Bytes of one file there."""
START_S = 20.0
CANARY_S = 30.0
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Broken(Exception):
    """A sandbox that did not start; the text says why."""


@dataclass(frozen=True)
class Way:
    """One way to build the walls. extra: folders that are seen, too, for reading: as `inside` says."""

    name: str
    extra: tuple[str, ...] = ()

    def command(self, inner: Sequence[str], seconds: float) -> list[str]:
        """What starts `inner` within."""
        binds, links = _seen(self.extra)
        if self.name == "namespaces":
            told = {
                "command": list(inner),
                "binds": binds,
                "links": links,
                "devices": [one for one in DEVICES if os.path.exists(one)],
                "scratch_bytes": SCRATCH,
                "seconds": seconds,
            }
            return [sys.executable, "-I", "-S", str(HERE / "sandbox_namespaces.py"), json.dumps(told)]
        command = [
            "bwrap",
            "--unshare-all",
            "--unshare-user",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]
        command += ["--uid", "65534", "--gid", "65534", "--clearenv", "--dir", "/tmp"]
        for path, target in binds.items():
            command += ["--ro-bind", path, target]
        for path, target in links.items():
            command += ["--symlink", target, path]
        for path in DEVICES:
            command += ["--dev-bind-try", path, path]
        return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", *inner]

    @contextmanager
    def started(self, script: str, seconds: float, *, memory_bytes: int = MEMORY) -> Iterator[Child]:
        """A process within that runs a script of this folder, killed at the end. seconds: of processor time of each of
        its processes. Raises Broken."""
        inside = (HERE / "sandbox_inside.py").read_text("utf-8")
        with tempfile.TemporaryDirectory(prefix="herd-sandbox-") as folder:
            try:
                inner = [os.path.realpath(sys.executable), "-I", "-S", "-c", inside]
                child = Child(self.command(inner, seconds + 60), Path(folder), {"PATH": os.defpath})
            except OSError as error:
                raise Broken(str(error)) from None
            try:
                setup = {
                    "source": (HERE / script).read_text("utf-8"),
                    "memory_bytes": memory_bytes,
                    "processes": PROCESSES,
                    "file_bytes": FILE,
                    "seconds": seconds,
                }
                try:
                    told = child.exchange(setup, START_S)
                except (Gone, Late, Excess) as error:
                    raise Broken(f"did not start: a process that {error}" if str(error) else "did not start") from None
                if told.get("ready") is not True:
                    raise Broken(str(told.get("broken"))[:200])
                yield child
            finally:
                child.end()

    def canaries(self) -> dict[str, str]:
        """What of what must not happen did, by name; nothing where all is held. Raises Broken."""
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="herd-canaries-"))
            (Path(folder) / "secret").write_text(secrets.token_hex())
            abstract = f"herd-canary-{secrets.token_hex(8)}"
            doors = {
                "port": stack.enter_context(socket.create_server(("127.0.0.1", 0))),
                "unix": stack.enter_context(socket.socket(socket.AF_UNIX)),
                "abstract": stack.enter_context(socket.socket(socket.AF_UNIX)),
            }
            doors["unix"].bind(f"{folder}/door")
            doors["abstract"].bind("\0" + abstract)
            for door in doors.values():
                door.listen(1)
                door.setblocking(False)
            told = {
                "secret": f"{folder}/secret",
                "home": _home(),
                "seen": sorted(_shown(self.extra)),
                "outside": folder,
                "port": doors["port"].getsockname()[1],
                "unix": f"{folder}/door",
                "abstract": abstract,
                "process": os.getpid(),
                "processes": PROCESSES,
            }
            child = stack.enter_context(self.started("sandbox_canaries.py", CANARY_S))
            try:
                answer = child.exchange(told, CANARY_S).get("canaries")
            except (Gone, Late, Excess) as error:
                raise Broken(f"its canaries: {error or 'no end'}") from None
            return judged(answer, doors, Path(folder))


def judged(answer: Any, doors: Mapping[str, socket.socket], folder: Path) -> dict[str, str]:
    """What the canaries said, and what is seen from outside."""
    if not isinstance(answer, dict) or not answer:
        raise Broken("its canaries said nothing")
    lost = {str(name): str(how)[:200] for name, how in answer.items() if how}
    for name, door in doors.items():
        try:
            door.accept()[0].close()
        except BlockingIOError:
            continue
        lost.setdefault("opening a socket", f"somebody came to {name}")
    if {one.name for one in folder.iterdir()} != {"secret", "door"}:
        lost.setdefault("writing outside", f"{folder} was written to")
    return lost


def ways(extra: Sequence[str] = ()) -> list[Way]:
    """The ways that this machine may have, the better one first."""
    if sys.platform != "linux":
        return []
    names = ["namespaces"] + (["bubblewrap"] if shutil.which("bwrap", path=os.defpath) else [])
    return [Way(name, tuple(extra)) for name in names]


def chosen(what: str, extra: Sequence[str] = ()) -> Way:
    """The first way whose canaries are all held, tried now. what: for whom, in errors. Raises Unsupported."""
    refused = []
    for way in ways(extra):
        why = refusal(way)
        if not why:
            return way
        refused.append(f"{way.name} {why}")
    why = "; ".join(refused) or "no namespaces and no bubblewrap on this system"
    return fail(
        Unsupported,
        f"{what}: what a model writes would be run, and no sandbox holds it here ({why})",
        do="install bubblewrap, run it as a user who may make namespaces, or leave this task out",
    )


def refusal(way: Way) -> str:
    """Why a way is none; nothing where all is held."""
    try:
        lost = way.canaries()
    except Broken as error:
        return str(error)
    return "does not hold " + ", ".join(f"{name} ({how})" for name, how in lost.items()) if lost else ""


def _home() -> str:
    """The person's folder; / where there is none, as in a container with an id that has no name."""
    try:
        return os.path.realpath(Path.home())
    except RuntimeError:
        return "/"


def _without_home(path: str, what: str) -> str:
    """A folder that may be shown. Raises Broken where it holds the person's files, too."""
    found, home = os.path.realpath(path), _home()
    if found == "/" or home == found or home.startswith(found + "/"):
        raise Broken(f"{what} {found} holds the home folder, too")
    return found


def inside(extra: Sequence[str]) -> list[str]:
    """Where folders that are seen, too, lie within."""
    return [f"/extra{number}" for number in range(len(extra))]


def _seen(extra: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Paths that are seen within, with their place there, and links there."""
    links = {one: os.readlink(one) for one in SYSTEM if os.path.islink(one)}
    found = {one: one for one in SYSTEM if one not in links and os.path.exists(one)}
    python = _without_home(sys.base_prefix, "Python's folder")
    if not any(python == one or python.startswith(one + "/") for one in found):
        found[python] = python
    more = [_without_home(one, "the folder of packages") for one in extra]
    return found | dict(zip(more, inside(extra), strict=True)), links


def _shown(extra: Sequence[str]) -> set[str]:
    """The paths that are seen within, and the folders that they lie in."""
    found, links = _seen(extra)
    shown = {*found.values(), *links}
    for path in list(shown):
        shown.update(str(one) for one in Path(path).parents if str(one) != "/")
    return shown
