"""Checkpoints: a model's files -> config, weights, tokenizer, and back. Names below are imported when first used, so
that this package alone loads no numpy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herd.checkpoint.hf.write import save_hf as save_hf
    from herd.checkpoint.open import open_checkpoint as open_checkpoint
    from herd.checkpoint.opened import Checkpoint as Checkpoint
    from herd.checkpoint.random_weights import RandomSource as RandomSource
    from herd.checkpoint.random_weights import random_model as random_model

_LAZY = {
    "Checkpoint": "herd.checkpoint.opened",
    "open_checkpoint": "herd.checkpoint.open",
    "RandomSource": "herd.checkpoint.random_weights",
    "random_model": "herd.checkpoint.random_weights",
    "save_hf": "herd.checkpoint.hf.write",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'herd.checkpoint' has no attribute {name!r}")
