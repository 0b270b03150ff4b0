"""SentencePiece's own file, `tokenizer.model`: a protocol buffer with pieces, their scores and the rule for spaces.

Read: pieces, and of the specifications of trainer and normalizer what changes ids. Only kind BPE, and only a normalizer
that leaves texts as they are; anything else is refused by name. Time and memory: in proportion to the file.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from herd.errors import BadTokenizer, fail
from herd.text import sentencepiece
from herd.text.added import AddedToken
from herd.text.files import read_bounded
from herd.text.merge_list import MAX_TOKENS, UNIGRAM, UNIGRAM_DO
from herd.text.sentencepiece import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED, Pieces
from herd.text.spaces import MARK, Spaces

MAX_FILE_BYTES = 16 << 20  # of 256,000 pieces it has 4.2 MB
Value: TypeAlias = int | float | bytes
"""The value of a field."""
_BPE, _UNIGRAM = 2, 1
_KINDS = {_UNIGRAM: "unigram", _BPE: "bpe", 3: "word", 4: "char"}
_UNK, _BOS, _EOS = 40, 41, 42
"""Fields of the trainer's specification."""


def is_sentencepiece(path: Path) -> bool:
    """Whether a tokenizer.model is SentencePiece's: its first field is a piece; a rank file begins with base64. Raises
    NotFound, BadTokenizer."""
    data = read_bounded(path, MAX_FILE_BYTES)
    return data[:1] == b"\x0a" and data[2:3] == b"\x0a"


def load(
    path: Path, tokenizer_config: Mapping[str, Any], further: Sequence[AddedToken] = (), template: str | None = None
) -> dict[str, Any]:
    """The arguments of `Tokenizer` for a tokenizer.model. further: tokens that other files add behind its last id.
    Raises NotFound, BadTokenizer."""
    where = str(path)
    pieces, trainer, normalizer = read(read_bounded(path, MAX_FILE_BYTES), where)
    _check(trainer, normalizer, where)
    pieces, added = _with(pieces, further, where)
    ids = {field: trainer.get(field, usual) for field, usual in ((_UNK, 0), (_BOS, 1), (_EOS, 2))}
    known = {field: i for field, i in ids.items() if isinstance(i, int) and 0 <= i < len(pieces.texts)}
    bos_id = _named(tokenizer_config, "bos_token", pieces, known.get(_BOS))
    eos_id = _named(tokenizer_config, "eos_token", pieces, known.get(_EOS))
    add_bos = tokenizer_config.get("add_bos_token")
    prefix = bool(normalizer.get(3, 1)) and tokenizer_config.get("add_prefix_space") is not False
    each = tokenizer_config.get("legacy") is not False
    return sentencepiece.build(
        pieces._replace(unknown=known.get(_UNK)),
        Spaces(("each" if each else "first") if prefix else "none", normalizing=True),
        bos_id=bos_id,
        eos_ids=set() if eos_id is None else {eos_id},
        add_bos=add_bos if isinstance(add_bos, bool) else True,
        template=template,
        added=added,
        where=where,
    )


def read(data: bytes, where: str) -> tuple[Pieces, dict[int, Value], dict[int, Value]]:
    """The pieces, and the fields of the trainer's and the normalizer's specification. Raises BadTokenizer."""
    texts: list[str] = []
    types: list[int] = []
    scores: list[float] = []
    specs: dict[int, dict[int, Value]] = {2: {}, 3: {}}
    for number, value in _fields(data, where):
        if number == 1 and isinstance(value, bytes):
            text, kind, score = _piece(dict(_fields(value, where)), where)
            texts.append(text)
            types.append(kind)
            scores.append(score)
            if len(texts) > MAX_TOKENS:
                fail(BadTokenizer, f"{where}: number of pieces", got="more", expected=f"at most {MAX_TOKENS}")
        elif number in specs and isinstance(value, bytes):
            specs[number] |= dict(_fields(value, where))
    return Pieces(texts, types, scores, fallback=bool(specs[2].get(35, 0))), specs[2], specs[3]


def _piece(fields: Mapping[int, Value], where: str) -> tuple[str, int, float]:
    text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, float) or not isinstance(kind, int):
        fail(BadTokenizer, f"{where}: a piece", got="fields of other kinds", expected="text, score and type")
    try:
        word = text.decode()
    except UnicodeDecodeError:
        fail(BadTokenizer, f"{where}: a piece is not UTF-8")
    if not word or not NORMAL <= kind <= BYTE or (kind == BYTE and not sentencepiece.is_byte(word)):
        fail(BadTokenizer, f"{where}: piece {word!r}", got=f"type {kind}", expected="a text and a type of 1 to 6")
    if kind == UNUSED:
        fail(BadTokenizer, f"{where}: piece {word!r}", got="type unused", expected="a vocabulary that was not cut")
    return word, kind, score


