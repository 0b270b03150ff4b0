"""What a sandbox must not let happen, tried from within. Handed over as text to `sandbox_inside.py`.

    in     {"secret", "home", "seen", "outside", "port", "unix", "abstract", "process", "processes"}
    out    {"canaries": {what: how it went, "" where it is held}}

Nothing that it does harms where it is not held: it opens, maps and forks a bounded number of times.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

TOTAL = 2 << 30
PIECE = 64 << 20
OURS = ("/dev", "/tmp")
"""Folders that are there in every sandbox; the second one is a new one."""


def read_files(told: dict[str, Any]) -> str:
    """The person's files: ~/.ssh, and one that lies outside."""
    home = told["home"]
    for path in (told["secret"], "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/root"):
        if os.path.lexists(path):
            return f"{path} is there"
    for path in (home, os.path.join(home, ".ssh"), "/root", "/home", "/var", "/run", "/mnt", "/srv"):
        try:
            found = [one for one in os.listdir(path) if os.path.join(path, one) not in (*told["seen"], *OURS)]
        except OSError:
            continue
        if found:
            return f"{path} is read"
    return ""


def open_sockets(told: dict[str, Any]) -> str:
    """This machine's, and the network's."""
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", told["port"])),
        (socket.AF_UNIX, told["unix"]),
        (socket.AF_UNIX, "\0" + told["abstract"]),
    ):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as one:
                one.settimeout(2)
                one.connect(address)
        except OSError:
            continue
        return f"a socket reached {address!r}"
    for name in ("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
        try:
            socket.socket(getattr(socket, name), socket.SOCK_RAW if name == "AF_PACKET" else socket.SOCK_DGRAM).close()
        except OSError:
            continue
        return f"a socket of {name} was opened"
    return ""


def fork(told: dict[str, Any]) -> str:
    """Many processes."""
    children: list[int] = []
    try:
        for _ in range(told["processes"] + 16):
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return f"{len(children)} processes were started" if len(children) >= told["processes"] else ""


def write_outside(told: dict[str, Any]) -> str:
    """Anywhere but its own scratch folder."""
    for path in (told["outside"], told["home"]):
        if path == OURS[1]:  # where somebody's home is /tmp: whether theirs was written to is seen from outside
            continue
        try:
            with open(os.path.join(path, "canary"), "x"):
                return f"{path} was written to"
        except OSError:
            continue
    for path in ("/dev/null", "/usr", "/usr/lib"):  # to what it is already, or not at all
        try:
            os.chmod(path, os.stat(path).st_mode & 0o7777)
        except OSError:
            continue
        return f"the mode of {path} can be changed"
    for path in ("/", "/usr", "/usr/lib", "/etc", "/dev", "/dev/shm", "/var/tmp", *told["seen"]):
        if os.access(path, os.W_OK):
            return f"{path} can be written to"
    return ""


def take_memory(told: dict[str, Any]) -> str:
    """2 GB in one piece, in many processes, and in memory that is not counted."""
    try:
        mmap.mmap(-1, TOTAL).close()
        return "one process took 2 GiB"
    except (OSError, MemoryError):
        pass
    ask, reply = os.pipe()
    children = []
    for _ in range(told["processes"]):
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            held: list[mmap.mmap] = []
            try:
                while len(held) * PIECE < TOTAL:
                    held.append(mmap.mmap(-1, PIECE))
            except (OSError, MemoryError):
                pass
            os.write(reply, bytes([len(held)]))
            signal.pause()
        children.append(child)
    total = sum(os.read(ask, 1)[0] for _ in children) * PIECE
    os.close(ask)
    os.close(reply)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if total >= TOTAL:
        return f"{len(children)} processes took {total >> 20} MiB"
    libc = ctypes.CDLL(None, use_errno=True)
    found = libc.shmget(0, ctypes.c_size_t(PIECE), 0o1600)
    if found >= 0:
        libc.shmctl(found, 0, None)
        return "a segment of shared memory was made"
    return "memory without a name was made" if libc.memfd_create(b"canary", 0) >= 0 else ""


def inherit(_told: dict[str, Any]) -> str:
    """Open files and variables of who started it."""
    known = {"LC_CTYPE", "PWD"}  # which Python and the walls set themselves
    if names := sorted(os.environ.keys() - known):
        return f"the variable {names[0]} is there"
    opened = []
    for handle in range(5, 256):  # 3 and 4: what is said to it and what it says
        try:
            os.fstat(handle)
        except OSError:
            continue
        opened.append(handle)
    return f"the open file {opened[0]} is there" if opened else ""


def reach_processes(told: dict[str, Any]) -> str:
    """Other processes, and more rights."""
    try:
        os.kill(told["process"], 0)
        return "the process that started it is seen"
    except OSError:
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(39, 0, 0, 0, 0) != 1:
        return "a program may give it more rights"
    if os.geteuid() == 0 or os.getuid() == 0:
        return "it is root"
    child = os.fork()
    if child == 0:
        os._exit(libc.unshare(0x10000000) == 0)
    return "it may make namespaces" if os.waitpid(child, 0)[1] else ""


CANARIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "reading files": read_files,
    "opening a socket": open_sockets,
    "a fork bomb": fork,
    "writing outside": write_outside,
    "2 GB of memory": take_memory,
    "what it inherits": inherit,
    "other processes and rights": reach_processes,
}


def tried(told: dict[str, Any]) -> dict[str, str]:
    """How each went."""
    found = {}
    for name, canary in CANARIES.items():
        try:
            found[name] = canary(told)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "inside":
    answer({"canaries": tried(json.loads(requests.readline()))})  # type: ignore[name-defined]  # noqa: F821
