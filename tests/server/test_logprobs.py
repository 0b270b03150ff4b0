"""Log-probabilities in every dialect that tells them, whole and streamed: bytes, alternatives, places, end tokens.

What is right comes from a table of logits by numpy, from the vocabulary's bytes, and from transformers.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from serving import BYTES, END, client_of, fake_llm, fake_service

import herd
from helpers import TINY_DENSE, hf_folder
from herd.events import Likely, Logprob
from herd.safety import Layers, Settings
from herd.server.openai.completions import keyed
from herd.server.tables import TABLES
from herd.text.chat import Llama4
from herd.text.stream import Offsets

SAYS = "Grüße 😀, x"
SAID = [*SAYS.encode(), END]
ASKED = "Why?"
TOP = 20
HEADER = Llama4(BYTES)._open()


def logits(ids: list[int]) -> list[float]:
    """Those of the next token: SAYS after the prompt; beside it bytes of characters' middles are likely."""
    rng = np.random.default_rng(len(ids))
    found = rng.normal(size=320).round(3)
    found[0x80:0xA0] += 4
    begin = max((i + 1 for i, one in enumerate(ids) if one == ord("?")), default=len(ids))
    begin += len(HEADER) + 1 if HEADER[0] in ids[begin:] else 0  # behind the end of the user's turn
    found[SAID[min(len(ids) - begin, len(SAID) - 1)]] += 12
    return [float(x) for x in found]


class Told(NamedTuple):
    """A reply: its text, and an object a token."""

    text: str
    tokens: list[dict[str, Any]]


def of_chat(found: list[dict[str, Any]]) -> Told:
    choices = [choice for one in found for choice in one["choices"]]
    said = [choice["message" if "message" in choice else "delta"].get("content", "") for choice in choices]
    return Told("".join(said), [x for choice in choices if choice["logprobs"] for x in choice["logprobs"]["content"]])


def of_responses(found: list[dict[str, Any]]) -> Told:
    deltas = [one for one in found if one.get("type") == "response.output_text.delta"]
    last = found[-1].get("response", found[-1])
    (part,) = last["output"][0]["content"]
    if deltas:
        done = [one for one in found if one["type"] in ("response.output_text.done", "response.content_part.done")]
        told = [one.get("logprobs") or one["part"]["logprobs"] for one in done]
        assert told == [part["logprobs"]] * 2
        streamed = [x for one in deltas for x in one["logprobs"]]
        assert streamed == part["logprobs"][: len(streamed)]
        assert "".join(one["delta"] for one in deltas) == part["text"]
    return Told(part["text"], part["logprobs"])


def of_ollama(found: list[dict[str, Any]]) -> Told:
    said = [one["message"]["content"] if "message" in one else one["response"] for one in found]
    return Told("".join(said), [x for one in found for x in one.get("logprobs", [])])


def of_completions(found: list[dict[str, Any]]) -> Told:
    choices = [choice for one in found for choice in one["choices"]]
    names = {"tokens": "token", "token_logprobs": "logprob", "top_logprobs": "top", "text_offset": "text_offset"}
    tokens = []
    for lists in [choice["logprobs"] for choice in choices if choice["logprobs"]]:
        assert lists.keys() == names.keys()
        tokens += [dict(zip(names.values(), row, strict=True)) for row in zip(*map(lists.get, names), strict=True)]
    return Told("".join(choice["text"] for choice in choices), tokens)


class Dialect(NamedTuple):
    """A route that tells log-probabilities: how they are asked for, and where they stand."""

    body: dict[str, Any]
    read: Callable[[list[dict[str, Any]]], Told]


CHAT = {"messages": [{"role": "user", "content": ASKED}]}
DIALECTS = {
    "POST /v1/chat/completions": Dialect({**CHAT, "logprobs": True, "top_logprobs": TOP}, of_chat),
    "POST /v1/completions": Dialect({"prompt": ASKED, "logprobs": TOP, "max_tokens": 99}, of_completions),
    "POST /v1/responses": Dialect(
        {"input": ASKED, "top_logprobs": TOP, "include": ["message.output_text.logprobs"]}, of_responses
    ),
    "POST /api/chat": Dialect({**CHAT, "logprobs": True, "top_logprobs": TOP}, of_ollama),
    "POST /api/generate": Dialect({"prompt": ASKED, "logprobs": True, "top_logprobs": TOP}, of_ollama),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), logits)) as found:
        yield found


