"""The chat format of a model: which one.

Chosen in this order: by name (`--chat-format`), by the digest of the template in the file, that template itself, the
special tokens in the vocabulary. A template is somebody's program: it runs where it can be killed, and no text that it
is given becomes a control token (`herd.text.chat_template`).
"""

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import NoReturn

from herd.errors import HerdError, UsageError, fail
from herd.text.chat_base import ChatFormat
from herd.text.chat_llama import Llama3, Llama4, Llama4HF
from herd.text.chat_other import SMOLLM2_SYSTEM, ChatML, Plain
from herd.text.chat_template import Templated, Writes
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


TEMPLATE = Templated.name
NAMES = (*FORMATS, TEMPLATE)


def choose_format(
    tokenizer: Tokenizer,
    template: str | None,
    name: str | None = None,
    writes: Callable[[], Writes] | None = None,
) -> ChatFormat:
    """The chat format for a vocabulary and the template found with it (`tokenizer.template`), or the one named.

    writes: opens where a template runs; without it none does. Raises UsageError that names `--chat-format`: unknown
    name, or nothing to choose by.
    """
    digest = sha256(template.encode("utf-8", "surrogatepass")).hexdigest() if template is not None else ""
    known, make = _TEMPLATES.get(digest, ("", Plain))
    if name is not None and name not in NAMES:
        fail(UsageError, "--chat-format", got=name, expected="one of " + ", ".join(NAMES))
    if name is not None and name != TEMPLATE:
        return make(tokenizer) if name == known else FORMATS[name](tokenizer)
    if known and name is None:
        return make(tokenizer)
    if template is None or writes is None:
        return _by_specials(tokenizer, digest) if name is None else _no_template(name)
    try:
        return _templated(tokenizer, writes())
    except HerdError as error:
        if name is not None:
            raise
        return _instead(tokenizer, template, error)


def how_chosen(tokenizer: Tokenizer) -> str:
    """What a model's chat format comes from, in words; the template is not run for it."""
    if tokenizer.template is None:
        kind = next(_fitting(tokenizer), None)
        return (
            "none: no template, and no known special tokens" if kind is None else f"{kind.name}, by its special tokens"
        )
    digest = sha256(tokenizer.template.encode("utf-8", "surrogatepass")).hexdigest()
    known = _TEMPLATES.get(digest)
    return f"{known[0]}, its template is known" if known else f"{TEMPLATE}, its own ({digest[:12]})"


def _templated(tokenizer: Tokenizer, writes: Writes) -> ChatFormat:
    try:
        return Templated(tokenizer, writes)
    except BaseException:
        writes.close()
        raise


def _instead(tokenizer: Tokenizer, template: str, error: HerdError) -> ChatFormat:
    """The format by special tokens, for a template that cannot be run but writes those."""
    for kind in _fitting(tokenizer):
        if kind.spelt in template:
            found = kind(tokenizer)
            found.note = f"chat format {kind.name} stands in for the model's own: {error}"
            return found
    return fail(UsageError, str(error), do="choose a format with --chat-format " + "|".join(FORMATS))


def _by_specials(tokenizer: Tokenizer, digest: str) -> ChatFormat:
    for kind in _fitting(tokenizer):
        return kind(tokenizer)
    return fail(
        UsageError,
        "no chat format is known for this model's special tokens"
        + (f" or its template ({digest[:12]})" if digest else ""),
        do="choose one with --chat-format " + "|".join(FORMATS),
    )


def _fitting(tokenizer: Tokenizer) -> Iterator[type[ChatFormat]]:
    """Formats whose tokens the vocabulary has."""
    return (kind for kind in _BY_SPECIALS if all(text in tokenizer.added for text in kind.needs))


def _no_template(name: str) -> NoReturn:
    fail(UsageError, "--chat-format", got=name, expected="a model that came with a template")
