"""The GGUF reader on sound files: against the gguf package's reader, and by hand."""

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from gguf_bytes import BOOL, F32, STRING, U64, array, gguf, key, string, tensor, text, u32
from herd.containers.gguf import open_gguf
from herd.errors import BadCheckpoint, NotFound

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gguf"
FILES = sorted(FIXTURES.glob("*.gguf"))


def write(folder: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_keys_and_tensors_are_those_that_the_gguf_package_reads(path):
    peer = pytest.importorskip("gguf").GGUFReader(str(path))
    ours = open_gguf(path)
    theirs = {name: f.contents() for name, f in peer.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.keys) == list(theirs)
    for name, value in theirs.items():
        got = ours.keys[name]
        assert (got.tolist() if isinstance(got, np.ndarray) else got) == value, name
    assert list(ours.tensors) == [t.name for t in peer.tensors]
    for t in peer.tensors:
        info = ours.tensors[t.name]
        assert info.format == t.tensor_type.name.lower()
        assert info.shape == tuple(int(n) for n in reversed(t.shape))
        assert info.start == t.data_offset
        np.testing.assert_array_equal(
            ours.raw(t.name).reshape(-1), np.ascontiguousarray(t.data).view(np.uint8).reshape(-1)
        )


def test_nothing_is_copied_and_nothing_can_be_written():
    file = open_gguf(FIXTURES / "llama4-q4_0.gguf")
    raw = file.raw("blk.1.ffn_down_exps.weight")
    assert raw.shape == (4, 64, 18)
    assert not raw.flags.writeable
    assert not raw.flags.owndata
    norm = file.array("output_norm.weight")
    assert norm.dtype == np.float32
    assert not norm.flags.owndata
    bf16 = open_gguf(FIXTURES / "llama-bf16.gguf").array("blk.0.attn_q.weight")
    assert (bf16.dtype, bf16.shape) == (np.uint16, (64, 64))


def test_views_outlive_the_file_object():
    raw = open_gguf(FIXTURES / "llama-q8_0.gguf").raw("output.weight")
    assert raw.shape == (320, 68)
    assert raw.any()


def test_every_type_of_key_comes_back(tmp_path):
    scalars = {
        "u8": (0, "<B", 200), "i8": (1, "<b", -100), "u16": (2, "<H", 60000), "i16": (3, "<h", -30000),
        "u32": (4, "<I", 4_000_000_000), "i32": (5, "<i", -2_000_000_000), "f32": (6, "<f", 0.5),
        "bool": (7, "<?", True), "u64": (10, "<Q", 1 << 63), "i64": (11, "<q", -(1 << 62)), "f64": (12, "<d", 0.1),
    }  # fmt: skip
    keys = [key(name, kind, struct.pack(code, value)) for name, (kind, code, value) in scalars.items()]
    keys += [
        array("many." + name, kind, 3, struct.pack(code, value) * 3) for name, (kind, code, value) in scalars.items()
    ]
    keys += [text("words", "Grüße, 世界"), array("list", STRING, 3, string("a") + string("") + string("Ġb"))]
    keys += [array("none", STRING, 0, b""), array("no.numbers", U64, 0, b"")]
    for version in (2, 3):
        got = open_gguf(write(tmp_path, gguf(keys, version=version))).keys
        for name, (_, _, value) in scalars.items():
            assert got[name] == value
            assert type(got[name]) is type(value)
            assert got["many." + name].tolist() == [value] * 3
        assert got["words"] == "Grüße, 世界"
        assert got["list"] == ["a", "", "Ġb"]
        assert got["none"] == []
        assert len(got["no.numbers"]) == 0
        assert got.get("absent") is None


def test_alignment_moves_the_data(tmp_path):
    for alignment in (8, 32, 256, 65536):
        keys = [u32("general.alignment", alignment)]
        tensors = [tensor("a", (4,)), tensor("b", (4,), offset=max(16, alignment))]
        content = bytearray(gguf(keys, tensors, alignment=alignment))
        content += struct.pack("<4f", 1, 2, 3, 4).ljust(max(16, alignment), b"\0") + struct.pack("<4f", 5, 6, 7, 8)
        file = open_gguf(write(tmp_path, bytes(content)))
        assert file.array("b").tolist() == [5, 6, 7, 8]
        assert file.info("a").start % alignment == 0


def test_a_chat_template_is_text_and_stays_text(tmp_path):
    evil = "{% for x in ().__class__.__base__.__subclasses__() %}{{ x('touch /tmp/owned') }}{% endfor %}"
    file = open_gguf(write(tmp_path, gguf([text("tokenizer.chat_template", evil)])))
    assert file.keys["tokenizer.chat_template"] == evil
    package = Path(__file__).parent.parent.parent / "src" / "herd"
    importers = [p for p in package.rglob("*.py") if "import jinja2" in p.read_text() or "from jinja2" in p.read_text()]
    assert importers == []


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"no file .*nothing\.gguf"):
        open_gguf(tmp_path / "nothing.gguf")


