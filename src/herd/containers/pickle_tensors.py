"""Tables of tensors as torch.save writes them, read by an interpreter of the few opcodes that they need.

Nothing is unpickled: no name is ever imported and nothing is called. The nine names below are words that this file
knows, each with one fixed meaning; any other name, and any opcode that such tables do not use, is refused by name. The
result is dictionaries, lists, tuples, numbers, texts, and `TensorRef`: which record, which dtype, where in it.

    torch._utils   _rebuild_tensor_v2, _rebuild_tensor_v3, _rebuild_parameter    -> TensorRef
    torch          FloatStorage .. , storage UntypedStorage, float8_e4m3fn       kinds of storage and of numbers
    collections    OrderedDict                                                   -> dict
    _io BytesIO, _codecs encode, __builtin__ bytes                               -> OPAQUE: what Meta keeps beside
                                                                                    weights; its content is not read

Opcodes: Python's pickletools, protocol 2. Bounds: bytes, stack, memo and text are limited first; the interpreter is a
loop, so depth costs nothing but its limit.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from herd.errors import BadCheckpoint, fail

MAX_PICKLE_BYTES = 64 << 20
MAX_STACK = 65_536
MAX_MEMO = 4_000_000
MAX_TEXT_BYTES = 16 << 20

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
}
_STORAGES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "IntStorage": "int32",
    "LongStorage": "int64",
}


@dataclass(frozen=True)
class TensorRef:
    """A tensor in a storage: `key` names the record; offset and strides count elements of `dtype` (of DTYPES)."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage_size: int
    """Elements of the storage, or bytes when it is untyped."""
    is_untyped: bool


@dataclass(frozen=True)
class _Word:
    """A name of the table above."""

    name: str


class _Opaque:
    """Content that is not read."""


OPAQUE = _Opaque()
_MARK = object()
_WORDS = {
    *(f"torch {name}" for name in _STORAGES),
    *(f"torch {name}" for name in DTYPES),
    "torch.storage UntypedStorage",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "_io BytesIO",
    "_codecs encode",
    "__builtin__ bytes",
    "builtins bytes",
}


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    """A name of DTYPES, or "untyped"."""
    size: int


def read_tensors(file_name: str, data: bytes) -> Any:
    """The objects that `data`, the content of data.pkl, describes. Raises BadCheckpoint: one line naming what is not
    allowed."""
    return _Reader(file_name, data).run()


