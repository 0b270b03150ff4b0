// TeX -> MathML, by Temml, which is loaded when the first formula is met. Until then, and where TeX is wrong, the
// source is shown. Temml makes nodes one by one; its output never passes through an HTML parser, and `trust` off bars
// the commands that make links, pictures and classes.

import { h } from "./dom.js";

const MOST = 400; // formulas kept: a paragraph that grows is made anew each frame
const LONGEST = 5000; // characters of one formula

let temml = null;
let loading = null;
let waiting = [];
const made = new Map();

/** A formula. `display`: on lines of its own. */
export function mathNode(tex, display) {
  const source = display ? `$$${tex}$$` : `$${tex}$`; // what is copied and read out
  const element = h("span", { class: display ? "math display" : "math", text: tex, "data-source": source });
  if (tex.length > LONGEST) return element;
  if (temml) typeset(element, tex, display);
  else {
    waiting.push([element, tex, display]);
    load();
  }
  return element;
}

async function load() {
  loading ??= import("./vendor/temml.mjs");
  try {
    temml = (await loading).default;
  } catch {
    loading = null; // the network is gone: the source stands there, the next formula tries again
    return;
  }
  const now = waiting;
  waiting = [];
  for (const one of now) typeset(...one);
}

function typeset(element, tex, display) {
  const name = `${display} ${tex}`;
  if (!made.has(name)) {
    if (made.size >= MOST) made.delete(made.keys().next().value);
    made.set(name, render(tex, display));
  }
  const node = made.get(name);
  if (node) element.replaceChildren(node.cloneNode(true));
}

function render(tex, display) {
  const place = document.createElement("span");
  try {
    temml.render(tex, place, { displayMode: display, trust: false, throwOnError: true, maxExpand: 500, maxSize: [20, 20] });
  } catch {
    return null;
  }
  return place.firstChild;
}
