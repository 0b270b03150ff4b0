"""The bits of the native op set: digests of the logits of fixed prompts, on every instruction set and kind of cache.

    PYTHONPATH=tests python tests/engine/bits.py [GGUF]           compares with the record, tests/engine/bits.json
    PYTHONPATH=tests python tests/engine/bits.py [GGUF] --add     adds what this processor has and the record has not
    PYTHONPATH=tests python tests/engine/bits.py [GGUF] --replace writes over what differs, and says what that was

GGUF: SmolLM2's file; without it its digests stay as they are. A digest is the first 16 hexadecimal digits of the
sha256 of float32 bytes. No BLAS and no torch is on the way of the logits. numpy makes the tables of angles (cos, sin,
log1p in float64, rounded to float32) and libm the router's sigmoid: `made_with` says whose. Embeddings and scores go
through sums of numpy in float64; scores are therefore compared as numbers.
"""

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import herd
from helpers import TINY_TEXT, Quantized, hf_folder, weights
from herd import _native
from herd.checkpoint.open import open_checkpoint
from herd.config import TINY, Llama4Config
from herd.engine.runner import Chunk, Runner
from herd.model import place_weights
from herd.ops.native import NativeOps
from herd.store.auto_pack import packed_for
from herd.weights import build

RECORD = Path(__file__).with_name("bits.json")
SIDE_BY_SIDE = 4
"""Prompts that share each pass."""
DECODED = 4
"""Ids at the end of a prompt that come one a pass, after pieces of these sizes, over and over:"""
PIECES = (7, 16, 33, 1, 64, 100)
TINY_KINDS: dict[str, tuple[Llama4Config, str | None, str, str]] = {
    # config, format and layout of the matrices (None: float32), cache
    **{kv: (TINY, None, "", kv) for kv in ("f32", "f16", "bf16", "int8")},
    "int4": (replace(TINY, chunk=256, floor_scale=64), None, "", "int4"),  # a page of int4 has 256 positions
    "q4_0 strips, bf16": (TINY_TEXT, "q4_0", "strips", "bf16"),
    "q8_0 rows, int8": (TINY_TEXT, "q8_0", "rows", "int8"),
}
KV_TYPES = ("f32", "f16", "bf16", "int8", "int4")


def record() -> Any:
    """The record as it is in its file."""
    return json.loads(RECORD.read_text())


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """The kernels of this name, for a while."""
    before = _native.isa_info()["chosen"]
    _native.set_isa_for_tests(name)
    try:
        yield
    finally:
        _native.set_isa_for_tests(before)


def digest(*arrays: Any) -> str:
    """Of float32 arrays, one after another."""
    found = hashlib.sha256()
    for x in arrays:
        found.update(np.ascontiguousarray(x, np.float32))
    return found.hexdigest()[:16]


# -- logits -------------------------------------------------------------------------------------------------------


def logits_of(runner: Any, prompts: Sequence[list[int]]) -> list[str]:
    """A digest a prompt, of the first and last row of each of its pieces. Prompts run side by side, in passes that hold
    a piece of each, until all are through."""
    found = []
    for start in range(0, len(prompts), SIDE_BY_SIDE):
        group = prompts[start : start + SIDE_BY_SIDE]
        leases = [runner.lease() for _ in group]
        cuts = [_cuts(len(ids), start + i) for i, ids in enumerate(group)]
        rows: list[list[Any]] = [[] for _ in group]
        for turn in range(max(map(len, cuts))):
            going = [i for i in range(len(group)) if turn < len(cuts[i])]
            pieces = [_piece(leases[i], group[i], *cuts[i][turn]) for i in going]
            logits_RV = runner.run(pieces)
            ends = np.cumsum([len(p.rows or ()) for p in pieces])
            for i, some_RV in zip(going, np.split(logits_RV, ends[:-1]), strict=True):
                rows[i].append(some_RV)
        for lease in leases:
            runner.drop(lease)
        found += [digest(*x) for x in rows]
    return found


def _cuts(length: int, number: int) -> list[tuple[int, int]]:
    """(first, end) of the pieces of a prompt."""
    cuts, at = [], 0
    while at < length:
        size = PIECES[(number + len(cuts)) % len(PIECES)]
        end = min(at + size, max(length - DECODED, at + 1))
        cuts.append((at, end))
        at = end
    return cuts


def _piece(lease: Any, ids: list[int], first: int, end: int) -> Chunk:
    return Chunk(lease, ids[first:end], rows=sorted({0, end - first - 1}))


def picture(runner: Any) -> str:
    """A digest of the logits around two tiles."""
    vision, count = TINY.vision, 2
    assert vision is not None
    shape = count, 3, vision.image_size, vision.image_size
    pixels = (np.arange(np.prod(shape)) * 37 % 101 / 50 - 1).reshape(shape).astype(np.float32)
    features = runner.encode_images(pixels)
    ids = [5, 9, *[TINY.patch_id] * len(features), 7]
    lease = runner.lease()
    found = runner.run([Chunk(lease, ids, (features,), range(len(ids)))])
    runner.drop(lease)
    return digest(found)


