"""Hugging Face folders that we write load in transformers and come back bit for bit; every wrong folder is refused."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT
from herd.batch import packed
from herd.checkpoint import Checkpoint, RandomSource, open_checkpoint, random_model, save_hf
from herd.checkpoint.hf.names import to_adjacent, to_half_split
from herd.checkpoint.hf.source import same_bits
from herd.checkpoint.walk import TreeSource, walk
from herd.config import TINY, Llama4Config
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_write import FILE_DTYPE, TensorToWrite, write_file
from herd.errors import BadCheckpoint, DoesNotFit, HerdError, NotFound, UsageError
from herd.model import forward, place_weights
from herd.ops.native import NativeOps
from herd.weights import Experts, Model

CONFIGS = {"full": TINY, "text": TINY_TEXT, "dense": TINY_DENSE}
IDS = list(range(1, 41))


def arrays(config: Llama4Config, model: Model) -> dict[str, np.ndarray]:
    """Every array of a tree by its canonical name."""
    source = TreeSource(config, model)
    found = {}
    for w in walk(config):
        if w.kind == "vector":
            found[w.name] = source.vector(w.name, w.shape)
        else:
            node = source.experts(w.name, *w.shape) if w.kind == "experts" else source.matrix(w.name, *w.shape)
            found[w.name] = node.w
            if getattr(node, "bias", None) is not None:
                found[w.name + ".bias"] = node.bias
    return found


def assert_same(config: Llama4Config, a: Model, b: Model) -> None:
    left, right = arrays(config, a), arrays(config, b)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert np.array_equal(left[name], right[name]), name


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, kind: str, dtype: str) -> None:
    config = CONFIGS[kind]
    save_hf(tmp_path / "m", config, RandomSource(config, 3, dtype), dtype)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.config.layers == config.layers
        assert_same(config, checkpoint.load(), random_model(config, 3, dtype))


def test_shards_mean_the_same_as_one_file(tmp_path: Path) -> None:
    save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 3), shard_bytes=100_000)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 5
    assert_same(TINY_TEXT, open_checkpoint(tmp_path / "m").load(), random_model(TINY_TEXT, 3))


def test_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))
    model = open_checkpoint(tmp_path / "m").load()
    moe = model.blocks[1].ffn
    assert not model.blocks[0].q.w.flags.owndata  # type: ignore[union-attr]
    assert isinstance(moe.gate_up, Experts)  # type: ignore[union-attr]
    assert not moe.gate_up.w.flags.owndata  # type: ignore[union-attr]


def test_half_split_rows_are_the_pairs_that_transformers_rotates() -> None:
    """transformers' Llama pairs m with m + H/2; ours pairs 2m with 2m + 1."""
    rows = np.arange(2 * 8)[:, None]  # two heads of 8
    assert to_adjacent(rows, 8)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert np.array_equal(to_half_split(to_adjacent(rows, 8), 8), rows)


