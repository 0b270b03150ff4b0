"""Engines by token ids that mean harm: each value of what they tell becomes another one, and is read or is one typed
error; whatever is read makes sense, and costs in proportion to what came."""

import asyncio
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from fake_engine import target_at
from fake_host import hosting, whole
from test_by_ids import BYTES, FORMS, by_ids

from herd.backends.failures import Broken
from herd.backends.ids_engines import ENGINES, asked
from herd.backends.ids_executor import _Answer, _Sample
from herd.backends.ids_facts import Facts
from herd.backends.ids_llama_server import MOST_HIDDEN, Spellings, is_whole
from herd.backends.target import MOST_CONTEXT
from herd.engine.messages import MeasuredEvent, StartedEvent, TokenEvent
from herd.engine.request import Request, SamplingOptions, Want
from herd.errors import HerdError

HUGE = 10**60
HOSTILE: list[Any] = [
    None, True, -1, 1.5, HUGE, -HUGE, 1e300, "x", "-5", [], {}, [[]], {"a": {}}, [None], ["x"], [-1], [1.5], [HUGE],
]  # fmt: skip
LOGPROBS = {
    "tokens": ["token_id:65"],
    "token_logprobs": [-1.0],
    "top_logprobs": [{"token_id:65": -1, "token_id:7": -2}],
}
ANSWERS: dict[str, list[Any]] = {
    "vllm": [{"choices": [{"index": 0, "token_ids": [65], "finish_reason": "stop", "logprobs": LOGPROBS}]}],
    "sglang": [{"output_ids": [65], "meta_info": {
        "completion_tokens": 1, "cached_tokens": 0, "finish_reason": {"type": "stop"},
        "output_token_logprobs": [[-1.0, 65, None]], "output_top_logprobs": [[[-1.0, 65, None], [-2.0, 7, None]]],
    }}],
    "llama-server": [
        {"content": "A", "tokens": [65], "tokens_predicted": 1, "stop": True, "stop_type": "eos",
         "completion_probabilities": [{"id": 65, "logprob": -1.0, "top_logprobs": [{"id": 65, "logprob": -1.0}]}]},
        {"content": "", "tokens": [], "tokens_predicted": 0, "stop": False,
         "prompt_progress": {"cache": 0, "processed": 1, "total": 3}},
    ],
}  # fmt: skip
SCORES: dict[str, Any] = {
    "vllm": {"choices": [{"index": 0, "finish_reason": "length", "token_ids": [65], "prompt_logprobs": [
        None, {"65": {"logprob": -1.0, "rank": 1}, "7": {"logprob": -2.0, "rank": 2}}]}]},
    "sglang": {"output_ids": [], "meta_info": {
        "completion_tokens": 0, "finish_reason": {"type": "length"},
        "input_token_logprobs": [[None, 65, None], [-1.0, 65, None]], "input_top_logprobs": [None, [[-1.0, 65, None]]],
    }},
}  # fmt: skip
ROWS = {"data": [{"id": "tiny", "max_model_len": 100}]}
TOLD: dict[str, dict[str, Any]] = {
    "vllm": {"/v1/models": ROWS},
    "sglang": {"/get_server_info": {
        "served_model_name": "tiny", "max_req_input_len": 100, "max_running_requests": 3,
        "grammar_backend": "llguidance", "enable_deterministic_inference": True,
    }, "/v1/models": ROWS},
    "llama-server": {"/props": {"default_generation_settings": {"n_ctx": 100}, "total_slots": 2}, "/v1/models": ROWS},
}  # fmt: skip
PROMPT = (65, 65)
TOP = 1


def spoilt(value: Any) -> Iterator[Any]:
    """The value with each of its parts, and itself, made hostile."""
    yield from HOSTILE
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = list(value)
        yield from ({key: value[key] for key in value if key != left_out} for left_out in value)
    elif isinstance(value, list):
        parts = list(range(len(value)))
        yield from (value * 2, value[:-1])
    for key in parts:
        for other in spoilt(value[key]):
            copy = value.copy()
            copy[key] = other
            yield copy


def heard(form: str, value: Any, logprobs: int | None, want: Want) -> list[Any]:
    """Events of one event of an engine's."""
    wire = ENGINES[form].over(target_at("http://127.0.0.1:1"), Facts(100), BYTES)
    options = SamplingOptions(temperature=0, logprobs=logprobs)
    request = Request(PROMPT, options, seed=0, want=want)
    answer = _Answer(wire, _Sample(request, 1, 0, None, 0.0), BYTES.vocab_size, 50)
    return list(answer.events(wire.reader(request).take(value)))


def check(events: Sequence[Any]) -> None:
    """What is told of an answer makes sense."""
    likely: list[Any] = []
    for event in events:
        if isinstance(event, StartedEvent):
            assert 0 <= event.cached <= len(PROMPT)
        elif isinstance(event, TokenEvent):
            assert type(event.token_id) is int and 0 <= event.token_id < BYTES.vocab_size
            likely += [event.logprob] if event.logprob is not None else []
        elif isinstance(event, MeasuredEvent):
            likely += event.scores
    for one in likely:
        for token_id, logprob in ((one.token_id, one.logprob), *one.top):
            assert type(token_id) is int and 0 <= token_id < BYTES.vocab_size and logprob <= 1