def _runner(config: Llama4Config, model: Any, kv: str, threads: int = 2) -> Runner:
    ops = NativeOps(threads)
    placed = place_weights(ops, model)
    return Runner(config, placed, ops, context=2048, kv_dtype=kv, sequences=SIDE_BY_SIDE)


def tiny(isa: str, kind: str, prompts: Sequence[list[int]], model: Any = None) -> list[str]:
    """Digests on TINY: of the prompts, and of an image where the kind has vision. model: other weights."""
    config, format, layout, kv = TINY_KINDS[kind]
    if model is None:
        model = weights(config) if format is None else build(config, Quantized(config, format, layout))
    with instruction_set(isa):
        runner = _runner(config, model, kv)
        return logits_of(runner, prompts) + ([picture(runner)] if config.vision else [])


def smollm2(isa: str, kv: str, prompts: Sequence[list[int]], file: Path) -> list[str]:
    """Digests on SmolLM2, packed as `herd.load` packs it."""
    checkpoint = packed_for(open_checkpoint(file))
    try:
        with instruction_set(isa), checkpoint.reading():
            return logits_of(_runner(checkpoint.config, checkpoint.load(), kv), prompts)
    finally:
        checkpoint.close()


# -- embeddings and scores ------------------------------------------------------------------------------------------


def measured(isa: str, path: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Of a checkpoint: digests of the texts' embeddings, their negative log-likelihoods and how many tokens that is."""
    with instruction_set(isa), herd.load(path, ops="native", threads=2, kv="bf16", context=1024) as llm:
        scores = [llm.perplexity(text) for text in texts]
        vectors = llm.embed(texts)
    return {
        "embeddings": [digest(x) for x in vectors],
        "nll": [s.nll for s in scores],
        "scored_tokens": [s.scored_tokens for s in scores],
    }


# -- what the record was made of ------------------------------------------------------------------------------------


def weights_digest() -> str:
    """Of TINY's random weights, which numpy draws."""
    arrays: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, np.ndarray):
            arrays.append(node)
        for x in node if isinstance(node, tuple) else vars(node).values() if hasattr(node, "kind") else ():
            walk(x)

    walk(weights(TINY))
    return digest(*arrays)


def file_digest(file: Path) -> str:
    """Of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:16]


def made_with() -> dict[str, str]:
    """What else has a part in the bits."""
    return {"numpy": np.__version__, "libc": " ".join(platform.libc_ver())}


def now(isa: str, known: Any, file: Path | None, folder: Path) -> dict[str, Any]:
    """All that this processor says on one instruction set."""
    prompts, texts = known["prompts"], known["texts"]
    found: dict[str, Any] = {"tiny": {kind: tiny(isa, kind, prompts["tiny"]) for kind in TINY_KINDS}}
    found["tiny measured"] = measured(isa, folder, texts)
    if file is not None:
        found["smollm2"] = {kv: smollm2(isa, kv, prompts["smollm2"], file) for kv in KV_TYPES}
        found["smollm2 measured"] = measured(isa, file, texts)
    return found


def main() -> None:
    """Compare, add or replace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", nargs="?", type=Path)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--add", action="store_true")
    choice.add_argument("--replace", action="store_true")
    a = parser.parse_args()
    known = record()
    digests = known["digests"]
    if a.gguf is not None:
        _same_file(known, a.gguf)
    known["weights"].setdefault("tiny", weights_digest())
    differs = [] if known["weights"]["tiny"] == weights_digest() else ["the random weights of TINY"]
    with tempfile.TemporaryDirectory() as folder:
        path = hf_folder(Path(folder) / "tiny", TINY)
        for isa in _native.isa_info()["available"]:
            for name, value in now(isa, known, a.gguf, path).items():
                before = digests.setdefault(isa, {}).get(name)
                print(isa, name, "new" if before is None else "same" if before == value else "DIFFERS", flush=True)
                if before not in (None, value):
                    differs.append(f"{name} on {isa}")
                digests[isa][name] = value
    if differs and not a.replace:
        sys.exit("bits: what differs from the record is not written: " + ", ".join(differs))
    if a.add or a.replace:
        known["weights"]["tiny"], known["made_with"] = weights_digest(), made_with()
        write(known)


def _same_file(known: Any, file: Path) -> None:
    found = file_digest(file)
    if known["weights"].setdefault("smollm2", found) != found:
        sys.exit(f"bits: {file} has the digest {found}, the record is of {known['weights']['smollm2']}")


def write(known: Any) -> None:
    """The record, a list a line."""
    lines: list[str] = []

    def put(value: Any, indent: str, before: str, after: str) -> None:
        flat = not isinstance(value, dict) and not (isinstance(value, list) and value and isinstance(value[0], list))
        if flat:
            lines.append(indent + before + json.dumps(value, ensure_ascii=False) + after)
            return
        named = isinstance(value, dict)
        lines.append(indent + before + ("{" if named else "["))
        items = [(json.dumps(k) + ": ", x) for k, x in value.items()] if named else [("", x) for x in value]
        for i, (name, x) in enumerate(items):
            put(x, indent + " ", name, "," if i + 1 < len(items) else "")
        lines.append(indent + ("}" if named else "]") + after)

    put(known, "", "", "\n")
    RECORD.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
