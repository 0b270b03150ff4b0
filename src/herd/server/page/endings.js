// Why an answer is not whole, and what to do about it.

const ENDINGS = {
  length: "Cut off: the answer reached the most tokens that it, or this key, may have. Let it go on, or raise “Most tokens” in the parameters and answer again.",
  context: "Cut off: the context is full. Begin a new conversation, or remove earlier messages, files or pictures.",
  policy: "Cut off by this service’s policy: something in the answer may not leave. Ask in another way.",
  tab: "Cut off: the page was closed while this was written. Let it go on, or answer again.",
  unknown: "Cut off: the service ended without saying why. Let it go on, or answer again.",
  empty: "The model said nothing. Answer again, or ask in another way.",
};
const MAY_GO_ON = ["length", "tab", "unknown"];
const BROKEN = "Cut off: the answer above is not whole.";

export function isEnding(name) {
  return Object.hasOwn(ENDINGS, name);
}

/**
 * The ending of an answer that came to its end; undefined: it is whole. finish: the service's reason; usage: its counts of
 * tokens; most: what was asked for; context: the model's; each undefined where it is not known.
 */
export function endingOf({ finish, usage, most, context, text }) {
  if (finish === "content_filter") return "policy";
  if (finish === "length") return isFull(usage, context) ?? most === undefined ? "context" : "length";
  if (finish === null || finish === undefined) return "unknown";
  return text.trim() === "" ? "empty" : undefined;
}

/** Whether the context is full; undefined: not known. */
function isFull(usage, context) {
  if (usage === undefined || context === undefined) return undefined;
  return usage.prompt_tokens + usage.completion_tokens >= context;
}

/** Whether an answer ended before the model had said all of it, so that it can go on. */
export function isBegun({ role, text, state, ending }) {
  return role === "assistant" && text !== "" && (state === "stopped" || state === "failed" || MAY_GO_ON.includes(ending));
}

/** One line for the reader; "" where an answer is whole. */
export function lineOf(message) {
  if (message.state === "failed" && message.text) return BROKEN;
  return ENDINGS[message.ending] ?? "";
}
