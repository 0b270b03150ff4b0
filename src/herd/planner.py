"""Plans by name: a model or a file, a machine or this one -> what fits, where it lies, how fast it can be.

    plan("scout", "rtx4090+64GB", context=131072, users=4)    one model (also `herd.plan`)
    cost(plan, Call(1000, 300, 100_000))                       what that costs a month, and at hosts
    what_fits("auto")                                         of each known model the best type that fits

The arithmetic is `herd.planning`; here files and this machine are looked at. This machine is measured once, half a
second, and kept with its date in $HERD_HOME/machine.json.
"""

import datetime
import json
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from herd.config import BEHEMOTH, Llama4Config
from herd.disk.atomic import make_folders, new_file
from herd.disk.small_files import read_json
from herd.errors import BadFile, Unsupported, UsageError, fail
from herd.machine import num_processors
from herd.machine.memory import total_bytes
from herd.planning.context import USUAL
from herd.planning.cost import Cost, make_cost
from herd.planning.machine_rows import card_titled
from herd.planning.machines import DISK_READ_BYTES_S, Card, Machine, card_of, machine_of
from herd.planning.memory import gb
from herd.planning.owning import Terms
from herd.planning.paces import Call
from herd.planning.parts import weights_by_kind
from herd.planning.plan import (
    Plan,
    PlannedModel,
    TypeFit,
    Workload,
    best_type,
    largest_context,
    make_plan,
    placed,
    type_fit,
)
from herd.planning.prices import Prices, listed, read
from herd.planning.sizes import BITS, LADDER, WeightSizes, file_sizes, part_sizes, type_sizes
from herd.store import choosing, known_models

AUTO = "auto"
CARDS_S = 5.0
"""Seconds that the tool of a card's driver may take."""
MOST_CARD_LINES = 64
TRIES = 3
"""How often this machine is measured, half a second each; the fastest reading of memory counts."""


def plan(
    model: str | Path,
    machine: str | Machine = AUTO,
    *,
    context: int = USUAL,
    users: int = 1,
    kv: str = "bf16",
    type: str | None = None,
    adapters: int = 0,
    rank: int = 16,
) -> Plan:
    """A plan for a model on a machine.

    model: a known name (`herd.store.known_models`, and behemoth), with a type or form behind it (`scout:q4_k`,
    `scout:UD-Q2_K_XL`); a config.json; a name of the store, a file or folder of weights. machine: `auto`, this one; a
    short name such as rtx4090+64GB; a TOML file.
    context: tokens of prompt and answer of each of so many `users`. kv: numbers of the cache. type: what the weights
    are written as; None: a file's own, else the largest type that fits (the smallest where none does). adapters: how
    many LoRA adapters of such a `rank` are loaded, too, on the attention's four products. Raises UsageError, NotFound,
    BadFile and its kinds.
    """
    want = Workload(context, users, kv, adapters, rank)
    name, config, sizes = look_at(model, type)
    want.check(PlannedModel(name, config, sizes or type_sizes(config, LADDER[0])))
    here = known_machine(machine)
    if sizes is None:
        best = best_type(name, config, here, want)
        sizes = best.sizes if best else best_form(name, here, want) or type_sizes(config, LADDER[-1])
    fetched = "" if _is_here(name) else pull_name(name, sizes.type)
    return make_plan(PlannedModel(name, config, sizes, "" if fetched else str(model), fetched), here, want)


def best_form(name: str, machine: Machine, want: Workload) -> WeightSizes | None:
    """The largest form of a known model that can be fetched and fits, of those whose size is well known: some are
    smaller than any type that is written here. None: none fits, or the model is not known."""
    model = known_models.find(name)
    forms = [c for _, _, c in model.forms if c.sure] if model else []
    for form in sorted(forms, key=lambda c: -(c.size_bytes or 0)):
        assert model is not None and form.size_bytes is not None, "it is sure"
        sizes = file_sizes(model.config, form.quant, form.size_bytes)
        if placed(PlannedModel(name, model.config, sizes), machine, want).fits:
            return sizes
    return None


def pull_name(name: str, type: str) -> str:
    """What `herd pull` takes for a known model of such a type or form, the name alone where no form is of that type;
    empty: the model is not known."""
    model = known_models.find(name)
    if model is None:
        return ""
    return f"{model.name}:{type}" if len(choosing.resolve(type, model.quants)) == 1 else model.name


def cost(
    plan: Plan,
    call: Call,
    terms: Terms | None = None,
    *,
    library_tokens: int | None = None,
    at_once: int | None = None,
    prices: Prices | None = None,
) -> Cost:
    """What a plan costs a month, here and at hosts. call: tokens of a call, and calls of a month; with library_tokens
    questions to a library that is saved. terms: the machine's price, power or rent; None: what is known of it. at_once:
    answers computed together; None: as many as cost least. prices: of hosts; None: `host_prices`. Raises UsageError,
    BadFile."""
    table = host_prices() if prices is None else prices
    today = datetime.datetime.now(datetime.UTC).date()
    return make_cost(plan, call, terms or Terms(), table, today, library_tokens=library_tokens, at_once=at_once)