@pytest.mark.parametrize("kind", ["text", "dense"])
def test_logits_equal_transformers_both_ways(tmp_path: Path, kind: str) -> None:
    """Our folder in transformers, and what transformers saves from it here: names and orders of both directions."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from helpers import op_set
    from herd.batch import packed
    from herd.model import forward, place_weights

    config = replace(CONFIGS[kind], norm_eps=1e-5)
    save_hf(tmp_path / "ours", config, RandomSource(config, 5), shard_bytes=300_000)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    ids = torch.arange(1, 41)
    with torch.no_grad():
        expected = model(ids[None]).logits[0].numpy()
    model.save_pretrained(tmp_path / "theirs")
    ops = op_set("torch")
    for folder in ("ours", "theirs"):
        checkpoint = open_checkpoint(tmp_path / folder)
        assert checkpoint.config.layers == config.layers
        weights = place_weights(ops, checkpoint.load())
        got = ops.numpy(forward(ops, checkpoint.config, weights, ids, ops.place(packed([40], config.chunk))))
        np.testing.assert_allclose(got, expected, atol=2e-5 * expected.std(), rtol=0)


def test_llama4_names_with_and_without_prefix(tmp_path: Path) -> None:
    save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 3))
    rewrite(tmp_path / "m", lambda name: "language_model." + name)
    assert_same(TINY_TEXT, open_checkpoint(tmp_path / "m").load(), random_model(TINY_TEXT, 3))


def test_rotary_tables_of_old_files_are_ignored(tmp_path: Path) -> None:
    save_hf(tmp_path / "m", TINY_DENSE, RandomSource(TINY_DENSE, 3))
    rewrite(tmp_path / "m", add={"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)})
    assert_same(TINY_DENSE, open_checkpoint(tmp_path / "m").load(), random_model(TINY_DENSE, 3))


@pytest.mark.parametrize("saved", ["the table again", "the head alone", "another head", "the body alone"])
def test_heads_beside_tied_embeddings_are_what_transformers_makes_of_them(
    tmp_path: Path, saved: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_hf(tmp_path / "m", TINY_DENSE, RandomSource(TINY_DENSE, 3))
    name, head = "model.embed_tokens.weight", "lm_head.weight"
    table = SafeFile(folder / "model.safetensors").array(name).copy()
    match saved:
        case "the table again":
            rewrite(folder, add={head: table})
        case "the head alone":
            rewrite(folder, lambda given: head if given == name else given)
        case "another head":
            rewrite(folder, add={head: table[::-1].copy()})
        case "the body alone":
            rewrite(folder, lambda given: given.removeprefix("model."))
    with open_checkpoint(folder) as checkpoint:
        model = checkpoint.load()
        assert checkpoint.config.tied_embeddings is (model.head is model.embed) is (saved != "another head")
        close_to_transformers(folder, logits_of(checkpoint))
    told = [line for line in caplog.messages if "config.json ties the head" in line]
    assert len(told) == (saved == "another head")


def logits_of(checkpoint: Checkpoint) -> Any:
    ops = NativeOps(1)
    weights = place_weights(ops, checkpoint.load())
    context = ops.place(packed([len(IDS)], checkpoint.config.chunk))
    return forward(ops, checkpoint.config, weights, np.array(IDS), context)


def close_to_transformers(folder: Path, got: Any) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        want = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5 * float(want.std()))


def test_tables_are_compared_bit_for_bit_in_little_memory() -> None:
    """Of a large model each has gigabytes; a difference at their beginning is seen there."""
    table = np.full((1 << 12, 1 << 12), 0x7FC1, np.uint16)  # a NaN of bfloat16
    tracemalloc.start()
    assert same_bits(table.view(np.float16), table.copy().view(np.float16))
    assert not same_bits(table, np.append(table[:-1], table[-1:] ^ 1, axis=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * table.nbytes, "more than the copies of this test"
    for a, b in ((table, table[:, :-1]), (table, table.view(np.float16)), (np.float32(1), np.zeros(1, np.float32))):
        assert not same_bits(np.asarray(a), np.asarray(b))
    assert same_bits(np.asarray(np.float32(1)), np.asarray(np.float32(1)))


def test_untied_embeddings_without_a_head_are_an_error_that_names_it(tmp_path: Path) -> None:
    folder = save_hf(tmp_path / "m", TINY_DENSE, RandomSource(TINY_DENSE, 3))
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": False}))
    refused(folder, r"1 tensors are missing \(lm_head\.weight\); a model saved without its head")


# -- wrong folders ------------------------------------------------------------------------------------------------


def rewrite(
    folder: Path,
    rename: Callable[[str], str] = lambda name: name,
    *,
    add: dict[str, np.ndarray] | None = None,
    drop: tuple[str, ...] = (),
    dtypes: dict[str, str] | None = None,
    file: str = "model.safetensors",
) -> None:
    """Write a file of a folder anew, with changes."""
    old = SafeFile(folder / file)
    kinds = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8", np.dtype(np.uint16): "BF16"}
    found = {rename(n): old.array(n).copy() for n in old.entries if n not in drop} | (add or {})
    tensors = [
        TensorToWrite(n, (dtypes or {}).get(n, kinds[a.dtype]), a.shape, lambda a=a: iter([a]))  # type: ignore[misc]
        for n, a in found.items()
    ]
    old.close()
    (folder / file).unlink()
    write_file(folder / file, tensors)


def refused(folder: Path, words: str, error: type[HerdError] = BadCheckpoint) -> None:
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT), shard_bytes=400_000)


def edit_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_missing_tensors_are_listed(folder: Path) -> None:
    rewrite(folder, drop=("model.norm.weight", "lm_head.weight"))
    refused(folder, r"2 tensors are missing \(lm_head\.weight, model\.norm\.weight\); files and config\.json")


def test_tensors_too_many_are_listed(folder: Path) -> None:
    rewrite(folder, add={"model.layers.9.extra": np.zeros(2, np.float32)})
    refused(folder, r"1 tensors are unknown to the config \(model\.layers\.9\.extra\); files and config\.json")


def test_one_refusal_tells_both(folder: Path) -> None:
    rewrite(folder, drop=("model.norm.weight",), add={"model.nrom.weight": np.zeros(64, np.float32)})
    refused(
        folder,
        r"1 tensors are missing \(model\.norm\.weight\), 1 tensors are unknown to the config \(model\.nrom\.weight\);",
    )


def test_a_name_full_of_control_characters_is_shown_harmlessly(folder: Path) -> None:
    rewrite(folder, add={"\x1b[2J\nfake line": np.zeros(2, np.float32)})
    refused(folder, "1 tensors are unknown to the config")


def test_wrong_shapes_name_both(folder: Path) -> None:
    rewrite(folder, add={"model.norm.weight": np.zeros(65, np.float32)})
    refused(folder, r"shape of model\.norm\.weight: got \[65\], expected \[64\]")


def test_bytes_are_no_weights(folder: Path) -> None:
    rewrite(folder, add={"model.norm.weight": np.zeros(64, np.uint8)})
    refused(folder, r"dtype of model\.norm\.weight: got U8")


def test_weights_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_local_experts": 8}))
    refused(folder, "shape of .*router")
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "moe_layers": [1],
                                                    "no_rope_layers": [], "layer_types": None}))  # fmt: skip
    refused(folder, "unknown to the config")


def test_missing_shards_are_listed(sharded: Path) -> None:
    names = sorted(p.name for p in sharded.glob("*.safetensors"))
    (sharded / names[1]).unlink()
    refused(sharded, rf"1 of {len(names)} shards are missing: got {names[1]}")


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    names = sorted(p.name for p in sharded.glob("*.safetensors"))
    first = next(iter(SafeFile(sharded / names[0]).entries))
    array = SafeFile(sharded / names[0]).array(first).copy()
    rewrite(sharded, add={first: array}, file=names[1])
    refused(sharded, f"in two files: got {first}")


@pytest.mark.parametrize("kind", ["another shard", "no name"])
def test_a_tensor_is_found_where_the_index_does_not_say_it(
    sharded: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = min(p.name for p in sharded.glob("*.safetensors"))
    name = "model.norm.weight"
    edit_index(sharded, lambda where: where.update({name: first}) if kind == "another shard" else where.pop(name))
    for _ in range(2):
        assert_same(TINY_TEXT, open_checkpoint(sharded).load(), random_model(TINY_TEXT, 0))
    told = [line for line in caplog.messages if "does not say where 1 tensors are" in line]
    assert len(told) == 1
    assert told[0].endswith("found: model.norm.weight")


def test_a_tensor_of_the_index_that_no_shard_has_is_named(sharded: Path) -> None:
    first = min(p.name for p in sharded.glob("*.safetensors"))
    edit_index(sharded, lambda where: where.update({"model.gone.weight": first}))
    refused(sharded, rf"1 tensors of .* are in none of its files: got model\.gone\.weight, by the index in {first}")


@pytest.mark.parametrize(
    "name",
    ["../../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "", ".hidden.safetensors", "x.bin",
     "x\x00.safetensors", "c:\\x.safetensors", "x" * 300 + ".safetensors", 7, None, ["x"]],
)  # fmt: skip
def test_index_with_a_name_that_leads_elsewhere(sharded: Path, name: object) -> None:
    edit_index(sharded, lambda where: where.update({"model.norm.weight": name}))  # type: ignore[dict-item]
    refused(sharded, "file name")


@pytest.mark.parametrize("kind", ["link out", "link out through a folder", "device", "pipe", "folder", "loop"])
def test_a_shard_that_is_no_file_of_the_folder(sharded: Path, tmp_path: Path, kind: str) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[0]
    elsewhere = tmp_path / "elsewhere" / shard.name
    elsewhere.parent.mkdir()
    shard.rename(elsewhere)
    match kind:
        case "link out":
            shard.symlink_to(elsewhere)
        case "link out through a folder":
            (sharded / "sub").symlink_to(elsewhere.parent)
            shard.symlink_to(Path("sub") / shard.name)
        case "device":
            shard.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(shard)
        case "folder":
            shard.mkdir()
        case "loop":
            shard.symlink_to(shard)
    refused(sharded, "leaves its folder|not a regular file|symbolic links")


def test_links_of_the_hugging_face_cache_are_followed(sharded: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1234"
    blobs = snapshot.parent.parent / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, path in enumerate(sorted(sharded.iterdir())):
        shutil.move(path, blobs / f"{i:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{i:064x}")
    assert_same(TINY_TEXT, open_checkpoint(snapshot).load(), random_model(TINY_TEXT, 0))


def test_one_shard_alone_names_its_folder(sharded: Path) -> None:
    refused(sorted(sharded.glob("*.safetensors"))[0], "one shard of several")


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"{", b"\xff",
                                     b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
                                     b'{"a":' * 100_000, b'{"weight_map": NaN}', b'{"a": "' + b"x" * 100,
                                     b'{"weight_map": [' + b"[]," * 2_000_000 + b"[]]}",
                                     b'{"' + b'\\"' * 4_000_000,
                                     ('{"' + "x" * 2_000_000 + '\U0001f600":1}').encode()])  # fmt: skip
def test_hostile_index(sharded: Path, content: bytes) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(content)
    refused(sharded, r"model\.safetensors\.index\.json")


def test_an_index_over_8_mib_is_not_read(sharded: Path) -> None:
    os.truncate(sharded / "model.safetensors.index.json", 9 << 20)
    refused(sharded, "at most 8388608")


def test_single_file_and_index_together_are_ambiguous(sharded: Path) -> None:
    shutil.copy(sorted(sharded.glob("*.safetensors"))[0], sharded / "model.safetensors")
    refused(sharded, "has both")


def test_a_file_that_shrinks_after_opening_is_noticed_at_load(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 1000)
    with pytest.raises(BadCheckpoint, match="changed while in use"):
        checkpoint.load()


def test_nan_and_infinity_are_found_by_name_when_asked(folder: Path) -> None:
    open_checkpoint(folder).check_finite()
    bad = np.ones(64, np.float32)
    bad[3] = np.inf
    rewrite(folder, add={"model.norm.weight": bad})
    checkpoint = open_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match=r"1 weights hold a NaN or an infinity: got model\.norm\.weight"):
        checkpoint.check_finite()


# -- writing ------------------------------------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_kept(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        save_hf(folder, TINY_TEXT, RandomSource(TINY_TEXT, 9))
    assert (folder / "model.safetensors").read_bytes() == before
    save_hf(folder, TINY_TEXT, RandomSource(TINY_TEXT, 9), overwrite=True)
    assert_same(TINY_TEXT, open_checkpoint(folder).load(), random_model(TINY_TEXT, 9))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


class Broken(RandomSource):
    """Fails in the middle of the model."""

    def matrix(self, name: str, outputs: int, inputs: int, *, bias: bool = False):  # type: ignore[no-untyped-def]
        if name.startswith("model.layers.2"):
            raise RuntimeError("no more")
        return super().matrix(name, outputs, inputs, bias=bias)


@pytest.mark.parametrize("old", [False, True])
def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, old: bool) -> None:
    if old:
        save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 3))
    with pytest.raises(RuntimeError, match="no more"):
        save_hf(tmp_path / "m", TINY_TEXT, Broken(TINY_TEXT), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == (["m"] if old else [])
    if old:
        assert_same(TINY_TEXT, open_checkpoint(tmp_path / "m").load(), random_model(TINY_TEXT, 3))


def test_too_little_disk_is_said_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(DoesNotFit, match=r"needs 0\.00 GB on the disk"):
        save_hf(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))
    assert not list(tmp_path.iterdir())


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    model = random_model(TINY_TEXT)
    model.norm.w[0] = 1e5
    with pytest.raises(BadCheckpoint, match=r"model\.norm\.weight holds values above 65504"):
        save_hf(tmp_path / "m", TINY_TEXT, model, "float16")


def test_no_parent_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        save_hf(tmp_path / "a" / "b", TINY_TEXT, RandomSource(TINY_TEXT))


def test_files_come_along(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_hf(
        tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT), files=[tmp_path / "tokenizer.json"], texts={"a.txt": "b"}
    )
    assert (tmp_path / "m" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "m" / "a.txt").read_text() == "b"
    assert FILE_DTYPE["bfloat16"] == "BF16"


# -- digests ------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_bit_is_told_by_the_manifest(sharded: Path) -> None:
    assert open_checkpoint(sharded).verify()
    shard = sorted(sharded.glob("*.safetensors"))[1]
    flip(shard, shard.stat().st_size - 5)
    checkpoint = open_checkpoint(sharded)
    with pytest.raises(BadCheckpoint, match=f"{shard.name}: the content is not what was written"):
        checkpoint.check_digests()


def test_a_swapped_router_is_told_by_the_manifest(folder: Path) -> None:
    name = "model.layers.1.feed_forward.router.weight"
    router = SafeFile(folder / "model.safetensors").array(name)
    rewrite(folder, add={name: router[::-1].copy()})
    checkpoint = open_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        checkpoint.check_digests()


def test_without_a_manifest_nothing_is_known(folder: Path) -> None:
    (folder / "herd.manifest.json").unlink()
    flip(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 5)
    assert open_checkpoint(folder).verify() is False


@pytest.mark.parametrize(
    "content",
    ["[]", '{"files": []}', '{"files": {"../config.json": {"size": 1, "sha256": "%s"}}}' % ("0" * 64),
     '{"files": {"config.json": {"size": 1}}}', '{"files": {"config.json": 7}}', "{" * 1000],
)  # fmt: skip
def test_hostile_manifest(folder: Path, content: str) -> None:
    (folder / "herd.manifest.json").write_text(content)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(BadCheckpoint) as caught:
        checkpoint.check_digests()
    assert str(caught.value).isprintable()


def test_a_file_that_is_gone_is_told_by_the_manifest(folder: Path) -> None:
    (folder / "extra.txt").write_text("x")
    manifest = json.loads((folder / "herd.manifest.json").read_text())
    manifest["files"]["extra.txt"] = {"size": 2, "sha256": "0" * 64}
    (folder / "herd.manifest.json").write_text(json.dumps(manifest))
    checkpoint = open_checkpoint(folder)
    with pytest.raises(BadCheckpoint, match=r"extra\.txt: size: got 1, expected 2"):
        checkpoint.check_digests()
    (folder / "extra.txt").unlink()
    with pytest.raises(NotFound, match=r"extra\.txt"):
        checkpoint.check_digests()
