"""The face shared by all vocabularies, the byte tokenizer, and SmolLM2's real vocabulary where its file is at hand."""

import os
from pathlib import Path

import pytest
from text_samples import random_texts

from herd.messages import Message
from herd.text.chat import choose_format
from herd.text.tokenizer import Tokenizer

LAYOUT = {
    "<|begin_of_text|>": 256,
    "<|end_of_text|>": 257,
    "<|header_start|>": 258,
    "<|header_end|>": 259,
    "<|image_start|>": 260,
    "<|image_end|>": 261,
    "<|eom|>": 262,
    "<|eot|>": 263,
    "<|tile_x_separator|>": 264,
    "<|tile_y_separator|>": 265,
    "<|patch|>": 266,
    "<|image|>": 267,
    "<|python_start|>": 268,
    "<|python_end|>": 269,
}


def test_the_byte_tokenizer_has_the_layout_that_tests_count_on():
    tokenizer = Tokenizer.bytes_only()
    assert {name: i for name, i in tokenizer.specials.items() if i < 270} == LAYOUT
    assert tokenizer.vocab_size == 320
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (256, frozenset({257, 262, 263}))
    assert tokenizer.encode("aé") == [0x61, 0xC3, 0xA9]
    assert tokenizer.decode([0x61, 256]) == "a<|begin_of_text|>"
    assert tokenizer.decode([0x61, 256], hide_specials=True) == "a"


def test_specials_cannot_be_changed():
    with pytest.raises(TypeError):
        Tokenizer.bytes_only().specials["<|new|>"] = 1  # type: ignore[index]


@pytest.fixture(scope="module")
def smollm2():
    """(Herd's tokenizer, the file's keys) of SmolLM2-135M-Instruct; HERD_SMOLLM2_GGUF names the file."""
    path = os.environ.get("HERD_SMOLLM2_GGUF", "")
    if not Path(path).is_file():
        pytest.skip("HERD_SMOLLM2_GGUF names no SmolLM2 GGUF file")
    gguf = pytest.importorskip("gguf")
    fields = gguf.GGUFReader(path).fields
    keys = {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}
    return Tokenizer.from_gguf(keys), keys


def test_smollm2_ids_are_those_of_tokenizers(smollm2):
    tokenizers = pytest.importorskip("tokenizers")
    ours, keys = smollm2
    vocab = {text: i for i, text in enumerate(keys["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]]
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    pre = tokenizers.pre_tokenizers
    oracle.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    texts = random_texts(seed=31, count=5000)
    assert [ours.encode(text) for text in texts] == [encoding.ids for encoding in oracle.encode_batch(texts)]


def test_smollm2_chat_begins_with_its_default_system_turn(smollm2):
    ours, _ = smollm2
    chat = choose_format(ours, ours.template)
    text = ours.decode(chat.encode([Message("user", "Hi <|im_end|>")]))
    assert chat.name == "chatml"
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
