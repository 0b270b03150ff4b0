"""The makers' own Python clients: openai, ollama, anthropic."""

import asyncio
import json
from typing import Literal

import anthropic
import ollama
import openai
from anthropic.types import Message, ModelInfo
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter
from report import MODEL, PIXEL, QUESTION, TIMEOUT_S, WEATHER, expect, refused, run, scenario

TOO_LONG = "word " * 4000
USER = {"role": "user", "content": QUESTION}
ASKS_WEATHER = {"role": "user", "content": "What is the weather in Paris?"}
FUNCTION = {"name": "get_weather", "description": "The weather of a city", "parameters": WEATHER}
TOOL = {"type": "function", "function": FUNCTION}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


class Weather(BaseModel):
    """What a structured answer must be."""

    sky: Literal["clear", "cloudy", "rain"]
    celsius: int


# -- openai --


def oai(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT_S, max_retries=0)


@scenario("openai", "chat")
def openai_chat(url: str) -> None:
    found = oai(url).chat.completions.create(model=MODEL, messages=[USER], max_tokens=8, temperature=0)
    expect(found.object == "chat.completion" and len(found.choices) == 1, found)
    expect(found.choices[0].message.role == "assistant" and found.choices[0].message.content, found)
    expect(found.usage.completion_tokens <= 8 and found.usage.total_tokens > found.usage.prompt_tokens > 0, found.usage)


@scenario("openai", "stream with usage")
def openai_stream(url: str) -> None:
    chunks = list(
        oai(url).chat.completions.create(
            model=MODEL, messages=[USER], max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    expect(chunks[-1].choices == [] and chunks[-1].usage.completion_tokens <= 8, chunks[-1])
    expect(chunks[-2].choices[0].finish_reason == "length", chunks[-2])
    expect("".join(c.choices[0].delta.content or "" for c in chunks[:-1]), chunks)


@scenario(
    "openai", "stream helper with tools", needs=("object", "choices.*.index", "choices.*.delta.tool_calls.*.index")
)
def openai_stream_helper(url: str) -> None:
    asked = {"model": MODEL, "messages": [ASKS_WEATHER], "tools": [TOOL], "tool_choice": NAMED, "max_tokens": 60}
    with oai(url).chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        found = stream.get_final_completion()
    expect("tool_calls.function.arguments.done" in kinds, kinds)
    call = found.choices[0].message.tool_calls[0]
    expect(call.function.name == "get_weather" and "city" in json.loads(call.function.arguments), call)


@scenario("openai", "parse into a pydantic model")
def openai_parse(url: str) -> None:
    found = oai(url).chat.completions.parse(
        model=MODEL, messages=[ASKS_WEATHER], response_format=Weather, max_tokens=60
    )
    expect(isinstance(found.choices[0].message.parsed, Weather), found)


@scenario("openai", "JSON mode")
def openai_json(url: str) -> None:
    found = oai(url).chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Reply with an empty JSON object."}],
        response_format={"type": "json_object"},
        max_tokens=100,
        temperature=0,
    )
    choice = found.choices[0]
    expect(choice.message.content.lstrip().startswith("{"), found)
    expect(choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict), found)


@scenario("openai", "tool_choice required, then the result", needs=("choices.*.message.tool_calls.*.id",))
def openai_tools(url: str) -> None:
    client = oai(url)
    asked = {"model": MODEL, "tools": [TOOL], "parallel_tool_calls": False, "max_tokens": 60}
    first = client.chat.completions.create(messages=[ASKS_WEATHER], tool_choice="required", **asked)
    message = first.choices[0].message
    expect(first.choices[0].finish_reason == "tool_calls" and message.tool_calls[0].id, first)
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"sky": "clear"}'}
    second = client.chat.completions.create(messages=[ASKS_WEATHER, message, result], tool_choice="none", **asked)
    expect(second.choices[0].message.content and not second.choices[0].message.tool_calls, second)


@scenario("openai", "three samples, a seed")
def openai_samples(url: str) -> None:
    asked = {"model": MODEL, "messages": [USER], "n": 3, "seed": 7, "max_tokens": 6}
    first, second = (oai(url).chat.completions.create(**asked) for _ in range(2))
    expect([c.index for c in first.choices] == [0, 1, 2], first)
    texts = [[c.message.content for c in found.choices] for found in (first, second)]
    expect(texts[0] == texts[1], texts)


