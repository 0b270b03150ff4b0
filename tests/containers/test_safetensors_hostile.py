"""Hostile safetensors files: each refused with one line that names file, field and limit, in little memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.containers.safetensors import MAX_HEADER_BYTES, SafeFile
from herd.errors import BadCheckpoint, HerdError, NotFound

GOOD = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: object) -> bytes:
    return file_of({"x": {**GOOD["x"], **changes}})


def many(
    name: Callable[[int], str], count: int, inside: str = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
) -> bytes:
    return file_of(("{" + ",".join(f"{json.dumps(name(i))}:{inside}" for i in range(count)) + "}").encode(), b"")


X = json.dumps(GOOD["x"]).encode()
TWO = (X, X)
SHAPE = b'{"x":{"dtype":"F32","shape":'
OFFSETS = SHAPE + b'[2],"data_offsets":[0,'
NOTHING = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
PAIRS = ",".join(f'"{i}":""' for i in range(600_000))

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "size"),
    "7 bytes": (bytes(7), "size"),
    "8 bytes": (bytes(8), r"does not begin with \{"),
    "header longer than the file": ((1000).to_bytes(8, "little") + b"{}", "header length: got 1000"),
    "header over the limit": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", f"at most {MAX_HEADER_BYTES}"),
    "header of 2^64 - 1": (b"\xff" * 8 + b"{}", "header length"),
    "not UTF-8": (file_of(b'{"\xff\xfe":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "not UTF-8"),
    "half a surrogate pair": (file_of(rb'{"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'), "not UTF-8"),
    "not JSON": (file_of(b"hello world"), r"does not begin with \{"),
    "a list": (file_of([1, 2]), r"does not begin with \{"),
    "cut JSON": (file_of(b'{"x":{"dtype":"F32"'), "header"),
    "comma at the end": (file_of(json.dumps(GOOD).encode()[:-1] + b",}"), "has no name"),
    "text after the end": (file_of(json.dumps(GOOD).encode() + b"{}"), "after its end"),
    "a name twice": (file_of(b'{"x":%b,"x":%b}' % TWO), "twice: got x"),
    "a name twice, once escaped": (file_of(rb'{"x":%b,"\u0078":%b}' % TWO), "twice: got x"),
    "a key twice": (file_of(b'{"x":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}'), "stands twice"),
    "__metadata__ twice": (file_of(b'{"__metadata__":{"a":"b"},"__metadata__":{"a":"b"}}', b""), "twice"),
    "__metadata__ of numbers": (file_of({"__metadata__": {"a": 1}}, b""), "__metadata__"),
    "__metadata__ a list": (file_of({"__metadata__": ["a"]}, b""), "__metadata__"),
    "nested 10^5 deep": (file_of(b"[" * 100_000), r"does not begin with \{"),
    "nested 10^5 deep in an entry": (file_of(b'{"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001), "header"),
    "shape nested 10^5 deep": (file_of(SHAPE + b"[" * 100_000 + b"]" * 100_000 + b"}}"), "header"),
    "overlap": (file_of({"x": GOOD["x"], "y": GOOD["x"]}), "overlap"),
    "partial overlap": (
        file_of({"x": GOOD["x"], "y": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)), "overlap"
    ),
    "hole": (file_of({"x": GOOD["x"], "y": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, bytes(16)),
             "hole"),
    "hole at the start": (file_of({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "hole"),
    "bytes at the end": (file_of(GOOD, bytes(8) + b"PK\x03\x04"), "bytes after the last tensor: got 4"),
    "last tensor cut": (file_of(GOOD, bytes(7)), "within the 7 bytes of data"),
    "end before begin": (entry(data_offsets=[8, 0]), "data_offsets of x"),
    "negative offset": (entry(data_offsets=[-8, 0]), "data_offsets of x"),
    "offset over 2^63": (entry(data_offsets=[0, 2**63]), "data_offsets of x"),
    "offset of 10^5 digits": (file_of(OFFSETS + b"9" * 100_000 + b"]}}"), "header"),
    "offset a fraction": (entry(data_offsets=[0, 8.0]), "data_offsets of x"),
    "offset true": (entry(data_offsets=[False, 8]), "data_offsets of x"),
    "three offsets": (entry(data_offsets=[0, 4, 8]), "data_offsets of x: got 3 numbers"),
    "leading zero": (file_of(b'{"x":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}'), "shape of x"),
    "shape too large for its bytes": (entry(shape=[3]), "12 for F32"),
    "shape too small for its bytes": (entry(shape=[1]), "4 for F32"),
    "shape overflows": (entry(shape=[2**32, 2**32, 2**32]), "data_offsets of x"),
    "shape overflows to the right size": (entry(shape=[2**62, 4, 2**62, 2]), "data_offsets of x"),
    "negative shape": (entry(shape=[-2]), "shape of x"),
    "nine axes": (entry(shape=[1] * 8 + [2]), "9 axes"),
    "shape a string": (entry(shape="2"), "shape of x"),
    "unknown dtype": (entry(dtype="F13"), "F13 in x"),
    "float64": (file_of({"x": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}), "F64 in x"),
    "fp8": (file_of({"w": {"dtype": "F8_E5M2", "shape": [8], "data_offsets": [0, 8]}}), "F8_E5M2 in w"),
    "dtype a number": (entry(dtype=7), "dtype of x"),
    "another key": (entry(scale=1), "keys of x"),
    "name of 10^6 bytes": (file_of({"x" * 1_000_000: GOOD["x"]}), "name of over 512 bytes"),
    "a pickle": (b"\x80\x04\x95" + bytes(100), "a Python pickle"),
    "a zip archive": (b"PK\x03\x04" + bytes(100), "zip archive"),
    "a GGUF file": (b"GGUF" + bytes(100), "a GGUF file"),
    "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "a web page": (b"<!DOCTYPE html><html>", "web page"),
    "too many tensors": (many(lambda i: str(i), 65_537), "more than 65536 tensors"),
    "8 MiB of empty lists": (file_of(b'{"x":[' + b"[]," * 2_700_000 + b"[]]}"), "header"),
    "8 MiB of entries": (many(lambda i: f"{i:060x}", 65_536, NOTHING), "within the 0"),
    "8 MiB of metadata": (file_of(('{"__metadata__":{' + PAIRS + "}}").encode()), "has over"),
    "8 MiB of spaces": (file_of(b"{" + b" " * 8_000_000), "has no name"),
    "8 MiB of backslashes": (file_of(b'{"' + b"\\" * 8_000_000), "has no name"),
    "8 MiB of escaped quotes": (file_of(b'{"' + b'\\"' * 4_000_000 + b'":1}'), "name of over"),
    "8 MiB of quotes": (file_of(b"{" + b'"' * 8_000_000), "header"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    data, words = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadCheckpoint, match=words) as caught:
        SafeFile(path)
    line = str(caught.value)
    assert "model.safetensors" in line
    assert len(line) < 500
    assert line.isprintable()


def test_the_good_file_is_good(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(file_of(GOOD))
    assert SafeFile(tmp_path / "a").array("x").tolist() == [0, 0]


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    for length in (0x280, 0x480, 0x8B1F):
        text = json.dumps(GOOD).encode().ljust(length)
        (tmp_path / "a").write_bytes(file_of(text))
        assert SafeFile(tmp_path / "a").array("x").tolist() == [0, 0]


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing"):
        SafeFile(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BadCheckpoint, match="not a regular file"):
        SafeFile(path)


MEASURE = """
import sys
from pathlib import Path
from herd.containers.safetensors import SafeFile
from herd.errors import HerdError

def kib(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])

start = kib("VmRSS")
for path in sys.argv[1:]:
    try:
        SafeFile(Path(path))
    except HerdError:
        pass
print(kib("VmHWM") - start)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_the_largest_headers_take_under_64_mib(tmp_path: Path) -> None:
    paths = []
    for name, (data, _) in HOSTILE.items():
        if len(data) > 1_000_000:
            paths.append(tmp_path / name.replace(" ", "_").replace("^", ""))
            paths[-1].write_bytes(data)
    valid = tmp_path / "valid"
    valid.write_bytes(many(lambda i: f"model.layers.{i}.x", 65_536))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, [*paths, valid])], capture_output=True, text=True, check=True
    )
    assert len(paths) >= 8
    assert int(done.stdout) < 64 * 1024  # KiB


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_flipped_and_cut_bytes_never_do_worse_than_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = bytearray(file_of({**GOOD, "y": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]}}, bytes(16)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    path.write_bytes(good[: data.draw(st.integers(0, len(good)))] if data.draw(st.booleans()) else good)
    try:
        file = SafeFile(path)
    except HerdError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    for name, tensor in file.entries.items():
        assert file.array(name).shape == tensor.shape
