"""Which form of a model a machine takes: the one with most bits a weight that fits its memory and disk.

Pure functions over candidates and the room that there is: `herd pull` and `herd plan` ask the same ones.

    fits(candidate, room)         whether one fits, what it needs, why it does not
    choose(what, candidates, room)   the best that fits, or a refusal that says what would
    best_of_each(candidates, room)   for every model its best

What it is not: a look at a machine, the hub or a file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from herd.config import Llama4Config
from herd.errors import DoesNotFit
from herd.planning.context import USUAL
from herd.planning.memory import ROOM, gb, need
from herd.planning.parts import weights_by_kind

DISK_MARGIN = 10
"""1 / DISK_MARGIN of a download must be free on the disk besides itself."""
SHAPELESS = 4
"""1 / SHAPELESS of the weights is set aside for cache and work where the shape of a model is not known."""
MOST_NAMED = 3
"""Candidates that a line names."""


@dataclass(frozen=True)
class Candidate:
    """One form of a model that can be fetched."""

    model: str
    """The name that it is asked for by, without the form: scout, or ORG/NAME."""
    quant: str
    """The form: UD-Q2_K_XL, BF16."""
    repo: str
    """ORG/NAME of the hub."""
    size_bytes: int | None
    """Bytes of all its files; None: not known."""
    checked: str | None = None
    """How well its size is known: see known_models.toml; None: it is not."""
    config: Llama4Config | None = None
    """Its shape; None: not known."""
    gated: bool | None = None
    """Whether the owner's form must be accepted first; None: not known."""
    have_bytes: int = 0
    """What of it is on the disk already."""

    @property
    def name(self) -> str:
        """As `herd pull` takes it."""
        return f"{self.model}:{self.quant}"

    @property
    def bits(self) -> float | None:
        """Bits a weight, vision and tables included, to a tenth; None: size or shape is not known."""
        if self.size_bytes is None or self.config is None:
            return None
        return round(8 * self.size_bytes / weights_by_kind(self.config).total, 1)

    @property
    def sure(self) -> bool:
        """Whether its size is known well enough to choose it unasked."""
        return self.size_bytes is not None and self.checked in ("verified", "worked out")


@dataclass(frozen=True)
class Room:
    """What a machine has for a model."""

    memory_bytes: int | None
    """Memory that is available; None: nobody knows."""
    disk_bytes: int
    """Free bytes where the store is."""
    token: bool = False
    """Whether there is a token of the hub, which gated repositories want."""


@dataclass(frozen=True)
class Fit:
    """Whether a candidate fits."""

    candidate: Candidate
    memory_bytes: int | None
    """Memory that it needs with a usual context; None: its size is not known."""
    lacks: str
    """What it has not enough of: memory, disk, or size (it is not known); "" when it fits."""


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, and what to say of it."""

    candidate: Candidate
    note: str


def memory_needed(candidate: Candidate) -> int | None:
    """Bytes of memory that a candidate needs with a usual context; None: its size is not known."""
    size = candidate.size_bytes
    if size is None:
        return None
    if candidate.config is None:
        return size + size // SHAPELESS + ROOM
    return need(candidate.config, size, usual_context(candidate.config)).total_bytes


def usual_context(config: Llama4Config | None) -> int:
    """Tokens of context that a choice allows for: the usual number, or all that the model has."""
    return USUAL if config is None else min(USUAL, config.max_context)


def fits(candidate: Candidate, room: Room) -> Fit:
    """Whether a candidate fits. Memory that nobody knows is no obstacle here."""
    needed, size = memory_needed(candidate), candidate.size_bytes
    if needed is None or size is None:
        return Fit(candidate, None, "size")
    if room.memory_bytes is not None and needed > room.memory_bytes:
        return Fit(candidate, needed, "memory")
    return Fit(candidate, needed, "disk" if disk_needed(candidate) > room.disk_bytes else "")


def disk_needed(candidate: Candidate) -> int:
    """Bytes that must be free to fetch what is missing of a candidate; 0 when all is there, or its size is not
    known."""
    missing = max(0, (candidate.size_bytes or 0) - candidate.have_bytes)
    return missing + missing // DISK_MARGIN


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates of one model that may be chosen unasked: most bits first, among equal ones the better known size."""
    sure = [c for c in candidates if c.sure]
    return sorted(sure, key=lambda c: (-(c.bits or c.size_bytes or 0), c.checked != "verified"))


def choose(what: str, candidates: Sequence[Candidate], room: Room, others: Sequence[Candidate] = ()) -> Choice:
    """The best of `candidates` that fits; one that is on the disk, or begun, before all others. What needs a token is
    chosen without one only where nothing else fits: then the caller refuses it.

    others: of which a refusal names what fits. Raises DoesNotFit, also where the memory of the machine is not known.
    """
    if room.memory_bytes is None:
        raise DoesNotFit(f"{what}: this machine does not say how much memory it has; name one of {_names(candidates)}")
    ranked = [fits(c, room) for c in best_first(candidates)]
    fitting = [f for f in ranked if not f.lacks]
    if not fitting:
        raise DoesNotFit(_refusal(what, candidates, ranked, room, others))
    open_ = [f for f in fitting if room.token or not f.candidate.gated] or fitting
    chosen = next((f for f in open_ if f.candidate.have_bytes), open_[0])
    return Choice(chosen.candidate, _note(chosen, candidates, ranked, room))


