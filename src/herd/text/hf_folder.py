"""The tokenizer of a Hugging Face folder: tokenizer.json with its config, or Meta's rank file; and the chat template.

tokenizer_config.json says which token begins and ends a text; generation_config.json may add more that end an answer.
The chat template is in chat_template.jinja, or in tokenizer_config.json; it is kept for its digest and never executed.
"""

from pathlib import Path
from typing import Any

from herd.errors import BadTokenizer, NotFound, fail
from herd.text import rank_file, tokenizer_json
from herd.text.files import parse_json, read_bounded

MAX_CONFIG_BYTES = 4 << 20
MAX_TEMPLATE_BYTES = 1 << 20


def load(folder: Path) -> dict[str, Any]:
    """The tokenizer in a folder, as arguments of `Tokenizer`. Raises NotFound, BadTokenizer."""
    config = _object(folder / "tokenizer_config.json")
    template = _template(folder, config)
    if (folder / "tokenizer.json").exists():
        found = tokenizer_json.load(folder / "tokenizer.json", {**config, "chat_template": template})
    elif (folder / "tokenizer.model").exists():
        found = rank_file.load(folder / "tokenizer.model", None)
    else:
        fail(NotFound, f"{folder} has no tokenizer", expected="tokenizer.json or tokenizer.model")
    ends = frozenset(found["eos_ids"]) | _eos_ids(folder, len(found["token_bytes"]))
    return {**found, "eos_ids": ends, "template": template}


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file."""
    if not path.exists():
        return {}
    value: dict[str, Any] = parse_json(read_bounded(path, MAX_CONFIG_BYTES), dict[str, Any], str(path))
    return value


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_bounded(path, MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError:
            fail(BadTokenizer, f"{path} is not UTF-8")
    value = config.get("chat_template")
    if isinstance(value, list):  # several, by name
        value = next((t.get("template") for t in value if isinstance(t, dict) and t.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _eos_ids(folder: Path, vocab_size: int) -> frozenset[int]:
    path = folder / "generation_config.json"
    value = _object(path).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            fail(BadTokenizer, f"{path}: eos_token_id", got=i, expected=f"0 to {vocab_size - 1}")
    return frozenset(ids)
