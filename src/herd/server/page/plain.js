// What stands on the page as plain text: for those who listen and for what is copied. A formula is its source; what only
// serves the page (buttons, the bar of a code block) is left out.

const LINES = new Set(["P", "H3", "H4", "H5", "H6", "LI", "PRE", "BLOCKQUOTE", "TR", "DIV", "UL", "OL", "TABLE", "HR"]);

/** The text of nodes. */
export function plainText(...nodes) {
  const parts = [];
  nodes.forEach((node) => read(node, parts, { raw: false, number: 0 }));
  return parts.join("").trim();
}

function read(node, parts, state) {
  if (node.nodeType === 3) return void parts.push(state.raw ? node.data : node.data.replaceAll("\n", " "));
  const { tagName = "", dataset } = node;
  if (tagName === "BUTTON" || node.classList?.contains("bar")) return;
  if (dataset?.source) return void parts.push(dataset.source);
  if (tagName === "BR") return void parts.push("\n");
  if (tagName === "IMG") return void parts.push(node.getAttribute("alt") ?? "");
  if (tagName === "LI") parts.push(state.number ? `${state.number++}. ` : "- ");
  const first = tagName === "OL" ? Number(node.getAttribute("start") ?? 1) : 0;
  const within = { raw: state.raw || tagName === "PRE", number: first };
  node.childNodes.forEach((child) => read(child, parts, within));
  if (tagName === "TD" || tagName === "TH") parts.push("\t");
  else if (LINES.has(tagName)) parts.push("\n");
}

/** On copying: formulas of a selection become their source, since MathML copies as a heap of signs. */
export function copySources(root) {
  root.addEventListener("copy", (event) => {
    const selection = document.getSelection();
    if (!selection.rangeCount || event.target.closest?.("textarea, input")) return;
    const copied = selection.getRangeAt(0).cloneContents();
    if (!copied.querySelector(".math")) return;
    event.clipboardData.setData("text/plain", plainText(copied));
    event.preventDefault();
  });
}
