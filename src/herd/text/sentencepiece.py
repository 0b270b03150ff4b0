"""SentencePiece vocabularies of kind BPE: pieces of characters, joined by score or by a list of merges.

The merging is the byte-level one (`native/bpe.cpp`): a space stands for U+2581, the bytes of a character are joined to
it before anything else, and what is left of a character without a piece are the bytes that byte fallback wants. Of
neighbours that join to a piece the one with the highest score comes first, then the leftmost, as in sentencepiece.
"""

import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from herd import _native
from herd.errors import BadTokenizer, fail
from herd.text import splits
from herd.text.added import AddedToken
from herd.text.merge_list import MAX_MERGES, MAX_TOKENS, STEP, check_added
from herd.text.spaces import MARK, Spaces

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces, by their numbers in sentencepiece's own files and in GGUF."""
MAX_PIECE = 128
"""Characters of a piece with a score."""
ENDS = ("</s>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<end_of_turn>")
"""Tokens that end an answer in these vocabularies."""
NAME = "sentencepiece"
"""`Tokenizer.split` of these vocabularies."""
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORDS = re.compile(" *+[^ ]++| ++")
_EACH = re.compile(" [^ ]*+|[^ ]++")
_INSIDE = re.compile("[^ ] ")


class Pieces(NamedTuple):
    """What a file says of its pieces.

    texts     by id
    types     of each; of type NORMAL are those that text becomes by merging
    scores    of each; None: `merges` say what is joined
    merges    "left right" with U+2581 for spaces, the first merged first
    unknown   id for characters without a piece and without bytes; None: they are lost
    fused     several such characters in a row are one unknown id
    fallback  characters without a piece become tokens of bytes, where there are such
    each      every space begins a part of the text that merges do not cross
    """

    texts: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None = None
    merges: Sequence[str] = ()
    unknown: int | None = None
    fused: bool = True
    fallback: bool = True
    each: bool = False


def build(
    pieces: Pieces,
    spaces: Spaces,
    *,
    bos_id: int | None,
    eos_ids: set[int],
    add_bos: bool,
    template: str | None,
    added: Sequence[AddedToken],
    where: str,
    unused: Sequence[int] = (),
) -> dict[str, Any]:
    """The arguments of `Tokenizer` for such a vocabulary. unused: ids without a token. Raises BadTokenizer, naming
    `where`."""
    _check(pieces, where)
    check_added(added, where)
    words = _plain(pieces, where)
    core = _Core(pieces, words, where)
    specials = _specials(pieces)
    return {
        "encode": core.encode,
        "token_bytes": [_bytes_of(text, kind) for text, kind in zip(pieces.texts, pieces.types, strict=True)],
        "specials": specials,
        "bos_id": bos_id,
        "eos_ids": eos_ids | {specials[text] for text in ENDS if text in specials},
        "add_bos": add_bos,
        "split": NAME,
        "template": template,
        "added": added,
        "missing_bytes": core.missing,
        "spaces": spaces,
        "pieces": pieces,
        "unused": unused,
    }


def is_byte(text: str) -> bool:
    """Whether a token's text names a byte (`<0x0A>`)."""
    return _BYTE.fullmatch(text) is not None


def splits_of(text: str, known: Mapping[str, Any] | frozenset[str]) -> Iterator[tuple[str, str]]:
    """The ways in which two known texts are this one."""
    for at in range(1, len(text)):
        if text[:at] in known and text[at:] in known:
            yield text[:at], text[at:]


