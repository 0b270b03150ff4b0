// What the scenarios in JavaScript share: report.py, once more.

import { readFileSync } from "node:fs";

export const MODEL = process.env.HERD_CLIENTS_MODEL ?? "smollm2";
export const QUESTION = "What is the capital of France?";
export const USER = { role: "user", content: QUESTION };
export const ASKS_WEATHER = { role: "user", content: "What is the weather in Paris?" };
// The arguments of the tool that scenarios offer. Short, so that a small model ends its call.
export const WEATHER = {
  type: "object",
  properties: { city: { type: "string", maxLength: 20 }, unit: { enum: ["celsius", "fahrenheit"] } },
  required: ["city", "unit"],
  additionalProperties: false,
};

const entries = [];

// needs: fields of the reply without which the client must break.
export function scenario(client, name, call, needs = []) {
  entries.push({ client, name, call, needs });
}

export function expect(fact, ...seen) {
  if (!fact) throw new Error(`unexpected: ${JSON.stringify(seen)?.slice(0, 600)}`);
}

// The error that a call ends with.
export async function refused(call) {
  let seen;
  try {
    seen = await call();
  } catch (error) {
    return error;
  }
  throw new Error(`got ${JSON.stringify(seen)?.slice(0, 300)}, expected an error`);
}

export async function all(stream) {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
}

// What is installed there; its folder may have another name than it, so that there can be two of one.
function installed(client) {
  return JSON.parse(readFileSync(new URL(`node_modules/${client}/package.json`, import.meta.url)));
}

async function report({ client, name, call }, url, without) {
  const began = performance.now();
  let detail = "";
  try {
    await call(url);
  } catch (error) {
    detail = `${error?.name}: ${error?.message}`.slice(0, 600);
  }
  const seconds = Math.round((performance.now() - began) / 10) / 100;
  const found = installed(client);
  const who = { client: `${found.name} (npm)`, version: found.version, scenario: name, without };
  console.log(JSON.stringify({ ...who, ok: !detail, detail, seconds }));
}

// Try every scenario: SCRIPT URL PROXY [NAME]. NAME: those alone whose client or name holds it.
export async function run() {
  const [url, proxy, only] = process.argv.slice(2);
  for (const entry of entries) {
    if (only && !`${entry.client} ${entry.name}`.includes(only)) continue;
    await report(entry, url, "");
    for (const field of entry.needs) await report(entry, `${proxy}/without/${field}`, field);
  }
}
