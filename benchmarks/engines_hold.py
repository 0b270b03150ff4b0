"""Holds a service of Herd's over a real engine against the engine itself, in every dialect (`engines.py hold`).

20 prompts, greedy, asked of the engine directly and of the service in OpenAI's, Anthropic's and Ollama's forms, whole
and streamed; then forced calls, schemas, several answers, log-probabilities, stops, an image, an unknown option.
"""

import http.client
import json
from urllib.parse import urlsplit

from engines_cases import CITY, LOOKS, WEATHER

PROMPTS = (
    "Hello.", "What is photosynthesis?", "Name three rivers.", "Why is the sky blue?", "Count to ten.",
    "Write a haiku about rain.", "What is 17 + 25?", "Translate to French: good morning.", "List the primary colours.",
    "Who wrote Hamlet?", "What is a prime number?", "Tell me a fact about cats.", "Say this back: Grüße, 🐑 und 漢字.",
    "How do I boil an egg?", "What day comes after Monday?", "Spell the word engine.", "What is the capital of Norway?",
    "Give me a word that rhymes with light.", "Is water wet?", "Describe a mountain in one sentence.",
)  # fmt: skip
MOST = 24


def ask(url, path, body, key=""):
    """Status, and the value of the answer: JSON, or values of the events of a stream or lines of JSON."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=900)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        lines = [line[5:].strip() for line in data.split(b"\n") if line.startswith(b"data:")]
        return answer.status, [json.loads(line) for line in lines if line != b"[DONE]"]
    if kind == "application/x-ndjson":
        return answer.status, [json.loads(line) for line in data.splitlines() if line]
    return answer.status, json.loads(data)


def texts(found):
    """The text of an answer in any dialect."""
    if isinstance(found, dict):
        if "choices" in found:
            return found["choices"][0]["message"]["content"] or ""
        if "output" in found:
            return "".join(
                part["text"] for one in found["output"] if one["type"] == "message" for part in one["content"]
            )
        if isinstance(found.get("content"), list):
            return "".join(part["text"] for part in found["content"] if part["type"] == "text")
        return found["message"]["content"]
    said = []
    for event in found:
        if event.get("choices"):
            said.append(event["choices"][0]["delta"].get("content") or "")
        elif event.get("type") == "response.output_text.delta":
            said.append(event["delta"])
        elif event.get("type") == "content_block_delta":
            said.append(event["delta"].get("text", ""))
        elif "message" in event and "done" in event:
            said.append(event["message"]["content"])
    return "".join(said)


def requests(model, prompt):
    """The same request in each dialect: a name, a path, a body."""
    turns = [{"role": "user", "content": prompt}]
    for stream in (False, True):
        how = "streamed" if stream else "whole"
        chat = {"model": model, "messages": turns, "stream": stream}
        yield f"OpenAI chat {how}", "/v1/chat/completions", {**chat, "max_tokens": MOST, "temperature": 0}
        yield f"Responses {how}", "/v1/responses", {"model": model, "input": prompt, "stream": stream,
              "max_output_tokens": MOST, "temperature": 0, "store": False}  # fmt: skip
        yield f"Anthropic {how}", "/v1/messages", {**chat, "max_tokens": MOST, "temperature": 0}
        yield f"Ollama {how}", "/api/chat", {**chat, "options": {"num_predict": MOST, "temperature": 0}}


def hold(url, model, key, herd_url, herd_model):
    """Print a line each; returns how many differ."""
    wrong, same = [], {}
    for prompt in PROMPTS:
        _, own = ask(
            url,
            "/v1/chat/completions",
            {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MOST, "temperature": 0},
            key,
        )
        wanted = texts(own)
        for name, path, body in requests(herd_model, prompt):
            status, found = ask(herd_url, path, body)
            good = status == 200 and texts(found) == wanted
            same[name] = same.get(name, 0) + good
            if not good:
                wrong.append(
                    f"{name}: {prompt!r}: {status} {str(found)[:300] if status != 200 else (texts(found), wanted)}"
                )
    for name, count in same.items():
        print(f"{name:<24}{count} of {len(PROMPTS)} as the engine's own")
    for row in extras(herd_url, herd_model):
        print(row)
        wrong += [row] * row.startswith("WRONG")
    for row in wrong:
        print(row)
    return len(wrong)


def extras(url, model):
    """Lines about what else there is: ok or WRONG, what, and what was answered."""
    turns = [{"role": "user", "content": "How is the weather in Oslo in 3 days?"}]
    base = {"model": model, "messages": turns, "max_tokens": 96, "temperature": 0}
    tool = {"type": "function", "function": WEATHER}
    claude = {"name": WEATHER["name"], "description": "Tells it.", "input_schema": WEATHER["parameters"]}
    rows = [
        ("forced call, OpenAI", "/v1/chat/completions", {**base, "tools": [tool], "tool_choice": "required"},
         lambda f: f["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "get_weather"),
        ("forced call, Anthropic", "/v1/messages", {**base, "tools": [claude], "tool_choice": {"type": "any"}},
         lambda f: any(b["type"] == "tool_use" and b["input"].keys() == {"city", "days"} for b in f["content"])),
        ("forced call, Responses", "/v1/responses", {"model": model, "input": turns[0]["content"], "store": False,
         "temperature": 0, "max_output_tokens": 96, "tool_choice": "required",
         "tools": [{"type": "function", **WEATHER}]},
         lambda f: any(one["type"] == "function_call" for one in f["output"])),
        ("forced call streamed, OpenAI", "/v1/chat/completions",
         {**base, "tools": [tool], "tool_choice": "required", "stream": True},
         lambda f: json.loads("".join(c["function"].get("arguments", "") for e in f if e["choices"]
                   for c in e["choices"][0]["delta"].get("tool_calls", ()))).keys() == {"city", "days"}),
        ("schema, OpenAI", "/v1/chat/completions", {**base, "response_format": {"type": "json_schema", "json_schema":
         {"name": "x", "schema": CITY, "strict": True}}},
         lambda f: json.loads(texts(f)).keys() == {"city", "days"}),
        ("schema, Ollama", "/api/chat", {"model": model, "messages": turns, "stream": False, "format": CITY,
         "options": {"num_predict": 96, "temperature": 0}}, lambda f: json.loads(texts(f)).keys() == {"city", "days"}),
        ("log-probabilities", "/v1/chat/completions", {**base, "max_tokens": 4, "logprobs": True, "top_logprobs": 2},
         lambda f: len(f["choices"][0]["logprobs"]["content"]) == 4),
        ("several answers", "/v1/chat/completions", {**base, "max_tokens": 4, "n": 2, "temperature": 1},
         lambda f: len(f["choices"]) == 2),
        ("stop string", "/v1/chat/completions", {**base, "stop": [" the"]}, lambda f: " the" not in texts(f)),
        ("usage", "/v1/chat/completions", {**base, "max_tokens": 4}, lambda f: f["usage"]["completion_tokens"] == 4),
        ("begun, OpenAI", "/v1/chat/completions", {**base, "max_tokens": 4, "messages":
         [*turns, {"role": "assistant", "content": "The weather in"}],
         "continue_final_message": True}, lambda f: texts(f) != ""),
        ("image", "/v1/chat/completions", {**base, "messages": LOOKS, "max_tokens": 4}, None),
        ("too long", "/v1/chat/completions", {**base, "messages": [{"role": "user", "content": "word " * 4000}]}, None),
        ("bias by id", "/v1/chat/completions", {**base, "max_tokens": 4, "logit_bias": {"5": 1}}, None),
    ]  # fmt: skip
    for name, path, body, check in rows:
        status, found = ask(url, path, body)
        if check is None or (status == 501 and found["error"]["code"] == "unsupported"):
            good, said = 400 <= status <= 501 and isinstance(found, dict), found.get("error", found)
        else:
            try:
                good, said = status == 200 and check(found), "" if status == 200 else found
            except (KeyError, IndexError, ValueError, TypeError) as error:
                good, said = False, f"{error!r} in {str(found)[:300]}"
        yield f"{'ok   ' if good else 'WRONG'} {name}: {status} {str(said)[:300]}"
