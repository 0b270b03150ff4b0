"""The tokenizer of a GGUF file: its `tokenizer.ggml.*` keys, model "gpt2" (byte-level BPE by merge list) or "llama"
(SentencePiece's BPE by scores).

Keys as llama.cpp's converter writes them (ggml/docs/gguf.md): tokens, token_type, merges, scores, pre, bos_token_id,
eos_token_id, eot_token_id, eom_token_id, unknown_token_id, add_bos_token, add_space_prefix. `tokenizer.chat_template`
and `tokenizer.chat_template.NAME` are kept as they are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from herd.errors import BadTokenizer, fail
from herd.text import sentencepiece, special, split_names
from herd.text.added import AddedToken
from herd.text.merge_list import UNIGRAM, UNIGRAM_DO, build
from herd.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from herd.text.spaces import Spaces

_PREFIX = "tokenizer.ggml."
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# What llama.cpp takes where a file of kind "llama" says nothing.
_USUAL = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
_LIKE_CONTROL = re.compile(r"<\|[^<>|\s]{1,200}\|>")
_KNOWN = frozenset((*special.LLAMA3, *special.LLAMA4, *special.ENDS, *sentencepiece.ENDS, "<s>", "<unk>", "<pad>"))
_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding"}
"""What templates call a token -> what its key does (GGUF spells it so)."""


def load(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of `Tokenizer`. Raises BadTokenizer."""
    model = keys.get(_PREFIX + "model")
    if model == "t5":
        fail(BadTokenizer, f"{where}: {_PREFIX}model {model!r} {UNIGRAM}", do=UNIGRAM_DO)
    if model not in ("gpt2", "llama"):
        fail(BadTokenizer, f"{where}: {_PREFIX}model", got=model, expected="'gpt2' or 'llama' (BPE)")
    tokens = _list(keys, "tokens", str, where)
    return _characters(keys, tokens, where) if model == "llama" else _bytes(keys, tokens, where)


def _bytes(keys: Mapping[str, Any], tokens: Sequence[str], where: str) -> dict[str, Any]:
    """A byte-level vocabulary."""
    named = split_names.from_gguf(keys.get(_PREFIX + "pre"), tokens, where)
    merges = _list(keys, "merges", str, where)
    types, notes = _types(keys, tokens, merges, where)
    if BYTE in types:
        fail(BadTokenizer, f"{where}: {_PREFIX}token_type", got=BYTE, expected="1 to 5 in a byte-level vocabulary")
    add_bos = keys.get(_PREFIX + "add_bos_token")
    made = in_merges(tokens, types, merges)
    specials, added = _specials(tokens, types), _added(tokens, types, made)
    found = build(
        tokens,
        bytes(kind == NORMAL or i in made for i, kind in enumerate(types)),
        merges,
        whole_pieces=named.whole,
        split=named.split,
        specials=specials,
        bos_id=_id(keys, "bos_token_id", len(tokens), where),
        eos_ids=_ids(keys, _ENDS, len(tokens), where),
        # Llama 3 and 4 start every text with their first token; older files leave the key out (llama.cpp does the
        # same).
        add_bos=add_bos if isinstance(add_bos, bool) else named.bos,
        template=_template(keys),
        added=added,
        where=where,
    )
    return {**found, "notes": [*filter(None, [named.note]), *notes], **_for_templates(keys, tokens, where)}


def _characters(keys: Mapping[str, Any], tokens: Sequence[str], where: str) -> dict[str, Any]:
    """SentencePiece's."""
    usual = {_PREFIX + key: i for key, i in _USUAL.items() if i < len(tokens)}
    keys = {**usual, **keys}
    types, notes = _types(keys, tokens, None, where)
    bad = next((i for i, kind in enumerate(types) if kind == BYTE and not sentencepiece.is_byte(tokens[i])), None)
    if bad is not None:
        fail(BadTokenizer, f"{where}: token {bad} of a byte", got=tokens[bad], expected="<0x00> to <0xFF>")
    scores = _scores(keys, len(tokens), where)
    unknown = _id(keys, "unknown_token_id", len(tokens), where)
    add_bos, prefix = keys.get(_PREFIX + "add_bos_token"), keys.get(_PREFIX + "add_space_prefix")
    found = sentencepiece.build(
        sentencepiece.Pieces(tokens, types, scores, unknown=unknown if UNKNOWN in types else None),
        Spaces("none" if prefix is False else "each"),
        bos_id=_id(keys, "bos_token_id", len(tokens), where),
        eos_ids=_ids(keys, _ENDS, len(tokens), where),
        add_bos=add_bos if isinstance(add_bos, bool) else True,
        template=_template(keys),
        added=_added(tokens, types, frozenset()),
        where=where,
    )
    return {**found, "notes": notes, **_for_templates(keys, tokens, where)}


def _for_templates(keys: Mapping[str, Any], tokens: Sequence[str], where: str) -> dict[str, Any]:
    """Special tokens by name, and templates by name but for the one without."""
    named = {f"{name}_token": _id(keys, f"{key}_token_id", len(tokens), where) for name, key in _NAMES.items()}
    start = "tokenizer.chat_template."
    templates = {
        key.removeprefix(start): text for key, text in keys.items() if key.startswith(start) and isinstance(text, str)
    }
    return {"named": {name: tokens[i] for name, i in named.items() if i is not None}, "templates": templates}


