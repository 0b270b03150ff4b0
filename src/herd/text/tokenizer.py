"""Text to ids and back. Plain text never becomes a control token: only `text/chat.py` places those.

Control is what is special, and of the other added tokens (`herd.text.added`) what a chat format or a chat template
writes as a marker. Whose text it is makes a difference: users', systems' and tools' holds no control token; the
assistant's own (`for_assistant`) may hold those around what it thinks and calls; an author's (`for_author`) all.

`Tokenizer` is one face over rank files (`rank_file.py`, tiktoken's core), merge lists over bytes (`merge_list.py`,
Herd's own merging in C++) and over characters (`sentencepiece.py`). `bytes_only` is for tests: one id a byte.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from herd.errors import UsageError, fail
from herd.text import special
from herd.text.added import FIRST_OF_WHITE, AddedToken, AddedTokens, bare
from herd.text.sentencepiece import Pieces
from herd.text.spaces import Place, Spaces
from herd.value_checks import MAX_IDS, too_long

_FOLLOWING = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""


class Tokenizer:
    """A vocabulary: `encode` text, `decode` ids, and the special tokens by name. Immutable, safe between threads.

    vocab_size    number of ids, special ones included; 0 to vocab_size - 1 all exist
    specials      text of a special token -> its id
    added         text of an added token, special or not, -> its id
    control_ids   ids that no text of users, systems and tools becomes: special, or a marker of a chat template
    spoken_ids    those of them that the assistant's own text becomes
    bos_id        id that starts a text, or None
    add_bos       whether a bare text (no chat) starts with it, as the file says
    eos_ids       ids that end an answer
    split         name of the split (`text/splits.py`); "sentencepiece"; "bytes" for the test tokenizer
    whole_pieces  a piece of a split that is itself a token is that token, whatever the merges say
    spaces        where a SentencePiece vocabulary puts a space before a text; None in others
    pieces        what such a vocabulary's file says of its tokens; None in others
    notes         what was assumed that the file does not say
    template      chat template found beside the vocabulary (`herd.text.chat` says what becomes of it)
    templates     further ones by name ("tool_use")
    named         special tokens by what the file calls them ("bos_token"), as templates use them
    missing_bytes bytes of UTF-8 that have no token; text that needs one loses it, as in the file's own tokenizer
    """

    def __init__(
        self,
        encode: Callable[[str, int], list[int]],
        token_bytes: Sequence[bytes],
        specials: Mapping[str, int],
        *,
        bos_id: int | None,
        eos_ids: Iterable[int],
        add_bos: bool = False,
        split: str,
        template: str | None = None,
        templates: Mapping[str, str] = MappingProxyType({}),
        named: Mapping[str, str] = MappingProxyType({}),
        whole_pieces: bool = False,
        spaces: Spaces | None = None,
        pieces: Pieces | None = None,
        notes: Sequence[str] = (),
        missing_bytes: Iterable[int] = (),
        added: Sequence[AddedToken] | None = None,
        unused: Iterable[int] = (),
    ) -> None:
        """added: all added tokens; None: the special ones, without flags. unused: ids without a token."""
        self._encode = encode
        self._bytes = tuple(token_bytes)
        self.vocab_size = len(self._bytes)
        self.specials: Mapping[str, int] = MappingProxyType(dict(specials))
        self.bos_id = bos_id
        self.add_bos = add_bos and bos_id is not None
        self.eos_ids = frozenset(eos_ids)
        self.split, self.whole_pieces = split, whole_pieces
        self.spaces, self.pieces = spaces, pieces
        self.notes = tuple(notes)
        self.template = template
        self.templates, self.named = templates, named
        self.missing_bytes = frozenset(missing_bytes)
        self._left: _Left | None = None
        self._place: Place = "start"
        self._unused = frozenset(unused)
        self._added = AddedTokens(
            (AddedToken(i, text, special=True) for text, i in specials.items()) if added is None else added,
            spaces.put if spaces is not None and spaces.normalizing else None,
            own=spaces is not None and spaces.in_tokens,
        )
        self.added: Mapping[str, int] = MappingProxyType(
            {**{text: token.id for text, token in self._added.by_text.items()}, **self.specials}
        )
        written = set[str]().union(*map(self._added.held, (template or "", *templates.values())))
        self._mark(text for text in written if not text.isspace())

    def _mark(self, markers: Iterable[str]) -> None:
        """Set what is control: what is special or ends an answer, and these; but no single characters, which any text
        may hold."""
        found = {self.added[text] for text in markers if len(text) > 1}
        ends = self.eos_ids.intersection(self.added.values())
        self.control_ids = frozenset({*self.specials.values(), *found, *ends, *self._unused})
        self.spoken_ids = self.control_ids & {self.added[text] for text in special.SPOKEN if text in self.added}
        self._hidden = self.control_ids - (self.spoken_ids - frozenset(self.specials.values()))
        self._bar(self.control_ids)

    def _bar(self, barred: frozenset[int]) -> None:
        """Set which ids no text becomes."""
        self._cutter = self._added.cutter(barred)
        self._barred_merged = barred & self._added.merged

    @classmethod
    def from_rank_file(cls, path: str | Path, *, family: str | None = None) -> "Tokenizer":
        """Meta's `tokenizer.model`: family "llama4" or "llama3", by default known by the number of tokens.

        Raises NotFound, BadTokenizer.
        """
        from herd.text import rank_file

        return cls(**rank_file.load(Path(path), family))

    @classmethod
    def from_hf_folder(cls, path: str | Path) -> "Tokenizer":
        """A Hugging Face folder: tokenizer.json (or Meta's tokenizer.model), tokenizer_config.json, chat template.

        Raises NotFound, BadTokenizer.
        """
        from herd.text import hf_folder

        return cls(**hf_folder.load(Path(path)))

    @classmethod
    def from_tokenizer_json(
        cls, source: str | Path | bytes, tokenizer_config: Mapping[str, Any] | None = None
    ) -> "Tokenizer":
        """A tokenizer.json (a path or its bytes), with tokenizer_config.json already read.

        Raises NotFound, BadTokenizer.
        """
        from herd.text import tokenizer_json

        return cls(**tokenizer_json.load(source, tokenizer_config or {}))

    @classmethod
    def from_gguf(cls, keys: Mapping[str, Any], where: str = "GGUF file") -> "Tokenizer":
        """The `tokenizer.*` keys of a GGUF file as Python values; `where` names the file in errors.

        Raises BadTokenizer.
        """
        from herd.text import gguf_keys

        return cls(**gguf_keys.load(keys, where))

    @classmethod
    def bytes_only(cls, specials: Sequence[str] = special.SMALL, vocab_size: int = 320) -> "Tokenizer":
        """A vocabulary for tests: ids 0 to 255 are the bytes, `specials` follow from 256, the rest up to `vocab_size`
        is spare."""
        num_spare = vocab_size - 256 - len(specials)
        assert num_spare >= 0, f"vocab_size {vocab_size} holds no {len(specials)} specials beside 256 bytes"
        names = special.table([*specials, *(f"<|spare_{n}|>" for n in range(num_spare))], 256)
        return cls(
            lambda text, most: list(text[: most + 1].encode()),
            [*(bytes([b]) for b in range(256)), *(name.encode() for name in names)],
            names,
            bos_id=names.get("<|begin_of_text|>"),
            eos_ids=special.ends(names),
            add_bos=True,
            split="bytes",
        )

    @cached_property
    def lost_bytes(self) -> bytes:
        """Bytes of text that may have no id, however often they are there: those without a token, and of white space
        the first of each character where added tokens take it. Empty where no text is lost."""
        return bytes(self.missing_bytes | (FIRST_OF_WHITE if self._added.strip else frozenset()))

    def characters_of(self, text: str) -> int:
        """Characters of a text that have ids, at the least: each has a byte in one. Linear; makes no ids. text may hold
        lone surrogates."""
        if not self.lost_bytes:
            return len(text)
        return len(text.encode("utf-8", "surrogatepass").translate(None, self.lost_bytes + _FOLLOWING))

    @property
    def flagged(self) -> list[str]:
        """Added tokens that are not special and are found by what stands beside them (lstrip, rstrip, single_word)."""
        tokens = self._added.by_text.values()
        return [t.text for t in tokens if not t.special and (t.lstrip or t.rstrip or t.single_word)]

    @cached_property
    def longest_bytes(self) -> int:
        """Bytes of the longest ordinary token, at least 1: no text has fewer tokens than its bytes over this."""
        ordinary = (len(text) for i, text in enumerate(self._bytes) if i not in self._hidden)
        return max(ordinary, default=1) or 1

    @cached_property
    def image_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for images."""
        return frozenset(self.added[text] for text in special.IMAGES if text in self.added)

    def with_markers(self, texts: Iterable[str]) -> "Tokenizer":
        """The vocabulary for a chat format that writes these added tokens as markers: they are control, too."""
        one, known = copy.copy(self), [text for text, i in self.added.items() if i in self.control_ids]
        one._mark([*known, *(text for text in texts if text in self.added)])
        return one

    def for_assistant(self) -> "Tokenizer":
        """The vocabulary for what the assistant itself said: it may hold the markers that an assistant writes."""
        one = copy.copy(self)
        one._bar(self.control_ids - self.spoken_ids)
        return one

    def for_grammar(self) -> "Tokenizer":
        """The vocabulary for what a grammar spells out: a text there, so that only what shows in answers is its id."""
        one = copy.copy(self)
        one._bar(self._hidden)
        one._place = "text"
        return one

    def for_author(self, barred: Iterable[int] = ()) -> "Tokenizer":
        """The vocabulary for texts of whoever may write control tokens: every added token is its id, but `barred`."""
        one = copy.copy(self)
        one._bar(frozenset(barred))
        return one

    def spelt(self, text: str) -> list[int]:
        """The control tokens that a text spells, in order: those that it becomes where its author may write all."""
        cutter = self._added.cutter(frozenset())
        pieces = () if cutter is None else cutter.cut(text)
        return [piece for piece in pieces if isinstance(piece, int) and piece in self.control_ids]

    def encode(
        self, text: str, most: int = MAX_IDS, *, between: tuple[str, str] | None = None, place: Place | None = None
    ) -> list[int]:
        """Ids of plain text: what looks like a control token is text too. A text of more than `most` ids is not read to
        its end: the first of them come, more than `most`. between: added tokens around it, which may take white space
        of its ends; empty: none. place: what comes before it, which says whether a vocabulary puts a space there; by
        default one of these tokens, or nothing (`placed`). Raises UsageError on lone surrogates."""
        if not text:
            return []
        left = self._left
        before, behind = between or ("", "")
        taken = self._added.takes(before)[1], self._added.takes(behind)[0]
        if place is None:
            place = self._place if between is None else "token" if before else "start"
        try:
            ids = self._ids(text, most if left is None else min(most, left.ids), taken, place)
        except UnicodeEncodeError as error:
            fail(UsageError, f"text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}")
        if left is not None:
            left.take(len(ids))
        return ids

    def _ids(self, text: str, most: int, taken: tuple[bool, bool], place: Place) -> list[int]:
        if self._cutter is None and self.spaces is None:
            return self._merged(bare(text, taken), most)
        text.encode()  # a lone surrogate fails here, with its place in the whole
        ids: list[int] = []
        for piece in self._pieces(text, taken, place):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += self._merged(piece, most - len(ids))
            if len(ids) > most:
                break
        return ids

    def _pieces(self, text: str, taken: tuple[bool, bool], place: Place) -> Iterator[str | int]:
        """Ids of added tokens, and what stands between them as merging sees it."""
        pieces = iter((bare(text, taken),)) if self._cutter is None else self._cutter.cut(text, taken, place)
        if self.spaces is None or (self.spaces.normalizing and self._cutter is not None):
            yield from pieces
            return
        for piece in pieces:
            yield piece if isinstance(piece, int) else self.spaces.put(piece, place)
            place = "token" if isinstance(piece, int) else "text"

    def _merged(self, text: str, most: int) -> list[int]:
        """Ids of a text without added tokens. What merging makes a barred one is spelt out."""
        ids = self._encode(text, most)
        barred = self._barred_merged.intersection(ids) if self._barred_merged else ()
        if not barred:
            return ids
        spelt = {i: [j for char in self._text((i,)) for j in self._encode(char, most)] for i in barred}
        return [j for i in ids for j in spelt.get(i, (i,))]

    def placed(self, place: Place) -> "Tokenizer":
        """The vocabulary for texts before which such stands, where `encode` is not told."""
        one = copy.copy(self)
        one._place = place
        return one

    def with_rows(self, rows: int) -> "Tokenizer":
        """The vocabulary without ids that have no row of embeddings, if nothing but added tokens has one: it may have
        been given tokens for padding that the model never saw. Else the vocabulary as it is."""
        spare = {*(t.id for t in self._added.by_text.values() if not t.merged), *self.specials.values(), *self._unused}
        if rows >= self.vocab_size or not spare.issuperset(range(rows, self.vocab_size)):
            return self
        one, kept = copy.copy(self), [t for t in self._added.by_text.values() if t.id < rows]
        gone = self.vocab_size - rows
        one.notes = (*self.notes, f"{gone} added tokens have no row of embeddings: no text becomes them")
        one._bytes, one.vocab_size = self._bytes[:rows], rows
        one.specials = MappingProxyType({text: i for text, i in self.specials.items() if i < rows})
        one.added = MappingProxyType({text: i for text, i in self.added.items() if i < rows})
        one._added = AddedTokens(kept, self._added.put, self._added.own)
        one._unused = frozenset(i for i in self._unused if i < rows)
        one.eos_ids = frozenset(i for i in self.eos_ids if i < rows)
        one.bos_id = self.bos_id if self.bos_id is not None and self.bos_id < rows else None
        one.add_bos = self.add_bos and one.bos_id is not None
        one._mark(text for text, i in one.added.items() if i in self.control_ids)
        return one

    def within(self, most: int) -> "Tokenizer":
        """The vocabulary for the texts of one prompt, on one thread: `encode` raises ContextTooLong as soon as it has
        made more than `most` ids of all of them, so that what cannot fit is not made tokens to its end."""
        one = copy.copy(self)
        one._left = _Left(most)
        return one

    def decode(self, ids: Iterable[int], *, hide_specials: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. The space that the vocabulary puts before a text is no
        part of it. Raises UsageError for an id outside the vocabulary."""
        hidden = self._hidden if hide_specials else frozenset()
        text = self._text(i for i in ids if i not in hidden)
        return text.removeprefix(" ") if self.begins_with_space else text

    def _text(self, ids: Iterable[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    @property
    def begins_with_space(self) -> bool:
        """Whether the vocabulary puts a space before a text."""
        return self.spaces is not None and self.spaces.before != "none"

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes an ordinary id stands for; of a special id, its text in UTF-8."""
        if not 0 <= token_id < self.vocab_size:
            fail(UsageError, "token id", got=token_id, expected=f"0 to {self.vocab_size - 1}")
        return self._bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        """Whether this id is a control token's that shows in no answer: all but those of `spoken_ids` that the file
        does not call special (`<think>`)."""
        return token_id in self._hidden


class _Left:
    """How many ids the texts of one prompt may still have."""

    def __init__(self, most: int) -> None:
        self.ids = self._most = most

    def take(self, count: int) -> None:
        """Count some. Raises ContextTooLong."""
        self.ids -= count
        if self.ids < 0:
            too_long(f"the prompt has more than {self._most} tokens")
