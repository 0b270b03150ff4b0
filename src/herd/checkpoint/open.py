"""Open any checkpoint that Herd reads: a Hugging Face folder, a safetensors file beside its config.json, a GGUF file, a
folder of Meta's consolidated.NN.pth.

    with open_checkpoint(path) as checkpoint:
        model, tokenizer = checkpoint.load(), checkpoint.load_tokenizer()

Opening reads headers and configs only; weights are mapped. Nothing in a file is ever executed: no pickle, no template,
no code that a config names. What it is not: a search for models by name (`store`).
"""

from pathlib import Path

from herd.checkpoint.gguf.vision_parts import fitting, models_of
from herd.checkpoint.meta.folder import MetaCheckpoint
from herd.checkpoint.opened import Checkpoint, GgufCheckpoint, HfCheckpoint
from herd.containers.gguf import open_gguf
from herd.containers.safetensors import MAGICS
from herd.containers.safetensors_folder import INDEX
from herd.disk.small_files import listed, regular_file
from herd.errors import BadCheckpoint, NotFound, UsageError, fail

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
_PICKLE_DO = "Herd never unpickles; use the safetensors or GGUF form of this model"
_OTHER_KINDS = {
    "adapter": ("an adapter, not a model", "name the model it was trained on"),
    "imatrix": ("an importance matrix, not a model", "name the model; herd quantize and convert take it as --imatrix"),
}
"""general.type of a GGUF that is no model -> what it is, what to do."""
_META_DO = "Meta's consolidated.NN.pth are read as a folder, with their params.json: name the folder"


def open_checkpoint(path: Path | str, *, mmproj: Path | str | None = None) -> Checkpoint:
    """Open a folder or a file of any form that Herd reads.

    A folder holds safetensors files with a config.json, or one GGUF model (and its mmproj*.gguf when it sees images),
    or Meta's consolidated.NN.pth with a params.json. mmproj: the vision part of a GGUF model; None: the one beside it
    that belongs to it (`gguf.vision_parts`), and a warning for one that lies there and is not used.
    Raises NotFound, BadCheckpoint, BadConfig, each one line; UsageError for an mmproj of what is no GGUF.
    """
    found = _open(Path(path), None if mmproj is None else Path(mmproj))
    if mmproj is not None and not isinstance(found, GgufCheckpoint):
        found.close()
        fail(UsageError, f"mmproj {mmproj}: {path} is no GGUF", do="other forms hold their vision part themselves")
    return found


def _open(path: Path, mmproj: Path | None) -> Checkpoint:
    if path.is_dir():
        return _open_folder(path, mmproj)
    regular_file(path, BadCheckpoint)
    with path.open("rb") as file:
        first = file.read(32)
    if not first:
        fail(BadCheckpoint, f"{path.name} is empty", do="fetch it again")
    if first.startswith(b"GGUF"):
        return _open_gguf(path, mmproj)
    if path.suffix == ".safetensors":
        return HfCheckpoint(path)
    _refuse_pickles(path, first)
    return fail(
        BadCheckpoint,
        f"{path.name} is no checkpoint that Herd reads",
        expected=".safetensors with a config.json beside it, or GGUF",
    )


def _open_folder(folder: Path, mmproj: Path | None) -> Checkpoint:
    names = sorted(p.name for p in folder.iterdir())
    safetensors = [n for n in names if n.endswith(".safetensors")]
    gguf = [n for n in names if n.endswith(".gguf")]
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        fail(BadCheckpoint, f"{folder} is an adapter, not a model", do="name the model it was trained on")
    if (safetensors or INDEX in names) and gguf:
        fail(BadCheckpoint, f"{folder} holds both safetensors and GGUF", got=listed(gguf), do="name the .gguf file")
    if safetensors or INDEX in names:
        return HfCheckpoint(folder)
    if gguf:
        models = models_of(gguf)
        if len(models) != 1:
            fail(BadCheckpoint, f"{folder} holds {len(models)} GGUF models", got=listed(models), do="name one of them")
        return _open_gguf(folder / models[0], mmproj)
    pickles = [n for n in names if n.endswith(_PICKLES)]
    if any(n.startswith("consolidated.") for n in pickles):
        return MetaCheckpoint(folder)
    if pickles:
        fail(BadCheckpoint, f"{folder} holds pickles only", got=listed(pickles), do=_PICKLE_DO)
    return fail(NotFound, f"{folder} holds no weights", expected="*.safetensors with config.json, or *.gguf")


def _open_gguf(path: Path, mmproj: Path | None) -> Checkpoint:
    reader = open_gguf(path)
    for kind, (meaning, do) in _OTHER_KINDS.items():
        if reader.keys.get("general.type") == kind:
            fail(BadCheckpoint, f"{path.name} is {meaning}", do=do)
    if reader.keys.get("general.architecture") == "clip":
        fail(BadCheckpoint, f"{path.name} is the vision part of a model", do="name the model's own .gguf file")
    if mmproj is not None:
        return GgufCheckpoint(path, reader, open_gguf(mmproj))
    part, unused = fitting(path, reader.keys)
    return GgufCheckpoint(path, reader, part, unused)


def _refuse_pickles(path: Path, first: bytes) -> None:
    for magic, meaning in MAGICS.items():
        if first.startswith(magic):
            do = _META_DO if path.name.startswith("consolidated") else _PICKLE_DO
            fail(BadCheckpoint, f"{path.name} is {meaning}", do=do if "ickle" in meaning or "zip" in meaning else "")
    if path.suffix in _PICKLES:
        do = _META_DO if path.name.startswith("consolidated") else _PICKLE_DO
        fail(BadCheckpoint, f"{path.name} is a pickle by its name", do=do)
