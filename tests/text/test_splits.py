"""Split patterns: their pieces are those of `tokenizers` for every structure that we take for them."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from text_samples import random_texts

from herd.errors import BadTokenizer
from herd.text import splits

GPT2_ORIGINAL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": use_regex}


def _split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


STRUCTURES = [
    ("gpt-2", _byte_level(True)),
    ("gpt-2", _sequence(_byte_level(True))),
    ("gpt-2", _sequence(_split(GPT2_ORIGINAL), _byte_level(False))),
    ("smollm", _sequence({"type": "Digits", "individual_digits": True}, _byte_level(True))),
    ("smollm", _sequence(_split(r"\p{N}"), _byte_level(True))),
    ("llama-bpe", _sequence(_split(splits.LLAMA_BPE), _byte_level(False))),
    ("llama4", _sequence(_split(splits.LLAMA4), _byte_level(False))),
]


@pytest.mark.parametrize(("name", "structure"), STRUCTURES)
def test_pieces_are_those_of_tokenizers(name, structure):
    tokenizers = pytest.importorskip("tokenizers")
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(whole.to_str()), "pre_tokenizer": structure}))
    assert splits.from_pre_tokenizer(structure, "x.json") == name
    for text in random_texts(seed=61, count=800):
        pieces = [text[a:b] for _, (a, b) in whole.pre_tokenizer.pre_tokenize_str(text)]
        assert splits.compiled(name).findall(text) == pieces


@pytest.mark.parametrize(
    "structure",
    [
        _split(splits.LLAMA4),  # no byte step
        _sequence(_split(splits.LLAMA4), _byte_level(True)),
        _sequence(_split(splits.LLAMA4.replace("{1,3}", "{1,4}")), _byte_level(False)),
        _sequence(_split(splits.LLAMA_BPE) | {"behavior": "Removed"}, _byte_level(False)),
        _sequence(_split(splits.LLAMA_BPE) | {"invert": True}, _byte_level(False)),
        _sequence({"type": "Digits", "individual_digits": False}, _byte_level(True)),
        _byte_level(True) | {"add_prefix_space": True},
        {"type": "ByteLevel"},  # a prefix space is its default
        {"type": "Whitespace"},
        "ByteLevel",
        None,
    ],
)
def test_other_structures_are_refused_by_name(structure):
    with pytest.raises(
        BadTokenizer, match=r"^x.json: pre_tokenizer: got .*expected one of gpt-2, llama-bpe, llama4, smollm"
    ):
        splits.from_pre_tokenizer(structure, "x.json")


def test_patterns_leave_no_character_out():
    for name in splits.PATTERNS:
        for text in random_texts(seed=62, count=500):
            assert "".join(splits.compiled(name).findall(text)) == text


@pytest.mark.parametrize("name", splits.PATTERNS)
@given(text=st.text(alphabet="ab1'sre \n\t.-\u0301\u3042\u00c9\U0001f600", max_size=200), window=st.integers(9, 40))
@example(text="word're" * 9, window=16)
@example(text="a" * 300 + " b", window=9)
def test_a_text_in_windows_has_the_pieces_of_the_whole(name: str, text: str, window: int) -> None:
    batches = list(splits.batches(name, text, window))
    assert [piece for some in batches for piece in some] == splits.compiled(name).findall(text)
    assert all(batches)


@pytest.mark.parametrize("name", splits.PATTERNS)
def test_pieces_leave_nothing_of_a_text_out(name: str) -> None:
    text = "".join(map(chr, range(0x20000))).replace("\ud800", "")
    assert "".join(splits.compiled(name).findall(text)) == text
