"""Tools of types that are not known here: what runs elsewhere, or is called in another way, is left out and told."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from herd.server.requests.fields import Refused, kinds

ELSEWHERE = "tools[].type"
"""How such a tool is told among the fields without effect, with its type in place of the word."""
WHY = "functions can be called; a tool of another type is left out"


def without_others(body: Mapping[str, Any], known: Collection[str]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """A body with tools of known types alone, in namespaces as well, and the types of the others. What is no list of
    objects with types stays as it is, for the table of fields to refuse."""
    if not isinstance(tools := body.get("tools"), list):
        return body, ()
    others: dict[str, None] = {}
    return {**body, "tools": [*_known(tools, known, others)]}, tuple(others)


def _known(tools: Sequence[Any], known: Collection[str], others: dict[str, None]) -> Iterator[Any]:
    """The tools whose types are known; the types of the others are added to `others`."""
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind == "namespace" and kind in known and isinstance(tool.get("tools"), list):
            yield {**tool, "tools": [*_known(tool["tools"], ("function",), others)]}
        elif not isinstance(kind, str) or kind in known:
            yield tool
        else:
            others[kind] = None


def told_others(others: Sequence[str], *, strict: bool) -> tuple[str, ...]:
    """How tools of these types are told. strict: they are refused. Raises Refused."""
    if others and strict:
        raise Refused(f"tools: {kinds(others[:1])}: {WHY}", "tools")
    return tuple(ELSEWHERE.replace("type", kind) for kind in others)
