"""Clients that make objects of answers: instructor and pydantic-ai."""

from typing import Literal

import instructor
import openai
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.ollama import OllamaProvider
from pydantic_ai.providers.openai import OpenAIProvider
from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario

ASKS_WEATHER = "What is the weather in Paris?"
TOKENS = 100


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"]
    celsius: int


# -- instructor --


def extract(url: str, mode: instructor.Mode) -> None:
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0), mode=mode
    )
    found = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": ASKS_WEATHER}],
        response_model=Weather,
        max_retries=1,
        max_tokens=TOKENS,
    )
    expect(isinstance(found, Weather), found)


@scenario("instructor", "an object by a call", needs=("choices.*.message.tool_calls",))
def instructor_tools(url: str) -> None:
    extract(url, instructor.Mode.TOOLS)


@scenario("instructor", "an object by JSON schema", needs=("choices.*.message.content",))
def instructor_schema(url: str) -> None:
    extract(url, instructor.Mode.JSON_SCHEMA)


@scenario("instructor", "a partial object, streamed", needs=("choices.*.delta",))
def instructor_partial(url: str) -> None:
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT_S), mode=instructor.Mode.JSON_SCHEMA
    )
    pieces = list(
        client.chat.completions.create_partial(
            model=MODEL,
            messages=[{"role": "user", "content": ASKS_WEATHER}],
            response_model=Weather,
            max_tokens=TOKENS,
        )
    )
    expect(pieces and pieces[-1].sky in ("clear", "cloudy", "rain") and pieces[-1].celsius is not None, pieces)


# -- pydantic-ai --


def chat_model(url: str) -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))


SETTINGS = {"max_tokens": TOKENS, "timeout": TIMEOUT_S}


@scenario("pydantic-ai-slim", "text", needs=("choices", "object"))
def pydantic_ai_text(url: str) -> None:
    found = Agent(chat_model(url)).run_sync(QUESTION, model_settings={**SETTINGS, "max_tokens": 8})
    expect(found.output and found.usage.output_tokens <= 8, found)


@scenario("pydantic-ai-slim", "an object by a call", needs=("choices.*.message.tool_calls",))
def pydantic_ai_call(url: str) -> None:
    agent = Agent(chat_model(url), output_type=ToolOutput(Weather))
    expect(isinstance(agent.run_sync(ASKS_WEATHER, model_settings=SETTINGS).output, Weather))


@scenario("pydantic-ai-slim", "an object by JSON schema")
def pydantic_ai_schema(url: str) -> None:
    agent = Agent(chat_model(url), output_type=NativeOutput(Weather))
    expect(isinstance(agent.run_sync(ASKS_WEATHER, model_settings=SETTINGS).output, Weather))


@scenario("pydantic-ai-slim", "a stream of text")
def pydantic_ai_stream(url: str) -> None:
    stream = Agent(chat_model(url)).run_stream_sync(QUESTION, model_settings={**SETTINGS, "max_tokens": 8})
    expect(list(stream.stream_text(delta=True)))


@scenario("pydantic-ai-slim", "through /v1/responses")
def pydantic_ai_responses(url: str) -> None:
    model = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="none"))
    found = Agent(model).run_sync(QUESTION, model_settings={**SETTINGS, "max_tokens": 16})
    expect(found.output, found)


@scenario("pydantic-ai-slim", "as its Ollama provider asks")
def pydantic_ai_ollama(url: str) -> None:
    model = OpenAIChatModel(MODEL, provider=OllamaProvider(base_url=f"{url}/v1"))
    found = Agent(model).run_sync(QUESTION, model_settings={**SETTINGS, "max_tokens": 8})
    expect(found.output, found)


if __name__ == "__main__":
    run()
