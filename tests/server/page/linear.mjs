// Reads {patterns: {"/source/flags": [start of a near match, ...]}, thorough, short: characters} on stdin; prints whatever takes more than linear time, of
// the patterns and of the page's readers: [[what, filler, milliseconds short, milliseconds long], ...].
import "./dom.mjs";

const [folder] = process.argv.slice(2);
const load = (name) => import(`file://${folder}/${name}.js`);
const { blocksOf } = await load("blocks");
const { inline } = await load("inline");
const { Markdown } = await load("markdown");
const { Speaker } = await load("speaker");
const { isMath } = await load("dollars");
const talk = { ...(await load("conversation")), ...(await load("merge")) };

const TIMES = 8;
const SMALL_MS = 150; // what is quicker than that at the long length is not looked at: a square would take seconds
const LIMIT = 3 * TIMES; // a square would be 64 times slower

const MARKS = "* ** *a _ __ ~~ ` `` ```\n ~~~ [ ![ ] ( ) [a]( [a](x) $ $$ $a \\( \\[ \\[\n > >\n - 1. # | |- < <http:// http:// http://( ] \\ \" ' { } \\text{ \\a".split(" ");
const CHARACTERS = [
  ..."0a.!:\"'\\/[](){}<>&%@=+^", " ", "\t", "\n", "\u00a0", "\u2028", "\u0301", "\ufdfa", "\u200d", "\ud83d\ude00", "\ud800", "\u7684",
];
const MORE = [...MARKS.map((mark) => `a ${mark}b `), ...MARKS.map((mark) => `${mark}a\n`)];
const ENDS = ["", "x", "\u2028", "`", ")"];
const SHAPES = [
  ["runs of backticks of all lengths", (n) => Array.from({ length: Math.sqrt(2 * n) }, (_, i) => "`".repeat(i + 1)).join("a")],
  ["emphasis within emphasis", (n) => "*a ".repeat(n / 6) + " a*".repeat(n / 6)],
  ["a heading of spaces", (n) => `# a${" ".repeat(n)}b`],
  ["an item of spaces", (n) => `- ${" ".repeat(n)}\u2028`],
  ["a fence of tildes", (n) => `${"~".repeat(n)} \``],
  ["a rule of a table", (n) => `a|b\n-${" ".repeat(n)}x|`],
  ["a link's title", (n) => `[a](http://a${" ".repeat(n)}x)`],
  ["a bare link's end", (n) => `http://a${".".repeat(n)}x`],
  ["links that one bracket closes", (n) => `${"[a](".repeat(n / 4)})`],
  ["a wide table and many short rows", (n) => `${"|a".repeat(n / 8)}|\n${"|-".repeat(n / 8)}|\n${"|\n".repeat(n / 4)}`],
];

function* texts(fillers, starts, ends) {
  for (const start of starts) {
    for (const filler of fillers) {
      for (const end of ends) yield [`${start}${filler}×n${end}`, (n) => start + filler.repeat(Math.ceil(n / filler.length)) + end];
    }
  }
}

/** Milliseconds of this thread and its helpers: others on the machine do not count. */
function timed(act, text) {
  const began = process.cpuUsage();
  act(text);
  const { user, system } = process.cpuUsage(began);
  return (user + system) / 1000;
}

function* slow(what, act, all, shortest) {
  for (const [name, make] of all) {
    const long = make(shortest * TIMES);
    const first = timed(act, long);
    if (first <= SMALL_MS) continue;
    const small = make(shortest);
    const quick = Math.max(timed(act, small), timed(act, small));
    let late = first; // the shortest of some: a collection of garbage is no square
    for (let i = 0; i < 4 && late > SMALL_MS && late > LIMIT * quick; i++) late = Math.min(late, timed(act, long));
    if (late > SMALL_MS && late > LIMIT * quick) return void (yield [what, JSON.stringify(name), quick, late]); // one is enough
  }
}

function conversationOf(length, parentOf) {
  const messages = Array.from({ length }, (_, i) => ({ id: `m${i}`, parent: parentOf(i), role: i % 2 ? "assistant" : "user", text: "a", images: [], files: [], withheld: [] }));
  return { id: "c", messages, head: `m${length - 1}`, parameters: {}, dropped: [] };
}

function readAloud(text) {
  const root = document.createElement("div");
  new Markdown(root).show(text);
  new Speaker().hear(root, true);
}

function grown(text) {
  const root = document.createElement("div");
  const [markdown, speaker] = [new Markdown(root), new Speaker()];
  for (let i = 1; i <= 4; i++) {
    markdown.show(text.slice(0, (text.length * i) / 4));
    speaker.hear(root, i === 4);
  }
}

const fence = (text) => talk.requestOf({ ...conversationOf(1, () => null), messages: [{ ...conversationOf(1, () => null).messages[0], files: [{ name: "a", text }] }] });
const READERS = { "Markdown and Speaker": readAloud, "text of a file": fence };
const MORE_READERS = { inline, blocksOf, isMath, "Markdown that grows": grown };
const TREES = {
  chain: (i) => (i ? `m${i - 1}` : null),
  star: (i) => (i ? "m0" : null),
  ring: (i, n) => `m${(i + 1) % n}`,
  orphans: (i) => `none${i}`,
};

function walk(parentOf, length) {
  const conversation = conversationOf(length, (i) => parentOf(i, length));
  talk.mend(conversation);
  talk.choose(conversation, conversation.messages[0]);
  talk.pathOf(conversation);
  talk.branchesOf(conversation);
  talk.removeMessage(conversation, conversation.messages[0]);
  talk.merged(conversation, conversationOf(length, (i) => parentOf(i, length)));
}

let given = "";
for await (const piece of process.stdin) given += piece;
const { patterns, thorough, short } = JSON.parse(given);
const fillers = [...CHARACTERS, ...MARKS, " \n", "a ", "a\n", "e\u0301", ...MORE];
const found = [];
for (const [literal, starts] of Object.entries(patterns)) {
  const end = literal.lastIndexOf("/");
  const flags = literal.slice(end + 1);
  const pattern = new RegExp(literal.slice(1, end), flags.includes("g") || flags.includes("y") ? flags : `${flags}g`);
  const act = (text) => text.replace(pattern, "");
  found.push(...slow(literal, act, texts([...CHARACTERS, ...starts], ["", ...starts], thorough ? ENDS : ENDS.slice(0, 3)), short));
}
for (const [name, act] of Object.entries(thorough ? { ...READERS, ...MORE_READERS } : READERS)) {
  found.push(...slow(name, act, [...texts(thorough ? fillers : [], [""], [""]), ...SHAPES], short));
}
for (const [shape, parentOf] of Object.entries(TREES)) {
  found.push(...slow(`a ${shape} of messages`, (length) => walk(parentOf, length), [["", (n) => Math.round(n / 16)]], short));
}
process.stdout.write(JSON.stringify(found), () => process.exit());
