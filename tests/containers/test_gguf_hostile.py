"""Hostile and damaged GGUF files: each is refused with one line that names file, field and limit, in little memory."""

import os
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gguf_bytes import ARRAY, BOOL, F32, Q4_0, STRING, U8, U32, U64, array, gguf, key, string, tensor, text, u32
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.containers.gguf import open_gguf
from herd.containers.gguf_header import MAX_HEADER, MAX_STRINGS
from herd.errors import BadCheckpoint, BadConfig
from herd.weights import build

FIXTURE = Path(__file__).parent.parent / "fixtures" / "gguf" / "llama4-q4_0.gguf"
MOST = (1 << 64) - 1
ONE = tensor("a", (8,))

HOSTILE = {
    # 21: counts
    "tensors 2^64-1": (gguf(num_tensors=MOST), "number of tensors: got 18446744073709551615, expected at most 32768"),
    "keys 2^64-1": (gguf(num_keys=MOST), "number of keys: got 18446744073709551615, expected at most 16384"),
    "more tensors than bytes": (gguf(num_tensors=30_000), "number of tensors: got 30000, expected room .*cut short"),
    "more keys than bytes": (gguf(num_keys=10_000), "number of keys: got 10000, expected room"),
    "one key short": (gguf([u32("x", 1)], num_keys=2, data=64), "key 1 name length: got 0, expected 1 to 256"),
    "one tensor short": (gguf([], [ONE], num_tensors=2, data=64), "tensor 1 name length: got 0"),
    # 22: strings longer than the file
    "key name 2^63": (gguf([string("x", 1 << 63)], num_keys=1), "key 0 name length: got 9223372036854775808"),
    "key name past the end": (gguf([string("x", 200) + bytes(50)], num_keys=1), "key 0 name reaches past the end"),
    "string 2^64-1": (gguf([key("x", STRING, string("y", MOST))]), "key x string length: got 18446744073709551615"),
    "string past the end": (gguf([key("x", STRING, string("y", 5000))]), "key x reaches past the end of the file"),
    "element past the end": (
        gguf([array("x", STRING, 3, string("a") + string("b", 9000) + string("c"))]),
        "a string of key x reaches past the end of the file",
    ),
    "element 2^64-1": (gguf([array("x", STRING, 2, string("a", MOST) + bytes(99))]), "a string of key x reaches past"),
    "tensor name 2^60": (gguf([], [string("a", 1 << 60)], num_tensors=1, data=99), "tensor 0 name length"),
    "empty key": (gguf([u32("", 1)]), "key 0 name length: got 0, expected 1 to 256"),
    "long key": (gguf([u32("k" * 257, 1)]), "key 0 name length: got 257, expected 1 to 256"),
    "key that is not UTF-8": (gguf([key(b"\xff\xfe", U32, bytes(4))]), "key 0 name is not UTF-8"),
    # 23: arrays
    "array of arrays": (gguf([array("x", ARRAY, 1, struct.pack("<IQ", U32, 0))]), "key x is an array of arrays"),
    "deep arrays": (gguf([key("x", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5000)]), "key x is an array of arrays"),
    "element type 99": (gguf([array("x", 99, 1, bytes(8))]), "key x type: got 99, expected 0 to 12"),
    "value type 13": (gguf([key("x", 13, bytes(8))]), "key x type: got 13, expected 0 to 12"),
    "value type 2^32-1": (gguf([key("x", (1 << 32) - 1, bytes(8))]), "key x type: got 4294967295"),
    "count x size overflow": (gguf([array("x", U64, 1 << 61, bytes(64))]), "key x reaches past the end of the file"),
    "count 2^64-1 of bytes": (gguf([array("x", U8, MOST, bytes(64))]), "key x reaches past the end of the file"),
    "strings 2^63": (gguf([array("x", STRING, 1 << 63, bytes(64))]), f"expected at most {MAX_STRINGS} strings"),
    "strings past the end": (
        gguf([array("x", STRING, 1000, bytes(64))]),
        "key x reaches past the end of the file: got 1000 strings",
    ),
    "bool of 2": (gguf([key("x", BOOL, b"\2")]), "key x is no bool: got 2, expected 0 or 1"),
    "bools of 255": (gguf([array("x", BOOL, 3, b"\0\1\xff")]), "key x is no bool: got 255"),
    "cut inside a number": (
        gguf([string("x") + struct.pack("<I", U64) + b"\0"], num_keys=1, alignment=1),
        "key x reaches",
    ),
    # 24: alignment
    "alignment 0": (gguf([u32("general.alignment", 0)]), "general.alignment: got 0, expected a power of two from 8"),
    "alignment 24": (gguf([u32("general.alignment", 24)]), "general.alignment: got 24, expected a power of two"),
    "alignment 2^31": (gguf([u32("general.alignment", 1 << 31)]), "general.alignment: got 2147483648"),
    "alignment of text": (gguf([text("general.alignment", "32")]), "general.alignment type: got 8, expected u32"),
    "alignment of u64": (
        gguf([key("general.alignment", U64, struct.pack("<Q", 32))]),
        "general.alignment type: got 10",
    ),
    # 25: shapes
    "5 axes": (gguf([], [tensor("a", (2, 2, 2, 2, 2))], 128), "tensor a axes: got 5, expected 1 to 4"),
    "0 axes": (gguf([], [tensor("a", ())], 128), "tensor a axes: got 0, expected 1 to 4"),
    "2^32-1 axes": (gguf([], [tensor("a", (2,), axes=(1 << 32) - 1)], 128), "tensor a axes: got 4294967295"),
    "size 0": (gguf([], [tensor("a", (8, 0))], 128), r"tensor a sizes: got \(8, 0\), expected above 0"),
    "sizes overflow": (gguf([], [tensor("a", (1 << 40, 1 << 40))], 128), "tensor a reaches past the end of the file"),
    "sizes wrap to 8": (gguf([], [tensor("a", (1 << 63, 2, 8))], 128), "tensor a reaches past the end of the file"),
    "half a block": (
        gguf([], [tensor("a", (33,), Q4_0)], 128),
        "tensor a row of q4_0: got 33 weights, expected a mult",
    ),
    # 26: places
    "unaligned": (gguf([], [tensor("a", (8,), offset=4)], 128), "tensor a offset: got 4, expected a multiple of 32"),
    "past the end": (gguf([], [tensor("a", (8,), offset=1 << 40)], 128), "tensor a reaches past the end of the file"),
    "offset 2^64-32": (gguf([], [tensor("a", (8,), offset=MOST - 31)], 128), "tensor a reaches past the end"),
    "last tensor cut": (gguf([], [tensor("a", (9,))], 32), "tensor a reaches past the end of the file: got 36 bytes"),
    "overlapping": (gguf([], [ONE, tensor("b", (4,))], 128), "tensors a and b overlap"),
    "inside another": (gguf([], [tensor("a", (64,)), tensor("b", (4,), offset=64)], 512), "tensors a and b overlap"),
    # 27: twice
    "key twice": (gguf([u32("x", 1), u32("x", 1)]), "key x stands twice"),
    "tensor twice": (gguf([], [ONE, tensor("a", (8,), offset=32)], 128), "tensor a stands twice"),
    # 28: number formats
    "type 200": (
        gguf([], [tensor("a", (256,), 200)], 999),
        "tensor a number format: got unknown type 200, expected f32",
    ),
    "type of nvfp4": (
        gguf([], [tensor("a", (256,), 40)], 999),
        r"tensor a number format: got nvfp4 \(type 40\), expected",
    ),
    "type of q8_1": (gguf([], [tensor("a", (256,), 9)], 999), r"number format: got q8_1 \(type 9\)"),
    # the rest of a head
    "nothing": (b"", "too short for a GGUF header: got 0 bytes"),
    "seven bytes": (b"GGUF\3\0\0", "too short for a GGUF header: got 7 bytes"),
    "magic alone": (gguf()[:23], "too short for a GGUF header: got 23 bytes"),
    "safetensors": (struct.pack("<Q", 2) + b"{}" + bytes(99), "not a GGUF file: got first bytes"),
    "old ggml": (gguf(magic=b"tjgg"), "not a GGUF file"),
    "version 1": (gguf(version=1), "GGUF version: got 1, expected 2 or 3; convert it with a newer llama.cpp"),
    "version 4": (gguf(version=4), "GGUF version: got 4, expected 2 or 3"),
    "version 0": (gguf(version=0), "GGUF version: got 0, expected 2 or 3"),
    "big-endian": (gguf(version=3 << 24), "big-endian GGUF is not read: expected little-endian"),
}