def host_prices(path: Path | None = None) -> Prices:
    """Prices of hosts: those of a file; without one of $HERD_HOME/prices.toml where that is, else the package's. Raises
    NotFound, BadFile."""
    from herd.store import registry

    return listed(registry.home() / "prices.toml") if path is None else read(path)


@dataclass(frozen=True)
class ModelFit:
    """A known model, and the largest of its types that fits; or the smallest, which does not."""

    name: str
    config: Llama4Config
    fit: TypeFit


def what_fits(
    machine: str | Machine = AUTO, *, context: int = USUAL, users: int = 1, kv: str = "bf16"
) -> list[ModelFit]:
    """Each known model as the best type that fits a machine, with such a context or the model's own where that is
    less. Raises UsageError, BadFile."""
    here = known_machine(machine)
    found = []
    for name, config in shapes().items():
        want = Workload(min(context, config.max_context), users, kv)
        want.check(PlannedModel(name, config, type_sizes(config, LADDER[0])))
        best = best_type(name, config, here, want)
        if best is None:
            smallest = PlannedModel(name, config, type_sizes(config, LADDER[-1]))
            best = type_fit(smallest, LADDER[-1], here, want)
        found.append(ModelFit(name, config, best))
    return found


def fits_here(config: Llama4Config, size_bytes: int, name: str = "it") -> str:
    """Whether weights of so many bytes fit into this machine's memory, in words: with how long a context, or what they
    need. Nothing is measured."""
    memory = total_bytes()
    if memory is None:
        return "this machine does not say how much memory it has"
    want = Workload(min(USUAL, config.max_context))
    model = PlannedModel(name, config, file_sizes(config, "its own types", size_bytes))
    here = Machine("this machine", memory_bytes=memory)
    found = placed(model, here, want)
    if found.fits:
        longest = largest_context(model, here, want)
        return f"yes, with up to {longest:,} tokens: {gb(found.in_memory)} of {gb(memory)} with {want.context:,}"
    needed = found.in_memory + found.on_disk + found.missing
    return f"no: {gb(needed)} with {want.context:,} tokens, this machine has {gb(memory)}; see herd plan {name}"


def look_at(model: str | Path, type: str | None = None) -> tuple[str, Llama4Config, WeightSizes | None]:
    """Name, config and sizes of what is planned for; no sizes where any type will do. Raises UsageError, NotFound,
    BadFile and its kinds."""
    text = str(model)
    name, config, form = _known(text)
    if config is not None and (form or type or not _is_here(text)):
        wanted = type or form
        return name, config, _sizes(name, config, wanted) if wanted else None
    path = Path(text).expanduser()
    if path.name.endswith(".json") and path.is_file():
        config = _config_of(path)
        return path.parent.name or path.stem, config, type_sizes(config, type_name(type)) if type else None
    return _stored(text, type)


def _is_here(name: str) -> bool:
    """Whether the store has a model of that name: its file says more than its shape."""
    from herd.store import registry

    return name in registry.read().models


def shapes() -> dict[str, Llama4Config]:
    """The shapes of models that are known by name."""
    return {**{name: model.config for name, model in known_models.models().items()}, "behemoth": BEHEMOTH}


def _known(text: str) -> tuple[str, Llama4Config | None, str | None]:
    """A known model by what somebody typed, and the type or form behind its name; no config: it is not known."""
    model, form = known_models.split(text)
    if model is not None:
        return model.name, model.config, form
    name, _, form = text.lower().partition(":")
    return name, BEHEMOTH if name == "behemoth" else None, form or None


def _sizes(name: str, config: Llama4Config, wanted: str) -> WeightSizes:
    """The sizes of a type; or those of a form that can be fetched, where its length is known."""
    model = known_models.find(name)
    if wanted.lower() not in BITS and model is not None:
        meant = choosing.resolve(wanted, model.quants)
        sizes = [c.size_bytes for _, q, c in model.forms if q.name in meant and c.sure and c.size_bytes is not None]
        if len(meant) == 1 and sizes:
            return file_sizes(config, meant[0], sizes[0])
        if _type_name(wanted) is None:
            known = f"{name}: the size of {meant[0]} is not known" if meant else f"{name}: form"
            expected = f"a type, {', '.join(BITS)}, or a form of known size, see herd pull --list {name}"
            fail(UsageError, known, got=wanted, expected=expected)
    return type_sizes(config, type_name(wanted))


def type_name(text: str) -> str:
    """A type as it is called here: Q4_K_M is q4_k. Raises UsageError."""
    return _type_name(text) or fail(UsageError, "type", got=text, expected=", ".join(BITS))


def _type_name(text: str) -> str | None:
    low = text.lower().removeprefix("ud-").replace("-", "_")
    spellings = (low, low.removesuffix("_m").removesuffix("_s").removesuffix("_l").removesuffix("_xl"))
    return next((name for name in spellings if name in BITS), None)


def _config_of(path: Path) -> Llama4Config:
    from herd.config.hf import from_hf

    return from_hf(read_json(path, BadFile, 1 << 20))


