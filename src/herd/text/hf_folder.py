"""The tokenizer of a Hugging Face folder: tokenizer.json with its config, or tokenizer.model, which is SentencePiece's
file or Meta's rank file; and the chat template.

tokenizer_config.json says which token begins and ends a text; generation_config.json may add more that end an answer.
The chat template is in chat_template.jinja, in tokenizer_config.json, or, where neither has one, in the
chat_template.json that processors of older transformers wrote; others by name beside them. What becomes of it:
`herd.text.chat`.
"""

from pathlib import Path
from typing import Any

from herd.errors import BadTokenizer, NotFound, fail
from herd.text import rank_file, sentencepiece_file, tokenizer_json
from herd.text.added import AddedToken
from herd.text.files import parse_json, read_bounded

MAX_CONFIG_BYTES = 4 << 20
MAX_ID = 1 << 20
MAX_TEMPLATE_BYTES = 1 << 20
MOST_TEMPLATES = 16
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Names of special tokens in tokenizer_config.json, as templates use them."""


def load(folder: Path) -> dict[str, Any]:
    """The tokenizer in a folder, as arguments of `Tokenizer`. Raises NotFound, BadTokenizer."""
    config = _object(folder / "tokenizer_config.json")
    template, others = _templates(folder, config)
    if (folder / "tokenizer.json").exists():
        found = tokenizer_json.load(folder / "tokenizer.json", {**config, "chat_template": template})
    elif (path := folder / "tokenizer.model").exists():
        if sentencepiece_file.is_sentencepiece(path):
            found = sentencepiece_file.load(path, config, _further(folder, config))
        else:
            found = rank_file.load(path, None)
    else:
        fail(NotFound, f"{folder} has no tokenizer", expected="tokenizer.json or tokenizer.model")
    ends = frozenset(found["eos_ids"]) | _eos_ids(folder, len(found["token_bytes"]))
    return {**found, "eos_ids": ends, "template": template, "templates": others, "named": _named(config, found)}


def _further(folder: Path, config: dict[str, Any]) -> list[AddedToken]:
    """Tokens that tokenizer_config.json or added_tokens.json add to a tokenizer.model."""
    listed, where = config.get("added_tokens_decoder"), str(folder / "tokenizer_config.json")
    if not isinstance(listed, dict):
        path = folder / "added_tokens.json"
        listed, where = {i: {"content": text} for text, i in _object(path).items()}, str(path)
    return [_token(key, value, where) for key, value in listed.items()]


def _token(key: Any, value: Any, where: str) -> AddedToken:
    i = int(key) if str(key).isdecimal() and len(str(key)) < 8 else MAX_ID
    if not i < MAX_ID or not isinstance(value, dict) or not isinstance(value.get("content"), str):
        fail(BadTokenizer, f"{where}: added token", got=str(key)[:20], expected="an id, and a text for it")
    flags = {name: value.get(name) is True for name in ("special", "normalized", "lstrip", "rstrip", "single_word")}
    return AddedToken(i, value["content"], **flags)


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    if not path.exists():
        return {}
    value: dict[str, Any] = parse_json(read_bounded(path, MAX_CONFIG_BYTES), dict[str, Any], str(path))
    return value


def _templates(folder: Path, config: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The template, and others by name."""
    value = config.get("chat_template")
    listed = value if isinstance(value, list) else [{"name": "default", "template": value}]
    found = {t.get("name"): t.get("template") for t in listed if isinstance(t, dict)}
    others = folder / "additional_chat_templates"
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted(others.glob("*.jinja"))[:MOST_TEMPLATES]} if others.is_dir() else {}
    found |= {name: _text(path) for name, path in paths.items() if path.exists()}
    if found.get("default") is None:
        found["default"] = _object(folder / "chat_template.json").get("chat_template")
    texts = {name: text for name, text in found.items() if isinstance(name, str) and isinstance(text, str)}
    return texts.pop("default", None), texts


def _text(path: Path) -> str:
    try:
        return read_bounded(path, MAX_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError:
        fail(BadTokenizer, f"{path} is not UTF-8")


def _named(config: dict[str, Any], found: dict[str, Any]) -> dict[str, str]:
    """Special tokens by the names that tokenizer_config.json gives them; the first token has one in any case."""
    given = {name: config.get(name) for name in NAMES}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in given.items()}
    bos_id = found["bos_id"]
    first = next((text for text, i in found["specials"].items() if i == bos_id), None)
    return {name: text for name, text in {"bos_token": first, **texts}.items() if isinstance(text, str)}


def _eos_ids(folder: Path, vocab_size: int) -> frozenset[int]:
    path = folder / "generation_config.json"
    value = _object(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            fail(BadTokenizer, f"{path}: eos_token_id", got=i, expected=f"0 to {vocab_size - 1}")
    return frozenset(ids)
