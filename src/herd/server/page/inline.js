// Markdown, second half: the text of a block -> nodes. Links go to http, https and mailto alone; what is no such link stands
// as it was written; images of other places are named but never fetched: their address could carry away what was said here.
//
// Emphasis follows CommonMark's rules of flanking runs (https://spec.commonmark.org/0.31.2/#emphasis-and-strong-emphasis),
// except where they would eat a sign of reckoning, of a name or of a path: see `Run`.
//
// The time is linear in the text: every search for a closing mark is remembered, whether it found one or not.

import { isMath } from "./dollars.js";
import { h } from "./dom.js";
import { mathNode } from "./math.js";
import { emphasise, Run } from "./emphasis.js";

const DEEPEST = 12; // links within each other's text; what is deeper is shown as it stands
const STOP = /[\\`*_~[!<$\n]|https?:\/\//g;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`]+/y;
const PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const ALNUM = /[\p{L}\p{N}_]/u;
const AFTER_LINK = ".,;:!?*_~])";
const LONGEST_MATH = 5000; // characters of a formula
const LONGEST_ADDRESS = 2000; // characters in which parentheses are counted

/** Nodes of a text. */
export function inline(text, depth = 0) {
  return new Reader(text, depth).read();
}

/** The address, if it is one that a link may have; else null. */
export function safeLink(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

class Reader {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.at = 0;
    this.plain = [];
    this.items = []; // nodes, texts and runs of marks, in their order
    this.found = new Map(); // mark -> [from, where it was found from there on; -1: nowhere]
  }

  read() {
    if (this.depth > DEEPEST) return [this.text];
    while (this.at < this.text.length) {
      STOP.lastIndex = this.at;
      const next = STOP.exec(this.text);
      const stop = next ? next.index : this.text.length;
      if (stop > this.at) this.plain.push(this.text.slice(this.at, stop));
      this.at = stop;
      if (next && !this.special(this.text[stop])) {
        this.plain.push(this.text[this.at]);
        this.at += 1;
      }
    }
    this.flush();
    return emphasise(this.items);
  }

  /** Read what begins with this character; false: nothing does. */
  special(character) {
    switch (character) {
      case "\\":
        return this.escape();
      case "`":
        return this.code();
      case "*":
      case "_":
      case "~":
        return this.run(character);
      case "!":
        return this.text[this.at + 1] === "[" && this.link(true);
      case "[":
        return this.link(false);
      case "<":
        return this.autolink(AUTOLINK);
      case "h":
        return this.autolink(BARE_LINK);
      case "$":
        return this.dollars();
      case "\n":
        return this.lineBreak();
    }
    return false;
  }

  flush() {
    if (this.plain.length) this.items.push(this.plain.join(""));
    this.plain = [];
  }

  add(node, end) {
    this.flush();
    this.items.push(node);
    this.at = end;
    return true;
  }

  say(text, end) {
    this.plain.push(text);
    this.at = end;
    return true;
  }

  /** Where `mark` stands next, from `from` on; -1 if nowhere. */
  find(mark, from) {
    const [began, at] = this.found.get(mark) ?? [Infinity, 0];
    if (began <= from && (at < 0 || at >= from)) return at;
    const found = this.text.indexOf(mark, from);
    this.found.set(mark, [from, found]);
    return found;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "(" && this.formula("\\)", this.at + 2, false)) return true;
    if (next === "[" && this.formula("\\]", this.at + 2, true)) return true;
    if (next === "\n") return this.add(h("br"), this.at + 2);
    if (next === undefined || !PUNCTUATION.test(next)) return false;
    return this.say(next, this.at + 2);
  }

  /** What stands between here and `closer`, if it is clearly a formula. */
  formula(closer, begin, display) {
    const end = this.find(closer, begin);
    if (end < 0 || end - begin > LONGEST_MATH) return false;
    const tex = this.text.slice(begin, end);
    return isMath(tex, true) && this.add(mathNode(tex, display), end + closer.length);
  }

  code() {
    const begin = this.pastRun("`", this.at);
    const marks = begin - this.at;
    const end = this.closingTicks(marks, begin);
    if (end < 0) return this.say("`".repeat(marks), begin);
    const inner = this.text.slice(begin, end).replaceAll("\n", " ");
    const spaced = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    return this.add(h("code", { text: spaced ? inner.slice(1, -1) : inner }), end + marks);
  }

  pastRun(mark, from) {
    let at = from;
    while (this.text[at] === mark) at += 1;
    return at;
  }

  /** Where the next run of so many backticks begins; all runs are found in one pass, and each is passed over once. */
  closingTicks(marks, from) {
    if (!this.ticks) {
      this.ticks = new Map();
      for (let at = this.text.indexOf("`"); at >= 0; ) {
        const end = this.pastRun("`", at);
        if (!this.ticks.has(end - at)) this.ticks.set(end - at, { places: [], next: 0 });
        this.ticks.get(end - at).places.push(at);
        at = this.text.indexOf("`", end);
      }
    }
    const runs = this.ticks.get(marks);
    if (!runs) return -1;
    while (runs.next < runs.places.length && runs.places[runs.next] < from) runs.next += 1;
    return runs.places[runs.next] ?? -1;
  }

  /** Marks of emphasis: which of them belong together is seen when all are known. */
  run(mark) {
    const end = this.pastRun(mark, this.at);
    const before = characterBefore(this.text, this.at);
    const after = characterAt(this.text, end);
    return this.add(new Run(mark, end - this.at, before, after), end);
  }

  link(picture) {
    const begin = this.at + (picture ? 2 : 1);
    const close = this.bracketOf(begin - 1);
    if (close === undefined || this.text[close + 1] !== "(") return false;
    const end = this.parenthesis(close + 2);
    if (end < 0) return false;
    const address = addressOf(this.text.slice(close + 2, end).trim());
    const label = this.text.slice(begin, close);
    if (picture) return this.add(pictureNode(label, address), end + 1);
    if (safeLink(address) === null) return false; // it goes nowhere: what was written says more
    return this.add(linkNode(inline(label, this.depth + 1), address), end + 1);
  }

  /** Where the bracket that opens at `open` closes: all pairs of the text, found in one pass. */
  bracketOf(open) {
    if (!this.brackets) {
      this.brackets = new Map();
      const waiting = [];
      for (let i = 0; i < this.text.length; i++) {
        if (this.text[i] === "\\") i += 1;
        else if (this.text[i] === "[") waiting.push(i);
        else if (this.text[i] === "]" && waiting.length) this.brackets.set(waiting.pop(), i);
      }
    }
    return this.brackets.get(open);
  }

  /** The end of an address: parentheses within it are its own. */
  parenthesis(from) {
    if (this.find(")", from) < 0) return -1;
    let deep = 0;
    for (let i = from; i < Math.min(this.text.length, from + LONGEST_ADDRESS); i++) {
      if (this.text[i] === "(") deep += 1;
      if (this.text[i] === ")" && deep-- === 0) return i;
    }
    return -1;
  }

  autolink(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) return false;
    if (pattern === AUTOLINK) return this.add(linkNode([found[1]], found[1]), this.at + found[0].length);
    let end = found[0].length;
    while (AFTER_LINK.includes(found[0][end - 1])) end -= 1;
    if (found[0][end] === ")" && found[0].lastIndexOf("(", end) >= 0) end += 1;
    const address = found[0].slice(0, end);
    return this.add(linkNode([address], address), this.at + end);
  }

  /** $x$ and $$x$$, where that is clearly a formula; a price, a path and a variable of the shell stay what they are. */
  dollars() {
    const end = this.pastRun("$", this.at);
    const marks = end - this.at;
    if (marks > 2) return this.say("$".repeat(marks), end);
    const display = marks === 2;
    const close = this.find("$", end);
    const tex = close < 0 || close - end > LONGEST_MATH ? "" : this.text.slice(end, close);
    const whole = this.pastRun("$", close) - close === marks;
    const fits = whole && tex !== "" && (display || this.tight(tex, close));
    if (fits && isMath(tex, display)) return this.add(mathNode(tex, display), close + marks);
    return this.say("$".repeat(marks), end);
  }

  /** No space inside the marks, no name or number right outside, and no $(command) or ${name} of the shell. */
  tight(tex, close) {
    if (tex.trim().length !== tex.length || ALNUM.test(characterBefore(this.text, this.at))) return false;
    const after = characterAt(this.text, close + 1);
    return !ALNUM.test(after) && after !== "{" && !(after === "(" && tex[0] === "(");
  }

  lineBreak() {
    const line = this.plain.join("");
    this.plain = [line.trimEnd()];
    if (line.endsWith("  ")) return this.add(h("br"), this.at + 1);
    this.plain.push("\n");
    this.flush();
    this.at += 1;
    return true;
  }
}

