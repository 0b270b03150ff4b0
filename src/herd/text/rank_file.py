"""Rank files: Meta's `tokenizer.model`, lines of "base64 rank" in order of rank. Merging is tiktoken's core.

The rank belongs to the joined bytes: of all neighbours whose join is in the file, the lowest rank is joined first, and
a piece that is itself in the file is taken whole. The special tokens are not in the file; they follow its last rank.

Meta cuts the text before splitting (llama-models, models/llama4/tokenizer.py): every 400,000 characters, and within
that after every 25,000 successive characters that are all whitespace or all not, since the split pattern and the
merging of tiktoken cannot take longer ones. Ids near a cut depend on it, so Herd cuts at the same places.
"""

import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiktoken

from herd.errors import BadTokenizer, UsageError, fail
from herd.text import special, splits
from herd.text.files import read_bounded

MAX_FILE_BYTES = 16 << 20  # Llama 4's has 3.6 MB
MAX_LINE_BYTES = 1024  # its longest line has 181 bytes
CUT_CHARS, CUT_RUN_CHARS = 400_000, 25_000
# family -> ordinary tokens, special tokens, split
_FAMILIES = {
    "llama4": (200_000, special.LLAMA4, "llama4"),
    "llama3": (128_000, special.LLAMA3, "llama-bpe"),
}
# \s of the standard library is str.isspace, the test that Meta makes; that of the split pattern differs (U+001C to
# U+001F).
_RUNS = re.compile(r"\s+|\S+")


def load(path: Path, family: str | None) -> dict[str, Any]:
    """The arguments of `Tokenizer`; `family` None: known by the number of lines. Raises NotFound, BadTokenizer."""
    if family is not None and family not in _FAMILIES:
        fail(UsageError, "family of a rank file", got=family, expected="one of " + ", ".join(_FAMILIES))
    ranks = parse(read_bounded(path, MAX_FILE_BYTES), str(path))
    if family is None:
        family = next((name for name, (count, _, _) in _FAMILIES.items() if count == len(ranks)), None)
        if family is None:
            expected = " or ".join(f"{count} ({name})" for name, (count, _, _) in _FAMILIES.items())
            fail(BadTokenizer, f"{path}: number of tokens", got=len(ranks), expected=expected)
    _, names, split = _FAMILIES[family]
    specials = special.table(names, len(ranks))
    core = tiktoken.Encoding(family, pat_str=splits.PATTERNS[split], mergeable_ranks=ranks, special_tokens={})
    encode_piece = core.encode_ordinary

    def encode(text: str, most: int) -> list[int]:
        text.encode()  # a lone surrogate fails here; tiktoken would replace it
        if len(text) <= CUT_RUN_CHARS:
            return encode_piece(text)
        ids: list[int] = []
        for piece in cuts(text):
            ids += encode_piece(piece)
            if len(ids) > most:
                break
        return ids

    return {
        "encode": encode,
        "token_bytes": [*ranks, *(name.encode() for name in names)],
        "specials": specials,
        "bos_id": specials["<|begin_of_text|>"],
        "eos_ids": special.ends(specials),
        "add_bos": True,
        "split": split,
    }


def parse(data: bytes, where: str) -> dict[bytes, int]:
    """Bytes of a token -> its rank, in order of rank. Raises BadTokenizer naming the line."""
    if data[:1] == b"\n" and b"<unk>" in data[:64]:
        fail(BadTokenizer, f"{where} is a SentencePiece vocabulary", expected="Meta's rank file", do="name its folder")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines()):
        if len(line) > MAX_LINE_BYTES:
            fail(
                BadTokenizer,
                f"{where}: line {number + 1}",
                got=f"{len(line)} bytes",
                expected=f"at most {MAX_LINE_BYTES}",
            )
        text, _, rank = line.partition(b" ")
        # Compared as text: int() would also take signs, spaces, underscores, and a million digits.
        if rank != b"%d" % number:
            what = f"{where}: line {number + 1}: rank"
            fail(BadTokenizer, what, got=rank.decode("latin-1"), expected=f"{number} (ranks count up by one)")
        try:
            token = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error:
            fail(BadTokenizer, f"{where}: line {number + 1}: token", got=text.decode("latin-1"), expected="base64")
        if ranks.setdefault(token, number) != number or not token:
            got = "empty" if not token else f"the token of line {ranks[token] + 1} again"
            fail(BadTokenizer, f"{where}: line {number + 1}: token", got=got, expected="a new one")
    missing = next((b for b in range(256) if bytes([b]) not in ranks), None)
    if missing is not None:
        fail(BadTokenizer, f"{where}: no token for byte 0x{missing:02X}", expected="all 256 single bytes")
    return ranks


def cuts(text: str) -> Iterator[str]:
    """The text in Meta's pieces; joined they are the text. Linear time."""
    for begin in range(0, len(text), CUT_CHARS):
        part, start = text[begin : begin + CUT_CHARS], 0
        for run in _RUNS.finditer(part):
            for cut in range(run.start() + CUT_RUN_CHARS, run.end(), CUT_RUN_CHARS):
                yield part[start:cut]
                start = cut
        yield part[start:]