@pytest.mark.parametrize("form", FORMS)
def test_whatever_stands_in_an_event_is_read_or_is_one_typed_error(form: str) -> None:
    errors: list[str] = []
    first, *others = ANSWERS[form]
    kinds = [*((first, logprobs, Want()) for logprobs in (None, 0, TOP)), *((one, None, Want()) for one in others)]
    kinds += [(SCORES[form], None, Want(what="logprobs", start=1, top=2))] if form in SCORES else []
    for value, logprobs, want in kinds:
        check(heard(form, value, logprobs, want))
        for other in spoilt(value):
            try:
                check(heard(form, other, logprobs, want))
            except HerdError as error:
                errors.append(str(error))
    assert len(errors) > 200 and all(line.startswith("rack: ") and line.isprintable() for line in errors)


@pytest.mark.parametrize("form", FORMS)
def test_whatever_an_engine_tells_of_itself_is_read_or_is_one_typed_error(form: str) -> None:
    class Engine(ENGINES[form]):  # type: ignore[misc, valid-type]
        told: Mapping[str, Any]

        @classmethod
        async def ask(cls, target: Any, get: Any, post: Any) -> Facts:
            async def got(path: str) -> Any:
                return cls.told[path]

            async def posted(path: str, body: Any) -> Any:
                return {"choices": [{"text": "q"}], "content": "a"}

            found: Facts = await super().ask(target, got, posted)
            return found

    errors: list[str] = []
    target = target_at("http://127.0.0.1:1")
    Engine.told = TOLD[form]
    assert asyncio.run(asked(target, Engine)).context == 100
    for path, value in TOLD[form].items():
        for other in spoilt(value):
            Engine.told = {**TOLD[form], path: other}
            try:
                facts = asyncio.run(asked(target, Engine))
            except HerdError as error:
                errors.append(str(error))
            else:
                assert type(facts.context) is int and 1 <= facts.context <= MOST_CONTEXT, other
                assert facts.places is None or (type(facts.places) is int and 1 <= facts.places <= 1 << 16), other
                assert facts.model in ("", "tiny"), other
    assert errors and all(line.isprintable() and len(line) < 1000 for line in errors)


def test_what_an_engine_tells_of_likelihoods_ends_one_request_alone() -> None:
    """Over the wire, as a reply would show it: an id that no vocabulary has would end in its text."""
    body = ANSWERS["llama-server"][0]
    bad = {
        **body,
        "completion_probabilities": [{"id": 65, "logprob": -1.0, "top_logprobs": [{"id": -1, "logprob": 0}]}],
    }
    with hosting(whole(bad), whole(body)) as host, by_ids("llama-server", host.address) as model:
        with pytest.raises(Broken, match="vocabulary"):
            model.complete("x", temperature=0, logprobs=1)
        assert model.complete("x", temperature=0, logprobs=1).text == "A"


SHEEP = "🐑".encode()


def spelt(tokens: Sequence[bytes], data: bytes, count: int) -> list[int] | None:
    """By trying all that there is."""
    found: list[Any] = []
    for cuts in itertools.combinations(range(1, len(data)), count - 1):
        places = (0, *cuts, len(data))
        if not any(is_whole(data[:end]) for end in places[1:]):
            pieces = [data[a:b] for a, b in itertools.pairwise(places)]
            found += itertools.product(*([i for i, one in enumerate(tokens) if one == piece] for piece in pieces))
    return list(found[0]) if len(found) == 1 else None


def test_ids_that_were_left_out_are_those_of_trying_all() -> None:
    draws, told = random.Random(5), 0
    for _ in range(300):
        text = "".join(draws.choice("🐑é✂𐍈") for _ in range(3)).encode()
        data = text[: draws.randrange(1, 9)]
        pieces = {text[a:b] for a in range(len(text)) for b in range(a + 1, min(a + 5, len(text) + 1))}
        tokens = draws.sample(sorted(pieces), draws.randrange(1, len(pieces) + 1))
        tokens += [draws.choice(tokens)] if draws.random() < 0.3 else []
        for count in range(1, len(data) + 2):
            one = Spellings(tokens).only(data, count)
            assert one == (spelt(tokens, data, count) if count <= len(data) else None), (tokens, data, count)
            told += one is not None
    assert told > 50


def test_looking_for_ids_that_were_left_out_does_not_try_all() -> None:
    class Counted(dict[bytes, list[int]]):
        asked = 0

        def get(self, key: bytes, default: Any = None) -> Any:
            Counted.asked += 1
            return super().get(key, default)

    many = {(SHEEP * 4)[a : a + size] for a in range(4) for size in range(1, 7)}
    spellings, data = Spellings([*sorted(many)]), (SHEEP * (MOST_HIDDEN // 4))[:-1]
    assert spellings.only(SHEEP[:1], 1) is not None
    spellings._by_bytes = Counted(spellings._by_bytes or {})
    for count in (MOST_HIDDEN // 4 + 1, len(data), HUGE):  # the first was tens of millions
        assert spellings.only(data, count) is None
    assert Counted.asked < 3 * len(data) ** 2
