// Runs of * and _ and ~ -> emphasis, by CommonMark's algorithm: a stack of runs that may open, and for each kind of run
// that closes, how far down the stack it is known that nothing opens it. Each run is looked at a bounded number of times.

import { h } from "./dom.js";

const DEEPEST = 24; // elements within each other: a browser lays out no thousands of them
const SPACE = /\s/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ALNUM = /[A-Za-z0-9]/;
const DIGIT = /[0-9]/;
const NAME = /^[A-Za-z0-9_]+$/;

/** Marks of one kind in a row. `before`, `after`: the characters beside them; a space at the ends of the text. */
export class Run {
  constructor(mark, count, before, after) {
    this.mark = mark;
    this.count = count;
    this.length = count; // as it was written
    const left = flanks(before, after);
    const right = flanks(after, before);
    const bare = reckons(mark, count, before, after) || (mark === "~" && count !== 2);
    this.opens = !bare && left && (mark !== "_" || !right || PUNCTUATION.test(before));
    this.closes = !bare && right && (mark !== "_" || !left || PUNCTUATION.test(after));
  }

  /** Which of the lists of failed searches is this run's, as a closing one. */
  get kind() {
    return `${this.mark}${this.opens ? 1 : 0}${this.length % 3}`;
  }

  toString() {
    return this.mark.repeat(this.count);
  }
}

/** Whether a run between these characters is left-flanking (from the other side: right-flanking). */
function flanks(outer, inner) {
  if (SPACE.test(inner)) return false;
  return !PUNCTUATION.test(inner) || SPACE.test(outer) || PUNCTUATION.test(outer);
}

/**
 * Where CommonMark would take a sign for emphasis that is none: 5*3*2, x**2 + y**2, a*b*c and the path src/**\/*.js. What
 * stands between letters of other scripts, or in pairs between letters, stays emphasis.
 */
function reckons(mark, count, before, after) {
  if (mark !== "*") return false;
  if (before === "/" && (after === "/" || after === ".")) return true;
  if (!ALNUM.test(before) || !ALNUM.test(after)) return false;
  return count === 1 || DIGIT.test(before) || DIGIT.test(after);
}

/** Items (texts, nodes and runs) -> nodes and texts. */
export function emphasise(items) {
  const first = linked(items);
  const search = { bottoms: new Map(), floor: 0 };
  let closer = first;
  while (closer) {
    const opener = closer.item instanceof Run && closer.item.closes ? openerOf(closer, search) : null;
    if (!opener || !wrap(opener, closer, search)) closer = closer.next;
    else if (closer.item.count === 0) closer = drop(closer);
  }
  const found = [];
  for (let entry = first; entry; entry = entry.next) found.push(written(entry.item));
  return joined(found);
}

/** The items as entries of a doubly linked list, and the runs among them of another one. */
function linked(items) {
  const first = { item: "", at: 0, depth: 0, previous: null, next: null };
  let last = first;
  let run = null;
  for (const item of items) {
    const entry = { item, at: last.at + 1, depth: 0, previous: last, next: null, runBefore: run, runAfter: null };
    last.next = entry;
    last = entry;
    if (!(item instanceof Run)) continue;
    if (run) run.runAfter = entry;
    run = entry;
  }
  return first;
}

/**
 * The run that a closing one belongs to; null: there is none. `search.bottoms`: for a kind of closing run, the place
 * above which alone one that opens it can be; `search.floor`: the place above which any can be.
 */
function openerOf(closer, search) {
  const { item } = closer;
  const bottom = Math.max(search.floor, search.bottoms.get(item.kind) ?? 0);
  for (let entry = closer.runBefore; entry && entry.at > bottom; entry = entry.runBefore) {
    if (entry.item.opens && belong(entry.item, item)) return entry;
  }
  search.bottoms.set(item.kind, closer.runBefore?.at ?? 0);
  return null;
}

/** Whether two runs may open and close each other: CommonMark's rules 9 and 10 for those that could do both. */
function belong(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  if (opener.mark === "~") return opener.count === closer.count;
  if (!opener.closes && !closer.opens) return true;
  return (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/** Put what stands between two runs into an element. False: they stay as they were written. */
function wrap(opener, closer, search) {
  const size = Math.min(opener.item.count, closer.item.count, 2);
  const { mark } = opener.item;
  const within = [];
  let depth = 1;
  for (let entry = opener.next; entry !== closer; entry = entry.next) {
    within.push(written(entry.item));
    depth = Math.max(depth, entry.depth + 1);
  }
  const name = mark === "_" && size === 2 && isName(within); // __init__
  if (name || depth > DEEPEST) {
    opener.item.opens = closer.item.closes = false;
    if (!name) search.floor = closer.at - 1; // whatever is wrapped around this is deeper still
    return false;
  }
  const entry = { item: element(mark, size, joined(within)), at: opener.at, depth, previous: opener, next: closer };
  opener.next = closer.previous = entry;
  opener.runAfter = closer;
  closer.runBefore = opener;
  opener.item.count -= size;
  closer.item.count -= size;
  if (opener.item.count === 0) drop(opener);
  return true;
}

/** Take a run out of both lists. Returns the entry after it. */
function drop(entry) {
  entry.previous.next = entry.next;
  if (entry.next) entry.next.previous = entry.previous;
  if (entry.runBefore) entry.runBefore.runAfter = entry.runAfter;
  if (entry.runAfter) entry.runAfter.runBefore = entry.runBefore;
  return entry.next;
}

function isName(within) {
  return within.every((item) => typeof item === "string") && NAME.test(within.join(""));
}

function written(item) {
  return item instanceof Run ? String(item) : item;
}

function element(mark, size, within) {
  if (mark === "~") return h("del", {}, within);
  return h(size === 2 ? "strong" : "em", {}, within);
}

/** Texts that stand beside each other as one. */
function joined(items) {
  const found = [];
  let texts = [];
  const flush = () => {
    if (texts.length) found.push(texts.join(""));
    texts = [];
  };
  for (const item of items) {
    if (typeof item === "string") {
      if (item) texts.push(item);
    } else {
      flush();
      found.push(item);
    }
  }
  flush();
  return found;
}