@scenario("openai", "logprobs")
def openai_logprobs(url: str) -> None:
    found = oai(url).chat.completions.create(model=MODEL, messages=[USER], logprobs=True, top_logprobs=3, max_tokens=4)
    told = found.choices[0].logprobs.content
    expect(len(told) == found.usage.completion_tokens, told)
    expect(all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in told), told)


@scenario("openai", "stop sequence")
def openai_stop(url: str) -> None:
    asked = {"model": MODEL, "messages": [USER], "temperature": 0, "max_tokens": 12}
    whole = oai(url).chat.completions.create(**asked).choices[0].message.content
    cut = whole[3:6]
    found = oai(url).chat.completions.create(stop=[cut], **asked).choices[0]
    expect(found.finish_reason == "stop" and found.message.content == whole[: whole.index(cut)], found, whole)


@scenario("openai", "embeddings, base64 by default")
def openai_embeddings(url: str) -> None:
    client = oai(url)
    packed = client.embeddings.create(model=MODEL, input=["one", "two"])
    plain = client.embeddings.create(model=MODEL, input=["one", "two"], encoding_format="float")
    expect([one.index for one in packed.data] == [0, 1], packed)
    for a, b in zip(packed.data, plain.data, strict=True):
        expect(len(a.embedding) == len(b.embedding) > 100, len(a.embedding))
        expect(max(abs(x - y) for x, y in zip(a.embedding, b.embedding, strict=True)) < 1e-4, "base64 and float differ")


@scenario("openai", "completions")
def openai_completions(url: str) -> None:
    found = oai(url).completions.create(model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0)
    expect("Paris" in found.choices[0].text, found)
    pieces = oai(url).completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=6, temperature=0, stream=True
    )
    expect("".join(p.choices[0].text for p in pieces if p.choices) == found.choices[0].text, found)


@scenario("openai", "responses, stored and followed up")
def openai_responses(url: str) -> None:
    client = oai(url)
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    expect(first.output_text and first.usage.output_tokens <= 16, first)
    second = client.responses.create(
        model=MODEL, input="And of Italy?", previous_response_id=first.id, max_output_tokens=16
    )
    expect(second.usage.input_tokens > first.usage.input_tokens, second)
    expect(client.responses.retrieve(first.id).output_text == first.output_text, first)
    client.responses.delete(first.id)
    refused(openai.NotFoundError, lambda: client.responses.retrieve(first.id))


@scenario("openai", "responses, streamed", needs=("content_index", "part", "item", "response"))
def openai_responses_stream(url: str) -> None:
    asked = {"model": MODEL, "input": "Weather in Paris?", "text_format": Weather, "max_output_tokens": 60}
    with oai(url).responses.stream(**asked) as stream:  # a schema, for this helper knows no answer that was cut short
        kinds = [event.type for event in stream]
        found = stream.get_final_response()
    expect(kinds[0] == "response.created" and "response.output_text.delta" in kinds, kinds)
    expect(isinstance(found.output_parsed, Weather), found)


@scenario("openai", "responses, a tool and a schema")
def openai_responses_tools(url: str) -> None:
    client = oai(url)
    tool = {"type": "function", "strict": True, **FUNCTION}
    chosen = {"type": "function", "name": "get_weather"}
    found = client.responses.create(
        model=MODEL, input="Weather in Paris?", tools=[tool], tool_choice=chosen, max_output_tokens=60
    )
    call = found.output[-1]
    expect(call.type == "function_call" and "city" in json.loads(call.arguments) and call.call_id, found)
    parsed = client.responses.parse(model=MODEL, input="Weather in Paris?", text_format=Weather, max_output_tokens=60)
    expect(isinstance(parsed.output_parsed, Weather), parsed)


@scenario("openai", "responses, in the background, streamed and resumed")
def openai_responses_background(url: str) -> None:
    client = oai(url)
    asked = {"model": MODEL, "input": QUESTION, "max_output_tokens": 16, "background": True, "stream": True}
    with client.responses.create(**asked) as stream:
        seen = [next(stream) for _ in range(4)]
    id_, last = seen[0].response.id, seen[-1].sequence_number
    seen += client.responses.retrieve(id_, stream=True, starting_after=last)
    expect([event.sequence_number for event in seen] == list(range(len(seen))), seen)
    expect(seen[-1].type in ("response.completed", "response.incomplete") and seen[-1].response.output_text, seen[-1])
    for event in seen:
        TypeAdapter(ResponseStreamEvent).validate_python(event.to_dict(), strict=True)


