"""Herd's packed form: what is written is read bit for bit, mapped; runs that end early leave nothing false behind."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT
from herd import formats
from herd.checkpoint import RandomSource, open_checkpoint
from herd.checkpoint.check_finite import check_source
from herd.checkpoint.opened import HfCheckpoint
from herd.checkpoint.packed.form import KEY, PAD, halves
from herd.checkpoint.packed.write import PackedWriter
from herd.checkpoint.strip_pieces import StripRows, strip_pieces
from herd.checkpoint.walk import walk
from herd.config import TINY, Llama4Config
from herd.containers.safetensors import SafeFile
from herd.errors import BadCheckpoint, DoesNotFit, UsageError
from herd.formats import strips
from herd.weights import Packed, Pair, Source
from weight_sources import ask, assert_same

GGUF = Path(__file__).parent.parent / "fixtures" / "gguf"
TYPES = ("q4_0", "q4_1", "q8_0", "q4_k", "q6_k")


def write(target: Path, config: Llama4Config, source: Source, **options: Any) -> None:
    with PackedWriter(target, config, **options) as out:
        for w in walk(config):
            if not out.has(w.name):
                out.put(w.name, ask(source, w))


class Failing:
    """A source whose sixth matrix does not come."""

    def __init__(self, source: Source, problem: BaseException) -> None:
        self.vector, self.experts = source.vector, source.experts
        self._matrix, self._problem, self._left = source.matrix, problem, 5

    def matrix(self, *args: Any, **options: Any) -> Any:
        if not self._left:
            raise self._problem
        self._left -= 1
        return self._matrix(*args, **options)


@pytest.mark.parametrize("family", ["llama", "llama4"])
@pytest.mark.parametrize("type_", TYPES)
def test_a_gguf_comes_back_bit_for_bit_as_mapped_strips(tmp_path: Path, family: str, type_: str) -> None:
    with open_checkpoint(GGUF / f"{family}-{type_}.gguf") as gguf:
        write(tmp_path / "m", gguf.config, gguf.source())
        with open_checkpoint(tmp_path / "m") as packed:
            assert packed.config.layers == gguf.config.layers
            kinds = set()
            for w in walk(gguf.config):
                node = ask(packed.source(), w)
                assert_same(ask(gguf.source(), w), node)
                for part in (node.gate, node.up) if isinstance(node, Pair) else (node,):
                    if isinstance(part, Packed):
                        kinds.add(part.format)
                        assert part.layout == "strips"
                        assert not part.codes.flags.owndata
                        assert part.codes.ctypes.data % 64 == 0
            assert type_ in kinds
            assert isinstance(packed, HfCheckpoint)
            assert packed.types()[type_] > 0
            assert packed.check_digests()


@pytest.mark.parametrize("config", [TINY, TINY_TEXT, TINY_DENSE], ids=["vision", "text", "dense"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_float_models_keep_their_bits(tmp_path: Path, config: Llama4Config, dtype: str) -> None:
    source = RandomSource(config, 3, dtype)
    write(tmp_path / "m", config, source)
    with open_checkpoint(tmp_path / "m") as packed:
        for w in walk(config):
            assert_same(ask(source, w), ask(packed.source(), w))
        check_source(packed.path, packed.config, packed.source())


def test_another_reader_of_safetensors_finds_the_same_tensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    with open_checkpoint(GGUF / "llama4-q8_0.gguf") as gguf:
        write(tmp_path / "m", gguf.config, gguf.source(), shard_bytes=100_000)
        files = sorted((tmp_path / "m").glob("model-*.safetensors"))
        assert len(files) > 1
        node: Any = gguf.source().matrix("lm_head", gguf.config.vocab_size, gguf.config.width)
        index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
        with safetensors.safe_open(tmp_path / "m" / index["lm_head.weight"], "np") as file:
            table = json.loads(file.metadata()[KEY])["lm_head.weight"]
            assert table == {"format": "q8_0", "shape": list(node.shape), "layout": "strips"}
            assert np.array_equal(file.get_tensor("lm_head.weight"), strips.to_strips("q8_0", node.codes))


def test_a_packed_model_converts_back_to_the_same_gguf_tensors(tmp_path: Path) -> None:
    from herd.containers.gguf import open_gguf
    from herd.convert import convert

    with open_checkpoint(GGUF / "llama4-q4_0.gguf") as gguf:
        write(tmp_path / "m", gguf.config, gguf.source())
        convert(tmp_path / "m", tmp_path / "again.gguf")
        again = open_gguf(tmp_path / "again.gguf")
        for name, info in gguf.reader.tensors.items():  # type: ignore[attr-defined]
            assert again.info(name).format == info.format
            assert np.array_equal(again.raw(name), gguf.reader.raw(name)), name  # type: ignore[attr-defined]
        convert(gguf.path, tmp_path / "a", "f32")
        convert(tmp_path / "m", tmp_path / "b", "f32")
        for a, b in zip(*(SafeFile(tmp_path / x / "model.safetensors").entries for x in "ab"), strict=True):
            assert a == b
        left, right = (SafeFile(tmp_path / x / "model.safetensors") for x in "ab")
        assert all(np.array_equal(left.array(n), right.array(n)) for n in left.entries)


@pytest.mark.parametrize("outputs", [1, 16, 40, 77])
@pytest.mark.parametrize("cut", [1, 7, 16, 1000])
def test_rows_cut_anywhere_become_the_same_strips(monkeypatch: pytest.MonkeyPatch, outputs: int, cut: int) -> None:
    monkeypatch.setattr("herd.checkpoint.strip_pieces.PIECE_BYTES", 34 * 2 * 16)
    codes = formats.encode("q8_0", np.random.default_rng(0).standard_normal((3, outputs, 64)))
    flat = codes.reshape(-1, codes.shape[-1])
    pieces = (flat[i : i + cut] for i in range(0, len(flat), cut))
    got = np.concatenate(list(strip_pieces("q8_0", (3, outputs, 64), pieces)))
    want = strips.to_strips("q8_0", codes)
    assert np.array_equal(got.reshape(want.shape), want)
    view = StripRows("q8_0", want, outputs)
    for start in (0, 1, 15, 16, outputs - 1):
        for stop in (start + 1, start + 17, outputs):
            assert np.array_equal(view[1][start:stop], codes[1, start:stop])
    assert np.array_equal(view[2][:, 34:68], codes[2, :, 34:68])


@pytest.mark.parametrize("change", [-1, 1])
def test_rows_that_are_too_many_or_too_few_are_refused(change: int) -> None:
    codes = formats.encode("q8_0", np.zeros((40 + change, 64)))
    with pytest.raises(BadCheckpoint, match=f"got {40 + change} rows, expected 40"):
        list(strip_pieces("q8_0", (40, 64), [codes]))


# -- runs that end early ------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from herd.checkpoint import RandomSource
from herd.checkpoint.packed.write import PackedWriter
from herd.checkpoint.walk import walk
from helpers import TINY_TEXT as c
source = RandomSource(c, 3)
with PackedWriter(sys.argv[1], c, job={"type": "f32"}, resume=True, shard_bytes=100_000) as out:
    for i, w in enumerate(walk(c)):
        if i == 12:
            print("ready", flush=True)
            time.sleep(60)
        ask = {"vector": source.vector, "matrix": source.matrix, "experts": source.experts}[w.kind]
        out.put(w.name, ask(w.name, *((w.shape,) if w.kind == "vector" else w.shape)))
"""


