// The AI SDK as it was before: 5 and 6 of `ai`, each with the provider for OpenAI that fits.

import * as ai5 from "ai-5";
import { createOpenAI as createOpenAI5 } from "ai-5-openai";
import * as ai6 from "ai-6";
import { createOpenAI as createOpenAI6 } from "ai-6-openai";
import { z } from "zod";
import { ASKS_WEATHER, expect, MODEL, scenario } from "./report.mjs";

const TIMEOUT_MS = 60_000;
const SDKS = { "ai-5": [ai5, createOpenAI5], "ai-6": [ai6, createOpenAI6] };
const USE_TOOL = { type: "tool", toolName: "get_weather" };

// A turn, whole or streamed: its text and the messages that it adds.
async function turn(sdk, isStreamed, asked) {
  let failure;
  const onError = ({ error }) => { failure = error; };
  const limits = { maxOutputTokens: 60, temperature: 0, maxRetries: 0, abortSignal: AbortSignal.timeout(TIMEOUT_MS) };
  const found = await (isStreamed ? sdk.streamText({ ...limits, ...asked, onError }) : sdk.generateText({ ...limits, ...asked }));
  if (isStreamed) await found.consumeStream();
  if (failure) throw failure;
  return { text: await found.text, messages: (await found.response).messages };
}

// A tool is called and its result told; then a second turn. By responses, what was answered before goes as its id alone.
async function dialog([sdk, createOpenAI], way, isStreamed, url) {
  const sent = [], cities = [];
  const seen = (address, asked) => { sent.push(asked.body); return fetch(address, asked); };
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none", fetch: seen })[way](MODEL);
  const get_weather = sdk.tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
    execute: async ({ city }) => { cities.push(city); return `clear in ${city}`; },
  });
  const first = await turn(sdk, isStreamed, {
    model, messages: [ASKS_WEATHER], tools: { get_weather }, stopWhen: sdk.stepCountIs(2),
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : USE_TOOL }),
  });
  expect(first.text && cities.length === 1, first, cities);
  const next = { role: "user", content: "And tomorrow?" };
  const second = await turn(sdk, isStreamed, { model, messages: [ASKS_WEATHER, ...first.messages, next] });
  expect(second.text && sent.length === 3, second, sent);
  expect(way === "chat" || sent.at(-1).includes("item_reference"), sent.at(-1));
}

async function object([sdk, createOpenAI], url) {
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).chat(MODEL);
  const schema = z.object({ sky: z.enum(["clear", "rain"]) });
  const limits = { maxOutputTokens: 60, maxRetries: 0, abortSignal: AbortSignal.timeout(TIMEOUT_MS) };
  const found = await sdk.generateObject({ model, schema, prompt: ASKS_WEATHER.content, ...limits });
  expect(schema.parse(found.object), found);
}

async function vectors([sdk, createOpenAI], url) {
  const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).textEmbeddingModel(MODEL);
  const { embeddings } = await sdk.embedMany({ model, values: ["one", "two"], maxRetries: 0 });
  expect(embeddings.length === 2 && embeddings[0].length > 100, embeddings.length);
}

for (const [client, sdk] of Object.entries(SDKS)) {
  for (const [way, field] of [["chat", "choices"], ["responses", "output"]]) {
    const name = `@ai-sdk/openai, ${way}: a tool, then a second turn`;
    scenario(client, name, (url) => dialog(sdk, way, false, url), [field]);
    scenario(client, `${name}, streamed`, (url) => dialog(sdk, way, true, url));
  }
  scenario(client, "@ai-sdk/openai: generateObject", (url) => object(sdk, url));
  scenario(client, "@ai-sdk/openai: embedMany", (url) => vectors(sdk, url));
}
