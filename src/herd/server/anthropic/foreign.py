"""Blocks and tools that are not known here: read as the text that they hold, or left out, and told.

A dialog that was begun elsewhere, or by a newer client, holds blocks of any type: results of searches, files, what
Anthropic's machines ran. None of them refuses a request, for its dialog could never go on.

    a block of a tool's result, a search, a page      its texts, where it holds any
    a call of a tool that ran elsewhere               left out
    what no model here reads (a PDF, a file's id)     of the user's, a line that says so; of the assistant's, left out
    a tool of another type                            left out; what clients run themselves is a function

What it is not: blocks of known types (`turns`), whose members are checked there; those functions (`client_tools`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from herd.server.anthropic.client_tools import served
from herd.server.anthropic.turns import Block, Document, Image, Text
from herd.server.requests.fields import kinds

TEXTS = (
    *("title", "context", "url", "source", "text", "content", "query", "tool_name", "tool_references"),
    *("stdout", "stderr", "error_code", "explanation"),
)
"""Members of a block of any type that hold what a model can read, or more of them."""


def _tags(*structs: Any) -> frozenset[str]:
    return frozenset(struct.__struct_config__.tag for struct in structs)


BLOCKS, INSIDE, SYSTEM = _tags(*get_args(Block)), _tags(Text, Image), _tags(Text)
"""Types of blocks that are known: of a message, of a tool's result, of the system's text."""
SOURCES = {
    kind: _tags(*(get_args(one.__annotations__["source"]) or (one.__annotations__["source"],)))
    for kind, one in (("image", Image), ("document", Document))
}
"""Where a known block may have its contents from."""


class Read(NamedTuple):
    """A body of which all blocks and tools are known. notes: what became of the others."""

    body: Mapping[str, Any]
    notes: tuple[str, ...]


def without_foreign(body: Mapping[str, Any]) -> Read:
    """A body as it is read here. What is no list of objects with types stays as it is, for the table of fields to
    refuse."""
    reader = _Reader()
    found = dict(body)
    for name, read in (("messages", reader.messages), ("system", reader.system), ("tools", reader.tools)):
        if isinstance(body.get(name), list):
            found[name] = read(body[name])
    return Read(found, tuple(reader.notes()))


class _Reader:
    """Reads lists of a body, and remembers what it met."""

    def __init__(self) -> None:
        self._read: dict[str, None] = {}
        self._left: dict[str, None] = {}
        self._tools: dict[str, None] = {}

    def notes(self) -> Iterator[str]:
        """A line each of which blocks were read as text, which ones and which tools left out."""
        for met, what in (
            (self._read, "blocks read as text"),
            (self._left, "blocks left out"),
            (self._tools, "tools left out"),
        ):
            if met:
                yield f"{what}: {kinds(met)}"

    def messages(self, messages: Sequence[Any]) -> list[Any]:
        """Messages whose blocks are known."""
        return [
            {**one, "content": self._blocks(one["content"], BLOCKS, told=one.get("role") != "assistant")}
            if isinstance(one, dict) and isinstance(one.get("content"), list)
            else one
            for one in messages
        ]

    def system(self, blocks: Sequence[Any]) -> list[Any]:
        """The system's blocks, all text."""
        return self._blocks(blocks, SYSTEM, told=True)

    def tools(self, tools: Sequence[Any]) -> list[Any]:
        """Tools that the client runs."""
        return [found for tool in tools for found in self._tool(tool)]

    def _tool(self, tool: Any) -> Iterator[Any]:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or kind == "custom":
            yield tool
        elif (function := served(tool)) is not None:
            yield function
        elif isinstance(tool.get("input_schema"), dict):
            yield {**tool, "type": "custom"}
        else:
            self._tools[kind] = None

    def _blocks(self, blocks: Iterable[Any], known: frozenset[str], *, told: bool) -> list[Any]:
        return [found for block in blocks for found in self._block(block, known, told=told)]

    def _block(self, block: Any, known: frozenset[str], *, told: bool) -> Iterator[Any]:
        """told: whether a model learns of what cannot be read."""
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            yield block
        elif kind == "tool_result" and kind in known and isinstance(block.get("content"), list):
            yield {**block, "content": self._blocks(block["content"], INSIDE, told=True)}
        elif kind in known and _is_readable(kind, block):
            yield block
        elif text := "" if kind.endswith("_use") else "\n".join(_texts(block)):
            self._read[kind] = None
            yield {"type": "text", "text": text}
        else:
            self._left[_named(block)] = None
            if told:
                yield {"type": "text", "text": f"[{_named(block)}: this cannot be read here]"}


def _is_readable(kind: str, block: Mapping[str, Any]) -> bool:
    """Whether a known block has its contents from where they can be had; one that is broken is refused later."""
    source = block.get("source")
    of = source.get("type") if isinstance(source, dict) else None
    return kind not in SOURCES or not isinstance(of, str) or of in SOURCES[kind]


def _named(block: Mapping[str, Any]) -> str:
    """What a block is, for people: its type, and what it is made of."""
    source = block.get("source")
    of = (source.get("media_type") or source.get("type")) if isinstance(source, dict) else None
    return f"{block['type']} ({of})"[:64] if isinstance(of, str) else str(block["type"])[:64]


def _texts(value: Any) -> Iterator[str]:
    """The texts of a block, in their order."""
    for name, member in value.items():
        if name in TEXTS or (name == "data" and value.get("type") == "text"):
            for one in member if isinstance(member, list) else [member]:
                if isinstance(one, str) and one:
                    yield one
                elif isinstance(one, dict):
                    yield from _texts(one)
