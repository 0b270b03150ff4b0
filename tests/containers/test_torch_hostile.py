"""Hostile .pth files: nothing in them runs, each is refused with one line, in little memory."""

import contextlib
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.containers.pickle_tensors import OPAQUE, TensorRef, read_tensors
from herd.containers.torch_file import TorchFile
from herd.containers.zip_records import zip_records
from herd.errors import BadCheckpoint, HerdError, NotFound

MIB = 1 << 20


class Runs:
    """Runs a program when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def text(s: str) -> bytes:
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", n)


def storage(key: str = "0", kind: str = "torch\nFloatStorage", size: int = 4) -> bytes:
    return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(size) + b"tQ"


def tensor(
    inside: bytes | None = None, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)
) -> bytes:
    """A call of _rebuild_tensor_v2, as torch.save writes it."""
    sizes = b"(" + b"".join(number(n) for n in shape) + b"t(" + b"".join(number(n) for n in strides) + b"t"
    empty = b"ccollections\nOrderedDict\n)R"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return call + (storage() if inside is None else inside) + number(offset) + sizes + b"\x89" + empty + b"tR"


def table(value: bytes, name: str = "x") -> bytes:
    return b"\x80\x02}(" + text(name) + value + b"u."


GOOD = table(tensor())


def archive(data: bytes = GOOD, records: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        z.writestr("m/data.pkl", data)
        for name, content in (records if records is not None else {"m/data/0": bytes(16)}).items():
            z.writestr(name, content)
    return out.getvalue()


def opened(tmp_path: Path, content: bytes) -> TorchFile:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(content)
    return TorchFile(path)


def test_the_good_one_is_good(tmp_path: Path) -> None:
    """So that the others are refused for what they are."""
    file = opened(tmp_path, archive(records={"m/data/0": np.arange(4, dtype="<f4").tobytes()}))
    assert file.array("x").tolist() == [0, 1, 2, 3]
    file.check_sums()


PICKLES: dict[str, tuple[bytes, str]] = {
    "os.system": (b"\x80\x02cos\nsystem\n" + text("touch /tmp/never") + b"\x85R.", "asks for 'os system'"),
    "posix.system": (pickle.dumps(Runs(os.system, "true"), 2), "asks for 'posix system'"),
    "eval": (pickle.dumps(Runs(eval, "1"), 2), "asks for '__builtin__ eval'"),
    "getattr": (pickle.dumps(Runs(getattr, 1, "real"), 2), "asks for '__builtin__ getattr'"),
    "subprocess": (pickle.dumps(Runs(subprocess.Popen, ["true"]), 2), "asks for '(subprocess|commands) Popen'"),
    "torch.load": (b"\x80\x02ctorch\nload\n" + text("x") + b"\x85R.", "asks for 'torch load'"),
    "a word with a dot in it": (b"\x80\x02ctorch\n_utils._rebuild_tensor_v2\n.", "asks for"),
    "a word through protocol 4": (b"\x80\x04" + text("os") + text("system") + b"\x93.", "protocol 2"),
    "STACK_GLOBAL in protocol 2": (b"\x80\x02" + text("os") + text("system") + b"\x93.", "opcode b'.x93'"),
    "INST": (b"\x80\x02(ios\nsystem\n.", "opcode b'i'"),
    "OBJ": (b"\x80\x02(o.", "opcode b'o'"),
    "EXT1": (b"\x80\x02\x82\x01.", "opcode b'.x82'"),
    "a storage is called": (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of torch FloatStorage"),
    "a text is called": (b"\x80\x02" + text("x") + b")R.", "a call of str"),
    "BytesIO is called": (b"\x80\x02c_io\nBytesIO\n)R.", "a call of _io BytesIO"),
    "a new OrderedDict": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "a new object of collections OrderedDict"),
    "state for a tensor": (table(tensor() + b"}b"), "state for an object"),
    "state for a word": (b"\x80\x02c_io\nBytesIO\n}b.", "state for an object"),
    "an OrderedDict with content": (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "a call of collections"),
    "persistent id of text": (b"\x80\x02" + text("x") + b"Q.", "persistent id"),
    "a record outside": (table(tensor(storage("../../etc/passwd"))), "a wrong name"),
    "a record of no name": (table(tensor(storage(""))), "a wrong name"),
    "a storage of another kind": (table(tensor(storage(kind="torch\n_rebuild_tensor_v2"))), "asks for"),
    "a storage of a kind of number": (table(tensor(storage(kind="torch\nfloat32"))), "storage of kind torch float32"),
    "double": (table(tensor(storage(kind="torch\nDoubleStorage"))), "asks for 'torch DoubleStorage'"),
    "a storage of negative size": (table(tensor(storage(size=-1))), "whose size is none"),
    "a storage of 2^62": (table(tensor(storage(size=1 << 62))), "whose size is none"),
    "a negative offset": (table(tensor(offset=-1)), "no sizes"),
    "a negative stride": (table(tensor(strides=(-1,))), "no sizes"),
    "a negative shape": (table(tensor(shape=(-4,))), "no sizes"),
    "more strides than axes": (table(tensor(strides=(1, 1))), "no sizes"),
    "nine axes": (table(tensor(shape=(1,) * 9, strides=(1,) * 9)), "no sizes"),
    "a tensor out of a number": (table(tensor(b"N")), "a tensor without its storage"),
    "nothing": (b"", "an end at byte 0"),
    "protocol 0": (b"(dp0\n.", "protocol 2"),
    "only the protocol": (b"\x80\x02", "an end"),
    "an end of nothing": (b"\x80\x02.", "0 things at the end"),
    "two at the end": (b"\x80\x02NN.", "2 things at the end"),
    "bytes after the end": (GOOD + b"x", "1 bytes after the end"),
    "a mark at the end": (b"\x80\x02(.", "things at the end"),
    "cut in a tensor": (GOOD[: len(GOOD) // 2], "cut off"),
    "cut in a number": (b"\x80\x02J\x00", "cut off"),
    "a text of 4 GiB": (b"\x80\x02X\xff\xff\xff\xff.", "a text of 4294967295 bytes"),
    "a text that is cut": (b"\x80\x02X\x10\x00\x00\x00ab", "cut off"),
    "a text that is no UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "a number of 255 bytes": (b"\x80\x02\x8a\xff" + bytes(255) + b".", "a number of 255 bytes"),
    "a word without end": (b"\x80\x02c" + b"a" * 1000, "a name without end"),
    "a mark that is not there": (b"\x80\x02t.", "finds no mark"),
    "a value that is not there": (b"\x80\x02\x85.", "finds nothing"),
    "a value below the mark": (b"\x80\x02N(\x85.", "finds nothing"),
    "what was never kept": (b"\x80\x02h\x01.", "never kept"),
    "a mark is kept": (b"\x80\x02(q\x00.", "nothing to keep"),
    "an entry in a list": (b"\x80\x02]" + text("a") + b"Ns.", "dictionary where there is none"),
    "a value into a dictionary": (b"\x80\x02}Na.", "list where there is none"),
    "half an entry": (b"\x80\x02}(" + text("a") + b"u.", "dictionary where there is none"),
    "a key that is a list": (b"\x80\x02}(]Nu.", "a key of kind list"),
    "a tensor twice": (b"\x80\x02}(" + 2 * (text("x") + tensor()) + b"u.", "x twice"),
    "a stack of 10^6": (b"\x80\x02" + b"N" * 1_000_000, "on the stack"),
    "marks of 10^6": (b"\x80\x02" + b"(" * 1_000_000, "on the stack"),
    "10^5 deep": (b"\x80\x02)" + b"\x85" * 100_000 + b".", "holds: got tuple"),
    "10^5 deep as a key": (b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.", "a key of kind tuple"),
    "10^5 deep as a storage": (b"\x80\x02)" + b"\x85" * 100_000 + b"Q.", "persistent id"),
    "10^5 deep as an argument": (b"\x80\x02c_io\nBytesIO\n)" + b"\x85" * 100_000 + b"\x81.", "a new object"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "holds: got list"),
    "a tuple of a billion": (
        b"\x80\x02)q\x00" + b"".join(b"(" + b"h\x00" * 10 + b"t\x85q\x00" for _ in range(30)) + b"\x86" * 30 + b".",
        "holds: got tuple",
    ),
    "a table of one tensor": (b"\x80\x02" + tensor() + b".", "holds: got TensorRef"),
}  # fmt: skip


@pytest.mark.parametrize("case", PICKLES)
def test_a_table_that_is_more_than_tensors_is_refused(tmp_path: Path, case: str) -> None:
    data, message = PICKLES[case]
    began = time.monotonic()
    with pytest.raises(BadCheckpoint, match=message) as caught:
        opened(tmp_path, archive(data))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert time.monotonic() - began < 120  # a hang, not a speed


def entry_at(content: bytes, name: bytes) -> int:
    """Where the directory's entry of `name` begins."""
    at = content.find(b"PK\x01\x02")
    while content[at + 46 : at + 46 + len(name)] != name:
        at = content.index(b"PK\x01\x02", at + 4)
    return at


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


