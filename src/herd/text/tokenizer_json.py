"""tokenizer.json, the format of Hugging Face's `tokenizers`: BPE by merge list, over bytes or over characters.

Read: model (vocab, merges, ignore_merges, byte_fallback), added_tokens with their flags, pre_tokenizer, the normalizer
of SentencePiece's vocabularies, and of post_processor whether a text begins with the first token. Anything else that
would change ids (other normalizers, a prefix space before bytes, dropout) is refused by name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from herd.errors import BadTokenizer, fail
from herd.text import sentencepiece, spaces, split_names
from herd.text.added import AddedToken
from herd.text.files import parse_json, read_bounded
from herd.text.merge_list import MAX_TOKENS, UNIGRAM, UNIGRAM_DO, build

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
    unk_token: str | None = None
    fuse_unk: bool = False
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
    over_characters = spaces.is_sentencepiece(kind.byte_fallback, file.normalizer, file.pre_tokenizer)
    _check_kind(kind, where)
    if not over_characters:
        _check_normalizer(file.normalizer, where)
        split = split_names.from_pre_tokenizer(file.pre_tokenizer, where)
    model: _Model = parse_json(file.model, _Model, f"{where}: model")
    named = {key: _named(tokenizer_config, key) for key in ("bos_token", "eos_token")}
    for token in file.added_tokens:
        token.special |= token.text in named.values()
    tokens, ordinary, specials, added, unused, notes = _all_tokens(model.vocab, file.added_tokens, where)
    bos_id, eos_id = (_id_of(key, text, specials, where) for key, text in named.items())
    first_id = _first(file.post_processor, specials)
    add_bos = tokenizer_config.get("add_bos_token")
    template = tokenizer_config.get("chat_template")
    merges = [merge if isinstance(merge, str) else _joined(merge, where) for merge in model.merges]
    common: dict[str, Any] = {
        "bos_id": bos_id if bos_id is not None else first_id,
        "eos_ids": set() if eos_id is None else {eos_id},
        "add_bos": add_bos if isinstance(add_bos, bool) else first_id is not None,
        "template": template if isinstance(template, str) else None,
        "added": added,
        "unused": unused,
        "where": where,
    }
    if over_characters:
        rule, each = spaces.read(file.normalizer, file.pre_tokenizer, where)
        types = _types(tokens, ordinary, specials, kind)
        unknown = model.vocab.get(kind.unk_token) if kind.unk_token is not None else None
        pieces = sentencepiece.Pieces(
            tokens, types, None, merges, unknown, kind.fuse_unk, fallback=kind.byte_fallback, each=each
        )
        return {**sentencepiece.build(pieces, rule, **common), "notes": notes}
    whole = kind.ignore_merges
    found = build(tokens, ordinary, merges, whole_pieces=whole, split=split, specials=specials, **common)
    return {**found, "notes": notes}


def _types(tokens: list[str], ordinary: bytes, specials: Mapping[str, int], kind: _ModelKind) -> list[int]:
    """Types of pieces, as SentencePiece numbers them."""
    found = [sentencepiece.NORMAL if one else sentencepiece.USER_DEFINED for one in ordinary]
    for i in specials.values():
        found[i] = sentencepiece.CONTROL
    for i, text in enumerate(tokens) if kind.byte_fallback else ():
        if ordinary[i] and sentencepiece.is_byte(text):
            found[i] = sentencepiece.BYTE
    return found


def _check_kind(kind: _ModelKind, where: str) -> None:
    if kind.type == "Unigram":
        fail(BadTokenizer, f"{where}: model {UNIGRAM}", do=UNIGRAM_DO)
    if kind.type not in ("BPE", None):
        fail(BadTokenizer, f"{where}: model.type", got=kind.type, expected="'BPE'")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(kind, field):
            fail(BadTokenizer, f"{where}: model.{field}", got=getattr(kind, field), expected="none")


def _check_normalizer(normalizer: Any, where: str) -> None:
    if normalizer is not None and normalizer != {"type": "Sequence", "normalizers": []}:
        got = normalizer.get("type") if isinstance(normalizer, dict) else type(normalizer).__name__
        fail(BadTokenizer, f"{where}: normalizer", got=got, expected="none")


class _Tokens(NamedTuple):
    """All tokens: text by id, empty where there is none; 1 by id where text becomes it by merging; special ones; added
    ones; what was assumed."""

    texts: list[str]
    ordinary: bytes
    specials: dict[str, int]
    added: list[AddedToken]
    unused: list[int]
    notes: list[str]


def _all_tokens(vocab: Mapping[str, int], added: list[_Added], where: str) -> _Tokens:
    """The tokens of a file. An added token has the id that `tokenizers` gives it, whatever the file says: that of the
    vocabulary, else the next one; of two with one text the first counts."""
    texts = {i: text for text, i in vocab.items()}
    if len(texts) < len(vocab):
        twice = next(text for text, i in vocab.items() if texts[i] != text)
        fail(BadTokenizer, f"{where}: model.vocab: two tokens have id {vocab[twice]}", got=twice)
    known, kept, moved, last = set[str](), list[AddedToken](), list[str](), -1
    for token in added:
        if not token.text or token.text in known:
            continue
        known.add(token.text)
        i = vocab.get(token.text, last + 1 if last >= len(vocab) else len(vocab))
        if texts.setdefault(i, token.text) != token.text:
            fail(BadTokenizer, f"{where}: added_tokens: id {i} is another token's", got=token.text)
        if i != token.id:
            moved.append(f"{token.text} has id {i}, not {token.id}")
        last = max(last, i)
        flags = {**msgspec.structs.asdict(token), "id": i}
        kept.append(AddedToken(**flags, merged=token.text in vocab and not token.special))
    count = 1 + max(texts, default=-1)
    if count > MAX_TOKENS:
        fail(BadTokenizer, f"{where}: number of tokens", got=count, expected=f"at most {MAX_TOKENS}")
    specials = {token.text: token.id for token in kept if token.special}
    ordinary = bytearray(count)
    for text, i in vocab.items():
        ordinary[i] = text not in specials
    unused = [i for i in range(count) if i not in texts]
    notes = [f"added tokens, as programs read the file: {'; '.join(moved[:3])}"] if moved else []
    return _Tokens([texts.get(i, "") for i in range(count)], bytes(ordinary), specials, kept, unused, notes)


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