def killed_run(target: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(target)], stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    killed_run(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    [work] = tmp_path.iterdir()
    journal = work / "herd.journal"
    with journal.open("ab") as file:
        file.write(b'{"name":"model.layers.1.self_a')  # the line that was being written
    with (work / "model-00001.safetensors").open("ab") as file:
        file.write(bytes(4096))  # half a tensor
    source = RandomSource(TINY_TEXT, 3)
    asked = []
    with PackedWriter(tmp_path / "m", TINY_TEXT, job={"type": "f32"}, resume=True, shard_bytes=100_000) as out:
        for w in walk(TINY_TEXT):
            if not out.has(w.name):
                asked.append(w.name)
                out.put(w.name, ask(source, w))
    assert asked == [w.name for w in walk(TINY_TEXT)][12:]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    write(tmp_path / "whole", TINY_TEXT, source, shard_bytes=100_000)
    for path in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "m" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_tensor_whose_bytes_are_gone_is_done_again(tmp_path: Path) -> None:
    killed_run(tmp_path / "m")
    [work] = tmp_path.iterdir()
    files = sorted(work.glob("*.safetensors"))
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size - 1)
    write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 3), job={"type": "f32"}, resume=True, shard_bytes=100_000)
    with open_checkpoint(tmp_path / "m") as packed:
        for w in walk(TINY_TEXT):
            assert_same(ask(RandomSource(TINY_TEXT, 3), w), ask(packed.source(), w))


