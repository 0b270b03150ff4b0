// The drawer of parameters. An empty field is the model's own choice; numbers out of range are not taken.

import { PARAMETERS } from "./conversation.js";
import { byId } from "./dom.js";

const LAST = "herd.parameters";

export class Settings {
  /** changed(parameters): called with all of them when one changes. */
  constructor(changed) {
    this.dialog = byId("settings");
    this.fields = new Map(PARAMETERS.map((name) => [name, byId(`set-${name}`)]));
    byId("parameters").addEventListener("click", () => this.dialog.showModal());
    byId("settings-close").addEventListener("click", () => this.dialog.close());
    byId("settings-clear").addEventListener("click", () => {
      this.show({});
      changed(this.read());
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("input", () => changed(this.read()));
  }

  show(parameters) {
    for (const [name, field] of this.fields) field.value = parameters[name] ?? "";
  }

  read() {
    const found = {};
    for (const [name, field] of this.fields) {
      if (field.value.trim() === "" || !field.checkValidity()) continue;
      found[name] = name === "system" ? field.value : Number(field.value);
    }
    localStorage.setItem(LAST, JSON.stringify(found));
    return found;
  }

  /** What was set last: a new conversation begins with it. */
  static last() {
    try {
      return JSON.parse(localStorage.getItem(LAST) ?? "{}");
    } catch {
      return {}; // something else wrote there
    }
  }
}