# -- a file that changes while it is open ---------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copy(FIXTURES / "llama-q4_0.gguf", tmp_path))


def test_an_unchanged_file_passes(copy):
    file = open_gguf(copy)
    file.check_unchanged()
    file.raw("output.weight")


def test_a_shrunk_file_is_detected_at_the_next_access(copy):
    file = open_gguf(copy)
    os.truncate(copy, 100)
    uses = (
        file.check_unchanged,
        lambda: file.raw("output.weight"),
        lambda: file.array("output_norm.weight"),
        lambda: file.keys["tokenizer.ggml.tokens"],  # would be SIGBUS, as the head is gone
    )
    for use in uses:
        with pytest.raises(BadCheckpoint, match=r"changed while in use: got \d+ bytes, expected the same file"):
            use()


def test_a_rewritten_file_is_detected_by_its_time(copy):
    file = open_gguf(copy)
    with copy.open("r+b") as f:
        f.seek(-1, 2)
        f.write(b"x")
    os.utime(copy, ns=(1, 1))
    with pytest.raises(BadCheckpoint, match="changed while in use"):
        file.check_unchanged()


def test_a_replaced_file_is_detected_by_its_inode(copy, tmp_path):
    file = open_gguf(copy)
    before = copy.stat()
    other = Path(shutil.copy(copy, tmp_path / "other"))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(copy)
    with pytest.raises(BadCheckpoint, match="changed while in use"):
        file.check_unchanged()


def test_a_removed_file_is_detected(copy):
    file = open_gguf(copy)
    copy.unlink()
    with pytest.raises(BadCheckpoint, match="gone while in use"):
        file.check_unchanged()


# -- a model in parts -----------------------------------------------------------------------------------------------


def parts(folder: Path, numbers=(0, 1, 2), count=3, names=(1, 2, 3), total=3) -> list[Path]:
    found = []
    for number, name in zip(numbers, names, strict=True):
        keys = [text("general.architecture", "llama")] if number == 0 else []
        keys += [key("split.no", 2, struct.pack("<H", number)), key("split.count", 2, struct.pack("<H", count))]
        keys += [key("split.tensors.count", 5, struct.pack("<i", total))]
        content = gguf(keys, [tensor(f"t{number}", (8,))]) + struct.pack("<8f", *[number] * 8)
        found.append(write(folder, content, f"m-{name:05}-of-{count:05}.gguf"))
    return found


def test_a_split_model_opens_by_any_part(tmp_path):
    for path in parts(tmp_path):
        file = open_gguf(path)
        assert file.keys["general.architecture"] == "llama"
        assert list(file.tensors) == ["t0", "t1", "t2"]
        assert file.array("t2").tolist() == [2.0] * 8
        assert file.num_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_a_split_model_with_a_missing_part_names_it(tmp_path):
    found = parts(tmp_path)
    found[1].unlink()
    with pytest.raises(BadCheckpoint, match=r"m-00002-of-00003\.gguf: part 2 of 3 is missing"):
        open_gguf(found[0])


def test_a_renamed_part_is_refused_with_the_name_it_needs(tmp_path):
    path = parts(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(BadCheckpoint, match=r"one of 3 parts under another name.*NAME-00001-of-00003\.gguf"):
        open_gguf(path)


def test_swapped_parts_are_refused(tmp_path):
    found = parts(tmp_path, names=(2, 1, 3))
    with pytest.raises(BadCheckpoint, match=r"split\.no and split\.count do not fit its name"):
        open_gguf(found[0])


def test_parts_that_share_a_tensor_or_lack_one_are_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match=r"split\.tensors\.count: got 3, expected 4"):
        open_gguf(parts(tmp_path, total=4)[0])
    found = parts(tmp_path)
    again = found[1].read_bytes().replace(b"t1", b"t0")
    found[1].write_bytes(again)
    with pytest.raises(BadCheckpoint, match="tensor t0 stands in two parts"):
        open_gguf(found[0])


@pytest.mark.parametrize("value", [key("split.count", BOOL, b"\1"), key("split.count", F32, struct.pack("<f", 2)),
                                   u32("split.count", 100_000), text("split.count", "2")])  # fmt: skip
def test_a_strange_split_count_is_refused(tmp_path, value):
    with pytest.raises(BadCheckpoint, match=r"split\.count: got .*, expected 0 to 1024"):
        open_gguf(write(tmp_path, gguf([value])))
