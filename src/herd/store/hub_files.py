"""Which files of a hub's repository make up a model: a folder of safetensors, or one GGUF with its further parts and
its vision part.

A GGUF repository holds one model many times: at its top, or each quantisation in a folder of its own, split into parts.
What it is not: a download (`hub`), a look at what fits (`choosing`).
"""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from herd.checkpoint.gguf.vision_parts import is_vision_part, parts_for
from herd.errors import BadFile, NotFound, UsageError, fail
from herd.store.choosing import resolve
from herd.store.files import PART

WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "herd.manifest.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "chat_template*",
    "tokenizer*",
    "*.txt",
    "README.md",
    "LICENSE*",
    "USE_POLICY*",
)
"""Files of a safetensors model that are fetched; code, pickles and everything unknown is not."""
MAX_FILES = 1000
WEIGHTS = (".gguf", ".safetensors")
_FORMS = ("Q", "IQ", "TQ", "F16", "F32", "BF16", "FP8", "MXFP", "NVFP")
"""Beginnings of the names of forms, as files are named by them."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its name, size, and what its content must hash to."""

    name: str
    """Its path in the repository: at the top, or a GGUF file in a folder there."""
    size: int
    sha256: str | None
    git_sha1: str | None
    """SHA-1 of git's blob: small files have only this."""

    @property
    def base(self) -> str:
        """Its name without a folder, as it lies here."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True)
class GgufModel:
    """One GGUF of a repository: a file, or all parts of a split one, in their order."""

    quant: str
    """The form that its name ends with; "" where it names none."""
    files: tuple[RemoteFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(f.size for f in self.files)


def weights_bytes(files: Sequence[RemoteFile]) -> int:
    """Bytes of the files that hold weights."""
    return sum(f.size for f in files if f.name.endswith(WEIGHTS))


def gguf_models(files: Sequence[RemoteFile]) -> list[GgufModel]:
    """The GGUF models among files, vision parts left out, in the order of their names."""
    groups: dict[tuple[str, str], list[RemoteFile]] = {}
    for f in sorted(files, key=lambda f: f.name):
        if f.name.endswith(".gguf") and not is_vision_part(f.base):
            part = PART.fullmatch(f.name)
            groups.setdefault((part[1], part[2]) if part else (f.name, ""), []).append(f)
    return [GgufModel(quant_of(group[0].base), tuple(group)) for group in groups.values()]


def quant_of(name: str) -> str:
    """The form that the name of a GGUF file ends with: Q4_K_M, UD-Q2_K_XL; "" for none."""
    part = PART.fullmatch(name)
    words = (part[1] if part else name.removesuffix(".gguf")).replace(".", "-").split("-")
    last = words[-1].upper()
    if not last.startswith(_FORMS) or not any(c.isdigit() for c in last):
        return ""
    return f"UD-{last}" if words[-2:-1] in (["UD"], ["ud"]) else last


def choose(repo: str, files: Sequence[RemoteFile], pattern: str | None) -> list[RemoteFile]:
    """The files to fetch: those of a safetensors model, or one GGUF, all parts of it, with the vision part that belongs
    to it. pattern: which GGUF; None: there is but one model.

    Raises UsageError (which of several?), NotFound, BadFile (parts are missing).
    """
    if len(files) > MAX_FILES:
        fail(BadFile, f"{repo}: files", got=len(files), expected=f"at most {MAX_FILES}")
    ggufs = [f for f in files if f.name.endswith(".gguf")]
    if pattern is not None:
        return _matching(repo, ggufs, pattern)
    if any(f.name.endswith(".safetensors") for f in files):
        return [f for f in files if any(fnmatch.fnmatch(f.name, p) for p in WANTED)]
    models = gguf_models(ggufs)
    if len(models) == 1:
        return with_vision_part(repo, models[0], ggufs)
    if models:
        first = models[0].files[0].name
        fail(UsageError, f"{repo} holds {len(models)} GGUF models", do=f"choose: --file {first}, or another")
    if ggufs:
        return [ggufs[0]]
    return fail(NotFound, f"{repo} holds neither safetensors nor GGUF", do="choose a repository with weights")


def of_quant(repo: str, files: Sequence[RemoteFile], quant: str) -> list[RemoteFile]:
    """The files of the GGUF whose name ends with a form, in any spelling of it. Raises UsageError with the forms that
    there are, NotFound for a repository without GGUF files."""
    models = gguf_models(files)
    if not models:
        fail(NotFound, f"{repo} holds no GGUF", got=f":{quant}", do=f"herd pull {repo} takes what it holds")
    meant = resolve(quant, [m.quant for m in models if m.quant])
    found = [m for m in models if m.quant in meant]
    if len(found) != 1:
        forms = ", ".join(dict.fromkeys(m.quant or m.files[0].name for m in found or models))
        do = f"herd pull {repo} --file PATTERN takes one by its name" if len(meant) == 1 else ""
        fail(UsageError, f"{repo}: {len(found)} of its models are called so", got=quant, expected=forms, do=do)
    return with_vision_part(repo, found[0], files)


def with_vision_part(repo: str, model: GgufModel, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """All parts of a model, and the vision part at the repository's top that belongs to it. Raises BadFile when a part
    is missing."""
    last = PART.fullmatch(model.files[-1].name)
    if last and len(model.files) != int(last[2]):
        fail(BadFile, f"{repo}: {last[1]}", got=f"{len(model.files)} parts", expected=f"{int(last[2])}")
    top = {f.name: f for f in files if f.name.endswith(".gguf") and "/" not in f.name}
    first = model.files[0].base
    parts = parts_for(first, sorted({*top, first}))
    return [*model.files, *(top[name] for name in parts[:1])]


def _matching(repo: str, ggufs: list[RemoteFile], pattern: str) -> list[RemoteFile]:
    matched = [f for f in ggufs if fnmatch.fnmatch(f.name, pattern)]
    if len(matched) == 1 and is_vision_part(matched[0].base):
        return matched
    models = [m for m in gguf_models(ggufs) if not set(m.files).isdisjoint(matched)]
    if len(models) != 1:
        names = ", ".join(f.name for f in (matched or ggufs)) or "no GGUF"
        fail(UsageError, f"{repo}: {pattern} matches {len(models)} models", got=names, expected="one")
    return with_vision_part(repo, models[0], ggufs)
