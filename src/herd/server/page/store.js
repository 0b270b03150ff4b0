// Conversations, kept in this browser (IndexedDB) and nowhere else. Two stores: `heads` is what the list shows, `bodies`
// the conversations whole; they change together. Where a browser keeps nothing (a private window), maps take their
// place until the page is closed.
//
// Whatever is saved is merged, inside one transaction, with what is there: other tabs write, too. A conversation that was
// deleted leaves a mark among the heads, {id, deleted: time, life}; nobody who still has it open can bring it back, only an
// import or taking the deletion back. That begins another life of it, into which those of the last one write nothing.

import { conversationsOf } from "./imports.js";
import { merged } from "./merge.js";

const NAME = "herd";
const VERSION = 1;
const STORES = ["heads", "bodies"];
const MOST_MARKS = 5000; // of deleted conversations; the oldest go first

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
    asked.onsuccess = () => {
      asked.result.onversionchange = () => asked.result.close(); // a newer page may change the form
      resolve(asked.result);
    };
    asked.onerror = () => reject(asked.error);
  });
}

class Store {
  constructor(database) {
    this.database = database;
    this.kept = database !== null;
    this.memory = { heads: new Map(), bodies: new Map() };
    this.known = new Set(); // ids that were saved or read here: one that is missing then was deleted
  }

  /** {id, title, updated} of all, the newest first. */
  async heads() {
    const all = await this.change("readonly", (heads) => heads.all());
    return all.filter((head) => !head.deleted).sort((a, b) => b.updated - a.updated);
  }

  /** One conversation; undefined if there is none of this id. */
  async load(id) {
    const found = await this.change("readonly", (heads, bodies) => bodies.get(id));
    if (found) this.known.add(id);
    return found && filled(found);
  }

  /** Merge a conversation with what is stored. Returns the result; null: it was deleted, and stays so. */
  async save(conversation) {
    const mine = structuredClone(conversation);
    return this.change("readwrite", async (heads, bodies) => {
      const [head, stored] = await Promise.all([heads.get(mine.id), bodies.get(mine.id)]);
      if (head?.deleted || (!stored && this.known.has(mine.id))) return null;
      if (stored && filled(stored).life !== mine.life) return null;
      this.known.add(mine.id);
      return this.put(heads, bodies, stored ? merged(filled(stored), mine) : mine);
    });
  }

  async put(heads, bodies, conversation) {
    const { id, title, updated } = conversation;
    await Promise.all([heads.put({ id, title, updated }), bodies.put(conversation)]);
    return conversation;
  }

  /** Delete a conversation; a mark stays. Returns it as it was last; undefined: there was none. */
  async remove(id) {
    return this.change("readwrite", async (heads, bodies) => {
      const found = await bodies.get(id);
      const mark = { id, title: "", updated: 0, deleted: Date.now(), life: found?.life ?? 0 };
      await Promise.all([bodies.delete(id), found && heads.put(mark)]);
      const marks = (await heads.all()).filter((head) => head.deleted).sort((a, b) => a.deleted - b.deleted);
      await Promise.all(marks.slice(0, Math.max(0, marks.length - MOST_MARKS)).map((mark) => heads.delete(mark.id)));
      return found && filled(found);
    });
  }

  /**
   * Merge conversations with what is stored, also those that were deleted: somebody wants them back. All or none.
   * Returns how many of them had been deleted.
   */
  async restore(conversations) {
    return this.change("readwrite", async (heads, bodies) => {
      let back = 0;
      for (const given of conversations) {
        const [head, stored] = await Promise.all([heads.get(given.id), bodies.get(given.id)]);
        if (head?.deleted) back += 1;
        this.known.add(given.id);
        const life = stored ? filled(stored).life : head?.deleted ? head.life + 1 : 0;
        await this.put(heads, bodies, { ...(stored ? merged(filled(stored), given) : given), life });
      }
      return back;
    });
  }

  /** Ids of the conversations that hold all words of a query, in any message. Read one by one: they may be many. */
  async search(query) {
    const words = query.toLowerCase().split(WHITE).filter(Boolean);
    const found = new Set();
    await this.walk((conversation) => {
      const text = [conversation.title, ...conversation.messages.map((message) => message.text)].join("\n").toLowerCase();
      if (words.every((word) => text.includes(word))) found.add(conversation.id);
    });
    return found;
  }

  /** All conversations as the text of a JSON file. */
  async exported() {
    const conversations = [];
    await this.walk((conversation) => conversations.push(conversation));
    return JSON.stringify({ format: "herd-conversations", version: 2, conversations }, null, 1);
  }

  /** Take in the text of such a file: all of it or, with an Error, nothing. Returns {ids, mended, back}, two counts. */
  async imported(text) {
    const { conversations, mended } = conversationsOf(text);
    const back = await this.restore(conversations);
    return { ids: conversations.map(({ id }) => id), mended, back };
  }

  /** What `work(heads, bodies)` gives, done in one transaction: all of its changes are kept or none. */
  async change(mode, work) {
    if (!this.kept) return work(...STORES.map((name) => new MapTable(this.memory[name])));
    const transaction = this.database.transaction(STORES, mode);
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave it up"));
    });
    ended.catch(() => {}); // it is waited for below, unless the work fails first
    let found;
    try {
      found = await work(...STORES.map((name) => new Table(transaction.objectStore(name))));
    } catch (error) {
      undo(transaction);
      throw error;
    }
    await ended;
    return found;
  }

  async walk(visit) {
    await this.change("readonly", (heads, bodies) => bodies.each((conversation) => visit(filled(conversation))));
  }
}

const WHITE = /\s/;

function undo(transaction) {
  try {
    transaction.abort();
  } catch {
    // it has been given up already: that is why the work failed
  }
}

/** A store of a transaction. */
class Table {
  constructor(store) {
    this.store = store;
  }
  get(id) {
    return promised(this.store.get(id));
  }
  all() {
    return promised(this.store.getAll());
  }
  put(value) {
    return promised(this.store.put(value));
  }
  delete(id) {
    return promised(this.store.delete(id));
  }
  each(visit) {
    return new Promise((resolve, reject) => {
      const asked = this.store.openCursor();
      asked.onsuccess = () => {
        if (!asked.result) return resolve();
        visit(asked.result.value);
        asked.result.continue();
      };
      asked.onerror = () => reject(asked.error);
    });
  }
}

function promised(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
}

/** The same over a map. */
class MapTable {
  constructor(map) {
    this.map = map;
  }
  get(id) {
    return structuredClone(this.map.get(id));
  }
  all() {
    return [...this.map.values()];
  }
  put(value) {
    this.map.set(value.id, structuredClone(value));
  }
  delete(id) {
    this.map.delete(id);
  }
  each(visit) {
    this.map.forEach((value) => visit(structuredClone(value)));
  }
}

/** A conversation with all fields: older versions of this page stored fewer. */
function filled(conversation) {
  const messages = conversation.messages.map((message) => ({ edited: 0, withheld: [], ...message }));
  return { touched: 0, life: 0, dropped: [], ...conversation, messages };
}