def refused(path: Path) -> str:
    """Open a file that must be refused; its message. Watches the memory."""
    tracemalloc.start()
    try:
        with pytest.raises(BadCheckpoint) as caught:
            open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert peak < 64 << 20
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    assert str(path) in message
    return message


def use(path: Path) -> None:
    """Everything that loading does with a file."""
    file = open_gguf(path)
    for name in file.keys:
        file.keys[name]
    config = config_from_gguf(file)
    build(config, GgufSource(file, config))


def accepted(path: Path) -> bool:
    """Whether a file loads; anything but a refusal in one line fails the test."""
    try:
        use(path)
    except (BadCheckpoint, BadConfig) as e:
        message = str(e)
    else:
        return True
    assert "\n" not in message
    return False


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_file_field_and_limit(name, tmp_path):
    content, expected = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    message = refused(path)
    assert re.search(expected, message), message


def test_every_case_is_sound_but_for_its_one_lie(tmp_path):
    # The builder's plain file opens: the cases above fail for what they say, not for the builder.
    path = tmp_path / "model.gguf"
    keys = [u32("general.alignment", 32), text("t", "x"), array("s", STRING, 2, string("a") + string("b"))]
    path.write_bytes(gguf(keys, [ONE, tensor("b", (64, 2), Q4_0, 32)], 32 + 72))
    assert list(open_gguf(path).tensors) == ["a", "b"]


