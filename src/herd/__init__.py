"""Herd: the Llama 4 family, whole, on a person's own machines.

    import herd
    with herd.load("smollm2") as model:
        print(model.chat("What is photosynthesis?").text)

    load, LLM                     a model, and what it does: `help(herd.LLM.chat)` names all options
    backend                       a model of another engine or a host, by the name of `herd backend add`
    Message, Reply                what goes in and what comes out
    ChatOptions, SamplingOptions  options of a call, as a type of keywords; and those of them that choose tokens
    LoadOptions                   what a load was told
    call_tool, acall_tool         a call of a Python function that was given as a tool, answered
    plan                          what fits on a machine, where it lies, how fast it can be
    errors                        what is raised: all of it a `herd.errors.HerdError`

Importing this package loads neither numpy nor torch; names above are imported when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herd import errors as errors
    from herd.engine.request import SamplingOptions as SamplingOptions
    from herd.events import Reply as Reply
    from herd.llm import LLM as LLM
    from herd.llm import backend as backend
    from herd.llm import load as load
    from herd.llm.function_tools import acall_tool as acall_tool
    from herd.llm.function_tools import call_tool as call_tool
    from herd.llm.keywords import ChatOptions as ChatOptions
    from herd.llm.load_options import LoadOptions as LoadOptions
    from herd.messages import Message as Message
    from herd.planner import plan as plan

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "ChatOptions",
    "LoadOptions",
    "Message",
    "Reply",
    "SamplingOptions",
    "acall_tool",
    "backend",
    "call_tool",
    "errors",
    "load",
    "plan",
]
_LAZY = {
    "backend": "herd.llm",
    "load": "herd.llm",
    "plan": "herd.planner",
    "LLM": "herd.llm",
    "acall_tool": "herd.llm.function_tools",
    "call_tool": "herd.llm.function_tools",
    "ChatOptions": "herd.llm.keywords",
    "LoadOptions": "herd.llm.load_options",
    "Message": "herd.messages",
    "Reply": "herd.events",
    "SamplingOptions": "herd.engine.request",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "errors":
        return import_module("herd.errors")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'herd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
