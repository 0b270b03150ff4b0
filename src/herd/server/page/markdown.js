// Markdown -> nodes, also while the text still grows: blocks that are complete are made once and stay; only the last one
// is made anew, and of a long code block only what was added.

import { blocksOf } from "./blocks.js";
import { copyButton, h } from "./dom.js";
import { inline } from "./inline.js";
import { mathNode } from "./math.js";

const DEEPEST = 8; // quotes and lists within each other
const TASK = /^\[([ xX])\]\s/;

/** Shows a text that grows in an element. */
export class Markdown {
  constructor(root) {
    this.root = root;
    this.text = "";
    this.from = 0; // where the last block begins
    this.last = []; // its nodes
    this.fence = null; // the code block that is being written
  }

  /** The whole text so far. One that does not begin with the last one starts afresh. */
  show(text) {
    if (!text.startsWith(this.text)) this.reset();
    this.text = text;
    const blocks = blocksOf(text, this.from);
    if (this.fence && blocks.length === 1 && this.grow(blocks[0])) return;
    this.last.forEach((node) => node.remove());
    this.last = [];
    for (const [i, block] of blocks.entries()) {
      const nodes = blockNodes(block, 0);
      this.root.append(...nodes);
      if (i === blocks.length - 1) this.keep(block, nodes);
    }
  }

  keep(block, nodes) {
    this.from = block.start;
    this.last = nodes;
    this.fence = block.kind === "fence" ? nodes[0].querySelector("pre code") : null;
  }

  /** Add to the code block at the end. False: it is no longer one, or says something else. */
  grow(block) {
    const shown = this.fence.textContent;
    if (block.kind !== "fence" || !block.text.startsWith(shown) || block.language !== this.fence.dataset.language) return false;
    this.fence.append(block.text.slice(shown.length));
    return true;
  }

  reset() {
    this.root.replaceChildren();
    this.from = 0;
    this.last = [];
    this.fence = null;
  }
}

function nodesOf(text, depth) {
  if (depth > DEEPEST) return [h("p", { text })];
  return blocksOf(text).flatMap((block) => blockNodes(block, depth));
}

function blockNodes(block, depth) {
  switch (block.kind) {
    case "heading":
      return [h(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.text))]; // h1 and h2 are the page's own
    case "rule":
      return [h("hr")];
    case "fence":
      return [fenceNode(block)];
    case "math":
      if (!block.closed) return [h("div", { class: "math display", text: block.text, "data-source": `$$${block.text}` })];
      return [mathNode(block.text, true), ...(block.after ? [h("p", {}, inline(block.after))] : [])];
    case "quote":
      return [h("blockquote", {}, nodesOf(block.text, depth + 1))];
    case "list":
      return [listNode(block, depth)];
    case "table":
      return [tableNode(block)];
  }
  return [h("p", {}, inline(block.text))];
}

function fenceNode(block) {
  const code = h("code", { "data-language": block.language, text: block.text });
  const bar = h("div", { class: "bar" }, h("span", { text: block.language || "text" }), copyButton("Copy code", () => code.textContent));
  const label = block.language ? `Code, ${block.language}` : "Code";
  return h("div", { class: "fence" }, bar, h("pre", { tabindex: "0", role: "region", "aria-label": label }, code));
}

function listNode(block, depth) {
  const start = block.ordered && block.first !== 1 ? block.first : null;
  return h(block.ordered ? "ol" : "ul", { start }, block.items.map((text) => itemNode(text, block.loose, depth)));
}

function itemNode(text, loose, depth) {
  const task = TASK.exec(text);
  const nodes = nodesOf(task ? text.slice(task[0].length) : text, depth + 1);
  const flat = loose ? nodes : nodes.flatMap((node) => (node.tagName === "P" ? [...node.childNodes] : [node]));
  if (!task) return h("li", {}, flat);
  const done = task[1] !== " ";
  const box = h("span", { class: "task", role: "img", "aria-label": done ? "done" : "to do", text: done ? "☑" : "☐" });
  return h("li", { class: "tasked" }, box, flat);
}

function tableNode(block) {
  const row = (tag, cells) =>
    h("tr", {}, cells.map((text, i) => h(tag, { class: block.align[i], scope: tag === "th" && "col" }, inline(text))));
  const table = h("table", {}, h("thead", {}, row("th", block.head)), h("tbody", {}, block.rows.map((cells) => row("td", cells))));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table);
}
