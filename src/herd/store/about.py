"""What a model is, read from headers alone: kind, parameters, types, context, licence and its duties.

What it is not: a judge of law; a licence is the one that the source of the files states, or the family's with a note.
"""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from herd import weights
from herd.checkpoint.meta.folder import MetaCheckpoint
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint, GgufCheckpoint, HfCheckpoint
from herd.config import Llama4Config, is_dense_llama
from herd.errors import HerdError
from herd.store import licences, stored
from herd.store.licences import Licence
from herd.store.registry import Version
from herd.text.chat import how_chosen
from herd.weights import ParameterCounts

MAX_CARD_BYTES = 64 << 10
_FRONT = re.compile(
    r"^(license|license_name):[ \t]*+[\"']?+([A-Za-z0-9._-][A-Za-z0-9._ -]{0,63}+)[\"']?+[ \t\r]*+$", re.MULTILINE
)


@dataclass(frozen=True)
class About:
    """Everything `herd show` prints."""

    name: str | None
    """None: a path that has no name in the store."""
    path: Path
    versions: tuple[Version, ...]
    current: str | None
    format: str
    family: str
    """llama4, or llama for dense ones."""
    config: Llama4Config
    counts: ParameterCounts
    types: dict[str, int]
    """Element type -> bytes of weights, largest first."""
    size_bytes: int
    licence: Licence | None
    licence_name: str | None
    """The licence's name as the source states it; None: it states none."""


def describe(model: str | Path) -> About:
    """Describe a model, by name or path, from its headers. Raises NotFound, BadFile and its kinds."""
    place = stored.look_up(model)
    name, version = place.name, place.version
    versions = stored.entries()[name].versions if name is not None else ()
    with open_checkpoint(place.path) as checkpoint:
        config = checkpoint.config
        family = "llama" if is_dense_llama(config) else "llama4"
        stated = (version.licence if version else None) or _stated(checkpoint)
        return About(
            name=name,
            path=place.path,
            versions=versions,
            current=version.id if version else None,
            format=checkpoint.format,
            family=family,
            config=config,
            counts=weights.count(config),
            types=_types(checkpoint),
            size_bytes=checkpoint.size_bytes,
            licence=licences.find(stated) or (licences.LLAMA4 if family == "llama4" and stated is None else None),
            licence_name=stated,
        )


def chat_format(path: Path) -> str:
    """What a chat with a model is written by, in words. Raises NotFound, BadFile and its kinds."""
    with open_checkpoint(path) as checkpoint:
        try:
            return how_chosen(checkpoint.load_tokenizer())
        except HerdError as error:
            return f"none: {error}"


def _types(checkpoint: Checkpoint) -> dict[str, int]:
    found: Counter[str] = Counter()
    if isinstance(checkpoint, GgufCheckpoint):
        for reader in (checkpoint.reader, checkpoint.mmproj):
            for info in reader.tensors.values() if reader else ():
                found[info.format] += info.num_bytes
    elif isinstance(checkpoint, HfCheckpoint | MetaCheckpoint):
        found.update(checkpoint.types())
    return dict(found.most_common())


def _stated(checkpoint: Checkpoint) -> str | None:
    """The licence that a GGUF's keys, or the model card beside the weights, name."""
    if isinstance(checkpoint, GgufCheckpoint):
        value = checkpoint.reader.keys.get("general.license")
        return value[:64] if isinstance(value, str) and value.isprintable() else None
    card = (checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent) / "README.md"
    if not card.is_file():
        return None
    with card.open("rb") as f:
        head = f.read(MAX_CARD_BYTES).decode("utf-8", "replace")
    front = head[3:].partition("\n---")[0] if head.startswith("---") else ""
    found = {name: value.rstrip() for name, value in _FRONT.findall(front)}
    return found.get("license_name") if found.get("license") == "other" else found.get("license")


def to_dict(about: About) -> dict[str, Any]:
    """The description as plain values, for --json."""
    c = about.config
    return {
        "name": about.name,
        "path": str(about.path),
        "id": about.current,
        "versions": [v.id for v in about.versions],
        "format": about.format,
        "family": about.family,
        "size_bytes": about.size_bytes,
        "types": about.types,
        "parameters": {**asdict(about.counts), "total": about.counts.total},
        "context": c.max_context,
        "layers": c.num_layers,
        "width": c.width,
        "experts": c.num_experts,
        "vocab_size": c.vocab_size,
        "vision": c.vision is not None,
        "licence": about.licence.id if about.licence else about.licence_name,
        "licence_stated": about.licence_name is not None,
        "licence_url": about.licence.url if about.licence else None,
        "duties": list(about.licence.duties) if about.licence else [],
    }
