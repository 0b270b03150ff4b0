"""The chat format of a model: which one.

Chosen in this order: by name (`--chat-format`), by the digest of the template in the file, by the special tokens in the
vocabulary. A template is never executed: it is somebody's program, and text in it can become control tokens.
"""

from collections.abc import Callable, Mapping
from hashlib import sha256

from herd.errors import UsageError, fail
from herd.text.chat_base import ChatFormat
from herd.text.chat_llama import Llama3, Llama4, Llama4HF
from herd.text.chat_other import SMOLLM2_SYSTEM, ChatML, Plain
from herd.text.tokenizer import Tokenizer

__all__ = ["FORMATS", "ChatFormat", "choose_format"]

FORMATS: Mapping[str, type[ChatFormat]] = {c.name: c for c in (Llama4, Llama4HF, Llama3, ChatML, Plain)}


def _smollm2(tokenizer: Tokenizer) -> ChatFormat:
    return ChatML(tokenizer, SMOLLM2_SYSTEM)


# sha256 of a template's text -> its format.
_TEMPLATES: Mapping[str, tuple[str, Callable[[Tokenizer], ChatFormat]]] = {
    # SmolLM2-Instruct, all sizes
    "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788": ("chatml", _smollm2),
    # transformers' processing_llama4.py
    "95a231a15c8c976ac511e62c6fdf477ea9e3ca7a87cbb9974e0dd653eccb4563": ("llama4-hf", Llama4HF),
}
# Tried in order where no template is known.
_BY_SPECIALS: tuple[type[ChatFormat], ...] = (Llama4, Llama3, ChatML)


def choose_format(tokenizer: Tokenizer, template: str | None, name: str | None = None) -> ChatFormat:
    """The chat format for a vocabulary and the template found with it (`tokenizer.template`), or the one named.

    Raises UsageError that names `--chat-format`: unknown name, or nothing to choose by.
    """
    digest = sha256(template.encode("utf-8", "surrogatepass")).hexdigest() if template is not None else ""
    known, make = _TEMPLATES.get(digest, ("", Plain))
    if name is not None:
        if name not in FORMATS:
            fail(UsageError, "--chat-format", got=name, expected="one of " + ", ".join(FORMATS))
        return make(tokenizer) if name == known else FORMATS[name](tokenizer)
    if known:
        return make(tokenizer)
    for kind in _BY_SPECIALS:
        if all(text in tokenizer.added for text in kind.needs):
            return kind(tokenizer)
    return fail(
        UsageError,
        "no chat format is known for this model's special tokens"
        + (f" or its template ({digest[:12]})" if digest else ""),
        do="choose one with --chat-format " + "|".join(FORMATS),
    )
