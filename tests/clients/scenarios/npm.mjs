// Clients from npm: openai, @anthropic-ai/sdk, ollama, and the AI SDK (`ai`) with three of its providers; and those of
// agents.mjs and earlier.mjs, in one run.

import Anthropic from "@anthropic-ai/sdk";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, streamText, tool } from "ai";
import { Ollama } from "ollama";
import { createOllama } from "ollama-ai-provider-v2";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import "./agents.mjs";
import "./earlier.mjs";
import { all, ASKS_WEATHER, expect, MODEL, QUESTION, refused, run, scenario, USER, WEATHER } from "./report.mjs";

const TIMEOUT_MS = 60_000;
const Weather = z.object({ sky: z.enum(["clear", "cloudy", "rain"]), celsius: z.int() });
const FUNCTION = { name: "get_weather", description: "The weather of a city", parameters: WEATHER };
const TOOLS = [{ type: "function", function: FUNCTION }];
const NAMED = { type: "function", function: { name: "get_weather" } };

// -- openai --

const oai = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", timeout: TIMEOUT_MS, maxRetries: 0 });

scenario("openai", "chat", async (url) => {
  const found = await oai(url).chat.completions.create({ model: MODEL, messages: [USER], max_tokens: 8 });
  expect(found.choices[0].message.content && found.usage.completion_tokens <= 8, found);
}, ["choices.*.message"]);

scenario("openai", "stream with usage", async (url) => {
  const streamed = { stream: true, stream_options: { include_usage: true } };
  const asked = { model: MODEL, messages: [USER], max_tokens: 8, ...streamed };
  const chunks = await all(await oai(url).chat.completions.create(asked));
  expect(chunks.at(-1).choices.length === 0 && chunks.at(-1).usage.completion_tokens <= 8, chunks.at(-1));
  expect(chunks.some((chunk) => chunk.choices[0]?.delta.content), chunks);
});

scenario("openai", "stream helper with tools", async (url) => {
  const asked = { model: MODEL, messages: [ASKS_WEATHER], tools: TOOLS, tool_choice: NAMED, max_tokens: 60 };
  const found = await oai(url).chat.completions.stream(asked).finalChatCompletion();
  const [call] = found.choices[0].message.tool_calls;
  expect(call.function.name === "get_weather" && JSON.parse(call.function.arguments).city !== undefined, found);
}, ["choices.*.delta.tool_calls.*.index", "choices.*.index", "choices.*.delta.role"]);

scenario("openai", "parse with zod", async (url) => {
  const found = await oai(url).chat.completions.parse({
    model: MODEL, messages: [ASKS_WEATHER], response_format: zodResponseFormat(Weather, "weather"), max_tokens: 60,
  });
  expect(Weather.parse(found.choices[0].message.parsed), found);
});

scenario("openai", "embeddings, base64 by default", async (url) => {
  const found = await oai(url).embeddings.create({ model: MODEL, input: ["one", "two"] });
  expect(found.data.length === 2 && found.data[0].embedding.length > 100, found.data.length);
  expect(Math.abs(Math.hypot(...found.data[0].embedding) - 1) < 1e-3, "not of unit length");
}, ["data.*.embedding"]);

scenario("openai", "responses, streamed", async (url) => {
  const events = await all(
    await oai(url).responses.create({ model: MODEL, input: QUESTION, max_output_tokens: 16, stream: true }),
  );
  expect(events[0].type === "response.created", events[0]);
  expect(events.some((event) => event.type === "response.output_text.delta"), events.map((event) => event.type));
  expect(["response.completed", "response.incomplete"].includes(events.at(-1).type), events.at(-1));
});

