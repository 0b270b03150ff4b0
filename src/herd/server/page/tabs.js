// The tabs of this page tell each other what they changed. Nothing depends on it for keeping what was written (the store
// merges); it is how a tab learns at once that another one wrote on, or deleted what it is writing.

const WAIT_MS = 500; // a tab that writes answers at once, also in the background

export class Tabs {
  /** heard(kind, ids): another tab "changed" or "removed" these conversations. */
  constructor(heard) {
    this.heard = heard;
    this.writing = null; // id of the message that this tab writes
    this.waiting = new Map();
    this.channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("herd") : null;
    if (this.channel) this.channel.onmessage = ({ data }) => this.take(data);
  }

  tell(kind, ids) {
    this.channel?.postMessage({ kind, ids });
  }

  /** Whether another tab is writing this message now. */
  async writes(id) {
    if (!this.channel) return false;
    const answer = new Promise((resolve) => {
      this.waiting.set(id, () => resolve(true));
      setTimeout(() => resolve(false), WAIT_MS);
    });
    this.tell("who writes", [id]);
    const found = await answer;
    this.waiting.delete(id);
    return found;
  }

  take({ kind, ids }) {
    if (kind === "who writes") {
      if (this.writing !== null && ids.includes(this.writing)) this.tell("I write", [this.writing]);
    } else if (kind === "I write") this.waiting.get(ids[0])?.();
    else this.heard(kind, ids);
  }
}
