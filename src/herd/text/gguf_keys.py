"""The tokenizer of a GGUF file: its `tokenizer.ggml.*` keys, model "gpt2" (byte-level BPE by merge list).

Keys as llama.cpp's converter writes them (ggml/docs/gguf.md): tokens, token_type, merges, pre, bos_token_id,
eos_token_id, eot_token_id, eom_token_id, add_bos_token. `tokenizer.chat_template` and
`tokenizer.chat_template.NAME` are kept as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from herd.errors import BadTokenizer, fail
from herd.text import splits
from herd.text.added import AddedToken
from herd.text.merge_list import SENTENCEPIECE, SENTENCEPIECE_DO, build

_PREFIX = "tokenizer.ggml."
# Token types: normal tokens come from text by merging, user-defined ones wherever they stand in it. The others are
# special, and unused ones are looked for by nobody.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
_NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding"}
"""What templates call a token -> what its key does (GGUF spells it so)."""


def load(keys: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The arguments of `Tokenizer`. Raises BadTokenizer."""
    model = keys.get(_PREFIX + "model")
    if model in ("llama", "t5"):
        fail(BadTokenizer, f"{where}: {_PREFIX}model {model!r} {SENTENCEPIECE}", do=SENTENCEPIECE_DO)
    if model != "gpt2":
        fail(BadTokenizer, f"{where}: {_PREFIX}model", got=model, expected="'gpt2' (byte-level BPE)")
    split = splits.from_gguf(keys.get(_PREFIX + "pre"), where)
    tokens = _list(keys, "tokens", str, where)
    types = _list(keys, "token_type", int, where)
    merges = _list(keys, "merges", str, where)
    if len(types) != len(tokens):
        fail(BadTokenizer, f"{where}: {_PREFIX}token_type", got=f"{len(types)} types", expected=f"{len(tokens)}")
    bad = set(types) - {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED}
    if bad:
        fail(BadTokenizer, f"{where}: {_PREFIX}token_type", got=min(bad), expected="1 to 5 in a byte-level vocabulary")
    specials: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind in (_UNKNOWN, _CONTROL, _UNUSED) and specials.setdefault(text, i) != i:
            fail(BadTokenizer, f"{where}: special tokens {specials[text]} and {i} are the same text", got=text)
    eos_ids = {_id(keys, key, len(tokens), where) for key in ("eos_token_id", "eot_token_id", "eom_token_id")}
    add_bos = keys.get(_PREFIX + "add_bos_token")
    template = keys.get("tokenizer.chat_template")
    named = {f"{name}_token": _id(keys, f"{key}_token_id", len(tokens), where) for name, key in _NAMES.items()}
    made = in_merges(tokens, types, merges)
    found = build(
        tokens,
        bytes(kind == _NORMAL or i in made for i, kind in enumerate(types)),
        merges,
        whole_pieces=split in splits.WHOLE_PIECES,
        split=split,
        specials=specials,
        bos_id=_id(keys, "bos_token_id", len(tokens), where),
        eos_ids={i for i in eos_ids if i is not None},
        # Llama 3 and 4 start every text with their first token; older files leave the key out (llama.cpp does the
        # same).
        add_bos=add_bos if isinstance(add_bos, bool) else split in splits.WHOLE_PIECES,
        template=template if isinstance(template, str) else None,
        added=[
            AddedToken(i, text, special=kind != _USER_DEFINED, merged=i in made)
            for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
            if kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        ],
        where=where,
    )
    texts = {name: tokens[i] for name, i in named.items() if i is not None}
    return {**found, "named": texts, "templates": _templates(keys)}


def _templates(keys: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name, but for the one without."""
    start = "tokenizer.chat_template."
    return {
        key.removeprefix(start): text for key, text in keys.items() if key.startswith(start) and isinstance(text, str)
    }


def in_merges(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> frozenset[int]:
    """Ids of user-defined tokens that a merge makes or takes: they were in the vocabulary before they were added."""
    own = {text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _USER_DEFINED}
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
