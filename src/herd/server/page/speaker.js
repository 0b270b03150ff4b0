// For those who listen: an answer is read out sentence by sentence, not letter by letter.

import { byId, h } from "./dom.js";

const SENTENCE = /[.!?…:]["')\]]*\s|\n/g;
const KEPT = 4; // sentences that stay in the live region

export class Speaker {
  constructor() {
    this.region = byId("speaker");
    this.said = 0;
  }

  begin() {
    this.said = 0;
    this.region.replaceChildren();
  }

  /** The answer so far; what is complete and new is said. `ended`: all the rest as well. */
  hear(text, ended = false) {
    let end = this.said;
    SENTENCE.lastIndex = this.said;
    while (SENTENCE.exec(text)) end = SENTENCE.lastIndex;
    if (ended) end = text.length;
    const words = text.slice(this.said, end).replace(/[`*_#>|]+/g, "").trim();
    this.said = end;
    if (words) this.say(words);
  }

  say(words) {
    this.region.append(h("p", { text: words }));
    while (this.region.childElementCount > KEPT) this.region.firstElementChild.remove();
  }
}
