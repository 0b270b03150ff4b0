"""Clients that put one face on many services: litellm, and dspy which stands on it."""

import json
import os
from typing import Literal

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it fetches a price list when it is imported

import dspy
import litellm
from pydantic import BaseModel
from report import MODEL, QUESTION, TIMEOUT_S, WEATHER, expect, refused, run, scenario

USER = {"role": "user", "content": QUESTION}
ASKS_WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER},
}


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"]
    celsius: int


def ask(url: str, provider: str, **more: object) -> object:
    base = url if provider in ("ollama", "ollama_chat", "anthropic") else f"{url}/v1"
    asked = {"messages": [USER], "max_tokens": 8, "timeout": TIMEOUT_S, "num_retries": 0, **more}
    return litellm.completion(model=f"{provider}/{MODEL}", api_base=base, api_key="none", **asked)


def answered(found: object) -> None:
    expect(found.choices[0].message.content and found.usage.completion_tokens <= 8, found)


@scenario("litellm", "openai/", needs=("choices.*.message",))
def litellm_openai(url: str) -> None:
    answered(ask(url, "openai"))


@scenario("litellm", "openai/, streamed with usage")
def litellm_stream(url: str) -> None:
    chunks = list(ask(url, "openai", stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks)
    expect(whole.choices[0].message.content and 0 < whole.usage.completion_tokens <= 8, whole)


@scenario("litellm", "openai/, a tool", needs=("choices.*.message.tool_calls.*.function",))
def litellm_tool(url: str) -> None:
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    found = ask(url, "openai", messages=[ASKS_WEATHER], tools=[TOOL], tool_choice=chosen, max_tokens=100)
    call = found.choices[0].message.tool_calls[0]
    expect(call.function.name == "get_weather" and "city" in json.loads(call.function.arguments), found)


@scenario("litellm", "openai/, a pydantic model")
def litellm_schema(url: str) -> None:
    found = ask(url, "openai", messages=[ASKS_WEATHER], response_format=Weather, max_tokens=100)
    expect(Weather.model_validate_json(found.choices[0].message.content), found)


@scenario("litellm", "hosted_vllm/")
def litellm_vllm(url: str) -> None:
    answered(ask(url, "hosted_vllm"))


@scenario("litellm", "ollama_chat/", needs=("message",))
def litellm_ollama_chat(url: str) -> None:
    answered(ask(url, "ollama_chat"))


@scenario("litellm", "ollama_chat/, streamed")
def litellm_ollama_stream(url: str) -> None:
    whole = litellm.stream_chunk_builder(list(ask(url, "ollama_chat", stream=True)))
    expect(whole.choices[0].message.content, whole)


@scenario("litellm", "ollama/, by /api/generate")
def litellm_ollama(url: str) -> None:
    answered(ask(url, "ollama"))


@scenario("litellm", "anthropic/")
def litellm_anthropic(url: str) -> None:
    answered(ask(url, "anthropic"))


@scenario("litellm", "embedding")
def litellm_embedding(url: str) -> None:
    found = litellm.embedding(
        model=f"openai/{MODEL}", input=["one", "two"], api_base=f"{url}/v1", api_key="none", timeout=TIMEOUT_S
    )
    expect(len(found.data) == 2 and len(found.data[0]["embedding"]) > 100, found)


@scenario("litellm", "a prompt that is too long is its own error")
def litellm_too_long(url: str) -> None:
    turn = {"role": "user", "content": "word " * 4000}
    refused(litellm.ContextWindowExceededError, lambda: ask(url, "openai", messages=[turn]), "2048")


def lm(url: str, tokens: int, **more: object) -> dspy.LM:
    return dspy.LM(
        f"openai/{MODEL}",
        api_base=f"{url}/v1",
        api_key="none",
        max_tokens=tokens,
        cache=False,
        timeout=TIMEOUT_S,
        num_retries=0,
        **more,
    )


@scenario("dspy", "a language model's answer", needs=("choices",))
def dspy_answer(url: str) -> None:
    (found,) = lm(url, 8)(QUESTION)
    expect(found, found)


@scenario("dspy", "a signature, its answer held to a schema")
def dspy_signature(url: str) -> None:
    class Sky(dspy.Signature):
        """Say how the sky is."""

        question: str = dspy.InputField()
        sky: Literal["clear", "cloudy", "rain"] = dspy.OutputField()

    class Answer(BaseModel):
        sky: Literal["clear", "cloudy", "rain"]

    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": Answer.model_json_schema()}}
    with dspy.context(lm=lm(url, 100, response_format=form), adapter=dspy.JSONAdapter()):
        found = dspy.Predict(Sky)(question="Is it raining in Paris?")
    expect(found.sky in ("clear", "cloudy", "rain"), found)


if __name__ == "__main__":
    run()