class _Core:
    """The merging, and what becomes of characters without a piece."""

    def __init__(self, pieces: Pieces, words: Mapping[str, int], where: str) -> None:
        """words: id by text, with spaces, of pieces that text becomes by merging."""
        self._own, self._unknown, self._fused = len(pieces.texts), pieces.unknown, pieces.fused
        bytes_of = _byte_ids(pieces, where)
        alone = [b for b in range(256) if b > 127 or chr(b) not in words]  # no piece is this byte
        self.missing = [] if bytes_of else alone
        chars = {char for char in (chain(*words) if pieces.scores is not None else words) if len(char) == 1}
        inner = [bytes((b,)) for b in alone if not bytes_of or b == ord(" ")]  # U+2581 is other bytes than a space
        inner += _parts(words, chars)
        self._spelt = {self._own + n: self._ids_of(data, bytes_of) for n, data in enumerate(inner)}
        merges, ranks = _char_merges(chars), array("I")
        if pieces.scores is None:
            merges += _listed(words, pieces.merges)
        else:
            ranks, scored = _scored(words, chars, pieces.scores, len(merges))
            merges += scored
        try:
            made = {bytes_of[b]: bytes((b,)) for b in alone if bytes_of and b != ord(" ")}
            tokens, ordinary = _tokens(pieces, {**made, **{i: text.encode() for text, i in words.items()}}, inner)
            self._bpe = _native.PairRankBpe(tokens, ordinary, merges, False, ranks.tobytes())
        except ValueError as error:
            fail(BadTokenizer, f"{where}: {error}")
        one = pieces.each or not any(_INSIDE.search(text) for text in words)
        find: Callable[..., list[str]] = _EACH.findall if pieces.each else _WORDS.findall
        self._parts = find if one else None

    def encode(self, text: str, most: int) -> list[int]:
        """Ids of a text with its spaces; more than `most` of them end it."""
        text.encode()  # a lone surrogate fails here, with its place
        ids: list[int] = []
        for parts in [[text]] if self._parts is None else splits.in_windows(self._parts, text):
            found = memoryview(self._bpe.ids_of(parts)).cast("i")
            for at in range(0, len(found), STEP):
                ids += found[at : at + STEP].tolist()
            if len(ids) > most:
                break
        return ids if max(ids, default=0) < self._own else self._spell(ids)

    def _spell(self, ids: Iterable[int]) -> list[int]:
        """Ids, with those of the file for those that only merging has."""
        found: list[int] = []
        for i in ids:
            for one in self._spelt.get(i, (i,)):
                if not (self._fused and found and one == found[-1] == self._unknown):
                    found.append(one)
        return found

    def _ids_of(self, data: bytes, bytes_of: Sequence[int]) -> tuple[int, ...]:
        """What becomes of a character without a piece, or of a part of one."""
        if bytes_of:
            return tuple(bytes_of[b] for b in (MARK.encode() if data == b" " else data))
        begins = data[0] & 0xC0 != 0x80  # what follows the first byte is the same character
        return (self._unknown,) if begins and self._unknown is not None else ()


def _check(pieces: Pieces, where: str) -> None:
    if not 2 <= len(pieces.texts) <= MAX_TOKENS:
        fail(BadTokenizer, f"{where}: number of tokens", got=len(pieces.texts), expected=f"2 to {MAX_TOKENS}")
    if len(pieces.merges) > MAX_MERGES:
        fail(BadTokenizer, f"{where}: number of merges", got=len(pieces.merges), expected=f"at most {MAX_MERGES}")
    if pieces.scores is not None:
        bad = next((s for s in pieces.scores if not math.isfinite(s)), None)
        if bad is not None or len(pieces.scores) != len(pieces.texts):
            got = f"{len(pieces.scores)} scores" if bad is None else bad
            fail(BadTokenizer, f"{where}: scores", got=got, expected=f"{len(pieces.texts)} finite numbers")
        long = next((i for i, text in enumerate(pieces.texts) if len(text) > MAX_PIECE), None)
        if long is not None and pieces.types[long] == NORMAL:
            got = f"{len(pieces.texts[long])} characters"
            fail(BadTokenizer, f"{where}: piece {long}", got=got, expected=f"at most {MAX_PIECE}")


def _plain(pieces: Pieces, where: str) -> dict[str, int]:
    """Id by text, with spaces for U+2581, of what text becomes by merging. What holds a space is none: no text has one
    where that is looked for."""
    found: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(pieces.texts, pieces.types, strict=True)):
        if kind != NORMAL or not text or " " in text:
            continue
        if found.setdefault(text.replace(MARK, " "), i) != i:
            first = found[text.replace(MARK, " ")]
            fail(BadTokenizer, f"{where}: tokens {first} and {i} are the same text")
    return found


