// An answer that is being written: the service's stream becomes the text of a message, and its end becomes how it ended.

import { setMessage } from "./conversation.js";
import { endingOf } from "./endings.js";

const LONGEST_ERROR = 2000; // characters
const SAVE_MS = 1000; // while an answer grows, it is saved that often
const SAVE_PART = 10; // and no more of the time goes into that than a tenth
const READ_MS = 10; // a burst of an answer is read for that long, then the page may draw

export class Writer {
  /** grown(): there is more text; save(): a promise, to keep what there is. */
  constructor(api, conversation, message, { grown, save }) {
    Object.assign(this, { api, conversation, message, grown, save });
    this.progress = null; // how much of the prompt is read: {total, processed}, once that is known
    this.reads = () => {}; // called when that has changed
    this.control = new AbortController();
    this.saveEvery = SAVE_MS;
  }

  /** Ends the answer; the service stops working on it. */
  stop() {
    this.control.abort();
  }

  /** Write until the end. `context`: tokens of the model's context, if known. Raises nothing: the message says how it ended. */
  async run(body, context) {
    const { message } = this;
    try {
      const { finish, usage } = await this.read(body);
      const ending = endingOf({ finish, usage, most: body.max_tokens, context, text: message.text });
      setMessage(message, { state: "done", ending });
    } catch (error) {
      const stopped = error.name === "AbortError";
      const line = stopped ? undefined : error.message.slice(0, LONGEST_ERROR);
      setMessage(message, { state: stopped ? "stopped" : "failed", error: line });
    }
  }

  async read(body) {
    const began = performance.now();
    let [saved, rested] = [began, began];
    let first;
    let [finish, counts] = [null, undefined];
    for await (const { progress, text, usage, timings, finish: reason } of this.api.chat(body, this.control.signal)) {
      if (progress) {
        this.progress = progress;
        this.reads();
      }
      if (text) {
        first ??= (performance.now() - began) / 1000;
        this.message.text += text;
        this.grown();
      }
      if (usage) this.message.stats = statsOf(usage, timings, first);
      counts = usage ?? counts;
      finish = reason ?? finish;
      if (performance.now() - saved > this.saveEvery) {
        saved = performance.now();
        this.keep();
      }
      if (performance.now() - rested > READ_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        rested = performance.now();
      }
    }
    return { finish, usage: counts };
  }

  /** Save meanwhile, less often where that takes long. */
  async keep() {
    const began = performance.now();
    setMessage(this.message, {});
    await this.save();
    this.saveEvery = Math.max(SAVE_MS, SAVE_PART * (performance.now() - began));
  }
}

function statsOf(usage, timings, first) {
  return {
    prompt_tokens: usage.prompt_tokens,
    completion_tokens: usage.completion_tokens,
    tokens_per_s: timings?.predicted_per_second,
    first_token_s: first,
  };
}
