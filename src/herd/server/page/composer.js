// The field where a message is written, with what is attached to it.

import { byId, h, icon, iconButton } from "./dom.js";
import { readFile } from "./files.js";

const LONG_PASTE = 8000; // characters; more become a file

export class Composer {
  /** send({text, images, files}) -> whether it was taken; stop(); notice(text). */
  constructor({ send, stop, notice }) {
    this.send = send;
    this.stop = stop;
    this.notice = notice;
    this.field = byId("prompt");
    this.button = byId("send");
    this.list = byId("attached");
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
    this.field.addEventListener("input", () => this.refresh());
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
    for (const file of files) {
      try {
        const { image, file: text } = await readFile(file);
        if (image) this.images.push(image);
        else this.files.push(text);
      } catch (error) {
        this.notice(error.message);
      }
    }
    this.showAttached();
    this.field.focus();
  }

  showAttached() {
    const entry = (list, i, what, name) => {
      const drop = iconButton("close", `Remove ${name}`, () => {
        list.splice(i, 1);
        this.showAttached();
        this.field.focus();
      });
      return h("li", { class: "chip" }, what, drop);
    };
    this.list.replaceChildren(
      ...this.images.map((url, i) => entry(this.images, i, h("img", { src: url, alt: `Picture ${i + 1}` }), `picture ${i + 1}`)),
      ...this.files.map((file, i) => entry(this.files, i, [icon("file"), file.name], file.name)),
    );
    this.refresh();
  }

  submit() {
    const message = { text: this.field.value.trim(), images: this.images, files: this.files };
    if (!this.full() || !this.send(message)) return;
    this.images = [];
    this.files = [];
    this.field.value = "";
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
    this.button.disabled = !this.busy && !this.full();
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
