"""Ids to text while they are being made: a character appears once all its bytes are there."""

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from herd.text.tokenizer import Tokenizer


class Offsets:
    """Where the tokens of a text begin in it: the characters before each. A token that begins inside a character begins
    where that character does."""

    def __init__(self, start: int = 0) -> None:
        """start: characters before the first token."""
        self.next = start
        """Characters before the next token."""
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def place(self, data: bytes) -> int:
        """Add a token's bytes; returns where it begins."""
        found = self.next
        self.next += len(self._utf8.decode(data))
        return found


class StreamDecoder:
    """One answer's decoder: the texts of `push` and `flush`, joined, are `tokenizer.decode(ids)`.

    Tokens of byte-level BPE end anywhere inside a UTF-8 sequence, so a character is held back until it is whole. Bytes
    that are not UTF-8 become U+FFFD. Special tokens are left out unless `hide_specials` is false. A text that goes on
    with another (`begins` false) keeps its first space, whatever the vocabulary puts before a text.
    """

    def __init__(self, tokenizer: "Tokenizer", *, hide_specials: bool = True, begins: bool = True) -> None:
        self._tokenizer = tokenizer
        self._begins = begins and tokenizer.begins_with_space
        self._at_start = self._begins
        self._hide_specials = hide_specials
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that this id completes: often one word, sometimes nothing."""
        data = self._tokenizer.token_bytes(token_id)
        if self._hide_specials and self._tokenizer.is_special(token_id):
            return ""
        return self._shown(self._utf8.decode(data))

    def flush(self) -> str:
        """What is left at the end: nothing, or U+FFFD for a character that was cut off. The decoder is then as new."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        text, self._at_start = self._shown(text), self._begins
        return text

    def _shown(self, text: str) -> str:
        """A part of the text, without the space that begins the whole."""
        if not self._at_start or not text:
            return text
        self._at_start = False
        return text.removeprefix(" ")

    @property
    def held_bytes(self) -> int:
        """How many bytes of an unfinished character are held back."""
        return len(self._utf8.getstate()[0])
