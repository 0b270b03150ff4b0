// Markdown, second half: the text of a block -> nodes. Links go to http, https and mailto alone; images of other places
// are named but never fetched: their address could carry away what was said here.
//
// Every search for a closing mark that failed is remembered, so that a text of ten thousand opening marks is read in
// linear time.

import { h } from "./dom.js";
import { mathNode } from "./math.js";

const DEEPEST = 12; // marks within marks; what is deeper is shown as it stands
const STOP = /[\\`*_~[!<$\n]|https?:\/\//g;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE_LINK = /https?:\/\/[^\s<>"'`]+/y;
const PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const WORD = /[\p{L}\p{N}]/u;

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
    this.plain = "";
    this.nodes = [];
    this.unclosed = new Set();
  }

  read() {
    if (this.depth > DEEPEST) return [this.text];
    while (this.at < this.text.length) {
      STOP.lastIndex = this.at;
      const next = STOP.exec(this.text);
      const stop = next ? next.index : this.text.length;
      this.plain += this.text.slice(this.at, stop);
      this.at = stop;
      if (next && !this.special(this.text[stop])) {
        this.plain += this.text[this.at];
        this.at += 1;
      }
    }
    this.flush();
    return this.nodes;
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
        return this.emphasis(character);
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
    if (this.plain) this.nodes.push(this.plain);
    this.plain = "";
  }

  add(node, end) {
    this.flush();
    this.nodes.push(node);
    this.at = end;
    return true;
  }

  /** Where `mark` stands next, from `from` on; -1 if nowhere. */
  find(mark, from) {
    if (this.unclosed.has(mark)) return -1;
    const found = this.text.indexOf(mark, from);
    if (found < 0) this.unclosed.add(mark);
    return found;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "(") {
      const end = this.find("\\)", this.at + 2);
      if (end > 0) return this.add(mathNode(this.text.slice(this.at + 2, end), false), end + 2);
    }
    if (next === "[") {
      const end = this.find("\\]", this.at + 2);
      if (end > 0) return this.add(mathNode(this.text.slice(this.at + 2, end), true), end + 2);
    }
    if (next === "\n") return this.add(h("br"), this.at + 2);
    if (next === undefined || !PUNCTUATION.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  code() {
    let marks = 1;
    while (this.text[this.at + marks] === "`") marks += 1;
    const begin = this.at + marks;
    const fence = "`".repeat(marks);
    let end = this.find(fence, begin);
    while (end > 0 && this.text[end + marks] === "`") {
      let after = end + marks;
      while (this.text[after] === "`") after += 1;
      end = this.find(fence, after);
    }
    if (end < 0) {
      this.plain += fence;
      this.at = begin;
      return true;
    }
    const inner = this.text.slice(begin, end).replaceAll("\n", " ");
    const spaced = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
    return this.add(h("code", { text: spaced ? inner.slice(1, -1) : inner }), end + marks);
  }

  emphasis(mark) {
    let marks = 1;
    while (this.text[this.at + marks] === mark && marks < 3) marks += 1;
    if (mark === "~" && marks !== 2) return false;
    const before = this.text[this.at - 1] ?? " ";
    for (let size = marks; size > 0; size--) {
      const begin = this.at + size;
      if (/\s/.test(this.text[begin] ?? " ")) continue;
      if (mark === "_" && WORD.test(before)) continue; // snake_case is no emphasis
      const end = this.closing(mark, size, begin);
      if (end < 0) continue;
      const inner = inline(this.text.slice(begin, end), this.depth + 1);
      return this.add(emphasised(mark, size, inner), end + size);
    }
    this.plain += mark.repeat(marks);
    this.at += marks;
    return true;
  }

  /** Where `size` marks close what began at `begin`: after text, and for _ before none. */
  closing(mark, size, begin) {
    const wanted = mark.repeat(size);
    const name = `close ${wanted}`;
    if (this.unclosed.has(name)) return -1;
    let end = this.text.indexOf(wanted, begin + 1);
    while (end > 0) {
      let after = end + size;
      while (this.text[after] === mark) after += 1;
      const run = after - end;
      const fits = run === size || run >= 3;
      const word = mark === "_" && WORD.test(this.text[after] ?? " ");
      if (fits && !word && !/\s/.test(this.text[end - 1])) return run > size ? after - size : end;
      end = this.text.indexOf(wanted, after);
    }
    this.unclosed.add(name);
    return -1;
  }

  link(picture) {
    const begin = this.at + (picture ? 2 : 1);
    const close = this.bracketOf(begin - 1);
    if (close === undefined || this.text[close + 1] !== "(") return false;
    const end = this.find(")", close + 2);
    if (end < 0) return false;
    const balanced = this.parenthesis(close + 2);
    const target = this.text.slice(close + 2, balanced).trim();
    const address = target.replace(/\s+(?:"[^"]*"|'[^']*')$/, "").replace(/^<(.*)>$/, "$1");
    const label = this.text.slice(begin, close);
    return this.add(picture ? pictureNode(label, address) : linkNode(inline(label, this.depth + 1), address), balanced + 1);
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

  /** The end of an address: parentheses within it are its own, up to a few hundred characters. */
  parenthesis(from) {
    let deep = 0;
    for (let i = from; i < Math.min(this.text.length, from + 2000); i++) {
      if (this.text[i] === "(") deep += 1;
      if (this.text[i] === ")" && deep-- === 0) return i;
    }
    return this.text.indexOf(")", from);
  }

  autolink(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (!found) return false;
    if (pattern === AUTOLINK) return this.add(linkNode([found[1]], found[1]), this.at + found[0].length);
    let address = found[0].replace(/[.,;:!?*_~\])]+$/, "");
    if (address.includes("(") && found[0][address.length] === ")") address += ")";
    return this.add(linkNode([address], address), this.at + address.length);
  }

  /** $x$ and $$x$$, where it is not money: no space inside the marks, no digit after them. */
  dollars() {
    const display = this.text[this.at + 1] === "$";
    const mark = display ? "$$" : "$";
    const begin = this.at + mark.length;
    const end = this.find(mark, begin + 1);
    const inner = end < 0 ? "" : this.text.slice(begin, end);
    const math = inner.trim() !== "" && !inner.includes("\n\n") && (display || this.tight(inner, end));
    if (math) return this.add(mathNode(inner, display), end + mark.length);
    this.plain += mark;
    this.at = begin;
    return true;
  }

  tight(inner, end) {
    return !/^\s|\s$/.test(inner) && !/\d/.test(this.text[end + 1] ?? " ");
  }

  lineBreak() {
    const hard = this.plain.endsWith("  ");
    this.plain = this.plain.trimEnd();
    if (hard) return this.add(h("br"), this.at + 1);
    this.plain += "\n";
    this.at += 1;
    return true;
  }
}

function emphasised(mark, size, inner) {
  if (mark === "~") return h("del", {}, inner);
  if (size === 1) return h("em", {}, inner);
  return size === 2 ? h("strong", {}, inner) : h("em", {}, h("strong", {}, inner));
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
