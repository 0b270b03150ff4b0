"""The GGUF writer: what llama.cpp reads (the gguf package's file is the model), bounded, whole or not at all."""

import errno
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from herd import formats
from herd.checkpoint.gguf.keys import config_keys, key_bytes, token_keys
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.checkpoint.gguf.write import write_gguf
from herd.checkpoint.random_weights import RandomSource, random_model
from herd.checkpoint.walk import walk
from herd.config import CRIA, GUARD, MAVERICK, SCOUT, TINY, Llama4Config, RopeScaling
from herd.containers.gguf import open_gguf
from herd.errors import BadCheckpoint, DoesNotFit, UsageError
from herd.weights import Dense, Experts, build

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gguf"
TEXT = replace(TINY, vision=None)
DENSE = Llama4Config(2, 64, 4, 2, 16, 320, 96, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 64), max_context=4096)
WIDE = replace(TEXT, width=256, num_heads=8, dense_width=256, expert_width=256)
"""Rows of every matrix fill blocks of 256."""


def named(config, source):
    """The stream form of a source."""
    for w in walk(config):
        if w.kind == "vector":
            yield w.name, source.vector(w.name, w.shape)
        elif w.kind == "experts":
            yield w.name, source.experts(w.name, *w.shape).w
        else:
            node = source.matrix(w.name, *w.shape, bias=w.bias)
            yield w.name + ".weight", node.w
            if w.bias:
                yield w.name + ".bias", node.bias


def tokenizer_of(path: Path) -> dict:
    keys = open_gguf(path).keys
    return {k: keys[k] for k in keys if k.startswith("tokenizer.")}


# -- the file that llama.cpp has read -------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["llama4", "llama"])
def test_our_file_says_what_the_gguf_packages_file_says(arch, tmp_path):
    # llama.cpp loaded the fixture (its logits are kept). Ours has the same tensors, and every key of it with its type.
    path = FIXTURES / f"{arch}-f32.gguf"
    theirs = open_gguf(path)
    config = config_from_gguf(theirs)
    source = GgufSource(theirs, config)
    ours = open_gguf(write_gguf(tmp_path / "ours.gguf", config, source, tokenizer_of(path), "f32").path)
    for name in theirs.keys:
        if name == "general.name":
            continue
        want, got = theirs.keys[name], ours.keys[name]
        np.testing.assert_array_equal(got, want, err_msg=name)
        assert ours.keys._values[name].type == theirs.keys._values[name].type, name
        assert ours.keys._values[name].element == theirs.keys._values[name].element, name
    assert set(ours.keys) - set(theirs.keys) <= {"general.quantization_version", f"{arch}.attention.sliding_window"}
    assert set(ours.tensors) == set(theirs.tensors)
    for name, info in theirs.tensors.items():
        assert ours.tensors[name].shape == info.shape
        np.testing.assert_array_equal(ours.array(name), theirs.array(name), err_msg=name)


@pytest.mark.parametrize("kind", ["f16", "q4_0", "q4_k"])
def test_the_gguf_package_reads_our_file(kind, tmp_path):
    package = pytest.importorskip("gguf")
    written = write_gguf(tmp_path / "m.gguf", WIDE, RandomSource(WIDE), {"tokenizer.ggml.model": "gpt2"}, kind)
    ours, theirs = open_gguf(written.path), package.GGUFReader(str(written.path))
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for t in theirs.tensors:
        want = package.quants.dequantize(t.data, t.tensor_type).reshape(ours.info(t.name).shape)
        np.testing.assert_array_equal(ours.decoded(t.name), want)
    assert theirs.fields["tokenizer.ggml.model"].contents() == "gpt2"


# -- there and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TEXT, TINY, DENSE], ids=["text", "vision", "dense"])
def test_float32_comes_back_as_it_was(config, tmp_path):
    mmproj = tmp_path / "mmproj.gguf" if config.vision else None
    written = write_gguf(tmp_path / "m.gguf", config, RandomSource(config), {}, "f32", mmproj=mmproj)
    file, second = open_gguf(written.path), open_gguf(mmproj) if mmproj else None
    back = config_from_gguf(file, second)
    assert back.layers == config.layers
    assert back.vision == config.vision
    np.testing.assert_allclose(back.rope_freqs(), config.rope_freqs(), rtol=1e-6)
    for field in ("chunk", "norm_eps", "floor_scale", "attn_scale", "num_experts", "bos_id", "eos_ids", "max_context"):
        assert getattr(back, field) == getattr(config, field), field
    model = build(back, GgufSource(file, back, second))
    for (name, want), (_, got) in zip(
        named(config, RandomSource(config)), named(config, AsHf(config, model)), strict=True
    ):
        np.testing.assert_array_equal(got, want, err_msg=name)


