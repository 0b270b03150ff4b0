// Markdown, first half: lines -> blocks. A useful part of CommonMark (https://spec.commonmark.org/0.31.2/) with
// GitHub's tables and TeX between $$ or \[ \]; raw HTML is text like any other.
//
// A block: {kind, start, end, ...}; start and end are offsets into the text. Kinds: heading (level, text), rule,
// fence (language, text, closed), math (text, closed), quote (text), list (ordered, first, items: [{text, loose}]),
// table (align, head, rows), paragraph (text).

import { isMath } from "./dollars.js";
import { CLOSE_OF, DIGITS, WHITE, fenceOf, headingOf, isRule, isTableRule, itemOf, mathOf, past, quoteOf } from "./lines.js";

/** All blocks of a text, from offset `from` on. */
export function blocksOf(text, from = 0) {
  const lines = new Lines(text, from);
  const found = [];
  while (lines.more()) {
    if (lines.blank()) {
      lines.next();
      continue;
    }
    const start = lines.offset;
    found.push({ start, ...readBlock(lines), end: lines.offset });
  }
  return found;
}

/** A reader of lines that knows where it is. */
class Lines {
  constructor(text, from) {
    this.text = text;
    this.offset = from;
    this.noMath = -1; // no formula begins before this offset
  }
  more() {
    return this.offset < this.text.length;
  }
  /** The line here, without its end. */
  peek() {
    if (this.at !== this.offset) {
      const end = this.text.indexOf("\n", this.offset);
      this.stop = end < 0 ? this.text.length : end;
      const last = this.text[this.stop - 1] === "\r" && this.stop > this.offset ? this.stop - 1 : this.stop;
      this.line = this.text.slice(this.offset, last);
      this.at = this.offset;
    }
    return this.line;
  }
  /** The line after this one. */
  second() {
    this.peek();
    return new Lines(this.text, Math.min(this.stop + 1, this.text.length)).peek();
  }
  next() {
    const line = this.peek();
    this.offset = Math.min(this.stop + 1, this.text.length);
    return line;
  }
  blank() {
    return this.peek().trim() === "";
  }
}

function readBlock(lines) {
  const line = lines.peek();
  const fence = fenceOf(line);
  if (fence) return readFence(lines, fence);
  const math = mathOf(line) && readMath(lines, mathOf(line));
  if (math) return math;
  const heading = headingOf(line);
  if (heading) {
    lines.next();
    return { kind: "heading", ...heading };
  }
  if (isRule(line)) {
    lines.next();
    return { kind: "rule" };
  }
  if (quoteOf(line) >= 0) return readQuote(lines);
  if (itemOf(line)) return readList(lines);
  if (line.includes("|") && isTableRule(lines.second())) {
    const table = readTable(lines);
    if (table) return table;
  }
  return readParagraph(lines);
}

/** Whether a line ends the paragraph before it. */
function interrupts(line) {
  if (fenceOf(line) || headingOf(line) || isRule(line) || quoteOf(line) >= 0 || mathOf(line)) return true;
  const item = itemOf(line);
  return item !== null && item.rest !== "" && (!DIGITS.includes(item.mark[0]) || parseInt(item.mark, 10) === 1);
}

function readFence(lines, { mark, marks, info }) {
  lines.next();
  const body = [];
  let closed = false;
  while (lines.more() && !closed) {
    const line = lines.next();
    const end = fenceOf(line);
    closed = end !== null && end.mark === mark && end.marks >= marks && end.info === "";
    if (!closed) body.push(line);
  }
  return { kind: "fence", language: info.split(/\s/, 1)[0], text: body.join("\n"), closed };
}

/** A formula on lines of its own; null, with nothing read: what stands there is none, as "$$5 is no price". */
function readMath(lines, opener) {
  const start = lines.offset;
  if (start < lines.noMath) return null;
  const found = readFormula(lines, opener);
  const ends = found.closed || !lines.more(); // one that nothing closes is still being written, or cut
  if (ends && isMath(found.text, true)) return found;
  lines.noMath = found.last; // what was looked through is not looked through again
  lines.offset = start;
  return null;
}

/** `last`: where the last of its lines begins. */
function readFormula(lines, opener) {
  const closer = CLOSE_OF[opener];
  const body = [];
  let last = lines.offset;
  let rest = lines.next().trimStart().slice(opener.length);
  for (;;) {
    const end = rest.indexOf(closer);
    body.push(end < 0 ? rest : rest.slice(0, end));
    const text = () => body.join("\n").trim();
    if (end >= 0) return { kind: "math", text: text(), after: rest.slice(end + closer.length).trim(), closed: true, last };
    if (!lines.more() || lines.blank()) return { kind: "math", text: text(), after: "", closed: false, last: lines.offset };
    last = lines.offset;
    rest = lines.next();
  }
}

