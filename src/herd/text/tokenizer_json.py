"""tokenizer.json, the format of Hugging Face's `tokenizers`: byte-level BPE by merge list, and nothing else of it.

Read: model (vocab, merges, ignore_merges), added_tokens with their flags, pre_tokenizer, and of post_processor whether
a text begins with the first token. Anything that would change ids (a normalizer, a prefix space, dropout, byte
fallback) is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from herd.errors import BadTokenizer, fail
from herd.text import splits
from herd.text.added import AddedToken
from herd.text.files import parse_json, read_bounded
from herd.text.merge_list import MAX_TOKENS, SENTENCEPIECE, SENTENCEPIECE_DO, build

MAX_FILE_BYTES = 32 << 20  # Llama 4's has 27.9 MB


_Id = Annotated[int, msgspec.Meta(ge=0, lt=MAX_TOKENS)]


class _Added(msgspec.Struct, rename={"text": "content"}):
    id: _Id
    text: str
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


class _File(msgspec.Struct):
    model: msgspec.Raw
    added_tokens: list[_Added] = []
    normalizer: Any = None
    pre_tokenizer: Any = None
    post_processor: Any = None


class _ModelKind(msgspec.Struct):
    type: str | None = None
    byte_fallback: bool = False
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    ignore_merges: bool = False


class _Model(msgspec.Struct):
    vocab: dict[str, _Id]
    merges: list[str | tuple[str, str]]


def load(source: str | Path | bytes, tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Tokenizer`. Raises NotFound, BadTokenizer."""
    where = "tokenizer.json" if isinstance(source, bytes) else str(source)
    data = source if isinstance(source, bytes) else read_bounded(Path(source), MAX_FILE_BYTES)
    if len(data) > MAX_FILE_BYTES:
        fail(BadTokenizer, f"{where}: size", got=f"{len(data)} bytes", expected=f"at most {MAX_FILE_BYTES}")
    file: _File = parse_json(data, _File, where)
    kind: _ModelKind = parse_json(file.model, _ModelKind, f"{where}: model")
    _check_kind(kind, file.normalizer, where)
    split = splits.from_pre_tokenizer(file.pre_tokenizer, where)
    model: _Model = parse_json(file.model, _Model, f"{where}: model")
    named = {key: _named(tokenizer_config, key) for key in ("bos_token", "eos_token")}
    for token in file.added_tokens:
        token.special |= token.text in named.values()
    tokens, ordinary, specials = _vocabulary(model.vocab, file.added_tokens, where)
    bos_id, eos_id = (_id_of(key, text, specials, where) for key, text in named.items())
    first_id = _first(file.post_processor, specials)
    add_bos = tokenizer_config.get("add_bos_token")
    template = tokenizer_config.get("chat_template")
    return build(
        tokens,
        ordinary,
        [merge if isinstance(merge, str) else _joined(merge, where) for merge in model.merges],
        whole_pieces=kind.ignore_merges,
        split=split,
        specials=specials,
        bos_id=bos_id if bos_id is not None else first_id,
        eos_ids=set() if eos_id is None else {eos_id},
        add_bos=add_bos if isinstance(add_bos, bool) else first_id is not None,
        template=template if isinstance(template, str) else None,
        added=[
            AddedToken(**msgspec.structs.asdict(token), merged=bool(ordinary[token.id])) for token in file.added_tokens
        ],
        where=where,
    )


def _check_kind(kind: _ModelKind, normalizer: Any, where: str) -> None:
    if kind.type == "Unigram" or kind.byte_fallback:
        what = kind.type if kind.type == "Unigram" else "byte_fallback"
        fail(BadTokenizer, f"{where}: model ({what}) {SENTENCEPIECE}", do=SENTENCEPIECE_DO)
    if kind.type not in ("BPE", None):
        fail(BadTokenizer, f"{where}: model.type", got=kind.type, expected="'BPE'")
    if normalizer is not None and normalizer != {"type": "Sequence", "normalizers": []}:
        got = normalizer.get("type") if isinstance(normalizer, dict) else type(normalizer).__name__
        fail(BadTokenizer, f"{where}: normalizer", got=got, expected="none")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(kind, field):
            fail(BadTokenizer, f"{where}: model.{field}", got=getattr(kind, field), expected="none")


def _vocabulary(vocab: Mapping[str, int], added: list[_Added], where: str) -> tuple[list[str], bytes, dict[str, int]]:
    """Text by id; 1 by id where text can become it; special tokens. Every id from 0 to the highest has one text."""
    num_tokens = 1 + max([*vocab.values(), *(token.id for token in added)], default=-1)
    tokens: list[str | None] = [None] * num_tokens
    ordinary = bytearray(num_tokens)
    for text, i in vocab.items():
        if tokens[i] is not None:
            fail(BadTokenizer, f"{where}: model.vocab: two tokens have id {i}", got=text)
        tokens[i], ordinary[i] = text, 1
    specials: dict[str, int] = {}
    for token in added:
        if tokens[token.id] not in (None, token.text) or vocab.get(token.text, token.id) != token.id:
            fail(BadTokenizer, f"{where}: added_tokens: id {token.id} is another token's", got=token.text)
        if tokens[token.id] is None or token.special:
            ordinary[token.id] = 0
        tokens[token.id] = token.text
        if token.special and specials.setdefault(token.text, token.id) != token.id:
            fail(BadTokenizer, f"{where}: added_tokens: two ids for one text", got=token.text)
    whole = [text for text in tokens if text is not None]
    if len(whole) != num_tokens:
        fail(BadTokenizer, f"{where}: no token has id {tokens.index(None)}", expected=f"all of 0 to {num_tokens - 1}")
    return whole, bytes(ordinary), specials


def _joined(merge: tuple[str, str], where: str) -> str:
    if " " in merge[0] or " " in merge[1]:
        fail(BadTokenizer, f"{where}: model.merges", got=merge, expected="tokens without a space")
    return " ".join(merge)


def _named(tokenizer_config: Mapping[str, Any], key: str) -> Any:
    """The special token that tokenizer_config.json names, as text or as an object with `content`."""
    value = tokenizer_config.get(key)
    return value.get("content") if isinstance(value, Mapping) else value


def _id_of(key: str, text: Any, specials: Mapping[str, int], where: str) -> int | None:
    if text is None:
        return None
    if not isinstance(text, str) or text not in specials:
        fail(BadTokenizer, f"{where}: {key} of tokenizer_config.json", got=text, expected="one of the special tokens")
    return specials[text]


def _first(post_processor: Any, specials: Mapping[str, int]) -> int | None:
    """Id of the special token that the post-processor puts before a single text, if it is a template that does."""
    if not isinstance(post_processor, dict):
        return None
    inner = post_processor.get("processors")
    for step in inner if isinstance(inner, list) else [post_processor]:
        single = step.get("single") if isinstance(step, dict) else None
        head = single[0] if isinstance(single, list) and single else None
        token = head.get("SpecialToken") if isinstance(head, dict) else None
        if isinstance(token, dict) and isinstance(token.get("id"), str):
            return specials.get(token["id"])
    return None