class AsHf:
    """A tree read from GGUF, with experts joined and turned as Hugging Face has them."""

    def __init__(self, config, model):
        from herd.checkpoint.walk import TreeSource

        self.tree = TreeSource(config, model)
        self.vector, self.matrix = self.tree.vector, self.tree.matrix

    def experts(self, name, *shape):
        node = self.tree.experts(name, *shape)
        if node.kind == "pair":
            return Experts(np.concatenate([node.gate.w, node.up.w], axis=1).transpose(0, 2, 1))
        return Experts(node.w.transpose(0, 2, 1))


@pytest.mark.parametrize("kind", formats.WRITTEN)
def test_every_number_format_is_written_as_its_encoder_says(kind, tmp_path):
    written = write_gguf(tmp_path / "m.gguf", WIDE, RandomSource(WIDE), {}, kind)
    assert written.substituted == {}
    file = open_gguf(written.path)
    assert written.num_bytes == written.path.stat().st_size
    source = RandomSource(WIDE)
    q = source.matrix("model.layers.2.self_attn.q_proj", 256, 256).w
    np.testing.assert_array_equal(file.raw("blk.2.attn_q.weight"), formats.encode(kind, q))
    experts = source.experts("model.layers.3.feed_forward.experts.gate_up_proj", 4, 256, 512).w
    up = np.ascontiguousarray(experts[2, :, 256:].T)
    np.testing.assert_array_equal(file.raw("blk.3.ffn_up_exps.weight")[2], formats.encode(kind, up))
    for name, info in file.tensors.items():
        small = len(info.shape) == 1 or "ffn_gate_inp" in name
        assert info.format == ("f32" if small else kind), name


def test_a_tree_a_source_and_a_shuffled_stream_give_the_same_file(tmp_path):
    source = RandomSource(TINY, dtype="bfloat16")
    model = random_model(TINY, dtype="bfloat16")
    stream = list(named(TINY, source))
    random.Random(0).shuffle(stream)
    contents = set()
    for i, weights in enumerate((source, model, iter(stream))):
        path = tmp_path / f"{i}.gguf"
        write_gguf(path, TINY, weights, {"general.name": "x"}, "q8_0", mmproj=tmp_path / f"{i}-mmproj.gguf")
        contents.add((path.read_bytes(), (tmp_path / f"{i}-mmproj.gguf").read_bytes()))
    assert len(contents) == 1


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*-q*.gguf")), ids=lambda p: p.stem)
def test_codes_in_the_wanted_format_are_copied_bit_for_bit(path, tmp_path):
    kind = path.stem.split("-")[1]
    file = open_gguf(path)
    config = config_from_gguf(file)
    again = open_gguf(write_gguf(tmp_path / "m.gguf", config, GgufSource(file, config), {}, kind).path)
    for name, info in file.tensors.items():
        if again.info(name).format == info.format:
            np.testing.assert_array_equal(again.raw(name), file.raw(name), err_msg=name)
        else:
            assert info.format != kind


def test_a_quantized_file_becomes_another_type_by_its_values(tmp_path):
    file = open_gguf(FIXTURES / "llama4-q8_0.gguf")
    config = config_from_gguf(file)
    again = open_gguf(write_gguf(tmp_path / "m.gguf", config, GgufSource(file, config), {}, "f32").path)
    for name in file.tensors:
        np.testing.assert_array_equal(again.array(name), file.decoded(name), err_msg=name)


def test_short_rows_get_another_format_and_are_reported(tmp_path):
    written = write_gguf(tmp_path / "m.gguf", TEXT, RandomSource(TEXT), {}, "q4_k")
    file = open_gguf(written.path)
    assert written.substituted["blk.0.attn_q.weight"] == "q5_0"
    for name, kind in written.substituted.items():
        assert file.info(name).format == kind
    odd = replace(DENSE, width=72, head_size=18)
    written = write_gguf(tmp_path / "odd.gguf", odd, RandomSource(odd), {}, "q4_0")
    assert written.substituted["blk.0.attn_q.weight"] == "f16"
    assert "blk.0.ffn_down.weight" not in written.substituted  # rows of 96


