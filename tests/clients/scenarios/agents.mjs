// OpenAI's Agents SDK (@openai/agents), by chat completions and by responses.

import { Agent, OpenAIProvider, Runner, tool } from "@openai/agents";
import { z } from "zod";
import { ASKS_WEATHER, expect, MODEL, QUESTION, scenario, USER } from "./report.mjs";

const CLIENT = "@openai/agents";
const TIMEOUT_MS = 60_000;
const Sky = z.object({ sky: z.enum(["clear", "cloudy", "rain"]) });
// Short, so that an answer is not cut: to this SDK a response that is cut is an error.
const Capital = z.object({ name: z.enum(["Paris", "Rome"]) });

function runner(url, way) {
  const at = { baseURL: `${url}/v1`, apiKey: "none", useResponses: way === "responses" };
  return new Runner({ modelProvider: new OpenAIProvider(at), tracingDisabled: true });
}

const limits = () => ({ signal: AbortSignal.timeout(TIMEOUT_MS), maxTurns: 2 });

// Calls its tool, which writes into `asked` and is there once: a small model would go on calling.
function teller(asked) {
  const get_weather = tool({
    name: "get_weather",
    description: "The weather of a city",
    parameters: z.object({ city: z.enum(["Paris", "Oslo"]) }),
    isEnabled: () => asked.length === 0,
    execute: async ({ city }) => { asked.push(city); return `clear in ${city}`; },
  });
  const modelSettings = { toolChoice: "get_weather", maxTokens: 60, temperature: 0 };
  return new Agent({ name: "Weather", model: MODEL, tools: [get_weather], outputType: Sky, modelSettings });
}

async function told(url, way) {
  const asked = [];
  const found = await runner(url, way).run(teller(asked), ASKS_WEATHER.content, limits());
  expect(asked.length === 1 && Sky.parse(found.finalOutput), asked, found.newItems);
}

async function toldInPieces(url, way) {
  const asked = [];
  const found = await runner(url, way).run(teller(asked), ASKS_WEATHER.content, { stream: true, ...limits() });
  const kinds = new Set();
  for await (const event of found) kinds.add(event.data?.type);
  await found.completed;
  expect(asked.length === 1 && Sky.parse(found.finalOutput), asked, found.newItems);
  expect(kinds.has("output_text_delta"), [...kinds]);
}

// The second turn has the first in it, as items, and where the service keeps them by its id.
async function turns(url, way) {
  const modelSettings = { maxTokens: 60, temperature: 0 };
  const agent = new Agent({ name: "Geographer", model: MODEL, outputType: Capital, modelSettings });
  const next = { ...USER, content: "And of Italy?" };
  const first = await runner(url, way).run(agent, QUESTION, limits());
  const second = await runner(url, way).run(agent, [...first.history, next], limits());
  const counts = [first, second].map((found) => found.rawResponses[0].usage.inputTokens);
  expect(Capital.parse(second.finalOutput) && counts[0] < counts[1], counts, second.finalOutput);
  if (way === "responses") {
    const known = { previousResponseId: first.lastResponseId };
    const third = await runner(url, way).run(agent, next.content, { ...known, ...limits() });
    expect(third.rawResponses[0].usage.inputTokens === counts[1], counts, third.rawResponses[0].usage);
  }
}

for (const [way, field] of [["chat", "choices.*.message.tool_calls"], ["responses", "output"]]) {
  scenario(CLIENT, `${way}: a tool, then an object`, (url) => told(url, way), [field]);
  scenario(CLIENT, `${way}: a tool, then an object, streamed`, (url) => toldInPieces(url, way));
  scenario(CLIENT, `${way}: two turns`, (url) => turns(url, way));
}
