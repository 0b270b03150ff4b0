// The field where a message is written, with what is attached to it.

import { MOST_ATTACHED } from "./conversation.js";
import { byId } from "./dom.js";
import { readFile } from "./files.js";
import { chips } from "./message.js";

const LONG_PASTE = 8000; // characters; more become a file
const DRAFT = "herd.draft"; // what was written and not sent: it outlives a reload, and ends with the tab

export class Composer {
  /**
   * send({text, images, files}) -> whether it was taken; stop(); notice(text); problemOf({images, files}) -> what of
   * it the model cannot take, "" if nothing; doubtOf({files}) -> what of it the model may not take.
   */
  constructor({ send, stop, notice, problemOf, doubtOf }) {
    this.send = send;
    this.problemOf = problemOf;
    this.doubtOf = doubtOf;
    this.stop = stop;
    this.notice = notice;
    this.field = byId("prompt");
    this.button = byId("send");
    this.list = byId("attached");
    this.cannot = byId("cannot");
    this.reading = 0; // files that are being read
    this.field.value = sessionStorage.getItem(DRAFT) ?? "";
    this.images = [];
    this.files = [];
    this.busy = false;
    this.listen();
    this.refresh();
  }

  listen() {
    const form = byId("composer");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) this.stop();
      else this.submit();
    });
    this.field.addEventListener("input", () => {
      keepDraft(this.field.value);
      this.refresh();
    });
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.busy) this.submit();
    });
    this.field.addEventListener("paste", (event) => this.paste(event));
    byId("attach").addEventListener("click", () => byId("files").click());
    byId("files").addEventListener("change", (event) => {
      this.take([...event.target.files]);
      event.target.value = "";
    });
    this.listenToDrops();
  }

  listenToDrops() {
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    const over = (is) => document.body.classList.toggle("dropping", is);
    window.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      over(true);
    });
    window.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    window.addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      over(false);
      this.take([...event.dataTransfer.files]);
    });
  }

  paste(event) {
    const files = [...event.clipboardData.files];
    const text = event.clipboardData.getData("text/plain");
    if (files.length) this.take(files);
    else if (text.length > LONG_PASTE) this.take([new File([text], "pasted.txt", { type: "text/plain" })]);
    else return;
    event.preventDefault();
  }

  async take(files) {
    this.reading += 1;
    for (const file of files) {
      try {
        const { image, file: text } = await readFile(file);
        const list = image ? this.images : this.files;
        if (list.length >= MOST_ATTACHED) throw new Error(`A message has ${MOST_ATTACHED} pictures and ${MOST_ATTACHED} files at most.`);
        list.push(image ?? text);
      } catch (error) {
        this.notice(error.message);
      }
    }
    this.reading -= 1;
    this.showAttached();
    this.field.focus();
  }

  showAttached() {
    const list = chips(this, () => {
      this.showAttached();
      this.field.focus();
    });
    this.list.replaceChildren(...list.children);
    this.refresh();
  }

  submit() {
    const message = { text: this.field.value.trim(), images: this.images, files: this.files };
    if (this.reading) return this.notice("A file is still being read.");
    if (this.problem) return this.notice(this.problem);
    if (!this.full() || !this.send(message)) return;
    this.images = [];
    this.files = [];
    this.field.value = "";
    keepDraft("");
    this.showAttached();
  }

  /** A message that could not be kept stands here again, if nothing else does. */
  giveBack({ text, images, files }) {
    if (this.full()) return;
    this.field.value = text;
    this.images = [...images];
    this.files = [...files];
    keepDraft(text);
    this.showAttached();
  }

  full() {
    return this.field.value.trim() !== "" || this.images.length > 0 || this.files.length > 0;
  }

  /** While an answer is written, the button stops it. */
  setBusy(busy) {
    this.busy = busy;
    this.refresh();
  }

  refresh() {
    this.problem = this.problemOf(this);
    const line = this.problem || this.doubtOf(this);
    if (this.cannot.textContent !== line) this.cannot.textContent = line;
    this.button.disabled = !this.busy && (!this.full() || this.problem !== "");
    const label = this.busy ? "Stop" : "Send";
    if (this.button.getAttribute("aria-label") !== label) {
      this.button.setAttribute("aria-label", label);
      this.button.title = this.busy ? "Stop (Esc)" : "Send (Enter)";
      this.button.classList.toggle("stop", this.busy);
    }
    if (!CSS.supports("field-sizing", "content")) {
      this.field.style.height = "auto";
      this.field.style.height = `${this.field.scrollHeight}px`;
    }
  }
}

function keepDraft(text) {
  try {
    sessionStorage.setItem(DRAFT, text);
  } catch {
    // it is too long for this storage: it stands in the field
  }
}
