"""What this machine has for Herd, and what is missing for which feature, each with the fix: `herd doctor`.

What it is not: text on a screen (`cli.doctor` prints it), a benchmark.
"""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from herd import __version__
from herd.machine import Resources, resources
from herd.planning.memory import gb
from herd.store import registry

EXTRAS = {
    "torch": (("torch",), "training, GPUs, the reference operations", "pip install torch"),
    "hub": (("huggingface_hub",), "herd pull ORG/NAME", "scripts/setup --hub"),
    "hosts": (("httpx",), "other engines and hosts as models", "scripts/setup --hosts"),
    "evals": (
        ("jsonschema", "referencing", "reasoning_gym"),
        "herd eval: the checker json_schema, reasoning-gym's tasks",
        "pip install 'llama-herd[evals]'",
    ),
    "lm-eval": (("lm_eval",), "herd eval --lm-eval", "pip install 'llama-herd[lm-eval]'"),
}
"""Extra of the distribution -> the modules that show it is there, what it is for, and how it comes."""

SPEEDS = {
    "avx2": "two to twenty times the portable kernels",
    "avx512vnni": "integer dot products: twice the prompt speed of avx2",
    "avx512bf16": "bfloat16 dot products: faster attention over long contexts",
    "avx512vbmi": "permutes of bytes: iq1 to iq3 generate up to twice as fast",
    "asimddp": "integer dot products of ARM processors",
}
"""Feature of a processor -> what it brings; those of the other architecture are never missed."""


@dataclass(frozen=True)
class DoctorLine:
    """One line of the report. `remedy` is empty when all is well."""

    subject: str
    fact: str
    ok: bool = True
    remedy: str = ""


def examine(*, bandwidth: bool = True) -> list[DoctorLine]:
    """All findings, in the order they are shown. bandwidth: measure it, which takes half a second and 512 MiB."""
    here = resources()
    found = [_herd(), _processor(), *_native(), _memory(here), _threads(here)]
    if bandwidth and all(f.ok for f in found):
        found.append(_bandwidth(here))
    return [*found, _store(), *_extras(), _cuda()]


def _herd() -> DoctorLine:
    return DoctorLine("herd", f"{__version__}, Python {platform.python_version()} at {sys.executable}")


def _processor() -> DoctorLine:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # other systems; aarch64 has no such line
    return DoctorLine("processor", f"{name} ({platform.machine()})")


def _native() -> list[DoctorLine]:
    try:
        from herd import _native as native
    except ImportError as e:
        return [DoctorLine("native", str(e), ok=False, remedy="scripts/setup builds it")]
    isa = native.isa_info()
    return [kernels(isa["chosen"], isa["available"], isa["features"], platform.machine())]


def kernels(chosen: str, available: list[str], features: list[str], architecture: str) -> DoctorLine:
    """The kernels in use, and which instructions this processor lacks for which speed."""
    fact = f"{chosen} kernels, of {', '.join(available)} ({' '.join(features)})"
    if available == ["portable"]:
        return DoctorLine(
            "native",
            fact,
            remedy=f"{architecture} without AVX2 or NEON dot products: everything runs, on slow portable kernels",
        )
    if chosen != available[0]:
        return DoctorLine("native", fact, remedy=f"HERD_ISA forces {chosen}; unset it for {available[0]}")
    ours = [x for x in SPEEDS if x.startswith("asimd") == (architecture in ("aarch64", "arm64"))]
    lacks = [f"{x} ({SPEEDS[x]})" for x in ours if x not in features]
    return DoctorLine("native", fact + (f"; this processor lacks {', '.join(lacks)}" if lacks else ""))


def _memory(here: Resources) -> DoctorLine:
    if here.memory_bytes is None or here.available_bytes is None:
        return DoctorLine("memory", "not known on this system")
    return DoctorLine(
        "memory", f"{gb(here.available_bytes)} free of {gb(here.memory_bytes)}, container limits included"
    )


def _threads(here: Resources) -> DoctorLine:
    return DoctorLine("threads", f"{here.processors} usable")


def _bandwidth(here: Resources) -> DoctorLine:
    from herd.machine.probe import READ_BYTES, rates

    if here.available_bytes is not None and here.available_bytes < 2 * READ_BYTES:
        return DoctorLine("bandwidth", "not measured: too little memory is free")
    found = rates(here.processors)
    fact = f"reads {found.read_bytes_s / 1e9:.1f} GB/s with {here.processors} threads"
    for rate, name, by in (
        (found.int8_ops_s, "int8", found.int8_instruction),
        (found.float_ops_s, "floats", found.float_instruction),
    ):
        fact += f", {name} {rate / 1e12:.2f} TOP/s ({by})" if rate else ""
    return DoctorLine("bandwidth", fact)


def _store() -> DoctorLine:
    home = registry.home()
    models = registry.read().models
    pulled = sum(v.size_bytes for e in models.values() for v in e.versions if not v.in_place)
    place = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(place).free
    fact = f"{home}: {len(models)} models, {gb(pulled)} pulled, {gb(free)} free"
    if not os.access(place, os.W_OK):
        return DoctorLine("store", fact, ok=False, remedy="it cannot be written; set HERD_HOME to a folder that can")
    broken = registry.read().broken
    if broken:
        remedy = f"records in models.json are broken: {', '.join(broken)}; herd rm NAME forgets one"
        return DoctorLine("store", fact, ok=False, remedy=remedy[:500])
    return DoctorLine("store", fact)


def _extras() -> list[DoctorLine]:
    found = []
    for extra, (modules, purpose, how) in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        state = "installed" if not missing else "not installed"
        if missing and len(missing) < len(modules):
            state = f"without {', '.join(missing)}"
        found.append(DoctorLine(extra, f"{state} ({purpose})", remedy=f"optional: {how}" if missing else ""))
    return found


def _cuda() -> DoctorLine:
    if find_spec("torch") is None:
        return DoctorLine("cuda", "not looked for (--device cuda)", remedy="optional: needs the extra torch and a card")
    import torch

    if torch.version.cuda is None:
        fact = f"PyTorch {torch.__version__} is built for the CPU only (--device cuda)"
        return DoctorLine("cuda", fact, remedy="optional: install a PyTorch with CUDA (pytorch.org)")
    if not torch.cuda.is_available():
        return DoctorLine("cuda", "no card that PyTorch can use (--device cuda)", remedy="optional: see nvidia-smi")
    cards = []
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        cards.append(f"cuda:{i} {torch.cuda.get_device_name(i)}, {gb(free)} free of {gb(total)}")
    return DoctorLine("cuda", "; ".join(cards))
