// The service, as this page asks it: OpenAI's routes, with the key that the visitor gave. The key lives in this tab's
// session storage: it is gone with the tab, and is in no export.

const KEY = "herd.key";

/** What the service refused, or a connection that broke. `status` 0: no reply came. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Api {
  /** askKey(wrong): asks the visitor for a key; null if there is none. `wrong`: the last one was refused. */
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
   * Stream an answer: {text} pieces, and at the end {usage, timings, finish}. Raises ApiError, and AbortError when
   * the signal aborts.
   */
  async *chat(body, signal) {
    const whole = { ...body, stream: true, stream_options: { include_usage: true } };
    const reply = await this.request("/v1/chat/completions", { method: "POST", body: JSON.stringify(whole), signal });
    let ended = false;
    let finish = null;
    for await (const data of eventsOf(reply.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, 500);
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) yield { text: choice.delta.content };
      finish = choice?.finish_reason ?? finish;
      if (chunk.usage) yield { usage: chunk.usage, timings: chunk.timings, finish };
    }
    if (!ended) throw new ApiError("The connection ended before the answer did.");
  }

  /** fetch with the key; asks for one when the service wants it. */
  async request(path, options = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
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
    if (sessionStorage.getItem(KEY) !== old) return true; // another request has asked meanwhile
    this.asking ??= this.askKey(old !== null).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) sessionStorage.setItem(KEY, key);
    return Boolean(key);
  }
}

async function errorOf(reply) {
  try {
    return new ApiError((await reply.json()).error.message, reply.status);
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
    throw new ApiError("The connection broke before the answer ended.");
  } finally {
    reader.cancel().catch(() => {});
  }
}
