"""Convert SentencePiece's vocabularies: scores, as GGUF and tokenizer.model have them, <-> merges (tokenizer.json).

A score says when neighbours that join to a piece are joined; so does a list of all pairs that do, in the order of the
scores of what they make. Where a list is another one, or scores are equal, the other form cannot say it: refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from herd.errors import BadTokenizer, fail
from herd.text.sentencepiece import BYTE, NORMAL, UNUSED, USER_DEFINED, Pieces, splits_of
from herd.text.spaces import MARK
from herd.text.tokenizer import Tokenizer


def gguf_keys(tokenizer: Tokenizer, pieces: Pieces, rows: int, where: str) -> tuple[dict[str, Any], list[str]]:
    """The keys of a GGUF file with as many rows of embeddings, but for its special tokens; and notes: what they cannot
    say. Raises BadTokenizer."""
    if BYTE not in pieces.types or not pieces.fallback:
        fail(BadTokenizer, f"{where}: tokens of bytes", got="none", expected="all 256: GGUF's vocabularies have them")
    if pieces.each:
        fail(BadTokenizer, f"{where}: pre_tokenizer", got="Metaspace with split", expected="none: GGUF cannot say it")
    count = min(rows, len(pieces.texts))
    texts = [_as_found(text, kind) for text, kind in zip(pieces.texts, pieces.types, strict=True)][:count]
    spare = [i for i in range(rows) if i >= count or not texts[i]]
    scores = list(pieces.scores if pieces.scores is not None else _scores(pieces, where))
    found = {i for text, i in tokenizer.added.items() if text not in tokenizer.specials}
    types = [USER_DEFINED if i in found else kind for i, kind in enumerate(pieces.types[:count])]
    types += [UNUSED] * (rows - count)
    texts += [""] * (rows - count)
    for i in spare:
        texts[i], types[i] = f"[PAD{i}]", UNUSED
    spaces = tokenizer.spaces
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": [*scores[:count], *[0.0] * (rows - count)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": spaces is not None and spaces.before != "none",
    }
    if pieces.unknown is not None:
        keys["tokenizer.ggml.unknown_token_id"] = pieces.unknown
    return keys, list(_lost(tokenizer))


def hf_file(
    tokenizer: Tokenizer, pieces: Pieces, count: int, added: Sequence[Mapping[str, Any]], where: str
) -> dict[str, Any]:
    """The tokenizer.json of a vocabulary's first `count` tokens but for its first one. added: its added tokens. Raises
    BadTokenizer."""
    vocab: dict[str, int] = {}
    for i, text in enumerate(pieces.texts[:count]):
        if pieces.types[i] not in (USER_DEFINED, UNUSED):
            vocab.setdefault(text, i)
    unknown = pieces.texts[pieces.unknown] if pieces.unknown is not None else None
    prefix = tokenizer.begins_with_space
    steps = [
        *([{"type": "Prepend", "prepend": MARK}] if prefix else []),
        {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
    ]
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(pieces, where),
        },
    }


def _as_found(text: str, kind: int) -> str:
    """A token as it is looked for in a text: with spaces."""
    return text.replace(MARK, " ") if kind == USER_DEFINED else text


def _lost(tokenizer: Tokenizer) -> Iterable[str]:
    """What GGUF cannot say of the spaces before a text."""
    spaces = tokenizer.spaces
    if spaces is None or spaces.before == "none":
        return
    if spaces.before == "first":
        yield "programs that read GGUF put a space behind every control token too, the source before a whole text alone"
    if not spaces.doubled:
        yield "programs that read GGUF put a space before a text that begins with one too, the source does not"


def _words(pieces: Pieces) -> dict[str, int]:
    return {text: i for i, text in enumerate(pieces.texts) if pieces.types[i] == NORMAL and text}


def _scores(pieces: Pieces, where: str) -> list[float]:
    """Scores in the order in which merges make pieces. Raises BadTokenizer where a score would join other pairs."""
    words = _words(pieces)
    scores = [0.0] * len(pieces.texts)
    seen = set[str]()
    for number, (made, pairs) in enumerate(groupby(merge.replace(" ", "", 1) for merge in pieces.merges)):
        if made in seen or made not in words or sum(1 for _ in pairs) != sum(1 for _ in splits_of(made, words)):
            fail(
                BadTokenizer,
                f"{where}: merges that make {made!r}",
                got="some of its pairs, or not in a row",
                expected="all, in a row: GGUF has a score for each token, no merges",
            )
        seen.add(made)
        scores[words[made]] = -float(number)
    never = next((text for text in words if text not in seen and any(splits_of(text, words))), None)
    if never is not None:
        fail(BadTokenizer, f"{where}: {never!r}", got="no merge that makes it", expected="one: GGUF cannot say it")
    return scores


def _merges(pieces: Pieces, where: str) -> list[str]:
    """All pairs that join to a piece, by its score. Raises BadTokenizer where that is another order than scores are."""
    assert pieces.scores is not None, "a vocabulary of GGUF"
    words = _words(pieces)
    chars = frozenset(char for text in words for char in text)
    known = frozenset(words)
    if chars - known:
        for text in words:
            if list(splits_of(text, known)) != list(splits_of(text, known | chars)):
                fail(BadTokenizer, f"{where}: {text!r}", got="characters that are no tokens", expected="tokens")
    made = sorted(words, key=lambda text: pieces.scores[words[text]] if pieces.scores else 0.0, reverse=True)
    found: list[str] = []
    before: float | None = None
    for text in made:
        pairs = sorted(splits_of(text, known), key=lambda pair: (len(pair[0]), len(pair[1])), reverse=True)
        score = pieces.scores[words[text]]
        if pairs and score == before:
            got = f"the score of {text!r} twice"
            fail(BadTokenizer, f"{where}: scores", got=got, expected="one a token: tokenizer.json cannot say it")
        before = score if pairs else before
        found += [" ".join(pair) for pair in pairs]
    return found
