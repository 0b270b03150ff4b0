"""Frameworks for agents: OpenAI's Agents SDK, Haystack, smolagents.

Each has its tool run and answers with what came of it. A small model would go on calling: it has the tool once.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # else it tells its makers of every run

from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner, function_tool
from haystack.components.agents import Agent as HaystackAgent
from haystack.components.embedders import OpenAIDocumentEmbedder
from haystack.components.generators.chat import OpenAIChatGenerator, OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage, Document
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from pydantic import BaseModel
from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario
from rich.console import Console
from smolagents import ActionStep, AgentLogger, OpenAIServerModel, ToolCallingAgent, tool

ASKS_WEATHER = "What is the weather in Paris?"
TOKENS = 60
City = Literal["Paris", "Oslo"]


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"]


class Capital(BaseModel):
    """A capital. Short, so that an answer is not cut: to the Agents SDK a response that is cut is an error."""

    name: Literal["Paris", "Rome"]


# -- openai-agents --

LOOP = asyncio.Runner()  # one for all: the SDK keeps its connections


def config(url: str, way: str) -> RunConfig:
    provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none", use_responses=way == "responses")
    return RunConfig(model_provider=provider, tracing_disabled=True)


def teller(asked: list[str]) -> Agent:
    """Calls its tool, which writes into `asked`, and tells the weather."""

    @function_tool(is_enabled=lambda context, agent: not asked)
    def get_weather(city: City) -> str:
        """The weather of a city."""
        asked.append(city)
        return f"clear in {city}"

    settings = ModelSettings(tool_choice="get_weather", max_tokens=TOKENS, temperature=0)
    return Agent("Weather", model=MODEL, tools=[get_weather], output_type=Weather, model_settings=settings)


async def told(url: str, way: str) -> None:
    asked: list[str] = []
    found = await Runner.run(teller(asked), ASKS_WEATHER, max_turns=2, run_config=config(url, way))
    expect(len(asked) == 1 and isinstance(found.final_output, Weather), asked, found)
    expect([item.type for item in found.new_items][:2] == ["tool_call_item", "tool_call_output_item"], found.new_items)


async def told_in_pieces(url: str, way: str) -> None:
    asked: list[str] = []
    found = Runner.run_streamed(teller(asked), ASKS_WEATHER, max_turns=2, run_config=config(url, way))
    kinds = [event.data.type async for event in found.stream_events() if event.type == "raw_response_event"]
    expect(len(asked) == 1 and isinstance(found.final_output, Weather), asked, found)
    expect("response.function_call_arguments.delta" in kinds and "response.output_text.delta" in kinds, kinds)


async def turns(url: str, way: str) -> None:
    """The second turn has the first in it, as items, and where the service keeps them by its id."""
    settings = ModelSettings(max_tokens=TOKENS, temperature=0)
    agent = Agent("Geographer", model=MODEL, output_type=Capital, model_settings=settings)
    first = await Runner.run(agent, QUESTION, run_config=config(url, way))
    again: list[Any] = [*first.to_input_list(), {"role": "user", "content": "And of Italy?"}]
    second = await Runner.run(agent, again, run_config=config(url, way))
    counts = [found.context_wrapper.usage.input_tokens for found in (first, second)]
    expect(isinstance(second.final_output, Capital) and counts[0] < counts[1], counts, second)
    if way == "responses":
        by_id = first.last_response_id
        third = await Runner.run(agent, "And of Italy?", previous_response_id=by_id, run_config=config(url, way))
        expect(third.context_wrapper.usage.input_tokens == counts[1], third, counts)


async def handed_over(url: str, way: str) -> None:
    """One agent gives the question to another, which answers."""
    settings = ModelSettings(max_tokens=TOKENS, temperature=0)
    expert = Agent("Geographer", model=MODEL, output_type=Capital, model_settings=settings)
    forced = ModelSettings(tool_choice="transfer_to_geographer", max_tokens=TOKENS, temperature=0)
    door = Agent("Porter", model=MODEL, handoffs=[expert], model_settings=forced)
    found = await Runner.run(door, QUESTION, max_turns=2, run_config=config(url, way))
    expect(found.last_agent is expert and isinstance(found.final_output, Capital), found)


def agents(way: str, needs: str) -> None:
    """The scenarios of one way to ask."""

    def add(name: str, ask: Callable[[str, str], Coroutine[Any, Any, None]], needs: tuple[str, ...] = ()) -> None:
        scenario("openai-agents", f"{way}: {name}", needs=needs)(lambda url: LOOP.run(ask(url, way)))

    add("a tool, then an object", told, (needs,))
    add("a tool, then an object, streamed", told_in_pieces)
    add("two turns", turns)
    add("a question handed over", handed_over)


agents("chat", "choices.*.message.tool_calls")
agents("responses", "output")


# -- haystack-ai --


def get_weather(city: Annotated[City, "Its name"]) -> str:
    """The weather of a city."""
    return f"clear in {city}"


WEATHER = create_tool_from_function(get_weather)
NAMED = {"type": "function", "function": {"name": "get_weather"}}
FLAT = {"type": "function", "name": "get_weather"}


def chat(url: str, **more: Any) -> OpenAIChatGenerator:
    kwargs = {"max_tokens": TOKENS, "temperature": 0, **more}
    return OpenAIChatGenerator(generation_kwargs=kwargs, model=MODEL, **at(url))


def responses(url: str, **more: Any) -> OpenAIResponsesChatGenerator:
    kwargs = {"max_output_tokens": TOKENS, "temperature": 0, **more}
    return OpenAIResponsesChatGenerator(generation_kwargs=kwargs, model=MODEL, **at(url))


def at(url: str) -> dict[str, Any]:
    key = Secret.from_token("none")
    return {"api_base_url": f"{url}/v1", "api_key": key, "timeout": TIMEOUT_S, "max_retries": 0}


def called_and_told(generator: Any, choice: Any, pieces: list[Any] | None = None) -> None:
    """A call is asked for, made, and answered."""
    asked: list[ChatMessage] = [ChatMessage.from_user(ASKS_WEATHER)]
    more = {} if pieces is None else {"streaming_callback": pieces.append}
    (first,) = generator.run(asked, tools=[WEATHER], generation_kwargs={"tool_choice": choice}, **more)["replies"]
    call = first.tool_calls[0]
    expect(call.tool_name == "get_weather" and call.arguments["city"] in ("Paris", "Oslo"), first)
    result = ChatMessage.from_tool(get_weather(**call.arguments), origin=call)
    again = [*asked, first, result]
    (second,) = generator.run(again, tools=[WEATHER], generation_kwargs={"tool_choice": "none"}, **more)["replies"]
    expect(second.text and not second.tool_calls, second)


def called_and_told_in_pieces(generator: Any, choice: Any) -> None:
    pieces: list[Any] = []
    called_and_told(generator, choice, pieces)
    expect(any(piece.tool_calls for piece in pieces) and any(piece.content for piece in pieces), pieces)


@scenario("haystack-ai", "OpenAIChatGenerator: a tool, then the answer", needs=("choices.*.message.tool_calls",))
def haystack_chat(url: str) -> None:
    called_and_told(chat(url, parallel_tool_calls=False), NAMED)


@scenario("haystack-ai", "OpenAIChatGenerator: a tool, then the answer, streamed")
def haystack_chat_stream(url: str) -> None:
    called_and_told_in_pieces(chat(url, parallel_tool_calls=False), NAMED)


@scenario("haystack-ai", "OpenAIChatGenerator: an object")
def haystack_object(url: str) -> None:
    (found,) = chat(url, response_format=Weather).run([ChatMessage.from_user(ASKS_WEATHER)])["replies"]
    expect(Weather.model_validate_json(found.text), found)


@scenario("haystack-ai", "OpenAIResponsesChatGenerator: a tool, then the answer", needs=("output",))
def haystack_responses(url: str) -> None:
    called_and_told(responses(url, parallel_tool_calls=False), FLAT)


@scenario("haystack-ai", "OpenAIResponsesChatGenerator: a tool, then the answer, streamed")
def haystack_responses_stream(url: str) -> None:
    called_and_told_in_pieces(responses(url, parallel_tool_calls=False), FLAT)


@scenario("haystack-ai", "OpenAIResponsesChatGenerator: an object")
def haystack_responses_object(url: str) -> None:
    (found,) = responses(url, text_format=Weather).run([ChatMessage.from_user(ASKS_WEATHER)])["replies"]
    expect(Weather.model_validate_json(found.text), found)


@scenario("haystack-ai", "Agent, until its tool has run")
def haystack_agent(url: str) -> None:
    agent = HaystackAgent(chat_generator=chat(url, tool_choice=NAMED), tools=[WEATHER], exit_conditions=["get_weather"])
    found = agent.run([ChatMessage.from_user(ASKS_WEATHER)])
    expect(found["last_message"].tool_call_results[0].result.startswith("clear in"), found)


@scenario("haystack-ai", "OpenAIDocumentEmbedder")
def haystack_embedder(url: str) -> None:
    documents = [Document(content="one"), Document(content="two")]
    found = OpenAIDocumentEmbedder(model=MODEL, progress_bar=False, **at(url)).run(documents)["documents"]
    expect(len(found) == 2 and all(len(one.embedding or []) > 100 for one in found), found)


# -- smolagents --


@tool
def sky_of(city: City) -> str:
    """The weather of a city.

    Args:
        city: Its name
    """
    return f"clear in {city}"


def smol_model(url: str) -> OpenAIServerModel:
    reach = {"timeout": TIMEOUT_S, "max_retries": 0}
    return OpenAIServerModel(
        MODEL, api_base=f"{url}/v1", api_key="none", client_kwargs=reach, max_tokens=TOKENS, temperature=0
    )


def smol_agent(url: str, is_streamed: bool) -> None:
    """A step in which it must call its tool, and the answer that it gives when its steps are used up. Its system prompt
    is for larger models, and a small one would take the tool `final_answer` at once."""
    quiet = AgentLogger(console=Console(quiet=True))
    agent = ToolCallingAgent([sky_of], smol_model(url), logger=quiet, stream_outputs=is_streamed, max_steps=1)
    agent.prompt_templates["system_prompt"] = "You answer with the help of tools. Call sky_of for the weather."
    del agent.tools["final_answer"]
    *_, last = agent.run(ASKS_WEATHER, stream=True)
    (step, *_) = (step for step in agent.memory.steps if isinstance(step, ActionStep))
    expect(step.tool_calls and str(step.observations).startswith("clear in") and last.output, step, last)


@scenario("smolagents", "a model's answer, whole and streamed")
def smol_answer(url: str) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": QUESTION}]}
    whole = smol_model(url).generate([turn])
    pieces = [piece.content for piece in smol_model(url).generate_stream([turn])]
    expect(whole.content and "".join(piece or "" for piece in pieces) == whole.content, whole, pieces)


@scenario("smolagents", "ToolCallingAgent", needs=("choices.*.message.tool_calls",))
def smol_calls(url: str) -> None:
    smol_agent(url, is_streamed=False)


@scenario("smolagents", "ToolCallingAgent, streamed")
def smol_calls_stream(url: str) -> None:
    smol_agent(url, is_streamed=True)


if __name__ == "__main__":
    run()
