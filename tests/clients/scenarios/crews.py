"""CrewAI: its language model, and a crew of one."""

import os

os.environ |= {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "CREWAI_TRACING_ENABLED": "false"}

from typing import Literal

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel
from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario


class Weather(BaseModel):
    """The weather."""

    sky: Literal["clear", "cloudy", "rain"]


def llm(url: str, **more: object) -> LLM:
    return LLM(
        model=f"openai/{MODEL}", base_url=f"{url}/v1", api_key="none", max_tokens=60, temperature=0, timeout=TIMEOUT_S,
        **more,
    )  # fmt: skip


@scenario("crewai", "LLM.call", needs=("choices",))
def call(url: str) -> None:
    expect(llm(url).call(QUESTION))


@scenario("crewai", "LLM.call, streamed")
def stream(url: str) -> None:
    expect(llm(url, stream=True).call(QUESTION))


@scenario("crewai", "LLM.call, an object")
def an_object(url: str) -> None:
    found = llm(url, response_format=Weather).call("What is the weather in Paris?")
    expect(found if isinstance(found, Weather) else Weather.model_validate_json(str(found)), found)


@scenario("crewai", "LLM.call with a function")
def function(url: str) -> None:
    asked = []

    def get_weather(city: str) -> str:
        asked.append(city)
        return f"clear in {city}"

    shape = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
    tools = [
        {"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": shape}}
    ]
    found = llm(url).call("Call get_weather for Paris.", tools=tools, available_functions={"get_weather": get_weather})
    expect(found, found, asked)


@scenario("crewai", "a crew of one agent that has a tool")
def crew(url: str) -> None:
    @tool("get_weather")
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return f"clear in {city}"

    agent = Agent(
        role="Reporter", goal="Tell the weather", backstory="You are brief.", llm=llm(url), tools=[get_weather],
        max_iter=2, max_retry_limit=0,
    )  # fmt: skip
    task = Task(description="What is the weather in Paris?", expected_output="One sentence", agent=agent)
    found = Crew(agents=[agent], tasks=[task], verbose=False).kickoff()
    expect(found.raw, found)


if __name__ == "__main__":
    run()