scenario("openai", "errors", async (url) => {
  const unknown = await refused(() => oai(url).chat.completions.create({ model: "smollm3", messages: [USER] }));
  expect(unknown instanceof OpenAI.NotFoundError && unknown.message.includes("smollm2"), unknown.message);
  const long = { role: "user", content: "word ".repeat(4000) };
  const refusal = await refused(() => oai(url).chat.completions.create({ model: MODEL, messages: [long] }));
  expect(refusal instanceof OpenAI.BadRequestError && refusal.code === "context_length_exceeded", refusal.message);
});

// -- @anthropic-ai/sdk --

const claude = (url) => new Anthropic({ baseURL: url, apiKey: "none", timeout: TIMEOUT_MS, maxRetries: 0 });

scenario("@anthropic-ai/sdk", "message", async (url) => {
  const found = await claude(url).messages.create({ model: MODEL, max_tokens: 8, messages: [USER] });
  expect(found.content[0].text && found.usage.output_tokens <= 8, found);
});

scenario("@anthropic-ai/sdk", "stream", async (url) => {
  const found = await claude(url).messages.stream({ model: MODEL, max_tokens: 8, messages: [USER] }).finalMessage();
  expect(found.content[0].text && found.usage.output_tokens > 0, found);
}, ["message.usage", "usage"]);

scenario("@anthropic-ai/sdk", "a streamed tool call", async (url) => {
  const tools = [{ name: "get_weather", description: "The weather of a city", input_schema: WEATHER }];
  const chosen = { type: "tool", name: "get_weather" };
  const found = await claude(url).messages
    .stream({ model: MODEL, max_tokens: 60, messages: [ASKS_WEATHER], tools, tool_choice: chosen })
    .finalMessage();
  const call = found.content.at(-1);
  expect(call.type === "tool_use" && call.input.city !== undefined && call.id, found);
}, ["content_block.id", "delta.partial_json"]);

scenario("@anthropic-ai/sdk", "count_tokens", async (url) => {
  const found = await claude(url).messages.countTokens({ model: MODEL, messages: [USER] });
  expect(found.input_tokens > 0, found);
});

// -- ollama --

const oll = (url) => new Ollama({ host: url });
const SHORT = { num_predict: 8, temperature: 0 };

scenario("ollama", "list, show, ps", async (url) => {
  const { models } = await oll(url).list();
  expect(models.some((model) => model.model === `${MODEL}:latest`), models);
  expect(Object.keys((await oll(url).show({ model: MODEL })).model_info).length > 3);
  expect((await oll(url).ps()).models.length === 1);
}, ["models.*.model"]);

scenario("ollama", "chat, whole and streamed", async (url) => {
  const asked = { model: MODEL, messages: [USER], options: SHORT };
  const whole = await oll(url).chat(asked);
  const lines = await all(await oll(url).chat({ ...asked, stream: true }));
  expect(whole.message.content && lines.at(-1).done, whole, lines.at(-1));
  expect(lines.map((line) => line.message.content).join("") === whole.message.content, whole, lines);
}, ["message"]);

scenario("ollama", "generate in a schema", async (url) => {
  const format = z.toJSONSchema(Weather);
  const asked = { model: MODEL, prompt: ASKS_WEATHER.content, format, options: { num_predict: 60 } };
  expect(Weather.parse(JSON.parse((await oll(url).generate(asked)).response)));
});

scenario("ollama", "embed", async (url) => {
  const found = await oll(url).embed({ model: MODEL, input: ["one", "two"] });
  expect(found.embeddings.length === 2 && found.embeddings[0].length > 100, found.embeddings.length);
});

scenario("ollama", "create and delete", async (url) => {
  const made = await oll(url).create({ model: "sailor", from: MODEL, system: "You are a sailor.", stream: false });
  expect(made.status === "success", made);
  expect((await oll(url).delete({ model: "sailor" })).status === "success");
});

// -- AI SDK --

