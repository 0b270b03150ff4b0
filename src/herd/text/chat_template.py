"""A model's own chat template as a chat format: what it writes, as ids.

A control id arises only from characters that the template itself wrote (`herd.text.templates`); whoever makes the
format says where the template runs. What it does with a call of a tool, with parts of a content and behind an answer is
learnt from a few dialogs that it writes at first.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from herd.errors import UsageError, fail
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.text.call_examples import FIRST, KEY, NAME, OTHER, SECOND, call_of, in_json, with_its_own
from herd.text.call_form import CONTROL, LLAMA, TOKENS, CallForm
from herd.text.calls import CallArguments, CallCut, CallEnd, CallParser, CallStart, TextPiece
from herd.text.chat_base import ChatFormat, check_tiles
from herd.text.chat_llama import image_ids
from herd.text.message_checks import check_begun, check_messages
from herd.text.template_task import Task, Templates
from herd.text.template_turns import CALL_TURNS, CallTurns, check_texts, plain_messages, plain_tools
from herd.text.tokenizer import Tokenizer
from herd.text.tools import Tool, function_of

IMAGE = "<|image|>"
"""What a template writes for an image."""
OPEN = "_goes_on_here"
"""What stands behind a begun answer while the template writes it."""
ASKED, ANSWERED = "What is it?", "It is an answer."
"""Texts of the dialogs that a template is learnt from."""
PROBE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Looks it up.",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]},
    },
}
_CALLS = [call_of({KEY: said}) for said in (FIRST, SECOND)]
_SPELT = ("<tool_call>", "</tool_call>")
"""Control tokens that stay text in the form of a call, as `herd.text.calls` reads them."""
_TEXTS = frozenset({"string"})


class Writes(Protocol):
    """Where templates run."""

    def write(self, name: str, task: Task, owner: str) -> list[str]:
        """What the template of a name writes: text, a control token, text, ..., text. owner: whose turn it takes.
        Raises UsageError."""

    def close(self) -> None:
        """Let go of what that needs."""


class Templated(ChatFormat):
    """Dialogs as the model's own template writes them. Raises UsageError for a template that cannot write one."""

    name = "template"

    def __init__(self, tokenizer: Tokenizer, writes: Writes) -> None:
        super().__init__(tokenizer)
        self._writes = writes
        self._parts = False
        self._call_turns = CALL_TURNS[0]
        pair = [Message("user", ASKED), Message("assistant", ANSWERED)]
        pieces = self._pieces(pair, opened=False)
        if ASKED not in "".join(pieces):
            fail(UsageError, "the chat template does not write what a user says")
        self._parts = self._writes_parts(pieces)
        self.stop_ids |= {tokenizer.added[end] for end in _ends(pieces)}
        self._call_turns = self._takes_calls()
        self.call_form = self._call_form()
        self.tells_tools = self._writes_tools()

    def close(self) -> None:
        """See `ChatFormat`."""
        self._writes.close()

    def encode(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        open_assistant: bool = True,
        tokens_per_tile: int = 144,
        begun: bool = False,
        owner: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """See `ChatFormat`."""
        check_messages(messages)
        for tool in tools or ():
            function_of(tool)
        if begun:
            check_begun(messages)
        said = [*messages[:-1], _marked(messages[-1])] if begun else messages
        pieces = self._pieces(said, tools or (), open_assistant and not begun, owner, variables or {})
        if begun:
            pieces = _left_open(pieces, messages[-1].text)
        return self._ids(pieces, list(_images(messages)), tokens_per_tile)

    def encode_image(self, image: ImagePart, tokens_per_tile: int = 144) -> list[int]:
        """See `ChatFormat`."""
        check_tiles(image)
        return image_ids(self.tokenizer, image, tokens_per_tile)

    def _ids(self, pieces: Sequence[str], images: Sequence[ImagePart], tokens_per_tile: int) -> list[int]:
        num_markers = pieces[1::2].count(IMAGE)
        if num_markers != len(images):
            got = f"{num_markers} image tokens"
            fail(UsageError, "the chat template", got=got, expected=f"{len(images)}, one an image")
        ids, left = list[int](), iter(images)
        around = ["", *pieces, ""]
        for i, piece in enumerate(pieces):
            if not i % 2:
                ids += self.tokenizer.encode(piece, between=(around[i], around[i + 2]))
            elif piece == IMAGE:
                ids += self.encode_image(next(left), tokens_per_tile)
            else:
                ids.append(self.tokenizer.added[piece])
        return ids

    def _pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        opened: bool = True,
        owner: str = "",
        variables: Mapping[str, Any] = {},
    ) -> list[str]:
        given = plain_tools(tools)
        task = Task(
            plain_messages(messages, parts=self._parts, calls=self._call_turns),
            given,
            dict(self.tokenizer.named),
            dict(variables),
            opened,
        )
        check_texts([task.messages, task.tools, task.variables])
        name = "tool_use" if given and "tool_use" in self.tokenizer.templates else "default"
        return self._writes.write(name, task, owner)

    def _writes_parts(self, expected: Sequence[str]) -> bool:
        """Whether a content that is a list of parts is written as its texts."""
        self._parts = True
        try:
            found = self._pieces([Message("user", (TextPart(ASKED),)), Message("assistant", ANSWERED)], opened=False)
        except UsageError:
            return False
        return found == expected

    def _takes_calls(self) -> CallTurns:
        """How the template is given calls so that it writes them; as usual where it writes none."""
        without = "".join(self._answered(ANSWERED) or ())
        for turns in CALL_TURNS:
            self._call_turns = turns
            said = "".join(self._answered("", _CALLS[:1]) or ())
            if all(said.count(word) > without.count(word) for word in (NAME, FIRST)):
                return turns
        return CALL_TURNS[0]

    def _call_form(self) -> CallForm:
        """How calls stand in a dialog."""
        answered, one, two = (
            self._answered(said, calls) for said, calls in ((ANSWERED, ()), ("", _CALLS[:1]), ("", _CALLS))
        )
        if answered is None or one is None:
            return LLAMA
        header = _with_control(answered).rpartition(ANSWERED)[0]
        first, second = (json.dumps(call.arguments) for call in _CALLS)
        both = None if two is None else _with_control(two)
        form = in_json(header, _with_control(one), both, NAME, (first, second))
        if form is not None and _is_read(form):
            return form
        return self._own_form(answered) or LLAMA

    def _own_form(self, answered: Sequence[str]) -> CallForm | None:
        """A form of other signs than those that are always read."""
        signs = _Signs(self.tokenizer)
        header, _, end = signs.text(answered).rpartition(ANSWERED)

        def says(calls: Sequence[ToolCall]) -> str | None:
            pieces = self._answered("", calls)
            said = None if pieces is None else signs.text(pieces)
            if said is None or not said.startswith(header):
                return None
            return signs.before(said.removeprefix(header).removesuffix(end), self.stop_ids)

        form = with_its_own(says, signs.ids.get)
        return form if form is not None and _are_read(form) else None

    def _answered(self, said: str, calls: Sequence[ToolCall] = ()) -> list[str] | None:
        """A dialog with an answer in pieces; None: it is not written."""
        try:
            return self._pieces([Message("user", ASKED), Message("assistant", said, tuple(calls))], [PROBE], False)
        except UsageError:
            return None

    def _writes_tools(self) -> bool:
        """Whether a dialog names the tools that there are."""
        try:
            return PROBE["function"]["name"] in "".join(self._pieces([Message("user", ASKED)], [PROBE]))
        except UsageError:
            return False

    def _dialog(self, messages: Sequence[Message], tools: Sequence[Tool], tokens_per_tile: int) -> list[int]:
        return self.encode(messages, tools, False, tokens_per_tile)

    def _open(self) -> list[int]:
        return []

    def _close(self) -> list[int]:
        return []


