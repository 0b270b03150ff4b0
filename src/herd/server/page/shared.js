// What this tab shares with the store and with other tabs: it saves, takes in what they wrote, and ends what was deleted.

import { notice } from "./dom.js";
import { absorb } from "./merge.js";
import { Tabs } from "./tabs.js";

const ASK_MS = 5000; // how often it is asked whether an answer is still being written in another tab

export class Shared {
  /**
   * page: {conversation: the one that is shown, writer: what writes an answer, or null; refresh(), lost(id): it was
   * deleted elsewhere; listed(): the list of conversations has changed}.
   */
  constructor(store, page) {
    this.store = store;
    this.page = page;
    this.tabs = new Tabs((kind, ids) => this.heard(kind, ids));
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.follow());
    addEventListener("pageshow", (event) => event.persisted && this.follow());
    setInterval(() => this.endForsaken(), ASK_MS);
  }

  /** Save a conversation and take in what other tabs did to it. Whether it is still there. */
  async save(conversation) {
    try {
      const result = await this.store.save(conversation);
      if (result === null) {
        this.lost(conversation.id);
        return false;
      }
      this.absorb(conversation, result);
      this.tabs.tell("changed", [conversation.id]);
    } catch (error) {
      notice(`This conversation could not be saved: ${error.message}`);
    }
    return true;
  }

  absorb(conversation, result) {
    const own = this.page.writer?.conversation === conversation ? this.page.writer.message : null;
    const before = outlineOf(conversation);
    absorb(conversation, result, own);
    if (own && !conversation.messages.includes(own)) this.page.writer.stop();
    if (outlineOf(conversation) !== before && conversation === this.page.conversation) this.page.refresh();
  }

  /** Another tab changed or removed conversations. */
  heard(kind, ids) {
    if (kind === "removed") ids.forEach((id) => this.lost(id));
    else if (ids.includes(this.page.conversation.id) || ids.includes(this.page.writer?.conversation.id)) this.follow();
    this.page.listed();
  }

  /** Take in what the store has of the conversations of this tab that is newer. */
  async follow() {
    if (document.visibilityState !== "visible" && !this.page.writer) return;
    if (this.following) return void (this.followAgain = true);
    this.following = true;
    for (const conversation of new Set([this.page.conversation, this.page.writer?.conversation])) {
      if (!conversation || !this.store.known.has(conversation.id)) continue;
      const found = await this.store.load(conversation.id).catch(() => conversation);
      if (found?.life === conversation.life) this.absorb(conversation, found);
      else this.lost(conversation.id);
    }
    this.following = false;
    if (this.followAgain) {
      this.followAgain = false;
      await this.follow();
    }
  }

  /** A conversation was deleted: nobody writes it on. */
  lost(id) {
    if (this.page.writer?.conversation.id === id) this.page.writer.stop();
    this.page.lost(id);
  }

  /** This tab deleted a conversation. */
  removed(id) {
    this.tabs.tell("removed", [id]);
    if (this.page.writer?.conversation.id === id) this.page.writer.stop();
  }

  async changed(ids) {
    this.tabs.tell("changed", ids);
    if (ids.includes(this.page.conversation.id)) await this.follow();
  }

  /** Answers that nobody writes any longer, as the tab that did was closed, have ended. */
  async endForsaken() {
    const { conversation } = this.page;
    const own = this.page.writer?.message;
    const open = conversation.messages.filter((message) => message.state === "writing" && message !== own);
    const alive = await Promise.all(open.map(({ id }) => this.tabs.writes(id)));
    const forsaken = open.filter((message, i) => !alive[i] && message.state === "writing");
    if (!forsaken.length) return;
    for (const message of forsaken) Object.assign(message, { state: "stopped", ending: "tab", edited: message.edited + 1 });
    if (conversation === this.page.conversation) this.page.refresh();
    await this.save(conversation);
  }
}

/** What differs when anything of a conversation does. */
function outlineOf({ head, messages }) {
  return JSON.stringify([head, messages.map(({ id, edited }) => [id, edited])]);
}
