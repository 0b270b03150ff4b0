"""Rank files against Meta's own tokenizers, whose files are read from the installed package."""

import random
from importlib.util import find_spec
from pathlib import Path

import pytest
from text_samples import random_text, random_texts

from herd.errors import UsageError
from herd.text import rank_file, special, splits
from herd.text.tokenizer import Tokenizer


def _package_file(family):
    spec = find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llama_models is not installed")
    return Path(spec.submodule_search_locations[0]) / family / "tokenizer.model"


@pytest.fixture(scope="module")
def llama4():
    """(Herd's tokenizer, Meta's) for Llama 4."""
    module = pytest.importorskip("llama_models.llama4.tokenizer")
    path = _package_file("llama4")
    return Tokenizer.from_rank_file(path), module.Tokenizer(path)


def _meta(tokenizer, text):
    return tokenizer.encode(text, bos=False, eos=False)


def test_llama4_ids_are_metas(llama4):
    ours, meta = llama4
    for text in random_texts(seed=11, count=3000):
        assert ours.encode(text) == _meta(meta, text), text


def test_llama4_tables_are_metas(llama4):
    ours, meta = llama4
    assert dict(ours.specials) == meta.special_tokens
    assert len(ours.specials) == 2048
    assert ours.vocab_size == meta.n_words == 202_048
    assert (ours.bos_id, ours.eos_ids) == (meta.bos_id, frozenset(meta.stop_tokens))
    assert splits.LLAMA4 == meta.O200K_PATTERN
    assert ours.specials["<|patch|>"] == 200_092
    for i in [*range(0, 200_000, 997), *range(200_000, 202_048)]:
        assert ours.token_bytes(i) == meta.model.decode_single_token_bytes(i)
        assert ours.is_special(i) == (i >= 200_000)


def test_llama3_ids_and_tables_are_metas():
    module = pytest.importorskip("llama_models.llama3.tokenizer")
    path = _package_file("llama3")
    ours, meta = Tokenizer.from_rank_file(path), module.Tokenizer(path)
    assert dict(ours.specials) == meta.special_tokens
    assert (ours.bos_id, ours.eos_ids) == (meta.bos_id, frozenset(meta.stop_tokens))
    assert meta.pat_str == splits.LLAMA_BPE
    for text in random_texts(seed=12, count=800):
        assert ours.encode(text) == _meta(meta, text), text


@pytest.mark.parametrize(
    "text",
    [
        "a" * 25_001,
        " " * 25_001 + "x",
        "x" + " " * 25_000 + "y",
        "ab" * 30_000 + "\n" * 60_000,
        "日" * 100_001,
        "\x1c" * 30_000,  # whitespace to Python, not to the split pattern
        "\x1c " * 20_000 + "a\x85" * 20_000,
        "word " * 81_000,  # past the cut at 400,000 characters
        "a" * 399_990 + " tail that crosses the cut",
        "A" * 1_000_000,
    ],
    ids=lambda text: f"{text[:4]!r}x{len(text)}",
)
def test_cuts_of_long_text_are_metas(llama4, text):
    ours, meta = llama4
    assert ours.encode(text) == _meta(meta, text)


def test_cuts_are_where_meta_makes_them_in_random_long_text(llama4):
    _, meta = llama4
    rng = random.Random(13)
    for _ in range(20):
        runs = [rng.choice("a \n日\x1c\xa0") * rng.choice([1, 7, 24_999, 25_000, 25_001, 50_001]) for _ in range(25)]
        text = "".join(runs)
        parts = [text[i : i + 400_000] for i in range(0, len(text), 400_000)]
        expected = [s for part in parts for s in meta._split_whitespaces_or_nonwhitespaces(part, 25_000)]
        assert list(rank_file.cuts(text)) == expected


def test_no_special_string_in_plain_text_becomes_a_special_id(llama4):
    ours, _ = llama4
    rng = random.Random(14)
    for text in special.LLAMA4:
        ids = ours.encode(random_text(rng) + text + text)
        assert not any(ours.is_special(i) for i in ids)
        assert ours.decode(ours.encode(text)) == text


def test_lone_surrogates_are_refused_with_their_place(llama4):
    ours, _ = llama4
    for tokenizer in (ours, Tokenizer.bytes_only()):
        with pytest.raises(UsageError, match=r"lone surrogate \(U\+DC80\) at character 3"):
            tokenizer.encode("abc\udc80d")


def test_ids_outside_the_vocabulary_are_refused(llama4):
    ours, _ = llama4
    for bad in (-1, 202_048, 1 << 70):
        with pytest.raises(UsageError, match="expected 0 to 202047"):
            ours.decode([bad])


def test_a_text_of_too_many_ids_is_not_read_to_its_end(llama4):
    tokenizer, text = llama4[0], "Ein Wort, two words. " * 60_000
    some, whole = tokenizer.encode(text, 1000), tokenizer.encode(text)
    assert 1000 < len(some) < len(whole) / 2
    assert some == whole[: len(some)]
    assert tokenizer.encode("as many as there may be", 7) == tokenizer.encode("as many as there may be")