def test_another_job_is_refused_with_the_difference_and_nothing_is_removed(tmp_path: Path) -> None:
    killed_run(tmp_path / "m")
    with pytest.raises(UsageError, match="got type f32, expected type q4_k"):
        write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT), job={"type": "q4_k"}, resume=True)
    [work] = tmp_path.iterdir()
    assert (work / "herd.journal").stat().st_size > 1000
    other = replace(TINY_TEXT, rope_theta=77_777.0)
    with pytest.raises(UsageError, match="config"):
        write(tmp_path / "m", other, RandomSource(other), job={"type": "f32"}, resume=True)


def test_without_resume_a_killed_run_is_swept_away(tmp_path: Path) -> None:
    killed_run(tmp_path / "m")
    write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 4))
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_keeps_what_is_finished_only_where_it_can_be_resumed(tmp_path: Path, resume: bool) -> None:
    source = RandomSource(TINY_TEXT, 3)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "m", TINY_TEXT, Failing(source, KeyboardInterrupt()), resume=resume)
    assert len(list(tmp_path.iterdir())) == int(resume)
    write(tmp_path / "m", TINY_TEXT, source, resume=resume)
    assert open_checkpoint(tmp_path / "m").verify()


def test_two_writers_of_one_target_do_not_mix(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "m", TINY_TEXT) as first:
        with pytest.raises(UsageError, match="is being written by another process"):
            write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT))
        for w in walk(TINY_TEXT):
            first.put(w.name, ask(RandomSource(TINY_TEXT, 3), w))
    assert open_checkpoint(tmp_path / "m").verify()


@pytest.mark.parametrize("resume", [True, False])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("kept")

    full = Failing(RandomSource(TINY_TEXT), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(DoesNotFit, match=r"the disk is full \(No space left on device\)"):
        write(tmp_path / "m", TINY_TEXT, full, overwrite=True, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "old").read_text() == "kept"


def test_a_disk_too_small_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFit, match="needs 1000000000"):
        write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT), needed_bytes=10**18)
    assert not list(tmp_path.iterdir())


def test_a_missing_tensor_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="tensors were not given"), PackedWriter(tmp_path / "m", TINY_TEXT) as out:
        out.put("model.norm.weight", np.ones(TINY_TEXT.width, np.float32))
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 1))
    with pytest.raises(UsageError, match="exists already"):
        write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 2))
    write(tmp_path / "m", TINY_TEXT, RandomSource(TINY_TEXT, 2), overwrite=True)
    [m] = tmp_path.iterdir()
    with open_checkpoint(m) as packed:
        got = packed.source().vector("model.norm.weight", (TINY_TEXT.width,))
        assert np.array_equal(got, RandomSource(TINY_TEXT, 2).vector("model.norm.weight", (TINY_TEXT.width,)))


@pytest.mark.slow
def test_the_time_to_open_does_not_grow_with_the_weights(tmp_path: Path) -> None:
    """Memory too: what opening takes is headers, whatever the file holds."""
    import resource

    def opening_s(folder: Path) -> float:
        """Of a processor."""
        began_s = time.process_time()
        with open_checkpoint(folder) as packed:
            packed.load()
        return time.process_time() - began_s

    big = replace(TINY_TEXT, vocab_size=1 << 15, width=1024)
    write(tmp_path / "small", TINY_TEXT, RandomSource(TINY_TEXT, 3))
    write(tmp_path / "m", big, RandomSource(big, 3))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    small_s, big_s = (min(opening_s(tmp_path / name) for _ in range(5)) for name in ("small", "m"))
    assert big_s < 5 * small_s, "as many tensors, of 500 times the bytes"
    with open_checkpoint(tmp_path / "m") as packed:
        packed.load()
        assert packed.size_bytes > 1 << 28
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# -- files that lie -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "m"
    with open_checkpoint(GGUF / "llama4-q8_0.gguf") as gguf:
        write(folder, gguf.config, gguf.source())
    return folder


def lying(good: Path, folder: Path, change: Any) -> Path:
    """A copy of the good folder whose header `change` has been at."""
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "model-00001.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    table = json.loads(header["__metadata__"][KEY])
    table = change(table, header) or table
    header["__metadata__"][KEY] = table if isinstance(table, str) else json.dumps(table)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    return folder


Q = "model.layers.0.self_attn.k_proj.weight"
GATE = halves("model.layers.1.feed_forward.experts.gate_up_proj")[0]
NORM = "model.norm.weight"

