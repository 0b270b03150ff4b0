// The page: what its parts do together.

import { Api } from "./api.js";
import { Composer } from "./composer.js";
import * as talk from "./conversation.js";
import { byId, notice } from "./dom.js";
import { lineOf } from "./endings.js";
import { askKey } from "./key.js";
import { MessageList } from "./messages.js";
import { Models } from "./models.js";
import { Settings } from "./settings.js";
import { Shared } from "./shared.js";
import { Sidebar } from "./sidebar.js";
import { Speaker } from "./speaker.js";
import { openStore } from "./store.js";
import { Writer } from "./writer.js";

const CHARACTERS_OF_A_TOKEN = 4; // of English text: fewer of code and of other languages

class Page {
  constructor(store) {
    this.store = store;
    this.api = new Api(askKey);
    this.speaker = new Speaker();
    this.writer = null;
    this.shared = new Shared(store, this);
    this.list = new MessageList(this.messageActions(), (message, body) => this.speak(message, body));
    this.settings = new Settings((parameters) => talk.setFields(this.conversation, { parameters }));
    this.models = new Models(
      this.api,
      (model) => talk.setFields(this.conversation, { model }),
      () => this.composer?.refresh(),
    );
    this.composer = new Composer({
      send: (message) => this.send(message),
      stop: () => this.writer?.stop(),
      problemOf: (message) => this.problemOf(message),
      doubtOf: (message) => this.doubtOf(message),
      notice,
    });
    this.sidebar = new Sidebar(store, {
      open: (id) => this.open(id),
      fresh: () => this.fresh(),
      removed: (id) => this.removed(id),
      changed: (ids) => this.shared.changed(ids),
      notice,
    });
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("pagehide", () => this.writer?.keep());
    byId("change-key").addEventListener("click", () => this.changeKey());
  }

  messageActions() {
    return {
      edit: (message, fields) => this.branch(message, fields),
      again: (message) => this.again(message),
      goOn: (message) => this.goOn(message),
      choose: (message) => this.choose(message),
      remove: (message) => this.remove(message),
      withhold: (message, kind, out) => this.withhold(message, kind, out),
      without: (message, kind) => this.without(message, kind),
      isLast: (message) => message.id === this.conversation.head,
      carried: (message, kind) => talk.carries(this.conversation, kind, message.parent),
    };
  }

  async start() {
    const last = sessionStorage.getItem("herd.open");
    this.fresh();
    if (last) await this.open(last);
    if (!this.store.kept) notice("This browser keeps nothing here: conversations end with this tab.");
    await this.refreshModels();
  }

  async refreshModels() {
    try {
      await this.models.refresh();
      this.conversation.model ||= this.models.name;
    } catch (error) {
      notice(error.message, { label: "Try again", act: () => this.refreshModels() });
    }
  }

  async changeKey() {
    byId("settings").close();
    if (await this.api.changeKey()) await this.refreshModels();
  }

  /** Begin a new conversation; it is saved with its first message. */
  fresh() {
    this.show(talk.newConversation(this.models.name, Settings.last()));
    sessionStorage.removeItem("herd.open");
    this.composer.field.focus();
  }

  async open(id) {
    const own = this.writer?.conversation;
    const found = own?.id === id ? own : await this.store.load(id);
    if (!found) return;
    this.show(found);
    sessionStorage.setItem("herd.open", id);
    this.composer.field.focus();
    await this.shared.endForsaken();
  }

  show(conversation) {
    this.conversation = conversation;
    if (conversation.model) this.models.pick(conversation.model);
    this.settings.show(conversation.parameters);
    this.sidebar.makeWay();
    this.refresh(true);
  }

  /** Show the conversation as it is now. */
  refresh(anew = false) {
    const path = talk.pathOf(this.conversation);
    this.list.show(this.conversation, path, anew);
    document.body.classList.toggle("empty", path.length === 0);
    byId("title").textContent = this.conversation.title || "New conversation";
    document.title = this.conversation.title ? `${this.conversation.title} · Herd` : "Herd";
    const last = path.findLast((message) => message.stats)?.stats;
    this.models.showUsed(last && last.prompt_tokens + last.completion_tokens);
    this.composer.setBusy(this.writer?.conversation === this.conversation);
    this.sidebar.refresh(this.conversation.id);
  }

  /** Whether an answer is being written, which is said. */
  busy() {
    if (this.writer) notice("Another answer is being written.", { label: "Stop it", act: () => this.writer?.stop() });
    return this.writer !== null;
  }

  /** What of a message, or of those before it, the model cannot take; "": nothing that is known. */
  problemOf({ images }) {
    if (this.models.takesImages !== false) return "";
    if (images.length) return `${this.models.name} takes no pictures: take them out, or choose another model.`;
    const before = this.conversation && talk.carries(this.conversation, "images");
    if (!before) return "";
    return `${this.models.name} takes no pictures, and earlier messages have some: leave them out there, or choose another model.`;
  }

  /** What of a message is likely too long; "": nothing. */
  doubtOf({ files }) {
    const { context, name } = this.models;
    const tokens = Math.round(files.reduce((sum, { text }) => sum + text.length, 0) / CHARACTERS_OF_A_TOKEN);
    if (context === undefined || tokens <= context) return "";
    return `The files are about ${tokens} tokens; ${name} takes ${context}. It is likely to refuse them.`;
  }

  send({ text, images, files }) {
    if (this.busy()) return false;
    talk.addMessage(this.conversation, this.conversation.head, { role: "user", text, images, files });
    this.list.atEnd = true;
    this.answer();
    return true;
  }