BASE = archive()
ZERO = entry_at(BASE, b"m/data/0")
END = BASE.rindex(b"PK\x05\x06")


def renamed(name: str) -> bytes:
    """The record's name, of the same length, in both places."""
    assert len(name) == 8
    return BASE.replace(b"m/data/0", name.encode())


def encrypted() -> bytes:
    flags = struct.unpack_from("<H", BASE, ZERO + 8)[0] | 1
    return patched(BASE, ZERO + 8, struct.pack("<H", flags))


def shared() -> bytes:
    """Two entries of one record: what small archives that unfold to petabytes are made of."""
    both = archive(records={"m/data/0": bytes(16), "m/data/1": bytes(16)})
    a, b = entry_at(both, b"m/data/0"), entry_at(both, b"m/data/1")
    start = struct.unpack_from("<I", both, a + 42)[0]
    moved = patched(both, b + 42, struct.pack("<I", start))
    return patched(moved, b + 46, b"m/data/0")  # the same name, so that its own header agrees


def inner() -> bytes:
    """A record whose content is the header of another one."""
    first = archive(records={"m/data/0": bytes(16)})
    local = first[first.index(b"PK\x03\x04", 4) : first.index(b"PK\x01\x02")]
    both = archive(records={"m/data/1": local, "m/data/0": bytes(16)})
    start = struct.unpack_from("<I", both, entry_at(both, b"m/data/1") + 42)[0]
    return patched(both, entry_at(both, b"m/data/0") + 42, struct.pack("<I", start + 30 + 8))


