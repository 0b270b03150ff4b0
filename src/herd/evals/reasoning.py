"""Items that reasoning-gym makes by a name and a seed, for tasks such as `reasoning-gym:chain_sum`.

Its own scorers judge the answers. Some of these read an answer as an expression and compute it, so they run in the
sandbox (`herd.evals.sandbox`), as code that a model wrote does. What it is not: the scorers.
"""

import os
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from herd.errors import BadFile, MissingExtra, NotFound, fail

SIZE = 100
"""Items of a task."""


def items(name: str, seed: int, size: int = SIZE) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, item) of each item. Raises MissingExtra, NotFound for another name."""
    paths()
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        fail(NotFound, f"no task reasoning-gym:{name}", expected=", ".join(sorted(DATASETS)))
    try:
        made = reasoning_gym.create_dataset(name, size=size, seed=seed)
        for number in range(size):
            yield f"reasoning-gym:{name}, item {number}", {"question": made[number]["question"], "number": number}
    except Exception as error:
        fail(BadFile, f"reasoning-gym:{name}", got=f"{type(error).__name__}: {error}", expected="items")


def paths() -> list[str]:
    """The folders that it and what it needs lie in. Raises MissingExtra."""
    spec = find_spec("reasoning_gym")
    if spec is None or not spec.submodule_search_locations:
        fail(MissingExtra, "the tasks reasoning-gym:... need reasoning-gym", do="pip install 'llama-herd[evals]'")
    beside = str(Path(spec.submodule_search_locations[0]).parent)
    folders = (beside, sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return list(dict.fromkeys(os.path.realpath(one) for one in folders))


def answer_of(text: str) -> str:
    """What stands between the last <answer> and </answer>; all of it without these."""
    before, mark, after = text.rpartition("<answer>")
    return (after.partition("</answer>")[0] if mark else before + after).strip()