def _specials(pieces: Pieces) -> dict[str, int]:
    """Special tokens by text; of two with one text the first counts."""
    found: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(pieces.texts, pieces.types, strict=True)):
        if kind in (UNKNOWN, CONTROL, UNUSED):
            found.setdefault(text, i)
    return found


def _byte_ids(pieces: Pieces, where: str) -> list[int]:
    """The ids of all 256 bytes; none where characters without a piece are unknown. Raises BadTokenizer: some are
    missing."""
    found = {int(text[3:5], 16): i for i, text in enumerate(pieces.texts) if pieces.types[i] == BYTE}
    if not found or not pieces.fallback:
        return []
    if len(found) < 256:
        fail(BadTokenizer, f"{where}: tokens of bytes", got=f"{len(found)}", expected="all 256, or none")
    return [found[b] for b in range(256)]


def _parts(words: Mapping[str, int], chars: Iterable[str]) -> list[bytes]:
    """Beginnings of characters, and characters without a piece: merging has them, the file does not."""
    wide = sorted(char for char in chars if ord(char) > 127)
    starts = dict.fromkeys(data[:n] for data in map(str.encode, wide) for n in range(2, len(data)))
    return [*starts, *(char.encode() for char in wide if char not in words)]


def _tokens(pieces: Pieces, made: Mapping[int, bytes], inner: Sequence[bytes]) -> tuple[list[str], bytes]:
    """The tokens as merging has them, by id, and which of them it makes: those in `made`, and what is behind the file's
    last id."""
    texts = [*pieces.texts, *map(_spelling, inner)]
    ordinary = bytearray(len(pieces.texts)) + b"\1" * len(inner)
    for i, data in made.items():
        texts[i], ordinary[i] = _spelling(data), 1
    return texts, bytes(ordinary)


def _char_merges(chars: Iterable[str]) -> list[str]:
    """Merges that make characters of their bytes."""
    found: dict[str, None] = {}
    for data in map(str.encode, sorted(chars)):
        for n in range(1, len(data)):
            found[f"{_spelling(data[:n])} {_spelling(data[n : n + 1])}"] = None
    return list(found)


def _scored(
    words: Mapping[str, int], chars: set[str], scores: Sequence[float], first: int
) -> tuple["array[int]", list[str]]:
    """Merges by score behind `first` others, and the ranks of all: those of equal scores have one."""
    known = frozenset(chars.union(words))
    pairs = [(-scores[i], left, right) for text, i in words.items() for left, right in splits_of(text, known)]
    pairs.sort(key=lambda pair: pair[0])
    ranks, merges = array("I", range(first)), []
    spelt = {text: _spelling(text.encode()) for text in known}
    rank, before = first, -math.inf
    for score, left, right in pairs:
        rank, before = (rank + (score != before), score)
        ranks.append(rank)
        merges.append(f"{spelt[left]} {spelt[right]}")
    return ranks, merges


def _listed(words: Mapping[str, int], merges: Sequence[str]) -> list[str]:
    """A file's merges, as merging has them. What names no piece stays as it is, and is refused there."""
    spelt = {text.replace(" ", MARK): _spelling(text.encode()) for text in words}
    pairs = (merge.partition(" ") for merge in merges)
    return [f"{spelt.get(left, left)} {spelt.get(right, right)}" for left, _, right in pairs]


def _alphabet() -> dict[int, str]:
    """GPT-2's alphabet: a character for each byte; those that print stand for themselves."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return {b: chr(b if b in printed else next(others)) for b in range(256)}


_ALPHABET = _alphabet()


def _spelling(data: bytes) -> str:
    return data.decode("latin-1").translate(_ALPHABET)


def _bytes_of(text: str, kind: int) -> bytes:
    """What a token stands for."""
    if kind == BYTE:
        return bytes((int(text[3:5], 16),))
    return (text.replace(MARK, " ") if kind in (NORMAL, USER_DEFINED) else text).encode()
