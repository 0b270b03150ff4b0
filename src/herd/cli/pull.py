"""`herd pull`: fetch a model by name, or list what can be fetched and what of it fits here."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from herd.cli import console
from herd.cli.models import as_json, quiet_flag, tell_version
from herd.errors import UsageError, fail
from herd.store import stored

if TYPE_CHECKING:
    from herd.store.listing import ListedForm


@click.command("pull")
@click.argument("name", required=False)
@click.option("--revision", help="A branch, tag or commit of the hub's repository.")
@click.option("--file", "file", metavar="PATTERN", help="Which GGUF of a repository that holds several.")
@click.option("--anyway", is_flag=True, help="Take a form that was named and does not fit the memory.")
@click.option("--list", "list_", is_flag=True, help="What can be pulled by name, and what of it fits here.")
@quiet_flag
@as_json
def pull(
    name: str | None, revision: str | None, file: str | None, anyway: bool, list_: bool, quiet: bool, as_json: bool
) -> None:
    """Fetch a model: smollm2, scout, scout:q4_k, ORG/NAME of a Hugging Face hub, ORG/NAME:Q4_K_M. Where no form is
    named, the best that fits this machine is taken. Goes on where an interrupted one stopped."""
    if list_:
        _list(name, as_json)
        return
    if name is None:
        from herd.store.pulling import known_names

        do = "herd pull --list shows what of it fits here"
        fail(UsageError, "pull: no name", expected=f"{', '.join(known_names())}, or ORG/NAME of a hub", do=do)
    with console.progress(quiet=quiet) as progress:
        tell = (lambda line: None) if quiet else console.note
        name, version = stored.pull(name, revision=revision, file=file, anyway=anyway, progress=progress, tell=tell)
    tell_version("pull", name, version, as_json)


def _list(name: str | None, as_json: bool) -> None:
    from herd.store.listing import listing
    from herd.store.pulling import room_here

    room = room_here()
    forms = listing(room, name)
    if as_json:
        free = {"memory_bytes": room.memory_bytes, "disk_bytes": room.disk_bytes, "token": room.token}
        console.print_json("pull", {"models": [form.to_dict() for form in forms], **free})
        return
    if name is not None:
        console.table(("NAME", "SIZE", "FITS HERE", "GATE", "LICENCE", "FROM"), [_form_row(form) for form in forms])
        return
    models = dict.fromkeys(form.model for form in forms)
    header = ("NAME", "QUANTS", "SIZE", "FITS HERE", "GATE", "LICENCE")
    console.table(header, [_model_row([f for f in forms if f.model == model]) for model in models])
    console.note("herd pull --list NAME shows the forms of one; sizes can have moved since they were written down")


def _form_row(form: "ListedForm") -> tuple[str, ...]:
    fit = "?" if form.fits is None else "yes" if form.fits else f"no: {form.why}"
    size = "?" if form.size_bytes is None else console.size(form.size_bytes)
    return (form.name, size, f"{fit} *" if form.best else fit, _gate([form]), form.licence, form.source)


def _model_row(forms: "Sequence[ListedForm]") -> tuple[str, ...]:
    quants = list(dict.fromkeys(form.quant for form in forms if form.quant))
    sizes = sorted(form.size_bytes for form in forms if form.size_bytes is not None)
    span = [console.size(size) for size in dict.fromkeys((*sizes[:1], *sizes[-1:]))]
    best = next((form for form in forms if form.best), None)
    unknown = all(form.fits is None for form in forms)
    fit = "?" if unknown else "no" if best is None else f"yes: {best.quant}".removesuffix(": ")
    named = ", ".join(quants[:2]) + (f", ... ({len(quants)})" if len(quants) > 2 else "")
    return (forms[0].model, named or "-", " to ".join(span) or "?", fit, _gate(forms), forms[0].licence)


def _gate(forms: "Sequence[ListedForm]") -> str:
    """Whether a licence has to be accepted first: open, gated, ? for not known, or those of both kinds."""
    words = dict.fromkeys({None: "?", False: "open", True: "gated"}[form.gated] for form in forms)
    return "open, gated" if "open" in words and "gated" in words else "gated" if "gated" in words else next(iter(words))
