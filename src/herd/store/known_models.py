"""The models that `herd pull` knows by a short name: known_models.toml, read and checked once.

    find("scout"), find("llama4:scout")   one of them
    split("scout:q4_k")                   the model, and what stands behind its name
    candidates()                          every form of every model, for `choosing`

What it is not: the hub's word. A pull compares with that before it fetches.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

from herd.config import GUARD, MAVERICK, SCOUT, Llama4Config
from herd.errors import BadFile, fail
from herd.store import licences, registry
from herd.store.choosing import Candidate

Checked = Literal["verified", "from memory", "worked out", "weak"]
PRESETS = {"SCOUT": SCOUT, "MAVERICK": MAVERICK, "GUARD": GUARD}


class _Sized(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    bytes: int | None = None
    gb: float | None = None
    checked: Checked | None = None

    @property
    def size_bytes(self) -> int | None:
        """Bytes; None: not known."""
        return self.bytes if self.gb is None else round(self.gb * 1e9)


class Quant(_Sized, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One form of a model in a repository."""

    name: str
    split: bool = False
    """Whether it is several files."""


class VisionPart(_Sized, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The vision part that lies beside the files of a GGUF model."""

    file: str


class ModelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A repository with forms of a model."""

    repo: str
    form: Literal["gguf", "safetensors"]
    checked: Checked
    """How well it is known that it is there."""
    quants: tuple[Quant, ...]
    gated: bool | None = None
    gate_checked: Checked | None = None
    single: str | None = None
    split: str | None = None
    vision: VisionPart | None = None

    def pattern(self, quant: Quant) -> str | None:
        """What the names of a form's files match; None: of safetensors, all files of the repository are its."""
        if self.form == "safetensors":
            return None
        pattern = self.split if quant.split else self.single
        assert pattern is not None, "checked when the table was read"
        return pattern.format(quant=quant.name)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    title: str
    licence: str
    sources: tuple[ModelSource, ...]
    preset: str | None = None
    shape: tuple[int, int, int, int, int, int, int, int] | None = None
    tied: bool = False
    also: tuple[str, ...] = ()


class ListedModel(msgspec.Struct, frozen=True):
    """A model by its short name."""

    name: str
    title: str
    licence: str
    """Its id in `licences`."""
    config: Llama4Config
    sources: tuple[ModelSource, ...]
    also: tuple[str, ...]
    """Other names for it."""

    @property
    def store_name(self) -> str:
        """The name that it gets in the store, where a name becomes a folder."""
        return self.name.replace(":", "-")

    @property
    def forms(self) -> list[tuple[ModelSource, Quant, Candidate]]:
        """Every form in the order of the table: of two repositories the one that is asked first comes first."""
        return [(s, q, self._candidate(s, q)) for s in self.sources for q in s.quants]

    @property
    def quants(self) -> list[str]:
        """Names of the forms, each once."""
        return list(dict.fromkeys(q.name for s in self.sources for q in s.quants))

    def _candidate(self, source: ModelSource, quant: Quant) -> Candidate:
        size = quant.size_bytes
        if size is not None and source.vision is not None:
            size += source.vision.size_bytes or 0
        return Candidate(
            self.name, quant.name, source.repo, size, quant.checked, config=self.config, gated=source.gated
        )


@cache
def models() -> dict[str, ListedModel]:
    """Every model by its name, in the order of the table."""
    return read(files("herd.store").joinpath("known_models.toml").read_text(encoding="utf-8"))


def read(text: str) -> dict[str, ListedModel]:
    """The models of a table. Raises BadFile, UsageError (a name that no model may have)."""
    try:
        found = msgspec.convert(tomllib.loads(text), dict[str, _Stored])
    except ValueError as error:  # tomllib's and msgspec's alike
        fail(BadFile, "known_models.toml", got=str(error), do="install herd again")
    listed = {name: _checked(name, stored) for name, stored in found.items()}
    _check_names(listed)
    return listed


def find(name: str) -> ListedModel | None:
    """A model by its name or another name of it, in any case."""
    key = name.lower()
    return next((m for m in models().values() if key in (m.name, m.store_name, *m.also)), None)


def split(text: str) -> tuple[ListedModel | None, str | None]:
    """The model that a text begins with, and the form behind its name: ("llama3.2:1b:bf16" has both). None for a
    model that is not known; its form is None then."""
    if (model := find(text)) is not None:
        return model, None
    name, colon, quant = text.rpartition(":")
    model = find(name) if colon else None
    return model, quant if model is not None else None


def candidates() -> list[Candidate]:
    """Every form of every model."""
    return [candidate for model in models().values() for _, _, candidate in model.forms]


def names() -> list[str]:
    """Every name that a model can be asked for by."""
    return [name for model in models().values() for name in (model.name, *model.also)]


def shape_in(repo: str) -> Llama4Config | None:
    """The shape of the models in a repository of the table; None: it is not in it."""
    return next((m.config for m in models().values() for s in m.sources if s.repo.lower() == repo.lower()), None)


def _checked(name: str, stored: _Stored) -> ListedModel:
    _wrong(name, licences.find(stored.licence) is None, f"an unknown licence, {stored.licence}")
    _wrong(name, (stored.preset is None) == (stored.shape is None), "not one of a preset and a shape")
    _wrong(name, stored.preset not in (None, *PRESETS), f"an unknown preset, {stored.preset}")
    for source in stored.sources:
        registry.check_name(source.repo)
        for quant in source.quants:
            sized = (quant.bytes is not None) + (quant.gb is not None)
            _wrong(
                name, sized > 1 or bool(sized) != (quant.checked is not None), f"a size of {quant.name} without mark"
            )
            _wrong(name, sized == 1 and not (quant.size_bytes or 0) > 0, f"a size of {quant.name} that is none")
            missing = source.form == "gguf" and (source.split if quant.split else source.single) is None
            _wrong(name, missing, f"no files for {quant.name}")
    return ListedModel(name, stored.title, stored.licence, _config(stored), stored.sources, stored.also)


def _config(stored: _Stored) -> Llama4Config:
    if stored.preset is not None:
        return PRESETS[stored.preset]
    assert stored.shape is not None, "one of both was checked"
    layers, width, heads, kv_heads, head_size, mlp, vocab, context = stored.shape
    return Llama4Config(
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        dense_width=mlp,
        vocab_size=vocab,
        max_context=context,
        tied_embeddings=stored.tied,
        assumed=("rope_theta", "rope_scaling", "norm_eps"),  # nothing that takes memory or time
    )


def _check_names(listed: dict[str, ListedModel]) -> None:
    every = [n for m in listed.values() for n in dict.fromkeys((m.name, m.store_name, *m.also))]
    _wrong("names", len(every) != len(set(every)), "a name twice")
    for model in listed.values():
        registry.check_name(model.store_name)


def _wrong(name: str, wrong: bool, what: str) -> None:
    if wrong:
        fail(BadFile, f"known_models.toml: {name}", got=what, do="install herd again")
