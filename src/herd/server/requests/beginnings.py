"""The beginning of a text that a context holds: what Ollama's `truncate` of embeddings asks for."""

from herd.chat_model import ChatModel
from herd.errors import ContextTooLong

TRIES = 16
"""Cuts of one text: tokens at its end may be others once it is cut, so that it may have to be cut again."""


def beginning(model: ChatModel, text: str) -> str:
    """A text as it is, where a model's context holds it, else as many of its first tokens as that holds. Raises
    ContextTooLong where no cut is found."""
    if _fits(model, text):
        return text
    ids = model.tokenize(text[: model.context * (model.sizes.token_bytes or model.sizes.spelt_bytes)])
    for count in range(min(model.context, len(ids)), 0, -1)[:TRIES]:
        cut = model.detokenize(ids[:count]).rstrip("\ufffd")  # half of a character is none
        if cut and _fits(model, cut):
            return cut
    model.embed_tokens([text])  # says how long it is
    return text


def _fits(model: ChatModel, text: str) -> bool:
    try:
        model.embed_tokens([text])
    except ContextTooLong:
        return False
    return True
