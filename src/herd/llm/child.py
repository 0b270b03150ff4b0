"""A model in a process of its own: what `herd.load(..., engine="child")` starts, and what runs there.

The parent opens the checkpoint for its tokenizer and its numbers, packs it if need be, and checks that it fits; the
child maps the same files and computes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from herd.checkpoint.opened import Checkpoint
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.serve import serve
from herd.engine.runner import ModelRunner
from herd.progress import Progress
from herd.weights import Model

_loaded: list[Any] = []
"""What the child's runner was made of: its files stay open as long as the process lives."""


class Load(msgspec.Struct, frozen=True):
    """What the child is told. All of it has been checked."""

    path: str
    context: int
    threads: int | None
    ops: str
    kv: str
    pack: bool
    device: str
    parallel: int
    queue: int


def start(load: Load, progress: Progress) -> ChildExecutor:
    """Start a child and wait until it has loaded. Raises what loading raises there, and EngineDied."""
    import herd

    root = str(Path(herd.__file__).parents[1])
    program = f"import sys; sys.path.append({root!r}); from herd.llm.child import main; main()"
    return ChildExecutor([sys.executable, "-c", program], msgspec.msgpack.encode(load), progress=progress)


def main() -> None:
    """Be the child."""
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
    from herd.llm.loading import PIECE, end_ids, open_same, read_model

    told = msgspec.msgpack.decode(setup, type=Load)
    parts = read_model(
        told.path,
        told.context,
        None,
        told.threads,
        told.ops,
        told.kv,
        None,
        True,
        told.pack,
        progress,
        told.device,
        told.parallel,
        "thread",
        told.queue,
    )
    _loaded.append(parts)
    assert isinstance(parts.runner, Runner)
    grammars = Grammars(parts.tokenizer, end_ids(parts.config, parts.tokenizer, parts.chat))
    return parts.runner, {
        "piece": PIECE,
        "places": told.parallel,
        "most_waiting": told.queue,
        "grammars": grammars,
        "num_tokens": parts.tokenizer.vocab_size,
        "read_weights": lambda path: _weights(open_same(path, parts.config, parts.pack)),
    }
