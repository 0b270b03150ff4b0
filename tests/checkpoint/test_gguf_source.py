"""A GGUF file as a source: kinds of node, names, the config, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_bytes import gguf, string, tensor
from herd.checkpoint.gguf import write
from herd.checkpoint.gguf.names import ALIASES, GATE_UP, TABLE, gguf_names, other_name
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.checkpoint.gguf.write import write_gguf
from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.random_weights import RandomSource
from herd.checkpoint.walk import walk
from herd.config import BEHEMOTH, GUARD, MAVERICK, SCOUT, TINY, RopeDivisors
from herd.containers.gguf import open_gguf
from herd.containers.gguf_header import Keys
from herd.errors import BadCheckpoint, BadConfig
from herd.weights import Dense, Packed, Pair, build

FIXTURES = Path(__file__).parent.parent / "fixtures" / "gguf"


def load(path: Path):
    file = open_gguf(path)
    config = config_from_gguf(file)
    return file, config, build(config, GgufSource(file, config))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """TINY with vision, f32: text file and mmproj."""
    folder = tmp_path_factory.mktemp("tiny")
    written = write_gguf(folder / "tiny.gguf", TINY, RandomSource(TINY), {}, "f32", mmproj=folder / "mmproj.gguf")
    return written.path, written.mmproj.path


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [SCOUT, MAVERICK, BEHEMOTH, GUARD, TINY], ids=["scout", "maverick", "behemoth", "guard", "tiny"]
)
def test_every_tensor_of_every_preset_has_its_own_name(config):
    names = [tensor for w in walk(config) for name in w.tensors for tensor in gguf_names(name)]
    assert len(set(names)) == len(names)


def test_names_are_those_of_the_gguf_package():
    package = pytest.importorskip("gguf")
    known = {package.TENSOR_NAMES[t] for ts in package.MODEL_TENSORS.values() for t in ts}
    ours = {t.replace("{}", "{bid}") for t in TABLE.values()}
    # Its adapter's names carry a number where ours are two fixed ones.
    assert {t for t in ours if t not in known} <= {"mm.model.mlp.1", "mm.model.mlp.2"}
    assert "mm.model.mlp.{bid}" in known


def test_names_by_hand():
    assert gguf_names("model.layers.12.self_attn.o_proj.weight") == ("blk.12.attn_output.weight",)
    assert gguf_names(GATE_UP.format(3)) == ("blk.3.ffn_gate_exps.weight", "blk.3.ffn_up_exps.weight")
    assert gguf_names("model.layers.0.feed_forward.experts.down_proj") == ("blk.0.ffn_down_exps.weight",)
    assert gguf_names("vision_model.class_embedding") == ("v.class_embd",)
    assert gguf_names("vision_model.positional_embedding_vlm") == ("v.position_embd.weight",)
    assert gguf_names("vision_model.model.layers.9.mlp.fc1.bias") == ("v.blk.9.ffn_up.bias",)
    assert gguf_names("vision_model.vision_adapter.mlp.fc2.weight") == ("mm.model.mlp.2.weight",)
    assert other_name("v.blk.4.ln2.bias") == "v.blk.4.attn_post_norm.bias"
    assert other_name("v.blk.4.ln1.bias") is None
    assert set(ALIASES) <= set(TABLE.values())
    with pytest.raises(BadCheckpoint, match=r"GGUF has no name for the tensor: got model\.layers\.0\.mamba\.weight"):
        gguf_names("model.layers.0.mamba.weight")


# -- nodes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("q4_0", Packed), ("q6_k", Packed), ("f16", Dense), ("bf16", Dense), ("f32", Dense)]
)
def test_nodes_are_views_of_the_file(name, kind):
    file, config, model = load(FIXTURES / f"llama4-{name}.gguf")
    moe = model.blocks[3].ffn
    assert isinstance(moe.gate_up, Pair)
    E, F, D = config.num_experts, config.expert_width, config.width
    for node, shape in ((moe.gate_up.gate, (E, F, D)), (moe.gate_up.up, (E, F, D)), (moe.down, (E, D, F))):
        assert type(node) is kind
        array = node.codes if kind is Packed else node.w
        assert not array.flags.owndata
        if kind is Packed:
            assert node.shape == shape
            assert node.format == name
        else:
            assert array.shape == shape
            assert array.dtype == {"f16": np.float16, "bf16": np.uint16, "f32": np.float32}[name]
    np.testing.assert_array_equal(file.decoded("blk.3.ffn_gate_inp.weight"), moe.router.w)
    assert moe.router.w.dtype == np.float32
    assert model.norm.w.dtype == np.float32
    assert model.blocks[0].q.name == "model.layers.0.self_attn.q_proj"


def test_without_an_output_table_the_head_is_the_embedding():
    _, config, model = load(FIXTURES / "llama-q4_k.gguf")
    assert config.tied_embeddings
    assert model.head is model.embed
    _, config, model = load(FIXTURES / "llama-q4_0.gguf")
    assert not config.tied_embeddings
    assert model.head is not model.embed


def test_the_config_of_a_file_is_what_the_script_wrote():
    _, c, _ = load(FIXTURES / "llama4-f32.gguf")
    assert (c.num_layers, c.width, c.num_heads, c.num_kv_heads, c.head_size) == (4, 64, 4, 2, 16)
    assert (c.vocab_size, c.dense_width, c.expert_width, c.num_experts, c.moe_interleave) == (320, 96, 32, 4, 2)
    assert (c.nope_interval, c.chunk, c.use_qk_norm, c.temperature_tuning, c.norm_eps) == (4, 8192, True, True, 1e-5)
    assert c.rope_scaling == RopeDivisors((1.0,) * 4 + (16.0,) * 4)
    assert len(c.eos_ids) == 2
    _, c, _ = load(FIXTURES / "llama-f32.gguf")
    assert (c.num_experts, c.chunk, c.nope_interval, c.use_qk_norm, c.norm_eps) == (0, None, 0, False, 1e-6)


def test_lists_of_a_file_are_read_once_and_by_the_tokenizer_alone(monkeypatch):
    """Those of a vocabulary are most of a header: every command waits for them."""
    read, real = [], Keys._strings

    def spy(keys, name, at, count):
        read.extend([name] * (count > 1))
        return real(keys, name, at, count)

    monkeypatch.setattr(Keys, "_strings", spy)
    with open_checkpoint(FIXTURES / "llama-f32.gguf") as checkpoint:
        assert read == []
        checkpoint.load_tokenizer()
    assert sorted(read) == ["tokenizer.ggml.merges", "tokenizer.ggml.tokens"]


# -- vision ---------------------------------------------------------------------------------------------------------


def test_vision_comes_from_the_second_file(tiny):
    file, mmproj = open_gguf(tiny[0]), open_gguf(tiny[1])
    config = config_from_gguf(file, mmproj)
    assert config.vision == TINY.vision
    assert (config.image_start_id, config.image_end_id, config.patch_id) == (260, 261, 266)
    model = build(config, GgufSource(file, config, mmproj))
    source = RandomSource(TINY)
    np.testing.assert_array_equal(model.vision.class_U, source.vector("vision_model.class_embedding", (64,)))
    fc1 = source.matrix("vision_model.model.layers.1.mlp.fc1", 160, 64, bias=True)
    np.testing.assert_array_equal(model.vision.blocks[1].ffn.up.w, fc1.w)
    np.testing.assert_array_equal(model.vision.blocks[1].ffn.up.bias, fc1.bias)


def test_names_and_keys_that_other_converters_write_are_read_too(tmp_path, monkeypatch):
    keys = write.vision_keys

    def other_keys(config, type):
        return {k.replace("clip.projector", "clip.vision.projector"): v for k, v in keys(config, type).items()}

    with monkeypatch.context() as patch:
        patch.setattr(write, "vision_keys", other_keys)
        patch.setitem(TABLE, "vision_model.model.layers.{}.post_attention_layernorm", "v.blk.{}.attn_post_norm")
        write_gguf(tmp_path / "t.gguf", TINY, RandomSource(TINY), {}, "f32", mmproj=tmp_path / "mmproj.gguf")
    file, mmproj = open_gguf(tmp_path / "t.gguf"), open_gguf(tmp_path / "mmproj.gguf")
    assert "v.blk.1.attn_post_norm.bias" in mmproj.tensors
    assert "clip.vision.projector_type" in mmproj.keys
    config = config_from_gguf(file, mmproj)
    got = build(config, GgufSource(file, config, mmproj)).vision.blocks[1].norm2.w
    want = RandomSource(TINY).vector("vision_model.model.layers.1.post_attention_layernorm.weight", (64,))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"clip.use_gelu", b"clip.use_silu", "clip.use_gelu: got False, expected True"),
        (string("llama4"), string("llava4"), "projector type: got llava4, expected llama4"),
        (string("clip") + b"\x04", string("clap") + b"\x04", "general.architecture: got clap, expected clip"),
        (b"vision.patch_size", b"vision.patch_sise", "no key clip.vision.patch_size"),
        (
            b"v.class_embd",
            b"v.klass_embd",
            "1 tensors are missing (v.class_embd), 1 tensors are unknown to the config",
        ),
        (np.float32([0.5] * 3).tobytes(), np.float32([0.4] * 3).tobytes(), "image_mean: got"),
    ],
)
def test_an_mmproj_file_of_another_kind_is_refused(tiny, tmp_path, old, new, message):
    content = tiny[1].read_bytes()
    if old.startswith(string("clip")):
        old, new = string("clip"), string("clap")
        at = content.index(old, content.index(b"general.architecture"))
        content = content[:at] + new + content[at + len(old) :]
    else:
        assert old in content
        content = content.replace(old, new)
    path = tmp_path / "mmproj.gguf"
    path.write_bytes(content)
    file = open_gguf(tiny[0])
    with pytest.raises((BadConfig, BadCheckpoint)) as caught:
        read_both(file, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def read_both(file, path):
    mmproj = open_gguf(path)
    GgufSource(file, config_from_gguf(file, mmproj), mmproj)


def test_a_config_with_vision_wants_the_second_file(tiny):
    with pytest.raises(BadCheckpoint, match="give its mmproj file too"):
        GgufSource(open_gguf(tiny[0]), TINY)


# -- refusals -------------------------------------------------------------------------------------------------------


def test_another_shape_is_refused_with_both_shapes():
    file, config, _ = load(FIXTURES / "llama4-q4_0.gguf")
    with pytest.raises(BadCheckpoint) as caught:
        GgufSource(file, replace(config, vocab_size=300))
    assert str(caught.value).endswith(
        "shape of tensor token_embd.weight: got (320, 64), expected (300, 64) by the config"
    )


def test_missing_and_left_over_tensors_are_counted_and_named():
    file, config, _ = load(FIXTURES / "llama-f16.gguf")
    with pytest.raises(
        BadCheckpoint,
        match=r"9 tensors are missing \(blk\.2\.attn_k\.weight, blk\.2\.attn_norm\.weight, .* and 6 more\)",
    ):
        GgufSource(file, replace(config, num_layers=3))
    with pytest.raises(BadCheckpoint, match=r"1 tensors are unknown to the config \(output\.weight\)"):
        GgufSource(file, replace(config, tied_embeddings=True))


def test_a_bias_that_one_layer_has_is_missed_in_the_others(tmp_path):
    content = (FIXTURES / "llama-f16.gguf").read_bytes()
    path = tmp_path / "qwen.gguf"
    path.write_bytes(content.replace(b"rope_freqs.weight", b"blk.0.attn_q.bias"))
    file = open_gguf(path)
    config = config_from_gguf(file)
    with pytest.raises(BadCheckpoint, match=r"1 tensors are missing \(blk\.1\.attn_q\.bias\)"):
        GgufSource(file, config)


def test_a_file_without_an_embedding_or_with_a_flat_one_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf())
    with pytest.raises(BadCheckpoint, match=r"no tensor token_embd\.weight"):
        config_from_gguf(open_gguf(path))
    path.write_bytes(gguf([], [tensor("token_embd.weight", (8,))], 32))
    with pytest.raises(BadCheckpoint, match=r"token_embd\.weight: got 1 axes, expected 2"):
        config_from_gguf(open_gguf(path))
