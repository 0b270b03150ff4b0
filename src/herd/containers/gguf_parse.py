"""Parse the head of a GGUF file, limits first.

What it is: bytes -> `GgufHeader`, for files that may be hostile. Every length is compared with the file before it is
used, nothing is allocated by a number that the file claims, and values of keys are decoded only when asked for. What it
is not: the file's mapping (`gguf.py`), names of tensors (`checkpoint.gguf.names`).

Layout (GGUF 2 and 3, little-endian; source: the format's specification):
    "GGUF", u32 version, u64 tensors, u64 keys
    key:    string name, u32 type, value;     string: u64 bytes, UTF-8;     array: u32 type, u64 count, elements
    tensor: string name, u32 axes, u64 sizes (innermost first), u32 number format, u64 offset into the data
    padding to general.alignment (32), then the data, each tensor aligned alike
"""

import struct
from itertools import pairwise
from typing import NoReturn

import numpy as np

from herd import formats
from herd.containers.gguf_header import (
    ARRAY,
    BOOL,
    MAX_ALIGNMENT,
    MAX_AXES,
    MAX_HEADER,
    MAX_KEYS,
    MAX_NAME,
    MAX_STRING,
    MAX_STRINGS,
    MAX_TENSORS,
    OTHER_FORMATS,
    SCALARS,
    STRING,
    UINT32,
    Buffer,
    GgufHeader,
    Keys,
    TensorInfo,
    Value,
)
from herd.errors import BadCheckpoint, fail

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


def parse(path: str, buffer: Buffer) -> GgufHeader:
    """Read the header of a whole file in `buffer`. Raises BadCheckpoint naming file, field and limit."""
    return _Parser(path, buffer).header()


