// Reads {text, step} on stdin and prints what is told of an answer that grows by so many characters, as JSON.
import "./dom.mjs";

const [folder] = process.argv.slice(2);
const { Markdown } = await import(`file://${folder}/markdown.js`);
const { Speaker } = await import(`file://${folder}/speaker.js`);

let given = "";
for await (const piece of process.stdin) given += piece;
const { text, step } = JSON.parse(given);
const root = document.createElement("div");
const [markdown, speaker] = [new Markdown(root), new Speaker()];
const told = [];
speaker.say = (words) => told.push(words);
for (let end = step; end < text.length + step; end += step) {
  markdown.show(text.slice(0, end));
  speaker.hear(root);
}
speaker.hear(root, true);
process.stdout.write(JSON.stringify(told.join("")), () => process.exit());