function readQuote(lines) {
  const body = [];
  while (lines.more() && !lines.blank()) {
    const line = lines.peek();
    const from = quoteOf(line);
    if (from < 0 && interrupts(line)) break;
    body.push(lines.next().slice(Math.max(0, from)));
  }
  return { kind: "quote", text: body.join("\n") };
}

function readList(lines) {
  const first = itemOf(lines.peek()).mark;
  const mark = first.at(-1);
  const items = [];
  let loose = false;
  for (;;) {
    const item = lines.more() ? itemOf(lines.peek()) : null;
    if (!item || item.mark.at(-1) !== mark || isRule(lines.peek())) break;
    const read = readItem(lines, item);
    loose ||= read.gapInside;
    items.push(read.text);
    if (read.gapAfter) {
      const next = lines.more() ? itemOf(lines.peek()) : null;
      if (next && next.mark.at(-1) === mark) loose = true;
    }
  }
  return { kind: "list", ordered: DIGITS.includes(first[0]), first: parseInt(first, 10), items, loose };
}

/** One item: its first line, and all lines after it that are indented as far or go on with its paragraph. */
function readItem(lines, { indent, mark, gap, rest }) {
  lines.next();
  const width = indent + mark.length + (gap > 4 || rest === "" ? 1 : gap);
  const body = [rest];
  let gapInside = false;
  while (lines.more()) {
    if (lines.blank()) {
      const before = lines.offset;
      while (lines.more() && lines.blank()) lines.next();
      if (!lines.more() || indentOf(lines.peek()) < width) {
        if (lines.more() && !itemOf(lines.peek())) lines.offset = before; // the gap belongs to what follows
        return { text: body.join("\n"), gapInside, gapAfter: true };
      }
      gapInside ||= indentOf(lines.peek()) < width + 4 && !itemOf(lines.peek().slice(width));
      body.push("");
    } else if (indentOf(lines.peek()) >= width) {
      body.push(dedent(lines.next(), width));
    } else {
      const line = lines.peek();
      if (itemOf(line) || interrupts(line) || body.at(-1).trim() === "") break;
      body.push(lines.next().trimStart());
    }
  }
  return { text: body.join("\n"), gapInside, gapAfter: false };
}

function indentOf(line) {
  let width = 0;
  for (const character of line) {
    if (character === " ") width += 1;
    else if (character === "\t") width += 4 - (width % 4);
    else break;
  }
  return width;
}

function dedent(line, width) {
  const text = past(line, WHITE, 0);
  return " ".repeat(Math.max(0, indentOf(line) - width)) + line.slice(text);
}

function readTable(lines) {
  const head = cellsOf(lines.peek());
  const marks = cellsOf(lines.second());
  if (head.length !== marks.length) return null;
  lines.next();
  lines.next();
  const align = marks.map((mark) => {
    if (mark.endsWith(":")) return mark.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = [];
  while (lines.more() && !lines.blank() && !interrupts(lines.peek())) {
    const cells = cellsOf(lines.next()); // never filled up: few rows and many columns would be more cells than characters
    if (cells.length > head.length) cells.push(cells.splice(head.length - 1).join(" | "));
    rows.push(cells);
  }
  return { kind: "table", align, head, rows };
}

/** The cells of a row: split at bars that are neither escaped nor in code. A code mark that nothing closes hides none. */
function cellsOf(line) {
  const trimmed = line.trim();
  const bare = trimmed.startsWith("|") ? trimmed.slice(1) : trimmed;
  const cells = [];
  let cell = "";
  let code = false;
  const lastTick = bare.lastIndexOf("`");
  for (let i = 0; i < bare.length; i++) {
    if (bare[i] === "\\" && bare[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (bare[i] === "|" && !code) {
      cells.push(cell.trim());
      cell = "";
    } else {
      if (bare[i] === "`") code = !code && i < lastTick;
      cell += bare[i];
    }
  }
  if (cell.trim() !== "") cells.push(cell.trim());
  return cells;
}

function readParagraph(lines) {
  const body = [lines.next().trim()];
  while (lines.more() && !lines.blank() && !interrupts(lines.peek())) {
    body.push(lines.next().trimStart());
  }
  return { kind: "paragraph", text: body.join("\n").trimEnd() };
}
