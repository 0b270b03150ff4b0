"""GGUF and tokenizer.json as people have them: keys that are missing, holes, texts twice, tokens without a row."""

import json
from typing import Any

import pytest

from herd.errors import BadTokenizer
from herd.text import special
from herd.text.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")


def alphabet() -> list[str]:
    """GPT-2's characters for the 256 bytes."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printed else next(others)) for b in range(256)]


def keys(**changes: Any) -> dict[str, Any]:
    found = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*alphabet(), "ab", "<|end|>", "<think>"],
        "token_type": [1] * 257 + [3, 4],
        "merges": ["a b"],
        "eos_token_id": 257,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**found, **changes}.items() if value is not None}


def file(vocab: dict[str, int] | None = None, added: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    usual = {**{char: i for i, char in enumerate(alphabet())}, "ab": 256}
    return {
        "version": "1.0",
        "added_tokens": [{**flags, "special": True, **token} for token in added or [{"id": 257, "content": "<|end|>"}]],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab or usual, "merges": ["a b"]},
    }


def large(first: int, names: tuple[str, ...]) -> list[str]:
    """Tokens as a family has them: so many ordinary ones, and special ones behind."""
    return [*alphabet(), *(f"w{i}" for i in range(first - 256)), *names]


@pytest.mark.parametrize("pre", [None, "default"])
@pytest.mark.parametrize(
    ("name", "first", "names"), [("llama-bpe", 128_000, special.LLAMA3), ("llama4", 200_000, special.LLAMA4)]
)
def test_a_missing_split_is_that_of_the_family_whose_tokens_stand_there(
    pre: str | None, name: str, first: int, names: tuple[str, ...]
) -> None:
    tokens = large(first, names)
    types = [1] * first + [3] * len(names)
    ours = Tokenizer.from_gguf(keys(pre=pre, tokens=tokens, token_type=types, merges=[], eos_token_id=first + 1))
    assert (ours.split, ours.whole_pieces, ours.add_bos) == (name, True, False)
    assert len(ours.notes) == 1 and name in ours.notes[0] and "tokenizer.ggml.pre" in ours.notes[0]


@pytest.mark.parametrize("pre", [None, "default", "falcon", ["gpt-2"]])
def test_another_missing_split_is_refused_by_name(pre: Any) -> None:
    with pytest.raises(BadTokenizer, match=r"tokenizer\.ggml\.pre.*one of"):
        Tokenizer.from_gguf(keys(pre=pre))


def test_types_that_are_missing_are_told_and_nothing_that_looks_like_control_is_text() -> None:
    tokens = [*alphabet(), "ab", "<|end|>", "<think>", "</s>", "<|cd|>"]
    ours = Tokenizer.from_gguf(keys(token_type=None, tokens=tokens, merges=["a b"]))
    assert set(ours.specials) == {"<|end|>", "</s>", "<|cd|>"}
    assert ours.encode("ab<|cd|></s>")[0] == 256 and ours.control_ids.isdisjoint(ours.encode("ab<|cd|></s><|end|>"))
    assert [note for note in ours.notes if "token_type" in note]
    made = Tokenizer.from_gguf(
        keys(
            token_type=None,
            tokens=[*alphabet(), "<|_|>", "<|", "<|_", "<|_|"],
            merges=["< |", "<| _", "<|_ |", "<|_| >"],
            eos_token_id=None,
        )
    )
    assert made.encode("<|_|>") == [256], "what merges make is text"


def test_types_that_are_missing_beside_scores() -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "b", "ab"]
    found = keys(model="llama", pre=None, tokens=tokens, token_type=None, merges=None, eos_token_id=None)
    ours = Tokenizer.from_gguf({**found, "tokenizer.ggml.scores": [0.0] * len(tokens)})
    assert set(ours.specials) == {"<unk>", "<s>", "</s>"} and ours.eos_ids == {2} and ours.bos_id == 1
    assert ours.encode("ab\u00e9") == [259, 262, 0xC3 + 3, 0xA9 + 3]


def test_ids_without_a_token_are_no_text() -> None:
    vocab = {**{char: i for i, char in enumerate(alphabet())}, "ab": 263}
    data = file(vocab, [{"id": 257, "content": "<|end|>"}])
    ours = Tokenizer.from_tokenizer_json(json.dumps(data).encode())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    assert ours.vocab_size == 264 and ours.encode("abba") == theirs.encode("abba").ids == [263, 98, 97]
    assert ours.notes == ()
    for i in (256, 258, 259, 262):
        assert theirs.id_to_token(i) is None
        assert ours.token_bytes(i) == b"" and ours.is_special(i) and i in ours.control_ids


@pytest.mark.parametrize(
    "given",
    [
        [(257, "<x>"), (258, "<x>"), (259, "<y>")],
        [(257, "<x>"), (260, "<y>")],
        [(5, "<x>"), (300, "ab"), (301, "<y>")],
        [(258, "<y>"), (257, "<x>")],
    ],
)
def test_added_tokens_have_the_ids_that_tokenizers_gives_them(given: list[tuple[int, str]]) -> None:
    data = file(None, [{"id": i, "content": text, "special": text != "ab"} for i, text in given])
    ours = Tokenizer.from_tokenizer_json(json.dumps(data).encode())
    theirs = tokenizers.Tokenizer.from_str(json.dumps(data))
    assert dict(ours.added) == {text: theirs.token_to_id(text) for _, text in given}
    assert ours.for_author().encode("<x><y>ab") == theirs.encode("<x><y>ab").ids
    assert ours.notes and "added tokens" in ours.notes[0]


def test_of_two_tokens_of_gguf_with_one_text_the_first_counts() -> None:
    gguf = Tokenizer.from_gguf(keys(tokens=[*alphabet(), "ab", "<x>", "<x>"], token_type=[1] * 257 + [3, 3]))
    assert gguf.for_author().encode("<x>") == [257] and gguf.vocab_size == 259


def test_added_tokens_without_a_row_are_left_out() -> None:
    added = [{"id": 257, "content": "<|end|>"}, {"id": 258, "content": "[PAD]"}]
    ours = Tokenizer.from_tokenizer_json(json.dumps(file(None, added)).encode(), {"eos_token": "<|end|>"})
    cut = ours.with_rows(258)
    assert (cut.vocab_size, dict(cut.specials), cut.eos_ids) == (258, {"<|end|>": 257}, {257})
    assert cut.for_author().encode("[PAD]ab<|end|>")[-2:] == [256, 257]
    assert cut.notes and "1 added tokens have no row" in cut.notes[0]
    assert ours.with_rows(259) is ours and ours.with_rows(300) is ours
    assert ours.with_rows(256) is ours, "an ordinary token has no row: refused where the file is opened"
