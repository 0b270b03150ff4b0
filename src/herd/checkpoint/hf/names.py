"""The names of a model's tensors in Hugging Face files, of which there are three styles, and the canonical ones.

Canonical names are those of `weights.build`: `model.layers.i.feed_forward...`, `vision_model...`. In files:
- "text": as they are (Llama4ForCausalLM, text only);
- "full": the text part under `language_model.` (Llama4ForConditionalGeneration);
- "llama": the MLP is `mlp`, and rows of q and k stand in half-split order (LlamaForCausalLM).
"""

from typing import Literal

from herd.config import Llama4Config, is_dense_llama
from herd.formats.dtypes import Array
from herd.weights import is_vision

Style = Literal["text", "full", "llama"]


def style_of(config: Llama4Config) -> Style:
    """The style of names that belongs to the config.json that `herd.config.hf.to_hf` writes."""
    if config.vision is not None:
        return "full"
    return "llama" if is_dense_llama(config) else "text"


def file_name(name: str, style: Style) -> str:
    """The name of the tensor `name` in a file of this style."""
    if style == "full" and not is_vision(name):
        return "language_model." + name
    if style == "llama":
        return name.replace(".feed_forward.", ".mlp.")
    return name


def to_adjacent(w: Array, head_size: int) -> Array:
    """Reorder rows [N*H, ...] of q or k from half-split rotary pairs (m, m + H/2) to adjacent ones (2m, 2m + 1). A
    copy."""
    heads = w.reshape(-1, 2, head_size // 2, *w.shape[1:])
    return heads.swapaxes(1, 2).reshape(w.shape)


def to_half_split(w: Array, head_size: int) -> Array:
    """The inverse of `to_adjacent`. A copy."""
    heads = w.reshape(-1, head_size // 2, 2, *w.shape[1:])
    return heads.swapaxes(1, 2).reshape(w.shape)
