"""The main loop of a process for work that may take any time and any memory: `herd.llm.side_processes` starts it.

    in    a setup, which says which work it is, then pieces of that work, until the parent is gone: then it leaves
    out   SideReady, then an answer for each

    TrialVocabulary   grammars are tried (`herd.engine.grammar_trial`)
    WritingSetup      dialogs are written by chat templates (`herd.text.templates`)

What does it cannot be bounded from within; a process can be killed and limited.
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import msgspec

from herd.engine.executors.wire import Channel
from herd.engine.grammar_trial import TrialRequest, TrialVerdict, TrialVocabulary, judge
from herd.errors import UsageError
from herd.text.template_task import Task, Templates

_RESERVED = 256 << 20
"""Addresses that allocators reserve for threads and do not use."""
_KEPT = 8
"""A process that has grown by this part of its limit makes place for a new one."""


class WritingSetup(msgspec.Struct, frozen=True, tag=True):
    """The first message to a process that writes dialogs."""

    templates: Templates
    memory_bytes: int
    """Most that a dialog may take, beyond what the process has when it begins."""


class WritingRequest(msgspec.Struct, frozen=True, tag=True):
    """A dialog to write by the template of a name."""

    name: str
    task: str
    """A Task in JSON: its numbers have any size."""


class Written(msgspec.Struct, frozen=True, tag=True):
    """What a template wrote (see `herd.text.templates.Writer`), or why it did not."""

    pieces: list[str]
    refusal: str | None
    grown: bool = False
    """Whether this process has kept much memory, and is to be replaced."""


class SideReady(msgspec.Struct, frozen=True, tag=True):
    """The process has started and takes work."""


Setup: TypeAlias = TrialVocabulary | WritingSetup
Down: TypeAlias = Setup | TrialRequest | WritingRequest
Up: TypeAlias = SideReady | TrialVerdict | Written


def main() -> None:
    """Run as the process. Never returns: it ends with its parent."""
    channel = Channel(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"), Down)
    os.dup2(2, 1)  # whatever prints must not speak between the frames
    setup = channel.receive()
    work = _work(setup)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    base = _limit(setup.memory_bytes)
    channel.send(SideReady())
    while True:
        answer = work(inbox.get())
        grown = _data_bytes() - base > setup.memory_bytes // _KEPT
        channel.send(msgspec.structs.replace(answer, grown=grown))


def _work(setup: Setup) -> Callable[[Any], TrialVerdict | Written]:
    if isinstance(setup, TrialVocabulary):
        return judge(setup)
    from herd.text.templates import Writers  # whoever starts this process needs no renderer

    writers = Writers(setup.templates)

    def write(request: WritingRequest) -> Written:
        try:
            task = msgspec.convert(json.loads(request.task), Task)
            return Written(writers.pieces(request.name, task), None)
        except UsageError as error:
            return Written([], str(error))
        except RecursionError:
            return Written([], "the dialog nests too deep for the chat template")

    return write


def _listen(channel: Channel, inbox: "queue.SimpleQueue[Any]") -> None:
    """Keep reading work into the inbox, so that the end of the parent is seen even during a piece of it."""
    try:
        while True:
            inbox.put(channel.receive())
    except BaseException:
        os._exit(0)


def _limit(memory_bytes: int) -> int:
    """Bound the memory of this process from now on, where the system can; returns what it uses now, in bytes."""
    base = _data_bytes()
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for kind, held in ((resource.RLIMIT_DATA, base), (resource.RLIMIT_AS, _pages(0) + _RESERVED)):
            if base:
                resource.setrlimit(kind, (held + memory_bytes, held + memory_bytes))
    return base


def _data_bytes() -> int:
    return _pages(5)


def _pages(field: int) -> int:
    """Bytes of a field of /proc/self/statm: 0 total size, 5 data; 0 where there is no such file."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[field]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