def frames(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def told(client: httpx.Client, route: str, *, stream: bool, **more: Any) -> Told:
    dialect = DIALECTS[route]
    body = {"model": "fake", "temperature": 0, "options": {"temperature": 0}, "stream": stream, **dialect.body, **more}
    return dialect.read(frames(client.post(route.split()[1], json=body)))


def test_every_route_with_log_probabilities_is_tested_here() -> None:
    names = {name for name, table in TABLES.items() if {row[0] for row in table.rows()} & {"logprobs", "top_logprobs"}}
    assert names == DIALECTS.keys()


@pytest.mark.parametrize("route", DIALECTS)
def test_whole_and_streamed_tell_the_same_tokens_the_last_one_too(route: str, client: httpx.Client) -> None:
    whole, streamed = (told(client, route, stream=stream) for stream in (False, True))
    assert whole == streamed
    assert whole.text == SAYS
    assert len(whole.tokens) == len(SAID)
    values = [np.array(logits([*ASKED.encode(), *SAID[:i]])) for i in range(len(SAID))]
    if route == "POST /v1/completions":  # elsewhere a header stands in the prompt
        begin = [BYTES.bos_id, *ASKED.encode()]
        values = [np.array(logits([*begin, *SAID[:i]])) for i in range(len(SAID))]
        expected = [x[i] - np.log(np.exp(x).sum()) for x, i in zip(values, SAID, strict=True)]
        np.testing.assert_allclose([one["logprob"] for one in whole.tokens], expected, atol=1e-5)


@pytest.mark.parametrize("route", sorted(DIALECTS.keys() - {"POST /v1/completions"}))
def test_bytes_are_those_of_each_token_and_no_two_alternatives_look_alike(route: str, client: httpx.Client) -> None:
    text, tokens = told(client, route, stream=False)
    assert [one["bytes"] for one in tokens] == [*([b] for b in SAYS.encode()), []]
    assert b"".join(bytes(one["bytes"]) for one in tokens).decode() == text
    assert [one["token"] for one in tokens[:5]] == ["G", "r", "\\xc3", "\\xbc", "\\xc3"]
    for one in tokens:
        names = [other["token"] for other in one["top_logprobs"]]
        assert len(names) == len(set(names)) == TOP
        assert sum(name.startswith("\\x") for name in names) > 5
        assert all(len(other["bytes"]) <= 1 for other in one["top_logprobs"])


def test_completions_keep_every_alternative_and_count_characters(client: httpx.Client) -> None:
    text, tokens = told(client, "POST /v1/completions", stream=False)
    names = [one["token"] for one in tokens]
    assert names[2:4] == ["bytes:\\xc3", "bytes:\\xbc"]
    assert all(len(one["top"]) == TOP and one["token"] in one["top"] for one in tokens)
    assert all(one["top"][one["token"]] == one["logprob"] == max(one["top"].values()) for one in tokens)
    places = [len(SAYS.encode()[:i].decode("utf-8", "ignore")) for i in range(len(SAID))]
    assert [one["text_offset"] for one in tokens] == places
    echoed = told(client, "POST /v1/completions", stream=True, echo=True, prompt="Grüße?")
    assert [one["text_offset"] for one in echoed.tokens] == [
        *[0, 1, 2, 2, 3, 3, 4, 5],
        *(len("Grüße?") + place for place in places),
    ]
    assert echoed.text == "Grüße?" + text


def test_a_stop_string_and_a_policy_leave_places_true(tmp_path: Path) -> None:
    service = fake_service(tmp_path, logits)
    with client_of(service) as client:
        for stream in (False, True):
            cut = told(client, "POST /v1/completions", stream=stream, stop=["😀, "])
            assert cut.text == "Grüße "
            assert max(one["text_offset"] for one in cut.tokens) == len(cut.text)
    says = [*b"write to a@example.com now", END]
    service = fake_service(tmp_path, lambda ids: says[min(len(ids) - 2, len(says) - 1)])
    service.policies = lambda caller, ask: Layers(Settings("redact"))
    with client_of(service) as client:
        whole, streamed = (
            told(client, "POST /v1/completions", stream=stream, prompt="?", logprobs=0) for stream in (False, True)
        )
    assert whole == streamed
    assert "example" not in whole.text and whole.text.endswith(" now")
    seen = [one for one in whole.tokens if one["token"] != "<|eot|>"]
    assert [whole.text[one["text_offset"]] for one in seen[-3:]] == list("now")


def test_a_prompt_of_ids_that_begins_inside_a_character_is_named_by_its_bytes(client: httpx.Client) -> None:
    body = {"model": "fake", "echo": True, "logprobs": 1, "max_tokens": 1}
    for prompt, names, places in (
        ([*"ü?".encode()], ["bytes:\\xc3", "bytes:\\xbc", "?"], [0, 0, 1]),
        ([*"😀?".encode()], ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "?"], [0, 0, 0, 0, 1]),
        ([*b"?"], ["?"], [0]),
    ):
        (choice,) = client.post("/v1/completions", json={**body, "prompt": prompt}).json()["choices"]
        assert choice["logprobs"]["tokens"][:-1] == names
        assert choice["logprobs"]["text_offset"] == [*places, places[-1] + 1]


