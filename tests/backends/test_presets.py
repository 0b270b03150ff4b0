"""Hosts and engines by name: what is sent to each, and that their own ways of answering are understood."""

import asyncio
import json
from typing import Any

import pytest
from fake_host import BOUNDS, DONE, MODEL, Script, call, chunk, event, hosting, usage

from herd.backends.failures import Blocked, of_status
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


OPENAI = [name for name, preset in PRESETS.items() if preset.form == "openai"]


def target(preset: Preset, address: str, **more: Any) -> Target:
    return Target(
        name="there", base_url=address, model=MODEL, key=Secret("sk-canary-0123456789"), in_house=True,
        capabilities=preset.capabilities, options=preset.options, fields=preset.fields, key_header=preset.key_header,
        limit_field=preset.limit_field, choices=preset.choices, json_object=preset.json_object, bounds=BOUNDS,
        names_choice=preset.names_choice, **more,
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


@pytest.mark.parametrize("name", OPENAI)
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


def test_what_some_do_not_know_of_tools_and_forms_is_refused_by_name_or_said_in_their_way() -> None:
    """LM Studio: "Invalid tool_choice type: 'object'", "'response_format.type' must be 'json_schema' or 'text'";
    Ollama's documentation has no tool_choice."""
    studio, ollama = (target(PRESETS[name], "http://127.0.0.1:1/v1") for name in ("lmstudio", "ollama"))
    assert body_of(studio, HELLO, {"tools": TOOLS, "tool_choice": "required"})["tool_choice"] == "required"
    two = [*TOOLS, {"name": "bell"}]
    named = body_of(studio, HELLO, {"tools": two, "tool_choice": "clock"})
    assert (named["tool_choice"], len(named["tools"])) == ("required", 1)
    form = body_of(studio, HELLO, {"schema": True})["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", {"type": "object"})
    assert body_of(ollama, HELLO, {"schema": True})["response_format"] == {"type": "json_object"}
    assert "tool_choice" not in body_of(ollama, HELLO, {"tools": TOOLS, "tool_choice": "auto"})
    for there, options in (
        (ollama, {"tool_choice": "clock"}), (ollama, {"tool_choice": "required"}), (ollama, {"tool_choice": "none"}),
        (ollama, {"parallel_tool_calls": False}),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match=next(iter(options))):
            body_of(there, HELLO, {"tools": TOOLS, **options})


def reply(preset: str, *pieces: bytes, **options: Any) -> Reply:
    with hosting(Script(pieces)) as host:
        return asyncio.run(BackendModel(target(PRESETS[preset], host.address)).achat(HELLO, **options))


@pytest.mark.parametrize("name", ANSWERS)
def test_its_way_of_answering_is_understood(name: str) -> None:
    found = reply(name, *ANSWERS[name])
    assert (found.text, found.finish_reason) == ("Yes.", "stop")
    assert (found.usage.prompt_tokens, found.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize("name", [name for name in OPENAI if PRESETS[name].capabilities.tools])
def test_it_calls_tools(name: str) -> None:
    pieces = [chunk(call(0, "{}", "clock", "c")), chunk({"content": ""}, "tool_calls"), usage(), DONE]
    assert [one.name for one in reply(name, *pieces, tools=TOOLS).tool_calls] == ["clock"]


INVALID = "invalid_request_error"


def error(message: str, code: Any = None, kind: Any = None, **more: Any) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code, **more}}


