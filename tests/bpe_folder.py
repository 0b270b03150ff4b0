"""A small byte-level BPE tokenizer in Hugging Face's files, trained here by the `tokenizers` package."""

import json
from pathlib import Path

import pytest

from herd.text import split_names, splits

TEXT = ["the quick brown fox jumps over the lazy dog, 12 times in 2024; it's naïve!"] * 20
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot|>")
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def write_tokenizer(folder: Path, split: str = "llama4", vocab_size: int = 300) -> list[Path]:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja; their paths. Skips without `tokenizers`."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    whole = split_names.from_gguf(split, (), "").whole
    tok = tokenizers.Tokenizer(models.BPE(ignore_merges=whole))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in ("gpt-2", "smollm"))
    if split == "gpt-2":
        tok.pre_tokenizer = bytes_only
    elif split == "smollm":
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_only])
    else:
        pattern = tokenizers.Regex(splits.PATTERNS[split])
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), bytes_only])
    tok.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = vocab_size - len(SPECIALS)
    tok.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    tok.add_special_tokens(list(SPECIALS))
    if whole:
        first = SPECIALS[0]
        tok.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tok.token_to_id(first))]
        )
    folder.mkdir(exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIALS[0], "eos_token": SPECIALS[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return sorted(folder.iterdir())