def check(candidate: Candidate, room: Room, others: Sequence[Candidate] = ()) -> None:
    """Raise DoesNotFit when a candidate that was named does not fit, with what would. One of unknown size passes."""
    found = fits(candidate, room)
    if found.lacks in ("", "size"):
        return
    way = f"--anyway takes {candidate.name} nevertheless" if found.lacks == "memory" else "make room"
    raise DoesNotFit(f"{candidate.name} does not fit here: {_why(found, room)}; {_instead(others, room)}; {way}")


def best_of_each(candidates: Iterable[Candidate], room: Room) -> list[Fit]:
    """The best form of every model of which one fits, the largest first."""
    by_model: dict[str, list[Candidate]] = {}
    for c in candidates:
        by_model.setdefault(c.model, []).append(c)
    found = [next((f for c in best_first(own) if not (f := fits(c, room)).lacks), None) for own in by_model.values()]
    return sorted((f for f in found if f is not None), key=lambda f: -(f.memory_bytes or 0))


def resolve(asked: str, quants: Sequence[str]) -> list[str]:
    """What a spelling of a form may mean, of those that there are: one name, or several between which to choose.

    In any case, with - or _; UD- may be left off; a K type alone (q4_k) means its usual mix, Q4_K_M.
    """
    key = _key(asked)
    known = {_key(q): q for q in quants}
    if key in known:
        return [known[key]]
    for meant in (f"UD_{key}", f"{key}_M" if key.endswith("_K") else ""):
        if meant in known:
            return [known[meant]]
    return [q for k, q in known.items() if key and f"{k}_".removeprefix("UD_").startswith(f"{key}_")]


def _key(quant: str) -> str:
    return quant.upper().replace("-", "_")


def _note(chosen: Fit, candidates: Sequence[Candidate], ranked: Sequence[Fit], room: Room) -> str:
    c = chosen.candidate
    place = f"{gb(room.memory_bytes or 0)} with {usual_context(c.config)} tokens"
    how = "here already, or begun, and it fits" if c.have_bytes else "the largest that fits"
    parts = [f"{c.name}, {gb(c.size_bytes or 0)}: {how} {place}"]
    before = ranked[: ranked.index(chosen)]
    larger = [f"{f.candidate.name} ({_why(f, room)})" for f in before if f.lacks]
    if larger:
        parts.append(f"larger ones: {', '.join(larger[::-1][:MOST_NAMED])}")
    for f in [f for f in before if not f.lacks][:1]:
        gate = ", and wants its licence accepted and HF_TOKEN set" if f.candidate.gated and not room.token else ""
        parts.append(f"{f.candidate.name} would fit{gate}")
    known = {f.candidate.quant for f in ranked}
    if unsure := [c for c in candidates if c.quant not in known]:
        parts.append(f"by name alone, as their sizes are not well known here: {_names(unsure)}")
    return "; ".join(parts)


def _refusal(
    what: str, candidates: Sequence[Candidate], ranked: Sequence[Fit], room: Room, others: Sequence[Candidate]
) -> str:
    if not ranked:
        return f"{what}: no size is known to choose by; name one of {_names(candidates)}"
    least = min(ranked, key=lambda f: f.memory_bytes or 0)
    way = f"--anyway takes {least.candidate.name} nevertheless, when it is named" if least.lacks == "memory" else ""
    line = f"{what} does not fit here: the smallest, {least.candidate.name}: {_why(least, room)}"
    known = {f.candidate.quant for f in ranked}
    unsure = any(c.quant not in known for c in candidates)
    more = f"forms of unknown size are taken by name (herd pull --list {what})" if unsure else ""
    return "; ".join(part for part in (line, _instead(others, room), way, more) if part)


def _why(fit: Fit, room: Room) -> str:
    """What a candidate needs, and what there is."""
    if fit.lacks == "disk":
        return f"needs {gb(disk_needed(fit.candidate))} on the disk, {gb(room.disk_bytes)} are free"
    have = f", {gb(room.memory_bytes)} are available" if room.memory_bytes is not None else ""
    return f"needs {gb(fit.memory_bytes or 0)} of memory{have}"


def _instead(others: Sequence[Candidate], room: Room) -> str:
    found = [f"{f.candidate.name} ({gb(f.candidate.size_bytes or 0)})" for f in best_of_each(others, room)]
    return f"what fits here: {', '.join(found[: 2 * MOST_NAMED])}" if found else "nothing that is known here fits"


def _names(candidates: Sequence[Candidate]) -> str:
    names = list(dict.fromkeys(c.quant for c in candidates))
    return ", ".join(names[: 2 * MOST_NAMED]) + (", ..." if len(names) > 2 * MOST_NAMED else "")