FLAGGED = {"reasons": ["violence"], "flagged_input": "...", "provider_name": "x", "model_slug": "y"}
ERRORS: list[tuple[str, int, Any, str]] = [
    ("groq", 400, error("x", "model_decommissioned", INVALID), "withdrawn"),
    ("vllm", 404, error("The model `x` does not exist.", 404, "NotFoundError"), "withdrawn"),
    ("vllm", 400, {"object": "error", "message": "This model's maximum context length is 8", "code": 400}, "context"),
    ("vllm", 401, {"error": "Unauthorized"}, "refused"),
    ("ollama", 404, error("model 'x' not found", None, "api_error"), "withdrawn"),
    ("ollama", 400, error("x does not support tools", None, "api_error"), "unsupported"),
    ("ollama", 503, {"error": "server busy, please try again.  maximum pending requests exceeded"}, "full"),
    ("azure", 400, error("filtered", "content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}), "refused"),
    ("azure", 404, error("The API deployment does not exist.", "DeploymentNotFound"), "withdrawn"),
    ("azure", 401, error("Access denied due to invalid subscription key", "401"), "refused"),
    ("azure", 429, error("Rate limit is exceeded. Try again in 86400 seconds.", "429"), "full"),
    ("azure", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs"}]}, "unfit"),
    ("llama-server", 400, error("request (9 tokens) exceeds the available context size", 400,
                                "exceed_context_size_error", n_prompt_tokens=9, n_ctx=8), "context"),
    ("llama-server", 503, error("Loading model", 503, "unavailable_error"), "full"),
    ("deepinfra", 429, error("Model is overloaded", 429, "overloaded"), "full"),
    ("deepinfra", 404, error("The model `x` does not exist", "model_not_found"), "withdrawn"),
    ("tgi", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, "full"),
    ("tgi", 424, {"error": "Request failed during generation: x", "error_type": "generation"}, "absent"),
    ("tgi", 422, {"error": "Input validation error: `inputs` is too long", "error_type": "validation"}, "unfit"),
    ("openrouter", 402, error("Insufficient credits", 402), "refused"),
    ("openrouter", 403, error("Your input was flagged", 403, metadata=FLAGGED), "refused"),
    ("openrouter", 503, error("No available model provider meets your routing requirements", 503), "full"),
    ("openrouter", 404, error("No endpoints found matching your data policy", 404), "withdrawn"),
    ("openrouter", 502, error("Provider returned error", 502, metadata={"raw": "x"}), "absent"),
    ("together", 400, error("Unable to access non-serverless model x.", "model_not_available", INVALID), "withdrawn"),
    ("together", 503, error("The engine is currently overloaded", None, "server_error"), "full"),
    ("huggingface", 400, error("The requested model 'x' is not supported by any provider you have enabled.",
                               "model_not_supported", INVALID), "withdrawn"),
    ("huggingface", 402, {"error": "You have exceeded your monthly included credits."}, "refused"),
    ("huggingface", 401, {"error": "Invalid username or password."}, "refused"),
    ("lmstudio", 400, {"error": "'response_format.type' must be 'json_schema' or 'text'"}, "unfit"),
    ("lmstudio", 404, error("Invalid model identifier x", "model_not_found", INVALID), "withdrawn"),
    ("herd", 429, error("no place", "busy", "rate_limit_error"), "full"),
    ("fireworks", 401, {"detail": "Invalid token"}, "refused"),
    ("nscale", 422, {"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}, "unfit"),
]  # fmt: skip
"""Errors as hosts and engines word them, from their documentation and from reports of people who met them."""


@pytest.mark.parametrize(("host", "status", "body", "reason"), ERRORS, ids=[f"{e[0]}-{e[1]}-{e[3]}" for e in ERRORS])
def test_its_errors_are_of_a_kind(host: str, status: int, body: Any, reason: str) -> None:
    found = of_status(target(PRESETS.get(host, PRESETS["openai"]), "http://127.0.0.1:1/v1"), status, body, "")
    assert getattr(found, "reason", None) == reason
    assert ("flagged" in str(found)) == isinstance(found, Blocked) if host == "openrouter" else True


def test_an_error_is_read_off_an_answer_and_out_of_a_stream() -> None:
    """OpenRouter's, after the answer has begun."""
    late = event({"error": {"code": 502, "message": "Provider disconnected"}, "choices": [
        {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]})  # fmt: skip
    for script, reason in (
        (Script([json.dumps(ERRORS[0][2]).encode()], 400, "application/json"), "withdrawn"),
        (Script([chunk({"content": "Hel"}), late]), "absent"),
    ):
        with hosting(script) as host, pytest.raises(HerdError) as caught:
            asyncio.run(BackendModel(target(PRESETS["openrouter"], host.address)).achat(HELLO))
        assert getattr(caught.value, "reason", None) == reason
