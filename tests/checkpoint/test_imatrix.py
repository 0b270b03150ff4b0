"""Importance matrices in llama.cpp's two forms: read, written, and what they do to the error."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TINY_TEXT, hf_folder
from herd.checkpoint import open_checkpoint
from herd.checkpoint.gguf.imatrix import Imatrix, InputSums, read_imatrix, write_imatrix
from herd.config import Llama4Config
from herd.containers.gguf import open_gguf
from herd.convert import convert
from herd.errors import BadCheckpoint, HerdError, NotFound, UsageError
from herd.passes.imatrix import imatrix_of, load_importances
from herd.quantize import quantize

CONFIG = replace(TINY_TEXT, width=256, expert_width=256, dense_width=256, num_layers=2, num_heads=2, num_kv_heads=1)
Q, DOWN = "blk.0.attn_q.weight", "blk.1.ffn_down_exps.weight"
TEXT = "The keeper wrote the weather down every evening. " * 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_folder(tmp_path_factory.mktemp("source") / "m", CONFIG)


def sums() -> dict[str, tuple[Any, Any]]:
    """Squares [matrices, I] and counts; one expert was never reached."""
    rng = np.random.default_rng(3)
    E, F = CONFIG.num_experts, CONFIG.expert_width
    counts = np.array([700.0, 0, 3, 20], np.float32)
    return {
        Q: (100 * rng.random((1, 256), np.float32) ** 8, np.array([512.0], np.float32)),
        DOWN: (rng.random((E, F), np.float32) * counts[:, None], counts),
    }


def as_gguf(path: Path, tensors: dict[str, tuple[Any, Any]]) -> Path:
    """As llama.cpp writes it, by the gguf package."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # it names no architecture
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array(gguf.Keys.IMatrix.DATASETS, ["pages.txt"])
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_COUNT, 2)
    writer.add_uint32(gguf.Keys.IMatrix.CHUNK_SIZE, 512)
    for name, (squares, counts) in tensors.items():
        writer.add_tensor(name + ".in_sum2", squares)
        writer.add_tensor(name + ".counts", counts.reshape(-1, 1))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def as_binary(path: Path, tensors: dict[str, tuple[Any, Any]], calls: int = 5) -> Path:
    """The older form: means times calls, 1 for what was never reached."""
    parts = [struct.pack("<i", len(tensors))]
    for name, (squares, counts) in tensors.items():
        means = np.where(counts[:, None] > 0, squares / np.maximum(counts, 1)[:, None], 1).astype("<f4")
        values = means * np.float32(calls)
        parts.append(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size))
        parts.append(values.tobytes())
    parts.append(struct.pack("<ii", calls, 9) + b"pages.txt")
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("form", [as_gguf, as_binary])
def test_both_forms_give_the_means_of_the_text(tmp_path: Path, form: Any) -> None:
    found, notes = load_importances(form(tmp_path / "i", sums()), CONFIG)
    squares, counts = sums()[DOWN]
    stack = "model.layers.1.feed_forward.experts.down_proj"
    assert {e for name, e in found.experts if name == stack} == {0, 2, 3}
    for e in (0, 2, 3):
        np.testing.assert_allclose(found.experts[stack, e].mean, squares[e] / counts[e], rtol=1e-6)
    q = found.of("model.layers.0.self_attn.q_proj")
    np.testing.assert_allclose(q, np.maximum(sums()[Q][0][0] / sums()[Q][0].mean(), 1e-6), rtol=1e-5)
    assert len(notes) == 1
    assert "says nothing of" in notes[0]


