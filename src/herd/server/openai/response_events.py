"""An answer as the events of /v1/responses: what a model says becomes steps, and steps become events with numbers.

    a model's event -> Step          in which names are the client's; a line of JSON in a `ResponseLog`
    Step -> events of the dialect    by a `Writer`: with the same steps always the same events, ids and numbers

So what was streamed once can be streamed again, from any number on.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from herd.errors import HerdError
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Event,
    Logprob,
    ProgressEvent,
    TextEvent,
)
from herd.server.http.error_bodies import body_of
from herd.server.http.wire import encode, sse
from herd.server.openai.response_items import (
    CUT,
    Likelihoods,
    Spaces,
    message_item,
    named_call_item,
    output_id,
    text_part,
)
from herd.server.shared.logprobs import listed
from herd.server.shared.replies import progress_of

NEVER = 1 << 62
"""A number that no event has: a writer that begins after it writes nothing and remembers the items."""
NONE = Raw(b"[]")


class Opened(msgspec.Struct, array_like=True, tag="o"):
    """A model has begun to answer."""


class PromptRead(msgspec.Struct, array_like=True, tag="p"):
    """So much of the prompt is read. told: members of its event."""

    told: dict[str, Any]


class Said(msgspec.Struct, array_like=True, tag="t"):
    """A piece of text. likely: its log-probabilities, a list."""

    text: str
    likely: Raw = NONE


class Called(msgspec.Struct, array_like=True, tag="c"):
    """A call begins; names are the client's."""

    call_id: str
    namespace: str
    name: str


class Argued(msgspec.Struct, array_like=True, tag="a"):
    """A piece of its arguments."""

    fragment: str


class CallOver(msgspec.Struct, array_like=True, tag="e"):
    """It is complete. arguments: all of them, as JSON."""

    arguments: str


class Ended(msgspec.Struct, array_like=True, tag="l"):
    """The answer ends. cut: what is open then is not whole. likely: log-probabilities that no piece of text had."""

    cut: bool
    likely: Raw = NONE


Step: TypeAlias = Opened | PromptRead | Said | Called | Argued | CallOver | Ended
_STEPS = msgspec.json.Decoder(Step)
step_of = _STEPS.decode
"""A line of a log as a step."""


def steps_of(event: Event, spaces: Spaces) -> Iterator[Step]:
    """What an event of a model's is here."""
    match event:
        case ProgressEvent():
            yield PromptRead(progress_of(event))
        case TextEvent():
            yield Said(event.text, _likely(event.logprobs))
        case CallStartEvent():
            yield Called(event.id, *spaces.get(event.name, ("", event.name)))
        case CallArgumentsEvent():
            yield Argued(event.fragment)
        case CallEndEvent():
            yield CallOver(event.call.arguments_text)
        case DoneEvent():
            yield Ended(event.reply.finish_reason in CUT, _likely(event.logprobs))


def _likely(found: Sequence[Logprob] | None) -> Raw:
    return Raw(encode(listed(found))) if found else NONE


def steps_in(output: Sequence[dict[str, Any]]) -> Iterator[Step]:
    """The steps that lead to the items of an answer that is over, a piece for each; none for one that failed."""
    for item in output:
        if item["type"] == "message":
            for part in item["content"]:
                yield Said(part["text"], Raw(encode(part["logprobs"])))
        else:
            yield Called(item["call_id"], item.get("namespace", ""), item["name"])
            yield Argued(item["arguments"])
            if item["status"] == "completed":
                yield CallOver(item["arguments"])
    if output:
        yield Ended(output[-1]["status"] == "incomplete")


class Writer:
    """Events of the items of one answer. after: the number of the last event that whoever reads has already; what
    comes up to it is counted, and not written."""

    def __init__(self, response_id: str, after: int = -1) -> None:
        self.items: list[dict[str, Any]] = []
        """Items that are complete."""
        self._id = response_id
        self._after = after
        self.number = -1
        """Number of the last event."""
        self._open = ""
        """The item that is open: its kind."""
        self._pieces: list[str] = []
        self._likely = Likelihoods()
        self._call = Called("", "", "")

    def event(self, kind: str, **members: Any) -> bytes:
        """One event."""
        self.number += 1
        if self.number <= self._after:
            return b""
        return sse(encode({"type": kind, "sequence_number": self.number, **members}), kind)

    def failed(self, error: HerdError) -> bytes:
        """An error as the last event."""
        inner = body_of(error, "openai")["error"]
        return self.event("error", code=inner["code"], message=inner["message"], param=inner["param"])

    def step(self, step: Step) -> bytes:
        """The events of a step, but for `Opened`, which tells of the response."""
        match step:
            case PromptRead(told):
                return self.event("response.prompt_progress", **told)
            case Said(text, likely):
                return self._text(text, likely)
            case Called():
                return self._close() + self._begin(step)
            case Argued(fragment):
                self._pieces.append(fragment)
                return self.event("response.function_call_arguments.delta", delta=fragment, **self._place())
            case CallOver(arguments):
                return self._call_over(arguments)
            case Ended(cut, likely):
                return self._last(likely, "incomplete" if cut else "completed")
        return b""

    def _text(self, text: str, likely: Raw) -> bytes:
        """A piece of text with its log-probabilities, in a message that is open or in a new one."""
        before = b""
        if self._open != "message":
            before, self._open = self._close(), "message"
            before += self._added(message_item(self._item_id(), None, "in_progress"))
            before += self.event("response.content_part.added", part=text_part(""), content_index=0, **self._place())
        self._pieces.append(text)
        self._likely.add_json(likely)
        return before + self.event(
            "response.output_text.delta", delta=text, logprobs=likely, content_index=0, **self._place()
        )

    def _begin(self, call: Called) -> bytes:
        self._open, self._call = "call", call
        return self._added(self._call_item("", "in_progress"))

    def _call_over(self, arguments: str) -> bytes:
        item = self._call_item(arguments, "completed")
        at = self._place()
        done = self.event("response.function_call_arguments.done", arguments=arguments, name=item["name"], **at)
        return done + self._done(item)

    def _last(self, likely: Raw, status: str) -> bytes:
        """The end, with the log-probabilities that are left; an answer without anything is an empty message."""
        before = b"" if self._open or self.items else self._text("", likely)
        if self._open == "message" and not before:
            self._likely.add_json(likely)
        return before + self._close(status)

    def _close(self, status: str = "completed") -> bytes:
        """What is open is over; a call that is open was cut."""
        if self._open == "call":
            return self._done(self._call_item("".join(self._pieces), "incomplete"))
        if self._open != "message":
            return b""
        place, text, likely = {**self._place(), "content_index": 0}, "".join(self._pieces), self._likely
        found = self.event("response.output_text.done", text=text, logprobs=likely.all, **place)
        found += self.event("response.content_part.done", part=text_part(text, likely), **place)
        return found + self._done(message_item(self._item_id(), text, status, likely))

    def _item_id(self) -> str:
        return output_id("msg" if self._open == "message" else "fc", self._id, len(self.items))

    def _call_item(self, arguments: str, status: str) -> dict[str, Any]:
        call = self._call
        return named_call_item(self._item_id(), call.call_id, (call.namespace, call.name), arguments, status)

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item_id(), "output_index": len(self.items)}

    def _added(self, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=len(self.items), item=item)

    def _done(self, item: dict[str, Any]) -> bytes:
        found = self.event("response.output_item.done", output_index=len(self.items), item=item)
        self.items.append(item)
        self._open, self._pieces, self._likely = "", [], Likelihoods()
        return found