def templates_of(tokenizer: Tokenizer) -> Templates:
    """The templates that came with a vocabulary, and its control tokens."""
    sources = {"default": tokenizer.template or "", **tokenizer.templates}
    control = {text: i for text, i in tokenizer.added.items() if i in tokenizer.control_ids}
    own = [text for text, i in control.items() if i not in tokenizer.spoken_ids]
    return Templates(sources, list(control), own)


def to_json(task: Task) -> str:
    """A task as JSON."""
    return json.dumps(msgspec.structs.asdict(task), ensure_ascii=False)


def _ends(pieces: Sequence[str]) -> Iterator[str]:
    """The control token behind what the assistant said, if nothing but white space stands between."""
    for i in range(0, len(pieces) - 1, 2):
        if ANSWERED in pieces[i] and not pieces[i].rpartition(ANSWERED)[2].strip():
            yield pieces[i + 1]


class _Signs:
    """One of TOKENS for each control token that shows in no answer, in what a template wrote."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._signs: dict[str, str] = {}
        self.ids: dict[str, int] = {}
        """Sign -> id."""

    def text(self, pieces: Sequence[str]) -> str:
        """What was written as one text."""
        return "".join(self._sign(piece) if i % 2 else piece for i, piece in enumerate(pieces))

    def before(self, text: str, ends: Collection[int]) -> str:
        """What stands before the first of these tokens."""
        return min((text.partition(sign)[0] for sign, i in self.ids.items() if i in ends), key=len, default=text)

    def _sign(self, piece: str) -> str:
        token = self._tokenizer.added[piece]
        if not self._tokenizer.is_special(token) or len(self._signs) == len(TOKENS):
            return piece
        sign = self._signs.setdefault(piece, TOKENS[len(self._signs)])
        self.ids[sign] = token
        return sign


def _with_control(pieces: Sequence[str]) -> str:
    """What a template wrote as one text, with CONTROL for most control tokens."""
    return "".join(p if i % 2 == 0 or p in _SPELT else CONTROL for i, p in enumerate(pieces))


def _is_read(form: CallForm) -> bool:
    """Whether a call in a form is found without knowing it, and nothing beside it."""
    call = _CALLS[0]
    reader = CallParser({call.name: [KEY]})
    found = [*reader.push(None, form.example(call.name, json.dumps(call.arguments))), *reader.finish()]
    return [type(piece) for piece in found] == [CallStart, CallArguments, CallEnd]


def _are_read(form: CallForm) -> bool:
    """Whether calls in a form are found by it, with any number of arguments, one behind another."""
    given = [(NAME, json.dumps(one)) for one in ({KEY: FIRST}, {}, {KEY: "", OTHER: FIRST})]
    texts = [[one] for one in given] if form.join is None else [given, given[1:], given[2:]]
    return all(_found(form, calls) == calls for calls in texts)


def _found(form: CallForm, calls: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The calls that are found in an answer of some; none where there is something beside them."""
    reader = CallParser({NAME: [KEY, OTHER]}, form=form, types={NAME: dict.fromkeys((KEY, OTHER), _TEXTS)})
    found = [*reader.push(None, form.examples(calls)), *reader.finish()]
    if any(isinstance(piece, TextPiece | CallCut) for piece in found):
        return []
    return [(piece.call.name, piece.call.arguments_text) for piece in found if isinstance(piece, CallEnd)]


def _marked(message: Message) -> Message:
    """A begun answer with the mark behind it, and a space by which it shows whether the template trims."""
    content = message.content
    mark = OPEN + " "
    return replace(message, content=content + mark if isinstance(content, str) else (*content, TextPart(mark)))


def _left_open(pieces: Sequence[str], said: str) -> list[str]:
    """What stands before the mark; trimmed where the template trims, as transformers does. Raises UsageError."""
    last = next((i for i in range(len(pieces) - 1, -1, -2) if OPEN in pieces[i]), None)
    if last is None or said.strip() not in "".join(pieces):
        fail(UsageError, "the chat template changes an answer that is begun", do="leave its beginning out")
    at = pieces[last].rindex(OPEN)
    kept = pieces[last][:at]
    return [*pieces[:last], kept if pieces[last].startswith(OPEN + " ", at) else kept.rstrip()]


def _images(messages: Sequence[Message]) -> Iterator[ImagePart]:
    for message in messages:
        if not isinstance(message.content, str):
            yield from (part for part in message.content if isinstance(part, ImagePart))