def test_what_is_written_is_what_the_gguf_package_and_llama_cpp_expect(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = {name: InputSums(*pair) for name, pair in sums().items()}
    write_imatrix(tmp_path / "i.gguf", Imatrix(tensors, ("a.txt", "b.txt"), 7, 512))
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert keys == {
        "general.type": "imatrix", "imatrix.datasets": ["a.txt", "b.txt"], "imatrix.chunk_count": 7,
        "imatrix.chunk_size": 512,
    }  # fmt: skip
    by_name = {t.name: t for t in reader.tensors}
    for name, (squares, counts) in sums().items():
        assert by_name[name + ".counts"].shape.tolist() == [1, len(counts)]  # innermost first
        assert np.array_equal(by_name[name + ".in_sum2"].data, squares)
        assert np.array_equal(by_name[name + ".counts"].data.reshape(-1), counts)
    again = read_imatrix(tmp_path / "i.gguf")
    assert (again.datasets, again.chunks, again.chunk_size) == (("a.txt", "b.txt"), 7, 512)


def weighted_error(path: Path, tensor: str, weights: Any, model: Path) -> float:
    """Sum of w e^2 over all rows in float64, decoded by the gguf package."""
    quants = pytest.importorskip("gguf.quants")
    gguf = pytest.importorskip("gguf")
    with open_checkpoint(model) as checkpoint:
        node: Any = checkpoint.source().matrix("model.layers.0.self_attn.q_proj", 64, CONFIG.width)
        exact = np.array(node.w, np.float64)
    info = open_gguf(path).info(tensor)
    kind = gguf.GGMLQuantizationType[info.format.upper()]
    made = quants.dequantize(open_gguf(path).raw(tensor), kind).astype(np.float64)
    return float((np.square(made - exact) * weights).sum())


@pytest.mark.parametrize(("make", "type"), [("convert", "q4_k"), ("quantize", "q2_k"), ("quantize", "iq4_nl")])
def test_the_error_that_it_weighs_becomes_smaller(model: Path, tmp_path: Path, make: str, type: str) -> None:
    """Against the sum in float64; without it the encoders make the plain sum small."""
    matrix = as_gguf(tmp_path / "i.gguf", sums())
    weights = sums()[Q][0].astype(np.float64)
    found = []
    for name, imatrix in (("plain", None), ("weighed", matrix)):
        target = tmp_path / f"{name}.gguf"
        if make == "convert":
            convert(model, target, type, imatrix=imatrix)
        else:
            quantize(model, target, type, imatrix=imatrix, compare=False)
        found.append(weighted_error(target, Q, weights, model))
    assert found[1] < 0.8 * found[0]


def test_a_calibration_that_is_kept_says_the_same_again(model: Path, tmp_path: Path) -> None:
    kept = tmp_path / "i.gguf"
    made = quantize(model, tmp_path / "a", "q3_k", calibrate=TEXT, save_imatrix=kept, compare=False)
    again = quantize(model, tmp_path / "b", "q3_k", imatrix=kept, compare=False)
    assert made.unreached == again.unreached
    a, b = (np.fromfile(next((tmp_path / name).glob("*.safetensors")), np.uint8) for name in "ab")
    assert np.mean(a != b) < 0.001  # sums are float64 in memory and float32 in the file
    assert read_imatrix(kept).chunk_size == 512
    assert not any("says nothing" in note for note in again.notes)
    found, _ = load_importances(kept, CONFIG)
    for name, one in imatrix_of(CONFIG, found).items():
        assert np.array_equal(one.squares, read_imatrix(kept).tensors[name].squares)


def as_twice(path: Path) -> None:
    """The older form with one name for two entries."""
    data = as_binary(path, {Q: sums()[Q]}).read_bytes()[4:-17]
    path.write_bytes(struct.pack("<i", 2) + 2 * data)


def with_key(path: Path, name: str, kind: int, value: bytes) -> None:
    """A file with one key, of any type."""
    at = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
    type = struct.pack("<Q", 12) + b"general.type" + struct.pack("<IQ", 8, 7) + b"imatrix"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + type + at + bytes(64))