class _Parser:
    """A cursor that never leaves the file."""

    def __init__(self, path: str, buffer: Buffer) -> None:
        self.path, self.buffer, self.size, self.at = path, buffer, len(buffer), 0
        self.end = min(self.size, MAX_HEADER)
        self.strings = 0

    def header(self) -> GgufHeader:
        version, num_tensors, num_keys = self.start()
        values: dict[str, Value] = {}
        for i in range(num_keys):
            name = self.name(f"key {i}")
            if name in values:
                self.bad(f"key {name} stands twice")
            values[name] = self.value(f"key {name}")
        keys = Keys(self.path, self.buffer, values)
        alignment = self.alignment(values, keys)
        raw = [self.tensor(i) for i in range(num_tensors)]
        data = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for name, kind, sizes, offset in raw:
            if name in tensors:
                self.bad(f"tensor {name} stands twice")
            tensors[name] = self.placed(name, kind, sizes, offset, data, alignment)
        self.check_overlap(tensors)
        return GgufHeader(version, keys, tensors, alignment)

    def start(self) -> tuple[int, int, int]:
        """Read magic, version and the two counts."""
        if self.size < 24:
            self.bad("too short for a GGUF header", got=f"{self.size} bytes", expected="at least 24")
        if self.buffer[:4] != b"GGUF":
            self.bad("not a GGUF file", got=f"first bytes {bytes(self.buffer[:4])!r}", expected="b'GGUF'")
        version = _U32.unpack_from(self.buffer, 4)[0]
        if version & 0xFFFF == 0 and version:
            self.bad("big-endian GGUF is not read", expected="little-endian", do="convert it on a machine of its kind")
        if version not in (2, 3):
            self.bad("GGUF version", got=version, expected="2 or 3", do="convert it with a newer llama.cpp")
        num_tensors, num_keys = struct.unpack_from("<QQ", self.buffer, 8)
        self.at = 24
        # The least a key takes is 8 + 4 + 1 bytes and its name one; a tensor 8 + 4 + 8 + 4 + 8 and its name one.
        for what, count, least, limit in (("keys", num_keys, 14, MAX_KEYS), ("tensors", num_tensors, 33, MAX_TENSORS)):
            if count > limit:
                self.bad(f"number of {what}", got=count, expected=f"at most {limit}")
            if count * least > self.size - self.at:
                room = f"room for them in {self.size} bytes"
                self.bad(f"number of {what}", got=count, expected=room, do="the file is cut short or damaged")
        return version, num_tensors, num_keys

    def need(self, num_bytes: int, what: str) -> None:
        """Refuse the file when fewer bytes are left."""
        if num_bytes > self.end - self.at:
            self.past_end(what, f"{num_bytes} bytes")

    def past_end(self, what: str, got: object) -> NoReturn:
        """Refuse a header that would be longer than the file, or than any header may be."""
        if self.end < self.size:
            self.bad(
                f"{what} makes the header too long", got=got, expected=f"at most {MAX_HEADER} bytes before the data"
            )
        self.bad(f"{what} reaches past the end of the file", got=got, expected=f"at most {self.end - self.at} bytes")

    def u32(self, what: str) -> int:
        """Read the next four bytes."""
        self.need(4, what)
        self.at += 4
        return int(_U32.unpack_from(self.buffer, self.at - 4)[0])

    def u64(self, what: str) -> int:
        """Read the next eight bytes."""
        self.need(8, what)
        self.at += 8
        return int(_U64.unpack_from(self.buffer, self.at - 8)[0])

    def name(self, what: str) -> str:
        """Read a name: a short string, decoded at once."""
        length = self.u64(f"{what} name")
        if not 1 <= length <= MAX_NAME:
            self.bad(f"{what} name length", got=length, expected=f"1 to {MAX_NAME}")
        self.need(length, f"{what} name")
        raw = self.buffer[self.at : self.at + length]
        self.at += length
        try:
            text = str(raw, "utf-8")
        except UnicodeDecodeError:
            self.bad(f"{what} name is not UTF-8", got=repr(bytes(raw)))
        if not text.isprintable():
            self.bad(f"{what} name has characters that cannot be shown", got=repr(text))
        return text

    def value(self, what: str) -> Value:
        """Step over a value and remember where it lies."""
        kind = self.u32(f"{what} type")
        start = self.at
        if kind == STRING:
            length = self.u64(what)
            if length > MAX_STRING:
                self.bad(f"{what} string length", got=length, expected=f"at most {MAX_STRING}")
            self.need(length, what)
            self.at += length
            return Value(STRING, start)
        if kind != ARRAY:
            self.scalars(what, kind, 1)
            return Value(kind, start)
        element = self.u32(f"{what} element type")
        count = self.u64(f"{what} count")
        start = self.at
        if element == ARRAY:
            self.bad(f"{what} is an array of arrays", expected="numbers or strings")
        if element == STRING:
            self.skip_strings(what, count)
        else:
            self.scalars(what, element, count)
        return Value(ARRAY, start, count, element)

    def scalars(self, what: str, kind: int, count: int) -> None:
        """Step over `count` numbers of one type."""
        if kind not in SCALARS:
            self.bad(f"{what} type", got=kind, expected="0 to 12")
        num_bytes = count * struct.calcsize(SCALARS[kind][1])
        self.need(num_bytes, what)
        if kind == BOOL and count:
            flags = np.frombuffer(self.buffer, np.uint8, count, self.at)
            if flags.max() > 1:
                self.bad(f"{what} is no bool", got=int(flags.max()), expected="0 or 1")
        self.at += num_bytes

    def skip_strings(self, what: str, count: int) -> None:
        """Step over strings. The one loop that a large vocabulary feels: 0.1 us a string."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            self.bad(f"{what} count", got=count, expected=f"at most {MAX_STRINGS} strings in a file")
        if count * 8 > self.end - self.at:
            self.past_end(what, f"{count} strings")
        at, buffer, length = self.at, self.buffer, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + length(buffer, at)[0]
        except (struct.error, OverflowError):
            at = self.size + 1
        if at > self.end:
            self.past_end(f"a string of {what}", "a longer one")
        self.at = at

    def alignment(self, values: dict[str, Value], keys: Keys) -> int:
        """The value of general.alignment, 32 when absent."""
        if "general.alignment" not in values:
            return 32
        if values["general.alignment"].type != UINT32:
            self.bad("key general.alignment type", got=values["general.alignment"].type, expected="u32")
        alignment = int(keys["general.alignment"])
        if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self.bad("general.alignment", got=alignment, expected=f"a power of two from 8 to {MAX_ALIGNMENT}")
        return alignment

    def tensor(self, i: int) -> tuple[str, int, tuple[int, ...], int]:
        """Read an entry: name, number format, sizes innermost first, offset."""
        name = self.name(f"tensor {i}")
        what = f"tensor {name}"
        axes = self.u32(f"{what} axes")
        if not 1 <= axes <= MAX_AXES:
            self.bad(f"{what} axes", got=axes, expected=f"1 to {MAX_AXES}")
        sizes = tuple(self.u64(f"{what} size") for _ in range(axes))
        if 0 in sizes:
            self.bad(f"{what} sizes", got=sizes, expected="above 0")
        return name, self.u32(f"{what} format"), sizes, self.u64(f"{what} offset")

    def placed(
        self, name: str, kind: int, sizes: tuple[int, ...], offset: int, data: int, alignment: int
    ) -> TensorInfo:
        """Check format, size and place of a tensor."""
        what = f"tensor {name}"
        form = formats.by_ggml_type(kind)
        if form is None:
            known = f"{OTHER_FORMATS[kind]} (type {kind})" if kind in OTHER_FORMATS else f"unknown type {kind}"
            self.bad(f"{what} number format", got=known, expected=", ".join(formats.FORMATS))
        if not form.fits(sizes[0]):
            self.bad(f"{what} row of {form.name}", got=f"{sizes[0]} weights", expected=f"a multiple of {form.block}")
        num_bytes = form.row_bytes(sizes[0])
        for size in sizes[1:]:
            num_bytes *= size
        if offset % alignment:
            self.bad(f"{what} offset", got=offset, expected=f"a multiple of {alignment}")
        if data + offset + num_bytes > self.size:
            self.bad(
                f"{what} reaches past the end of the file",
                got=f"{num_bytes} bytes of data at {data + offset}",
                expected=f"{self.size} in all",
                do="the file is cut short or damaged",
            )
        return TensorInfo(name, form.name, sizes[::-1], data + offset, num_bytes)

    def check_overlap(self, tensors: dict[str, TensorInfo]) -> None:
        """Refuse the file when a byte belongs to two tensors."""
        placed = sorted(tensors.values(), key=lambda t: t.start)
        for a, b in pairwise(placed):
            if a.start + a.num_bytes > b.start:
                self.bad(
                    f"tensors {a.name} and {b.name} overlap", got=f"offset {b.start}", expected="one after another"
                )

    def bad(self, what: str, *, got: object = None, expected: object = None, do: str = "") -> NoReturn:
        """Refuse the file."""
        fail(BadCheckpoint, f"{self.path}: {what}", got=got, expected=expected, do=do)