def test_folders_devices_and_pipes_are_refused_without_waiting(tmp_path):
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe, Path("/dev/zero")):
        assert "not a regular file" in refused(path)


def test_control_characters_in_names_stay_out_of_the_message(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([], [tensor("a\x1b[31m\nb", (2, 0))], 128))
    with pytest.raises(BadCheckpoint) as caught:
        open_gguf(path)
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_string_that_is_not_utf8_is_refused_when_it_is_asked_for(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf([array("tokens", STRING, 2, string("a") + string(b"\xff"))]))
    keys = open_gguf(path).keys
    with pytest.raises(BadCheckpoint, match="key tokens, string 1 is not UTF-8: got byte 0xff"):
        keys["tokens"]


# -- large files, written sparse: what they claim is really there ---------------------------------------------------


def test_a_million_tensors_and_a_huge_header_are_refused_early(tmp_path):
    path = tmp_path / "model.gguf"
    with path.open("wb") as f:
        f.write(gguf(num_tensors=1_000_000))
        f.truncate(8 << 30)
    assert "number of tensors: got 1000000, expected at most 32768" in refused(path)
    with path.open("wb") as f:
        f.write(gguf([array("x", U8, 4 << 30, b"")], alignment=1))
        f.truncate(8 << 30)
    assert f"key x makes the header too long: got 4294967296 bytes, expected at most {MAX_HEADER}" in refused(path)


@pytest.mark.slow
def test_the_largest_header_that_is_allowed_takes_little_memory(tmp_path):
    # 32,768 tensors with the longest names, and a million strings.
    path = tmp_path / "model.gguf"
    tensors = [tensor(f"{i:0256}", (8,), 0, 32 * i) for i in range(32_768)]
    path.write_bytes(gguf([array("x", STRING, MAX_STRINGS, bytes(8 * MAX_STRINGS))], tensors, 32 * 32_768))
    tracemalloc.start()
    try:
        file = open_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(file.tensors) == 32_768


# -- 29: a config that describes no model ---------------------------------------------------------------------------


