// Elements made of data. No HTML text is parsed anywhere on this page: what a model says can only become text.

const NOTICE_MS = 8000;

/**
 * Make an element. Properties: `text`, `on` ({event: listener}), `class`, any other is an attribute; false, null and
 * undefined leave it out. Children: nodes and strings, nested lists of them.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name.startsWith("on") || name === "style") throw new Error(`${name}: code and style in attributes are barred`);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The element of this id: all ids stand in index.html. */
export function byId(id) {
  return document.getElementById(id);
}

const PATHS = {
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 12.5l4.5 4.5L19 7.5",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  again: "M19 12a7 7 0 1 1-2.1-5M19 4v4h-4",
  on: "M5 12h12M12 6l6 6-6 6",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  close: "M6 6l12 12M18 6L6 18",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  file: "M7 3h7l4 4v14H7zM14 3v4h4",
};

/** A drawing of 24 units, in the colour of the text beside it. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("class", "icon");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}

/** A button that shows an icon and is called `label`. */
export function iconButton(name, label, listener, properties = {}) {
  return h("button", { type: "button", class: "quiet", "aria-label": label, title: label, on: { click: listener }, ...properties }, icon(name));
}

/** A button that copies what `text()` gives, and says for a moment that it did. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      done = copyBySelection(text()); // no clipboard without https or a user's permission
    }
    button.replaceChildren(icon(done ? "check" : "close"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

/** A line at the foot of the page, for some seconds, once at a time; button: {label, act}. */
export function notice(text, button) {
  const place = byId("notices");
  [...place.children].filter((line) => line.firstChild.textContent === text).forEach((line) => line.remove());
  const line = h("div", { class: "notice" }, h("p", { text }));
  const close = () => line.remove();
  if (button) {
    line.append(h("button", { type: "button", text: button.label, on: { click: () => (close(), button.act()) } }));
  }
  place.append(line);
  setTimeout(close, NOTICE_MS);
}

function copyBySelection(text) {
  const area = h("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}
