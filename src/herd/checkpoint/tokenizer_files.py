"""Convert the files of a BPE tokenizer: GGUF keys <-> tokenizer.json and its config.

What it is: the same tokens, merges, split rule, special tokens and template under the other form's names. What it is
not: encoding (`herd.text`); vocabularies of another kind are refused there. Templates are carried as text.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from herd.checkpoint import sentencepiece_files
from herd.config import Llama4Config
from herd.errors import BadTokenizer, fail
from herd.text import split_names
from herd.text.files import parse_json, read_bounded
from herd.text.gguf_keys import in_merges, types_of
from herd.text.merge_list import unreached
from herd.text.sentencepiece import BYTE, CONTROL, NORMAL, UNUSED, USER_DEFINED
from herd.text.tokenizer import Tokenizer
from herd.text.tokenizer_json import MAX_FILE_BYTES

_PAD = re.compile(r"\[PAD[0-9]++\]")
_NO_KEY = re.compile(r"[^A-Za-z0-9]")
_TURN_ENDS = {"eot": ("<|eot|>", "<|eot_id|>"), "eom": ("<|eom|>", "<|eom_id|>")}


def gguf_tokenizer_keys(folder: Path, tokenizer: Tokenizer, config: Llama4Config) -> tuple[dict[str, Any], list[str]]:
    """The `tokenizer.*` keys for the vocabulary in `folder`, which `tokenizer` was read from; and notes: what GGUF
    cannot say of it.

    Vocabularies shorter than the embedding table are filled up with unused tokens, as llama.cpp wants one a row.
    Raises NotFound, BadTokenizer.
    """
    path = folder / "tokenizer.json"
    if tokenizer.pieces is not None:
        keys, notes = sentencepiece_files.gguf_keys(tokenizer, tokenizer.pieces, config.vocab_size, str(folder))
    else:
        keys, notes = _byte_keys(
            parse_json(read_bounded(path, MAX_FILE_BYTES), dict[str, Any], str(path)), tokenizer, config
        )
    if flagged := tokenizer.flagged:
        notes.append(
            f"GGUF cannot say lstrip, rstrip and single_word of added tokens ({', '.join(flagged[:3])}): "
            "texts with one of them get other ids beside it"
        )
    keys |= {"tokenizer.ggml.add_bos_token": tokenizer.add_bos, **_end_keys(tokenizer, config)}
    return keys | _template_keys(tokenizer), notes


def _template_keys(tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys of all chat templates, as the `gguf` package writes them."""
    named = {_NO_KEY.sub("_", name): text for name, text in tokenizer.templates.items()}
    keys: dict[str, Any] = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    if named:
        keys["tokenizer.chat_templates"] = list(named)
    return keys if tokenizer.template is None else {**keys, "tokenizer.chat_template": tokenizer.template}


