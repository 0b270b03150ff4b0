// The dialog that asks the visitor for a key.

import { keyProblem } from "./api.js";
import { byId } from "./dom.js";

/** The key that the visitor gives; null: none. `problem`: what was wrong with the last one, "" if nothing. */
export function askKey(problem) {
  const dialog = byId("key-dialog");
  const form = dialog.querySelector("form");
  const field = byId("key");
  const say = (text) => (byId("key-problem").textContent = text);
  say(problem);
  field.value = "";
  return new Promise((resolve) => {
    let given = null;
    const submit = (event) => {
      event.preventDefault();
      const key = field.value.trim();
      const wrong = keyProblem(key);
      if (wrong) return say(wrong);
      given = key || null;
      dialog.close();
    };
    form.addEventListener("submit", submit);
    byId("key-cancel").onclick = () => dialog.close();
    const closed = () => {
      form.removeEventListener("submit", submit);
      resolve(given);
    };
    dialog.addEventListener("close", closed, { once: true });
    dialog.showModal();
    field.focus();
  });
}
