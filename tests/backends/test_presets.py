"""Hosts and engines by name: what is sent to each, and that their own ways of answering are understood."""

import asyncio
import json
from typing import Any

import pytest
from fake_host import BOUNDS, DONE, MODEL, Script, call, chunk, event, hosting, usage

from herd.backends.model import BackendModel
from herd.backends.openai_request import SAME, body_of
from herd.backends.presets import PRESETS, Preset
from herd.backends.target import Secret, Target, is_loopback
from herd.errors import HerdError, Unsupported
from herd.events import Reply

HELLO = [{"role": "user", "content": "Hello."}]
TOOLS = [{"name": "clock", "parameters": {"type": "object"}}]
FINE: list[bytes] = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Yes."})]
ANSWERS: dict[str, list[bytes]] = {
    "deepinfra": [*FINE, chunk({}, "stop"), usage(7, 2, total_tokens=9, estimated_cost=1.1e-06), DONE],
    "openrouter": [
        b": OPENROUTER PROCESSING\n\n", chunk({"content": "Yes."}, native_finish_reason=None),
        chunk({"content": "", "reasoning": None}, "stop", native_finish_reason="stop"),
        usage(7, 2, cost=0.1, completion_tokens_details={"reasoning_tokens": 0}), DONE,
    ],
    "together": [*FINE, chunk({"content": ""}, "eos", seed=5, text="", logprobs=None), usage(7, 2), DONE],
    "azure": [
        event({"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]}), *FINE,
        chunk({}, "stop", content_filter_results={}), usage(7, 2, prompt_tokens_details=None), DONE,
    ],
    "vllm": [
        event({"choices": [{"index": 0, "delta": {"role": "assistant"}, "logprobs": None}], "usage": None}), FINE[1],
        chunk({"content": ""}, "stop", stop_reason=None, token_ids=None), usage(7, 2, prompt_tokens_details=None), DONE,
    ],
    "llama-server": [
        chunk({"role": "assistant", "content": None}), FINE[1], chunk({}, "stop"),
        event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, "timings": {"prompt_n": 7}}), DONE,
    ],
    "tgi": [FINE[1], chunk({"role": "assistant", "content": ""}, "eos_token", logprobs=None), usage(7, 2), DONE],
    "ollama": [chunk({"role": "assistant", "content": "Yes."}), chunk({"content": ""}, "stop"), usage(7, 2), DONE],
    "lmstudio": [*FINE, chunk({}, "stop", logprobs=None), usage(7, 2), DONE],
}  # fmt: skip
"""How each tells the same answer: written from their documentation, ids and dates left out."""


def target(preset: Preset, address: str, **more: Any) -> Target:
    return Target(
        name="there", base_url=address, model=MODEL, key=Secret("sk-canary-0123456789"), in_house=True,
        capabilities=preset.capabilities, options=preset.options, fields=preset.fields, key_header=preset.key_header,
        limit_field=preset.limit_field, bounds=BOUNDS, **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_an_address_is_https_or_this_machine(name: str) -> None:
    preset = PRESETS[name]
    if preset.base_url:
        found = target(preset, preset.base_url)
        assert preset.base_url.startswith("https://") == preset.is_host == (not is_loopback(found.host))
    assert preset.options <= {*SAME, "max_tokens"} and {"max_tokens", "temperature"} <= preset.options
    assert not any(getattr(preset.capabilities, one) for one in ("completion", "ids", "scores", "embeddings"))
    json.dumps(preset.fields)


@pytest.mark.parametrize("name", PRESETS)
def test_a_request_to_it_holds_what_it_knows_and_no_more(name: str) -> None:
    there = target(PRESETS[name], "http://127.0.0.1:1/v1")
    for option, value in {"top_k": 4, "min_p": 0.1, "n": 2, "presence_penalty": 0.5, "logprobs": 1}.items():
        knows = option in there.options or (option == "logprobs" and there.capabilities.logprobs)
        if knows:
            assert option in body_of(there, HELLO, {option: value})
        else:
            with pytest.raises(Unsupported):
                body_of(there, HELLO, {option: value})
    assert body_of(there, HELLO, {"max_tokens": 3})[there.limit_field] == 3


def test_openrouter_sends_on_to_nobody_who_keeps_texts_and_to_no_other() -> None:
    body = body_of(target(PRESETS["openrouter"], "http://127.0.0.1:1/v1"), HELLO, {})
    assert body["provider"] == {"data_collection": "deny", "allow_fallbacks": False}


def reply(preset: str, *pieces: bytes, **options: Any) -> Reply:
    with hosting(Script(pieces)) as host:
        return asyncio.run(BackendModel(target(PRESETS[preset], host.address)).achat(HELLO, **options))


@pytest.mark.parametrize("name", ANSWERS)
def test_its_way_of_answering_is_understood(name: str) -> None:
    found = reply(name, *ANSWERS[name])
    assert (found.text, found.finish_reason) == ("Yes.", "stop")
    assert (found.usage.prompt_tokens, found.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.capabilities.tools])
def test_it_calls_tools(name: str) -> None:
    pieces = [chunk(call(0, "{}", "clock", "c")), chunk({"content": ""}, "tool_calls"), usage(), DONE]
    assert [one.name for one in reply(name, *pieces, tools=TOOLS).tool_calls] == ["clock"]


ERRORS: list[tuple[int, Any, str]] = [
    (400, {"error": {"message": "x", "type": "invalid_request_error", "code": "model_decommissioned"}}, "withdrawn"),
    (404, {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}}, "withdrawn"),
    (404, {"error": {"message": "model 'x' not found", "type": "api_error", "param": None, "code": None}}, "withdrawn"),
    (400, {"error": {"code": "content_filter", "message": "filtered", "innererror": {"code": "x"}}}, "refused"),
    (400, {"error": {"code": 400, "message": "request (9 tokens) exceeds the available context size",
                     "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}, "context"),
    (400, {"object": "error", "message": "This model's maximum context length is 8 tokens", "code": 400}, "context"),
    (429, {"error": {"message": "Model is overloaded", "type": "overloaded", "code": 429}}, "full"),
    (429, {"error": "Model is overloaded", "error_type": "overloaded"}, "full"),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, "full"),
    (402, {"error": {"message": "Insufficient credits", "code": 402}}, "refused"),
    (401, {"detail": "Invalid token"}, "refused"),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "unfit"),
    (424, {"error": "Request failed during generation: x", "error_type": "generation"}, "unfit"),
]  # fmt: skip
"""Errors as hosts and engines word them."""


@pytest.mark.parametrize(("status", "body", "reason"), ERRORS, ids=[f"{one[0]}-{one[2]}" for one in ERRORS])
def test_its_errors_are_of_a_kind(status: int, body: Any, reason: str) -> None:
    script = Script([json.dumps(body).encode()], status, "application/json")
    with hosting(script) as host, pytest.raises(HerdError) as caught:
        asyncio.run(BackendModel(target(PRESETS["vllm"], host.address)).achat(HELLO))
    assert getattr(caught.value, "reason", None) == reason