def patched(tmp_path: Path, name: str, code: str, value: object) -> Path:
    """The fixture with one number key changed in place."""
    content = bytearray(FIXTURE.read_bytes())
    at = content.index(string(name)) + 8 + len(name) + 4
    struct.pack_into(code, content, at, value)
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "code", "value", "message"),
    [
        ("llama4.block_count", "<I", 10**9, "block_count: got 1000000000, expected a whole number from 1 to 1024"),
        ("llama4.block_count", "<I", 0, "block_count: got 0"),
        ("llama4.block_count", "<I", 1024, "11220 tensors are missing (blk.10.attn_k.weight, "),
        ("llama4.block_count", "<I", 3, "13 tensors are unknown to the config (blk.3."),
        ("llama4.embedding_length", "<I", 96, "shape of tensor token_embd.weight: got (320, 64), expected (320, 96)"),
        ("llama4.embedding_length", "<I", 1 << 31, "embedding_length: got 2147483648"),
        ("llama4.attention.head_count", "<I", 0, "head_count: got 0"),
        ("llama4.attention.head_count", "<I", 3, "num_heads (3) must be a multiple of num_kv_heads (2)"),
        ("llama4.attention.head_count_kv", "<I", 0, "num_kv_heads: got 0"),
        ("llama4.attention.key_length", "<I", 18, "value_length: got 16, expected 18"),
        ("llama4.expert_count", "<I", 10**9, "expert_count: got 1000000000"),
        ("llama4.expert_count", "<I", 0, "expert_count: got 0, expected 1 or more"),
        ("llama4.expert_count", "<I", 8, "shape of tensor blk.1.ffn_gate_inp.weight: got (4, 64), expected (8, 64)"),
        ("llama4.expert_used_count", "<I", 9, "experts_per_token: got 9"),
        ("llama4.interleave_moe_layer_step", "<I", 1, "14 tensors are missing (blk.0.ffn_down_exps.weight, "),
        ("llama4.rope.freq_base", "<f", float("nan"), "rope.freq_base: got nan, expected a finite number above 0"),
        ("llama4.attention.layer_norm_rms_epsilon", "<f", float("inf"), "layer_norm_rms_epsilon: got inf"),
        ("llama4.context_length", "<I", 0, "llama4.context_length: got 0"),
        ("llama4.feed_forward_length", "<I", 0, "dense_width: got 0"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_fit_its_file_is_refused_before_anything_is_built(tmp_path, name, code, value, message):
    path = patched(tmp_path, name, code, value)
    tracemalloc.start()
    try:
        with pytest.raises((BadConfig, BadCheckpoint)) as caught:
            use(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (text("llama.block_count", "2"), "block_count: got '2'|block_count: got 2"),
        (key("llama.block_count", F32, struct.pack("<f", 2)), "block_count: got 2.0"),
        (key("llama.block_count", BOOL, b"\1"), "block_count: got True"),
        (array("llama.block_count", U32, 2, bytes(8)), "block_count"),
        (array("llama.rope.freq_base", F32, 2, bytes(8)), "a key has a value of the wrong type|no key"),
        (text("general.architecture", "gpt2"), "general.architecture: got gpt2, expected llama4 or llama"),
    ],
)
def test_keys_of_the_wrong_type_are_refused(tmp_path, value, message):
    keys = [value] if b"general.architecture" in value else [text("general.architecture", "llama"), value]
    keys += [u32("llama." + k, 2) for k in ("block_count", "embedding_length") if ("llama." + k).encode() not in value]
    keys += [u32("llama.attention.head_count", 1), u32("llama.feed_forward_length", 8), u32("llama.context_length", 8)]
    keys += [key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5))]
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(keys, [tensor("token_embd.weight", (2, 8))], 64))
    with pytest.raises((BadConfig, BadCheckpoint), match=message):
        config_from_gguf(open_gguf(path))


# -- damage ---------------------------------------------------------------------------------------------------------


def test_every_cut_of_a_file_is_refused(tmp_path):
    content = FIXTURE.read_bytes()
    path = tmp_path / "model.gguf"
    places = np.random.default_rng(0).integers(0, len(content), 200)
    for size in [*range(0, 400, 7), *places.tolist(), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(BadCheckpoint):
            use(path)


def test_changed_bytes_in_the_head_are_refused_or_harmless(tmp_path):
    content = FIXTURE.read_bytes()
    head = min(t.start for t in open_gguf(FIXTURE).tensors.values())
    rng = np.random.default_rng(1)
    path = tmp_path / "model.gguf"
    refusals = 0
    for _ in range(300):
        damaged = bytearray(content)
        for at in rng.integers(0, head, rng.integers(1, 4)):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        refusals += not accepted(path)
    assert 30 < refusals < 300


@pytest.mark.slow
def test_fuzz_nothing_but_refusal_or_success(tmp_path):
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    contents = [p.read_bytes() for p in sorted(FIXTURE.parent.glob("*q4_0.gguf"))]
    path = tmp_path / "model.gguf"

    @hypothesis.settings(max_examples=3000, deadline=None, database=None)
    @hypothesis.given(
        strategies.sampled_from(range(len(contents))),
        strategies.lists(
            strategies.tuples(strategies.integers(0, 12_000), strategies.binary(min_size=1, max_size=8)), max_size=6
        ),
        strategies.integers(0, 4000),
    )
    def check(which, changes, cut):
        damaged = bytearray(contents[which])
        for at, value in changes:
            damaged[at : at + len(value)] = value
        path.write_bytes(damaged[: len(damaged) - cut])
        accepted(path)

    check()
