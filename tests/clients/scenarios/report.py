"""What every scenario script shares: it runs in a client's own environment, where neither Herd nor pytest is.

A script lists scenarios, each a function of a service's address; `run` tries them and prints one JSON line each:

    {"client": "openai", "version": "3.57.0", "scenario": "chat", "without": "", "ok": true, "detail": ""}

`without` is a field of the reply that a proxy took away (see `proxy`). What is claimed there is that the client needs
the field, so such a line is expected not to be ok.
"""

import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

MODEL = os.environ.get("HERD_CLIENTS_MODEL", "smollm2")
TIMEOUT_S = 180.0
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
"""The arguments of the tool that scenarios offer. Short, so that a small model ends its call."""
QUESTION = "What is the capital of France?"
PIXEL = (  # a PNG of 1 x 1
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

Scenario = Callable[[str], None]


class Entry(NamedTuple):
    """A scenario of a client's."""

    client: str
    name: str
    scenario: Scenario
    needs: tuple[str, ...]


ENTRIES: list[Entry] = []


def scenario(client: str, name: str, *, needs: tuple[str, ...] = ()) -> Callable[[Scenario], Scenario]:
    """Register a function of the address. needs: fields of the reply without which the client must break."""

    def register(function: Scenario) -> Scenario:
        ENTRIES.append(Entry(client, name, function, needs))
        return function

    return register


def expect(fact: object, *seen: object) -> None:
    """`assert`, with what was seen. Said by the scenario, not by the client: see `run`."""
    if not fact:
        raise Unexpected(f"unexpected: {', '.join(repr(x)[:300] for x in seen)}")


class Unexpected(Exception):
    """The client got by, with another result than the one expected."""


def refused(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], object], *words: str) -> None:
    """`call` raises an error of that kind, which holds these words."""
    try:
        seen = call()
    except kind as error:
        expect(all(word in str(error) for word in words), str(error))
    else:
        raise Unexpected(f"got {seen!r}, expected {kind}")


def run(argv: list[str] | None = None) -> None:
    """Try every scenario: SCRIPT URL PROXY [NAME]. NAME: those alone whose client or name holds it."""
    url, proxy, *only = sys.argv[1:] if argv is None else argv
    for entry in ENTRIES:
        if only and only[0] not in f"{entry.client} {entry.name}":
            continue
        report(entry, "", functools.partial(entry.scenario, url))
        for field in entry.needs:
            report(entry, field, functools.partial(entry.scenario, f"{proxy}/without/{field}"))


def report(entry: Entry, without: str, call: Callable[[], None]) -> None:
    """Try one and print its line."""
    began_s = time.monotonic()
    try:
        call()
        detail = ""
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        detail = f"{type(error).__name__}: {str(error)[:600]} ({os.path.basename(last.filename)}:{last.lineno})"
    line = {
        "client": entry.client,
        "version": version(entry.client),
        "scenario": entry.name,
        "without": without,
        "ok": not detail,
        "detail": detail,
        "seconds": round(time.monotonic() - began_s, 2),
    }
    print(f"\n{json.dumps(line)}", flush=True)  # a client may have left a line of its own without an end
