// promptfoo, the command line, with the configuration that `herd connect` prints and three kinds of checks.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, MODEL, QUESTION, run, scenario } from "./report.mjs";

const FORM = { type: "json_schema", json_schema: { name: "sky", strict: true, schema: {
  type: "object", properties: { sky: { enum: ["clear", "rain"] } }, required: ["sky"], additionalProperties: false } } };

function config(url, kind, more) {
  return {
    providers: [{ id: `openai:${kind}:${MODEL}`, config: { apiBaseUrl: `${url}/v1`, apiKey: "none", ...more } }],
    prompts: ["{{question}}"],
  };
}

// What `promptfoo eval` says of the cases of a configuration.
function evaluated(config) {
  const folder = mkdtempSync(join(tmpdir(), "promptfoo-"));
  try {
    writeFileSync(join(folder, "promptfooconfig.json"), JSON.stringify(config));
    const bin = fileURLToPath(new URL("node_modules/.bin/promptfoo", import.meta.url));
    const env = {
      ...process.env, PROMPTFOO_CONFIG_DIR: folder, PROMPTFOO_DISABLE_TELEMETRY: "1", PROMPTFOO_DISABLE_UPDATE: "1",
      PROMPTFOO_DISABLE_REMOTE_GENERATION: "1",
    };
    const words = [bin, "eval", "-c", "promptfooconfig.json", "-o", "out.json", "--no-cache", "--no-table", "--no-progress-bar"];
    const done = spawnSync(process.execPath, words, { cwd: folder, env, encoding: "utf8" });
    const found = JSON.parse(readFileSync(join(folder, "out.json"), "utf8")).results;
    expect(found.stats.errors === 0, done.stderr, found.results.map((one) => one.error));
    return found;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

scenario("promptfoo", "eval by chat", async (url) => {
  const asserted = [{ type: "javascript", value: "output.length > 0" }];
  const found = evaluated({
    ...config(url, "chat", { max_tokens: 16, temperature: 0 }), tests: [{ vars: { question: QUESTION }, assert: asserted }],
  });
  expect(found.stats.successes === 1, found.stats, found.results);
}, ["choices"]);

scenario("promptfoo", "eval by responses", async (url) => {
  const asserted = [{ type: "javascript", value: "output.length > 0" }];
  const found = evaluated({
    ...config(url, "responses", { max_output_tokens: 16 }), tests: [{ vars: { question: QUESTION }, assert: asserted }],
  });
  expect(found.stats.successes === 1, found.stats, found.results);
});

scenario("promptfoo", "eval of an object", async (url) => {
  const found = evaluated({
    ...config(url, "chat", { max_tokens: 60, response_format: FORM }),
    tests: [{ vars: { question: "What is the weather in Paris?" }, assert: [{ type: "is-json" }] }],
  });
  expect(found.stats.successes === 1, found.stats, found.results);
});

await run();