/** The character that begins at `at`, which may be two units long; a space beyond the ends. */
function characterAt(text, at) {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)) : " ";
}

function characterBefore(text, at) {
  const low = text.charCodeAt(at - 1);
  const paired = low >= 0xdc00 && low <= 0xdfff && at > 1;
  return at > 0 ? text.slice(at - (paired ? 2 : 1), at) : " ";
}

/** The address of a link's target, without its title and the brackets that may stand around it. */
function addressOf(target) {
  const mark = target.at(-1);
  let address = target;
  if (mark === '"' || mark === "'") {
    const begin = target.lastIndexOf(mark, target.length - 2);
    if (begin > 0 && target[begin - 1].trim() === "") address = target.slice(0, begin).trimEnd();
  }
  return address.startsWith("<") && address.endsWith(">") ? address.slice(1, -1) : address;
}

function linkNode(label, address) {
  const href = safeLink(address);
  if (href === null) return h("span", {}, label);
  return h("a", { href, rel: "noopener noreferrer", target: "_blank", referrerpolicy: "no-referrer" }, label);
}

function pictureNode(label, address) {
  if (PICTURE.test(address)) return h("img", { src: address, alt: label || "picture in the answer" });
  const named = label ? `picture not loaded: ${label}` : "picture not loaded";
  return h("span", { class: "blocked", title: "Pictures from elsewhere are not fetched" }, linkNode([named], address));
}
