// The model picker and the context meter: which model answers, whether it is loaded, how much of its context is used.

import { byId, h } from "./dom.js";

const LAST = "herd.model";
const EVERY_MS = 30_000;
const NEARLY_FULL = 0.8;

export class Models {
  /** changed(name): another model was picked; shown(): what is known of it may have changed. */
  constructor(api, changed, shown) {
    this.api = api;
    this.shown = shown;
    this.picker = byId("model");
    this.state = byId("model-state");
    this.meter = byId("meter");
    this.known = new Map();
    this.picker.addEventListener("change", () => {
      localStorage.setItem(LAST, this.picker.value);
      this.showState();
      changed(this.picker.value);
    });
    setInterval(() => document.visibilityState === "visible" && this.refresh().catch(() => {}), EVERY_MS);
  }

  /** Ask the service. Raises ApiError. */
  async refresh() {
    const models = await this.api.models();
    const wanted = this.wanted ?? this.picker.value;
    this.known = new Map(models.map((model) => [model.id, model]));
    this.picker.replaceChildren(...models.map((model) => h("option", { value: model.id, text: model.id })));
    this.pick(wanted || localStorage.getItem(LAST));
  }

  get name() {
    return this.picker.value;
  }

  /** Whether the model takes pictures; undefined: the service does not say. */
  get takesImages() {
    return this.known.get(this.name)?.architecture?.input_modalities?.includes("image");
  }

  /** Tokens of its context; undefined: not known. */
  get context() {
    return this.known.get(this.name)?.context_length;
  }

  get loaded() {
    return this.known.get(this.name)?.loaded === true;
  }

  /** Pick by name; where there is no such model, one that is loaded, else the first. */
  pick(name) {
    this.wanted = this.known.size ? null : name;
    const loaded = [...this.known.values()].find((model) => model.loaded);
    this.picker.value = this.known.has(name) ? name : (loaded?.id ?? this.known.keys().next().value ?? "");
    this.showState();
  }

  showState() {
    const none = this.known.size === 0;
    this.picker.disabled = none;
    this.state.textContent = none ? "no model" : this.loaded ? "loaded" : "loads on first use";
    this.state.classList.toggle("loaded", this.loaded);
    this.showUsed(this.used);
    this.shown();
  }

  /** Tokens of the conversation so far; undefined: not known. */
  showUsed(used) {
    this.used = used;
    const whole = this.context;
    this.meter.hidden = !used || !whole;
    if (this.meter.hidden) return;
    const part = Math.min(1, used / whole);
    const text = `${short(used)} of ${short(whole)} tokens`;
    this.meter.setAttribute("aria-valuenow", String(Math.round(part * 100)));
    this.meter.setAttribute("aria-valuetext", text);
    this.meter.title = `Context: ${text}`;
    this.meter.classList.toggle("nearly-full", part >= NEARLY_FULL);
    this.meter.querySelector(".fill").style.width = `${part * 100}%`;
    this.meter.querySelector(".number").textContent = text;
  }
}

function short(count) {
  if (count < 1000) return String(count);
  return count < 1_000_000 ? `${(count / 1000).toFixed(count < 10_000 ? 1 : 0)}k` : `${(count / 1_000_000).toFixed(1)}M`;
}
