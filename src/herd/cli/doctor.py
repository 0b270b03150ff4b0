"""`herd doctor`: what this machine has for Herd, and what is missing, each with its remedy."""

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from herd import __version__
from herd.checkpoint import registry
from herd.cli import console
from herd.machine import Machine, machine

EXTRAS = {
    "torch": ("torch", "training, GPUs, the reference operations"),
    "hub": ("huggingface_hub", "herd pull ORG/NAME"),
}
"""Extra of the distribution -> the module that shows it is there, and what it is for."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `remedy` is empty when all is well."""

    subject: str
    fact: str
    ok: bool = True
    remedy: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show processor, instruction sets, memory, store and optional parts. Status 1 when something needed is missing."""
    found = examine()
    if as_json:
        console.print_json("doctor", {"findings": [asdict(f) for f in found]})
    else:
        for f in found:
            print(
                f"{'ok     ' if f.ok else 'MISSING'}  {f.subject:<13}{f.fact}" + (f"; {f.remedy}" if f.remedy else "")
            )
    if not all(f.ok for f in found):
        ctx.exit(1)


def examine() -> list[Finding]:
    """All findings, in the order they are shown."""
    here = machine()
    return [_herd(), _processor(), _native(), _memory(here), _threads(here), _store(), *_extras()]


def _herd() -> Finding:
    return Finding("herd", f"{__version__}, Python {platform.python_version()} at {sys.executable}")


def _processor() -> Finding:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # other systems; aarch64 has no such line
    return Finding("processor", f"{name} ({platform.machine()})")


def _native() -> Finding:
    try:
        from herd import _native as native
    except ImportError as e:
        return Finding("native", str(e), ok=False, remedy="scripts/setup builds it")
    isa = native.isa_info()
    return Finding("native", f"{isa['chosen']} kernels, of {', '.join(isa['available'])} ({' '.join(isa['features'])})")


def _memory(here: Machine) -> Finding:
    if here.memory_bytes is None or here.available_bytes is None:
        return Finding("memory", "not known on this system")
    return Finding("memory", f"{console.size(here.available_bytes)} free of {console.size(here.memory_bytes)}")


def _threads(here: Machine) -> Finding:
    return Finding("threads", f"{here.processors} usable")


def _store() -> Finding:
    home = registry.home()
    models = registry.read().models
    pulled = sum(v.size_bytes for e in models.values() for v in e.versions if not v.in_place)
    place = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(place).free
    fact = f"{home}: {len(models)} models, {console.size(pulled)} pulled, {console.size(free)} free"
    if not os.access(place, os.W_OK):
        return Finding("store", fact, ok=False, remedy="it cannot be written; set HERD_HOME to a folder that can")
    return Finding("store", fact)


def _extras() -> list[Finding]:
    found = []
    for extra, (module, purpose) in EXTRAS.items():
        there = find_spec(module) is not None
        remedy = "" if there else f"optional: pip install 'llama-herd[{extra}]'"
        found.append(Finding(extra, f"{'installed' if there else 'not installed'} ({purpose})", remedy=remedy))
    return found
