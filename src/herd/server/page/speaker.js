// For those who listen: an answer is read out sentence by sentence, not letter by letter, and as it is shown: marks of
// emphasis are gone, every sign of a text, of code and of a formula is there.

import { byId, h } from "./dom.js";
import { plainText } from "./plain.js";

const SENTENCE = /[.!?…:。！？]["')\]»”]*\s|\n|[。！？]/g;
const MARKS = "*_~`$";
const KEPT = 4; // paragraphs that stay in the live region

export class Speaker {
  constructor() {
    this.region = byId("speaker");
    this.begin();
  }

  /** root: blocks that are there already, of an answer that goes on. */
  begin(root) {
    const known = root?.children ?? [];
    this.block = Math.max(0, known.length - 1); // how many blocks have been said whole
    const text = known.length ? plainText(known[this.block]) : "";
    this.said = text.split("").filter((sign) => !MARKS.includes(sign)).length; // characters of the next one but for marks
    this.region.replaceChildren();
  }

  /** The blocks of the answer as it is shown so far; what is complete and new is said. `ended`: all the rest as well. */
  hear(root, ended = false) {
    const blocks = root.children;
    const whole = ended ? blocks.length : blocks.length - 1;
    for (; this.block < whole; this.block++) {
      const text = plainText(blocks[this.block]);
      this.say(text.slice(placeOf(text, this.said)));
      this.said = 0;
    }
    if (this.block >= blocks.length) return;
    const text = plainText(blocks[this.block]);
    const begin = placeOf(text, this.said);
    const end = endOfSentences(text, begin);
    this.say(text.slice(begin, end));
    for (let i = begin; i < end; i++) if (!MARKS.includes(text[i])) this.said += 1;
  }

  say(words) {
    if (!words.trim()) return;
    this.region.append(h("p", { text: words.trim() }));
    while (this.region.childElementCount > KEPT) this.region.firstElementChild.remove();
  }
}

/** Where a text has so many characters behind it that are no marks. */
function placeOf(text, count) {
  let at = 0;
  for (let seen = 0; at < text.length; at++) {
    const mark = MARKS.includes(text[at]);
    if (seen >= count && (at === 0 || !mark)) break;
    if (!mark) seen += 1;
  }
  return at;
}

/** Where the last complete sentence ends, from `from` on. */
function endOfSentences(text, from) {
  let end = from;
  SENTENCE.lastIndex = from;
  while (SENTENCE.exec(text)) end = SENTENCE.lastIndex;
  return end;
}
