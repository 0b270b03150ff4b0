// What a simulated day does in a tab: a model that says what it is told to, and hands on the page's own buttons.
"use strict";
{
  const real = window.fetch;
  const sim = { asked: 0, answer: null };
  window.sim = sim;

  window.fetch = (url, options) => {
    if (!String(url).endsWith("/v1/chat/completions")) return real(url, options);
    const question = JSON.parse(options.body).messages.at(-1).content;
    sim.asked += 1;
    const encoder = new TextEncoder();
    const body = new ReadableStream({
      start(control) {
        const send = (data) => control.enqueue(encoder.encode(`data: ${JSON.stringify(data)}\n\n`));
        const answer = { question, name: `A${Math.random().toString(36).slice(2)}`, text: "", open: true };
        answer.feed = (words) => {
          for (let i = 0; i < words; i++) {
            const word = answer.text ? ` w${i}` : `${answer.name} to ${question}:`;
            answer.text += word;
            send({ choices: [{ index: 0, delta: { content: word } }] });
          }
        };
        answer.finish = () => {
          send({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] });
          control.enqueue(encoder.encode("data: [DONE]\n\n"));
          control.close();
          answer.open = false;
        };
        options.signal.addEventListener("abort", () => {
          if (!answer.open) return;
          answer.open = false;
          control.error(new DOMException("", "AbortError"));
        });
        sim.answer = answer;
        answer.feed(1);
      },
    });
    return Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream" } }));
  };

  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const find = (selector) => document.querySelector(selector);

  /** Wait until something is so; false: it is not after twenty seconds. */
  sim.until = async (is) => {
    for (let i = 0; i < 4000; i++) {
      if (is()) return true;
      await pause(5);
    }
    return false;
  };
  sim.busy = () => find("#send").classList.contains("stop") || Boolean(sim.answer?.open);
  sim.say = (text) => {
    find("#prompt").value = text;
    find("#prompt").dispatchEvent(new Event("input"));
    find("#composer").requestSubmit();
  };
  sim.sayAt = (moment, text) => void setTimeout(() => sim.busy() || sim.say(text), moment - Date.now());
  sim.edit = async (text) => {
    const button = [...document.querySelectorAll('.message.user [aria-label="Edit message"]')].at(-1);
    if (!button) return; // another tab was quicker, and removed it
    button.click();
    find(".edit textarea").value = text;
    find(".edit").requestSubmit();
  };
  sim.titles = () => [...document.querySelectorAll("#conversations .open")].map((button) => button.textContent);
  sim.entry = (title) => [...document.querySelectorAll("#conversations li")].find((item) => item.firstChild.textContent === title);
  sim.told = () => {
    const { name = null, question = null, open = false } = sim.answer ?? {};
    return { asked: sim.asked, name, question, open, talk: sim.shown(), prompt: find("#prompt").value };
  };
  sim.shown = () => sessionStorage.getItem("herd.open");
  sim.messages = () => [...document.querySelectorAll(".message:not(.writing)")].map((one) => one.dataset.id);
  sim.open = (title) => {
    sim.entry(title)?.querySelector(".open").click();
    return sim.until(() => find("#title").textContent === title || !sim.entry(title));
  };
  sim.delete = (title) => {
    sim.entry(title).querySelector(".quiet").click();
    return sim.until(() => !sim.entry(title));
  };
  sim.remove = (id) => {
    const button = find(`[data-id="${id}"] [aria-label^="Remove"]`);
    button?.click();
    return button !== null;
  };
  sim.again = () => {
    const button = [...document.querySelectorAll('[aria-label="Answer again"]')].at(-1);
    button?.click();
    return button !== undefined;
  };
  sim.undo = (text) => {
    const line = [...document.querySelectorAll("#notices .notice")].find((one) => one.textContent.startsWith(text));
    line?.querySelector("button").click();
    return Boolean(line);
  };
  sim.importText = (text) => {
    const carried = new DataTransfer();
    carried.items.add(new File([text], "backup.json", { type: "application/json" }));
    const field = find("#import-file");
    field.files = carried.files;
    field.dispatchEvent(new Event("change"));
    return sim.until(() => [...document.querySelectorAll("#notices p")].some((line) => line.textContent.includes("imported")));
  };
  sim.clearNotices = () => find("#notices").replaceChildren();

  /** Everything that is stored, once all that was begun is done. */
  sim.stored = async () => {
    const asked = indexedDB.open("herd", 1);
    await new Promise((resolve) => (asked.onsuccess = resolve));
    const store = asked.result.transaction(["heads", "bodies"], "readwrite").objectStore("bodies").getAll();
    await new Promise((resolve) => (store.onsuccess = resolve));
    asked.result.close();
    return store.result;
  };
  sim.exported = async () => (await (await import("/page/store.js")).openStore()).exported();
}
