"""Split patterns: their pieces are those of `tokenizers` for every structure that we take for them."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from text_samples import random_texts

from herd.errors import BadTokenizer
from herd.text import split_names, split_steps, splits

GPT2_ORIGINAL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# As published files have them.
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+")
DIGITS = {"type": "Digits", "individual_digits": True}


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
    ("tekken", _sequence(_split(TEKKEN), _byte_level(False))),
    ("qwen2", _sequence(_split(QWEN2), _byte_level(False))),
    ("deepseek-v3", _sequence(*map(_split, DEEPSEEK_V3), _byte_level(False))),
    ("deepseek-coder", _sequence(*map(_split, DEEPSEEK_CODER), DIGITS, _byte_level(False))),
    ("deepseek-llm", _sequence(*map(_split, split_steps.STEPS["deepseek-llm"]), DIGITS, _byte_level(False))),
]


def pieces_of(name, text):
    return [piece for some in splits.batches(name, text) for piece in some]


@pytest.mark.parametrize(("name", "structure"), STRUCTURES)
def test_pieces_are_those_of_tokenizers(name, structure):
    tokenizers = pytest.importorskip("tokenizers")
    whole = tokenizers.Tokenizer(tokenizers.models.BPE())
    whole = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(whole.to_str()), "pre_tokenizer": structure}))
    assert split_names.from_pre_tokenizer(structure, "x.json") == name
    written = split_names.to_pre_tokenizer(name)
    assert split_names.from_pre_tokenizer(written, "x.json") == name
    for text in [*random_texts(seed=61, count=800), "\u3002 a\u3000\u300a1 \u2460\u20ac  \u8d5e   \u20ac "]:
        pieces = [text[a:b] for _, (a, b) in whole.pre_tokenizer.pre_tokenize_str(text)]
        assert pieces_of(name, text) == pieces


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
        BadTokenizer, match=r"^x.json: pre_tokenizer: got .*expected one of deepseek-coder, .* qwen2, smollm, tekken"
    ):
        split_names.from_pre_tokenizer(structure, "x.json")


NAMES = (*splits.PATTERNS, *split_steps.STEPS)


def whole(name, text):
    return split_steps.cut(name, text) if name in split_steps.STEPS else splits.compiled(name).findall(text)


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(alphabet="ab1'sre \n\t.-\u0301\u3042\u00c9\U0001f600", max_size=200), window=st.integers(9, 40))
@example(text="word're" * 9, window=16)
@example(text="a" * 300 + " b", window=9)
def test_a_text_in_windows_has_the_pieces_of_the_whole(name: str, text: str, window: int) -> None:
    batches = list(splits.batches(name, text, window))
    assert [piece for some in batches for piece in some] == whole(name, text)
    assert all(batches)


@pytest.mark.parametrize("name", NAMES)
def test_pieces_leave_nothing_of_a_text_out(name: str) -> None:
    for text in ("".join(map(chr, range(0x20000))).replace("\ud800", ""), *random_texts(seed=62, count=200)):
        assert "".join(whole(name, text)) == text


def test_names_of_gguf_and_splits_are_of_each_other() -> None:
    for split in NAMES:
        name, exact = split_names.gguf_name(split, whole=False)
        found = split_names.from_gguf(name, (), "x.gguf")
        assert found.split == split and exact == (not found.whole)
    for pre in ("llama-bpe", "falcon3", "pixtral", "tekken"):
        assert split_names.from_gguf(pre, (), "x.gguf")[1:3] == (True, True), "as llama.cpp"
    for pre in ("smaug-bpe", "gpt-4o", "deepseek-r1-qwen", "deepseek-llm"):
        assert split_names.from_gguf(pre, (), "x.gguf")[1:3] == (False, False)
