// The list of conversations: search, open, delete with a way back, export and import.

import { byId, h, iconButton } from "./dom.js";
import { textOf } from "./imports.js";

const NARROW = matchMedia("(max-width: 56rem)");
const SOON_MS = 150;
const DAY_MS = 24 * 3600 * 1000;

export class Sidebar {
  /** store; actions: {open(id), fresh(), removed(id), changed(ids), notice(text, button)}. */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.root = byId("sidebar");
    this.list = byId("conversations");
    this.field = byId("search");
    this.current = null;
    this.listen();
    this.setOpen(!NARROW.matches && localStorage.getItem("herd.sidebar") !== "closed");
  }

  listen() {
    byId("menu").addEventListener("click", () => this.setOpen(!this.open, true));
    byId("shade").addEventListener("click", () => this.setOpen(false));
    byId("new").addEventListener("click", () => this.actions.fresh());
    byId("export").addEventListener("click", () => this.export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => {
      this.import(event.target.files[0]);
      event.target.value = "";
    });
    this.field.addEventListener("input", () => this.refreshSoon());
    NARROW.addEventListener("change", () => this.setOpen(!NARROW.matches));
  }

  setOpen(open, byHand = false) {
    this.open = open;
    document.body.classList.toggle("with-sidebar", open);
    this.root.inert = !open;
    byId("menu").setAttribute("aria-expanded", String(open));
    if (byHand && !NARROW.matches) localStorage.setItem("herd.sidebar", open ? "open" : "closed");
    if (byHand && open && NARROW.matches) this.field.focus();
  }

  /** Read the list again, once for all that happens meanwhile. */
  refreshSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), SOON_MS);
  }

  /** On a narrow screen the list lies over the conversation: make way for it. */
  makeWay() {
    if (NARROW.matches) this.setOpen(false);
  }

  find() {
    this.setOpen(true);
    this.field.focus();
    this.field.select();
  }

  /** Read the list again. `current`: id of the conversation that is shown. */
  async refresh(current = this.current) {
    this.current = current;
    const query = this.field.value.trim();
    const [heads, found] = await Promise.all([this.store.heads(), query ? this.store.search(query) : null]);
    const shown = heads.filter((head) => !found || found.has(head.id));
    const groups = new Map();
    for (const head of shown) {
      const name = ageOf(head.updated);
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(head);
    }
    this.list.replaceChildren(...[...groups].map(([name, heads]) => this.group(name, heads)));
    if (!shown.length) this.list.append(h("p", { class: "none", text: query ? "Nothing found." : "Conversations stay in this browser." }));
  }

  group(name, heads) {
    return h("section", {}, h("h2", { text: name }), h("ul", {}, heads.map((head) => this.entry(head))));
  }

  entry(head) {
    const open = h("button", {
      type: "button",
      class: "open",
      "aria-current": head.id === this.current && "page",
      text: head.title || "Untitled",
      on: { click: () => this.actions.open(head.id) },
    });
    return h("li", {}, open, iconButton("bin", `Delete ${head.title || "Untitled"}`, () => this.remove(head.id)));
  }

  async remove(id) {
    const conversation = await this.store.remove(id);
    await this.actions.removed(id);
    await this.refresh();
    this.field.focus();
    if (!conversation) return; // another tab was quicker
    const back = async () => {
      await this.store.restore([conversation]);
      await this.actions.changed([id]);
      await this.refresh();
    };
    this.actions.notice("Conversation deleted.", { label: "Undo", act: back });
  }

  async export() {
    const blob = new Blob([await this.store.exported()], { type: "application/json" });
    const link = h("a", { href: URL.createObjectURL(blob), download: `herd-${new Date().toISOString().slice(0, 10)}.json` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async import(file) {
    if (!file) return;
    try {
      const told = await this.store.imported(await textOf(file));
      await this.actions.changed(told.ids);
      this.actions.notice(importedText(told));
    } catch (error) {
      this.actions.notice(error.message);
    }
    await this.refresh();
  }
}

function importedText({ ids, back, mended }) {
  const parts = [ids.length === 1 ? "One conversation imported." : `${ids.length} conversations imported.`];
  if (back) parts.push(`${back} of them had been deleted here.`);
  if (mended) parts.push(`${mended} of their messages hung from none or from each other; they begin a branch now.`);
  return parts.join(" ");
}

function ageOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  return time >= midnight - 30 * DAY_MS ? "This month" : "Earlier";
}
