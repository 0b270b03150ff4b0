// Two copies of a conversation become one: those of two tabs, or one of this browser and one of a file. All messages of
// both are there; of two forms of one message the later edited wins; a message that was removed in either is gone for
// good. The result is the same whichever copy comes first, but for the order of messages beside each other.

import { newestBelow } from "./conversation.js";

const MOST_MARKS = 2000; // of removed messages, in one conversation; the oldest go first
const RANKS = ["writing", "stopped", "failed", "done"];

/** One conversation of two, as a new object with their messages. `stored` gives the order; `mine` is another copy. */
export function merged(stored, mine) {
  const dropped = marksOf(stored, mine);
  const gone = new Set(dropped.map(({ id }) => id));
  const found = new Map();
  for (const message of [...stored.messages, ...mine.messages]) {
    const other = found.get(message.id);
    if (!gone.has(message.id) && (!other || isNewer(message, other))) found.set(message.id, message);
  }
  const fields = (mine.touched ?? 0) > (stored.touched ?? 0) ? mine : stored;
  const result = {
    ...fields,
    title: fields.title || stored.title || mine.title,
    created: Math.min(stored.created, mine.created),
    updated: Math.max(stored.updated, mine.updated),
    messages: [...found.values()],
    dropped,
  };
  mend(result);
  return result;
}

function marksOf(...copies) {
  const marks = new Map(copies.flatMap(({ dropped = [] }) => dropped.map((mark) => [mark.id, mark])));
  const newest = [...marks.values()].sort((a, b) => b.at - a.at || (a.id < b.id ? -1 : 1));
  return newest.slice(0, MOST_MARKS);
}

/** Whether the first form of a message is the later one. Of two of the same time the more complete one is. */
function isNewer(one, other) {
  const order = ({ edited, state, text }) => [edited ?? 0, RANKS.indexOf(state), text.length, text];
  const [a, b] = [order(one), order(other)];
  const differs = a.findIndex((value, i) => value !== b[i]);
  return differs >= 0 && a[differs] > b[differs];
}

/**
 * Make a tree of whatever a conversation holds: what hangs from a removed message hangs from what that hung from, what
 * hangs from none begins the conversation, a ring is opened, and the head is a message. Returns how many messages were
 * hung elsewhere without a removal to explain it.
 */
export function mend(conversation) {
  const known = new Map(conversation.messages.map((message) => [message.id, message]));
  const marks = new Map((conversation.dropped ?? []).map((mark) => [mark.id, mark]));
  let mended = 0;
  for (const message of conversation.messages) {
    const parent = standing(message.parent, known, marks);
    if (parent !== message.parent && !marks.has(message.parent)) mended += 1;
    message.parent = parent;
  }
  mended += openRings(conversation.messages);
  if (!conversation.messages.some(({ id }) => id === conversation.head)) {
    conversation.head = standing(conversation.head, known, marks) ?? conversation.messages.at(-1)?.id ?? null;
  }
  return mended;
}

/** The nearest message at or above this one that is there; null: there is none. */
function standing(id, known, marks) {
  let at = id;
  const seen = [];
  while (at !== null && !known.has(at)) {
    const mark = marks.get(at);
    marks.delete(at); // a ring of marks ends
    if (mark) seen.push(mark);
    at = mark?.parent ?? null;
  }
  for (const mark of seen) marks.set(mark.id, { ...mark, parent: at }); // the next one that asks is told at once
  return at;
}

/** Let one message of each ring begin the conversation. Returns how many rings there were. */
function openRings(messages) {
  const places = new Map(messages.map((message, i) => [message.id, i]));
  const walks = new Array(messages.length).fill(-1); // in which walk a message was met
  let rings = 0;
  for (let start = 0; start < messages.length; start++) {
    let at = start;
    while (at !== undefined && walks[at] < 0) {
      walks[at] = start;
      at = places.get(messages[at].parent);
    }
    if (at === undefined || walks[at] !== start) continue;
    messages[at].parent = null;
    rings += 1;
  }
  return rings;
}

/**
 * Take what was merged into the copy that is on the screen, whose messages stay the same objects. `own`: the message
 * that this tab is writing, which knows best itself. Messages that came while the merge was under way stay.
 */
export function absorb(mine, result, own = null) {
  const atEnd = newestBelow(mine, mine.head) === mine.head;
  const known = new Map(mine.messages.map((message) => [message.id, message]));
  const fresh = new Set(result.messages.map(({ id }) => id));
  const gone = new Set([...result.dropped, ...mine.dropped].map(({ id }) => id));
  const messages = result.messages.filter(({ id }) => !gone.has(id)).map((message) => {
    const old = known.get(message.id);
    if (!old) return message;
    if (old !== own && isNewer(message, old)) replaceFields(old, message);
    else old.parent = message.parent;
    return old;
  });
  messages.push(...mine.messages.filter(({ id }) => !fresh.has(id) && !gone.has(id)));
  mine.messages = messages;
  mine.dropped = marksOf(result, mine);
  mine.updated = Math.max(mine.updated, result.updated);
  if (result.touched > mine.touched) {
    const { title, model, parameters, touched } = result;
    Object.assign(mine, { title, model, parameters, touched });
  }
  mend(mine);
  if (atEnd && mine.head !== own?.id) mine.head = newestBelow(mine, mine.head); // who reads the end goes on reading it
}

function replaceFields(old, message) {
  for (const name of Object.keys(old)) if (!(name in message)) delete old[name];
  Object.assign(old, message);
}
