"""A model in a process of its own: what runs where `herd.load(..., engine="child")` computes.

The parent opens the checkpoint for its tokenizer and its numbers, packs it if need be, and checks that it fits; the
child maps the same files and computes.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from herd.checkpoint.opened import Checkpoint
from herd.engine.executors.serve import serve
from herd.engine.runner import ModelRunner
from herd.progress import Progress
from herd.weights import Model

_loaded: list[Any] = []
"""What the child's runner was made of: its files stay open as long as the process lives."""


def main() -> None:
    """Be the child."""
    logging.getLogger("herd.checkpoint").setLevel(logging.ERROR)  # what a file says oddly the parent has told
    serve(_load)


def _weights(checkpoint: Checkpoint) -> tuple[Model, Callable[[], None]]:
    """The tree, and its check, which holds the files for as long as it is in use."""
    try:
        return checkpoint.load(), checkpoint.check_readable
    except BaseException:
        checkpoint.close()
        raise


def _load(setup: bytes, progress: Progress) -> tuple[ModelRunner, dict[str, Any]]:
    from herd.engine.runner import Runner
    from herd.grammar.masks import Grammars
    from herd.llm.loading import PIECE, ChildLoad, open_same, read_model

    told = msgspec.msgpack.decode(setup, type=ChildLoad)
    options = replace(told.options, engine="thread", force=True)  # whoever started it has checked that it fits
    parts = read_model(told.path, options, progress, run_template=False)
    _loaded.append(parts)
    assert isinstance(parts.runner, Runner)
    tokenizer = parts.tokenizer.with_markers(told.control)
    grammars = Grammars(tokenizer.for_grammar(), told.end_ids)
    return parts.runner, {
        "piece": PIECE,
        "places": options.parallel,
        "most_waiting": options.queue,
        "grammars": grammars,
        "num_tokens": parts.tokenizer.vocab_size,
        "read_weights": lambda path: _weights(open_same(path, parts.config, parts.pack)),
    }