def _stored(text: str, type: str | None) -> tuple[str, Llama4Config, WeightSizes]:
    """A model that is here, by its headers."""
    from herd.checkpoint.open import open_checkpoint
    from herd.checkpoint.opened import GgufCheckpoint
    from herd.store import stored

    place = stored.look_up(text)
    with open_checkpoint(place.path) as checkpoint:
        config, name = checkpoint.config, place.name or place.path.name
        if type is not None:
            return name, config, type_sizes(config, type_name(type))
        if isinstance(checkpoint, GgufCheckpoint):
            found: Counter[str] = Counter()
            for reader in (checkpoint.reader, checkpoint.mmproj):
                for tensor, info in reader.tensors.items() if reader else ():
                    found[gguf_kind(tensor)] += info.num_bytes
            return name, config, part_sizes("its own types", weights_by_kind(config), found)
        return name, config, file_sizes(config, "its own types", checkpoint.size_bytes)


GGUF_KINDS = (
    ("v.", "vision"),
    ("mm.", "vision"),
    ("token_embd", "embedding"),
    ("output.", "head"),
    ("_exps.", "routed"),
    ("_shexp.", "shared"),
    ("ffn_gate_inp", "router"),
    ("norm", "norms"),
    ("attn_", "attention"),
    ("ffn_", "dense"),
)
"""What the name of a GGUF's tensor begins with or has in it -> the field of Parts; the first that is true counts."""


def gguf_kind(name: str) -> str:
    """The field of Parts that a GGUF's tensor belongs to."""
    for mark, kind in GGUF_KINDS:
        if name.startswith(mark) if kind in ("vision", "embedding", "head") else mark in name:
            return kind
    return "norms"


def known_machine(machine: str | Machine) -> Machine:
    """A machine by what a caller says. Raises UsageError, BadFile, NotFound."""
    if isinstance(machine, Machine):
        return machine
    return this_machine() if machine.strip().lower() == AUTO else machine_of(machine)


def this_machine(*, again: bool = False) -> Machine:
    """This machine: its memory, its cards, and rates that were measured; again: measure now, whatever is kept. Raises
    Unsupported where its memory is not known."""
    from herd.store import registry

    memory = total_bytes()
    if memory is None:
        fail(Unsupported, "this machine's memory is not known", do="say a machine: herd plan --machine ddr5-2ch+32GB")
    threads = num_processors()
    path = registry.home() / "machine.json"
    kept = None if again else _kept(path, threads)
    if kept is None:
        kept = _measured(threads)
        make_folders(path.parent)
        with new_file(path, overwrite=True) as temp:
            temp.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    cards, notes = _cards()
    date = str(kept["date"])
    notes.insert(0, f"measured on {date} with {threads} threads; herd plan --measure measures again")
    notes.append(f"disk: {DISK_READ_BYTES_S / 1e9:g} GB/s, assumed")
    return Machine(
        "this machine",
        cards,
        memory,
        float(kept["read_bytes_s"]),
        float(kept["ops_s"]),
        notes=tuple(notes),
        measured=date,
    )


def _kept(path: Path, threads: int) -> dict[str, float | str] | None:
    """What was measured earlier with as many threads; None where that is not there, or is no measurement."""
    if not path.is_file():
        return None
    try:
        found = read_json(path, BadFile, 1 << 16)
    except BadFile:
        return None
    numbers = [found.get(name) for name in ("read_bytes_s", "ops_s", "threads")]
    good = all(isinstance(n, int | float) and not isinstance(n, bool) and 1 <= n < 1e18 for n in numbers)
    date = found.get("date")
    if not good or found["threads"] != threads or not isinstance(date, str) or not _is_date(date):
        return None
    return found


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _measured(threads: int) -> dict[str, float | str]:
    from herd.machine.probe import rates

    tries = [rates(threads) for _ in range(TRIES)]  # other programs make it slower, nothing makes it faster
    found = max(tries, key=lambda one: one.read_bytes_s)
    ops = found.int8_ops_s or found.float_ops_s
    if ops is None:
        fail(Unsupported, "this processor has no instruction to measure with", do="say a machine: --machine FILE.toml")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"date": today, "threads": threads, "read_bytes_s": found.read_bytes_s, "ops_s": ops}


def _cards() -> tuple[tuple[Card, ...], list[str]]:
    """The cards that NVIDIA's tool names, as the table has them; a line for each that it has not."""
    tool = which("nvidia-smi")
    if tool is None:
        return (), []
    ask = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(ask, capture_output=True, timeout=CARDS_S, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return (), ["nvidia-smi did not answer: cards were left out"]
    cards, notes = [], []
    for line in said.stdout.decode("utf-8", "replace").splitlines()[:MOST_CARD_LINES]:
        title, comma, size = line.rpartition(",")
        if not comma:  # words of the tool's own: no card was found
            continue
        mib = int(size) if size.strip().isdecimal() else None
        row = card_titled(title, mib)
        if row is None:
            notes.append(f"card {title.strip()[:60]!r} is not in the table: left out; a TOML file can say it")
        else:
            cards.append(card_of(row, None if mib is None else mib << 20))
    return tuple(cards), notes
