// The messages of a conversation on the screen. Only the last ones are in the document; earlier ones join when they are
// scrolled to, so that a conversation of hundreds of messages is as fast as one of ten.

import { branchesOf } from "./conversation.js";
import { byId, h } from "./dom.js";
import { MessageView } from "./message.js";
import { copySources } from "./plain.js";

const WINDOW = 16; // messages shown at first
const EARLIER = 4; // added at a time: few, so that scrolling never waits
const NEAR_PX = 64; // so close to the end counts as the end

export class MessageList {
  /**
   * actions, what the buttons of a message do: edit(message, {text, images, files}), again(message), goOn(message),
   * choose(message), remove(message), withhold(message, kind, out), without(message, kind); and carried(message, kind),
   * whether what led to it has any of a kind, and isLast(message), whether nothing follows it. heard(message, body): more of a message is on the screen.
   */
  constructor(actions, heard) {
    this.actions = { ...actions, editAbove: (message) => this.views.find((view) => view.message.id === message.parent)?.edit() };
    this.heard = heard;
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
    copySources(this.root);
  }

  /** Show the path of a conversation; messages that are shown already stay as they are. `anew`: from the end on. */
  show(conversation, path, anew) {
    this.siblings = branchesOf(conversation);
    this.path = path;
    const last = Math.max(0, path.length - WINDOW);
    this.first = anew || this.atEnd ? last : Math.min(this.first, last);
    const wanted = path.slice(this.first);
    const known = new Map(anew ? [] : this.views.map((view) => [view.message.id, view]));
    this.views = wanted.map((message) => known.get(message.id) ?? new MessageView(message, this.actions));
    this.views.forEach((view) => view.refresh(this.siblings.get(view.message)));
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
    views.forEach((view) => view.refresh(this.siblings.get(view.message)));
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

  /** The text of a message has grown: show it in the next frame. note, part: see MessageView. */
  grown(message, note = "", part = undefined) {
    this.note = [note, part];
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      const view = this.viewOf(message);
      view?.write(...this.note);
      if (view) this.heard(message, view.body);
      this.follow();
    });
  }

  /** A message is complete: show it and its buttons now. */
  done(message) {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const view = this.viewOf(message);
    view?.refresh(this.siblings.get(message));
    if (view) this.heard(message, view.body);
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
