"""LlamaIndex: its packages for OpenAI-like services and for Ollama."""

from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario

TURNS = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
ASKS_WEATHER = "What is the weather in Paris?"


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"]
    celsius: int


def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """The weather of a city."""
    return f"clear in {city}"


def of_openai(url: str, tokens: int = 8) -> OpenAILike:
    return OpenAILike(
        model=MODEL,
        api_base=f"{url}/v1",
        api_key="none",
        is_chat_model=True,
        is_function_calling_model=True,
        max_tokens=tokens,
        timeout=TIMEOUT_S,
        max_retries=0,
    )


def of_ollama(url: str, tokens: int = 8) -> Ollama:
    """Without a context window: it asks /api/show for one and sends that back as num_ctx."""
    return Ollama(
        model=MODEL,
        base_url=url,
        request_timeout=TIMEOUT_S,
        context_window=-1,
        additional_kwargs={"num_predict": tokens},
    )


@scenario("llama-index-llms-openai-like", "chat", needs=("choices.*.message",))
def openai_chat(url: str) -> None:
    expect(of_openai(url).chat(TURNS).message.content)


@scenario("llama-index-llms-openai-like", "chat, streamed")
def openai_stream(url: str) -> None:
    pieces = list(of_openai(url).stream_chat(TURNS))
    expect(len(pieces) > 2 and "".join(p.delta or "" for p in pieces) == pieces[-1].message.content, pieces)


@scenario("llama-index-llms-openai-like", "a tool")
def openai_tool(url: str) -> None:
    model = of_openai(url, 100)
    tool = FunctionTool.from_defaults(get_weather)
    found = model.chat_with_tools([tool], user_msg=ASKS_WEATHER, tool_choice="get_weather")
    call = model.get_tool_calls_from_response(found)[0]
    expect(call.tool_name == "get_weather" and call.tool_kwargs["city"] in ("Paris", "Oslo"), found)


@scenario("llama-index-llms-openai-like", "structured_predict")
def openai_object(url: str) -> None:
    found = of_openai(url, 100).as_structured_llm(Weather).chat([ChatMessage(role="user", content=ASKS_WEATHER)])
    expect(isinstance(found.raw, Weather), found)


@scenario("llama-index-llms-ollama", "chat, with the num_ctx that show tells", needs=("message.role",))
def ollama_chat(url: str) -> None:
    expect(of_ollama(url).chat(TURNS).message.content)


@scenario("llama-index-llms-ollama", "chat, streamed")
def ollama_stream(url: str) -> None:
    pieces = list(of_ollama(url).stream_chat(TURNS))
    expect(len(pieces) > 2 and pieces[-1].message.content, pieces)


@scenario("llama-index-llms-ollama", "complete")
def ollama_complete(url: str) -> None:
    expect(of_ollama(url).complete(QUESTION).text)


if __name__ == "__main__":
    run()
