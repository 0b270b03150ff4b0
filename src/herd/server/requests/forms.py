"""Fields that set the form of an answer, whichever server they are known from.

A dialect honours its own. One of another's is refused by name, not merely noted: an answer in another form than the one
that was asked for is wrong, and a program does not read the header that says so.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

FORMS = (
    "response_format", "format", "output_format", "output_config", "text", "structured_outputs", "structural_tag",
    "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_whitespace_pattern",
    "json_schema", "regex", "ebnf", "grammar",
)  # fmt: skip
"""What the answer must be."""
SHAPES: Mapping[str, str] = {
    "chat_template": "chat formats are the model's own; send the prompt as the model is to read it to /v1/completions",
    "documents": "put them into a message",
    "echo": "an answer holds the new text alone; see /v1/completions",
    "include_stop_str_in_output": "an answer ends before a stop string",
    "skip_special_tokens": "an answer is text without control tokens",
    "return_token_ids": "ids come from POST /tokenize",
    "return_tokens_as_token_ids": "ids come from POST /tokenize",
    "prompt_logprobs": "see echo with logprobs in /v1/completions",
    "n_probs": "see logprobs",
    "truncate_prompt_tokens": "a prompt is never cut",
    "bad_words": "see logit_bias",
}
"""What else changes an answer, its parts or its prompt."""
HARMLESS: Mapping[str, tuple[Any, ...]] = {"skip_special_tokens": (True, None), "modalities": (["text"], [], None)}
"""Values that ask for what is done anyway, where these are not null, false, 0 and what is empty."""


def forms_of_others(own: type[msgspec.Struct], do: str) -> dict[str, str]:
    """Fields that would change an answer's form and that are not among a route's own: name -> why it is refused.
    do: what the route has instead, in a few words."""
    known = {one.encode_name for one in msgspec.structs.fields(own)}
    found = {**dict.fromkeys(FORMS, do), **SHAPES}
    return {name: why for name, why in found.items() if name not in known}
