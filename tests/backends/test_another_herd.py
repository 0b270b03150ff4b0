"""Another Herd as the other side, over real sockets: the same answers as asking its model directly."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fake_host import patient
from serving import fake_llm, fake_service, running

from herd.backends.failures import reason_of
from herd.backends.model import BackendModel
from herd.backends.probing import NEEDED, probe
from herd.backends.target import Bounds, Secret
from herd.errors import HerdError
from herd.events import DoneEvent, Reply, TextEvent
from herd.server.keys import Key

KEY = "herd-canary-0123456789abcdef0123456789abcdef"
WORDS = "Héllo there, 🐑 and others."
CALL = '{"type": "function", "name": "weather", "parameters": {"city": "Oslo"}}'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"name": "weather", "description": "Tells it.", "parameters": SCHEMA}]
TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where services answer, by what they say."""
    folder = tmp_path_factory.mktemp("services")
    with (
        running(fake_service(folder, WORDS, keys=(Key("me", sha256(KEY.encode()).digest()),))) as words,
        running(fake_service(folder, CALL)) as calls,
    ):
        yield {WORDS: words, CALL: calls}


def there(address: str, *, key: str | None = KEY, model: str = "fake") -> BackendModel:
    secret = None if key is None else Secret(key)
    return BackendModel(patient(f"{address}/v1", key=secret, model=model, bounds=Bounds(retries=0)))


def both(addresses: dict[str, str], answer: str, turns: Any = TURNS, **options: Any) -> tuple[Reply, Reply]:
    """The reply from there, and the one of the same model here."""
    far = asyncio.run(there(addresses[answer]).achat(turns, **options))
    with fake_llm(answer) as model:
        return far, model.chat(turns, **options)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"temperature": 0.0}, {"max_tokens": 4}, {"stop": ["there"]}, {"seed": 5, "temperature": 1.0, "top_p": 0.5},
        {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.0, "presence_penalty": 0.0}, {"logprobs": 2},
        {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": "none"},
    ],
    ids=repr,
)  # fmt: skip
def test_the_answer_is_the_one_of_asking_directly(addresses: dict[str, str], options: dict[str, Any]) -> None:
    far, here = both(addresses, WORDS, **options)
    assert (far.text, far.finish_reason, far.usage.output_tokens) == (
        here.text,
        here.finish_reason,
        here.usage.output_tokens,
    )
    assert far.usage.prompt_tokens == here.usage.prompt_tokens
    assert far.answered_by == "there" and here.answered_by == ""
    if "logprobs" in options:
        assert far.logprobs is not None and here.logprobs is not None
        assert b"".join(one.token_bytes for one in far.logprobs) == b"".join(one.token_bytes for one in here.logprobs)
        assert [len(one.top) for one in far.logprobs] == [len(one.top) for one in here.logprobs]
        assert [one.logprob for one in far.logprobs] == pytest.approx([one.logprob for one in here.logprobs], abs=1e-3)


@pytest.mark.parametrize("choice", ["auto", "required", "weather"])
def test_calls_of_tools_are_the_same(addresses: dict[str, str], choice: str) -> None:
    far, here = both(addresses, CALL, tools=TOOLS, tool_choice=choice)
    assert [(one.name, one.arguments) for one in far.tool_calls] == [
        (one.name, one.arguments) for one in here.tool_calls
    ]
    assert far.tool_calls and far.finish_reason == here.finish_reason == "tool_calls"


def test_a_dialog_goes_on_over_the_results_of_calls(addresses: dict[str, str]) -> None:
    far, here = both(addresses, CALL, tools=TOOLS)
    for reply, model in ((far, WORDS), (here, WORDS)):
        turns = [*TURNS, reply.message, {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "rain"}]
        found = both(addresses, model, turns, tools=TOOLS)
        assert found[0].text == found[1].text and found[0].usage == replace(
            found[1].usage, cached_tokens=found[0].usage.cached_tokens
        )


def test_an_answer_that_is_begun_is_gone_on_with(addresses: dict[str, str]) -> None:
    turns = [*TURNS, {"role": "assistant", "content": WORDS[:7]}]
    far, here = both(addresses, WORDS, turns)
    assert far.text == here.text


def test_several_answers_stream_side_by_side(addresses: dict[str, str]) -> None:
    async def read() -> list[Any]:
        return [one async for one in there(addresses[WORDS]).astream(TURNS, n=3)]

    events = asyncio.run(read())
    for index in range(3):
        assert "".join(one.text for one in events if isinstance(one, TextEvent) and one.index == index) == WORDS
    assert sorted(one.index for one in events if isinstance(one, DoneEvent)) == [0, 1, 2]


def test_a_wrong_key_and_an_unknown_model_are_typed(addresses: dict[str, str]) -> None:
    for model, reason in (
        (there(addresses[WORDS], key="wrong-canary-key-0123456789"), "refused"),
        (there(addresses[WORDS], key=None), "refused"),
        (there(addresses[WORDS], model="gone"), "withdrawn"),
    ):
        with pytest.raises(HerdError) as caught:
            asyncio.run(model.achat(TURNS))
        assert reason_of(caught.value) == reason and "canary" not in str(caught.value)


def test_too_long_a_prompt_is_typed(addresses: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(HerdError) as caught:
        asyncio.run(there(addresses[WORDS]).achat([{"role": "user", "content": "word " * 200_000}]))
    assert reason_of(caught.value) in ("context", "full"), caught.value


def test_its_models_are_listed_and_a_test_passes(addresses: dict[str, str]) -> None:
    assert "fake" in asyncio.run(there(addresses[WORDS]).models())
    found = asyncio.run(probe(there(addresses[WORDS]), leave=False, tell=lambda *_: None))
    assert {one: found[one]["result"] for one in NEEDED} == dict.fromkeys(NEEDED, "ok")
