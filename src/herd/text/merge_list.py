"""Merge-list vocabularies: what tokenizer.json and GGUF have in common. The merging itself is C++ (native/bpe.cpp).

Byte-level BPE by pair rank, in GPT-2's byte alphabet. tiktoken cannot stand in: it ranks a merge by the joined token's
id, and for these vocabularies the order of the list is another one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from herd import _native
from herd.errors import BadTokenizer, fail
from herd.text import special, splits
from herd.text.added import MAX_ADDED, AddedToken

MAX_TOKENS = 1 << 20
MAX_MERGES = 1 << 21
UNIGRAM = "is a SentencePiece vocabulary of kind unigram, which Herd does not read"
UNIGRAM_DO = "use a model with a BPE vocabulary (all Llamas have one)"


def build(
    tokens: Sequence[str],
    ordinary: bytes,
    merges: Sequence[str],
    *,
    whole_pieces: bool,
    split: str,
    specials: Mapping[str, int],
    bos_id: int | None,
    eos_ids: set[int],
    add_bos: bool,
    template: str | None,
    added: Sequence[AddedToken],
    where: str,
    unused: Sequence[int] = (),
) -> dict[str, Any]:
    """The arguments of `Tokenizer` for a vocabulary by merge list.

    tokens[id] is text in GPT-2's alphabet, or as it is where ordinary[id] is 0 (special and unused tokens: text never
    becomes them); merges are "left right", the first merged first; unused are ids without a token. Raises BadTokenizer,
    naming `where`.
    """
    if not 256 // 2 <= len(tokens) <= MAX_TOKENS:
        fail(BadTokenizer, f"{where}: number of tokens", got=len(tokens), expected=f"128 to {MAX_TOKENS}")
    if len(merges) > MAX_MERGES:
        fail(BadTokenizer, f"{where}: number of merges", got=len(merges), expected=f"at most {MAX_MERGES}")
    try:
        bpe = _native.PairRankBpe(tokens, ordinary, merges, whole_pieces)
    except (ValueError, TypeError) as error:
        why = str(error) if isinstance(error, ValueError) else "tokens and merges must be lists of strings"
        fail(BadTokenizer, f"{where}: {why}")
    check_added(added, where)
    missing = bpe.missing_bytes()
    printable = [b for b in missing if 0x20 <= b < 0x7F or b == 0x0A]
    if printable:
        fail(BadTokenizer, f"{where}: vocabulary has no token for byte 0x{printable[0]:02X}", expected="all of ASCII")
    return {
        "encode": _encoder(bpe, split),
        "token_bytes": bpe.token_bytes(),
        "specials": specials,
        "bos_id": bos_id,
        "eos_ids": eos_ids | special.ends(specials),
        "add_bos": add_bos,
        "split": split,
        "whole_pieces": whole_pieces,
        "unused": unused,
        "template": template,
        "added": added,
        "missing_bytes": missing,
    }


def unreached(tokens: Sequence[str], ordinary: bytes, merges: Sequence[str]) -> int:
    """How many ordinary tokens merging does not make of their own bytes: whether pieces are taken whole changes what
    text with one of them becomes."""
    bpe = _native.PairRankBpe(tokens, ordinary, merges, False)
    data, missing = bpe.token_bytes(), frozenset(bpe.missing_bytes())
    ours = [i for i, one in enumerate(ordinary) if one and missing.isdisjoint(data[i])]
    texts = {i: data[i].decode("utf-8", "surrogateescape") for i in ours}
    plain = [i for i in ours if _is_text(texts[i])]  # what is no text is no piece
    return sum(memoryview(bpe.ids_of([texts[i]])).cast("i").tolist() != [i] for i in plain)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def check_added(added: Sequence[AddedToken], where: str) -> None:
    """Raise BadTokenizer for an added token that is too long to be looked for."""
    for token in added:
        if len(token.text) > MAX_ADDED:
            got = f"{len(token.text)} characters"
            fail(BadTokenizer, f"{where}: added token {token.id}", got=got, expected=f"at most {MAX_ADDED}")


STEP = 1 << 16
"""Ids that become a list in one call: other threads wait for no more."""


def _encoder(bpe: Any, split: str) -> Callable[[str, int], list[int]]:
    def encode(text: str, most: int) -> list[int]:
        text.encode()  # a lone surrogate fails here, with its place
        ids: list[int] = []
        for pieces in splits.batches(split, text):
            found = memoryview(bpe.ids_of(pieces)).cast("i")
            for at in range(0, len(found), STEP):
                ids += found[at : at + STEP].tolist()
            if len(ids) > most:
                break
        return ids

    return encode
