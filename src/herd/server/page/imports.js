// Files of conversations: what is read of one, within limits that stand before the work. A file is whatever somebody
// was given; what is wrong with it is said in one line, and nothing of it is taken.

import { MOST_ATTACHED, PARAMETERS } from "./conversation.js";
import { isEnding } from "./endings.js";
import { mend } from "./merge.js";

const MIB = 1 << 20;
const MOST_BYTES = 512 * MIB;
const MOST = { conversations: 20_000, messages: 20_000, images: MOST_ATTACHED, files: MOST_ATTACHED, marks: 2000 };
const LONGEST = { id: 100, title: 300, name: 300, model: 300, message: 8 * MIB, image: 24 * MIB, error: 10_000 };
const IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,/;
const STATES = ["done", "stopped", "failed"];
const STATS = ["prompt_tokens", "completion_tokens", "tokens_per_s", "first_token_s"];

/** The text of a file. Raises Error when it is larger than any export. */
export async function textOf(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has ${Math.round(file.size / MIB)} MiB; ${MOST_BYTES / MIB} are the most.`);
  try {
    return await file.text();
  } catch {
    throw new Error(`${file.name} cannot be read.`);
  }
}

/** {conversations, mended}: those of a file, and how many of their messages hung from none or in a ring. Raises Error. */
export function conversationsOf(text) {
  const file = parsed(text);
  if (file?.format !== "herd-conversations" || !Array.isArray(file.conversations)) {
    throw new Error("This is no file of conversations: export one here to see its form.");
  }
  const conversations = list(file.conversations, "conversations").map((one, i) => {
    try {
      return checked(one);
    } catch (error) {
      throw new Error(`Conversation ${i} of the file is broken: ${error.message}.`);
    }
  });
  return { conversations, mended: conversations.reduce((sum, one) => sum + mend(one), 0) };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** One conversation, with what is known and nothing else. Its id is kept, so that importing twice makes no copies. */
function checked(given) {
  if (!Array.isArray(given?.messages)) throw new Error("a conversation without messages");
  const messages = list(given.messages, "messages").map(messageOf);
  const ids = new Set(messages.map(({ id }) => id));
  if (ids.size < messages.length) throw new Error("two messages have the same id");
  const parameters = {};
  for (const name of PARAMETERS) {
    const wanted = name === "system" ? "string" : "number";
    if (typeof given.parameters?.[name] === wanted) parameters[name] = given.parameters[name];
  }
  const updated = time(given.updated);
  return {
    id: id(given.id, "id"),
    title: string(given.title ?? "", "title", LONGEST.title),
    created: Math.min(time(given.created), updated),
    updated,
    touched: time(given.touched, 0),
    model: string(given.model ?? "", "model", LONGEST.model),
    parameters,
    messages,
    dropped: list(given.dropped ?? [], "marks").map(markOf),
    head: given.head === null ? null : id(given.head, "head"),
  };
}

function messageOf(given, i) {
  const where = `message ${i}`;
  if (given?.role !== "user" && given?.role !== "assistant") throw new Error(`${where}: role: got ${String(given?.role).slice(0, 40)}`);
  const cut = given.state === "writing"; // when it was exported; nobody writes it here
  const state = cut ? "stopped" : (given.state ?? "done");
  if (!STATES.includes(state)) throw new Error(`${where}: state: got ${String(state).slice(0, 40)}`);
  return {
    id: id(given.id, where),
    parent: given.parent === null ? null : id(given.parent, where),
    role: given.role,
    edited: time(given.edited, 0),
    text: string(given.text, where, LONGEST.message),
    images: list(given.images ?? [], "images").map((url) => imageOf(url, where)),
    files: list(given.files ?? [], "files").map((file) => fileOf(file, where)),
    withheld: ["images", "files"].filter((kind) => Array.isArray(given.withheld) && given.withheld.includes(kind)),
    state,
    ending: cut ? "tab" : isEnding(given.ending) ? given.ending : undefined,
    error: given.error === undefined ? undefined : string(given.error, where, LONGEST.error),
    stats: statsOf(given.stats),
  };
}

function imageOf(url, where) {
  if (!IMAGE.test(string(url, where, LONGEST.image))) throw new Error(`${where}: a picture that is no PNG, JPEG, GIF or WebP`);
  return url;
}

function fileOf(file, where) {
  return { name: string(file?.name, where, LONGEST.name), text: string(file?.text, where, LONGEST.message) };
}

function markOf(mark) {
  return { id: id(mark?.id, "dropped"), parent: mark?.parent === null ? null : id(mark?.parent, "dropped"), at: time(mark?.at, 0) };
}

function statsOf(given) {
  if (!given) return undefined;
  return Object.fromEntries(STATS.filter((name) => Number.isFinite(given[name])).map((name) => [name, given[name]]));
}

function string(value, what, longest) {
  if (typeof value !== "string") throw new Error(`${what}: expected text`);
  if (value.length > longest) throw new Error(`${what}: text of ${value.length} characters; ${longest} are the most`);
  return value;
}

function id(value, what) {
  return string(value, what, LONGEST.id);
}

function list(value, what) {
  if (!Array.isArray(value)) throw new Error(`${what}: expected a list`);
  if (value.length > MOST[what]) throw new Error(`${value.length} ${what}; ${MOST[what]} are the most`);
  return value;
}

/** A time that is not in the future: one that is would win over all that is written from now on. */
function time(value, otherwise = Date.now()) {
  return Number.isFinite(value) ? Math.min(Math.max(0, value), Date.now()) : otherwise;
}
