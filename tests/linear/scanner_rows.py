"""Readers of what strangers send, and the inputs that they are timed with: bodies, small parts of files, text."""

import base64
import contextlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import tiktoken

from fillers import JSON, UNITS, json_text, text
from herd.cli.interactive import _whole_text
from herd.cli.replies import find_images
from herd.config import TINY
from herd.config.hf import from_hf, to_hf
from herd.containers import gguf_parse
from herd.containers.pickle_tensors import read_tensors
from herd.containers.safetensors_header import SafetensorsHeader
from herd.containers.zip_records import zip_records
from herd.disk import small_files
from herd.engine.sampler import History
from herd.engine.stop_strings import StopStrings
from herd.gate import Gate
from herd.grammar import closing, json_schema, lark
from herd.media import encoded
from herd.media.headers import declared_size, sniff
from herd.media.limits import IMAGE_LIMITS
from herd.messages import Message, ToolCall
from herd.safety import RULES, guard, reading, scan
from herd.safety.policy import Layers, Settings
from herd.server import machine_paths, page
from herd.server.batches import index
from herd.server.batches.lines import BatchLine
from herd.server.http import body, host_check, multipart
from herd.server.http.framing import Framing, RefusedRequest
from herd.server.http.long_strings import LongStrings
from herd.server.keys import Key, Keyring
from herd.server.limits import Limits
from herd.server.ollama.common import keep_alive_of
from herd.server.openai.turns import arguments_of
from herd.server.requests import sizes
from herd.server.requests.fields import told
from herd.server.response_store import Items, ResponseStore, StoredResponse
from herd.server.tables import TABLES
from herd.text import merge_list, rank_file, sentencepiece, sentencepiece_file, split_steps, splits, tokenizer_json
from herd.text.added import AddedToken, AddedTokens
from herd.text.call_arguments import said_so_far
from herd.text.call_form import LLAMA, CallForm, Parameters
from herd.text.calls import CallParser
from herd.text.calls_or_answer import CallsOrAnswer
from herd.text.chat import FORMATS
from herd.text.leaves import leaves
from herd.text.message_checks import check_name
from herd.text.spaces import Spaces
from herd.text.special import LLAMA3
from herd.text.stream import StreamDecoder
from herd.text.template_task import Task
from herd.text.template_turns import plain_messages
from herd.text.templates import Writer
from herd.text.tokenizer import Tokenizer
from herd.value_checks import MAX_IDS

Make = Callable[[int], Any]


class Row(NamedTuple):
    """A reader. makes: what it reads, by name, each of about so many characters or bytes."""

    run: Callable[[Any], object]
    makes: Mapping[str, Make]
    most: int = 1 << 14


def _encoded(makes: Mapping[str, Make], before: str = "", after: str = "") -> dict[str, Make]:
    """The same between two texts, as bytes."""
    return {name: lambda size, m=make: (before + m(size) + after).encode() for name, make in makes.items()}


def _placed(places: Mapping[str, tuple[str, str]]) -> dict[str, Make]:
    """All JSON in all places of a text."""
    found: dict[str, Make] = {}
    for place, (before, after) in places.items():
        found |= {f"{place}: {name}": make for name, make in _encoded(JSON, before, after).items()}
    return found


TEXTS: dict[str, Make] = {ascii(unit): text(unit) for unit in UNITS}
BYTES: dict[str, Make] = _encoded(TEXTS)
WIDE = Limits(json_values=1 << 40)
"""So that objects of many names are read to their end."""


def _form(data: bytes, step: int) -> None:
    """A form with a part of these bytes, as it comes."""
    form = multipart.Multipart("multipart/form-data; boundary=b")
    whole = b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n' + data + b"\r\n--b--"
    for at in range(0, len(whole), step):
        for _ in form.feed(whole[at : at + step]):
            pass


def _parameter(text: str) -> None:
    """A head of a part with this text in its disposition."""
    multipart._head_of(f'content-disposition: form-data; name="a"; {text}')


# -- files ------------------------------------------------------------------------------------------------------------

