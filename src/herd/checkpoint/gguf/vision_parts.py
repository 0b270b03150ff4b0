"""Which vision part (mmproj file) belongs to which GGUF model, by name and by header.

`mmproj-NAME` belongs to NAME, in any quantisation of it; a part whose name says no model (mmproj-F16.gguf) belongs to
every model of its folder, and beside the only model so does any part. Of several, those that name the model come first,
then F16, BF16, F32 in this order.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from herd.containers.gguf import Gguf, open_gguf
from herd.errors import BadCheckpoint, HerdError, fail

ORDER = ("f16", "bf16", "f32")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\Z")
_MARK = re.compile(r"-?mmproj-?")
_AS_WORDS = str.maketrans("_.", "--")
_ANY = ("", "model", "vision", "clip")


def is_vision_part(name: str) -> bool:
    """Whether a file is a vision part by its name."""
    return "mmproj" in name.lower()


def models_of(names: list[str]) -> list[str]:
    """The GGUF files that are models: no vision parts, and of a split model the first part only."""
    models = [n for n in names if not is_vision_part(n)]
    firsts = [n for n in models if "-of-" not in n or "-00001-of-" in n]
    return firsts or models


def parts_for(model: str, names: list[str]) -> list[str]:
    """The vision parts that belong to a model, of the names of a folder's GGUF files, the best first.

    Raises BadCheckpoint when nothing tells the first two apart.
    """
    alone = len(models_of(names)) == 1
    parts = [name for name in names if is_vision_part(name)]
    ranked = sorted((rank, name) for name in parts if (rank := _rank(model, name, alone)) is not None)
    if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
        both = ", ".join(name for _, name in ranked[:2])
        fail(BadCheckpoint, f"{model}: several vision parts", got=both, do="name one (--mmproj), or remove one")
    return [name for _, name in ranked]


def unfit(keys: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Why a file with these keys cannot be the vision part of a model with those; "" when it can."""
    projector = keys.get("clip.projector_type", keys.get("clip.vision.projector_type"))
    width = model.get(f"{model.get('general.architecture')}.embedding_length")
    if keys.get("general.architecture") != "clip":
        return "it is no vision part"
    if projector != "llama4":
        return f"its projector is {projector}, and only llama4's is computed"
    if keys.get("clip.vision.projection_dim", width) != width:
        return f"it is made for a width of {keys['clip.vision.projection_dim']}, the model's is {width}"
    return ""


def fitting(path: Path, model: Mapping[str, Any]) -> tuple[Gguf | None, list[str]]:
    """The vision part in the folder of a GGUF file with the keys `model`, and a line for each part that lies there,
    belongs to no other model and is not used. Raises BadCheckpoint when nothing tells two apart."""
    names = sorted(p.name for p in path.parent.glob("*.gguf"))
    parts = [n for n in names if is_vision_part(n)]
    if not parts or path.name not in names or path.name in parts:
        return None, []
    lines: list[str] = []
    for name in parts_for(path.name, names):
        try:
            reader = open_gguf(path.parent / name)
            why = unfit(reader.keys, model)
        except HerdError as problem:
            why = str(problem)
        if not why:
            return reader, lines
        lines.append(f"{path.parent / name} is not used: {why}")
    if lines:
        return None, lines
    others = [n for n in models_of(names) if n != path.name]
    left = [n for n in parts if all(_rank(other, n, False) is None for other in others)]
    return None, [f"{path.parent / n} is not used: it is named after another model (--mmproj uses it)" for n in left]


def _rank(model: str, part: str, alone: bool) -> tuple[int, int, int] | None:
    """How well a vision part suits a model, low is well; None: it does not belong to it."""
    stem, named = _stem(model), _MARK.sub("-", _stem(part), count=1).strip("-")
    words = named.split("-")
    own = next((n for n in (1, 2, 3) if n <= len(words) and _is_format(words[-n:])), 0)
    subject = "-".join(words[: len(words) - own])
    written = ORDER.index(words[-1]) if words[-1] in ORDER else len(ORDER)
    if named == stem:
        return 0, 0, 0
    if subject in _ANY:
        return 2, 0, written
    if f"{stem}-".startswith(f"{subject}-"):
        return 1, -len(subject), written
    return (3, 0, written) if alone else None


def _stem(name: str) -> str:
    """A name without its ending and the number of its part, as words between hyphens."""
    return _SPLIT.sub("", name.lower().removesuffix(".gguf")).translate(_AS_WORDS)


def _is_format(words: list[str]) -> bool:
    """Whether words are a number format as file names have it: f16, q8-0, q4-k-m, iq4-xs."""
    first = words[0].removeprefix("i")
    block = len(first) == 2 and first[0] == "q" and first[1].isdigit() and all(len(word) <= 2 for word in words[1:])
    return words[0] in ORDER if len(words) == 1 and not block else block