const providers = {
  "@ai-sdk/openai": {
    responses: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" })(MODEL),
    chat: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).chat(MODEL),
    embedding: (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).textEmbeddingModel(MODEL),
  },
  "@ai-sdk/openai-compatible": {
    chat: (url) => compatible(url)(MODEL),
    embedding: (url) => compatible(url).textEmbeddingModel(MODEL),
  },
  "ollama-ai-provider-v2": { // its maxOutputTokens never leaves it: num_predict does
    settings: { providerOptions: { ollama: { options: { num_predict: 16 } } } },
    chat: (url) => createOllama({ baseURL: `${url}/api` })(MODEL),
  },
};

const compatible = (url) =>
  createOpenAICompatible({
    name: "herd", baseURL: `${url}/v1`, apiKey: "none", supportsStructuredOutputs: true, includeUsage: true,
  });

const limits = (tokens) => ({ maxOutputTokens: tokens, maxRetries: 0, abortSignal: AbortSignal.timeout(TIMEOUT_MS) });

async function text(model, settings) {
  const { text, usage } = await generateText({ model, prompt: QUESTION, ...limits(16), ...settings });
  expect(text && usage.outputTokens > 0 && usage.outputTokens <= 16, text, usage);
}

async function stream(model, settings) {
  let failure;
  const onError = ({ error }) => { failure = error; };
  const found = streamText({ model, prompt: QUESTION, ...limits(16), ...settings, onError });
  const pieces = await all(found.textStream);
  if (failure) throw failure;
  expect(pieces.join("") && (await found.usage).outputTokens > 0, pieces, await found.usage);
}

async function object(model) {
  const { object } = await generateObject({ model, schema: Weather, prompt: ASKS_WEATHER.content, ...limits(100) });
  expect(Weather.parse(object));
}

// A call that the model must make; the SDK runs the tool. One step: a small model would go on calling.
async function call(model) {
  let asked;
  const get_weather = tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
    execute: async ({ city }) => { asked = city; return `clear in ${city}`; },
  });
  const prompt = ASKS_WEATHER.content;
  const chosen = { type: "tool", toolName: "get_weather" };
  const found = await generateText({ model, prompt, tools: { get_weather }, toolChoice: chosen, ...limits(100) });
  expect(asked && found.toolResults[0].output === `clear in ${asked}`, found.text, found.toolCalls);
}

// Of an earlier answer it sends the id alone.
async function turns(url) {
  const sent = [];
  const seen = (address, asked) => { sent.push(asked.body); return fetch(address, asked); };
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none", fetch: seen })(MODEL);
  const asked = [{ role: "user", content: QUESTION }];
  const first = await generateText({ model, messages: asked, ...limits(16) });
  const messages = [...asked, ...first.response.messages, { role: "user", content: "And of Italy?" }];
  const { text } = await generateText({ model, messages, ...limits(16) });
  expect(text && sent.at(-1).includes("item_reference"), text, sent);
}

for (const [client, { chat, responses, embedding, settings }] of Object.entries(providers)) {
  const isOllama = client.startsWith("ollama");
  scenario(client, "generateText", (url) => text(chat(url), settings), [isOllama ? "message" : "choices"]);
  scenario(client, "streamText", (url) => stream(chat(url), settings));
  scenario(client, "generateObject", (url) => object(chat(url)));
  if (!isOllama) {
    scenario(client, "a tool that the SDK runs", (url) => call(chat(url)), ["choices.*.message.tool_calls"]);
  }
  if (responses) {
    scenario(client, "responses: generateText", (url) => text(responses(url)), ["output"]);
    scenario(client, "responses: streamText", (url) => stream(responses(url)));
    scenario(client, "responses: a tool that the SDK runs", (url) => call(responses(url)));
    scenario(client, "responses: two turns", turns);
  }
  if (embedding) {
    scenario(client, "embedMany", async (url) => {
      const { embeddings } = await embedMany({ model: embedding(url), values: ["one", "two"], maxRetries: 0 });
      expect(embeddings.length === 2 && embeddings[0].length > 100, embeddings.length);
    });
  }
}

await run();