KEYS = ("imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    ("kind", "value"),
    [(6, struct.pack("<f", np.nan)), (7, b"\1"), (8, struct.pack("<Q", 1) + b"a"), (9, struct.pack("<IQi", 5, 1, 3))],
    ids=["float", "bool", "string", "numbers"],
)
def test_keys_of_other_types_are_refused(tmp_path: Path, name: str, kind: int, value: bytes) -> None:
    with_key(tmp_path / "i", name, kind, value)
    with pytest.raises(BadCheckpoint, match=f"{name}: got"):
        read_imatrix(tmp_path / "i")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.write_bytes(b""), "number of entries: got 0 bytes"),
        (lambda path: path.write_bytes(b"any text at all, no matrix"), "number of entries"),
        (lambda path: path.write_bytes(struct.pack("<iii", 1, 9999, 7)), "bytes of a name"),
        (lambda path: (as_binary(path, {"a\nb\x1b[2J": sums()[Q]}), cut(path)), "values of a\ufffdb\ufffd.2J"),
        (as_twice, f"a tensor stands twice: got {Q}"),
        (lambda path: as_binary(path, {Q: (np.full((1, 256), np.nan), np.ones(1))}), "NaN"),
        (lambda path: as_gguf(path, {Q: (-np.ones((1, 256), np.float32), np.ones(1, np.float32))}), "negative"),
        (lambda path: as_gguf(path, {Q: (np.ones((1, 64), np.float32), np.ones(1, np.float32))}), r"\[1, 256\]"),
        (lambda path: as_gguf(path, {Q: (np.ones((3, 64), np.float32), np.ones(5, np.float32))}), "192 numbers"),
        (lambda path: as_gguf(path, {"x.weight": sums()[Q]}), "names none of the model's weights"),
        (lambda path: (as_gguf(path, sums()), cut(path)), "i: "),
        (lambda path: (as_binary(path, sums()), cut(path)), "values of|chunks|name"),
        (lambda path: convert(hf_folder(path.parent / "m", CONFIG), path.with_suffix(".gguf")).path.replace(path),
         "general.type"),
    ],
)  # fmt: skip
def test_what_is_no_matrix_of_the_model_is_refused_in_one_line(tmp_path: Path, change: Any, says: str) -> None:
    change(tmp_path / "i")
    with pytest.raises((BadCheckpoint, UsageError), match=says) as caught:
        load_importances(tmp_path / "i", CONFIG)
    assert "\n" not in str(caught.value)


def test_options_that_contradict_each_other(model: Path, tmp_path: Path) -> None:
    matrix, weights = as_gguf(tmp_path / "i.gguf", sums()), next(model.glob("*.safetensors"))
    cases: list[tuple[type[HerdError], str, Any]] = [
        (UsageError, "a text and an imatrix", lambda: quantize(model, "o", "q4_0", calibrate="a", imatrix=matrix)),
        (UsageError, "no text to learn from", lambda: quantize(model, "o", "q4_0", save_imatrix=tmp_path / "k")),
        (UsageError, "exists already", lambda: quantize(model, "o", "q4_0", calibrate="a", save_imatrix=matrix)),
        (
            UsageError,
            "is the target",
            lambda: quantize(model, matrix, "q4_0", calibrate="a", save_imatrix=matrix, overwrite=True),
        ),
        (
            UsageError,
            "belongs to the source",
            lambda: quantize(model, tmp_path / "o", "q4_0", calibrate="a", save_imatrix=weights, overwrite=True),
        ),
        (NotFound, "nowhere", lambda: quantize(model, tmp_path / "o", "q4_0", imatrix=tmp_path / "nowhere")),
        (UsageError, "a folder of floats", lambda: convert(model, tmp_path / "o", imatrix=matrix)),
        (UsageError, "got type f16", lambda: convert(model, tmp_path / "o.gguf", "f16", imatrix=matrix)),
        (UsageError, "got no type", lambda: convert(model, tmp_path / "o.gguf", imatrix=matrix)),
    ]
    for error, says, call in cases:
        with pytest.raises(error, match=says):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["i.gguf"]


def test_the_config_of_these_tests_has_both_kinds_of_layer() -> None:
    c: Llama4Config = CONFIG
    assert [layer.moe for layer in c.layers] == [False, True]
