"""System calls of the event loop that keep the interpreter: to accept, receive, send and close, and to ask epoll.

Python's own let other threads go on during each call. Where one of those computes, the loop then waits for it, for the
interpreter's switch interval and one call of C (a search, say), at every one of the dozen calls that a new connection
takes, though each is done in a microsecond: a turn of 10 ms took 100 ms. None of these calls blocks; they are
made through `ctypes.PyDLL`, which does not give the interpreter away. Only where the system has epoll.
"""

import ctypes
import os
import platform
import select
import socket
import sys
import threading
from typing import Any

_LIBC = ctypes.PyDLL(None, use_errno=True)
_ADDRESS_BYTES = 128
"""Bytes of `struct sockaddr_storage`."""
_PIECE_BYTES = 64 << 10
"""Most bytes that one call receives."""


class _Event(ctypes.Structure):
    """`struct epoll_event`, which is packed on x86-64 alone."""

    if platform.machine() == "x86_64":
        _pack_ = 1
    _fields_ = (("events", ctypes.c_uint32), ("fd", ctypes.c_int32), ("_rest", ctypes.c_uint32))


def _checked(found: int) -> int:
    """What a call returned. Raises its OSError."""
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


class Epoll:
    """As `select.epoll`, but only `wait` lets other threads go on."""

    def __init__(self) -> None:
        self._waiting = select.epoll()
        self._fd = self._waiting.fileno()
        self._found = (_Event * 0)()

    def fileno(self) -> int:
        """Its file descriptor."""
        return self._fd

    def register(self, fd: int, mask: int) -> None:
        """Watch a file. Raises OSError."""
        self._control(_ADD, fd, mask)

    def modify(self, fd: int, mask: int) -> None:
        """Watch a file for other events. Raises OSError."""
        self._control(_MODIFY, fd, mask)

    def unregister(self, fd: int) -> None:
        """Watch a file no longer. Raises OSError."""
        self._control(_DELETE, fd, 0)

    def _control(self, what: int, fd: int, mask: int) -> None:
        _checked(_LIBC.epoll_ctl(self._fd, what, fd, ctypes.byref(_Event(mask, fd))))

    def wait(self, seconds: float, most: int) -> list[tuple[int, int]]:
        """As `poll`, once there is an event, or after `seconds` (negative: for ever); other threads go on meanwhile."""
        return self._waiting.poll(seconds, most)

    def poll(self, most: int) -> list[tuple[int, int]]:
        """(file, mask of events) of up to `most` files that have some. Raises OSError."""
        if len(self._found) < most:
            self._found = (_Event * most)()
        found = self._found
        count = _checked(_LIBC.epoll_wait(self._fd, found, most, 0))
        return [(found[i].fd, found[i].events) for i in range(count)]

    def close(self) -> None:
        """Close it; twice is once."""
        self._waiting.close()


_ADD, _DELETE, _MODIFY = 1, 2, 3


class Connected(socket.socket):
    """A connection that was accepted. It does not block, and what an event loop does with it keeps the interpreter."""

    def __init__(self, family: int, protocol: int, fd: int, peer: Any) -> None:
        super().__init__(family, socket.SOCK_STREAM, protocol, fileno=fd)
        self._peer = peer

    def setblocking(self, flag: bool) -> None:
        """See socket.socket. There is nothing to do where it is not to block."""
        if flag:
            super().setblocking(flag)

    def getpeername(self) -> Any:
        """The address that it was accepted with, in socket.socket's form."""
        return self._peer

    def recv(self, most: int, flags: int = 0) -> bytes:
        """See socket.socket; a piece has 64 KiB at most."""
        buffer = _buffer()
        size = _LIBC.recv(self.fileno(), buffer, min(most, len(buffer)), flags | socket.MSG_DONTWAIT)
        return ctypes.string_at(buffer, _checked(size))

    def send(self, data: Any, flags: int = 0) -> int:
        """See socket.socket."""
        if type(data) is not bytes:
            return super().send(data, flags)
        return _checked(_LIBC.send(self.fileno(), data, len(data), flags | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL))

    def _real_close(self, *_: Any) -> None:
        """What `close` of socket.socket calls once no file object of it is open any more."""
        if (fd := self.detach()) >= 0:
            _LIBC.close(fd)


def accept(listening: socket.socket) -> Connected:
    """The next connection of a socket that listens and does not block. Raises BlockingIOError where none waits, and
    other OSErrors."""
    address = ctypes.create_string_buffer(_ADDRESS_BYTES)
    size = ctypes.c_uint32(_ADDRESS_BYTES)
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    fd = _checked(_LIBC.accept4(listening.fileno(), address, ctypes.byref(size), flags))
    return Connected(listening.family, listening.proto, fd, _address(listening.family, address.raw))


def _address(family: int, found: bytes) -> Any:
    """A `struct sockaddr` as `socket.getpeername` has it; "" for sockets without addresses."""
    port = int.from_bytes(found[2:4], "big")
    if family == socket.AF_INET:
        return socket.inet_ntop(family, found[4:8]), port
    if family == socket.AF_INET6:
        flow, scope = int.from_bytes(found[4:8], "big"), int.from_bytes(found[24:28], sys.byteorder)
        return socket.inet_ntop(family, found[8:24]), port, flow, scope
    return ""


_THREAD = threading.local()


def _buffer() -> Any:
    """Where this thread receives."""
    if not hasattr(_THREAD, "buffer"):
        _THREAD.buffer = ctypes.create_string_buffer(_PIECE_BYTES)
    return _THREAD.buffer
