"""Commands about the models on this machine: import, list, show, rm, verify."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from herd.cli import console
from herd.store import packed_copies, registry, stored
from herd.store.packed_copies import PackedCopy
from herd.store.registry import ModelEntry, Version

if TYPE_CHECKING:
    from herd.store.about import About

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
quiet_flag = click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")


@click.command("import")
@click.argument("path", type=click.Path())
@click.option("--name", help="What to call it; the file's or folder's name otherwise.")
@as_json
def import_(path: str, name: str | None, as_json: bool) -> None:
    """Register a GGUF file, or a folder of safetensors, where it lies. Nothing is copied."""
    from herd import planner

    name, version = stored.import_path(path, name)
    tell_version("import", name, version, as_json)
    if not as_json:
        _, config, sizes = planner.look_at(name)
        if sizes is not None:
            console.note(f"fits here: {planner.fits_here(config, sizes.total, name)}")


@click.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Show the models on this machine; * marks the version in use where there are several. A path in the place of a
    name: the store holds the packed form of a model that was run by it."""
    models, nameless = stored.entries(), stored.nameless()
    for name, broken in registry.read().broken.items():
        console.note(f"{name}: its record in models.json is broken ({broken.why}); herd rm {name} forgets it")
    if as_json:
        data = {
            name: {"current": e.current, "versions": [version_data(v) for v in e.versions]}
            for name, e in models.items()
        }
        by_path = [
            {"path": str(c.place), "packed_bytes": c.size_bytes, "there": _is_there(c), "folder": str(c.folder)}
            for c in nameless
        ]
        console.print_json("list", {"models": data, "packed": by_path})
        return
    rows = [row for name, entry in models.items() for row in _rows(name, entry)]
    rows += [_packed_row(copy) for copy in nameless]
    if rows:
        console.table(("NAME", "ID", "SIZE", "PACKED", "ADDED", "FROM"), rows)
    else:
        console.note("no models yet; herd pull smollm2 (98 MB), or herd import PATH")


def _rows(name: str, entry: ModelEntry) -> Iterator[tuple[str, ...]]:
    for v in entry.versions:
        mark = " *" if len(entry.versions) > 1 and v.id == entry.current else ""
        place = str(v.location) if v.in_place else v.source
        packed = packed_copies.size_of(v.location)
        sizes = (console.size(v.size_bytes), console.size(packed) if packed else "-")
        yield (name + mark, v.id, *sizes, console.ago(time.time() - v.added_s), place)


def _packed_row(copy: PackedCopy) -> tuple[str, ...]:
    """A model without a name, of which the store has the packed form: its path is what `herd rm` takes."""
    origin = "run by its path" if _is_there(copy) else "its files are gone; herd rm frees the packed form"
    age = console.ago(time.time() - copy.folder.stat().st_mtime)
    return (str(copy.place), "-", "-", console.size(copy.size_bytes), age, origin)


def _is_there(copy: PackedCopy) -> bool:
    return copy.place != copy.folder and copy.place.exists()


@click.command("show")
@click.argument("model")
@as_json
def show(model: str, as_json: bool) -> None:
    """Show what a model is: shape, size, versions, licence and what the licence asks for."""
    from herd import planner
    from herd.store import about

    facts = about.describe(model)
    here = planner.fits_here(facts.config, facts.size_bytes, model)
    if as_json:
        chat = about.chat_format(facts.path)
        console.print_json("show", {**about.to_dict(facts), "chat_format": chat, "fits_here": here})
        return
    for label, text in (*_lines(facts), ("chat", about.chat_format(facts.path)), ("fits here", here)):
        console.line(f"{label:<12}{text}", 12)


@click.command("rm")
@click.argument("name", metavar="NAME|PATH")
@as_json
def rm(name: str, as_json: bool) -> None:
    """Forget NAME, or one version of it, NAME@DIGEST or NAME:DIGEST, and delete what was pulled and packed. Imported
    files stay where they are. Of a PATH that has no name the packed form is deleted."""
    removed = stored.rm(name)
    kept = [str(p) for p in removed.kept]
    if as_json:
        console.print_json("rm", {"name": removed.name, "freed_bytes": removed.freed_bytes, "kept": kept})
        return
    left = f"; left in place: {', '.join(kept)}" if kept else ""
    what = f"the packed form of {removed.name}" if removed.by_path else name
    console.note(f"removed {what}, {console.size(removed.freed_bytes)} freed{left}")