LIES: dict[str, tuple[Any, str]] = {
    "unknown format": (lambda t, h: t[Q].update(format="q9_z"), "format in strips: got q9_z"),
    "format a list": (lambda t, h: t[Q].update(format=["q8_0"]), "format in strips"),
    "a float format in strips": (lambda t, h: t[Q].update(format="f32"), "format in strips: got f32"),
    "another format": (lambda t, h: t[Q].update(format="q4_0"), "the tensor: got U8"),
    "unknown layout": (lambda t, h: t[Q].update(layout="tiles"), "layout: got tiles"),
    "layout a number": (lambda t, h: t[Q].update(layout=3), "layout: got 3"),
    "rows of a block format": (lambda t, h: t[Q].update(layout="rows"), "format in rows: got q8_0"),
    "another shape": (lambda t, h: t[Q].update(shape=[64, 64]), "the tensor: got U8"),
    "outputs transposed with inputs": (lambda t, h: t[Q]["shape"].reverse(), "the tensor: got U8"),
    "fewer outputs in the last strip": (
        lambda t, h: t[Q].update(shape=[t[Q]["shape"][0] - 1, t[Q]["shape"][1]]), "shape of model.layers.0",
    ),
    "a shape of zero": (lambda t, h: t[Q].update(shape=[0, 64]), "shape"),
    "a negative shape": (lambda t, h: t[Q].update(shape=[-16, 64]), "shape"),
    "a shape of fractions": (lambda t, h: t[Q].update(shape=[64.0, 64]), "shape"),
    "a shape of true": (lambda t, h: t[Q].update(shape=[True, 64]), "shape"),
    "a huge shape": (lambda t, h: t[Q].update(shape=[1 << 62, 1 << 62]), "shape"),
    "one axis": (lambda t, h: t[Q].update(shape=[4096]), "1 axes"),
    "five axes": (lambda t, h: t[Q].update(shape=[1] * 5), "5 axes"),
    "half a block": (lambda t, h: t[Q].update(shape=[64, 63]), "63 weights"),
    "a key too many": (lambda t, h: t[Q].update(more=1), "expected format, shape and layout"),
    "a key too few": (lambda t, h: t[Q].pop("layout") and None, "expected format, shape and layout"),
    "an entry a string": (lambda t, h: t.update({Q: "q8_0"}), "expected format, shape and layout"),
    "a tensor that is not there": (lambda t, h: t.update({"nobody": t[Q]}), "does not hold: got nobody"),
    "a tensor without an entry": (lambda t, h: t.pop(Q) and None, "does not say what it holds"),
    "no table": (lambda t, h: "{}", "does not say what it holds"),
    "a table that is no JSON": (lambda t, h: "{", "not JSON"),
    "a table nested deep": (lambda t, h: '{"a":' * 1000 + "1" + "}" * 1000, "nested"),
    "a table of a list": (lambda t, h: "[]", "expected an object"),
    "a norm said to be packed": (
        lambda t, h: t.update({NORM: {"format": "f32", "shape": h[NORM]["shape"], "layout": "rows"}}), "1 axes",
    ),
    "an expert stack as a matrix": (
        lambda t, h: t[GATE].update(shape=[t[GATE]["shape"][0] * t[GATE]["shape"][1], t[GATE]["shape"][2]]),
        "the tensor: got U8",
    ),
    "two tensors on the same bytes": (
        lambda t, h: h[Q].update(data_offsets=h[Q.replace("k_proj", "o_proj")]["data_offsets"]), "overlap|hole|bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lie_are_refused_in_one_line(tmp_path: Path, good: Path, lie: str) -> None:
    change, message = LIES[lie]
    with pytest.raises(BadCheckpoint, match=message) as caught:
        open_checkpoint(lying(good, tmp_path / "m", change)).load()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_pad_that_is_large_hides_nothing(tmp_path: Path, good: Path) -> None:
    def rename(table: dict[str, Any], header: dict[str, Any]) -> None:
        del table[Q]
        header[PAD + "9"] = header.pop(Q)

    folder = lying(good, tmp_path / "m", rename)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(Q, PAD + "9"))
    with pytest.raises(BadCheckpoint, match="expected under 64 bytes of U8"):
        open_checkpoint(folder)


def test_the_unchanged_copy_is_good(tmp_path: Path, good: Path) -> None:
    """So that the lies above are refused for what they say."""
    open_checkpoint(lying(good, tmp_path / "m", lambda t, h: None)).load()


def test_another_version_is_refused(tmp_path: Path, good: Path) -> None:
    folder = lying(good, tmp_path / "m", lambda t, h: None)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="version of Herd's packed form: got 2, expected 1"):
        open_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 7, 4000, 9000, -1])
def test_a_cut_file_is_refused(tmp_path: Path, good: Path, keep: int) -> None:
    folder = lying(good, tmp_path / "m", lambda t, h: None)
    file = folder / "model-00001.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BadCheckpoint):
        open_checkpoint(folder)


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path, good: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    file = folder / "model-00001.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(BadCheckpoint, match="the content is not what was written"):
        open_checkpoint(folder).verify()