@scenario("openai", "responses, items referred to, listed, counted")
def openai_responses_items(url: str) -> None:
    client = oai(url)
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    reference = {"type": "item_reference", "id": first.output[0].id}
    turns = [USER, reference, {"role": "user", "content": "And of Italy?"}]
    second = client.responses.create(model=MODEL, input=turns, tools=[{"type": "web_search"}], max_output_tokens=16)
    Response.model_validate(second.to_dict(), strict=True)
    counted = client.responses.input_tokens.count(model=MODEL, input=turns)
    expect(counted.input_tokens == second.usage.input_tokens, counted, second.usage)
    listed = client.responses.input_items.list(second.id, order="asc", limit=1)
    ResponseItemList.model_validate(listed.to_dict(), strict=True)
    expect([item.role for item in listed] == ["user", "assistant", "user"], list(listed))


@scenario("openai", "models", needs=("data.*.id",))
def openai_models(url: str) -> None:
    names = [model.id for model in oai(url).models.list()]
    expect(MODEL in names, names)
    expect(oai(url).models.retrieve(MODEL).id == MODEL)


@scenario("openai", "an image is refused by a text model")
def openai_image(url: str) -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    asked = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    refused(openai.BadRequestError, lambda: oai(url).chat.completions.create(**asked), "image")


@scenario("openai", "an unknown model is not found")
def openai_unknown(url: str) -> None:
    refused(
        openai.NotFoundError,
        lambda: oai(url).chat.completions.create(model="smollm3", messages=[USER]),
        "smollm3",
        "smollm2",
    )


@scenario("openai", "a prompt that is too long tells both counts", needs=("error.code",))
def openai_too_long(url: str) -> None:
    try:
        oai(url).chat.completions.create(model=MODEL, messages=[{"role": "user", "content": TOO_LONG}])
    except openai.BadRequestError as error:
        expect(error.code == "context_length_exceeded" and "2048" in str(error), error)
    else:
        expect(False, "answered")


@scenario("openai", "many at once, asynchronously")
def openai_async(url: str) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=TIMEOUT_S) as client:
            asked = (
                client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": f"Count to {i}."}], max_tokens=6
                )
                for i in range(8)
            )
            return [found.choices[0].message.content for found in await asyncio.gather(*asked)]

    texts = asyncio.run(ask_all())
    expect(len(texts) == 8 and all(texts), texts)


# -- ollama --

SHORT = {"num_predict": 8, "temperature": 0}


def oll(url: str) -> ollama.Client:
    return ollama.Client(host=url, timeout=TIMEOUT_S)


@scenario("ollama", "list", needs=("models",))
def ollama_list(url: str) -> None:
    found = oll(url).list()
    expect([m.model for m in found.models] == [f"{MODEL}:latest"], found)
    expect(found.models[0].size > 1_000_000 and found.models[0].details.family, found)


@scenario("ollama", "show", needs=("model_info",))
def ollama_show(url: str) -> None:
    found = oll(url).show(MODEL)
    expect(any(name.endswith(".context_length") for name in found.modelinfo), found)
    expect("completion" in found.capabilities and "vision" not in found.capabilities, found.capabilities)


@scenario("ollama", "chat", needs=("message.role",))
def ollama_chat(url: str) -> None:
    found = oll(url).chat(model=MODEL, messages=[USER], options=SHORT)
    expect(found.message.content and found.done and found.done_reason == "length", found)
    expect(found.eval_count == 8 and found.prompt_eval_count > 0 and found.total_duration > 1_000_000, found)


@scenario("ollama", "chat, streamed")
def ollama_stream(url: str) -> None:
    lines = list(oll(url).chat(model=MODEL, messages=[USER], options=SHORT, stream=True))
    expect("".join(line.message.content for line in lines), lines)
    expect([line.done for line in lines] == [False] * (len(lines) - 1) + [True], lines)


@scenario("ollama", "chat in a schema")
def ollama_schema(url: str) -> None:
    found = oll(url).chat(
        model=MODEL, messages=[ASKS_WEATHER], format=Weather.model_json_schema(), options={"num_predict": 60}
    )
    expect(Weather.model_validate_json(found.message.content), found)