class _Reader:
    def __init__(self, file_name: str, data: bytes) -> None:
        self.file_name = file_name
        if len(data) > MAX_PICKLE_BYTES:
            self._bad(f"{len(data)} bytes", f"at most {MAX_PICKLE_BYTES}")
        self.data = data
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        if self._take(2) != b"\x80\x02":
            self._bad("no pickle of protocol 2", "what torch.save writes")
        while True:
            place = self.at
            code = self._take(1)
            if code == b".":
                if len(self.stack) != 1 or self.stack[0] is _MARK:
                    self._bad(f"{len(self.stack)} things at the end", "one")
                if self.at != len(self.data):
                    self._bad(f"{len(self.data) - self.at} bytes after the end", "none")
                return self.stack[0]
            step = _STEPS.get(code)
            if step is None:
                self._bad(f"opcode {code!r} at byte {place}", "the opcodes of tables of tensors")
            step(self)
            if len(self.stack) > MAX_STACK or len(self.memo) > MAX_MEMO:
                self._bad(f"{len(self.stack)} things on the stack, {len(self.memo)} kept", f"at most {MAX_STACK}")

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            self._bad(f"an end at byte {len(self.data)}", "more: cut off?")
        self.at += count
        return found

    def _number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            self._bad(f"a name without end at byte {self.at}", "a name")
        text = self.data[self.at : end].decode("ascii", "replace")
        self.at = end + 1
        return text

    def long(self) -> None:
        size = self._number(1)
        if size > 8:
            self._bad(f"a number of {size} bytes", "at most 8")
        self.stack.append(self._number(size, signed=True))

    def text(self) -> None:
        size = self._number(4)
        if size > MAX_TEXT_BYTES:
            self._bad(f"a text of {size} bytes", f"at most {MAX_TEXT_BYTES}")
        try:
            self.stack.append(self._take(size).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            self._bad("a text that is not UTF-8", "UTF-8")

    def real(self) -> None:
        self.stack.append(struct.unpack(">d", self._take(8))[0])

    # -- stack and memo ------------------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            self._bad("an opcode that finds nothing on the stack", "a value")
        return self.stack.pop()

    def _since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                found = self.stack[i + 1 :]
                del self.stack[i:]
                return found
        return self._bad("an opcode that finds no mark", "a mark")

    def put(self, size: int) -> None:
        key = self._number(size)
        if not self.stack or self.stack[-1] is _MARK:
            self._bad("nothing to keep", "a value")
        self.memo[key] = self.stack[-1]

    def get(self, size: int) -> None:
        key = self._number(size)
        if key not in self.memo:
            self._bad(f"a value {key} that was never kept", "one that was")
        self.stack.append(self.memo[key])

    def make_tuple(self, count: int) -> None:
        parts = [self._pop() for _ in range(count)]
        self.stack.append((*reversed(parts),))

    def append(self, parts: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, list):
            self._bad("values for a list where there is none", "a list")
        target.extend(parts)

    def set_items(self, parts: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(parts) % 2:
            self._bad("entries for a dictionary where there is none", "a dictionary")
        for key, value in zip(parts[::2], parts[1::2], strict=True):
            if not isinstance(key, str):
                self._bad(f"a key of kind {type(key).__name__}", "texts")
            if key in target:
                self._bad(f"{key} twice", "each tensor once")
            target[key] = value

    # -- words -------------------------------------------------------------------------------------------------------

    def word(self) -> None:
        name = f"{self._line()} {self._line()}"
        if name not in _WORDS:
            fail(
                BadCheckpoint,
                f"{self.file_name}: its pickle asks for {' '.join(name.split())[:80]!r}",
                expected="tensors only",
                do="Herd runs nothing that a file names; use the safetensors or GGUF form of this model",
            )
        self.stack.append(_Word(name))

    def reduce(self) -> None:
        arguments, word = self._pop(), self._pop()
        name = word.name if isinstance(word, _Word) else ""
        if not isinstance(arguments, tuple):
            self._bad("a call without a tuple", "the calls of tables of tensors")
        if name == "collections OrderedDict" and not arguments:
            self.stack.append({})
        elif name in ("_codecs encode", "__builtin__ bytes", "builtins bytes"):
            self.stack.append(OPAQUE)
        elif name == "torch._utils _rebuild_parameter" and arguments and isinstance(arguments[0], TensorRef):
            self.stack.append(arguments[0])
        elif name == "torch._utils _rebuild_tensor_v2" and len(arguments) in (6, 7):
            self.stack.append(self._tensor(arguments, None))
        elif name == "torch._utils _rebuild_tensor_v3" and len(arguments) in (7, 8):
            self.stack.append(self._tensor(arguments, arguments[6]))
        else:
            self._bad(f"a call of {name or type(word).__name__}", "the calls of tables of tensors")

    def new(self) -> None:
        arguments, word = self._pop(), self._pop()
        if word != _Word("_io BytesIO") or arguments != ():
            self._bad(f"a new object of {getattr(word, 'name', type(word).__name__)}", "tensors only")
        self.stack.append(OPAQUE)

    def build(self) -> None:
        """State of a BytesIO, and the versions that a module's dictionary carries: passed over."""
        self._pop()
        if not self.stack or not (self.stack[-1] is OPAQUE or isinstance(self.stack[-1], dict)):
            self._bad("state for an object that is not there", "tensors only")

    def storage(self) -> None:
        given = self._pop()
        if not isinstance(given, tuple) or len(given) != 5 or given[0] != "storage":
            self._bad("a persistent id that is no storage", "storages")
        _, kind, key, _, size = given
        name = kind.name if isinstance(kind, _Word) else ""
        storage = "untyped" if name == "torch.storage UntypedStorage" else _STORAGES.get(name.removeprefix("torch "))
        if storage is None or not isinstance(key, str) or not key.isalnum() or not key.isascii() or len(key) > 64:
            self._bad(f"a storage of kind {name or type(kind).__name__}, or a wrong name", "a plain name, a known kind")
        if type(size) is not int or not 0 <= size < 1 << 50:
            self._bad("a storage whose size is none", "0 to 2^50")
        self.stack.append(_Storage(key, storage, size))

    def _tensor(self, arguments: tuple[Any, ...], dtype: Any) -> TensorRef:
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, _Storage) or (storage.kind == "untyped") != (dtype is not None):
            self._bad("a tensor without its storage", "a storage")
        name = storage.kind if dtype is None else getattr(dtype, "name", "").removeprefix("torch ")
        if name not in DTYPES:
            self._bad(f"a tensor of {name or type(dtype).__name__}", ", ".join(DTYPES))
        whole = (offset, *shape, *strides) if isinstance(shape, tuple) and isinstance(strides, tuple) else (None,)
        if not all(type(n) is int and 0 <= n < 1 << 50 for n in whole) or len(shape) != len(strides) or len(shape) > 8:
            self._bad("a tensor whose offset, shape or strides are no sizes", "whole numbers from 0, at most 8 axes")
        return TensorRef(storage.key, DTYPES[name], offset, shape, strides, storage.size, dtype is not None)

    def _bad(self, got: str, expected: str) -> NoReturn:
        fail(BadCheckpoint, f"{self.file_name}: table of tensors", got=got, expected=expected)


_STEPS: dict[bytes, Callable[[_Reader], None]] = {
    b"(": lambda r: r.stack.append(_MARK),
    b"}": lambda r: r.stack.append({}),
    b"]": lambda r: r.stack.append([]),
    b")": lambda r: r.stack.append(()),
    b"N": lambda r: r.stack.append(None),
    b"\x88": lambda r: r.stack.append(True),
    b"\x89": lambda r: r.stack.append(False),
    b"J": lambda r: r.stack.append(r._number(4, signed=True)),
    b"K": lambda r: r.stack.append(r._number(1)),
    b"M": lambda r: r.stack.append(r._number(2)),
    b"\x8a": _Reader.long,
    b"G": _Reader.real,
    b"X": _Reader.text,
    b"q": lambda r: r.put(1),
    b"r": lambda r: r.put(4),
    b"h": lambda r: r.get(1),
    b"j": lambda r: r.get(4),
    b"t": lambda r: r.stack.append((*r._since_mark(),)),
    b"\x85": lambda r: r.make_tuple(1),
    b"\x86": lambda r: r.make_tuple(2),
    b"\x87": lambda r: r.make_tuple(3),
    b"a": lambda r: r.append([r._pop()]),
    b"e": lambda r: r.append(r._since_mark()),
    b"s": lambda r: r.set_items([r._pop(), r._pop()][::-1]),
    b"u": lambda r: r.set_items(r._since_mark()),
    b"c": _Reader.word,
    b"R": _Reader.reduce,
    b"\x81": _Reader.new,
    b"b": _Reader.build,
    b"Q": _Reader.storage,
}
