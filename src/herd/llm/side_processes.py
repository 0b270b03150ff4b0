"""Work that may take any time or memory is done in processes that can be killed, which are replaced when they were.

An owner has one piece of work at a time, two run in all, and owners take turns (`herd.lanes`). What takes too long or
too much memory ends with its process; so does what nobody waits for any more.

What it is not: the processes themselves (`herd.engine.side_process`), what they do (`herd.llm.grammar_trials`,
`herd.llm.dialog_writing`).
"""

import subprocess
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar

from herd.engine.executors.wire import Channel
from herd.engine.forks import OwnerProcess
from herd.engine.side_process import Setup, Up
from herd.errors import Interrupted, PassFailed, UsageError, fail
from herd.lanes import Lanes
from herd.llm.waiting import Leaving

T = TypeVar("T")
PROCESSES = 2
START_S = 60.0
"""How long a process may take to start."""


class SideProcesses(ABC):
    """Processes of one kind; any thread may ask. They start with the first pieces of work.

    seconds, memory_bytes: limits of one piece.
    """

    what: ClassVar[str]
    """What they do: "tries grammars"."""

    def __init__(self, seconds: float, memory_bytes: int) -> None:
        self._seconds, self._memory_bytes = seconds, memory_bytes
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._closed = False
        weakref.finalize(self, _end, self._idle)

    @abstractmethod
    def setup(self) -> Setup:
        """What a new process is told first."""

    @abstractmethod
    def over(self, request: Any, late: bool) -> str:
        """Why this piece of work is refused, in words for whoever sent it. late: it took too long, else too much
        memory."""

    @abstractmethod
    def lanes(self) -> Lanes:
        """Where pieces of work wait for their turn: `side_lanes`, kept."""

    def close(self) -> None:
        """End its processes; those that are busy end with their work."""
        with self._lock:
            self._closed = True
        _end(self._idle)

    def in_turn(self, owner: str, work: "Callable[[Attempt], T]", size_bytes: int = 0) -> T:
        """Do work that may ask a process, when it is this owner's turn. size_bytes: of what it is about.

        Raises what the work raises, and Interrupted when whoever waits for it has gone away.
        """
        attempt = Attempt(self)
        future = self.lanes().submit(owner, lambda: work(attempt), size_bytes)

        def stop() -> None:
            future.cancel()
            attempt.stop()

        try:
            with Leaving.calls(stop):
                return future.result()
        except CancelledError:
            raise _gone() from None
        except BaseException:
            stop()  # Ctrl-C, too
            raise

    def _take(self) -> "_Process":
        while True:
            with self._lock:
                if not self._idle:
                    break
                process = self._idle.pop()
            if process.alive:
                return process
            process.end()
        try:
            return _Process(self.setup())
        except OSError:
            self._not_started()

    def _put(self, process: "_Process") -> None:
        with self._lock:
            if not self._closed and len(self._idle) < PROCESSES:
                self._idle.append(process)
                return
        process.end()

    def _not_started(self) -> NoReturn:
        fail(PassFailed, f"the process that {self.what} did not start", do="see that memory is left, ask again")


class Attempt:
    """One piece of work on its way through a process. `stop` may come at any time, from any thread."""

    def __init__(self, processes: SideProcesses) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._stopped = False
        self._process: _Process | None = None

    def stop(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def ask(self, request: Any) -> Any:
        """What a process answers. Raises UsageError with the limit that was met, Interrupted when it was stopped,
        PassFailed where no process can be started."""
        process, keep = self._processes._take(), False
        try:
            self._use(process)
            answer = process.ask(request, self._processes._seconds)
            keep = not answer.grown
            return answer
        except (EOFError, OSError):
            self._ended(process, request)
        finally:
            with self._lock:
                self._process = None
            if keep:
                self._processes._put(process)
            else:
                process.end()

    def _use(self, process: "_Process") -> None:
        with self._lock:
            if self._stopped:
                raise _gone()
            self._process = process

    def _ended(self, process: "_Process", request: Any) -> NoReturn:
        """Raise why a process ended during its work."""
        with self._lock:
            if self._stopped:
                raise _gone()
        if not process.started:
            self._processes._not_started()
        raise UsageError(self._processes.over(request, process.late))


class _Process:
    """A process, with one piece of work at a time. Another thread may call `kill` meanwhile, and nothing else."""

    def __init__(self, setup: Setup) -> None:
        self._home = OwnerProcess()
        self._process = subprocess.Popen(
            command_of("herd.engine.side_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what panics print is what a stranger wrote
            start_new_session=True,  # Ctrl-C in the terminal is for us
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._source = self._process.stdout
        self._channel = Channel(self._source, self._process.stdin, Up)
        self._setup = setup
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.started = False
        self.late = False
        """Whether it was killed because something took too long."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def ask(self, request: Any, seconds: float) -> Any:
        """What comes of a piece of work. Raises EOFError or OSError when the process has ended."""
        if not self.started:
            with self._killed_after(START_S):
                self._channel.send(self._setup)
                self._channel.receive()
            self.started = True
        with self._killed_after(seconds):
            self._channel.send(request)
            return self._channel.receive()

    def kill(self) -> None:
        """Whatever it does; whoever asked it hears an end of file."""
        self._process.kill()

    def end(self) -> None:
        """Kill it, and leave nothing of it. In a fork it is another process's."""
        if not self._home.is_here:
            return
        self.kill()
        self._process.wait()
        self._channel.close()
        self._source.close()

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        def late() -> None:
            with self._lock:
                if self._timer is timer:  # else it is over, and may be at the next one
                    self.late = True
                    self.kill()

        timer = threading.Timer(seconds, late)
        timer.daemon = True
        self._timer = timer
        timer.start()
        try:
            yield
        finally:
            with self._lock:
                self._timer = None
            timer.cancel()


def command_of(module: str) -> list[str]:
    """The command of a process that runs `main` of a module of Herd, from where this Herd was imported."""
    import herd

    root = str(Path(herd.__file__).parents[1])
    return [sys.executable, "-c", f"import sys; sys.path.append({root!r}); from {module} import main; main()"]


def side_lanes(name: str) -> Lanes:
    """Lanes of this process for one kind of work: an owner has one piece at a time."""
    return Lanes(name, threads=PROCESSES, each=1, large=1)


def _gone() -> Interrupted:
    return Interrupted("nobody waits for this any more")


def _end(processes: list[_Process]) -> None:
    while processes:
        processes.pop().end()