@scenario("ollama", "chat with a Python function as tool")
def ollama_tools(url: str) -> None:
    def get_weather(city: str) -> str:
        """The weather of a city.

        Args:
            city: Its name.
        """
        return f"clear in {city}"

    client = oll(url)
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]}
    result = {"role": "tool", "tool_name": "get_weather", "content": get_weather("Oslo")}
    found = client.chat(model=MODEL, messages=[USER, called, result], tools=[get_weather], options=SHORT)
    expect(found.message.role == "assistant", found)
    expect(found.message.content or found.message.tool_calls, found)


@scenario("ollama", "generate, whole and streamed")
def ollama_generate(url: str) -> None:
    client = oll(url)
    whole = client.generate(model=MODEL, prompt=QUESTION, options=SHORT)
    pieces = list(client.generate(model=MODEL, prompt=QUESTION, options=SHORT, stream=True))
    expect(whole.response and "".join(p.response for p in pieces) == whole.response, whole, pieces)


@scenario("ollama", "generate raw")
def ollama_raw(url: str) -> None:
    found = oll(url).generate(model=MODEL, prompt="The capital of France is", raw=True, options=SHORT)
    expect("Paris" in found.response, found)


@scenario("ollama", "num_ctx far over the context")
def ollama_num_ctx(url: str) -> None:
    found = oll(url).chat(model=MODEL, messages=[USER], options={**SHORT, "num_ctx": 10_485_760})
    expect(found.message.content, found)


@scenario("ollama", "embed", needs=("embeddings",))
def ollama_embed(url: str) -> None:
    found = oll(url).embed(model=MODEL, input=["one", "two"])
    expect(len(found.embeddings) == 2 and len(found.embeddings[0]) > 100, found)
    old = oll(url).embeddings(model=MODEL, prompt="one")
    expect(len(old.embedding) == len(found.embeddings[0]))


@scenario("ollama", "ps and keep_alive")
def ollama_ps(url: str) -> None:
    client = oll(url)
    client.generate(model=MODEL, keep_alive="20m")
    (found,) = client.ps().models
    expect(found.model == f"{MODEL}:latest" and found.expires_at.timestamp() > 0, found)


@scenario("ollama", "create, copy, chat, delete")
def ollama_create(url: str) -> None:
    client = oll(url)
    made = client.create(model="pirate", from_=MODEL, system="You are a pirate.", parameters={"temperature": 0})
    expect(made.status == "success", made)
    client.copy("pirate", "corsair")
    try:
        names = {m.model for m in client.list().models}
        expect({"pirate:latest", "corsair:latest"} <= names, names)
        expect(client.chat(model="corsair", messages=[USER], options=SHORT).message.content)
    finally:
        client.delete("pirate")
        client.delete("corsair")
    expect(len(client.list().models) == 1, client.list())


@scenario("ollama", "an unknown model is not found")
def ollama_unknown(url: str) -> None:
    try:
        oll(url).chat(model="smollm3", messages=[USER])
    except ollama.ResponseError as error:
        expect(error.status_code == 404 and "smollm3" in error.error, error)
    else:
        expect(False, "answered")


@scenario("ollama", "an image is refused by a text model")
def ollama_image(url: str) -> None:
    turn = {"role": "user", "content": "What is this?", "images": [PIXEL]}
    refused(ollama.ResponseError, lambda: oll(url).chat(model=MODEL, messages=[turn]), "image")


# -- anthropic --

CLAUDE_TOOL = {"name": "get_weather", "description": "The weather of a city", "input_schema": WEATHER}


def claude(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="none", timeout=TIMEOUT_S, max_retries=0)


@scenario("anthropic", "message")
def anthropic_message(url: str) -> None:
    found = claude(url).messages.create(model=MODEL, max_tokens=8, system="Be brief.", messages=[USER])
    expect(found.content[0].type == "text" and found.content[0].text, found)
    expect(found.stop_reason in ("max_tokens", "end_turn") and found.usage.output_tokens <= 8, found)


@scenario("anthropic", "stream", needs=("message.usage", "usage"))
def anthropic_stream(url: str) -> None:
    with claude(url).messages.stream(model=MODEL, max_tokens=8, messages=[USER]) as stream:
        text = "".join(stream.text_stream)
        found = stream.get_final_message()
    expect(text and found.content[0].text == text, found)
    expect(found.usage.input_tokens > 0 and 0 < found.usage.output_tokens <= 8, found.usage)