def with_templates(settings: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """What tokenizer_config.json says, with all chat templates of a vocabulary in it."""
    named = {"default": tokenizer.template, **tokenizer.templates}
    listed = [{"name": name, "template": text} for name, text in named.items() if text is not None]
    if tokenizer.templates:
        return {**settings, "chat_template": listed}
    return dict(settings) if tokenizer.template is None else {**settings, "chat_template": tokenizer.template}


def _byte_keys(file: Mapping[str, Any], tokenizer: Tokenizer, config: Llama4Config) -> tuple[dict[str, Any], list[str]]:
    """The keys of a byte-level vocabulary but for special tokens, and what they cannot say."""
    model, added = file["model"], file.get("added_tokens") or []
    tokens = [f"[PAD{i}]" for i in range(config.vocab_size)]
    types = [UNUSED] * config.vocab_size
    for text, i in model["vocab"].items():
        tokens[i], types[i] = text, NORMAL
    for token in added:
        i = token["id"]
        if tokenizer.added.get(token["content"]) == i:
            tokens[i], types[i] = token["content"], CONTROL if token.get("special") else USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    pre, exact = split_names.gguf_name(tokenizer.split, tokenizer.whole_pieces)
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }
    made = in_merges(tokens, types, merges)
    ordinary = bytes(kind == NORMAL or i in made for i, kind in enumerate(types))
    count = 0 if exact else unreached(tokens, ordinary, merges)
    if not count:
        return keys, []
    said, read = (str(one).lower() for one in (tokenizer.whole_pieces, not tokenizer.whole_pieces))
    return keys, [
        f"ignore_merges is {said} in the source, programs read GGUF's {pre} as if it were {read}: {count} tokens that "
        "no merge makes are concerned"
    ]


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
    types = types_of(keys, where)
    while tokens and types[-1] == UNUSED and _PAD.fullmatch(tokens[-1]):
        tokens.pop()
        types.pop()
    first = tokens[tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else None
    if tokenizer.pieces is not None:
        added = _added_tokens(tokenizer, tokens, types)
        file = sentencepiece_files.hf_file(tokenizer, tokenizer.pieces, len(tokens), added, where)
    else:
        file = _byte_file(tokenizer, tokens, types, list(keys["tokenizer.ggml.merges"]), where)
    file["post_processor"] = _with_first(first, tokenizer.bos_id, file["post_processor"])
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_context,
    }
    for name, key, usual in (
        ("bos_token", "bos", tokenizer.bos_id),
        ("eos_token", "eos", None),
        ("pad_token", "padding", None),
    ):
        i = keys.get(f"tokenizer.ggml.{key}_token_id", usual)
        if i is not None and 0 <= i < len(tokens) and types[i] != NORMAL:
            settings[name] = tokens[i]
    settings = with_templates(settings, tokenizer)
    generation: dict[str, Any] = {"bos_token_id": config.bos_id, "eos_token_id": list(config.eos_ids) or None}
    if advice:
        generation |= {"do_sample": advice.get("temperature", 1.0) > 0, **advice}
    return {
        "tokenizer.json": json.dumps(file, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, ensure_ascii=False, indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
    }


def _byte_file(
    tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], where: str
) -> dict[str, Any]:
    """The tokenizer.json of a byte-level vocabulary but for its first token."""
    ordinary = [i for i, kind in enumerate(types) if kind == NORMAL]
    ordinary += sorted(in_merges(tokens, types, merges))
    vocab = {tokens[i]: i for i in ordinary}
    if len(vocab) != len(ordinary):
        fail(BadTokenizer, f"{where}: two ordinary tokens are one text", do="tokenizer.json cannot say that")
    added = _added_tokens(tokenizer, tokens, types)
    vocab |= _numbered_by_vocab(len(vocab), added)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split_names.to_pre_tokenizer(tokenizer.split),
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole_pieces,
            "vocab": vocab,
            "merges": merges,
        },
    }


def _numbered_by_vocab(size: int, added: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The added tokens that have to stand in a vocabulary of `size` others, by text: one that does not gets the next id
    behind it from programs, whatever its own is. added: in the order of their ids."""
    found = dict[str, int]()
    for token in added:
        if token["id"] < size + len(found):
            found[token["content"]] = token["id"]
    behind = [token["id"] for token in added[len(found) :]]
    follow = behind == [*range(size + len(found), size + len(added))]
    return found if follow else {token["content"]: token["id"] for token in added}


def _added_tokens(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens that are found in texts and special ones; of two with one text the first."""
    known = {**tokenizer.specials, **tokenizer.added}
    kinds = (NORMAL, BYTE)
    return [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] != USER_DEFINED,
        }
        for i, text in enumerate(tokens)
        if types[i] not in kinds and known.get(text) == i
    ]


def _with_first(first: str | None, first_id: int | None, step: dict[str, Any] | None) -> dict[str, Any] | None:
    """A post-processor that puts a token before a text, behind another step."""
    if first is None:
        return step
    start = {"SpecialToken": {"id": first, "type_id": 0}}
    a, b = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    template = {
        "type": "TemplateProcessing",
        "single": [start, a],
        "pair": [start, a, start, b],
        "special_tokens": {first: {"id": first, "ids": [first_id], "tokens": [first]}},
    }
    return template if step is None else {"type": "Sequence", "processors": [step, template]}
