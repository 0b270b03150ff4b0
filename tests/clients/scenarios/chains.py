"""LangChain's three packages: langchain-openai, langchain-ollama, langchain-anthropic."""

from typing import Literal

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field
from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario

ASKS_WEATHER = "What is the weather in Paris?"
CALL_TOKENS = 100
GREEDY = {"api_key": "none", "model": MODEL, "temperature": 0, "timeout": TIMEOUT_S, "max_retries": 0}


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"] = Field(description="How the sky is")
    celsius: int


@tool
def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"clear in {city}"


def of_openai(url: str, tokens: int = 8, **more: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{url}/v1", max_tokens=tokens, **GREEDY, **more)


def of_ollama(url: str, tokens: int = 8, **more: object) -> ChatOllama:
    return ChatOllama(base_url=url, model=MODEL, num_predict=tokens, client_kwargs={"timeout": TIMEOUT_S}, **more)


def of_anthropic(url: str, tokens: int = 8, **more: object) -> ChatAnthropic:
    return ChatAnthropic(base_url=url, max_tokens=tokens, **GREEDY, **more)


# -- what every chat model of LangChain's can --


def invoke(model: BaseChatModel) -> None:
    found = model.invoke(QUESTION)
    expect(
        found.text and found.usage_metadata["output_tokens"] <= 8 and found.usage_metadata["input_tokens"] > 0, found
    )


def stream(model: BaseChatModel) -> None:
    chunks = list(model.stream(QUESTION))
    whole = sum(chunks[1:], chunks[0])
    expect(isinstance(whole, AIMessageChunk) and whole.text and len(chunks) > 2, chunks)
    expect(whole.usage_metadata and 0 < whole.usage_metadata["output_tokens"] <= 8, whole.usage_metadata)


def call(model: BaseChatModel, **choice: object) -> None:
    """A call is asked for, made, and answered."""
    asking = model.bind_tools([get_weather], **choice)
    first = asking.invoke(ASKS_WEATHER)
    called = first.tool_calls[0]
    expect(called["name"] == "get_weather" and called["args"]["city"] in ("Paris", "Oslo") and called["id"], first)
    result = ToolMessage(get_weather.invoke(called["args"]), tool_call_id=called["id"])
    first.tool_calls = [called]
    second = model.bind_tools([get_weather]).invoke([HumanMessage(ASKS_WEATHER), first, result])
    expect(second.text or second.tool_calls, second)


def structured(model: BaseChatModel, **how: object) -> None:
    found = model.with_structured_output(Weather, **how).invoke(ASKS_WEATHER)
    expect(isinstance(found, Weather), found)


# -- langchain-openai --


@scenario("langchain-openai", "invoke", needs=("choices.*.message.role",))
def openai_invoke(url: str) -> None:
    invoke(of_openai(url))


@scenario("langchain-openai", "stream, summed", needs=("usage",))
def openai_stream(url: str) -> None:
    stream(of_openai(url, stream_usage=True))


@scenario("langchain-openai", "bind_tools, then the result", needs=("choices.*.message.tool_calls.*.id",))
def openai_tools(url: str) -> None:
    call(of_openai(url, CALL_TOKENS), tool_choice="get_weather", parallel_tool_calls=False)


@scenario("langchain-openai", "with_structured_output, by schema")
def openai_schema(url: str) -> None:
    structured(of_openai(url, CALL_TOKENS), method="json_schema")


@scenario("langchain-openai", "with_structured_output, by a call")
def openai_calling(url: str) -> None:
    structured(of_openai(url, CALL_TOKENS), method="function_calling")


@scenario("langchain-openai", "through /v1/responses")
def openai_responses(url: str) -> None:
    found = of_openai(url, 16, use_responses_api=True).invoke(QUESTION)
    expect(found.text and found.usage_metadata["output_tokens"] <= 16, found)


@scenario("langchain-openai", "embeddings")
def openai_embeddings(url: str) -> None:
    found = OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="none", model=MODEL, check_embedding_ctx_length=False
    ).embed_documents(["one", "two"])
    expect(len(found) == 2 and len(found[0]) > 100, found)


# -- langchain-ollama --


@scenario("langchain-ollama", "invoke", needs=("message.role", "eval_count"))
def ollama_invoke(url: str) -> None:
    invoke(of_ollama(url))


@scenario("langchain-ollama", "stream, summed")
def ollama_stream(url: str) -> None:
    stream(of_ollama(url))


@scenario("langchain-ollama", "validate_model_on_init", needs=("models.*.model",))
def ollama_validate(url: str) -> None:
    of_ollama(url, validate_model_on_init=True)


@scenario("langchain-ollama", "bind_tools is taken")
def ollama_tools(url: str) -> None:
    found = of_ollama(url, CALL_TOKENS).bind_tools([get_weather]).invoke(ASKS_WEATHER)
    expect(found.text or found.tool_calls, found)


@scenario("langchain-ollama", "with_structured_output, by schema")
def ollama_schema(url: str) -> None:
    structured(of_ollama(url, CALL_TOKENS), method="json_schema")


@scenario("langchain-ollama", "embeddings")
def ollama_embeddings(url: str) -> None:
    found = OllamaEmbeddings(base_url=url, model=MODEL).embed_documents(["one", "two"])
    expect(len(found) == 2 and len(found[0]) > 100, found)


# -- langchain-anthropic --


@scenario("langchain-anthropic", "invoke", needs=("usage",))
def anthropic_invoke(url: str) -> None:
    invoke(of_anthropic(url))


@scenario("langchain-anthropic", "stream, summed", needs=("usage",))
def anthropic_stream(url: str) -> None:
    stream(of_anthropic(url))


@scenario("langchain-anthropic", "bind_tools, then the result", needs=("content.*.id",))
def anthropic_tools(url: str) -> None:
    call(of_anthropic(url, CALL_TOKENS), tool_choice="get_weather", parallel_tool_calls=False)


@scenario("langchain-anthropic", "with_structured_output")
def anthropic_schema(url: str) -> None:
    structured(of_anthropic(url, CALL_TOKENS))


if __name__ == "__main__":
    run()