def test_tokens_that_look_alike_have_names_of_their_own() -> None:
    part = Likely(3, "\ufffd", -0.3, spelt=b"\xf0")
    top = (Likely(1, "a", -0.1), Likely(2, "a", -0.2), part, Likely(4, "\ufffd", -2.0))
    assert keyed(Logprob(2, "a", -0.2, top)) == {"token_id:1": -0.1, "a": -0.2, "bytes:\\xf0": -0.3, "\ufffd": -2.0}
    assert keyed(Logprob(9, "z", -5.0, top)) == {
        **{"a": -0.1, "token_id:2": -0.2, "bytes:\\xf0": -0.3, "\ufffd": -2.0},
        "z": -5.0,
    }


def test_responses_tell_none_unless_asked(client: httpx.Client) -> None:
    body = {"model": "fake", "input": ASKED, "temperature": 0}
    plain = client.post("/v1/responses", json={**body, "top_logprobs": 0, "include": ["reasoning.encrypted_content"]})
    assert plain.json()["output"][0]["content"][0]["logprobs"] == []
    assert plain.headers["x-herd-ignored"] == "include[]"
    some = client.post("/v1/responses", json={**body, "include": ["message.output_text.logprobs"]})
    assert "x-herd-ignored" not in some.headers
    assert [one["top_logprobs"] for one in some.json()["output"][0]["content"][0]["logprobs"]] == [[]] * len(SAID)
    next_one = {**body, "previous_response_id": some.json()["id"], "input": "And?"}
    assert client.post("/v1/responses", json=next_one).status_code == 200
    items = client.get(f"/v1/responses/{some.json()['id']}/input_items")
    assert items.status_code == 200


def test_python_gives_bytes_and_places_whole_and_streamed_and_as_json() -> None:
    llm = fake_llm(logits)
    *pieces, done = llm.stream(ASKED, logprobs=TOP, temperature=0)
    whole = llm.chat(ASKED, logprobs=TOP, temperature=0)
    assert whole.logprobs is not None
    found = [x for event in (*pieces, done) for x in getattr(event, "logprobs", None) or ()]
    assert found == list(whole.logprobs) == list(done.reply.logprobs)
    assert b"".join(x.token_bytes for x in found).decode() == whole.text == SAYS
    places = Offsets()
    assert [x.offset for x in found] == [places.place(x.token_bytes) for x in found]
    again = type(whole).from_dict(json.loads(json.dumps(whole.to_dict())))
    assert again == whole


# -- as lm-evaluation-harness asks ------------------------------------------------------------------------------------


def harness(client: httpx.Client, pairs: list[tuple[list[int], list[int]]], most: int) -> list[tuple[float, bool]]:
    """Log-likelihoods of continuations, and whether each is greedy: the request and the reading of that program's
    `local-completions`, which sends ids of several prompts at once."""
    prompts = [before + after for before, after in pairs]
    options = {"temperature": 0, "max_tokens": most, "logprobs": 1, "seed": 1234, "echo": True}
    reply = client.post("/v1/completions", json={"model": "tiny", "prompt": prompts, **options})
    assert reply.status_code == 200, reply.text
    found = []
    for choice, (before, after) in zip(reply.json()["choices"], pairs, strict=True):
        lists = choice["logprobs"]
        until = len(before) + len(after)
        assert len(lists["token_logprobs"]) == until + most
        values = lists["token_logprobs"][len(before) : until]
        tops = lists["top_logprobs"][len(before) : until]
        found.append((sum(values), all(x == max(top.values()) for x, top in zip(values, tops, strict=True))))
    return found


@pytest.mark.parametrize("most", [0, 1])
def test_log_likelihoods_are_those_of_transformers(tmp_path: Path, most: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = hf_folder(tmp_path / "tiny", TINY_DENSE)
    rng = np.random.default_rng(3)
    sizes = ((1, 3), (40, 9), (7, 1))
    pairs = [(rng.integers(0, 256, n).tolist(), rng.integers(0, 256, m).tolist()) for n, m in sizes]
    service = fake_service(tmp_path, names=("tiny",), load=lambda path: herd.load(folder, threads=1, kv="f32"))
    with client_of(service) as client:
        found = harness(client, pairs, most)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (value, is_greedy), (before, after) in zip(found, pairs, strict=True):
        with torch.no_grad():
            logp = torch.log_softmax(model(torch.tensor([before + after])).logits[0].double(), -1)[len(before) - 1 : -1]
        expected = logp[range(len(after)), after]
        assert math.isclose(value, float(expected.sum()), abs_tol=1e-3)
        assert is_greedy == (logp.argmax(-1).tolist() == after)