@scenario("anthropic", "a loop with a tool", needs=("content.*.id",))
def anthropic_tools(url: str) -> None:
    client = claude(url)
    asked = {"model": MODEL, "max_tokens": 60, "tools": [CLAUDE_TOOL]}
    one = {"type": "any", "disable_parallel_tool_use": True}
    first = client.messages.create(messages=[ASKS_WEATHER], tool_choice=one, **asked)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    expect(first.stop_reason == "tool_use" and "city" in call.input, first)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "clear"}
    turns = [
        ASKS_WEATHER,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = client.messages.create(messages=turns, tool_choice={"type": "none"}, **asked)
    expect(second.content[0].type == "text", second)


@scenario("anthropic", "a streamed tool call", needs=("index",))
def anthropic_tool_stream(url: str) -> None:
    with claude(url).messages.stream(
        model=MODEL,
        max_tokens=60,
        messages=[ASKS_WEATHER],
        tools=[CLAUDE_TOOL],
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        found = stream.get_final_message()
    call = found.content[-1]
    expect(call.type == "tool_use" and "city" in call.input, found)


@scenario("anthropic", "stop sequence")
def anthropic_stop(url: str) -> None:
    asked = {"model": MODEL, "max_tokens": 12, "messages": [USER], "extra_body": {"temperature": 0}}
    whole = claude(url).messages.create(**asked).content[0].text
    found = claude(url).messages.create(stop_sequences=[whole[3:6]], **asked)
    expect(found.stop_reason == "stop_sequence" and found.stop_sequence == whole[3:6], found)


@scenario("anthropic", "count_tokens", needs=("input_tokens",))
def anthropic_count(url: str) -> None:
    client = claude(url)
    counted = client.messages.count_tokens(model=MODEL, messages=[USER])
    usage = client.messages.create(model=MODEL, max_tokens=1, messages=[USER]).usage
    expect(counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, counted, usage)


@scenario("anthropic", "blocks and tools of other types")
def anthropic_foreign(url: str) -> None:
    searched = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Paris"}}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}
    turns = [
        USER,
        {"role": "assistant", "content": [searched, {"type": "text", "text": "Paris."}]},
        {"role": "user", "content": [{"type": "document", "source": pdf}, {"type": "text", "text": QUESTION}]},
    ]
    tools = [{"type": "bash_20250124", "name": "bash"}, {"type": "web_search_20250305", "name": "web_search"}]
    reply = claude(url).messages.with_raw_response.create(model=MODEL, max_tokens=60, messages=turns, tools=tools)
    told, found = reply.headers["x-herd-note"], reply.parse()
    expect("server_tool_use" in told and "web_search_20250305" in told and "bash" not in told, told)
    Message.model_validate(found.to_dict(), strict=True)
    expect(found._request_id and found._request_id == reply.headers["request-id"], found)


@scenario("anthropic", "models, in pages")
def anthropic_models(url: str) -> None:
    client = claude(url)
    expect(MODEL in [model.id for model in client.models.list(limit=1)])
    found = client.models.retrieve(MODEL)
    ModelInfo.model_validate_json(found.to_json(), strict=True)
    expect(found.max_input_tokens > 0 and not found.capabilities.pdf_input.supported, found)


@scenario("anthropic", "parse into a pydantic model")
def anthropic_parse(url: str) -> None:
    found = claude(url).messages.parse(model=MODEL, max_tokens=60, messages=[ASKS_WEATHER], output_format=Weather)
    expect(isinstance(found.parsed_output, Weather), found)


@scenario("anthropic", "an image block is refused by a text model")
def anthropic_image(url: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    turn = {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]}
    refused(
        anthropic.BadRequestError,
        lambda: claude(url).messages.create(model=MODEL, max_tokens=4, messages=[turn]),
        "image",
    )


@scenario("anthropic", "errors: unknown model, prompt too long")
def anthropic_errors(url: str) -> None:
    client = claude(url)
    refused(
        anthropic.NotFoundError,
        lambda: client.messages.create(model="smollm3", max_tokens=4, messages=[USER]),
        "smollm2",
    )
    turn = {"role": "user", "content": TOO_LONG}
    refused(
        anthropic.BadRequestError, lambda: client.messages.create(model=MODEL, max_tokens=4, messages=[turn]), "2048"
    )


if __name__ == "__main__":
    run()
