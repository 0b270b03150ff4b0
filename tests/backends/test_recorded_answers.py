"""What vLLM and llama-server have really said (recorded/), played back byte by byte, piece by piece.

The oracle of a streamed answer is the engine's own whole answer to the same request, which stands beside it.
"""

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake_host import FakeHost, Script, hosting, whole

from helpers import PATIENCE_S
from herd.backends.failures import reason_of
from herd.backends.gate import allow
from herd.backends.ids_engines import ENGINES, asked
from herd.backends.ids_facts import Facts
from herd.backends.ids_wire import Heard, Wire
from herd.backends.model import BackendModel
from herd.backends.presets import PRESETS
from herd.backends.target import Bounds, Target
from herd.backends.transport import Transport
from herd.engine.request import Request, SamplingOptions, Want
from herd.errors import HerdError, Unsupported
from herd.events import CallArgumentsEvent, DoneEvent, Event, TextEvent
from herd.text.tokenizer import Tokenizer

ENGINES_BY_IDS = ("llama-server", "vllm")
FOLDER = Path(__file__).with_name("recorded")
HELLO = [{"role": "user", "content": "Hello."}]
PATIENT = Bounds(connect_s=PATIENCE_S, first_s=PATIENCE_S, idle_s=PATIENCE_S, total_s=PATIENCE_S, retries=0)
LOGPROB = 0.02
"""How far a log-probability of a stream may be from the whole answer's: prompts are computed in other batches."""


