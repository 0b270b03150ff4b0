// A conversation is a tree: an edited question or another answer is a new branch beside the old one, and nothing is lost.
//
//   conversation: {id, title, created, updated, touched, life, model, parameters, messages: [message], dropped: [mark],
//                  head: id of the last message shown}
//   message: {id, parent, role: "user" | "assistant", edited, text, images: [data URL], files: [{name, text}],
//             withheld: ["images", "files"]: what is no longer sent with it,
//             state: "done" | "writing" | "stopped" | "failed", ending: why an answer is not whole (endings.js),
//             error, stats}
//   mark: {id, parent, at}: a message that was removed
//   parameters: {system, temperature, top_p, max_tokens, seed}; what is missing is the model's own
//
// Times are milliseconds since 1970. `edited` grows with each change of a message, `touched` with each of the
// conversation's own fields: merge.js says what wins where two copies differ.
//
// Plain data, as it is stored and exported; the functions here and in merge.js are all that changes it.

export const MOST_ATTACHED = 64; // pictures, and as many files, of one message
export const PARAMETERS = ["system", "temperature", "top_p", "max_tokens", "seed"];

/** 96 random bits as text. (crypto.randomUUID is missing where a page is served without https.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Now, and later than `last` whatever the clock says. */
export function later(last = 0) {
  return Math.max(Date.now(), last + 1);
}

export function newConversation(model, parameters) {
  const now = Date.now();
  const times = { created: now, updated: now, touched: now };
  return { id: newId(), title: "", ...times, life: 0, model, parameters, messages: [], dropped: [], head: null };
}

/** The conversation's own fields change: model, parameters, head. */
export function setFields(conversation, fields) {
  Object.assign(conversation, fields);
  conversation.touched = later(conversation.touched);
}

/** A message changes. */
export function setMessage(message, fields) {
  Object.assign(message, fields);
  message.edited = later(message.edited);
}

/** Append a message below `parent` (an id; null: the first one) and show it. */
export function addMessage(conversation, parent, fields) {
  const attached = { images: [], files: [], withheld: [] };
  const message = { id: newId(), parent, ...attached, text: "", state: "done", edited: later(), ...fields };
  conversation.messages.push(message);
  conversation.updated = Date.now();
  const title = conversation.title || (message.role === "user" ? titleOf(message) : "");
  setFields(conversation, { head: message.id, title });
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

/** Lists of messages beside each other, in the order in which they were made: message -> its list. */
export function branchesOf(conversation) {
  const groups = new Map();
  const found = new Map();
  for (const message of conversation.messages) {
    const name = `${message.role} ${message.parent}`;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(message);
    found.set(message, groups.get(name));
  }
  return found;
}

/** Show this branch, down to its newest end. */
export function choose(conversation, message) {
  setFields(conversation, { head: newestBelow(conversation, message.id) });
}

/** The id of the newest end below a message. */
export function newestBelow(conversation, id) {
  const newest = new Map(conversation.messages.map((message) => [message.parent, message.id]));
  const seen = new Set([id]);
  let last = id;
  for (let next = newest.get(last); next !== undefined && !seen.has(next); next = newest.get(last)) {
    seen.add(next);
    last = next;
  }
  return last;
}

/** Take out a message and all below it. Marks stay in their place. Returns what was taken out. */
export function removeMessage(conversation, message) {
  const below = new Map();
  for (const one of conversation.messages) {
    if (!below.has(one.parent)) below.set(one.parent, []);
    below.get(one.parent).push(one);
  }
  const taken = new Set([message]);
  for (const one of taken) for (const child of below.get(one.id) ?? []) taken.add(child); // a set grows while it is walked
  const at = Date.now();
  conversation.messages = conversation.messages.filter((other) => !taken.has(other));
  conversation.dropped.push(...[...taken].map(({ id, parent }) => ({ id, parent, at })));
  const ids = new Set([...taken].map(({ id }) => id));
  setFields(conversation, { head: ids.has(conversation.head) ? message.parent : conversation.head });
  return [...taken];
}

/** Put back what was taken out, as new messages: a mark holds for ever. `head`: the one of them to show. */
export function putBack(conversation, taken, head) {
  const ids = new Map(taken.map(({ id }) => [id, newId()]));
  for (const message of taken) {
    const copy = { ...message, id: ids.get(message.id), parent: ids.get(message.parent) ?? message.parent };
    conversation.messages.push({ ...copy, edited: later(message.edited) });
  }
  if (ids.has(head)) setFields(conversation, { head: ids.get(head) });
}

/** Whether any message that the model is sent has something of this kind ("images" or "files") with it. */
export function carries(conversation, kind, head = conversation.head) {
  return pathOf(conversation, head).some((message) => message[kind].length > 0 && !message.withheld.includes(kind));
}

/** No longer send what is of this kind with the messages so far: it stays where it is, and can be sent again. */
export function withhold(conversation, kind, head) {
  for (const message of pathOf(conversation, head)) {
    if (message[kind].length && !message.withheld.includes(kind)) setMessage(message, { withheld: [...message.withheld, kind] });
  }
}

/** The body of a request that asks for the next answer, or goes on with the last message where that is one. */
export function requestOf(conversation) {
  const { system, ...sampling } = conversation.parameters;
  const messages = pathOf(conversation).filter((message) => message.role === "user" || message.text);
  const turns = messages.map((message) => ({ role: message.role, content: contentOf(message) }));
  const begun = turns.at(-1)?.role === "assistant" && { continue_final_message: true };
  if (system) turns.unshift({ role: "system", content: system });
  return { model: conversation.model, messages: turns, ...begun, ...sampling };
}

function contentOf(message) {
  const files = message.withheld.includes("files") ? [] : message.files;
  const images = message.withheld.includes("images") ? [] : message.images;
  const text = [...files.map(fileText), message.text].filter(Boolean).join("\n\n");
  if (!images.length) return text;
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...parts, { type: "text", text }] : parts;
}

const TICKS = /`+/g;

/** A file as a code block whose fence is longer than any within it. */
function fileText({ name, text }) {
  let longest = 2;
  for (const [marks] of text.matchAll(TICKS)) longest = Math.max(longest, marks.length);
  const fence = "`".repeat(longest + 1);
  return `File ${name}:\n${fence}\n${text}\n${fence}`;
}