ZIPS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a zip archive"),
    "a pickle": (GOOD, "not a zip archive"),
    "the magic alone": (b"PK\x03\x04", "no end of a directory"),
    "cut in half": (BASE[: len(BASE) // 2], "no end of a directory"),
    "cut by one": (BASE[:-1], "no end of a directory"),
    "the front cut off": (b"PK\x03\x04" + BASE[50:], "zip archive"),
    "deflated": (archive(method=zipfile.ZIP_DEFLATED), r"compressed \(method 8\)"),
    "a bomb": (archive(records={"m/data/0": bytes(64 * MIB)}, method=zipfile.ZIP_DEFLATED), "compressed"),
    "encrypted": (encrypted(), "encrypted"),
    "two dots": (renamed("../../.x"), "a record called"),
    "two dots inside": (renamed("m/../xyz"), "a record called"),
    "absolute": (renamed("/etc/pas"), "a record called"),
    "a drive": (renamed("C:/x/yzw"), "a record called"),
    "backslashes": (renamed("m\\data\\0"), "a record called"),
    "a line end": (renamed("m/da\n/a0"), "a record called"),
    "a name twice": (archive(records={"m/data/0": bytes(16), "m/data/1": bytes(16)}).replace(b"data/1", b"data/0"),
                     "twice"),
    "records that share bytes": (shared(), "twice|shares bytes"),
    "a record inside another": (inner(), "shares bytes"),
    "another name in its own header": (patched(BASE, entry_at(BASE, b"m/data/0") + 46, b"m/data/1"), "another name"),
    "larger than the file": (patched(BASE, ZERO + 20, struct.pack("<II", 1 << 30, 1 << 30)), "cut off"),
    "into the directory": (patched(BASE, ZERO + 20, struct.pack("<II", 40, 40)), "shares bytes|cut off"),
    "sizes that differ": (patched(BASE, ZERO + 24, struct.pack("<I", 1 << 20)), "compressed"),
    "a place outside": (patched(BASE, ZERO + 42, struct.pack("<I", 1 << 31)), "place 2147483648"),
    "a place in the middle": (patched(BASE, ZERO + 42, struct.pack("<I", 7)), "place 7"),
    "a directory outside": (patched(BASE, END + 16, struct.pack("<I", 1 << 31)), "directory at byte"),
    "a directory elsewhere": (patched(BASE, END + 16, struct.pack("<I", 1)), "directory entry 0|directory at"),
    "60,000 records said": (patched(BASE, END + 8, struct.pack("<HH", 60_000, 60_000)), "directory entry 2"),
    "fewer records said": (patched(BASE, END + 8, struct.pack("<HH", 1, 1)), "after the last entry"),
    "several disks": (patched(BASE, END + 4, struct.pack("<HH", 1, 1)), "several disks"),
    "zip64 to nowhere": (BASE[:END] + b"PK\x06\x07" + struct.pack("<IQI", 0, 1 << 60, 1) + BASE[END:], "zip64"),
    "no table": (archive(records={}).replace(b"data.pkl", b"data.pkx"), "tables of tensors"),
    "two tables": (archive(records={"m/data/0": bytes(16), "n/data.pkl": GOOD}), "tables of tensors: got 2"),
    "no record for a storage": (archive(records={}), "no such record"),
    "a record too short": (archive(records={"m/data/0": bytes(12)}), "a record of 12 bytes, expected 16"),
    "a record too long": (archive(records={"m/data/0": bytes(20)}), "a record of 20 bytes"),
    "big-endian": (archive(records={"m/data/0": bytes(16), "m/byteorder": b"big"}), "byte order"),
    "out of the storage": (archive(table(tensor(shape=(5,)))), "reaches out of its storage"),
    "out by its offset": (archive(table(tensor(offset=1))), "reaches out"),
    "out by its stride": (archive(table(tensor(strides=(2,)))), "reaches out"),
    "a stride of 2^49": (archive(table(tensor(strides=(1 << 49,)))), "reaches out"),
    "much out of little": (archive(table(tensor(shape=(1 << 40, 4), strides=(0, 1)))), "reaches out"),
}  # fmt: skip


@pytest.mark.parametrize("case", ZIPS)
def test_an_archive_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    content, message = ZIPS[case]
    with pytest.raises(BadCheckpoint, match=message) as caught:
        opened(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_table_of_100_mib_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"data\.pkl: got"):
        opened(tmp_path, archive(bytes(100 * MIB)))


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        TorchFile(tmp_path / "none.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(BadCheckpoint, match="not a regular file"):
        TorchFile(tmp_path / "pipe.pth")


def test_nothing_runs(tmp_path: Path) -> None:
    """The first commandment: the file names a program, and the program is not run."""
    flag = tmp_path / "ran"
    with pytest.raises(BadCheckpoint):
        opened(tmp_path, archive(pickle.dumps({"x": Runs(os.system, f"touch {flag}")}, 2)))
    assert not flag.exists()


def test_reading_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "consolidated.00.pth"
    path.write_bytes(BASE)
    code = (
        "import sys; from pathlib import Path; from herd.containers.torch_file import TorchFile\n"
        "assert TorchFile(Path(sys.argv[1])).array('x').shape == (4,)\n"
        "assert not {'torch', 'pickle'} & (sys.modules.keys() - before)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    before = "import numpy, sys; before = {*sys.modules}\n"
    done = subprocess.run([sys.executable, "-c", before + code, str(path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


# -- what torch itself writes ---------------------------------------------------------------------------------------


def test_files_of_torch_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    module = torch.nn.Linear(3, 2)
    saved = {
        "f32": base.reshape(4, 6), "bf16": base.to(torch.bfloat16), "f16": base.half(), "u8": base.to(torch.uint8),
        "i8": base.to(torch.int8), "i32": base.int(), "i64": base.long(), "f8": base.to(torch.float8_e4m3fn),
        "turned": base.reshape(4, 6).T, "part": base.reshape(4, 6)[1:3, 2:5], "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 3), "weight": torch.nn.Parameter(base.clone()),
        "extra": io.BytesIO(b"\x00\xff" * 50), "empty": io.BytesIO(), "text": "t", "number": 1.5, "nothing": None,
        "big": 1 << 40, "list": [1, (2, True)], "many": {str(i): torch.full((2,), i) for i in range(300)},
    }  # fmt: skip
    torch.save(saved, tmp_path / "a.pth")
    file = TorchFile(tmp_path / "a.pth")
    file.check_sums()
    for name, value in saved.items():
        if not isinstance(value, torch.Tensor):
            assert name not in file.tensors
            continue
        got = file.array(name)
        want = value.detach()
        if want.dtype == torch.bfloat16:
            want = want.view(torch.int16).numpy().view(np.uint16)
        elif want.dtype == torch.float8_e4m3fn:
            want = want.view(torch.uint8)
        assert np.array_equal(got, np.asarray(want)), name
        assert not got.flags.writeable
    torch.save(module.state_dict(), tmp_path / "b.pth")  # carries _metadata beside its entries
    assert np.array_equal(TorchFile(tmp_path / "b.pth").array("bias"), module.bias.detach().numpy())
    torch.save(OrderedDict(x=torch.zeros(1)), tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(BadCheckpoint, match="not a zip archive"):
        TorchFile(tmp_path / "c.pth")


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(3, 2), tmp_path / "a.pth")
    with pytest.raises(BadCheckpoint, match=r"asks for 'torch\.nn\.modules\.linear Linear'"):
        TorchFile(tmp_path / "a.pth")


def test_a_zip64_archive_is_read(tmp_path: Path) -> None:
    """What an archive of over 4 GiB has: sizes and places in zip64 fields."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as z:
        for name, content in {"m/data.pkl": GOOD, "m/data/0": bytes(range(16))}.items():
            with z.open(zipfile.ZipInfo(name), "w", force_zip64=True) as f:
                f.write(content)
    data = out.getvalue()
    at = entry_at(data, b"m/data/0")
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", data, at + 42)[0]
    extra = struct.pack("<HHQQQ", 1, 24, 16, 16, start)
    wide = patched(data, at + 20, struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF))
    wide = patched(patched(wide, at + 30, struct.pack("<H", len(extra))), at + 42, struct.pack("<I", 0xFFFFFFFF))
    name_end = at + 46 + 8
    directory = struct.unpack_from("<I", data, end + 16)[0]
    size = end + len(extra) - directory
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2, 2, size, directory)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, end + len(extra), 1)
    tail = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    whole = wide[:name_end] + extra + wide[name_end:end] + end64 + locator + tail
    assert opened(tmp_path, whole).array("x").tobytes() == bytes(range(16))


def damaged(data: st.DataObject, good: bytes) -> bytes:
    raw = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    return bytes(raw)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_gives_tensors_or_one_error(data: st.DataObject) -> None:
    found: Any = None
    with contextlib.suppress(HerdError):
        found = read_tensors("x", damaged(data, GOOD))
    assert found is None or isinstance(found, dict | list | tuple | str | int | float | TensorRef) or found is OPAQUE


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damaged_archive_gives_records_or_one_error(data: st.DataObject) -> None:
    raw, found = damaged(data, BASE), {}
    with contextlib.suppress(HerdError):
        found = zip_records("x", raw)
    assert all(r.start >= 0 and r.start + r.size <= len(raw) for r in found.values())