_ENTRY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
SAFETENSORS = _placed(
    {
        "whole": ("", ""),
        "name": ('{"a":' + _ENTRY + ",", ":" + _ENTRY + "}"),
        "entry": ('{"a":', "}"),
        "shape": ('{"a":{"dtype":"F32","shape":', ',"data_offsets":[0,0]}}'),
        "metadata": ('{"__metadata__":', "}"),
        "metadata's text": ('{"__metadata__":{"a":', "}}"),
    }
) | {
    "tensors": lambda size: ("{" + ",".join(f'"{i}":{_ENTRY}' for i in range(size // 64)) + "}").encode(),
    "pairs": lambda size: ('{"__metadata__":{' + ",".join(f'"{i}":"b"' for i in range(size // 12)) + "}}").encode(),
}


def _gguf(keys: bytes = b"", num_keys: int = 0, tensors: bytes = b"", num_tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_keys) + keys + tensors + bytes(64)


def _string(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


GGUF: dict[str, Make] = {
    "keys": lambda size: _gguf(
        b"".join(_string(b"%08d" % i) + struct.pack("<II", 4, 0) for i in range(size // 24)), size // 24
    ),
    "one key": lambda size: _gguf((_string(b"a") + struct.pack("<II", 4, 0)) * (size // 17), size // 17),
    "tensors": lambda size: _gguf(
        b"", 0, b"".join(_string(b"%08d" % i) + struct.pack("<IQIQ", 1, 1, 0, 0) for i in range(size // 40)), size // 40
    ),
    "empty strings": lambda size: _gguf(_string(b"a") + struct.pack("<IIQ", 9, 8, size // 8) + bytes(size), 1),
    "numbers": lambda size: _gguf(_string(b"a") + struct.pack("<IIQ", 9, 4, size // 4) + bytes(size), 1),
    "truths": lambda size: _gguf(_string(b"a") + struct.pack("<IIQ", 9, 7, size) + bytes(size), 1),
    "a long name": lambda size: _gguf(_string(b"a" * size) + struct.pack("<II", 4, 0), 1),
    "a long text": lambda size: _gguf(_string(b"a") + struct.pack("<I", 8) + _string(b"\xcc\x81" * (size // 2)), 1),
}


def _read_gguf(data: bytes) -> None:
    found = gguf_parse.parse("a", memoryview(data))
    for name in found.keys:
        found.keys[name]


def _zip(entries: bytes, count: int, before: bytes = b"", after: bytes = b"") -> bytes:
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(entries), len(before), len(after))
    return before + entries + end + after


def _record(name: bytes, extra: bytes = b"", size: int = 0) -> bytes:
    head = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0, 0, 0, 0, 0, 0, 0, size, size, len(name), len(extra), 0, 0, 0, 0, 0
    )
    return head + name + extra


_LOCAL = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0, 0, 0, 0, 0, 0, 0, 8, 0)


def _records(size: int) -> bytes:
    """Each with a local header of its own."""
    names = [b"%08d" % i for i in range(size // 92)]
    before = b"".join(_LOCAL + name for name in names)
    entries = b"".join(
        _record(name)[:42] + struct.pack("<I", i * (len(_LOCAL) + 8)) + name for i, name in enumerate(names)
    )
    return _zip(entries, len(names), before)


ZIPS: dict[str, Make] = {
    "records": _records,
    "one name": lambda size: _zip(_record(b"a") * (size // 47), size // 47),
    "fields": lambda size: _zip(
        _record(b"a", struct.pack("<HH", 7, 0) * 15_000, 0xFFFFFFFF) * (size // 60_000)
        + _record(b"a", struct.pack("<HH", 7, 0) * (size % 60_000 // 4), 0xFFFFFFFF),
        size // 60_000 + 1,
    ),
    "ends": lambda size: b"PK\5\6" * (size // 4),
    "nearly ends": lambda size: b"PK\5" * (size // 3),
    "folders": lambda size: _zip(_record(b"a/" * (min(size, 60_000) // 2)), 1),
}


def _pickled(*codes: bytes) -> dict[str, Make]:
    found: dict[str, Make] = {}
    for code in codes:
        for before in (b"", b"N", b"(", b"}", b"]", b"NN"):
            found[f"{before!r}, {code!r}"] = lambda size, b=before, c=code: b"\x80\2" + b + c * (size // len(c)) + b"."
    return found


PICKLES = _pickled(
    *(
        b"(",
        b"}",
        b"]",
        b")",
        b"N",
        b"J0000",
        b"K0",
        b"\x8a\x01\x00",
        b"X\1\0\0\0a",
        b"q\0",
        b"Nq\0",
        b"h\0",
        b"t",
        b"(t",
    ),
    *(
        b"\x85",
        b"N\x86",
        b"Na",
        b"(e",
        b"(Ne",
        b"(u",
        b"X\1\0\0\0aNs",
        b"c",
        b"ctorch\nFloatStorage\n",
        b"R",
        b"Nb",
        b"Q",
    ),
)

_ALPHABET = [chr(code) for code in range(33, 127)] + [chr(code) for code in range(0x100, 0x144)]
_VOCAB = json.dumps({c: i for i, c in enumerate(_ALPHABET)})
_PRE = json.dumps({"type": "ByteLevel", "add_prefix_space": False, "use_regex": True})


def _tokenizer(**members: str) -> tuple[str, str]:
    """Before and after the place that is @."""
    model = {"vocab": _VOCAB, "merges": "[]", **{n: v for n, v in members.items() if n in ("vocab", "merges")}}
    inner = '{"type":"BPE",' + ",".join(f'"{n}":{v}' for n, v in model.items()) + "}"
    outer = {"model": inner, "pre_tokenizer": _PRE, **{n: v for n, v in members.items() if n not in model}}
    before, _, after = ("{" + ",".join(f'"{n}":{v}' for n, v in outer.items()) + "}").partition("@")
    return before, after


TOKENIZERS = _placed(
    {
        name: _tokenizer(**{name: "@"})
        for name in ("vocab", "merges", "added_tokens", "pre_tokenizer", "normalizer", "post_processor", "model")
    }
) | {
    "merges of a run": lambda size: "".join(
        (_tokenizer(vocab="@")[0], _run_vocab(size), _tokenizer(vocab="@")[1].replace("[]", _run_merges(size), 1))
    ).encode(),
    "tokens that are added": lambda size: (
        "{}".join(_tokenizer(added_tokens="@"))
        .replace("{}", json.dumps([{"id": 162 + i, "content": f"<{i}>", "special": True} for i in range(size // 48)]))
        .encode()
    ),
}


def _run_vocab(size: int) -> str:
    more = {"a" * (i + 2): len(_ALPHABET) + i for i in range(_runs(size))}
    return json.dumps({**json.loads(_VOCAB), **more})


def _run_merges(size: int) -> str:
    return json.dumps([f"{'a' * (i + 1)} a" for i in range(_runs(size))])


def _runs(size: int) -> int:
    """Tokens a, aa, aaa, ... that are together so long."""
    return int(size**0.5)


RANKS: dict[str, Make] = {
    "lines": lambda size: b"".join(base64.b64encode(i.to_bytes(3, "big")) + b" %d\n" % i for i in range(size // 10)),
    "ends of lines": lambda size: b"\n" * size,
    "a line": lambda size: b"a" * size,
    "a rank": lambda size: b"YQ== " + b"1" * size,
    "paddings": lambda size: b"=" * 1000 + b" 0\n" * (size // 3),
}

_CONFIG = to_hf(TINY, "bfloat16")
CONFIGS = {
    f"{member}: {name}": make
    for member in (*_CONFIG["text_config"], "rope_scaling", "layer_types", "moe_layers", "head_dim")
    for name, make in JSON.items()
    if name
    in ("digits", "digits after the point", "zeros", "numbers", "one text", "objects", "names", "escaped quotes")
    for make in [lambda size, n=member, m=make: _with_member(n, m(size))]
}


def _with_member(name: str, value: str) -> bytes:
    whole = {**_CONFIG, "text_config": {**_CONFIG["text_config"], name: "@"}}
    return json.dumps(whole).replace('"@"', value).encode()


# -- media ------------------------------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0\x3a\x7e\x9b\x55"
_JPEG = b"\xff\xd8\xff\xe0\0\2"
_GIF = b"GIF89a\1\0\1\0\0\0\0"


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


MEDIA: dict[str, Make] = {
    "empty PNG chunks": lambda size: _PNG + b"\0\0\0\0teSt\x1a\x5a\xf6\x09" * (size // 12),
    "a PNG chunk": lambda size: _PNG + struct.pack(">I4s", size, b"IDAT") + bytes(size + 4),
    "JPEG fill": lambda size: _JPEG + b"\xff" * size + b"\0",
    "JPEG fill, broken off": lambda size: _JPEG + b"\xff\xff\0" * (size // 3),
    "JPEG data": lambda size: _JPEG + b"\xff\0" * (size // 2),
    "JPEG restarts": lambda size: _JPEG + b"\xff\xd0" * (size // 2),
    "JPEG segments": lambda size: _JPEG + b"\xff\xe1\0\2" * (size // 4),
    "JPEG starts": lambda size: _JPEG + b"\xff\xd8" * (size // 2),
    "JPEG scans": lambda size: _JPEG + b"\xff\xc0\0\x0b\x08\0\1\0\1\1\1\x11\0" + b"\xff\xda\0\2" * (size // 4),
    "GIF extensions": lambda size: _GIF + b"!\xfe\0" * (size // 3),
    "GIF blocks": lambda size: _GIF + b"!\xfe" + b"\1a" * (size // 2),
    "GIF picture": lambda size: _GIF + b",\0\0\0\0\1\0\1\0\0\2" + b"\1a" * (size // 2),
    "WebP chunks": lambda size: _riff(b"VP8L\x05\0\0\0/\0\0\0\0\0" + b"ALPH\0\0\0\0" * (size // 8)),
    "markup": lambda size: b" " * size + b"<svg",
    "BMP": lambda size: b"BM" + bytes(size),
}


def _measure(data: bytes) -> None:
    declared_size(sniff(data, "a"), data, "a", IMAGE_LIMITS)


# -- text -------------------------------------------------------------------------------------------------------------

_RANKS = {bytes([b]): b for b in range(256)} | {
    (c.encode() * (1 << k)): 256 + 9 * i + k for i, c in enumerate("漢 !A") for k in range(1, 9)
}
_CORES = {
    name: tiktoken.Encoding(name, pat_str=splits.PATTERNS[name], mergeable_ranks=_RANKS, special_tokens={})
    for name in ("llama4", "llama-bpe")
}
_MERGES = merge_list.build(
    [*_ALPHABET, "aa", "aaaa", "aaaaaaaa"],
    bytes([1]) * (len(_ALPHABET) + 3),
    ["a a", "aa aa", "aaaa aaaa"],
    **{"whole_pieces": False, "split": "gpt-2", "specials": {}, "bos_id": None, "eos_ids": set(), "add_bos": False},
    **{"template": None, "added": (), "where": "a"},
)
_TINY_BYTES = Tokenizer.bytes_only()
_RUNS_OF = (
    [chr(0x2581) * n for n in (1, 2, 4, 8)] + [c * n for c in "a漢" for n in (1, 2, 3, 4, 8)] + ["a" + chr(0x2581)]
)


def _scored(texts: list[str], each: bool) -> Callable[[str], object]:
    """What encodes texts with a vocabulary of these pieces and all bytes."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    pieces = sentencepiece.Pieces(
        [*bytes_, *texts],
        [sentencepiece.BYTE] * 256 + [sentencepiece.NORMAL] * len(texts),
        [0.0] * 256 + [1.0] * len(texts),
        each=each,
    )
    options: dict[str, Any] = {"bos_id": None, "eos_ids": set(), "add_bos": False, "template": None, "added": ()}
    found = Tokenizer(**sentencepiece.build(pieces, Spaces("each"), **options, where="a"))
    return lambda data: found.encode(data, MAX_IDS)


def _pieces_of(texts: list[str]) -> object:
    return _scored(texts, each=False)


def _run(size: int) -> list[str]:
    """Pieces a, aa, aaa, ... of together about so many characters, none longer than a piece may be."""
    return [chr(0x4E00 + i // 64) * (i % 64 + 1) for i in range(size // 32)]


PIECES: dict[str, Make] = {
    "pieces": lambda n: b"".join(b"\n\x0a\n\x08%08d" % i for i in range(n // 12)),
    "empty fields": lambda n: b"\n\x00" * (n // 2),
    "numbers": lambda n: b"\x08\x01" * (n // 2),
    "long numbers": lambda n: (b"\x08" + b"\xff" * 9 + b"\x01") * (n // 11),
    "specifications": lambda n: b"\x12\x02\x18\x02" * (n // 4),
    "a large field": lambda n: b"\x12" + _varint(n) + b"\x08\x01" * (n // 2),
    "no end": lambda n: b"\n\x03\n\x01a" + b"\xff" * n,
}


def _varint(number: int) -> bytes:
    return bytes(
        (number >> 7 * i & 0x7F) | (0x80 if number >> 7 * (i + 1) else 0) for i in range(5) if number >> 7 * i or not i
    )


_HARD = {
    "runs": [AddedToken(i, " " * i) for i in range(2, 200)],
    "runs with an end": [AddedToken(i, "a" * i + "b") for i in range(1, 200)],
    "names": [AddedToken(i, f"<|reserved_{i}|>") for i in range(3000)],
    "white space": [AddedToken(1, "<a>", lstrip=True, rstrip=True), AddedToken(2, "  ", rstrip=True, normalized=True)],
    "words": [AddedToken(1, "a", single_word=True), AddedToken(2, "aa", single_word=True, normalized=True)],
}
"""Added tokens that texts nearly hold."""
_ADDED = {name: AddedTokens(tokens) for name, tokens in _HARD.items()}
ADDED: dict[str, Make] = {
    f"{name}, {unit!r}": lambda size, n=name, u=unit: (n, text(u)(size))
    for name in _HARD
    for unit in ("a", " ", "<", "<a>", "<a> ", " a", "aab", "<|reserved_1", "<|reserved_77|>")
}


def _cut(data: tuple[str, str]) -> None:
    cutter = _ADDED[data[0]].cutter(frozenset())
    assert cutter is not None
    for _ in cutter.cut(data[1]):
        pass
    _ADDED[data[0]].held(data[1])


def _cut_once(tokens: list[AddedToken]) -> None:
    cutter = AddedTokens(tokens).cutter(frozenset())
    assert cutter is not None
    list(cutter.cut("aab" * 33))  # with none of the longest: shorter ones are looked for


def _split(name: str) -> Callable[[str], object]:
    return lambda data: list(splits.batches(name, data, 256))  # short texts, too, are cut in windows


def _encode_ranks(name: str) -> Callable[[str], object]:
    return lambda data: [_CORES[name].encode_ordinary(piece) for piece in rank_file.cuts(data)]


def _decode(data: bytes) -> None:
    decoder = StreamDecoder(_TINY_BYTES)
    for byte in data:
        decoder.push(byte)
    decoder.flush()


def _stop(data: tuple[tuple[str, ...], str]) -> None:
    stops = StopStrings(data[0])
    for char in data[1]:
        stops.push(char)
    stops.finish()


def _penalise(data: tuple[int, int]) -> None:
    """As many tokens of output as of prompt."""
    history = History(list(range(data[0])))
    for token_id in range(data[0]):
        history.recent(data[1])
        history.add(token_id)


STOPS: dict[str, Make] = {
    f"{name}, {unit!r}": lambda size, s=stop, u=unit: (s, text(u)(size))
    for name, stop in {
        "a run": ("a" * 255 + "b",),
        "runs": tuple("a" * (240 + i) + "b" for i in range(16)),
        "turns": ("ab" * 127 + "c",),
        "Fibonacci's": ("abaababaabaababaababaabaababaabaab" * 7 + "c",),
    }.items()
    for unit in ("a", "ab", "abaababa", "b", " ")
}

_CALL = {"f": ["a", "b"], **{f"tool_{i}": ["a"] for i in range(100)}}
CALLS: dict[str, Make] = TEXTS | {
    "spaces after a call": lambda size: "[f(a=1)]" + " " * size + "x",
    "spaces between calls": lambda size: ("[f(a=1)]" + " " * 20) * (size // 28),
    "calls": lambda size: "[f(a=1)]" * (size // 8),
    "calls in a list": lambda size: "[" + "f(a=1)," * (size // 7),
    "JSON calls": lambda size: '{"name":"f","parameters":{}}' * (size // 28),
    "a text that does not end": lambda size: '[f(a="' + "\\'" * (size // 2),
    "three quotes": lambda size: '[f(a="""' + '"" ' * (size // 3),
    "two quotes": lambda size: '[f(a="""' + '""x' * (size // 3) + '""")]',
    "a long call": lambda size: '[f(a="' + "x" * size + '")]',
    "a long call in JSON": lambda size: '{"name":"f","parameters":{"a":"' + "x" * size + '"}}',
    "JSON in JSON": lambda size: '{"name":"f","arguments":"{' + '\\"a\\":1,' * (size // 8) + '\\"a\\":1}"}',
    "arguments before their name": lambda size: '{"arguments":{"a":"' + "x" * size + '"},"name":"f"}',
    "a call that breaks off": lambda size: '[f(a="x", 1, 2, 3)' + "[f(a=1)]" * (size // 8),
    "other names": lambda size: '{"name":"f","parameters":{' + "".join(f'"{i}":1,' for i in range(size // 8)),
    "functions in functions": lambda size: '{"function":' * (size // 12),
    "nearly names": lambda size: '{"name":"tool_99x' * (size // 16),
    "half pairs": lambda size: '[f(a="' + "\\ud83d" * (size // 6),
    "a list that does not end": lambda size: "[f(a=[" + "1," * (size // 2),
    "lists": lambda size: "[f(a=" + "[" * size,
    "a dict that does not end": lambda size: "[f(a={" + "'b':1," * (size // 6),
    "nearly a number": lambda size: "[f(a=" + "1" * 390 + ")" + "[f(a=" * (size // 5),
    "JSON that does not end": lambda size: '{"name":"f","parameters":{"a":"' + '\\"' * (size // 2),
    "JSON with nothing but names": lambda size: '{"name":"f","parameters":{' + '"a":1,' * (size // 6) + '"a":1}}',
    "tags": lambda size: "<function=f>{}</function>" * (size // 25),
    "Hermes": lambda size: '<tool_call>{"name":"f","arguments":{}}' + " " * size,
    "fences": lambda size: "```json\n" * (size // 8),
    "a fence of letters": lambda size: "```" + "j" * size,
}


def _call_by_characters(data: str) -> None:
    parser = CallParser(_CALL)
    for char in data:
        parser.push(None, char)
    parser.finish()


def _call_or_answer(data: str) -> None:
    parser = CallsOrAnswer(CallParser(_CALL), list(_CALL), LLAMA)
    for char in data:
        parser.push(None, char)
    parser.finish()


_TAGGED = CallForm(
    "<tool_call>\n<function=",
    ">",
    "\n</function>\n<function=",
    "\n</function>\n</tool_call>",
    Parameters("\n<parameter=", ">\n", "\n</parameter>", True, ("True", "False", "None")),
    own=True,
)
_ODD = CallForm("[[[[[[[[f", " ", None, "]", own=True)
"""Most of its beginning may be that of another call."""
OWN: dict[str, Make] = CALLS | {
    "beginnings": lambda size: "<tool_call><function=f>" * (size // 23),
    "spaces in a beginning": lambda size: "<tool_call>" + " " * size + "x",
    "parameters": lambda size: "<tool_call><function=f>" + "<parameter=a>1</parameter>" * (size // 26),
    "a name that does not end": lambda size: "<tool_call><function=f><parameter=" + "<parameter=" * (size // 11),
    "a text that does not end": lambda size: "<tool_call><function=f><parameter=a>" + "\n</param" * (size // 8),
    "a list that does not end": lambda size: "<tool_call><function=f><parameter=b>[" + "1," * (size // 2),
    "calls in one": lambda size: "<tool_call>" + "<function=f><parameter=a>x</parameter></function>" * (size // 49),
    "brackets": lambda size: "[" * size,
}


def _call_in_its_own_form(data: str) -> None:
    for form in (_TAGGED, _ODD):
        parser = CallParser(_CALL, form=form, types={"f": {"a": frozenset({"string"})}})
        for char in data:
            parser.push(None, char)
        parser.finish()


def _call_at_once(data: str) -> None:
    parser = CallParser(_CALL)
    parser.push(None, data)
    parser.finish()


CUT: dict[str, Make] = JSON | {
    "a text": lambda size: '{"a": "' + "x" * size,
    "escapes": lambda size: '{"a": "' + "\\u0041" * (size // 6) + "\\u00",
    "objects": lambda size: '{"a":' * min(size // 5, 500),
    "members": lambda size: "{" + ",".join(f'"{i}": [1, {{"a": 1}}]' for i in range(size // 20)) + ',"b":',
}


def _say_so_far(data: str) -> None:
    for open_too in (True, False):
        with contextlib.suppress(ValueError):
            said_so_far(data, open_too=open_too)


DIALOGS: dict[str, Make] = {
    "turns": lambda size: [Message("user" if i % 2 else "assistant", "a") for i in range(size // 16)],
    "turns of the system": lambda size: [Message("system", "a") for _ in range(size // 16)] + [Message("user", "a")],
    "calls": lambda size: [Message("assistant", "", (ToolCall("f", {"a": "b"}),) * (size // 32))],
    "arguments": lambda size: [Message("assistant", "", (ToolCall("f", {str(i): "b" for i in range(size // 8)}),))],
    "spaces": lambda size: [Message("system", " " * size), Message("user", " " * size)],
}
_CHAT_BYTES = Tokenizer.bytes_only(
    (*dict.fromkeys((*LLAMA3[:12], *_TINY_BYTES.specials, "<|im_start|>", "<|im_end|>")),), vocab_size=400
)
_TOOLS = [{"name": "f", "description": "d", "parameters": {"type": "object"}}]


def _say(name: str, tools: Any) -> Callable[[list[Message]], object]:
    return lambda dialog: FORMATS[name](_CHAT_BYTES).encode(dialog, tools)


READINGS: dict[str, Make] = {
    f"{name}: {unit!a}": lambda size, e=each, u=unit: [
        reading.AdjacentText(u * e, before=b) for b in "\0x" for _ in range(size // 16)
    ]
    for name, each in {"short": 1, "of edges": 700}.items()
    for unit in ("a", "1", "@", "sk-", "jane@", "DE89 ")
} | {
    "escapes": lambda size: [reading.AdjacentText("\\u0041" * (size // 6))],
    "halves of escapes": lambda size: [reading.AdjacentText("\\ud83d\\ude00" * (size // 12))],
    "backslashes": lambda size: [reading.AdjacentText("\\" * size)],
    "names and values": lambda size: [
        reading.AdjacentText("a", k) for _ in range(size // 8) for k in ("key", "value", "number")
    ],
}
VALUES: dict[str, Make] = {
    "members": lambda size: {str(i): "a" for i in range(size // 8)},
    "elements": lambda size: ["a"] * size,
    "numbers": lambda size: [10**399] * (size // 400),
}


def _reply(policy: Layers | None) -> Callable[[str], object]:
    """A reply, a character a token, through a policy."""

    def run(data: str) -> None:
        gate = Gate(policy)
        for char in data:
            gate.add(char)
            gate.add_token(1, None, placed=True)
            gate.release(last=False)
        gate.release(last=True)

    return run


# -- requests ---------------------------------------------------------------------------------------------------------

_KEYS = Keyring([Key(f"k{i}", bytes(32)) for i in range(50)])
_CHAT = TABLES["POST /v1/chat/completions"]
_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
FRAMES: dict[str, Make] = BYTES | {
    "fields": lambda size: _HEAD + b"a: b\r\n" * (size // 6),
    "credentials": lambda size: _HEAD + b"x-api-key: b\r\n" * (size // 14),
    "expectations": lambda size: _HEAD + b"Expect: 100-continue\r\n" * (size // 22),
    "codings": lambda size: _HEAD + b"Transfer-Encoding: " + b"chunked," * (size // 8),
    "blanks": lambda size: _HEAD + b"a:" + b" " * size + b"\r\n",
    "a target": lambda size: b"GET http://" + b"a" * size,
    "chunks of a byte": lambda size: _CHUNKED + b"1\r\na\r\n" * (size // 6),
    "a chunk": lambda size: _CHUNKED + b"%x\r\n" % size + b"a" * size + b"\r\n0\r\n\r\n",
    "extensions": lambda size: _CHUNKED + (b"1" + b";a=b" * 50 + b"\r\na\r\n") * (size // 206),
    "digits of a chunk": lambda size: _CHUNKED + b"0" * size,
    "trailers": lambda size: _CHUNKED + b"0\r\n" + b"a: b\r\n" * (size // 6),
}


def _frame(step: int) -> Callable[[bytes], object]:
    """Bytes of a connection, in pieces of so many."""

    def run(data: bytes) -> None:
        framing, buffer = Framing(Limits()), bytearray()
        with contextlib.suppress(RefusedRequest):
            for at in range(0, len(data), step):
                buffer += data[at : at + step]
                while framing.take(buffer):
                    pass

    return run


def _keep(count: int) -> None:
    """Responses that go on from each other."""
    store, key, items = ResponseStore(1 << 40, 1 << 40, 1 << 40), Key("a"), None
    for i in range(count):
        items = Items(items, [{"type": "message", "id": "a"}, {"type": "message", "id": str(i)}])
        store.keep(key, StoredResponse({"id": str(i), "status": "completed"}, items))
    if items is not None:
        items.all()
    for i in range(count):
        store.drop(key, str(i))


FIELDS: dict[str, Make] = {
    "unknown": lambda size: {"model": "a", "messages": [], **{f"x{i}": 1 for i in range(size // 8)}},
    "unknown, inside": lambda size: {
        "model": "a",
        "messages": [{"role": "user", "content": "a", f"x{i}": 1} for i in range(size // 32)],
    },
    "one": lambda size: {"model": "a", "messages": [{"role": "user", "content": "a", "x": 1}] * (size // 32)},
    "long": lambda size: {"model": "a", "messages": [], "x" * size: 1},
    "wrong": lambda size: {"model": "a" * size, "messages": "a" * size},
}
SCHEMAS = _placed(
    {
        "whole": ("", ""),
        **{
            word: (f'{{"type":"object","properties":{{"a":{{"{word}":', "}}}")
            for word in (
                *("type", "enum", "const", "properties", "required", "pattern", "format", "anyOf", "oneOf", "allOf"),
                *("items", "prefixItems", "minLength", "maxLength", "multipleOf", "minimum", "$ref", "$defs", "title"),
                *("additionalProperties", "patternProperties", "propertyNames", "uniqueItems", "x-a"),
            )
        },
    }
)
SCHEMAS |= {
    "references": lambda size: _references('{{"$ref":"#/$defs/{}"}}', size // 32),
    "references of all": lambda size: _references('{{"allOf":[{{"$ref":"#/$defs/{}"}}]}}', size // 48),
    "references of any": lambda size: _references(
        '{{"anyOf":[{{"$ref":"#/$defs/{}"}},{{"type":"null"}}]}}', size // 64
    ),
    "one of many": lambda size: json.dumps({"oneOf": [{"const": i} for i in range(size // 16)]}).encode(),
    "one of many kinds": lambda size: json.dumps(
        {"oneOf": [{"type": "object", "properties": {"a": {"const": i}}, "required": ["a"]} for i in range(size // 80)]}
    ).encode(),
    "members": lambda size: json.dumps(
        {"properties": {str(i): {"type": "string"} for i in range(size // 32)}}
    ).encode(),
    "patterns": lambda size: json.dumps({"properties": {"a": {"pattern": "[" * size}}}).encode(),
    "classes": lambda size: json.dumps({"pattern": "[a\\]]" * (size // 5)}).encode(),
    "counts": lambda size: json.dumps({"pattern": "(a{9}){9}" * (size // 9)}).encode(),
    "groups": lambda size: json.dumps({"pattern": "(" * size}).encode(),
}


def _references(one: str, count: int) -> bytes:
    """Definitions that lead to each other."""
    defs = ",".join(f'"{i}":{one.format(i + 1)}' for i in range(count))
    return f'{{"$ref":"#/$defs/0","$defs":{{{defs}{"," if defs else ""}"{count}":{{"type":"string"}}}}}}'.encode()


LARKS: dict[str, Make] = {
    f"{before!a}, {name}": lambda size, b=before, m=make: b + m(size)
    for before in ("", "start: ", 'start: "', "start: /", "start: %json", "start: %json {}", "// ")
    for name, make in {**TEXTS, "schemas": text("%json {} "), "spaces and schemas": text("%json  { } ")}.items()
}


def _lark(data: str) -> None:
    lark.enforceable(data, lambda _: {})


_TOKENS = ("<|im_start|>", "<|im_end|>", "</s>", "<think>")
_WRITER = Writer(
    "{% for m in messages %}<s>{{ m.content }}{% if '</t>' in m.content %}-{% endif %}{% endfor %}", _TOKENS, _TOKENS
)


def _written(said: str) -> None:
    _WRITER.pieces(Task([{"role": "user", "content": said}]))


ROWS: dict[str, Row] = {
    "a body": Row(lambda data: body.parse(data, WIDE), _encoded(JSON), 1 << 16),
    "a body within limits": Row(lambda data: body.parse(data, Limits()), _encoded(JSON), 1 << 16),
    "a body's text": Row(lambda data: body.parse(data, WIDE), _encoded({u: json_text(u) for u in UNITS}, '{"a":', "}")),
    "a body's long strings": Row(LongStrings, _encoded(JSON, " " * (1 << 20)), 1 << 16),
    "a small file": Row(lambda data: small_files.parse_object(data, "a"), _encoded(JSON), 1 << 16),
    "a small file's member": Row(lambda data: small_files.parse_object(data, "a"), _encoded(JSON, '{"a":', "}")),
    "a list of names": Row(lambda data: small_files.listed(data), {"names": lambda n: [str(i) for i in range(n // 8)]}),
    "safetensors": Row(lambda data: SafetensorsHeader(data, "a", 0), SAFETENSORS),
    "GGUF": Row(_read_gguf, GGUF),
    "a zip's directory": Row(lambda data: zip_records("a", data), ZIPS),
    "a table of tensors": Row(lambda data: read_tensors("a", data), PICKLES),
    "tokenizer.json": Row(lambda data: tokenizer_json.load(data, {}), TOKENIZERS),
    "tokenizer.model": Row(lambda data: rank_file.parse(data, "a"), RANKS),
    "SentencePiece's tokenizer.model": Row(lambda data: sentencepiece_file.read(data, "a"), PIECES),
    "pieces": Row(_pieces_of, {"runs": lambda n: _run(n), "words": lambda n: [f"{i}" for i in range(n // 4)]}, 1 << 12),
    **{
        f"scores, {name}": Row(encode, TEXTS, 1 << 15)
        for name, encode in (
            ("words", _scored(_RUNS_OF[:-1], each=False)),
            ("spaces inside", _scored(_RUNS_OF, each=False)),
            ("each space", _scored(_RUNS_OF, each=True)),
        )
    },
    "config.json": Row(lambda data: from_hf(small_files.parse_object(data, "a")), CONFIGS),
    "an image's header": Row(_measure, MEDIA, 1 << 16),
    "an image's address": Row(
        lambda data: encoded.data_image(data, "a"),
        TEXTS
        | {f"data:{u}": lambda n, u=u: "data:" + text(u)(n) for u in (";a", "a", "a/a;", ";base64", ";base64,", "=")},
    ),
    "base64": Row(lambda data: encoded.base64_image(data, "a"), TEXTS),
    **{f"split {name}": Row(_split(name), TEXTS, 1 << 15) for name in (*splits.PATTERNS, *split_steps.STEPS)},
    **{f"ranks of {name}": Row(_encode_ranks(name), TEXTS, 1 << 16) for name in _CORES},
    "added tokens": Row(_cut, ADDED),
    "a table of added tokens": Row(
        _cut_once,
        {
            "runs": lambda n: [AddedToken(i, "a" * i) for i in range(1, int(n**0.5) + 2)],
            "names": lambda n: [AddedToken(i, f"a{i}") for i in range(n // 8)],
        },
    ),
    "merges": Row(lambda text: _MERGES["encode"](text, MAX_IDS), TEXTS, 1 << 15),
    "decoding": Row(_decode, BYTES | {"ends": lambda n: b"\xe6\xbc" * (n // 2), "high": lambda n: b"\xff" * n}),
    "penalties": Row(
        _penalise, {"of all": lambda n: (n // 16, 0), "of a window": lambda n: (n // 16, n // 32)}, 1 << 16
    ),
    "stop strings": Row(_stop, STOPS),
    "calls": Row(_call_at_once, CALLS),
    "calls by characters": Row(_call_by_characters, CALLS),
    "calls or an answer": Row(_call_or_answer, CALLS),
    "calls in a form of their own": Row(_call_in_its_own_form, OWN),
    "arguments that were cut": Row(_say_so_far, CUT),
    "past arguments": Row(arguments_of, dict(JSON)),
    "a tool's name": Row(lambda data: check_name(data, "a"), TEXTS),
    **{f"dialog {name}": Row(_say(name, None), DIALOGS) for name in FORMATS},
    **{f"dialog {name} with tools": Row(_say(name, _TOOLS), DIALOGS) for name in FORMATS},
    "fields": Row(lambda data: told(_CHAT.read(data)[1]), FIELDS),
    "keep_alive": Row(keep_alive_of, TEXTS),
    "host": Row(host_check.host_name, TEXTS),
    "address": Row(host_check._is_address, TEXTS),
    "accept-encoding": Row(page.accepts_gzip, TEXTS),
    "keys": Row(lambda data: _KEYS.find(data, data), TEXTS),
    "many keys": Row(lambda data: Keyring(data), {"names": lambda n: [Key(str(i)) for i in [*range(n // 32), 0]]}),
    "rules": Row(lambda data: scan(data, RULES), TEXTS, 1 << 12),
    "texts beside each other": Row(lambda data: reading.read(data, RULES), READINGS, 1 << 10),
    "texts in a value": Row(leaves, VALUES),
    "arguments as a chat template gets them": Row(
        lambda value: plain_messages([Message("assistant", "", (ToolCall("f", {"a": value}),))], parts=False), VALUES
    ),
    "a dialog that a chat template writes": Row(_written, TEXTS),
    "a form": Row(lambda data: _form(data, 1 << 10), BYTES, 1 << 16),
    "a form in bytes": Row(lambda data: _form(data, 1), BYTES, 1 << 13),
    "the head of a form's part": Row(lambda data: _parameter(data), TEXTS, 1 << 13),
    "how a line of a batch begins": Row(
        lambda data: [*index._beginning(BatchLine("a", "/v1/completions", {"prompt": data}), b"key")], TEXTS, 1 << 16
    ),
    "how a dialog of a batch begins": Row(
        lambda data: index._beginning(BatchLine("a", "/v1/chat/completions", {"messages": [*data]}), b"key"), TEXTS
    ),
    "size of a value": Row(sizes.text_size, VALUES),
    "paths in an error": Row(
        machine_paths.without_paths,
        TEXTS | {u: text(u) for u in ("/home", "/home/", "/tmp/a ", " /usr/", "/a/b", "//")},
    ),
    "a reply": Row(_reply(None), {u: text(u) for u in ("a", " ", "\u0301")}, 1 << 13),
    "a reply that is redacted": Row(
        _reply(Layers(Settings("redact"))), {u: text(u) for u in ("a", "1", " ", "@")}, 1 << 10
    ),
    "framing": Row(_frame(1 << 16), FRAMES),
    "framing, a byte at a time": Row(_frame(1), FRAMES, 1 << 12),
    "stored responses": Row(_keep, {"of one dialog": lambda size: size // 16}),
    "guard's prompt": Row(guard.quoted, TEXTS),
    "guard's answer": Row(lambda data: guard.parse(data, ["S1"]), TEXTS),
    "a schema": Row(lambda data: closing.closed(json_schema.enforceable(data.decode())), SCHEMAS, 1 << 13),
    "what a schema asks in vain": Row(
        lambda data: [*json_schema.unheld(body.parse(data, WIDE))],
        SCHEMAS,
        1 << 13,
    ),
    "a grammar": Row(_lark, LARKS, 1 << 13),
    "images of a prompt": Row(find_images, TEXTS),
    "lines of a prompt": Row(
        lambda data: _whole_text(lambda _: next(data)),
        {"lines": lambda n: _lines(n // 4), "empty": lambda n: _lines(n, "")},
    ),
}


def _lines(count: int, line: str = "abc") -> Iterator[str]:
    return iter(['"""', *[line] * count, '"""'])
