"""Where SentencePiece vocabularies put a space before a text, and how tokenizer.json says it.

In these vocabularies a space is a character of its own (U+2581) and words begin with it, the first one too: a space is
put before a text. Behind an added token that stands in it, programs differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from herd.errors import BadTokenizer, fail

MARK = "\u2581"
"""What stands for a space in the pieces of such a vocabulary; in a text it is one."""

Place: TypeAlias = Literal["start", "token", "text"]
"""What comes before a text: nothing, an added token, or text that it goes on with."""


class Spaces(NamedTuple):
    """The rule of a vocabulary.

    before       none; first: before a whole text; each: also behind each added token
    doubled      also before what begins with a space
    normalizing  it is put there before tokens that are marked `normalized` are looked for
    in_tokens    and before these, too
    """

    before: Literal["none", "first", "each"]
    doubled: bool = True
    normalizing: bool = False
    in_tokens: bool = False

    def put(self, text: str, place: Place) -> str:
        """The text with spaces as merging sees them. place: what comes before it."""
        text = text.replace(MARK, " ")
        wanted = place == "start" if self.before == "first" else self.before == "each" and place != "text"
        return " " + text if wanted and text and (self.doubled or text[0] != " ") else text


def is_sentencepiece(byte_fallback: bool, normalizer: Any, pre_tokenizer: Any) -> bool:
    """Whether a tokenizer.json of kind BPE is over characters, with U+2581 for spaces, not over bytes."""
    steps = [*_steps(normalizer, "normalizers"), *_steps(pre_tokenizer, "pretokenizers")]
    return byte_fallback or any(step.get("type") in ("Prepend", "Metaspace") for step in steps)


def read(normalizer: Any, pre_tokenizer: Any, where: str) -> tuple[Spaces, bool]:
    """The rule that a tokenizer.json has, and whether each space begins a piece that merges do not cross. Raises
    BadTokenizer for any other normalizer or pre-tokenizer."""
    kinds = [_normal(step, where) for step in _steps(normalizer, "normalizers")]
    metaspaces = [step for step in _steps(pre_tokenizer, "pretokenizers") if not _cuts_nothing(step)]
    if kinds and kinds not in (["prepend", "replace"], ["replace"]):
        fail(BadTokenizer, f"{where}: normalizer", got=", ".join(kinds), expected=f"Prepend {MARK} and Replace")
    if len(metaspaces) > 1 or any(step.get("type") != "Metaspace" for step in metaspaces):
        got = ", ".join(str(step.get("type"))[:20] for step in metaspaces[:8])
        fail(BadTokenizer, f"{where}: pre_tokenizer", got=got, expected="Metaspace or none")
    if not metaspaces:
        if not kinds:
            fail(BadTokenizer, f"{where}: normalizer and pre_tokenizer", got="none", expected="one that keeps spaces")
        return Spaces("each" if "prepend" in kinds else "none", normalizing=True, in_tokens=True), False
    if "prepend" in kinds:
        fail(BadTokenizer, f"{where}: normalizer", got="Prepend beside Metaspace", expected="one of them")
    return _metaspace(metaspaces[0], where)


def _metaspace(step: Mapping[str, Any], where: str) -> tuple[Spaces, bool]:
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    before = {"always": "each", "first": "first", "never": "none"}
    if scheme not in before or step.get("replacement") != MARK:
        got = f"{str(scheme)[:20]}, {str(step.get('replacement'))[:20]}"
        fail(BadTokenizer, f"{where}: Metaspace", got=got, expected=f"always, first or never, and {MARK}")
    rule: Any = before[scheme]
    return Spaces(rule, doubled=False), bool(step.get("split", True))


def _normal(step: Mapping[str, Any], where: str) -> str:
    """A step of a normalizer: prepend or replace. Raises BadTokenizer for others."""
    match step:
        case {"type": "Prepend", "prepend": "\u2581"}:
            return "prepend"
        case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
            return "replace"
    return fail(BadTokenizer, f"{where}: normalizer", got=str(step.get("type"))[:20], expected="Prepend or Replace")


def _cuts_nothing(step: Mapping[str, Any]) -> bool:
    """Whether a pre-tokenizer looks for spaces where a normalizer has left none."""
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _steps(structure: Any, inner: str) -> Sequence[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, at most eight; anything else than objects counts as one unknown."""
    if structure is None:
        return []
    found = structure.get(inner) if isinstance(structure, dict) and structure.get("type") == "Sequence" else [structure]
    steps = found if isinstance(found, list) and len(found) <= 8 else [None]
    return [step if isinstance(step, dict) else {"type": "?"} for step in steps]
