// As much of a document as the page's readers of text need, for tests that run without a browser.

class Node {
  constructor(type) {
    this.nodeType = type;
    this.childNodes = [];
    this.parentNode = null;
  }
  get textContent() {
    return this.nodeType === 3 ? this.data : this.childNodes.map((child) => child.textContent).join("");
  }
  set textContent(text) {
    this.childNodes = [];
    this.append(String(text));
  }
}

class Text extends Node {
  constructor(data) {
    super(3);
    this.data = data;
  }
}

class Element extends Node {
  constructor(tag) {
    super(1);
    this.tagName = tag.toUpperCase();
    this.attributes = new Map();
    this.dataset = {};
    this.classList = { contains: (name) => (this.attributes.get("class") ?? "").split(" ").includes(name) };
  }
  get children() {
    return this.childNodes.filter((child) => child.nodeType === 1);
  }
  get childElementCount() {
    return this.children.length;
  }
  get firstElementChild() {
    return this.children[0];
  }
  setAttribute(name, value) {
    this.attributes.set(name, String(value));
    if (name.startsWith("data-")) this.dataset[name.slice(5)] = String(value);
  }
  getAttribute(name) {
    return this.attributes.get(name) ?? null;
  }
  append(...given) {
    for (const one of given) {
      const child = one instanceof Node ? one : new Text(String(one));
      child.parentNode = this;
      this.childNodes.push(child);
    }
  }
  replaceChildren(...given) {
    this.childNodes = [];
    this.append(...given);
  }
  remove() {
    const { childNodes } = this.parentNode;
    childNodes.splice(childNodes.indexOf(this), 1);
  }
  querySelector(selector) {
    return selector.split(" ").reduce((found, tag) => found?.children.find((child) => child.tagName === tag.toUpperCase()), this) ?? null;
  }
  addEventListener() {}
  get outerHTML() {
    const tag = this.tagName.toLowerCase();
    const inner = this.childNodes.map((child) => (child.nodeType === 3 ? child.data : child.outerHTML)).join("");
    const link = this.attributes.has("href") ? ` href=${this.attributes.get("href")}` : "";
    return `<${tag}${link}>${inner}</${tag}>`;
  }
}

const byId = new Map();

globalThis.document = {
  createElement: (tag) => new Element(tag),
  createElementNS: (space, tag) => new Element(tag),
  getElementById: (id) => byId.get(id) ?? byId.set(id, new Element("div")).get(id),
  addEventListener() {},
};
