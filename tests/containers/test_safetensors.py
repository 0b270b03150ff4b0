"""Our safetensors files are those of the safetensors package, and the other way round."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_write import TensorToWrite, write_file, write_shards
from herd.errors import BadCheckpoint, UsageError

RNG = np.random.default_rng(0)
ARRAYS = {
    "F32": RNG.standard_normal((5, 7)).astype(np.float32),
    "F16": RNG.standard_normal((2, 3, 4)).astype(np.float16),
    "BF16": RNG.integers(0, 1 << 15, (9,)).astype(np.uint16),
    "U8": RNG.integers(0, 256, (4, 4)).astype(np.uint8),
    "I8": RNG.integers(-128, 128, (3,)).astype(np.int8),
}


def tensor(name: str, dtype: str, array: np.ndarray) -> TensorToWrite:
    return TensorToWrite(name, dtype, array.shape, lambda: iter(np.array_split(array, 2)))


def test_what_we_write_the_safetensors_package_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "a.safetensors"
    write_file(path, [tensor(f"t.{d}", d, a) for d, a in ARRAYS.items()], {"made by": "a test"})
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "made by": "a test"}
        for d, a in ARRAYS.items():
            read = file.get_tensor(f"t.{d}")
            assert tuple(read.shape) == a.shape
            assert np.array_equal(read.view(torch.uint8).numpy().reshape(-1), a.view(np.uint8).reshape(-1))


def test_what_the_safetensors_package_writes_we_read(tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "a.safetensors"
    names = {"F32": "x", "F16": 'quote " and \\ and é', "U8": "in.the.middle", "I8": ""}
    save({name: ARRAYS[d] for d, name in names.items()}, str(path), {"k": "v }{"})
    file = SafeFile(path)
    assert file.metadata == {"k": "v }{"}
    for d, name in names.items():
        assert file.entries[name].dtype == d
        assert np.array_equal(file.array(name), ARRAYS[d])


def test_bfloat16_comes_as_its_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    x = torch.randn(4, 6, dtype=torch.bfloat16)
    save({"x": x}, str(tmp_path / "a.safetensors"))
    bits = SafeFile(tmp_path / "a.safetensors").array("x")
    assert bits.dtype == np.uint16
    assert np.array_equal(bits, x.view(torch.uint16).numpy())


def test_arrays_are_views_of_the_file_and_read_only(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, [tensor("x", "F32", ARRAYS["F32"])])
    array = SafeFile(path).array("x")
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_arrays_outlive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, [tensor("x", "F32", ARRAYS["F32"])])
    file = SafeFile(path)
    array = file.array("x")
    file.close()
    path.unlink()
    assert np.array_equal(array, ARRAYS["F32"])


def test_an_odd_address_is_copied_to_an_even_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, [tensor("a", "I8", ARRAYS["I8"]), tensor("b", "F32", ARRAYS["F32"])])
    array = SafeFile(path).array("b")
    assert array.flags.aligned
    assert np.array_equal(array, ARRAYS["F32"])


def test_keys_of_an_entry_in_another_order_and_with_space(tmp_path: Path) -> None:
    header = b'{ "x" : {"data_offsets" : [0 , 8],\n "shape":[ 2 ], "dtype" :"F32"} ,'
    header += b' "y":{"shape":[],"dtype":"I8","data_offsets":[8,9]} }  '
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes() + b"\x05")
    file = SafeFile(path)
    assert file.array("x").tolist() == [1, 2]
    assert file.array("y").tolist() == 5


def test_large_models_are_cut_into_shards_with_an_index(tmp_path: Path) -> None:
    tensors = [tensor(f"t{i}", "F32", np.full((4, 4), i, np.float32)) for i in range(5)]
    write_shards(tmp_path, tensors, shard_bytes=130)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 5 * 64
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    for i in range(5):
        assert SafeFile(tmp_path / index["weight_map"][f"t{i}"]).array(f"t{i}")[0, 0] == i


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    write_shards(tmp_path, [tensor("x", "F32", ARRAYS["F32"])])
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_two_tensors_of_one_name_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one name"):
        write_file(tmp_path / "a", [tensor("x", "F32", ARRAYS["F32"])] * 2)


@pytest.mark.parametrize("how", ["cut", "grown", "rewritten", "replaced", "removed"])
def test_a_file_that_changes_while_open_is_noticed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.safetensors"
    write_file(path, [tensor("x", "F32", ARRAYS["F32"])])
    file = SafeFile(path)
    file.check_unchanged()
    data, found = path.read_bytes(), path.stat()
    match how:
        case "cut":
            os.truncate(path, 20)
        case "grown":
            path.write_bytes(data + b"x")
        case "rewritten":
            with path.open("r+b") as f:
                f.write(data)
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        case "replaced":
            (tmp_path / "b").write_bytes(data)
            os.utime(tmp_path / "b", ns=(found.st_atime_ns, found.st_mtime_ns))
            (tmp_path / "b").rename(path)
        case "removed":
            path.unlink()
    with pytest.raises(BadCheckpoint, match=r"a\.safetensors: (changed|gone) while in use"):
        file.check_unchanged()
