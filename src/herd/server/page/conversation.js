// A conversation is a tree: an edited question or another answer is a new branch beside the old one, and nothing is lost.
//
//   conversation: {id, title, created, updated, model, parameters, messages: [message], head: id of the last message shown}
//   message: {id, parent, role: "user" | "assistant", text, images: [data URL], files: [{name, text}],
//             state: "done" | "writing" | "stopped" | "failed", error, stats}
//   parameters: {system, temperature, top_p, max_tokens, seed}; what is missing is the model's own
//
// Plain data, as it is stored and exported; the functions here are all that changes it.

export const PARAMETERS = ["system", "temperature", "top_p", "max_tokens", "seed"];

/** 96 random bits as text. (crypto.randomUUID is missing where a page is served without https.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(model, parameters) {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model, parameters, messages: [], head: null };
}

/** Append a message below `parent` (an id; null: the first one) and show it. */
export function addMessage(conversation, parent, fields) {
  const message = { id: newId(), parent, images: [], files: [], text: "", state: "done", ...fields };
  conversation.messages.push(message);
  conversation.head = message.id;
  conversation.updated = Date.now();
  if (!conversation.title && message.role === "user") conversation.title = titleOf(message);
  return message;
}

function titleOf(message) {
  const line = message.text.trim().split("\n")[0] || message.files[0]?.name || "Picture";
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

/** The messages from the first to the one at the head. */
export function pathOf(conversation, head = conversation.head) {
  const known = new Map(conversation.messages.map((message) => [message.id, message]));
  const path = [];
  for (let at = known.get(head); at && path.length <= known.size; at = known.get(at.parent)) path.push(at);
  return path.reverse();
}

/** The message and those beside it, in the order in which they were made. */
export function siblingsOf(conversation, message) {
  return conversation.messages.filter((other) => other.parent === message.parent && other.role === message.role);
}

/** Show this branch, down to its newest end. */
export function choose(conversation, message) {
  let last = message;
  for (;;) {
    const next = conversation.messages.findLast((other) => other.parent === last.id);
    if (!next) break;
    last = next;
  }
  conversation.head = last.id;
}

/** Take out a message that has nothing below it, as an answer that failed. */
export function dropMessage(conversation, message) {
  conversation.messages = conversation.messages.filter((other) => other !== message);
  if (conversation.head === message.id) conversation.head = message.parent;
}

/** The body of a request that asks for the next answer. */
export function requestOf(conversation) {
  const { system, ...sampling } = conversation.parameters;
  const messages = pathOf(conversation).filter((message) => message.role === "user" || message.text);
  const turns = messages.map((message) => ({ role: message.role, content: contentOf(message) }));
  if (system) turns.unshift({ role: "system", content: system });
  return { model: conversation.model, messages: turns, ...sampling };
}

function contentOf(message) {
  const text = [...message.files.map(fileText), message.text].filter(Boolean).join("\n\n");
  if (!message.images.length) return text;
  const images = message.images.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...images, { type: "text", text }] : images;
}

/** A file as a code block whose fence is longer than any within it. */
function fileText({ name, text }) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((marks) => marks.length));
  const fence = "`".repeat(longest + 1);
  return `File ${name}:\n${fence}\n${text}\n${fence}`;
}

/**
 * Check one conversation of an imported file and keep only what is known. Raises Error with what is wrong. Its id is
 * kept, so that importing twice makes no copies.
 */
export function checked(given) {
  const text = (value, what) => {
    if (typeof value !== "string") throw new Error(`${what}: expected text`);
    return value;
  };
  if (!Array.isArray(given?.messages)) throw new Error("a conversation without messages");
  const messages = given.messages.map((message, i) => {
    const where = `message ${i}`;
    if (message.role !== "user" && message.role !== "assistant") throw new Error(`${where}: role: got ${message.role}`);
    const images = (message.images ?? []).filter((url) => /^data:image\/(png|jpeg|gif|webp);base64,/.test(url));
    const files = (message.files ?? []).map((file) => ({ name: text(file.name, where), text: text(file.text, where) }));
    const state = message.state === "writing" ? "stopped" : (message.state ?? "done");
    return {
      id: text(message.id, where),
      parent: message.parent === null ? null : text(message.parent, where),
      role: message.role,
      text: text(message.text, where),
      images,
      files,
      state: text(state, where),
      error: message.error === undefined ? undefined : text(message.error, where),
      stats: statsOf(message.stats),
    };
  });
  const parameters = {};
  for (const name of PARAMETERS) {
    const wanted = name === "system" ? "string" : "number";
    if (typeof given.parameters?.[name] === wanted) parameters[name] = given.parameters[name];
  }
  const time = (value) => (Number.isFinite(value) ? value : Date.now());
  return {
    id: text(given.id, "id"),
    title: text(given.title ?? "", "title"),
    created: time(given.created),
    updated: time(given.updated),
    model: text(given.model ?? "", "model"),
    parameters,
    messages,
    head: given.head === null ? null : text(given.head, "head"),
  };
}

const STATS = ["prompt_tokens", "completion_tokens", "tokens_per_s", "first_token_s"];

function statsOf(given) {
  if (!given) return undefined;
  return Object.fromEntries(STATS.filter((name) => Number.isFinite(given[name])).map((name) => [name, given[name]]));
}
