"""Herd: the Llama 4 family, whole, on a person's own machines.

    import herd
    with herd.load("smollm2") as model:
        print(model.chat("What is photosynthesis?").text)

Importing this package loads neither numpy nor torch; names below are imported when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herd.llm import LLM as LLM
    from herd.llm import load as load

__version__ = "0.1.0"
_LAZY = {"load": "herd.llm", "LLM": "herd.llm"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'herd' has no attribute {name!r}")
