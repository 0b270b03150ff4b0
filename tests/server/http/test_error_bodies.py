"""Errors in each dialect: what clients tell them apart by."""

import json

import pytest

from herd.errors import ContextTooLong
from herd.server.http.error_bodies import Dialect, body_of


@pytest.mark.parametrize(
    ("dialect", "words"),
    [
        ("openai", "this model's maximum context length is"),  # as litellm and what stands on it look for
        ("ollama", "exceeds the available context size"),
        ("anthropic", "prompt is too long"),
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_its_message(dialect: Dialect, words: str) -> None:
    told = json.dumps(body_of(ContextTooLong("the prompt has 9 tokens, the context holds 8"), dialect))
    assert words in told
    assert "the prompt has 9 tokens, the context holds 8" in told
