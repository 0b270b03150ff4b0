"""What a backend can do, tried with a few words of Herd's own: reached, key, model, streams, usage, tools, schema.

What it is not: a person's text, a decision of what may leave: every request asks the gate.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from herd.backends.failures import Absent, Denied, Unfit, Withdrawn, told_words
from herd.backends.forms import form_of
from herd.backends.model import BackendModel
from herd.backends.openai_request import written
from herd.backends.paid import PaidModel
from herd.backends.settings import Lacking
from herd.backends.wire import ListedModels
from herd.chat_model import Turns
from herd.errors import HerdError, LimitReached, StaysHere, Unsupported
from herd.events import DoneEvent, Reply

CHECKS = ("reached", "key", "model", "streams", "usage", "tools", "schema")
NEEDED = CHECKS[:4]
"""Checks without which nothing is answered."""
Result = Literal["ok", "failed", "lacks", "unknown"]
Tell = Callable[[str, Result, str], None]
MOST_TOKENS = 64
TURNS: Turns = [{"role": "user", "content": "Say yes."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "say",
        "description": "Says a word",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"yes": {"type": "boolean"}},
    "required": ["yes"],
    "additionalProperties": False,
}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "streams": {},
    "tools": {"tools": [TOOL], "tool_choice": "required"},
    "schema": {"schema": SCHEMA},
}
"""Options of the requests that are sent."""


CAPABILITY_OF: Mapping[str, Lacking] = {"tools": "tools", "schema": "schemas"}
"""Capabilities that checks try."""
Probed: TypeAlias = BackendModel | PaidModel
"""A backend's model, paid or not."""


@dataclass(frozen=True)
class ProbePlan:
    """What a probe would send. size_bytes: of all bodies together."""

    host: str
    requests: int
    size_bytes: int


def plan_of(model: Probed) -> ProbePlan:
    """What a probe of a model would send."""
    form = form_of(model.target)
    bodies = [written(form.body_of(model.target, TURNS, _options(model, check))) for check in _tried(model)]
    return ProbePlan(model.target.host, 1 + len(bodies), sum(map(len, bodies)))


@dataclass
class Findings:
    """What a probe has found that a backend's settings may keep."""

    context: int | None = None
    """Tokens that the other side's list tells of the model."""
    lacks: tuple[Lacking, ...] = ()
    """Capabilities that its preset says it has and that it has not."""


async def probe(
    model: Probed, *, leave: bool, tell: Tell, findings: Findings | None = None
) -> dict[str, dict[str, str]]:
    """Each check with its result and a few words. tell: hears of each as it is known. findings: is told what may be
    kept. Raises StaysHere, LimitReached before anything is sent."""
    probing = _Probing(model, leave, tell, findings or Findings())
    if await probing.lists():
        await probing.answers()
    return {check: probing.found[check] for check in CHECKS if check in probing.found}


class _Probing:
    def __init__(self, model: Probed, leave: bool, tell: Tell, findings: Findings) -> None:
        self._model, self._leave, self._tell, self._findings = model, leave, tell, findings
        self.found: dict[str, dict[str, str]] = {}
        self._listed = "which no list has"

    def _say(self, check: str, result: Result, words: str = "") -> None:
        self.found[check] = {"result": result, "words": words}
        self._tell(check, result, words)

    async def lists(self) -> bool:
        """Look for the model among those that are listed; returns whether it is any use to go on."""
        target = self._model.target
        try:
            names = await self._model.models(leave=self._leave)
        except StaysHere:
            raise
        except Absent as error:
            self._say("reached", "failed", str(error))
            return False
        except Denied as error:
            self._say("reached", "ok", target.host)
            self._say("key", "failed", str(error))
            return False
        except HerdError as error:  # some have no list
            self._say("reached", "ok", f"{target.host}, which lists no models: {error}")
            return True
        if names is None:  # whether it is reached is seen at the first answer
            self._listed = "which has no list"
            return True
        self._say("reached", "ok", target.host)
        if target.model in names:
            context = names.contexts.get(target.model) if isinstance(names, ListedModels) else None
            self._findings.context = context
            told = "" if context is None else f", with {context} tokens of context"
            self._listed = f"one of {len(names)} that it lists{told}"
        return True

    async def answers(self) -> None:
        """Ask for an answer, and for what else it may do."""
        reply = await self._asked("streams")
        if reply is None:
            return
        if "reached" not in self.found:
            self._say("reached", "ok", self._model.target.host)
        self._say("key", "ok", "kept" if self._model.target.key is not None else "none is wanted")
        self._say("model", "ok", f"{self._model.target.model}, {self._listed}")
        self._say("streams", "ok", f"{reply.usage.output_tokens} tokens")
        counted = reply.usage.prompt_tokens > 0
        self._say(
            "usage", "ok" if counted else "lacks", "" if counted else "tokens are not told: the most counts as spent"
        )
        for check in ("tools", "schema"):
            if check not in _tried(self._model):
                self._say(check, "lacks", "as its settings say")
            elif (reply := await self._asked(check)) is not None:
                good = bool(reply.tool_calls) if check == "tools" else _fits(reply.text)
                told = "" if good else f"answered {self._shown(reply.text)!r}"
                unsure = check == "tools" and not form_of(self._model.target).forces(self._model.target)
                unsure = unsure or reply.finish_reason == "length"  # whoever thinks first has not come to it yet
                self._say(check, "ok" if good else "unknown" if unsure else "failed", told)
                if not good and not unsure:
                    self._lacks(check)

    def _shown(self, text: str) -> str:
        """The beginning of an answer, which is as strange as an error."""
        return told_words(text, self._model.target.key)[:60]

    async def _asked(self, check: str) -> Reply | None:
        """The answer to one request; None: it failed, and that was told."""
        stream = self._model.astream(TURNS, **_options(self._model, check), leave=self._leave)
        try:
            async for event in stream:
                if isinstance(event, DoneEvent):
                    return event.reply
        except (StaysHere, LimitReached):
            raise
        except HerdError as error:
            self._say(self._failed_at(check, error), "failed", str(error))
            if isinstance(error, Unfit | Unsupported):
                self._lacks(check)
        finally:
            await stream.aclose()
        return None

    def _lacks(self, check: str) -> None:
        if check in CAPABILITY_OF:
            self._findings.lacks += (CAPABILITY_OF[check],)

    def _failed_at(self, check: str, error: HerdError) -> str:
        """The check that an error of a request says most about."""
        if check != "streams":
            return check
        if "reached" not in self.found:
            if isinstance(error, Absent):
                return "reached"
            self._say("reached", "ok", self._model.target.host)
        return "key" if isinstance(error, Denied) else "model" if isinstance(error, Withdrawn) else check


def _tried(model: Probed) -> list[str]:
    can = model.capabilities
    return ["streams", *(["tools"] if can.tools else []), *(["schema"] if can.schemas else [])]


def _options(model: Probed, check: str) -> dict[str, Any]:
    found = {"max_tokens": MOST_TOKENS, **ASKED[check]}
    if not form_of(model.target).forces(model.target):
        found.pop("tool_choice", None)
    return found


def _fits(text: str) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("yes"), bool)