# -- what GGUF can say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SCOUT, MAVERICK], ids=["scout", "maverick"])
def test_the_released_models_are_said_without_a_note(config):
    keys, notes = config_keys(replace(config, vision=None))
    assert notes == []
    assert keys["general.architecture"] == "llama4"
    assert keys["llama4.feed_forward_length"] == 16384
    assert keys["llama4.expert_feed_forward_length"] == 8192
    assert keys["llama4.interleave_moe_layer_step"] == (1 if config is SCOUT else 2)
    assert "llama4.attention.sliding_window" not in keys
    assert token_keys(config) == {
        "tokenizer.ggml.bos_token_id": 200000,
        "tokenizer.ggml.eos_token_id": 200001,
        "tokenizer.ggml.eom_token_id": 200007,
        "tokenizer.ggml.eot_token_id": 200008,
        "tokenizer.ggml.padding_token_id": 200018,
    }


def test_what_only_herd_reads_is_noted_with_the_length_from_which_it_matters():
    _, notes = config_keys(TEXT)
    assert notes == [
        "llama.cpp takes chunk 8192 for 16: other logits beyond 16 tokens",
        "llama.cpp takes floor_scale 8192 for 16: other logits beyond 15 tokens",
    ]
    assert config_keys(replace(TEXT, max_context=15))[1] == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GUARD, "GGUF cannot say which layers have experts"),
        (CRIA, "GGUF cannot say qk_norm of layer 0: got False, expected True; write safetensors"),
        (replace(TEXT, use_qk_norm=False), "GGUF cannot say qk_norm of layer 0"),
        (replace(TEXT, moe_pattern=(True, False, False, True)), "GGUF cannot say which layers have experts"),
        (replace(TEXT, rope_pattern=(False, True, True, True)), "GGUF cannot say which layers have no RoPE"),
        (replace(TEXT, temperature_tuning=False), "GGUF cannot say temperature of layer 3"),
        (replace(TEXT, chunk_pattern=(True, False, True, True)), "GGUF cannot say chunked of layer 1"),
    ],
)
def test_a_config_that_gguf_cannot_say_is_refused(config, message, tmp_path):
    config = replace(config, vision=None)
    with pytest.raises(UsageError) as caught:
        write_gguf(tmp_path / "m.gguf", config, iter(()), {})
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [object(), None, 1 << 64, [1, "a"], {"a": 1}, np.zeros((2, 2)), b"raw"])
def test_a_key_of_no_type_that_gguf_has_is_refused(value):
    with pytest.raises(UsageError, match=r"key general\.x"):
        key_bytes("general.x", value)


# -- whole or not at all --------------------------------------------------------------------------------------------


