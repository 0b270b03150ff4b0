"""LiteLLM's proxy, set as `herd connect` prints it, before clients of OpenAI's and Anthropic's dialects."""

import json
import secrets
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
from report import MODEL, QUESTION, TIMEOUT_S, WEATHER, expect, run, scenario
from started import started

CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {url}/v1
      api_key: none
"""
START_S = 180
KEY = f"sk-{secrets.token_hex(16)}"  # without one of its own, or with a weak one, it does not start
USER = {"role": "user", "content": QUESTION}
ASKS_WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
FUNCTION = {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER}


@contextmanager
def proxy(url: str) -> Iterator[str]:
    """A proxy before the service; its address."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG.format(model=MODEL, url=url))
        own = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": KEY}
        with started(["litellm", "--config", str(config)], own, folder, "/health/liveliness", START_S) as address:
            yield address


def client(proxy_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy_url}/v1", api_key=KEY, timeout=TIMEOUT_S, max_retries=0)


@scenario("litellm", "the proxy: chat, streamed chat, a tool, an object, embeddings, responses, messages")
def through(url: str) -> None:
    with proxy(url) as found:
        reached = client(found)
        expect(MODEL in [model.id for model in reached.models.list()])
        whole = reached.chat.completions.create(model=MODEL, messages=[USER], max_tokens=8, temperature=0)
        pieces = reached.chat.completions.create(model=MODEL, messages=[USER], max_tokens=8, temperature=0, stream=True)
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
        expect(text and text == whole.choices[0].message.content, text, whole)
        a_tool(reached)
        vectors = reached.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
        expect(len(vectors.data) == 2 and len(vectors.data[0].embedding) > 100)
        response = reached.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
        expect(response.output_text, response)
        messages(found)


def a_tool(reached: openai.OpenAI) -> None:
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    asked = {"model": MODEL, "messages": [ASKS_WEATHER], "max_tokens": 60}
    tools = [{"type": "function", "function": FUNCTION}]
    found = reached.chat.completions.create(tools=tools, tool_choice=chosen, **asked)
    call = found.choices[0].message.tool_calls[0]
    expect("city" in json.loads(call.function.arguments), found)
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER}}
    found = reached.chat.completions.create(response_format=form, **asked)
    expect("city" in json.loads(found.choices[0].message.content), found)


def messages(proxy_url: str) -> None:
    """As Anthropic's clients ask."""
    body = json.dumps({"model": MODEL, "max_tokens": 16, "messages": [USER]}).encode()
    head = {"content-type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{proxy_url}/v1/messages", body, head), timeout=TIMEOUT_S
    ) as reply:
        found = json.load(reply)
    expect(found["content"][0]["text"] and found["usage"]["output_tokens"] <= 16, found)


if __name__ == "__main__":
    run()