@cache
def recorded(engine: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{engine}.json").read_text(encoding="utf-8"))
    return found


def rows(*kinds: str) -> list[Any]:
    """Rows of both engines that expect one of these; all but answers, for none."""
    found = []
    for engine in ENGINES_BY_IDS:
        for row in recorded(engine)["rows"]:
            if row["expects"] in kinds or (not kinds and row["expects"] not in ("answer", "models") and row["status"]):
                found.append(pytest.param(engine, row, id=f"{engine}: {row['name']}"))
    return found


def script(row: dict[str, Any]) -> Script:
    headers = tuple((name, value) for name, value in row["headers"].items() if name == "retry-after")
    pieces = [piece.encode("utf-8", "surrogateescape") for piece in row["pieces"]]
    return Script(pieces, row["status"], row["headers"].get("content-type", ""), headers, cut=row["cut"])


def there(engine: str, address: str) -> BackendModel:
    preset = PRESETS[engine]
    return BackendModel(
        Target(
            name="there", base_url=address, model=recorded(engine)["model"], in_house=True, bounds=PATIENT,
            capabilities=preset.capabilities, options=preset.options, names_choice=preset.names_choice,
            always_goes_on=preset.always_goes_on,
        )
    )  # fmt: skip


def events_of(engine: str, row: dict[str, Any]) -> tuple[list[Event], FakeHost]:
    async def read(model: BackendModel) -> list[Event]:
        return [one async for one in model.astream(row["turns"], **row["options"])]

    with hosting(script(row)) as host:
        return asyncio.run(read(there(engine, host.address))), host


@pytest.mark.parametrize(("engine", "row"), rows("answer"))
def test_an_answer_is_what_the_engine_says_whole(engine: str, row: dict[str, Any]) -> None:
    events, _host = events_of(engine, row)
    dones = {one.index: one.reply for one in events if isinstance(one, DoneEvent)}
    if "whole" not in row:
        assert dones[0].text
        return
    whole = row["whole"]
    assert len(dones) == len(whole["choices"]) == row["options"].get("n", 1)
    for choice in whole["choices"]:
        reply, message = dones[choice["index"]], choice["message"]
        begun = row["turns"][-1]["content"] if row["turns"][-1]["role"] == "assistant" else ""
        assert reply.text == (message["content"] or "").removeprefix(begun)  # llama-server says it again in a whole one
        assert "".join(one.text for one in events if isinstance(one, TextEvent) and one.index == choice["index"]) == (
            reply.text
        )
        calls = [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls") or ()]
        if reply.cut_call is None:
            assert [(one.name, one.arguments) for one in reply.tool_calls] == [(n, json.loads(a)) for n, a in calls]
            ends = {"stop": "tool_calls" if calls else "stop"}
            assert reply.finish_reason == ends.get(choice["finish_reason"], choice["finish_reason"])
        else:
            assert [(reply.cut_call.name, reply.cut_call.arguments)] == calls and reply.finish_reason == "length"
            assert "".join(one.fragment for one in events if isinstance(one, CallArgumentsEvent)) == (
                reply.cut_call.arguments
            )
        lossy = engine == "llama-server" and "schema" in row["options"]
        _same_logprobs(reply.logprobs, choice.get("logprobs"), row["options"].get("logprobs"), lossy)
    used = whole["usage"]
    assert sum(one.usage.output_tokens for one in dones.values()) == used["completion_tokens"]
    assert dones[0].usage.prompt_tokens == used["prompt_tokens"]


def _same_logprobs(told: Any, whole: Any, top: int | None, lossy: bool) -> None:
    """lossy: the engine tells those of white space that it holds back in its whole answers alone."""
    if top is None:
        assert told is None
        return
    left = iter(whole["content"])
    for one in told:
        there = next(left)
        while lossy and bytes(there["bytes"]) != one.token_bytes:
            there = next(left)
        assert one.token_bytes == bytes(there["bytes"])
        assert one.logprob == pytest.approx(there["logprob"], abs=LOGPROB)
        assert len(one.top) == top
    assert not [one for one in left if one["token"].strip() or not lossy]


@pytest.mark.parametrize(("engine", "row"), [one for one in rows("answer") + rows() if one.values[1].get("asked")])
def test_the_request_is_the_one_that_was_answered(engine: str, row: dict[str, Any]) -> None:
    """Otherwise the recording says nothing of what is sent today: record it again."""
    with hosting(script(row)) as host:
        model = there(engine, host.address)
        stream = model.astream(row["turns"], **row["options"])
        try:
            asyncio.run(_drained(stream))
        except HerdError:
            assert row["expects"] != "answer"
    model_name = row["asked"]["model"]
    assert host.asked[0].body | {"model": model_name} == row["asked"] and host.asked[0].path == row["path"]


async def _drained(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize(("engine", "row"), rows())
def test_an_error_is_typed(engine: str, row: dict[str, Any]) -> None:
    with pytest.raises(HerdError) as caught:
        events_of(engine, row)
    assert reason_of(caught.value) == row["expects"], caught.value
    words = str(caught.value)
    assert "\n" not in words and words.startswith("there: ") and "; " in words


@pytest.mark.parametrize(("engine", "row"), [one for one in rows("unsupported") if not one.values[1]["status"]])
def test_what_an_engine_has_not_is_refused_before_it_is_asked(engine: str, row: dict[str, Any]) -> None:
    with hosting(Script()) as host, pytest.raises(Unsupported):
        asyncio.run(there(engine, host.address).achat(row["turns"], **row["options"]))
    assert host.connections == 0


@pytest.mark.parametrize(("engine", "row"), rows("models"))
def test_models_are_listed(engine: str, row: dict[str, Any]) -> None:
    with hosting(script(row)) as host:
        found = asyncio.run(there(engine, host.address).models())
    assert recorded(engine)["model"] in found


IDS = [pytest.param(engine, row, id=f"{engine}: {row['name']}") for engine in ENGINES_BY_IDS
       for row in recorded(f"{engine}-ids")["ids"]]  # fmt: skip


def wire_at(engine: str, address: str) -> Wire:
    model = recorded(f"{engine}-ids")["model"]
    target = Target(name="there", base_url=address, model=model, in_house=True, bounds=PATIENT)
    return ENGINES[engine].over(target, Facts(2048, places=2), Tokenizer.bytes_only())


async def heard(wire: Wire, body: Any, request: Request) -> list[Heard]:
    reader, passed = wire.reader(request), allow(wire.target, leave=False)
    post = Transport(wire.target).post(wire.path, json.dumps(body).encode(), passed)
    return [reader.take(value) async for value in post if value is not None]


@pytest.mark.parametrize(("engine", "row"), IDS)
def test_ids_are_those_of_the_whole_answer(engine: str, row: dict[str, Any]) -> None:
    want = Want(what="logprobs", start=1, top=1) if row["expects"] == "scores" else Want()
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in row["options"].items()}
    request = Request(tuple(row["ids"]), SamplingOptions(**options), seed=5, want=want)
    with hosting(script(row)) as host:
        wire = wire_at(engine, host.address.removesuffix("/v1"))
        body = wire.body(request, 5, row["most"])
        if row["expects"] not in ("answer", "scores"):
            with pytest.raises(HerdError) as caught:
                asyncio.run(heard(wire, body, request))
            assert reason_of(caught.value) == row["expects"], caught.value
            return
        found = asyncio.run(heard(wire, body, request))
    assert host.asked[0].body == row["asked"] and host.asked[0].path == row["path"] == row["at"]
    if row["expects"] == "scores":
        (scores,) = [one.scores for one in found if one.scores]
        assert [one.token_id for one in scores] == row["ids"][1:]
        return
    ids = [i for one in found for i, _ in one.tokens]
    if any(one.lost for one in found):  # as it should: the stream leaves ids out, and this vocabulary spells none
        assert engine == "llama-server" and row["name"] == "characters of several tokens" and len(ids) < 6
        return
    assert (ids == row["whole"] and found[-1].finish) or any(one.finish for one in found)
    if (top := row["options"].get("logprobs")) is not None:
        assert all(likely is not None and len(likely.top) == top for one in found for _, likely in one.tokens)


@pytest.mark.parametrize("engine", ENGINES_BY_IDS)
def test_what_an_engine_tells_of_itself_is_read(engine: str) -> None:
    told = recorded(f"{engine}-ids")["told"]
    grammar = [whole({"choices": [{"text": "q"}]})] if engine == "vllm" else []  # not recorded: its answer to a grammar
    with hosting(*map(script, told), *grammar) as host:
        facts = asyncio.run(asked(wire_at(engine, host.address.removesuffix("/v1")).target, ENGINES[engine]))
    assert facts.context == 2048
    paths = [row["at"] for row in told] + ["/v1/completions"] * len(grammar)
    assert [one.path for one in host.asked] == paths
    assert facts.places == (2 if engine == "llama-server" else None)
    assert facts.grammars == (engine == "vllm"), "this llama-server was built without llguidance"
