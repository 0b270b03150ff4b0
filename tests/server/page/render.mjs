// Reads a JSON list of texts on stdin, prints for each what the page makes of it: {html, said}.
import "./dom.mjs";

const [folder] = process.argv.slice(2);
const { Markdown } = await import(`file://${folder}/markdown.js`);
const { Speaker } = await import(`file://${folder}/speaker.js`);

let given = "";
for await (const piece of process.stdin) given += piece;
const told = JSON.parse(given).map((text) => {
  const root = document.createElement("div");
  new Markdown(root).show(text);
  const speaker = new Speaker();
  speaker.hear(root, true);
  return { html: root.childNodes.map((node) => node.outerHTML).join(""), said: speaker.region.textContent, text: root.textContent };
});
process.stdout.write(JSON.stringify(told), () => process.exit()); // a formula leaves its loader waiting