def types_of(keys: Mapping[str, Any], where: str) -> list[int]:
    """The type of each token, as the file says or as is assumed of it. Raises BadTokenizer."""
    merges = _list(keys, "merges", str, where) if keys.get(_PREFIX + "model") == "gpt2" else None
    return [int(kind) for kind in _types(keys, _list(keys, "tokens", str, where), merges, where)[0]]


def _types(
    keys: Mapping[str, Any], tokens: Sequence[str], merges: Sequence[str] | None, where: str
) -> tuple[Sequence[int], list[str]]:
    """The type of each token, and what was assumed where the file says none. merges: of a byte-level vocabulary."""
    if keys.get(_PREFIX + "token_type") is None:
        note = f"no {_PREFIX}token_type: tokens that are named as control tokens are taken for such"
        return _guessed_types(keys, tokens, merges, where), [note]
    types = _list(keys, "token_type", int, where)
    if len(types) != len(tokens):
        fail(BadTokenizer, f"{where}: {_PREFIX}token_type", got=f"{len(types)} types", expected=f"{len(tokens)}")
    bad = set(types) - {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}
    if bad:
        expected = "1 to 5 in a byte-level vocabulary" if merges is not None else "1 to 6"
        fail(BadTokenizer, f"{where}: {_PREFIX}token_type", got=min(bad), expected=expected)
    return types, []


def _guessed_types(
    keys: Mapping[str, Any], tokens: Sequence[str], merges: Sequence[str] | None, where: str
) -> list[int]:
    """Control is what keys name, what families name so, and what looks like `<|name|>`; but nothing that merges
    make."""
    made = {merge.replace(" ", "", 1) for merge in merges or ()}
    named = _ids(keys, (*_ENDS, "bos_token_id", "padding_token_id"), len(tokens), where)
    types = []
    for i, text in enumerate(tokens):
        looks = i in named or text in _KNOWN or _LIKE_CONTROL.fullmatch(text) is not None
        types.append(CONTROL if looks and text not in made else NORMAL)
        if merges is None and sentencepiece.is_byte(text):
            types[i] = BYTE
    unknown = _id(keys, "unknown_token_id", len(tokens), where)
    if merges is None and unknown is not None:
        types[unknown] = UNKNOWN
    return types


def _specials(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """Special tokens by text; of two with one text the first counts."""
    found: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (UNKNOWN, CONTROL, UNUSED):
            found.setdefault(text, i)
    return found


def _added(tokens: Sequence[str], types: Sequence[int], made: frozenset[int]) -> list[AddedToken]:
    return [
        AddedToken(i, text, special=kind != USER_DEFINED, merged=i in made)
        for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _scores(keys: Mapping[str, Any], num_tokens: int, where: str) -> list[float]:
    """The score of each token; all alike where the file has none."""
    values: Any = keys.get(_PREFIX + "scores", [0.0] * num_tokens)
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list) or set(map(type, values)) - {int, float} or len(values) != num_tokens:
        expected = f"{num_tokens} numbers, one a token"
        fail(BadTokenizer, f"{where}: {_PREFIX}scores", got=type(values).__name__, expected=expected)
    return [float(value) for value in values]


def _template(keys: Mapping[str, Any]) -> str | None:
    template = keys.get("tokenizer.chat_template")
    return template if isinstance(template, str) else None


def _ids(keys: Mapping[str, Any], names: Sequence[str], num_tokens: int, where: str) -> set[int]:
    """The ids that some keys name."""
    found = (_id(keys, key, num_tokens, where) for key in names)
    return {i for i in found if i is not None}


def in_merges(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> frozenset[int]:
    """Ids of user-defined tokens that a merge makes or takes: they were in the vocabulary before they were added."""
    own = {text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind == USER_DEFINED}
    if not own:
        return frozenset()
    parts = (part for merge in merges for part in (*merge.split(" "), merge.replace(" ", "", 1)))
    return frozenset(own[part] for part in parts if part in own)


def _list(keys: Mapping[str, Any], key: str, kind: type, where: str) -> Sequence[Any]:
    values: Any = keys.get(_PREFIX + key)
    if hasattr(values, "tolist"):  # a numpy array, as readers give numbers
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        fail(
            BadTokenizer, f"{where}: {_PREFIX}{key}", got=type(values).__name__, expected=f"an array of {kind.__name__}"
        )
    if set(map(type, values)) - {kind}:
        fail(BadTokenizer, f"{where}: {_PREFIX}{key}", got="other elements", expected=f"an array of {kind.__name__}")
    return values


def _id(keys: Mapping[str, Any], key: str, num_tokens: int, where: str) -> int | None:
    value = keys.get(_PREFIX + key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < num_tokens:
        fail(BadTokenizer, f"{where}: {_PREFIX}{key}", got=value, expected=f"0 to {num_tokens - 1}")
    return value
