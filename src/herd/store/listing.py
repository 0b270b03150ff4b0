"""All that `herd pull` knows by name, with what fits here: rows for people and programs.

What it is not: what there is on this machine (`stored.entries`).
"""

from dataclasses import dataclass
from typing import Any

from herd.errors import NotFound, fail
from herd.store import fetch, known_models
from herd.store.choosing import Candidate, Room, best_first, fits
from herd.store.known_models import ListedModel


@dataclass(frozen=True)
class ListedForm:
    """One form of a model that can be pulled by name."""

    name: str
    """As `herd pull` takes it."""
    model: str
    quant: str
    source: str
    """Its repository, or its package."""
    size_bytes: int | None
    """None: not known."""
    checked: str | None
    """How well the size is known: see known_models.toml."""
    gated: bool | None
    licence: str
    fits: bool | None
    """None: its size is not known."""
    why: str
    """What it lacks here: memory or disk; "" when it fits, or nobody knows."""
    best: bool = False
    """Whether it is the one that is taken when no form is named, given a token where it wants one."""

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values, for --json."""
        return {field: getattr(self, field) for field in self.__dataclass_fields__}


def listing(room: Room, name: str | None = None) -> list[ListedForm]:
    """Every form of every model, or of one: the table's, and what comes out of a package index. Raises NotFound for a
    name that is in neither."""
    chosen = None if name is None else known_models.find(name)
    if name is not None and chosen is None and name not in fetch.KNOWN:
        do = "herd pull --list shows all"
        fail(NotFound, f"pull --list {name}: unknown", expected=", ".join(known_models.models()), do=do)
    packages = [_package(known, room) for known in fetch.KNOWN if name in (None, known)]
    models = known_models.models().values() if name is None else [chosen] if chosen is not None else []
    return [*packages, *(row for model in models for row in _forms(model, room))]


def _package(name: str, room: Room) -> ListedForm:
    known = fetch.KNOWN[name]
    form = Candidate(name, "", known.requirement, known.size_bytes, "verified", gated=False)
    return _row(form, known.licence, room, best=True)


def _forms(model: ListedModel, room: Room) -> list[ListedForm]:
    candidates = [candidate for _, _, candidate in model.forms]
    best = next((c for c in best_first(candidates) if not fits(c, room).lacks), None)
    return [_row(c, model.licence, room, best=c is best) for c in candidates]


def _row(c: Candidate, licence: str, room: Room, *, best: bool) -> ListedForm:
    lacks = fits(c, room).lacks
    known = lacks != "size" and room.memory_bytes is not None
    return ListedForm(
        name=c.name if c.quant else c.model,
        model=c.model,
        quant=c.quant,
        source=c.repo,
        size_bytes=c.size_bytes,
        checked=c.checked,
        gated=c.gated,
        licence=licence,
        fits=not lacks if known else None,
        why=lacks if known else "",
        best=best and not lacks,
    )
