"""Namespaces around a command: a script that needs nothing of Herd's, run by its path in an empty folder.

    argv[1]    {"command", "binds", "links", "devices", "scratch_bytes", "seconds"} in JSON

The command is in a tree of processes of its own, sees what is bound (for reading) and /tmp, has no network, no rights,
and ends with this script, which ends with who started it. Process 1 of that tree is ours: what the command could undo
of that itself is not its to undo. Where root runs it, it has an id that nobody else has, so that limits of processes
count for it.
What it is not: the limits and filters that the command sets for itself (`sandbox_inside.py`).
"""

import ctypes
import json
import os
import random
import signal
import sys
from typing import Any

NEW_USER, NEW_PID = 0x10000000, 0x20000000
OTHERS = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000
"""Mounts, control groups, names of the host, shared memory and messages, the network."""
READ_ONLY, NO_SUID, NO_DEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
KEPT = {4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}
"""Flags of a mount that must stay where another user's namespace set them: as statvfs tells them, as mount takes."""
DETACH = 2
DEATH_SIGNAL, DROP_BOUND, NO_NEW_RIGHTS = 1, 24, 38
NOBODY = 65534
SPARE = 1 << 30
"""Ids from here on are given to nobody."""
libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the command, and end as it ends."""
    told = json.loads(sys.argv[1])
    call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    signal.alarm(int(told["seconds"]) + 5)  # where nobody is there any more to kill this
    os.umask(0o022)
    root = os.geteuid() == 0
    if root:
        call("unshare", NEW_PID)
    else:
        user, group = os.getuid(), os.getgid()
        call("unshare", NEW_USER | NEW_PID)
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{NOBODY} {user} 1")
        write("/proc/self/gid_map", f"{NOBODY} {group} 1")
    asked, answered = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            inside(told, root, asked[1], answered[0])
        except BaseException as error:
            print(json.dumps({"broken": f"{error}"}), flush=True)
        os._exit(125)
    if root:
        if os.read(asked[0], 1):
            number = SPARE + random.SystemRandom().randrange(SPARE)
            for kind in ("uid_map", "gid_map"):
                write(f"/proc/{child}/{kind}", f"{NOBODY} {number} 1")
        os.write(answered[1], b"x")
    for handle in (0, 1, *asked, *answered):
        os.close(handle)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 127)


def inside(told: dict[str, Any], root: bool, asks: int, answer: int) -> None:
    """Start the command, and end with it. Raises OSError for what this machine does not allow."""
    call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    call("unshare", OTHERS)
    build(told)
    if root:
        call("unshare", NEW_USER)
        os.write(asks, b"x")
        os.read(answer, 1)
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setgroups([])
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for right in range(64):
        libc.prctl(DROP_BOUND, right, 0, 0, 0)  # those that this kernel has not are no loss
    drop()
    call("prctl", NO_NEW_RIGHTS, 1, 0, 0, 0)
    call("prctl", DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # which another id has undone
    os.closerange(3, 4096)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # else the command could end process 1
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()  # so that signals to its group reach nobody outside
        os.execve(told["command"][0], told["command"], {})
    os.closerange(0, 3)
    ended, status = os.wait()
    while ended != child:
        ended, status = os.wait()
    os._exit(os.waitstatus_to_exitcode(status) & 127)  # and with it all that is left of the tree


def build(told: dict[str, Any]) -> None:
    """Make the tree of files that the command sees, out of the folder that this script runs in."""
    place = os.getcwd()
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", place, "tmpfs", NO_SUID | NO_DEV, "size=1m,mode=755")
    for path, target in told["binds"].items():
        target = place + target
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            open(target, "x").close()
        bind(path, target, NO_DEV)
    for path, target in told["links"].items():
        os.symlink(target, place + path)
    os.mkdir(place + "/dev")
    for path in told["devices"]:
        open(place + path, "x").close()
        bind(path, place + path)  # what is written to a device is no change of it: its mode and times stay
    os.mkdir(place + "/tmp")
    mount("tmpfs", place + "/tmp", "tmpfs", NO_SUID | NO_DEV, f"size={told['scratch_bytes']},mode=1777,nr_inodes=4096")
    mount(None, place, None, BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEV)
    os.chdir(place)
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chdir("/tmp")


def bind(path: str, target: str, flags: int = 0) -> None:
    """Show a file or folder for reading."""
    mount(path, target, None, BIND)
    found = os.statvfs(target).f_flag
    kept = sum(given for said, given in KEPT.items() if found & said)
    mount(None, target, None, BIND | REMOUNT | READ_ONLY | NO_SUID | flags | kept)


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """As the system's call; the error says of what."""
    try:
        call(
            "mount", *(one and one.encode() for one in (source, target, kind)), ctypes.c_ulong(flags), encoded(options)
        )
    except OSError as error:
        raise OSError(f"{error}: {source or kind or ''} on {target}") from None


def encoded(text: str | None) -> bytes | None:
    """A text as the system takes it."""
    return None if text is None else text.encode()


def drop() -> None:
    """Give up all rights (version 3 of the call: two times 32 of each kind)."""
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", head, (ctypes.c_uint32 * 6)())


def call(name: str, *values: Any) -> None:
    """A call of the system's. Raises OSError that names it."""
    if getattr(libc, name)(*values) != 0:
        number = ctypes.get_errno()
        raise OSError(f"{name}: {os.strerror(number)}")


def write(path: str, text: str) -> None:
    """Write a small file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    try:
        main()
    except OSError as problem:
        print(json.dumps({"broken": f"{problem}"}), flush=True)
        sys.exit(125)
