// One message on the screen: its text, what hangs on it, why it is not whole, and what can be done with it.

import { copyButton, h, icon, iconButton } from "./dom.js";
import { isBegun, lineOf } from "./endings.js";
import { Markdown } from "./markdown.js";

const KINDS = { images: "pictures", files: "files" };

export class MessageView {
  /** actions: see MessageList. */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const mine = message.role === "user";
    this.body = h("div", { class: mine ? "body plain" : "body" });
    this.attached = h("div", { class: "attachments" });
    this.foot = h("footer");
    this.element = h(
      "article",
      { class: `message ${message.role}`, "data-id": message.id },
      h("h2", { class: "unseen", text: mine ? "You" : "Answer" }),
      mine && this.attached,
      this.body,
      this.foot,
    );
    this.markdown = mine ? null : new Markdown(this.body);
  }

  /** The text as it is now; `note`: what goes on until more comes; `part`: how far that is, 0 to 1, where known. */
  write(note, part) {
    const { text } = this.message;
    if (this.shown !== text) {
      if (this.markdown) this.markdown.show(text);
      else this.body.textContent = text;
      this.body.hidden = !text;
      this.shown = text;
    }
    if (note !== undefined) this.noteNode(note, part);
  }

  noteNode(note, part) {
    this.bar ??= h("progress", { "aria-label": "Reading" });
    this.wait ??= h("p", { class: "wait" }, h("span", { class: "dot" }), this.bar, h("span"));
    this.bar.hidden = part === undefined;
    if (part !== undefined) this.bar.value = part;
    this.wait.lastChild.textContent = note;
    if (!note) this.wait.remove();
    else if (!this.wait.isConnected) this.body.after(this.wait);
  }

  /** All of it, beside which other branches there are. What is as it was stays untouched. */
  refresh(siblings) {
    const { message } = this;
    const writing = message.state === "writing";
    this.write(writing ? undefined : "");
    this.element.classList.toggle("writing", writing);
    const { state, ending, error, withheld, stats } = message;
    const begun = isBegun(message) && this.actions.isLast(message);
    const seen = JSON.stringify([begun, state, ending, error, withheld, stats, message.text !== "", siblings.map(({ id }) => id)]);
    if (seen === this.seen) return;
    this.seen = seen;
    this.showAttached();
    this.problem?.remove();
    this.problem = writing ? null : this.problemNode();
    if (this.problem) this.foot.before(this.problem);
    const focused = this.foot.contains(document.activeElement);
    this.foot.replaceChildren(...(writing ? [] : this.buttons(siblings, begun)));
    if (focused) this.foot.querySelector("button")?.focus();
  }

  showAttached() {
    const { images, files, withheld } = this.message;
    const any = images.length + files.length > 0;
    this.attached.hidden = !any;
    const faded = (kind) => (withheld.includes(kind) ? "withheld" : "");
    this.attached.replaceChildren(
      ...images.map((url, i) => h("img", { class: faded("images"), src: url, alt: `Picture ${i + 1} of your message` })),
      ...files.map((file) => h("span", { class: `chip ${faded("files")}` }, icon("file"), file.name)),
      ...Object.keys(KINDS).filter((kind) => this.message[kind].length).map((kind) => this.sending(kind)),
    );
  }

  /** A button that leaves out what is of this kind, or sends it again. */
  sending(kind) {
    const out = this.message.withheld.includes(kind);
    const text = out ? `Send the ${KINDS[kind]} again` : `Leave out the ${KINDS[kind]}`;
    const click = () => this.actions.withhold(this.message, kind, !out);
    const button = h("button", { type: "button", text, on: { click } });
    return h("span", { class: "sending" }, out && h("span", { text: "Not sent to the model." }), button);
  }

  /** What went wrong, or why the text is not whole; null: nothing. */
  problemNode() {
    const { message, actions } = this;
    const line = lineOf(message);
    if (message.state !== "failed") return line ? h("p", { class: "ending", role: "note", text: line }) : null;
    const button = (text, act) => h("button", { type: "button", text, on: { click: act } });
    const kinds = Object.keys(KINDS).filter((kind) => actions.carried(message, kind));
    return h(
      "div",
      { class: "error", role: "alert" },
      h("p", { text: [line, message.error].filter(Boolean).join(" ") }),
      button("Try again", () => actions.again(message)),
      kinds.map((kind) => button(`Try without ${KINDS[kind]}`, () => actions.without(message, kind))),
      button("Edit the question", () => actions.editAbove(message)),
    );
  }

  /** begun: whether the answer can go on. */
  buttons(siblings, begun) {
    const { message, actions } = this;
    const mine = message.role === "user";
    return [
      siblings.length > 1 && this.branches(siblings),
      message.text && copyButton("Copy message", () => message.text),
      mine
        ? iconButton("edit", "Edit message", () => this.edit())
        : iconButton("again", "Answer again", () => actions.again(message)),
      begun && iconButton("on", "Go on", () => actions.goOn(message)),
      iconButton("bin", mine ? "Remove message and what follows" : "Remove answer and what follows", () => actions.remove(message)),
      message.state === "stopped" && h("span", { class: "stats", text: "stopped" }),
      message.stats && h("span", { class: "stats", text: statsText(message.stats) }),
    ].filter(Boolean);
  }

  branches(siblings) {
    const at = siblings.indexOf(this.message);
    const step = (by) => () => this.actions.choose(siblings[at + by]);
    return h(
      "span",
      { class: "branches" },
      iconButton("left", "Earlier branch", step(-1), { disabled: at === 0 }),
      h("span", { text: `${at + 1}/${siblings.length}`, "aria-label": `Branch ${at + 1} of ${siblings.length}`, role: "img" }),
      iconButton("right", "Later branch", step(1), { disabled: at === siblings.length - 1 }),
    );
  }

  /** Turn the text into a field, with what is attached; sending it makes a branch. */
  edit() {
    if (!this.body.isConnected) return; // it is one already
    const field = h("textarea", { "aria-label": "Edit message", rows: Math.min(12, this.message.text.split("\n").length + 1) });
    field.value = this.message.text;
    const kept = { images: [...this.message.images], files: [...this.message.files] };
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector("button")?.focus();
    };
    const send = () => {
      close();
      const full = field.value.trim() !== "" || kept.images.length > 0 || kept.files.length > 0;
      if (full) this.actions.edit(this.message, { text: field.value, ...kept });
    };
    const form = h(
      "form",
      { class: "edit", on: { submit: (event) => (event.preventDefault(), send()) } },
      field,
      chips(kept),
      h(
        "div",
        {},
        h("button", { type: "button", text: "Cancel", on: { click: close } }),
        h("button", { class: "primary", text: "Send" }),
      ),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && event.target === field && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.body.replaceWith(form);
    this.foot.hidden = true;
    field.focus();
  }
}

/** What is attached, each with a button that takes it out of the lists. */
export function chips({ images, files }, changed = () => {}) {
  const list = h("ul", { class: "chips", "aria-label": "Attached" });
  const entry = (from, one, what, name) => {
    const drop = iconButton("close", `Remove ${name}`, () => {
      from.splice(from.indexOf(one), 1);
      const next = item.nextSibling ?? item.previousSibling;
      item.remove();
      next?.querySelector("button").focus();
      changed();
    });
    const item = h("li", { class: "chip" }, what, drop);
    return item;
  };
  list.append(
    ...images.map((url, i) => entry(images, url, h("img", { src: url, alt: `Picture ${i + 1}` }), `picture ${i + 1}`)),
    ...files.map((file) => entry(files, file, [icon("file"), file.name], file.name)),
  );
  return list;
}

function statsText({ completion_tokens: tokens, tokens_per_s: rate, first_token_s: first }) {
  const parts = [tokens !== undefined && `${tokens} tokens`];
  if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  if (first !== undefined) parts.push(`first after ${first < 10 ? first.toFixed(2) : Math.round(first)} s`);
  return parts.filter(Boolean).join(" · ");
}
