// The service, as this page asks it: OpenAI's routes, with the key that the visitor gave. The key lives in this tab's
// session storage: it is gone with the tab, and is in no export.

const KEY = "herd.key";

const UNKNOWN_KEY = "The service does not know this key.";

/** What a header cannot carry in a key, in words; "": nothing. */
export function keyProblem(key) {
  const odd = [...key].find((character) => character < "!" || character > "~");
  return odd === undefined ? "" : `A key has letters, digits and signs of ASCII alone; this one has “${odd}”.`;
}

/** What the service refused, or a connection that broke. `status` 0: no reply came. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /** askKey(problem): asks the visitor for a key; null if there is none. `problem`: what was wrong with the last one. */
  constructor(askKey) {
    this.askKey = askKey;
    this.asking = null;
  }

  /** All models: [{id, loaded, context_length, max_context_length}]. */
  async models() {
    const reply = await this.request("/v1/models");
    return (await reply.json()).data;
  }

  /**
   * Stream an answer: {progress} while the prompt is read ({total, processed}, in tokens), {text} pieces, {usage,
   * timings}, and at the end {finish}: the service's reason, null if it gave none. Raises ApiError, and AbortError when the signal aborts.
   */
  async *chat(body, signal) {
    const whole = { ...body, stream: true, stream_options: { include_usage: true }, return_progress: true };
    const reply = await this.request("/v1/chat/completions", { method: "POST", body: JSON.stringify(whole), signal });
    let ended = false;
    let finish = null;
    for await (const data of eventsOf(reply.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = chunkOf(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500);
      if (chunk.prompt_progress) yield { progress: chunk.prompt_progress };
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      finish = choice?.finish_reason ?? finish;
      if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings };
    }
    if (!ended) throw new ApiError("The connection ended before the answer did. Try again.");
    yield { finish };
  }

  /** fetch with the key; asks for one when the service wants it. */
  async request(path, options = {}) {
    for (;;) {
      const key = storedKey();
      const reply = await this.send(path, options, key);
      if (reply.ok) return reply;
      if (reply.status !== 401 || !(await this.newKey(key))) throw await errorOf(reply);
    }
  }

  async send(path, options, key) {
    const headers = { "content-type": "application/json" };
    if (key) headers.authorization = `Bearer ${key}`;
    try {
      return await fetch(path, { ...options, headers, credentials: "omit", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError("The service cannot be reached. Is it running?");
    }
  }

  /** Ask the visitor, once for all requests that wait. Whether there is another key than `old` now. */
  async newKey(old) {
    if (storedKey() !== old) return true; // another request has asked meanwhile
    return this.changeKey(old === null ? "" : UNKNOWN_KEY);
  }

  /** Let the visitor give another key. Whether there is one. */
  async changeKey(problem = "") {
    this.asking ??= this.askKey(problem).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) sessionStorage.setItem(KEY, key);
    return Boolean(key);
  }
}

/** The key of this tab; null: none, or one that no header can carry. */
function storedKey() {
  const key = sessionStorage.getItem(KEY);
  return key && !keyProblem(key) ? key : null;
}

function chunkOf(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ApiError("The service sent something that is no part of an answer.");
  }
}

async function errorOf(reply) {
  try {
    const { message } = (await reply.json()).error;
    return new ApiError(reply.status === 403 ? `${message} Another key can be given in the parameters.` : message, reply.status);
  } catch {
    return new ApiError(`The service answered ${reply.status} ${reply.statusText}`.trim(), reply.status);
  }
}

/** The data of server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection broke before the answer ended. Try again.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
