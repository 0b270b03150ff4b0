"""Text to ids and back. Plain text never becomes a special token: only `text/chat.py` places those.

`Tokenizer` is one face over two rules of byte-pair merging: rank files (`rank_file.py`, tiktoken's core) and merge
lists (`merge_list.py`, Herd's own in C++). A third, `bytes_only`, is for tests: one id a byte.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from herd.errors import ContextTooLong, UsageError, fail
from herd.text import special
from herd.text.stream import StreamDecoder
from herd.value_checks import MAX_IDS

__all__ = ["StreamDecoder", "Tokenizer"]


class Tokenizer:
    """A vocabulary: `encode` text, `decode` ids, and the special tokens by name. Immutable, safe between threads.

    vocab_size    number of ids, special ones included; 0 to vocab_size - 1 all exist
    specials      text of a special token -> its id
    bos_id        id that starts a text, or None
    add_bos       whether a bare text (no chat) starts with it, as the file says
    eos_ids       ids that end an answer
    split         name of the split pattern (`text/splits.py`); "bytes" for the test tokenizer
    template      chat template found beside the vocabulary: compared by digest, never executed
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
        missing_bytes: Iterable[int] = (),
    ) -> None:
        self._encode = encode
        self._bytes = tuple(token_bytes)
        self._special_ids = frozenset(specials.values())
        self.vocab_size = len(self._bytes)
        self.specials: Mapping[str, int] = MappingProxyType(dict(specials))
        self.bos_id = bos_id
        self.add_bos = add_bos and bos_id is not None
        self.eos_ids = frozenset(eos_ids)
        self.split = split
        self.template = template
        self.missing_bytes = frozenset(missing_bytes)

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
        """For tests: ids 0 to 255 are the bytes, `specials` follow from 256, the rest up to `vocab_size` are spare."""
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
    def longest_bytes(self) -> int:
        """Bytes of the longest ordinary token, at least 1: no text has fewer tokens than its bytes over this."""
        ordinary = (len(text) for i, text in enumerate(self._bytes) if i not in self._special_ids)
        return max(ordinary, default=1) or 1

    def encode(self, text: str, most: int = MAX_IDS) -> list[int]:
        """Ids of plain text: what looks like a special token is text too. A text of more than `most` ids is not read to
        its end: the first of them come, more than `most`. Raises UsageError on lone surrogates."""
        if not text:
            return []
        try:
            return self._encode(text, most)
        except UnicodeEncodeError as error:
            fail(UsageError, f"text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}")

    def within(self, most: int) -> "Tokenizer":
        """The vocabulary for the texts of one prompt, on one thread: `encode` raises ContextTooLong as soon as it has
        made more than `most` ids of all of them, so that what cannot fit is not made tokens to its end."""
        one, left = copy.copy(self), most

        def encode(text: str, at_most: int) -> list[int]:
            nonlocal left
            ids = self._encode(text, min(at_most, left))
            left -= len(ids)
            if left < 0:
                fail(
                    ContextTooLong,
                    f"the prompt has more than {most} tokens",
                    do="shorten it, or load the model with a larger context",
                )
            return ids

        one._encode = encode
        return one

    def decode(self, ids: Iterable[int], *, hide_specials: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. Raises UsageError for an id outside the vocabulary."""
        hidden = self._special_ids if hide_specials else frozenset()
        return b"".join(self.token_bytes(i) for i in ids if i not in hidden).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes an ordinary id stands for; of a special id, its text in UTF-8."""
        if not 0 <= token_id < self.vocab_size:
            fail(UsageError, "token id", got=token_id, expected=f"0 to {self.vocab_size - 1}")
        return self._bytes[token_id]

    def is_special(self, token_id: int) -> bool:
        """Whether this id is a special token's."""
        return token_id in self._special_ids