@click.command("verify")
@click.argument("name", metavar="NAME|PATH")
@quiet_flag
@as_json
def verify(name: str, quiet: bool, as_json: bool) -> None:
    """Read every file of a model (a name or a path) and compare it with its SHA-256.

    An imported model's digests are recorded by the first run; of a path nothing is recorded, and the SHA-256 of files
    that say nothing of themselves is shown.
    """
    with console.progress(quiet=quiet) as progress:
        found = stored.verify(name, progress)
    if as_json:
        data = {"name": found.name, "digest": found.version.digest, "equal": found.equal, "recorded": found.recorded}
        digests = {file: record.sha256 for file, record in found.version.files.items()}
        unknown = {file: digests[file] for file in found.unknown}
        console.print_json("verify", {**data, "unknown": unknown, "packed": found.packed})
        return
    for file in found.equal:
        console.line(f"equal     {file}", 10)
    for file in found.recorded:
        console.line(f"recorded  {file} (no digest was known; from now on changes are found)", 10)
    for file in found.unknown:
        console.line(f"unknown   {file}  {found.version.files[file].sha256} (no digest of it is known here)", 10)
    if found.packed is not None:
        print(
            "equal     packed form" if found.packed else "damaged   packed form: removed, the next load makes it again"
        )
    if found.version.digest is not None:
        print(f"digest    {found.version.digest}")


def _lines(facts: "About") -> Iterator[tuple[str, str]]:
    c, n = facts.config, facts.counts
    yield "model", facts.name or facts.path.name
    yield "path", str(facts.path)
    yield "format", f"{facts.format}, {facts.family}, {console.size(facts.size_bytes)}"
    yield "types", ", ".join(f"{kind} {console.size(size)}" for kind, size in facts.types.items())
    active = f", {console.count(n.active)} active a token" if n.routed else ""
    vision = f", {console.count(n.vision)} of them vision" if n.vision else ""
    yield "parameters", f"{n.total:,} ({console.count(n.total)}){vision}{active}"
    experts = f", {c.num_experts} experts" if n.routed else ""
    yield "shape", f"{c.num_layers} layers, width {c.width}, {c.num_heads} heads, {c.vocab_size} tokens{experts}"
    yield "context", f"{c.max_context} tokens"
    yield "input", "text and images" if c.vision else "text"
    for v in facts.versions:
        now = "in use" if v.id == facts.current else f"herd use {facts.name} {v.id}"
        yield "version", f"{v.id}  {console.size(v.size_bytes)}  {v.source}  {now}"
    if facts.licence is None:
        yield "licence", facts.licence_name or "not stated: ask where the files came from"
        return
    assumed = "" if facts.licence_name else " (not stated in the files; the family's own)"
    yield "licence", f"{facts.licence.title}{assumed}, {facts.licence.url}"
    for duty in facts.licence.duties:
        yield "", f"- {duty}"


def tell_version(command: str, name: str, version: Version, as_json: bool) -> None:
    """Print the version that a name means now."""
    if as_json:
        console.print_json(command, {"name": name, **version_data(version)})
    else:
        console.note(f"{name}@{version.id}  {console.size(version.size_bytes)}  {version.location}")
        earlier = [v.id for v in stored.entries()[name].versions if v.id != version.id]
        if earlier:
            console.note(f"{name} is this version now; herd use {name} {earlier[-1]} takes the one before again")


def version_data(version: Version) -> dict[str, object]:
    """A version as JSON."""
    return {
        "id": version.id,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "packed_bytes": packed_copies.size_of(version.location),
        "path": str(version.location),
        "source": version.source,
        "in_place": version.in_place,
        "licence": version.licence,
        "added_s": version.added_s,
    }
