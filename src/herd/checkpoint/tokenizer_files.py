"""Convert the files of a byte-level BPE tokenizer: GGUF keys <-> tokenizer.json and its config.

What it is: the same tokens, merges, split rule, special tokens and template under the other form's names. What it is
not: encoding (`herd.text`); vocabularies of another kind are refused there. Templates are carried as text.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from herd.config import Llama4Config
from herd.errors import BadTokenizer, fail
from herd.text import splits
from herd.text.files import parse_json, read_bounded
from herd.text.gguf_keys import in_merges
from herd.text.tokenizer import Tokenizer
from herd.text.tokenizer_json import MAX_FILE_BYTES

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""GGUF's token types."""
_PAD = re.compile(r"\[PAD[0-9]++\]")
_TURN_ENDS = {"eot": ("<|eot|>", "<|eot_id|>"), "eom": ("<|eom|>", "<|eom_id|>")}


def gguf_tokenizer_keys(folder: Path, tokenizer: Tokenizer, config: Llama4Config) -> dict[str, Any]:
    """The `tokenizer.*` keys for the tokenizer.json in `folder`, which `tokenizer` was read from.

    Vocabularies shorter than the embedding table are filled up with unused tokens, as llama.cpp wants one a row.
    Raises NotFound, BadTokenizer.
    """
    path = folder / "tokenizer.json"
    where = str(path)
    file = parse_json(read_bounded(path, MAX_FILE_BYTES), dict[str, Any], where)
    model, added = file["model"], file.get("added_tokens") or []
    ignore_merges = bool(model.get("ignore_merges"))
    if ignore_merges != (tokenizer.split in splits.WHOLE_PIECES):
        fail(
            BadTokenizer,
            f"{where}: ignore_merges",
            got=ignore_merges,
            expected=f"{not ignore_merges}: GGUF cannot say it",
        )
    rows = config.vocab_size
    tokens = [f"[PAD{i}]" for i in range(rows)]
    types = [UNUSED] * rows
    for text, i in model["vocab"].items():
        tokens[i], types[i] = text, NORMAL
    for token in added:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token.get("special") else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": tokenizer.split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": tokenizer.add_bos,
        **_end_keys(tokenizer, config),
    }
    if tokenizer.template is not None:
        keys["tokenizer.chat_template"] = tokenizer.template
    return keys


def _end_keys(tokenizer: Tokenizer, config: Llama4Config) -> dict[str, int]:
    """Keys for the ids of the first and the last tokens; GGUF has room for three that end an answer."""
    ids: dict[str, int | None] = {"bos": tokenizer.bos_id, "padding": config.pad_id}
    for name, texts in _TURN_ENDS.items():
        ids[name] = next((tokenizer.specials[t] for t in texts if t in tokenizer.specials), None)
    others = [i for i in (*config.eos_ids, *sorted(tokenizer.eos_ids)) if i not in (ids["eot"], ids["eom"])]
    ids["eos"] = others[0] if others else ids["eot"]
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None}


def hf_tokenizer_texts(
    keys: Mapping[str, Any], tokenizer: Tokenizer, config: Llama4Config, advice: Mapping[str, float], where: str
) -> dict[str, str]:
    """The content of tokenizer.json, tokenizer_config.json and generation_config.json, by name, from the GGUF keys that
    `tokenizer` was made of. Raises BadTokenizer when two ordinary tokens have the same text."""
    tokens: list[str] = list(keys["tokenizer.ggml.tokens"])
    types = [int(t) for t in keys["tokenizer.ggml.token_type"]]
    while tokens and types[-1] == UNUSED and _PAD.fullmatch(tokens[-1]):
        tokens.pop()
        types.pop()
    merges = list(keys["tokenizer.ggml.merges"])
    ordinary = [i for i, kind in enumerate(types) if kind == NORMAL]
    ordinary += sorted(in_merges(tokens, types, merges))
    vocab = {tokens[i]: i for i in ordinary}
    if len(vocab) != len(ordinary):
        fail(BadTokenizer, f"{where}: two ordinary tokens are one text", do="tokenizer.json cannot say that")
    added = [_added(i, text, types[i]) for i, text in enumerate(tokens) if types[i] != NORMAL]
    whole = tokenizer.split in splits.WHOLE_PIECES
    first = tokens[tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else None
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.split),
        "post_processor": _post_processor(first, tokenizer.bos_id),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole,
            "vocab": vocab,
            "merges": merges,
        },
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_context,
    }
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        i = keys.get(f"tokenizer.ggml.{key}_token_id")
        if i is not None and 0 <= i < len(tokens) and types[i] != NORMAL:
            settings[name] = tokens[i]
    if tokenizer.template is not None:
        settings["chat_template"] = tokenizer.template
    generation: dict[str, Any] = {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}
    if advice:
        generation |= {"do_sample": advice.get("temperature", 1.0) > 0, **advice}
    return {
        "tokenizer.json": json.dumps(file, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
    }


def _added(i: int, text: str, kind: int) -> dict[str, Any]:
    return {
        "id": i,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": kind != USER_DEFINED,
    }


def _pre_tokenizer(split: str) -> dict[str, Any]:
    bytes_step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if split == "gpt-2":
        return {**bytes_step, "use_regex": True}
    if split == "smollm":
        steps = [{"type": "Digits", "individual_digits": True}, {**bytes_step, "use_regex": True}]
    else:
        pattern = {"type": "Split", "pattern": {"Regex": splits.PATTERNS[split]}, "behavior": "Isolated"}
        steps = [{**pattern, "invert": False}, {**bytes_step, "use_regex": False}]
    return {"type": "Sequence", "pretokenizers": steps}


def _post_processor(first: str | None, first_id: int | None) -> dict[str, Any]:
    bytes_step = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    if first is None:
        return bytes_step
    start = {"SpecialToken": {"id": first, "type_id": 0}}
    a, b = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [start, a],
        "pair": [start, a, start, b],
        "special_tokens": {first: {"id": first, "ids": [first_id], "tokens": [first]}},
    }
    return {"type": "Sequence", "processors": [bytes_step, template]}
