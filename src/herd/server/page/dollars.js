// What stands between dollars: a formula, or a price, a path and a variable of the shell? Only what is clearly a formula
// becomes one; anything else is shown as it was written, so that a wrong guess costs the typesetting and never the text.

const WORDS = /\p{L}+/gu;
const COMMANDS = /\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathcal|mathbb|mathsf|operatorname|label|tag)\*?\{[^{}]*\}|\\[A-Za-z]+/g;
const SIGNS = new Set("\\^_=<>+*/|{}()[]-,'!:≤≥≠≈≡∈∉⊂⊆∪∩∞±×÷·→⇒↦√∑∏∫∂∇°′");
const DIGIT_OR_SIGN = new Set("0123456789.,+-*/=^() ");
const ENDS_COUNT = new Set("0123456789)"); // "2 + 3 = 5", "(1, 2)"; what lies between two prices ends as "5-" or "5,"
const ANY_DIGIT = /[0-9]/;
const PROSE = new Set(["and", "the", "or", "of", "to", "for", "in", "is", "at", "by", "per", "on", "was", "are", "not", "off"]);
const LONGEST_NAME = 3; // letters that are a product or a triangle, not a word

/** Whether a text is clearly TeX. `display`: it stood between marks that little but TeX has. */
export function isMath(tex, display = false) {
  const inner = tex.trim();
  const characters = [...inner];
  if (inner === "" || inner.includes("\n\n")) return false;
  if (characters.every((character) => DIGIT_OR_SIGN.has(character))) return characters.length === 1 || ENDS_COUNT.has(inner.at(-1));
  const bare = inner.replace(COMMANDS, " ");
  const letters = bare.match(WORDS) ?? [];
  const words = letters.filter((word) => word.length > LONGEST_NAME || PROSE.has(word.toLowerCase())).length;
  if (words > 0) return hasTex(inner) && words <= (display ? 12 : 2);
  if (characters.some((character) => SIGNS.has(character))) return letters.length > 0 || hasTex(inner) || ANY_DIGIT.test(inner);
  return letters.every((name) => name.length <= 2 || name === name.toUpperCase());
}

/** Whether there is what only TeX has, and no assignment of the shell: "USER=me". */
function hasTex(text) {
  return text.includes("\\") || text.includes("^") || (text.includes("=") && text.includes(" "));
}
