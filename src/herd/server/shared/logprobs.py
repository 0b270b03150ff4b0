"""Log-probabilities of tokens, as chat, responses and Ollama's routes tell them: a list with an object a token.

A token that is a part of a character has no text of its own: its bytes are written out as OpenAI does (`\\xf0\\x9f`),
so that no two of them look alike. `bytes` are what a token adds to the text: none of a control token, which is hidden.
"""

from collections.abc import Sequence
from typing import Any

from herd.events import Likely, Logprob


def name_of(token: Likely) -> str:
    """A token as text."""
    return token.spelt.decode("utf-8", "backslashreplace") if token.spelt else token.text


def listed(found: Sequence[Logprob]) -> list[dict[str, Any]]:
    """Each token with its name, its bytes, how likely it was, and the likeliest ones, likeliest first."""
    return [{**_token(one), "top_logprobs": [_token(x) for x in one.top]} for one in found]


def _token(one: Likely) -> dict[str, Any]:
    return {"token": name_of(one), "logprob": one.logprob, "bytes": list(one.token_bytes)}
