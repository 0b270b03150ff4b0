// The page: what its parts do together.

import { Api } from "./api.js";
import { Composer } from "./composer.js";
import * as talk from "./conversation.js";
import { byId, h } from "./dom.js";
import { MessageList } from "./messages.js";
import { Models } from "./models.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Speaker } from "./speaker.js";
import { openStore } from "./store.js";

const SAVE_MS = 1000; // while an answer grows, it is saved that often
const NOTICE_MS = 8000;
const READ_MS = 10; // a burst of an answer is read for that long, then the page may draw

class Page {
  constructor(store) {
    this.store = store;
    this.api = new Api(askKey);
    this.speaker = new Speaker();
    this.models = new Models(this.api, (name) => (this.conversation.model = name));
    this.settings = new Settings((parameters) => (this.conversation.parameters = parameters));
    this.list = new MessageList({
      edit: (message, text) => this.branch(message, text),
      again: (message) => this.again(message),
      choose: (message) => this.choose(message),
    });
    this.composer = new Composer({ send: (message) => this.send(message), stop: () => this.stop(), notice });
    this.sidebar = new Sidebar(store, {
      open: (id) => this.open(id),
      fresh: () => this.fresh(),
      removed: (id) => id === this.conversation.id && this.fresh(),
      notice,
    });
    this.writing = null; // {conversation, message, control}
    document.addEventListener("keydown", (event) => this.key(event));
    addEventListener("pagehide", () => this.writing && this.save(this.writing.conversation));
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

  /** Begin a new conversation; it is saved with its first message. */
  fresh() {
    this.show(talk.newConversation(this.models.name, Settings.last()));
    sessionStorage.removeItem("herd.open");
    this.composer.field.focus();
  }

  async open(id) {
    const writing = this.writing?.conversation;
    const found = writing?.id === id ? writing : await this.store.load(id);
    if (!found) return;
    for (const message of found.messages) if (message.state === "writing" && found !== writing) message.state = "stopped";
    this.show(found);
    sessionStorage.setItem("herd.open", id);
    this.composer.field.focus();
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
    this.composer.setBusy(this.writing?.conversation.id === this.conversation.id);
    this.sidebar.refresh(this.conversation.id);
  }

  send({ text, images, files }) {
    if (this.writing) {
      notice("Another answer is being written.", { label: "Stop it", act: () => this.stop() });
      return false;
    }
    talk.addMessage(this.conversation, this.conversation.head, { role: "user", text, images, files });
    this.list.atEnd = true;
    this.answer();
    return true;
  }

  /** An edited question: a branch beside the old one, with what was attached to that. */
  branch(message, text) {
    if (this.writing) return;
    const { parent, images, files } = message;
    talk.addMessage(this.conversation, parent, { role: "user", text, images, files });
    this.answer();
  }

  /** Another answer to the same question; one that failed makes way for it. */
  again(message) {
    if (this.writing) return;
    if (message.state === "failed" && !message.text) talk.dropMessage(this.conversation, message);
    this.conversation.head = message.parent;
    this.answer();
  }

  choose(message) {
    if (this.writing) return;
    talk.choose(this.conversation, message);
    this.refresh();
    this.save(this.conversation);
  }

  /** Let the model answer the message at the head. */
  async answer() {
    const conversation = this.conversation;
    conversation.model = this.models.name;
    const body = talk.requestOf(conversation);
    const message = talk.addMessage(conversation, conversation.head, { role: "assistant", state: "writing" });
    this.writing = { conversation, message, control: new AbortController() };
    sessionStorage.setItem("herd.open", conversation.id);
    await this.save(conversation);
    this.refresh();
    this.speaker.begin();
    const ticks = this.tellWaiting(message);
    try {
      await this.read(body, this.writing);
      message.state = "done";
    } catch (error) {
      message.state = error.name === "AbortError" ? "stopped" : "failed";
      message.error = error.name === "AbortError" ? undefined : error.message;
    }
    clearInterval(ticks);
    this.writing = null;
    this.speaker.hear(message.text, true);
    await this.save(conversation);
    if (this.conversation === conversation) {
      this.list.done(message);
      this.refresh();
    }
    this.models.refresh().catch(() => {}); // whether it is loaded now; the next answer tells of what is wrong
  }

  async read(body, { conversation, message, control }) {
    const began = performance.now();
    let saved = began;
    let rested = began;
    let first;
    for await (const { text, usage, timings } of this.api.chat(body, control.signal)) {
      if (text) {
        first ??= (performance.now() - began) / 1000;
        message.text += text;
        this.speaker.hear(message.text);
        if (this.conversation === conversation) this.list.grown(message);
      }
      if (usage) message.stats = statsOf(usage, timings, first);
      if (performance.now() - saved > SAVE_MS) {
        saved = performance.now();
        this.save(conversation);
      }
      if (performance.now() - rested > READ_MS) {
        await new Promise((resolve) => setTimeout(resolve));
        rested = performance.now();
      }
    }
  }

  /** Say what goes on until the first word comes. Returns the timer. */
  tellWaiting(message) {
    const loaded = this.models.loaded;
    const began = Date.now();
    const tell = () => {
      if (message.text) return;
      const waited = Math.round((Date.now() - began) / 1000);
      this.list.grown(message, `${loaded ? "Reading" : "Loading the model"}${waited > 1 ? `, ${waited} s` : ""} …`);
    };
    tell();
    return setInterval(tell, 1000);
  }

  stop() {
    this.writing?.control.abort();
  }

  async save(conversation) {
    try {
      await this.store.save(conversation);
    } catch (error) {
      notice(`This conversation could not be saved: ${error.message}`);
    }
  }

  key(event) {
    const control = event.ctrlKey || event.metaKey;
    const name = event.key.toLowerCase();
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
      if (this.writing) this.stop();
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

function statsOf(usage, timings, first) {
  return {
    prompt_tokens: usage.prompt_tokens,
    completion_tokens: usage.completion_tokens,
    tokens_per_s: timings?.predicted_per_second,
    first_token_s: first,
  };
}

/** A line at the foot of the page, for some seconds; button: {label, act}. */
function notice(text, button) {
  const line = h("div", { class: "notice" }, h("p", { text }));
  const close = () => line.remove();
  if (button) {
    line.append(h("button", { type: "button", text: button.label, on: { click: () => (close(), button.act()) } }));
  }
  byId("notices").append(line);
  setTimeout(close, NOTICE_MS);
}

/** Ask the visitor for a key. Null: there is none. */
function askKey(wrong) {
  const dialog = byId("key-dialog");
  const field = byId("key");
  byId("key-problem").textContent = wrong ? "The service does not know this key." : "";
  field.value = "";
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      given = field.value.trim() || null;
      dialog.close();
    };
    dialog.querySelector("form").addEventListener("submit", submit);
    byId("key-cancel").onclick = () => dialog.close();
    dialog.addEventListener(
      "close",
      () => {
        dialog.querySelector("form").removeEventListener("submit", submit);
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
    field.focus();
  });
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
