// What a line of Markdown is: which mark begins it. Read by hand: a pattern with two repetitions that may share their
// characters takes, on a line of many spaces, a time that grows with the square of their number.

export const CLOSE_OF = { "$$": "$$", "\\[": "\\]" };
export const DIGITS = "0123456789";
export const WHITE = " \t";

/** Where the characters of `set` end, from `from` on; `most`: no further than so many. */
export function past(line, set, from, most = Infinity) {
  let at = from;
  while (at < line.length && at - from < most && set.includes(line[at])) at += 1;
  return at;
}

/** Where the line begins, if up to three spaces stand before it: more make it no mark. */
function begins(line) {
  return past(line, " ", 0, 3);
}

/** {mark, marks, info}: a line that opens a code block; null: it does not. */
export function fenceOf(line) {
  const from = begins(line);
  const mark = line[from];
  if (mark !== "`" && mark !== "~") return null;
  const end = past(line, mark, from);
  const info = line.slice(end).trim();
  if (end - from < 3 || (mark === "`" && info.includes("`"))) return null;
  return { mark, marks: end - from, info };
}

/** {level, text}: a heading, without the marks that may close it. */
export function headingOf(line) {
  const from = begins(line);
  const end = past(line, "#", from, 7);
  const level = end - from;
  if (level < 1 || level > 6 || (end < line.length && !WHITE.includes(line[end]))) return null;
  const text = line.slice(end).trim();
  let last = text.length;
  while (text[last - 1] === "#") last -= 1;
  const closed = last === 0 || WHITE.includes(text[last - 1]);
  return { level, text: closed ? text.slice(0, last).trimEnd() : text };
}

/** Whether a line is a rule: three or more of one mark, and white space. */
export function isRule(line) {
  const from = begins(line);
  const mark = line[from];
  if (mark !== "*" && mark !== "-" && mark !== "_") return false;
  let marks = 0;
  for (let at = from; at < line.length; at++) {
    if (line[at] === mark) marks += 1;
    else if (!WHITE.includes(line[at])) return false;
  }
  return marks >= 3;
}

/** Where the text of a quoted line begins; -1: it is none. ">5" and ">= 5" say what is greater, and quote nothing. */
export function quoteOf(line) {
  const from = begins(line);
  const next = line[from + 1];
  if (line[from] !== ">" || (next !== undefined && (DIGITS.includes(next) || next === "="))) return -1;
  return from + (next === " " ? 2 : 1);
}

/** {indent, mark, gap, rest}: an item of a list; `gap`: the white space after the mark. */
export function itemOf(line) {
  const indent = begins(line);
  let end = indent;
  if ("-*+".includes(line[indent] ?? " ")) end += 1;
  else {
    const digits = past(line, DIGITS, indent, 9);
    if (digits > indent && (line[digits] === "." || line[digits] === ")")) end = digits + 1;
  }
  if (end === indent) return null;
  const text = past(line, WHITE, end);
  if (text === end && end < line.length) return null;
  return { indent, mark: line.slice(indent, end), gap: text - end, rest: line.slice(text) };
}

/** Whether a line is the second one of a table: dashes in each cell, and nothing else. */
export function isTableRule(line) {
  if (!line.includes("-") || past(line, "|:- \t", 0) < line.length) return false;
  const cells = line.trim().split("|");
  if (cells[0] === "") cells.shift();
  if (cells.at(-1) === "") cells.pop();
  return cells.every((cell) => {
    const dashes = cell.trim();
    const from = past(dashes, ":", 0, 1);
    const end = past(dashes, "-", from);
    return end > from && past(dashes, ":", end, 1) === dashes.length;
  });
}

/** What opens a formula that stands on lines of its own. */
export function mathOf(line) {
  const mark = line.slice(begins(line)).slice(0, 2);
  return mark in CLOSE_OF ? mark : null;
}