def test_a_second_file_is_asked_for_and_refused_where_there_is_nothing_to_put(tmp_path):
    with pytest.raises(UsageError, match="keeps the vision part in a second file; name a file for it"):
        write_gguf(tmp_path / "m.gguf", TINY, RandomSource(TINY), {})
    with pytest.raises(UsageError, match="the model has no vision part"):
        write_gguf(tmp_path / "m.gguf", TEXT, RandomSource(TEXT), {}, mmproj=tmp_path / "v.gguf")
    with pytest.raises(UsageError, match="number format of a GGUF file: got iq3_s, expected f32, f16"):
        write_gguf(tmp_path / "m.gguf", TEXT, RandomSource(TEXT), {}, "iq3_s")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_stays_unless_told_otherwise(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        write_gguf(path, TEXT, RandomSource(TEXT), {})
    assert path.read_text() == "mine"
    write_gguf(path, TEXT, RandomSource(TEXT), {}, overwrite=True)
    assert open_gguf(path).tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:-1], "1 tensors were not given: got lm_head.weight"),
        (lambda t: [*t, t[0]], "tensor model.embed_tokens.weight stands twice"),
        (lambda t: [*t, ("model.layers.9.x", t[0][1])], "tensor model.layers.9.x belongs to no model of this config"),
        (lambda t: [(t[0][0], t[0][1][:, :32]), *t[1:]], "model.embed_tokens.weight: shape: got (320, 32)"),
        (lambda t: [(n, a[:2] if "experts.down" in n else a) for n, a in t], "experts.down_proj"),
        (lambda t: [(n, a * np.nan if "q_proj" in n else a) for n, a in t], "q_proj.weight: q8_0 encode: got a NaN"),
        (
            lambda t: [(n, a * 1e30 if "v_proj" in n else a) for n, a in t],
            "v_proj.weight: q8_0 encode: got a weight of",
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name_and_leave_nothing(change, message, tmp_path):
    with pytest.raises(BadCheckpoint) as caught:
        write_gguf(tmp_path / "m.gguf", TEXT, iter(change(list(named(TEXT, RandomSource(TEXT))))), {}, "q8_0")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_files_and_nothing_else(tmp_path):
    path, mmproj = tmp_path / "m.gguf", tmp_path / "mmproj.gguf"
    path.write_text("old")
    mmproj.write_text("old too")

    def full(source):
        for i, pair in enumerate(named(TINY, source)):
            if i == 30:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield pair

    with pytest.raises(DoesNotFit, match=r"gguf: the disk is full \(No space left on device\); nothing was left"):
        write_gguf(path, TINY, full(RandomSource(TINY)), {}, mmproj=mmproj, overwrite=True)
    assert path.read_text() == "old"
    assert mmproj.read_text() == "old too"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gguf", "mmproj.gguf"]


def test_a_text_tensor_that_never_comes_keeps_the_vision_file_back_too(tmp_path):
    stream = [(n, a) for n, a in named(TINY, RandomSource(TINY)) if n != "lm_head.weight"]
    with pytest.raises(BadCheckpoint, match=r"1 tensors were not given: got lm_head\.weight"):
        write_gguf(tmp_path / "m.gguf", TINY, iter(stream), {}, mmproj=tmp_path / "mmproj.gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_refused_before_writing(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1000))
    with pytest.raises(DoesNotFit, match="are free"):
        write_gguf(tmp_path / "m.gguf", TEXT, RandomSource(TEXT), {})
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_at_one_expert_whatever_the_stack(tmp_path):
    # 64 experts of 1 MiB each as float32: 192 MiB through a few.
    config = replace(TEXT, num_layers=1, moe_interleave=1, nope_interval=0, chunk=None, num_experts=64,
                     width=512, expert_width=512, dense_width=32, num_heads=2, num_kv_heads=1)  # fmt: skip
    stack = np.lib.stride_tricks.as_strided(np.ones(1, np.float32), (64, 512, 1024), (0, 0, 0))

    class Flat(RandomSource):
        def experts(self, name, num_experts, inputs, outputs):
            return Experts(stack[:, :, :outputs], name)

    seen = []
    tracemalloc.start()
    try:
        write_gguf(tmp_path / "m.gguf", config, Flat(config), {}, "q8_0", progress=lambda *a: seen.append(a))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 24 << 20
    before = [done for _, done, _ in seen]
    (at,) = [i for i, told in enumerate(seen) if told[0] == "model.layers.0.feed_forward.experts.down_proj"]
    assert before[at] - before[at - 1] == 64 * 512 * 544


def test_progress_names_every_tensor_with_its_bytes(tmp_path):
    seen = []
    written = write_gguf(tmp_path / "m.gguf", TEXT, RandomSource(TEXT), {}, "f16", progress=lambda *a: seen.append(a))
    assert [name for name, _, _ in seen] == [name for w in walk(TEXT) for name in w.tensors]
    assert seen[-1][1] == seen[-1][2] < written.num_bytes < seen[-1][2] + 8192


def test_a_node_that_is_no_matrix_is_refused(tmp_path):
    source = RandomSource(TEXT)
    stream = [(n, Dense(a, None, n) if n == "lm_head.weight" else a) for n, a in named(TEXT, source)]
    assert write_gguf(tmp_path / "m.gguf", TEXT, iter(stream), {}).types["f16"] > 0
    with pytest.raises(UsageError, match="merge adapters before"):
        write_gguf(tmp_path / "n.gguf", TEXT, iter([("lm_head.weight", object())]), {})