def _check(trainer: Mapping[int, Value], normalizer: Mapping[int, Value], where: str) -> None:
    """Raise BadTokenizer for what changes ids and is not done."""
    kind = trainer.get(3, _UNIGRAM)
    if kind == _UNIGRAM:
        fail(BadTokenizer, f"{where} {UNIGRAM}", do=UNIGRAM_DO)
    if kind != _BPE:
        fail(BadTokenizer, f"{where}: kind of vocabulary", got=_KINDS.get(int(kind), kind), expected="bpe")
    name = normalizer.get(1, b"")
    if normalizer.get(2):
        got = name.decode("utf-8", "replace")[:40] if isinstance(name, bytes) else "another"
        fail(BadTokenizer, f"{where}: normalizer", got=got, expected="identity")
    for field, usual, what in ((4, 1, "remove_extra_whitespaces"), (24, 0, "treat_whitespace_as_suffix")):
        spec = normalizer if field == 4 else trainer
        if spec.get(field, usual):
            fail(BadTokenizer, f"{where}: {what}", got="true", expected="false")
    if not normalizer.get(5, 1):
        fail(BadTokenizer, f"{where}: escape_whitespaces", got="false", expected="true")


def _with(pieces: Pieces, further: Sequence[AddedToken], where: str) -> tuple[Pieces, list[AddedToken]]:
    """The pieces and those that were added to them; added tokens. Symbols that the trainer was given are found in a
    text that has its spaces already, as U+2581: those that hold a space are in none."""
    texts, types, scores = list(pieces.texts), list(pieces.types), list(pieces.scores or ())
    added = [
        AddedToken(i, text.replace(MARK, " "), normalized=True) if kind == USER_DEFINED else AddedToken(i, text, True)
        for i, (text, kind) in enumerate(zip(texts, types, strict=True))
        if kind not in (NORMAL, BYTE) and not (kind == USER_DEFINED and " " in text)
    ]
    for token in sorted(further):
        if token.id < len(texts):
            if texts[token.id] != token.text:
                fail(BadTokenizer, f"{where}: added token {token.id}", got=token.text, expected=texts[token.id])
            continue
        if token.id > len(texts):
            got, expected = f"id {token.id}", f"{len(texts)}, the next"
            fail(BadTokenizer, f"{where}: added token {token.text!r}", got=got, expected=expected)
        texts.append(token.text)
        types.append(CONTROL if token.special else USER_DEFINED)
        scores.append(0.0)
        added.append(token)
    return pieces._replace(texts=texts, types=types, scores=scores), added


def _named(
    config: Mapping[str, Any], key: Literal["bos_token", "eos_token"], pieces: Pieces, usual: int | None
) -> int | None:
    """The id of a token that tokenizer_config.json names, or the file's own."""
    value = config.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    return pieces.texts.index(text) if isinstance(text, str) and text in pieces.texts else usual


def _fields(data: bytes, where: str) -> Iterator[tuple[int, Value]]:
    """Number and value of each field of a message. Raises BadTokenizer where it is none."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at, where)
        value: Value
        match tag & 7:
            case 0:
                value, at = _varint(data, at, where)
            case 1 if at + 8 <= len(data):
                value, at = struct.unpack_from("<d", data, at)[0], at + 8
            case 2:
                size, at = _varint(data, at, where)
                if not 0 <= size <= len(data) - at:
                    fail(BadTokenizer, f"{where}: a field", got=f"{size} bytes", expected=f"at most {len(data) - at}")
                value, at = data[at : at + size], at + size
            case 5 if at + 4 <= len(data):
                value, at = struct.unpack_from("<f", data, at)[0], at + 4
            case kind:
                fail(BadTokenizer, f"{where}: a field", got=f"kind {kind}", expected="a whole protocol buffer")
        yield tag >> 3, value


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """A whole number of up to ten bytes, and where it ends; negative ones as 64 bits of two's complement."""
    found = 0
    for place, byte in enumerate(data[at : at + 10]):
        found |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return found - (1 << 64) if found >> 63 else found, at + place + 1
    return fail(BadTokenizer, f"{where}: a number", got="no end", expected="a whole protocol buffer")
