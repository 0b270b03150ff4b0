// The messages of a conversation on the screen. Only the last ones are in the document; earlier ones join when they are
// scrolled to, so that a conversation of hundreds of messages is as fast as one of ten.

import { siblingsOf } from "./conversation.js";
import { byId, copyButton, h, icon, iconButton } from "./dom.js";
import { Markdown } from "./markdown.js";

const WINDOW = 16; // messages shown at first
const EARLIER = 4; // added at a time: few, so that scrolling never waits
const NEAR_PX = 64; // so close to the end counts as the end

export class MessageList {
  /** actions: {edit(message, text), again(message), choose(message)}: what the buttons of a message do. */
  constructor(actions) {
    this.actions = actions;
    this.root = byId("messages");
    this.scroller = byId("scroller");
    this.toEnd = byId("to-end");
    this.views = [];
    this.path = [];
    this.first = 0;
    this.atEnd = true;
    this.frame = 0;
    this.sentinel = h("div", { class: "sentinel" });
    this.watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.showEarlier(), {
      root: this.scroller,
      rootMargin: "400px 0px 0px",
    });
    this.watcher.observe(this.sentinel);
    this.scroller.addEventListener("scroll", () => this.noteEnd(), { passive: true });
    this.toEnd.addEventListener("click", () => this.scrollToEnd());
  }

  /** Show the path of a conversation; messages that are shown already stay as they are. `anew`: from the end on. */
  show(conversation, path, anew) {
    this.conversation = conversation;
    this.path = path;
    if (anew || this.atEnd) this.first = Math.max(0, path.length - WINDOW);
    const wanted = path.slice(this.first);
    const known = new Map(anew ? [] : this.views.map((view) => [view.message.id, view]));
    this.views = wanted.map((message) => known.get(message.id) ?? new MessageView(message, this.actions));
    this.views.forEach((view) => view.refresh(siblingsOf(conversation, view.message)));
    this.place();
    if (anew) this.scrollToEnd();
  }

  /** Put the views into the document, moving none that is in its place. */
  place() {
    const nodes = [this.sentinel, ...this.views.map((view) => view.element)];
    const wanted = new Set(nodes);
    [...this.root.childNodes].filter((node) => !wanted.has(node)).forEach((node) => node.remove());
    nodes.forEach((node, i) => {
      if (this.root.childNodes[i] !== node) this.root.insertBefore(node, this.root.childNodes[i] ?? null);
    });
  }

  showEarlier() {
    if (this.first === 0) return;
    const from = Math.max(0, this.first - EARLIER);
    const views = this.path.slice(from, this.first).map((message) => new MessageView(message, this.actions));
    views.forEach((view) => view.refresh(siblingsOf(this.conversation, view.message)));
    const below = this.scroller.scrollHeight - this.scroller.scrollTop;
    this.first = from;
    this.views.unshift(...views);
    this.place();
    this.scroller.scrollTop = this.scroller.scrollHeight - below;
    this.watcher.unobserve(this.sentinel); // observed anew, it reports again: short messages may not fill the screen
    this.watcher.observe(this.sentinel);
  }

  viewOf(message) {
    return this.views.find((view) => view.message === message);
  }

  /** The text of a message has grown: show it in the next frame. */
  grown(message, note = "") {
    this.note = note;
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.viewOf(message)?.write(this.note);
      this.follow();
    });
  }

  /** A message is complete: show it and its buttons now. */
  done(message) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.viewOf(message)?.refresh(siblingsOf(this.conversation, message));
    this.follow();
  }

  follow() {
    if (this.atEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this.noteEnd();
  }

  scrollToEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.noteEnd();
  }

  noteEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.atEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.toEnd.hidden = this.atEnd;
  }
}

/** One message. */
class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const mine = message.role === "user";
    this.body = h("div", { class: mine ? "body plain" : "body" });
    this.foot = h("footer");
    this.element = h(
      "article",
      { class: `message ${message.role}`, "data-id": message.id },
      h("h2", { class: "unseen", text: mine ? "You" : "Answer" }),
      mine && this.attachments(),
      this.body,
      this.foot,
    );
    this.markdown = mine ? null : new Markdown(this.body);
  }

  attachments() {
    const { images, files } = this.message;
    if (!images.length && !files.length) return null;
    return h(
      "div",
      { class: "attachments" },
      images.map((url, i) => h("img", { src: url, alt: `Picture ${i + 1} of your message` })),
      files.map((file) => h("span", { class: "chip" }, icon("file"), file.name)),
    );
  }

  /** The text as it is now; `note`: what goes on while there is none. */
  write(note) {
    if (this.markdown) this.markdown.show(this.message.text);
    else this.body.textContent = this.message.text;
    this.body.hidden = !this.message.text;
    if (note !== undefined) this.noteNode(note);
  }

  noteNode(note) {
    this.wait ??= h("p", { class: "wait" }, h("span", { class: "dot" }), h("span"));
    this.wait.lastChild.textContent = note;
    if (note && !this.message.text) this.body.before(this.wait);
    else this.wait.remove();
  }

  /** Text, error and buttons, beside which other branches there are. */
  refresh(siblings) {
    this.write(this.message.state === "writing" ? undefined : "");
    this.element.classList.toggle("writing", this.message.state === "writing");
    this.error?.remove();
    if (this.message.state === "failed") this.foot.before((this.error = this.errorNode()));
    const focused = this.foot.contains(document.activeElement);
    this.foot.replaceChildren(...(this.message.state === "writing" ? [] : this.buttons(siblings)));
    if (focused) this.foot.querySelector("button")?.focus();
  }

  errorNode() {
    const again = h("button", { type: "button", text: "Try again", on: { click: () => this.actions.again(this.message) } });
    return h("div", { class: "error", role: "alert" }, h("p", { text: this.message.error }), again);
  }

  buttons(siblings) {
    const mine = this.message.role === "user";
    return [
      siblings.length > 1 && this.branches(siblings),
      this.message.text && copyButton("Copy message", () => this.message.text),
      mine
        ? iconButton("edit", "Edit message", () => this.edit())
        : iconButton("again", "Answer again", () => this.actions.again(this.message)),
      this.message.state === "stopped" && h("span", { class: "stats", text: "stopped" }),
      this.message.stats && h("span", { class: "stats", text: statsText(this.message.stats) }),
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

  /** Turn the text into a field; sending it makes a branch. */
  edit() {
    const field = h("textarea", { "aria-label": "Edit message", rows: Math.min(12, this.message.text.split("\n").length + 1) });
    field.value = this.message.text;
    const close = () => {
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector("button")?.focus();
    };
    const send = () => {
      close();
      if (field.value.trim()) this.actions.edit(this.message, field.value);
    };
    const form = h(
      "form",
      { class: "edit", on: { submit: (event) => (event.preventDefault(), send()) } },
      field,
      h("div", {}, h("button", { type: "button", text: "Cancel", on: { click: close } }), h("button", { class: "primary", text: "Send" })),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.body.replaceWith(form);
    this.foot.hidden = true;
    field.focus();
  }
}

function statsText({ completion_tokens: tokens, tokens_per_s: rate, first_token_s: first }) {
  const parts = [tokens !== undefined && `${tokens} tokens`];
  if (rate) parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  if (first !== undefined) parts.push(`first after ${first < 10 ? first.toFixed(2) : Math.round(first)} s`);
  return parts.filter(Boolean).join(" · ");
}