  /** An edited question: a branch beside the old one. */
  branch(message, { text, images, files }) {
    if (this.busy()) return;
    talk.addMessage(this.conversation, message.parent, { role: "user", text, images, files });
    this.answer();
  }

  /** Another answer to the same question; one that failed makes way for it. */
  again(message) {
    if (this.busy()) return;
    if (message.state === "failed" && !message.text) talk.removeMessage(this.conversation, message);
    talk.setFields(this.conversation, { head: message.parent });
    this.answer();
  }

  /** More of an answer that is not whole. */
  goOn(message) {
    if (this.busy() || message.id !== this.conversation.head) return;
    this.answer();
  }

  /** Again, without the pictures or files of all messages so far. */
  without(message, kind) {
    if (this.busy()) return;
    talk.withhold(this.conversation, kind, message.parent);
    this.again(message);
  }

  async withhold(message, kind, out) {
    const others = message.withheld.filter((one) => one !== kind);
    talk.setMessage(message, { withheld: out ? [...others, kind] : others });
    this.refresh();
    await this.shared.save(this.conversation);
  }

  async choose(message) {
    if (this.busy()) return;
    talk.choose(this.conversation, message);
    this.refresh();
    await this.shared.save(this.conversation);
  }

  /** Take out a message and what follows, with a way back. */
  async remove(message) {
    const { conversation } = this;
    const { head } = conversation;
    const taken = talk.removeMessage(conversation, message);
    if (taken.includes(this.writer?.message)) this.writer.stop();
    this.refresh();
    this.composer.field.focus();
    await this.shared.save(conversation);
    const back = async () => {
      talk.putBack(conversation, taken, head);
      if (this.conversation === conversation) this.refresh();
      await this.shared.save(conversation);
    };
    notice("Message removed.", { label: "Undo", act: back });
  }

  /** Let the model answer the message at the head, or go on with it where it is an answer. */
  async answer() {
    const { conversation } = this;
    talk.setFields(conversation, { model: this.models.name });
    const body = talk.requestOf(conversation);
    const last = talk.pathOf(conversation).at(-1);
    const begun = last.role === "assistant";
    const message = begun ? last : talk.addMessage(conversation, conversation.head, { role: "assistant", state: "writing" });
    if (begun) talk.setMessage(message, { state: "writing", ending: undefined, error: undefined });
    const writer = new Writer(this.api, conversation, message, {
      grown: () => this.grown(message),
      save: () => this.shared.save(conversation),
    });
    this.writer = writer;
    this.shared.tabs.writing = message.id;
    sessionStorage.setItem("herd.open", conversation.id);
    const kept = await this.shared.save(conversation);
    if (kept) {
      this.refresh();
      this.speaker.begin(begun ? this.list.viewOf(message)?.body : undefined);
      const ticks = this.tellWaiting(message, writer);
      await writer.run(body, this.models.context);
      clearInterval(ticks);
    }
    this.writer = this.shared.tabs.writing = null;
    if (kept) await this.shared.save(conversation);
    else if (!begun) await this.composer.giveBack(last);
    if (this.conversation === conversation) {
      this.list.done(message);
      this.refresh();
      if (lineOf(message)) this.speaker.say(lineOf(message));
    }
    this.models.refresh().catch(() => {}); // whether it is loaded now; the next answer tells of what is wrong
  }

  grown(message) {
    if (this.writer?.conversation === this.conversation) this.list.grown(message);
  }

  speak(message, body) {
    if (message === this.writer?.message) this.speaker.hear(body);
    else if (message.state !== "writing") this.speaker.hear(body, true);
  }

  /** Say what goes on until the next word comes, each second and when more of the prompt is read. Returns the timer. */
  tellWaiting(message, writer) {
    const loaded = this.models.loaded;
    const began = Date.now();
    const { text } = message; // an answer that goes on has some
    const tell = () => {
      if (message.text !== text) return;
      const { processed, total } = writer.progress ?? {};
      const reading = total ? `Reading ${grouped(processed)} of ${grouped(total)} tokens` : "Reading";
      const waited = Math.round((Date.now() - began) / 1000);
      const what = loaded || total ? reading : "Loading the model";
      this.list.grown(message, `${what}${waited > 1 ? `, ${waited} s` : ""} …`, total && processed / total);
    };
    writer.reads = tell;
    tell();
    return setInterval(tell, 1000);
  }

  /** This tab deleted a conversation. */
  removed(id) {
    this.shared.removed(id);
    if (this.conversation.id === id) this.fresh();
  }

  listed() {
    this.sidebar.refreshSoon();
  }

  /** A conversation was deleted elsewhere: it is no longer shown. */
  lost(id) {
    if (this.conversation.id !== id) return;
    this.fresh();
    notice("This conversation was deleted.");
  }

  key(event) {
    const control = event.ctrlKey || event.metaKey;
    const name = event.key.toLowerCase();
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (this.writer) this.writer.stop();
      else this.sidebar.makeWay();
      return;
    }
    // Chromium keeps Ctrl+Shift+N for itself; Ctrl+Shift+O does the same everywhere.
    if (control && event.shiftKey && (name === "n" || name === "o")) this.fresh();
    else if (control && !event.shiftKey && name === "k") this.sidebar.find();
    else if (control && !event.shiftKey && name === "b") this.sidebar.setOpen(!this.sidebar.open, true);
    else return;
    event.preventDefault();
  }
}

function grouped(count) {
  return count.toLocaleString("en");
}

function listenToTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  byId("theme").addEventListener("click", () => {
    const now = root.dataset.theme ?? (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    localStorage.setItem("herd.theme", next);
  });
}

listenToTheme();
await new Page(await openStore()).start();
