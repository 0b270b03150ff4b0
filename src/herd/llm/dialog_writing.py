"""Dialogs are written by a model's own chat template in a process that can be killed (`herd.llm.side_processes`).

What it is not: what a template is given and what becomes of what it writes (`herd.text.chat_template`), how text is
kept from becoming control tokens (`herd.text.templates`).
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from msgspec.structs import replace

from herd.engine.side_process import WritingRequest, WritingSetup, Written
from herd.errors import UsageError
from herd.lanes import Lanes, owner_here
from herd.llm.side_processes import SideProcesses, side_lanes
from herd.text.chat_template import to_json
from herd.text.template_task import Task, Templates

WRITING_S = 10.0
"""How long a dialog may take to be written; what anybody says takes a few thousandths."""
WRITING_BYTES = 256 << 20
"""How much memory that may take."""


class DialogWriting(SideProcesses):
    """Writes dialogs with the templates of one model; any thread may ask.

    clock: the date that templates are told, in seconds since 1970.
    """

    what = "writes dialogs by the chat template"

    def __init__(
        self,
        templates: Templates,
        *,
        seconds: float = WRITING_S,
        memory_bytes: int = WRITING_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(seconds, memory_bytes)
        self._templates, self._clock = templates, clock

    def write(self, name: str, task: Task, owner: str) -> list[str]:
        """See `herd.text.chat_template.Writes`; without an owner, whoever's work this thread does. Raises UsageError,
        Interrupted when whoever waits for it has gone away, PassFailed where no process can be started."""
        request = WritingRequest(name, to_json(replace(task, now_s=self._clock())))
        written: Written = self.in_turn(owner or owner_here(), lambda attempt: attempt.ask(request), len(request.task))
        if written.refusal is not None:
            raise UsageError(written.refusal)
        return written.pieces

    def setup(self) -> WritingSetup:
        """See `SideProcesses`."""
        return WritingSetup(self._templates, self._memory_bytes)

    def over(self, request: Any, late: bool) -> str:
        """See `SideProcesses`."""
        limit = f"{self._seconds:g} s" if late else f"{self._memory_bytes >> 20} MiB"
        return f"the chat template takes over {limit} for this dialog; choose a format with --chat-format"

    def lanes(self) -> Lanes:
        """See `SideProcesses`."""
        return _lanes()


@cache
def _lanes() -> Lanes:
    return side_lanes("herd-dialogs")
