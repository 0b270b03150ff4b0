"""The first code within a sandbox: limits and filters for itself, then the code that it is told.

    in     {"source", "memory_bytes", "processes", "file_bytes", "seconds"}, then what that code reads
    out    {"ready": true}, then what it writes

A script that needs nothing of Herd's, handed over as text: no file of Herd's is seen within. What it is not: the walls
(`herd.evals.sandbox`).
"""

import ctypes
import errno
import json
import os
import platform
import resource
import struct
from typing import Any

NO_NEW_RIGHTS, DUMPABLE, SET_FILTER = 38, 4, 22
MACHINES: dict[str, tuple[int, int]] = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""The kernel's number of a machine, and its column below."""
FORBIDDEN: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "swapon": (167, 224),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Calls that reach memory beyond the limits, other processes, or parts of the kernel that no answer needs."""
CLONE, CLONE3, SOCKET = (56, 220), (435, 435), (41, 198)
NEW = 0x7E020080
"""Flags of clone that ask for namespaces."""
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def main() -> None:
    """Take what is to be run, and run it under limits."""
    answers = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nowhere, handle)
    os.close(nowhere)
    setup = json.loads(requests.readline())

    def answer(told: dict[str, Any]) -> None:
        answers.write(json.dumps(told).encode() + b"\n")
        answers.flush()

    try:
        program = compile(setup["source"], "inside", "exec")
        limit(setup)
        confine()
    except BaseException as error:
        answer({"broken": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": True})
    exec(program, {"__name__": "inside", "answer": answer, "requests": requests})


def limit(setup: dict[str, Any]) -> None:
    """Bound what this process and those it starts may take."""
    seconds = int(setup["seconds"]) + 1
    for kind, most in (
        (resource.RLIMIT_AS, setup["memory_bytes"]),
        (resource.RLIMIT_NPROC, setup["processes"]),
        (resource.RLIMIT_FSIZE, setup["file_bytes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
    ):
        resource.setrlimit(kind, (most, most))


def confine() -> None:
    """Refuse the calls of `FORBIDDEN`, new namespaces, and sockets of all families but the one within a machine."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = filter_of(platform.machine())
    array = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

    program = Program(len(code) // 8, ctypes.cast(array, ctypes.c_void_p))
    for call in ((NO_NEW_RIGHTS, 1, 0, 0, 0), (DUMPABLE, 0, 0, 0, 0), (SET_FILTER, 2, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {call[0]}")


def filter_of(machine: str) -> bytes:
    """The filter of calls for a machine, as the kernel reads it: 8 bytes a step. Raises KeyError for another one."""
    number, column = MACHINES[machine]
    refused = REFUSE | errno.EPERM
    steps: list[tuple[int, int, int, int]] = [  # operation, steps to skip where it is so, where it is not, value
        (LOAD, 0, 0, 4),
        (EQUAL, 1, 0, number),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
        (AT_LEAST, 0, 1, 0x40000000),  # calls of another width
        (RETURN, 0, 0, refused),
        (EQUAL, 0, 1, CLONE3[column]),  # its flags cannot be seen; who calls it goes on with clone
        (RETURN, 0, 0, REFUSE | errno.ENOSYS),
        (EQUAL, 0, 4, CLONE[column]),
        (LOAD, 0, 0, 16),
        (ANY_BIT, 0, 1, NEW),
        (RETURN, 0, 0, refused),
        (RETURN, 0, 0, ALLOW),
        (EQUAL, 0, 4, SOCKET[column]),
        (LOAD, 0, 0, 16),
        (EQUAL, 1, 0, 1),
        (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    for call in FORBIDDEN.values():
        steps += [(EQUAL, 0, 1, call[column]), (RETURN, 0, 0, refused)]
    steps.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


if __name__ == "__main__":
    main()
