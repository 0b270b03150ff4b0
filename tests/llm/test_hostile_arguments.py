"""Every argument of every public call, with values of every wrong kind: each is answered, or refused at the door with a
line that says what is wrong. None ends the engine, hangs, or is felt by the next request; here and in a process of its
own. Calls come from the class, arguments from their signatures and the types of their keywords."""

import asyncio
import dataclasses
import fractions
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from child_model import COMMAND, fake
from speaking import BYTES

from helpers import PATIENCE_S, hf_folder
from herd.config import TINY
from herd.dialogs import turns_of
from herd.engine.engine import Engine
from herd.engine.executors.child import ChildExecutor
from herd.engine.request import Request
from herd.errors import BadCheckpoint, BadMedia, HerdError, NotFound, SomeFailed, TimedOut, UsageError
from herd.llm import LLM, ChatOptions, LoadKeywords, SamplingOptions, load
from herd.messages import ImagePart, Message, TextPart, ToolCall
from herd.text.chat import Llama4

DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]
RING: list[Any] = []
RING.append(RING)
KNOT: dict[str, Any] = {}
KNOT["role"] = KNOT["content"] = KNOT["properties"] = KNOT
HOSTILE: list[Any] = [
    None, True, False, 0, 1, -1, 2, 2**31, 2**63, 2**64, -(2**63) - 1, 10**5000, -(10**400),
    0.0, 1.5, -1.0, 1e-320, 1e308, math.nan, math.inf, -math.inf, 1j, fractions.Fraction(1, 2),
    "", "5", "auto", "x\0y", "\ud800", "nul\x00", "../x", b"", b"x", bytearray(b"x"), memoryview(b"x"),
    [], [None], [[]], ["x"], ["\ud800"], [-1], [0], [2**70], [True], [1.5], [b"x"], [object()], [1, "x"], [{}],
    DEEP, RING,
    (), ("x",), (1, 2), {}, {"x": 1}, {1: "x"}, {1: math.nan}, {None: None}, {"x": object()}, {"x": math.nan}, KNOT,
    [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": ["x"]}], [{"name": "f", "parameters": 5}],
    [{"name": "f", "parameters": {"x": object()}}], [{"name": "f", "description": {1, 2}}], [{"function": 5}],
    [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": object()}}]}],
    [{"role": "user", "content": "x", "context": 5}], [{"role": "user", "content": "x", "name": 5}],
    [{"name": "f", "parameters": KNOT}], [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": KNOT}]}],
    set(), frozenset({1}), object(), object, int, range(10**12), range(3), iter([1]), (i for i in [1]), print,
    np.int64(3), np.float32(0.5), np.array(5), np.array([1, 2]), np.array([-1]), np.array([1.5]), np.array(["x"]),
    np.zeros((2, 2)), np.zeros(0), np.array([None]), ValueError("x"), Path("/nowhere"), Path("x\0y"),
]  # fmt: skip
REFUSALS = (UsageError, BadMedia, NotFound, TimedOut)
OF_FILES = {"update_weights": (BadCheckpoint,)}
"""Further ones of calls that open a file."""
DIALOG = "Hi"
GOOD: dict[str, dict[str, Any]] = {
    "chat": {"messages": DIALOG},
    "chat_samples": {"messages": DIALOG, "n": 2},
    "stream": {"messages": DIALOG},
    "chat_many": {"dialogs": [DIALOG], "per_dialog": [{}], "return_errors": False},
    "achat_many": {"dialogs": [DIALOG], "per_dialog": [{}], "return_errors": False},
    "achat": {"messages": DIALOG},
    "astream": {"messages": DIALOG},
    "complete": {"prompt": "x"},
    "acomplete": {"prompt": "x"},
    "complete_many": {"prompts": ["x"], "per_prompt": [{}], "return_errors": False},
    "acomplete_many": {"prompts": ["x"], "per_prompt": [{}], "return_errors": False},
    "stream_complete": {"prompt": "x"},
    "astream_complete": {"prompt": "x"},
    "tokenize": {"messages": DIALOG, "system": None, "tools": None, "fits": True}
    | {"continue_final_message": True, "raw": False},
    "detokenize": {"ids": [1]},
    "spellings": {"text": "Hi", "raw": False},
    "count": {"messages": DIALOG, "tools": None, "fits": True, "continue_final_message": True},
    "logits": {"ids": [1, 2]},
    "perplexity": {"text": "xyz", "context": 8, "stride": 4},
    "embed": {"texts": ["x"]},
    "aembed": {"texts": ["x"]},
    "score": {"pairs": [("x", "y")]},
    "ascore": {"pairs": [("x", "y")]},
    "embed_tokens": {"texts": ["x"]},
    "update_weights": {"weights": "a name"},
    "add_adapter": {"name": "a", "tensors": {}},
    "drop_adapter": {"name": "a"},
}
OTHERS = {
    *("close", "warm_up", "alive", "chat_format", "chat_note", "defaults"),
    *(
        "capabilities",
        "sizes",
        "control_ids",
        "image_ids",
        "applies_policies",
        "tells_progress",
        "tells_tools",
        "adapters",
        "counters",
    ),
}
"""Without arguments."""
OPTIONS = ["top", *ChatOptions.__annotations__]


@pytest.fixture(scope="module", params=["thread", "child"])
def model(request: pytest.FixtureRequest) -> Iterator[LLM]:
    runner = fake(lambda ids: 65, 64) if request.param == "thread" else ChildExecutor(COMMAND, b'{"context": 64}')
    with LLM(TINY, runner, BYTES, Llama4(BYTES), name="fake") as found:
        yield found


def called(model: LLM, name: str, arguments: dict[str, Any]) -> Any:
    """Call, and read what comes to its end."""
    found = getattr(model, name)(**arguments)
    if inspect.iscoroutine(found):
        return asyncio.run(found)
    if inspect.isasyncgen(found) or hasattr(found, "__anext__"):
        raise AssertionError("made outside of a loop")
    return list(found) if inspect.isgenerator(found) else found


async def _read(model: LLM, name: str, arguments: dict[str, Any]) -> list[Any]:
    return [event async for event in getattr(model, name)(**arguments)]


def outcome(call: Callable[[], Any]) -> BaseException | None:
    """What a call raises, on a thread, so that one that never returns is seen."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


def tried(model: LLM, name: str, arguments: dict[str, Any]) -> str | None:
    """What is wrong with how a call ended; None: nothing."""
    if name.startswith("astream"):
        raised = outcome(lambda: asyncio.run(_read(model, name, arguments)))
    else:
        raised = outcome(lambda: called(model, name, arguments))
    refusals = REFUSALS + OF_FILES.get(name, ())
    failed = (
        [one for one in raised.replies if isinstance(one, Exception)] if isinstance(raised, SomeFailed) else [raised]
    )
    if all(one is None or (isinstance(one, refusals) and str(one) and "\n" not in str(one)) for one in failed):
        return None
    return f"{type(raised).__name__}: {str(raised)[:200]}"


def wrong(model: LLM, name: str, argument: str, values: list[Any]) -> list[str]:
    """All values of one argument that end a call in another way than they should."""
    more = {} if argument == "max_tokens" or "max_tokens" not in options(name) else {"max_tokens": 2}
    found = []
    for value in values:
        said = tried(model, name, {**GOOD[name], **more, argument: value})
        if said is not None:
            found.append(f"{name}({argument}={_short(value)}): {said}")
    if model._running().executor.over is not None:
        found.append(f"{name}({argument}=...): the engine is gone")
    elif tried(model, "complete", {"prompt": "x", "max_tokens": 2}) is not None:
        found.append(f"{name}({argument}=...): the next request fails")
    return found


def _short(value: Any) -> str:
    try:
        return repr(value)[:60]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def parameters(name: str) -> list[str]:
    found = inspect.signature(getattr(LLM, name)).parameters.values()
    return [p.name for p in found if p.name != "self" and p.kind is not p.VAR_KEYWORD]


def options(name: str) -> list[str]:
    """Keywords that a call takes, as its annotation says."""
    hints = get_type_hints(getattr(LLM, name))
    return list(get_args(hints["options"])[0].__annotations__) if "options" in hints else []


def test_every_public_call_is_tried() -> None:
    public = {name for name in vars(LLM) if not name.startswith("_")}
    assert public == set(GOOD) | OTHERS
    assert {name: set(GOOD[name]) for name in GOOD} == {name: set(parameters(name)) for name in GOOD}


@pytest.mark.parametrize("name", GOOD)
def test_no_argument_of_a_call_ends_more_than_the_call(model: LLM, name: str) -> None:
    found = [line for argument in parameters(name) for line in wrong(model, name, argument, HOSTILE)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("argument", OPTIONS)
def test_no_option_ends_more_than_its_call(model: LLM, argument: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # a trace has a name
        first, *others = [name for name in GOOD if argument in options(name)]
        found = wrong(model, first, argument, HOSTILE)
        for name in others:
            found += wrong(model, name, argument, HOSTILE[::17])
    assert not found, "\n".join(found)


MADE: dict[type, tuple[dict[str, Any], Callable[[Any], Message]]] = {
    Message: ({"role": "assistant", "content": ""}, lambda turn: turn),
    ToolCall: ({"name": "f", "arguments": {}}, lambda call: Message("assistant", "", (call,))),
    TextPart: ({"text": "x"}, lambda part: Message("user", (part,))),
    ImagePart: ({"tiles_wide": 1, "tiles_high": 1}, lambda part: Message("user", (part,))),
}
"""What a caller may make a turn of: fields that it needs, and a turn with it."""


@pytest.mark.parametrize("kind", MADE)
def test_no_field_of_a_turn_that_a_caller_made_passes_unchecked(kind: type) -> None:
    good, turn = MADE[kind]
    with LLM(TINY, fake(lambda ids: 65, 64), BYTES, Llama4(BYTES)) as model:
        found = []
        for name, value in ((field.name, value) for field in dataclasses.fields(kind) for value in HOSTILE):
            made = turn(kind(**{**good, name: value}))
            dialogs: list[Any] = [[made]]
            if kind is ToolCall:
                dialogs.append([{"role": "assistant", "content": None, "tool_calls": [*made.tool_calls]}])
            elif kind is not Message:
                dialogs.append([{"role": "user", "content": [*made.content]}])
            for dialog in dialogs:
                raised = outcome(lambda d=dialog: model._requests.dialog(model._running(), d, {}))  # type: ignore[misc]
                elsewhere = outcome(lambda d=dialog: turns_of(d))  # type: ignore[misc]
                for one in (raised, elsewhere):
                    if one is not None and not (isinstance(one, REFUSALS) and "\n" not in str(one)):
                        found.append(f"{kind.__name__}({name}={_short(value)}): {type(one).__name__}: {one}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", Request.__struct_fields__)
def test_no_field_of_a_request_passes_the_engine_unchecked(model: LLM, name: str) -> None:
    engine: Engine = model._running()
    good: dict[str, Any] = {"ids": [1, 2], "options": SamplingOptions(max_tokens=2)}
    found = []
    for value in HOSTILE:
        bad: Any = Request(**{**good, name: value})
        raised = outcome(lambda bad=bad: list(engine.stream(engine.submit(bad))))  # type: ignore[misc]
        if raised is not None and not isinstance(raised, REFUSALS):
            found.append(f"{name}={_short(value)}: {type(raised).__name__}: {raised}")
    assert not found, "\n".join(found)
    assert engine.executor.over is None
    assert len(list(engine.stream(engine.submit(Request(**good))))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model", *(name for name in LoadKeywords.__annotations__ if name != "force")])
def test_no_argument_of_load_is_more_than_refused(tmp_path: Path, name: str) -> None:
    folder = hf_folder(tmp_path / "tiny", TINY)
    cheap = {"force": True, "threads": 1, "context": 64}
    found = []
    for value in HOSTILE:
        arguments = {"model": folder, **cheap, name: value}
        loaded: list[LLM] = []
        raised = outcome(lambda a=arguments, to=loaded: to.append(load(**a)))  # type: ignore[misc]
        for one in loaded:
            one.close()
        of_the_caller = name == "check" and callable(value)  # whatever it raises when it is called
        if raised is not None and not isinstance(raised, HerdError) and not of_the_caller:
            found.append(f"load({name}={_short(value)}): {type(raised).__name__}: {raised}")
    assert not found, "\n".join(found)
