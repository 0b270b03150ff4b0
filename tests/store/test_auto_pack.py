"""What needs repacking is packed once, mapped from then on, and made again when it is stale or damaged."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import op_set
from herd.batch import packed as one_after_another
from herd.checkpoint import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.checkpoint.walk import walk
from herd.errors import BadCheckpoint, NotFound, UsageError
from herd.formats import strips
from herd.model import forward, place_weights
from herd.store import packed_copies, registry, stored
from herd.store.auto_pack import packed_for
from herd.store.packed_copies import folder_of
from herd.store.packed_over import PackedOver
from herd.weights import Dense, Packed, Pair
from weight_sources import ask, assert_same

GGUF = Path(__file__).parent.parent / "fixtures" / "gguf"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "llama4-q4_k.gguf"
    shutil.copyfile(GGUF / path.name, path)
    return path


def packed(path: Path, **options: Any) -> Checkpoint:
    return packed_for(open_checkpoint(path), **options)


def stamp(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_ino for p in folder.iterdir()}


@pytest.mark.parametrize("name", ["llama-q4_0", "llama-q6_k", "llama4-q4_k", "llama4-q8_0"])
def test_the_weights_are_the_files_own_as_mapped_strips(name: str) -> None:
    with open_checkpoint(GGUF / f"{name}.gguf") as own, packed(GGUF / f"{name}.gguf") as over:
        assert isinstance(over, PackedOver)
        kinds: set[str] = set()
        for w in walk(own.config):
            a, b = ask(own.source(), w), ask(over.source(), w)
            assert_same(a, b)
            for x, y in zip(*((n.gate, n.up) if isinstance(n, Pair) else (n,) for n in (a, b)), strict=True):
                looked_up = w.name == "model.embed_tokens" and not own.config.tied_embeddings
                if isinstance(x, Packed) and not looked_up:
                    assert y.layout == "strips"
                    assert not y.codes.flags.owndata
                    kinds.add(x.format)
                elif isinstance(x, Dense):  # a view of the file itself, as before
                    assert not y.w.flags.owndata
        assert name.split("-")[1] in kinds
        assert over.config is not None
        assert over.load().blocks
        assert over.check_digests() == own.check_digests()
        over.check_unchanged()


def test_it_is_packed_once_and_then_found(model: Path) -> None:
    with packed(model) as first:
        node: Any = first.source().matrix("model.layers.0.self_attn.o_proj", 64, 64)
        assert isinstance(node, Packed)
    before = stamp(folder_of(model))
    with packed(model) as second:
        assert isinstance(second, PackedOver)
    assert stamp(folder_of(model)) == before
    assert packed_copies.size_of(model) > 0


def test_no_pack_and_floats_are_left_alone(model: Path) -> None:
    assert not isinstance(packed(model, pack=False), PackedOver)
    assert not isinstance(packed(GGUF / "llama4-f16.gguf"), PackedOver)
    assert not registry.home().exists()


def test_a_changed_file_is_packed_anew_in_place_of_the_stale_form(model: Path, tmp_path: Path) -> None:
    packed(model).close()
    before = stamp(folder_of(model))
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    (tmp_path / "new").write_bytes(data)
    (tmp_path / "new").replace(model)
    with open_checkpoint(model) as own, packed(model) as over:
        assert isinstance(over, PackedOver)
        for w in walk(own.config):
            assert_same(ask(own.source(), w), ask(over.source(), w))
    assert stamp(folder_of(model)) != before
    assert [p.name for p in folder_of(model).parent.iterdir()] == [folder_of(model).name]


def test_a_file_that_changes_under_a_loaded_model_is_noticed(model: Path) -> None:
    with packed(model) as over:
        over.check_unchanged()
        os.utime(model)
        with pytest.raises(BadCheckpoint, match="changed while in use"):
            over.check_unchanged()


@pytest.mark.parametrize("where", ["cut", "header", "metadata", "gone", "index", "source", "another model"])
def test_a_damaged_form_is_made_again(model: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    packed(model).close()
    folder = folder_of(model)
    weights = folder / "model-00001.safetensors"
    data = weights.read_bytes()
    if where == "cut":
        weights.write_bytes(data[:-1])
    elif where == "header":
        weights.write_bytes(b"\xff" * 8 + data[8:])
    elif where == "metadata":
        weights.write_bytes(data.replace(b"strips", b"stripz", 1))
    elif where == "gone":
        weights.unlink()
    elif where == "index":
        (folder / "model.safetensors.index.json").write_text("{}")
    elif where == "source":
        (folder / "source.json").write_text("{")
    else:
        packed(GGUF / "llama-q4_0.gguf").close()
        for path in folder_of(GGUF / "llama-q4_0.gguf").iterdir():
            if path.name != "source.json":
                shutil.copyfile(path, folder / path.name)
    with open_checkpoint(model) as own, packed(model) as over:
        assert isinstance(over, PackedOver)
        for w in walk(own.config):
            assert_same(ask(own.source(), w), ask(over.source(), w))
    assert "damaged" in caplog.text or where == "source"


def test_verify_finds_a_flipped_bit_and_the_next_load_packs_again(model: Path) -> None:
    name, _ = stored.import_path(model)
    packed(model).close()
    assert stored.verify(name).packed is True
    weights = folder_of(model) / "model-00001.safetensors"
    data = bytearray(weights.read_bytes())
    data[-70] ^= 1
    weights.write_bytes(data)
    with packed(model) as over, pytest.raises(BadCheckpoint, match="not what was written"):
        over.verify()
    assert stored.verify(name).packed is False
    assert stored.verify(name).packed is None
    packed(model).close()
    assert stored.verify(name).packed is True


def test_rm_takes_the_packed_form_with_it_and_leaves_the_file(model: Path) -> None:
    name, _ = stored.import_path(model)
    packed(model).close()
    size = packed_copies.size_of(model)
    assert stored.rm(name).freed_bytes == size > 0
    assert not folder_of(model).exists()
    assert model.exists()


def test_a_model_run_by_its_path_is_listed_and_freed(model: Path, tmp_path: Path) -> None:
    packed(model).close()
    [copy] = stored.nameless()
    assert (copy.place, copy.size_bytes) == (model.resolve(), packed_copies.size_of(model)) and copy.size_bytes > 0
    assert stored.verify(str(model)).packed is True
    with pytest.raises(NotFound, match="nothing of it is in the store"):
        stored.rm(str(GGUF / "llama-q4_0.gguf"))
    size = copy.size_bytes
    removed = stored.rm(str(model))
    assert (removed.freed_bytes, removed.kept) == (size, (model.resolve(),))
    assert not stored.nameless() and model.exists()

    packed(model).close()
    name, _ = stored.import_path(model)
    assert not stored.nameless(), "it has a name"
    with pytest.raises(UsageError, match=f"herd rm {name}"):
        stored.rm(str(model))
    stored.rm(name)
    assert not packed_copies.copies()


def test_what_is_left_of_a_model_that_is_gone_is_freed_by_its_old_path(model: Path, tmp_path: Path) -> None:
    packed(model).close()
    model.unlink()
    [copy] = stored.nameless()
    assert copy.place == tmp_path / model.name
    size = copy.size_bytes
    assert stored.rm(str(model)) == stored.Removed(str(model), size, (), by_path=True)
    assert not packed_copies.copies()


def test_a_folder_that_holds_one_gguf_has_its_packed_form(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model.rename(folder / model.name)
    packed(folder).close()
    assert packed_copies.size_of(folder) == packed_copies.size_of(folder / model.name) > 0
    name, _ = stored.import_path(folder)
    assert not stored.nameless()
    assert stored.rm(name).freed_bytes > 0 and not packed_copies.copies()
    packed(folder).close()
    assert stored.rm(str(folder)).freed_bytes > 0 and not packed_copies.copies()


def test_forms_that_do_not_say_of_what_they_are_keep_their_place(model: Path) -> None:
    """Packed before the place was written down: it follows from the files; where nothing is said, the folder is it."""
    packed(model).close()
    source = folder_of(model) / packed_copies.SOURCE
    told = json.loads(source.read_text())
    assert told.pop("place") == str(model.resolve())
    source.write_text(json.dumps(told))
    assert [c.place for c in packed_copies.copies()] == [model.resolve()]
    before = stamp(folder_of(model))
    packed(model).close()
    assert stamp(folder_of(model)) == before, "it is not packed again for that"
    source.write_text("{")
    assert [c.place for c in packed_copies.copies()] == [folder_of(model)]
    assert packed_copies.size_of(model) > 0
    assert stored.rm(str(folder_of(model))).kept == ()
    assert not packed_copies.copies()


def test_a_disk_too_small_leaves_the_model_as_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))  # type: ignore[attr-defined]
    over = packed(model)
    assert not isinstance(over, PackedOver)
    assert over.load().blocks
    [record] = caplog.records
    message = record.getMessage()
    assert "0.00 GB are free" in message
    assert "--no-pack" in message
    assert not list(folder_of(model).parent.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_store_that_cannot_be_written_leaves_the_model_as_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def broken(*args: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("herd.checkpoint.packed.shards.Shards._opened", broken)
    assert not isinstance(packed(model), PackedOver)
    assert "used as it is" in caplog.text
    assert not list(folder_of(model).parent.iterdir())


def test_what_a_killed_run_left_and_forms_without_a_model_are_swept(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    shutil.copyfile(GGUF / "llama-q4_0.gguf", other)
    packed(other).close()
    other.unlink()
    away = tmp_path / "disk" / "away.gguf"
    away.parent.mkdir()
    shutil.copyfile(GGUF / "llama-q4_0.gguf", away)
    packed(away).close()
    away.parent.rename(tmp_path / "unplugged")
    left = folder_of(model).with_name(f".{folder_of(model).name}.0123456789ab.part")
    left.mkdir()
    packed(model).close()
    assert {p.name for p in folder_of(model).parent.iterdir()} == {folder_of(model).name, folder_of(away).name}


def test_two_at_once_pack_once(model: Path) -> None:
    """flock is held by an open file, so threads wait for each other as processes do."""
    made: list[Checkpoint] = []
    threads = [threading.Thread(target=lambda: made.append(packed(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for over in made:
        assert isinstance(over, PackedOver)
        over.check_unchanged()  # all look into the same files: none was made twice
        over.close()


def test_another_process_finds_it_and_maps_the_same_bits(model: Path) -> None:
    with packed(model) as over:
        want: Any = over.source().matrix("model.layers.0.self_attn.o_proj", 64, 64)
        code = (
            "import sys, hashlib; from herd.checkpoint import open_checkpoint\n"
            "from herd.store.auto_pack import packed_for\n"
            "n = packed_for(open_checkpoint(sys.argv[1])).source().matrix('model.layers.0.self_attn.o_proj', 64, 64)\n"
            "print(n.layout, hashlib.sha256(n.codes.tobytes()).hexdigest())"
        )
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        done = subprocess.run([sys.executable, "-c", code, str(model)], capture_output=True, text=True, env=env)
        import hashlib

        assert done.stdout.split() == ["strips", hashlib.sha256(want.codes.tobytes()).hexdigest()], done.stderr


def test_large_models_tell_what_is_done(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    packed(model, progress=lambda *what: told.append(what)).close()
    assert not told
    shutil.rmtree(registry.home())
    monkeypatch.setattr("herd.store.auto_pack.LARGE", 1)
    packed(model, progress=lambda *what: told.append(what)).close()
    assert {what for what, _, _ in told} == {"packing llama4-q4_k.gguf once"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == told[-1][2]
    assert all(done < total for _, done, total in told[:-1])


def test_which_files_it_was_made_from_is_written_down(model: Path) -> None:
    with packed(model) as over:
        assert isinstance(over, PackedOver)
    state = json.loads((folder_of(model) / "source.json").read_text())
    assert [f["path"] for f in state["files"]] == [str(model)]
    assert state["files"][0]["size"] == model.stat().st_size


def test_strips_are_what_the_rule_makes_of_the_files_rows(model: Path) -> None:
    with open_checkpoint(model) as own, packed(model) as over:
        for w in walk(own.config):
            if w.kind == "matrix" and w.name.endswith("o_proj"):
                a, b = (x.source().matrix(w.name, *w.shape) for x in (own, over))
                assert np.array_equal(strips.to_strips(a.format, a.codes), b.codes)


@pytest.mark.parametrize("name", ["llama-q4_0", "llama4-q4_1", "llama4-q8_0", "llama4-q4_k", "llama-q6_k"])
def test_a_packed_model_gives_the_same_bits(name: str) -> None:
    """Whether the disk had room for the packed form decides the speed, not the answer."""
    ops, ids = op_set("native"), np.arange(12) + 40
    found = []
    for pack in (False, True):
        with packed(GGUF / f"{name}.gguf", pack=pack) as checkpoint:
            assert isinstance(checkpoint, PackedOver) == pack
            model = place_weights(ops, checkpoint.load())
            context = ops.place(one_after_another([len(ids)], checkpoint.config.chunk))
            found.append(np.array(forward(ops, checkpoint.config, model, ids, context)))
    assert np.array_equal(*found)
