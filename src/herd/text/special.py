"""Special tokens by name: Llama 4's 2,048, Llama 3's 256, and the small table of the test tokenizer.

A table is a tuple of texts in the order of their ids; the first id is the number of ordinary tokens (200,000 in Llama
4, 128,000 in Llama 3). Sources: Meta's llama-models, models/llama4/tokenizer.py and models/llama3/tokenizer.py.
"""

from collections.abc import Iterable, Mapping

# The special tokens of the byte tokenizer (`Tokenizer.bytes_only`), ids 256 to 269: those that Llama 4's chat and
# images use.
SMALL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>"),
    *("<|image_start|>", "<|image_end|>", "<|eom|>", "<|eot|>"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>", "<|patch|>", "<|image|>"),
    *("<|python_start|>", "<|python_end|>"),
)

# Those of them that stand for images, in every family.
IMAGES = (
    *("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>"),
)

# Tokens that end an answer, in every family that Herd speaks. `<|endoftext|>` is GPT-2's.
ENDS = (
    "<|end_of_text|>",
    "<|eom|>",
    "<|eot|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|endoftext|>",
)

# Added tokens that an assistant writes within its own turn, around what it thinks and what it calls. Text of others
# becomes none of them.
SPOKEN = frozenset(
    (
        *(f"<{slash}{name}>" for name in ("think", "thinking", "thought", "reasoning") for slash in ("", "/")),
        *(f"<{slash}{name}>" for name in ("tool_call", "tool_calls", "function_call") for slash in ("", "/")),
        *("[THINK]", "[/THINK]", "[TOOL_CALLS]"),
    )
)


def _numbered(name: str, numbers: Iterable[int]) -> list[str]:
    return [f"<|{name}_{n}|>" for n in numbers]


def _llama4() -> tuple[str, ...]:
    text, vision = "text_post_train_reserved_special_token", "vision_reserved_special_token"
    reasoning, spare = "reasoning_reserved_special_token", "reserved_special_token"
    names = [
        *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
        *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
        *_numbered(text, range(6)),
        *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
        *_numbered(text, range(8, 69)),  # 6 and 7 do not exist
        *("<|image_start|>", "<|image_end|>", *_numbered(vision, range(2))),
        *("<|tile_x_separator|>", "<|tile_y_separator|>", *_numbered(vision, range(2, 6))),
        *("<|image|>", *_numbered(vision, [6]), "<|patch|>", *_numbered(vision, range(7, 1048))),
        *_numbered(reasoning, range(8)),
        *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
    ]
    return (*names, *_numbered(spare, range(2048 - len(names))))


def _llama3() -> tuple[str, ...]:
    spare = "reserved_special_token"
    names = [
        *("<|begin_of_text|>", "<|end_of_text|>", *_numbered(spare, range(2))),
        *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
    ]
    return (*names, *_numbered(spare, range(2, 2 + 256 - len(names))))


LLAMA4 = _llama4()
LLAMA3 = _llama3()


def table(names: Iterable[str], first_id: int) -> Mapping[str, int]:
    """Special text -> id, in order from `first_id`."""
    return {name: first_id + i for i, name in enumerate(names)}


def ends(specials: Mapping[str, int]) -> frozenset[int]:
    """Ids of the tokens in `specials` that end an answer."""
    return frozenset(specials[name] for name in ENDS if name in specials)
