"""Merge-list vocabularies against `tokenizers`: every split, both kinds of file, missing bytes, long runs."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from text_samples import random_texts

from herd.text import split_names
from herd.text.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")
SPECIALS = ["<|begin_of_text|>", "<|eot|>", "<|im_start|>", "<|im_end|>"]


def _pre_tokenizer(split):
    pre, regex = tokenizers.pre_tokenizers, tokenizers.Regex

    def byte_level(use_regex):
        return pre.ByteLevel(add_prefix_space=False, use_regex=use_regex)

    return {
        "gpt-2": byte_level(True),
        "smollm": pre.Sequence([pre.Digits(individual_digits=True), byte_level(True)]),
        # the patterns as the published files have them, not as splits.py builds them
        "llama-bpe": pre.Sequence([pre.Split(regex(PUBLISHED["llama-bpe"]), "isolated"), byte_level(False)]),
        "llama4": pre.Sequence([pre.Split(regex(PUBLISHED["llama4"]), "isolated"), byte_level(False)]),
    }[split]


PUBLISHED = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama4": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.fixture(scope="module", params=["llama4", "llama-bpe", "smollm", "gpt-2"])
def trained(request):
    """A small vocabulary trained by `tokenizers` with this split: (split, its tokenizer.json as an object)."""
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE())
    oracle.pre_tokenizer = _pre_tokenizer(request.param)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIALS,
        show_progress=False,
    )
    oracle.train_from_iterator(random_texts(seed=1, count=1500), trainer)
    return request.param, json.loads(oracle.to_str())


def _oracle(file):
    """`tokenizers` on the same file, without its added tokens: it would find them in plain text."""
    return tokenizers.Tokenizer.from_str(json.dumps({**file, "added_tokens": []}))


def _oracle_ids(file, texts):
    return [encoding.ids for encoding in _oracle(file).encode_batch(texts, add_special_tokens=False)]


def _gguf_keys(split, file):
    vocab = file["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3 if token in SPECIALS else 1 for token in tokens], np.int32),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in file["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def test_tokenizer_json_gives_the_ids_of_tokenizers(trained):
    split, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    texts = random_texts(seed=2, count=5000)
    assert ours.split == split
    assert [ours.encode(text) for text in texts] == _oracle_ids(file, texts)


def test_gguf_keys_give_the_ids_of_tokenizers(trained):
    split, file = trained
    ours = Tokenizer.from_gguf(_gguf_keys(split, file))
    file = {**file, "model": {**file["model"], "ignore_merges": split_names.from_gguf(split, (), "").whole}}
    texts = random_texts(seed=3, count=500)
    assert [ours.encode(text) for text in texts] == _oracle_ids(file, texts)


def test_a_piece_that_is_a_token_is_taken_whole_only_when_the_file_says_so(trained):
    _, file = trained
    words = ["Unmergeable", "Ġzyzzyva", "qqqqqqqq"]  # tokens that no merge makes
    model = {**file["model"], "vocab": dict(file["model"]["vocab"])}
    for word in words:
        model["vocab"][word] = len(model["vocab"])
    texts = ["Unmergeable zyzzyva", "qqqqqqqq", *random_texts(seed=4, count=300)]
    ids = {}
    for whole in (False, True):
        changed = {**file, "model": {**model, "ignore_merges": whole}}
        ours = Tokenizer.from_tokenizer_json(json.dumps(changed).encode())
        ids[whole] = [ours.encode(text) for text in texts]
        assert ids[whole] == _oracle_ids(changed, texts)
    assert ids[True][0] + ids[True][1] == [model["vocab"][word] for word in words]
    assert all(len(ids[False][i]) > len(ids[True][i]) for i in (0, 1))


def test_bytes_without_a_token_are_left_out_as_in_tokenizers(trained):
    _, file = trained
    model = file["model"]
    gone = {"Ā", "ĳ", "ñ"}  # bytes 0x00, 0x8F... and a continuation byte in GPT-2's alphabet
    keep = sorted((t for t in model["vocab"] if not gone & set(t)), key=model["vocab"].get)
    changed = {
        **file,
        "added_tokens": [],
        "model": {
            **model,
            "vocab": {token: i for i, token in enumerate(keep)},
            "merges": [m for m in model["merges"] if not gone & set("".join(m))],
        },
    }
    ours = Tokenizer.from_tokenizer_json(json.dumps(changed).encode())
    texts = ["a\x00b", "\x00", "ñandú", *random_texts(seed=5, count=500)]
    assert len(ours.missing_bytes) == 3
    assert 0 in ours.missing_bytes
    assert [ours.encode(text) for text in texts] == _oracle_ids(changed, texts)


def test_long_runs_give_the_ids_of_tokenizers(trained):
    _, file = trained
    ours, oracle = Tokenizer.from_tokenizer_json(json.dumps(file).encode()), _oracle(file)
    for run in ("a", " ", "\n", "ab", "7", "日本", "\u0301", "A", " \n", "日A"):
        text = "x" + run * (20_000 // len(run)) + "y"
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False).ids, run


@pytest.mark.parametrize("run", ["a", " ", "日本", "A"])
def test_a_run_of_a_million_characters_round_trips(trained, run):
    _, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    text = run * (1_000_000 // len(run))
    assert ours.decode(ours.encode(text)) == text


def test_the_cache_never_changes_ids(trained):
    _, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    texts = [f"word{i} x{i % 7}{'y' * (i % 90)}" for i in range(40_000)]  # more pieces than the cache holds
    first = [ours.encode(text) for text in texts[:50]]
    for text in texts:
        ours.encode(text)
    assert [ours.encode(text) for text in texts[:50]] == first
    fresh = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    assert [fresh.encode(text) for text in reversed(texts[-50:])] == [
        ours.encode(text) for text in reversed(texts[-50:])
    ]


def test_threads_share_one_vocabulary(trained):
    _, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    texts = random_texts(seed=7, count=400)
    alone = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda shift: [ours.encode(text) for text in texts[shift:] + texts[:shift]], range(8)))
    for shift, ids in enumerate(shared):
        assert ids == [alone.encode(text) for text in texts[shift:] + texts[:shift]]


def test_special_strings_are_plain_text_and_round_trip(trained):
    _, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    for text in SPECIALS + [a + b for a in SPECIALS for b in SPECIALS]:
        ids = ours.encode(text)
        assert not any(ours.is_special(i) for i in ids)
        assert ours.decode(ids) == text


def test_decoding_gives_the_text_of_tokenizers(trained):
    _, file = trained
    ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode())
    oracle = _oracle(file)
    oracle.decoder = tokenizers.decoders.ByteLevel()
    for text in random_texts(seed=6, count=500):
        ids = ours.encode(text)
        assert ours.decode(ids) == text
        assert ours.decode(ids[1:-1]) == oracle.decode(ids[1:-1])


def test_a_text_of_too_many_ids_is_not_read_to_its_end(trained):
    tokenizer = Tokenizer.from_tokenizer_json(json.dumps(trained[1]).encode())
    text = "Ein Wort, two words. " * 20_000
    some, whole = tokenizer.encode(text, 1000), tokenizer.encode(text)
    assert 1000 < len(some) < len(whole) / 2
    assert some == whole[: len(some)]
    assert tokenizer.encode("as many", 1) == tokenizer.encode("as many")
