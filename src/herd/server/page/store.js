// Conversations, kept in this browser (IndexedDB) and nowhere else. Two stores: `heads` is what the list shows, `bodies`
// the conversations whole; they change together. Where a browser keeps nothing (a private window), a map takes their
// place until the page is closed.

import { checked } from "./conversation.js";

const NAME = "herd";
const VERSION = 1;
const STORES = ["heads", "bodies"];

/** Open the store. `kept` says whether what is saved outlives the page. */
export async function openStore() {
  try {
    return new Store(await openDatabase());
  } catch {
    return new Store(null);
  }
}

function openDatabase() {
  return new Promise((resolve, reject) => {
    const asked = indexedDB.open(NAME, VERSION);
    asked.onupgradeneeded = () => STORES.forEach((name) => asked.result.createObjectStore(name, { keyPath: "id" }));
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

class Store {
  constructor(database) {
    this.database = database;
    this.kept = database !== null;
    this.memory = new Map();
  }

  /** {id, title, updated} of all, the newest first. */
  async heads() {
    const all = this.kept ? await this.ask("heads", (store) => store.getAll()) : [...this.memory.values()].map(headOf);
    return all.sort((a, b) => b.updated - a.updated);
  }

  /** One conversation; undefined if there is none of this id. */
  async load(id) {
    return this.kept ? this.ask("bodies", (store) => store.get(id)) : structuredClone(this.memory.get(id));
  }

  async save(conversation) {
    if (!this.kept) {
      this.memory.set(conversation.id, structuredClone(conversation));
      return;
    }
    await this.change((heads, bodies) => {
      heads.put(headOf(conversation));
      bodies.put(conversation);
    });
  }

  async remove(id) {
    if (!this.kept) {
      this.memory.delete(id);
      return;
    }
    await this.change((heads, bodies) => {
      heads.delete(id);
      bodies.delete(id);
    });
  }

  /** Ids of the conversations that hold all words of a query, in any message. Read one by one: they may be many. */
  async search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = new Set();
    const look = (conversation) => {
      const text = [conversation.title, ...conversation.messages.map((message) => message.text)].join("\n").toLowerCase();
      if (words.every((word) => text.includes(word))) found.add(conversation.id);
    };
    if (this.kept) await this.walk(look);
    else this.memory.forEach(look);
    return found;
  }

  /** All conversations as the text of a JSON file. */
  async exported() {
    const conversations = [];
    if (this.kept) await this.walk((conversation) => conversations.push(conversation));
    else conversations.push(...this.memory.values());
    return JSON.stringify({ format: "herd-conversations", version: 1, conversations }, null, 1);
  }

  /** Take in the text of such a file: all of it or, with an Error, nothing. Returns how many. */
  async imported(text) {
    const file = parsed(text);
    if (file?.format !== "herd-conversations" || !Array.isArray(file.conversations)) {
      throw new Error("This is no file of conversations: export one here to see its form.");
    }
    const conversations = file.conversations.map((one, i) => {
      try {
        return checked(one);
      } catch (error) {
        throw new Error(`Conversation ${i} of the file is broken: ${error.message}.`);
      }
    });
    for (const conversation of conversations) await this.save(conversation);
    return conversations.length;
  }

  ask(name, what) {
    return new Promise((resolve, reject) => {
      const asked = what(this.database.transaction(name).objectStore(name));
      asked.onsuccess = () => resolve(asked.result);
      asked.onerror = () => reject(asked.error);
    });
  }

  change(what) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(STORES, "readwrite");
      what(...STORES.map((name) => transaction.objectStore(name)));
      transaction.oncomplete = () => resolve();
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }

  walk(visit) {
    return new Promise((resolve, reject) => {
      const asked = this.database.transaction("bodies").objectStore("bodies").openCursor();
      asked.onsuccess = () => {
        if (!asked.result) return resolve();
        visit(asked.result.value);
        asked.result.continue();
      };
      asked.onerror = () => reject(asked.error);
    });
  }
}

function headOf({ id, title, updated }) {
  return { id, title, updated };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
