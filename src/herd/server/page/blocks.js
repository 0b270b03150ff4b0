// Markdown, first half: lines -> blocks. A useful part of CommonMark (https://spec.commonmark.org/0.31.2/) with
// GitHub's tables and TeX between $$ or \[ \]; raw HTML is text like any other.
//
// A block: {kind, start, end, ...}; start and end are offsets into the text. Kinds: heading (level, text), rule,
// fence (language, text, closed), math (text, closed), quote (text), list (ordered, first, items: [{text, loose}]),
// table (align, head, rows), paragraph (text).

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*)|[ \t]*)$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MATH_OPEN = /^ {0,3}(\$\$|\\\[)/;
const CLOSE_OF = { "$$": "$$", "\\[": "\\]" };

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
  }
  more() {
    return this.offset < this.text.length;
  }
  /** The line here, without its end. */
  peek() {
    if (this.at !== this.offset) {
      const end = this.text.indexOf("\n", this.offset);
      this.stop = end < 0 ? this.text.length : end;
      this.line = this.text.slice(this.offset, this.stop).replace(/\r$/, "");
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
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, fence);
  const math = MATH_OPEN.exec(line);
  if (math) return readMath(lines, math[1]);
  const heading = HEADING.exec(line);
  if (heading) {
    lines.next();
    return { kind: "heading", level: heading[1].length, text: heading[2] ?? "" };
  }
  if (RULE.test(line)) {
    lines.next();
    return { kind: "rule" };
  }
  if (QUOTE.test(line)) return readQuote(lines);
  if (ITEM.test(line)) return readList(lines);
  if (line.includes("|") && TABLE_RULE.test(lines.second()) && lines.second().includes("-")) {
    const table = readTable(lines);
    if (table) return table;
  }
  return readParagraph(lines);
}

/** Whether a line ends the paragraph before it. */
function interrupts(line) {
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || MATH_OPEN.test(line)) return true;
  const item = ITEM.exec(line);
  return item !== null && Boolean(item[4]) && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1);
}

function readFence(lines, [, marks, info]) {
  lines.next();
  const body = [];
  let closed = false;
  while (lines.more() && !closed) {
    const line = lines.next();
    const end = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(line);
    closed = end !== null && end[1][0] === marks[0] && end[1].length >= marks.length;
    if (!closed) body.push(line);
  }
  return { kind: "fence", language: info.trim().split(/\s+/)[0], text: body.join("\n"), closed };
}

function readMath(lines, opener) {
  const closer = CLOSE_OF[opener];
  const body = [];
  let rest = lines.next().trimStart().slice(opener.length);
  for (;;) {
    const end = rest.indexOf(closer);
    if (end >= 0) {
      const after = rest.slice(end + closer.length);
      body.push(rest.slice(0, end));
      return { kind: "math", text: body.join("\n").trim(), after: after.trim(), closed: true };
    }
    body.push(rest);
    if (!lines.more() || lines.blank()) return { kind: "math", text: body.join("\n").trim(), after: "", closed: false };
    rest = lines.next();
  }
}

function readQuote(lines) {
  const body = [];
  while (lines.more() && !lines.blank()) {
    const line = lines.peek();
    if (!QUOTE.test(line) && interrupts(line)) break;
    body.push(lines.next().replace(QUOTE, ""));
  }
  return { kind: "quote", text: body.join("\n") };
}

function readList(lines) {
  const [, , first] = ITEM.exec(lines.peek());
  const mark = first.at(-1);
  const items = [];
  let loose = false;
  for (;;) {
    const item = lines.more() ? ITEM.exec(lines.peek()) : null;
    if (!item || item[2].at(-1) !== mark || RULE.test(lines.peek())) break;
    const read = readItem(lines, item);
    loose ||= read.gapInside;
    items.push(read.text);
    if (read.gapAfter) {
      const next = lines.more() ? ITEM.exec(lines.peek()) : null;
      if (next && next[2].at(-1) === mark) loose = true;
    }
  }
  return { kind: "list", ordered: /\d/.test(first), first: parseInt(first, 10), items, loose };
}

/** One item: its first line, and all lines after it that are indented as far or go on with its paragraph. */
function readItem(lines, [, indent, mark, gap = " ", rest = ""]) {
  lines.next();
  const width = indent.length + mark.length + (gap.length > 4 || rest === "" ? 1 : gap.length);
  const body = [rest];
  let gapInside = false;
  while (lines.more()) {
    if (lines.blank()) {
      const before = lines.offset;
      while (lines.more() && lines.blank()) lines.next();
      if (!lines.more() || indentOf(lines.peek()) < width) {
        if (lines.more() && !ITEM.test(lines.peek())) lines.offset = before; // the gap belongs to what follows
        return { text: body.join("\n"), gapInside, gapAfter: true };
      }
      gapInside ||= indentOf(lines.peek()) < width + 4 && !ITEM.test(lines.peek().slice(width));
      body.push("");
    } else if (indentOf(lines.peek()) >= width) {
      body.push(dedent(lines.next(), width));
    } else {
      const line = lines.peek();
      if (ITEM.test(line) || interrupts(line) || body.at(-1).trim() === "") break;
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
  const spaces = line.replace(/^[ \t]+/, (white) => " ".repeat(indentOf(white)));
  return spaces.slice(width);
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
    const cells = cellsOf(lines.next()).slice(0, head.length);
    while (cells.length < head.length) cells.push("");
    rows.push(cells);
  }
  return { kind: "table", align, head, rows };
}

/** The cells of a row: split at bars that are neither escaped nor in code. */
function cellsOf(line) {
  const bare = line.trim().replace(/^\|/, "");
  const cells = [];
  let cell = "";
  let code = false;
  for (let i = 0; i < bare.length; i++) {
    if (bare[i] === "\\" && bare[i + 1] === "|") {
      cell += "|";
      i += 1;
    } else if (bare[i] === "|" && !code) {
      cells.push(cell.trim());
      cell = "";
    } else {
      if (bare[i] === "`") code = !code;
      cell += bare[i];
    }
  }
  if (cell.trim() !== "") cells.push(cell.trim());
  return cells;
}

function readParagraph(lines) {
  const body = [lines.next().trim()];
  while (lines.more() && !lines.blank() && !interrupts(lines.peek())) {
    body.push(lines.next().replace(/^[ \t]+/, ""));
  }
  return { kind: "paragraph", text: body.join("\n").trimEnd() };
}
