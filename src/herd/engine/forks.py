"""The process that a model was loaded in. A fork has copies of its locks, pipes and streams and none of its threads:
using the model there would wait for ever, or write between the frames of the process that it came from."""

import os

from herd.errors import UsageError, fail


class OwnerProcess:
    """Remembers in which process it was made."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this is that process."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raise UsageError in a fork of that process. Call it before any lock is taken."""
        if not self.is_here:
            fail(
                UsageError,
                "the model",
                got="a fork of the process that loaded it",
                expected="that process",
                do="load it after the fork, or start the process anew (multiprocessing: spawn)",
            )
