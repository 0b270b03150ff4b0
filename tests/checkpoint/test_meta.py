"""Meta's consolidated files, written by torch as Meta's own scripts lay them out, cut into files and quantised."""

import io
import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TINY_TEXT
from herd.checkpoint import RandomSource, open_checkpoint
from herd.checkpoint.meta.folder import MetaCheckpoint
from herd.checkpoint.walk import walk
from herd.config import TINY, Llama4Config
from herd.convert import convert
from herd.errors import BadCheckpoint, BadConfig, HerdError, NotFound
from herd.formats import bf16_from_float32, decode, to_float32
from herd.store.about import describe
from herd.weights import Dense, Experts, Packed, Pair

torch = pytest.importorskip("torch")

WIDE = replace(TINY_TEXT, width=256, expert_width=256, dense_width=256)


def tensor(bits: np.ndarray) -> Any:
    return torch.from_numpy(np.ascontiguousarray(bits).view(np.int16)).view(torch.bfloat16)


def bits(source: RandomSource, config: Llama4Config) -> dict[str, Any]:
    """Every tensor of the model in bfloat16, by canonical name."""
    found = {}
    for w in walk(config):
        if w.kind == "vector":
            found[w.name] = tensor(source.vector(w.name, w.shape))
        elif w.kind == "experts":
            found[w.name] = tensor(source.experts(w.name, *w.shape).w)  # type: ignore[union-attr]
        else:
            node: Any = source.matrix(w.name, *w.shape, bias=w.bias)
            found[w.name + ".weight"] = tensor(node.w)
            if w.bias:
                found[w.name + ".bias"] = tensor(node.bias)
    return found


def consolidated(config: Llama4Config, t: dict[str, Any], rank: int, ranks: int) -> dict[str, Any]:
    """One file's state dictionary, written out from the description of Meta's layout."""

    def cut(x: Any, axis: int) -> Any:
        return x.chunk(ranks, axis)[rank].clone()

    out: dict[str, Any] = OrderedDict()
    out["tok_embeddings.weight"] = cut(t["model.embed_tokens.weight"], 0)
    out["output.weight"] = cut(t["lm_head.weight"], 0)
    out["norm.weight"] = t["model.norm.weight"]
    out["rope.freqs"] = torch.zeros(4)
    for i, layer in enumerate(config.layers):
        a, m = f"model.layers.{i}.", f"layers.{i}."
        out[m + "attention.wqkv.weight"] = torch.cat([cut(t[f"{a}self_attn.{x}_proj.weight"], 0) for x in "qkv"])
        out[m + "attention.wo.weight"] = cut(t[a + "self_attn.o_proj.weight"], 1)
        out[m + "attention.wqkv.layer_norm_weight"] = t[a + "input_layernorm.weight"]
        out[m + "attention.wqkv._extra_state"] = io.BytesIO(b"\x00\xffstate")
        if layer.moe:
            f, e = m + "feed_forward.", a + "feed_forward."
            E, D, F = config.num_experts, config.width, config.expert_width
            gate, up = t[e + "experts.gate_up_proj"].chunk(2, 2)
            out[f + "norm.weight"] = t[a + "post_attention_layernorm.weight"]
            out[f + "router_DE"] = t[e + "router.weight"].T.contiguous()
            out[f + "experts.moe_w_in_eD_F"] = cut(gate, 2).reshape(E * D, F // ranks)
            out[f + "experts.moe_w_swiglu_eD_F"] = cut(up, 2).reshape(E * D, F // ranks)
            out[f + "experts.moe_w_out_eF_D"] = cut(t[e + "experts.down_proj"], 1).reshape(E * F // ranks, D)
            out[f + "w_in_shared_FD.weight"] = cut(t[e + "shared_expert.gate_proj.weight"], 0)
            out[f + "w_swiglu_FD.weight"] = cut(t[e + "shared_expert.up_proj.weight"], 0)
            out[f + "w_out_shared_DF.weight"] = cut(t[e + "shared_expert.down_proj.weight"], 1)
            out[f + "global_gate_stats_3E"] = torch.zeros(3, E)
        else:
            f, e = m + "feed_forward.mlp.", a + "feed_forward."
            out[f + "layer_norm_weight"] = t[a + "post_attention_layernorm.weight"]
            out[f + "fc1_weight"] = torch.cat([cut(t[e + "gate_proj.weight"], 0), cut(t[e + "up_proj.weight"], 0)])
            out[f + "fc2_weight"] = cut(t[e + "down_proj.weight"], 1)
    if config.vision:
        v, m = "vision_model.", "vision_embeddings.vision_encoder."
        out[m + "conv1._linear.weight"] = cut(t[v + "patch_embedding.linear.weight"], 0)
        for name in ("class_embedding", "positional_embedding_vlm"):
            out[m + name] = t[v + name]
        for theirs, ours in (("ln_pre", "layernorm_pre"), ("ln_post", "layernorm_post")):
            for part in ("weight", "bias"):
                out[f"{m}{theirs}.{part}"] = t[f"{v}{ours}.{part}"]
        for j in range(config.vision.num_layers):
            a, b = f"{v}model.layers.{j}.", f"{m}transformer.resblocks.{j}."
            for part in ("weight", "bias"):
                out[f"{b}ln_1.{part}"] = t[f"{a}input_layernorm.{part}"]
                out[f"{b}ln_2.{part}"] = t[f"{a}post_attention_layernorm.{part}"]
                for x in "qkv":
                    out[f"{b}attn.w{x}.{part}"] = cut(t[f"{a}self_attn.{x}_proj.{part}"], 0)
                out[f"{b}mlp.c_fc.{part}"] = cut(t[f"{a}mlp.fc1.{part}"], 0)
            out[b + "attn.wo.weight"] = cut(t[a + "self_attn.o_proj.weight"], 1)
            out[b + "attn.wo.bias"] = t[a + "self_attn.o_proj.bias"]
            out[b + "mlp.c_proj.weight"] = cut(t[a + "mlp.fc2.weight"], 1)
            out[b + "mlp.c_proj.bias"] = t[a + "mlp.fc2.bias"]
        out["vision_embeddings.vision_adapter.mlp.c_fc.weight"] = cut(t[v + "vision_adapter.mlp.fc1.weight"], 0)
        out["vision_embeddings.vision_adapter.mlp.c_proj.weight"] = cut(t[v + "vision_adapter.mlp.fc2.weight"], 1)
        out["vision_projection.weight"] = cut(t["multi_modal_projector.linear_1.weight"], 0)
    return out


def params(c: Llama4Config) -> dict[str, Any]:
    found: dict[str, Any] = {
        "dim": c.width, "n_layers": c.num_layers, "n_heads": c.num_heads, "n_kv_heads": c.num_kv_heads,
        "head_dim": c.head_size, "norm_eps": c.norm_eps, "rope_theta": c.rope_theta, "use_scaled_rope": True,
        "rope_scaling_factor": 16.0, "rope_high_freq_factor": 1.0, "nope_layer_interval": c.nope_interval,
        "use_qk_norm": c.use_qk_norm, "attention_chunk_size": c.chunk, "vocab_size": -1, "ffn_exp": 4.0,
        "moe_args": {"num_experts": c.num_experts, "top_k": 1, "interleave_moe_layer_step": c.moe_interleave},
    }  # fmt: skip
    if v := c.vision:
        found["vision_args"] = {
            "image_size": {"height": v.image_size, "width": v.image_size},
            "patch_size": {"height": v.patch_size, "width": v.patch_size},
            "dim": v.width, "n_layers": v.num_layers, "n_heads": v.num_heads, "mlp_ratio": v.mlp_width / v.width,
            "output_dim": 4096, "pixel_shuffle_ratio": 1 / v.pixel_shuffle,
        }  # fmt: skip
    return found


def folder(path: Path, config: Llama4Config, ranks: int, change: Any = None) -> Path:
    path.mkdir()
    (path / "params.json").write_text(json.dumps(params(config)))
    tensors = bits(RandomSource(config, 3, "bfloat16"), config)
    for rank in range(ranks):
        state = consolidated(config, tensors, rank, ranks)
        if change:
            change(state, rank)
        torch.save(state, path / f"consolidated.{rank:02d}.pth")
    return path


@pytest.mark.parametrize("config", [TINY, TINY_TEXT], ids=["vision", "text"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_tensor_comes_out_as_it_was(tmp_path: Path, config: Llama4Config, ranks: int) -> None:
    folder(tmp_path / "m", config, ranks)
    source = RandomSource(config, 3, "bfloat16")
    with open_checkpoint(tmp_path / "m") as checkpoint:
        c = checkpoint.config
        assert (c.layers, c.width, c.dense_width, c.expert_width) == (
            config.layers, config.width, config.dense_width, config.expert_width,
        )  # fmt: skip
        assert (c.vocab_size, c.num_experts, c.norm_eps) == (config.vocab_size, config.num_experts, config.norm_eps)
        assert (c.vision is None) == (config.vision is None)
        for w in walk(config):
            if w.kind == "vector":
                got, want = checkpoint.source().vector(w.name, w.shape), source.vector(w.name, w.shape)
                assert np.array_equal(got, want), w.name
                continue
            ask = "experts" if w.kind == "experts" else "matrix"
            options = {"bias": w.bias} if w.kind == "matrix" else {}
            a, b = (getattr(s, ask)(w.name, *w.shape, **options) for s in (checkpoint.source(), source))
            assert type(a) is type(b)
            assert np.array_equal(np.asarray(a.w), b.w), w.name
            if w.bias:
                assert np.array_equal(a.bias, b.bias), w.name
        assert checkpoint.verify()
        assert checkpoint.load().blocks
        assert isinstance(checkpoint, MetaCheckpoint)
        assert checkpoint.types()["bf16"] > 0


def test_one_file_is_mapped_and_pieces_are_pieces(tmp_path: Path) -> None:
    with open_checkpoint(folder(tmp_path / "m", TINY_TEXT, 1)) as checkpoint:
        node: Any = checkpoint.source().matrix("lm_head", 320, 64)
        assert not node.w.flags.owndata
    with open_checkpoint(folder(tmp_path / "n", TINY_TEXT, 2)) as checkpoint:
        for name, shape in (("model.layers.0.self_attn.k_proj", (64, 64)), ("model.layers.0.feed_forward.up_proj",
                            (160, 64)), ("model.layers.0.feed_forward.down_proj", (64, 160))):  # fmt: skip
            node = checkpoint.source().matrix(name, *shape)
            whole = np.asarray(node.w)
            for start, stop in ((0, 1), (10, 70), (31, 33), (63, 64), (5, 5)):
                assert np.array_equal(node.w[start:stop], whole[start:stop])


def test_it_converts_and_is_described(tmp_path: Path) -> None:
    folder(tmp_path / "m", TINY_TEXT, 2)
    convert(tmp_path / "m", tmp_path / "hf")
    with open_checkpoint(tmp_path / "hf") as checkpoint:
        want: Any = RandomSource(TINY_TEXT, 3, "bfloat16").experts(
            "model.layers.1.feed_forward.experts.down_proj", 4, 96, 64
        )
        got: Any = checkpoint.source().experts("model.layers.1.feed_forward.experts.down_proj", 4, 96, 64)
        assert np.array_equal(got.w, want.w)
    facts = describe(tmp_path / "m")
    assert (facts.format, facts.family) == ("meta", "llama4")


def as_bf16(x: Any) -> np.ndarray:
    return to_float32(bf16_from_float32(np.asarray(x, np.float32)))


EXPERTS = {"w1": "moe_w_in_eD_F", "w3": "moe_w_swiglu_eD_F", "w2": "moe_w_out_eF_D"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_fp8_with_its_scale_files(tmp_path: Path, ranks: int) -> None:
    """Written as Meta's quantize script writes: a scale an output of each file, codes turned back to input-major."""
    config, want = TINY_TEXT, {}
    E, D = config.num_experts, config.width
    scales: list[dict[str, Any]] = [{} for _ in range(ranks)]

    def change(state: dict[str, Any], rank: int) -> None:
        for key, name in EXPERTS.items():
            stored = f"layers.1.feed_forward.experts.{name}"
            w = state[stored].float().reshape(E, -1, state[stored].shape[1]).transpose(1, 2)  # [E, out, in]
            scale = w.abs().amax(2) / 448
            codes = (w / scale[:, :, None]).to(torch.float8_e4m3fn)
            want[key, rank] = (codes.float() * scale[:, :, None]).transpose(1, 2).numpy()
            state[stored] = torch.nn.Parameter(
                codes.transpose(1, 2).reshape(-1, state[stored].shape[1]).contiguous(), requires_grad=False
            )
            scales[rank][f"layers.1.feed_forward.experts.{key}"] = scale

    folder(tmp_path / "m", config, ranks, change)
    for rank in range(ranks):
        torch.save(scales[rank], tmp_path / "m" / f"fp8_scales_{rank}.pt")
    with open_checkpoint(tmp_path / "m") as checkpoint:
        stem = "model.layers.1.feed_forward.experts"
        joined = [np.concatenate([want[k, r] for r in range(ranks)], axis=1 if k == "w2" else 2) for k in EXPERTS]
        gate_up: Any = checkpoint.source().experts(f"{stem}.gate_up_proj", E, D, 2 * config.expert_width)
        down: Any = checkpoint.source().experts(f"{stem}.down_proj", E, config.expert_width, D)
        assert isinstance(gate_up, Experts)
        assert np.array_equal(to_float32(np.asarray(gate_up.w)), as_bf16(np.concatenate(joined[:2], axis=2)))
        assert np.array_equal(to_float32(np.asarray(down.w)), as_bf16(joined[2]))
        plain: Any = checkpoint.source().experts("model.layers.3.feed_forward.experts.down_proj", E, 96, D)
        want3: Any = RandomSource(config, 3, "bfloat16").experts(
            "model.layers.3.feed_forward.experts.down_proj", E, 96, D
        )
        assert np.array_equal(np.asarray(plain.w), want3.w)
        checkpoint.check_finite()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("is_exact", [True, False])
def test_int4_with_its_scale_files(tmp_path: Path, ranks: int, is_exact: bool) -> None:
    """Groups of 128 along the inputs, two to a byte, called float8 in the file. Scales of bfloat16 weights, an eighth
    of the largest, are exact in float16: q4_0. Others: bfloat16."""
    config, want = WIDE, {}
    E, D = config.num_experts, config.width
    scales: list[dict[str, Any]] = [{} for _ in range(ranks)]

    def change(state: dict[str, Any], rank: int) -> None:
        for key, name in EXPERTS.items():
            stored = f"layers.1.feed_forward.experts.{name}"
            shape = (E, -1, state[stored].shape[1])
            w = state[stored].float().reshape(shape).transpose(1, 2).contiguous()  # [E, out, in]
            groups = w.reshape(*w.shape[:2], -1, 128)
            scale = groups.abs().amax(3) / (8 if is_exact else 7.3)
            q = (groups / scale[..., None]).round().clamp(-8, 7).to(torch.int8).reshape(w.shape)
            want[key, rank] = (q.reshape(groups.shape) * scale[..., None]).reshape(w.shape).numpy()
            packed = (q[..., ::2] & 15) | (q[..., 1::2] << 4)
            state[stored] = (
                packed.transpose(1, 2).reshape(-1, state[stored].shape[1]).contiguous().view(torch.float8_e4m3fn)
            )
            scales[rank][f"layers.1.feed_forward.experts.{key}"] = scale.transpose(1, 2).contiguous()

    folder(tmp_path / "m", config, ranks, change)
    for rank in range(ranks):
        torch.save(scales[rank], tmp_path / "m" / f"int4_scales_{rank}.pt")
    with open_checkpoint(tmp_path / "m") as checkpoint:
        stem = "model.layers.1.feed_forward.experts"
        joined = [np.concatenate([want[k, r] for r in range(ranks)], axis=2 if k == "w2" else 1) for k in EXPERTS]
        pair = checkpoint.source().experts(f"{stem}.gate_up_proj", E, D, 2 * config.expert_width)
        assert isinstance(pair, Pair)
        down = checkpoint.source().experts(f"{stem}.down_proj", E, config.expert_width, D)
        for node, exact in zip((pair.gate, pair.up, down), joined, strict=True):
            if is_exact:
                assert isinstance(node, Packed)
                assert node.format == "q4_0"
                assert np.array_equal(decode("q4_0", np.asarray(node.codes), node.shape[-1]), exact)
            else:
                assert isinstance(node, Dense)
                assert np.array_equal(to_float32(np.asarray(node.w)), as_bf16(exact))
        checkpoint.check_finite()


# -- folders that are not whole -----------------------------------------------------------------------------------


def drop(name: str) -> Any:
    return lambda state, rank: state.pop(name)


def put(name: str, value: Any) -> Any:
    return lambda state, rank: state.update({name: value})


NORM = "layers.1.feed_forward.norm.weight"

WRONG: dict[str, tuple[Any, Any, str]] = {
    "a tensor missing": (drop("norm.weight"), None, "missing: got norm.weight"),
    "a tensor too many": (put("more", torch.zeros(2)), None, "does not know: got more"),
    "another shape": (put("norm.weight", torch.zeros(3)), None, r"shape of norm.weight: got \[3\]"),
    "another dtype": (put("norm.weight", torch.zeros(64, dtype=torch.int64)), None, "dtype of norm.weight: got I64"),
    "other tensors in the second": (
        lambda state, rank: state.pop("norm.weight") if rank else None, None, "other tensors than the first",
    ),
    "codes without scales": (
        put("layers.1.feed_forward.experts.moe_w_in_eD_F", torch.zeros(256, 48).to(torch.float8_e4m3fn)), None,
        "scales_N.pt",
    ),
    "no params": (None, lambda m: (m / "params.json").unlink(), "has no params.json"),
    "empty params": (None, lambda m: (m / "params.json").write_text("{}"), "params.json: dim"),
    "params of text": (
        None, lambda m: (m / "params.json").write_text('{"dim": 64, "n_layers": 4, "n_heads": "four"}'), "n_heads",
    ),
    "wrong number of layers": (
        None, lambda m: (m / "params.json").write_text(json.dumps({**params(TINY_TEXT), "n_layers": 3})), "not know",
    ),
    "10^9 layers": (
        None, lambda m: (m / "params.json").write_text(json.dumps({**params(TINY_TEXT), "n_layers": 10**9})), "4096",
    ),
    "moe_args a list": (
        None, lambda m: (m / "params.json").write_text(json.dumps({**params(TINY_TEXT), "moe_args": [1]})), "type",
    ),
    "a file missing": (None, lambda m: (m / "consolidated.00.pth").unlink(), "numbers of files"),
    "scales of one file only": (
        None, lambda m: torch.save({"x": torch.zeros(1)}, m / "fp8_scales_0.pt"), "with scales: got 1, expected 2",
    ),
    "scales of two kinds": (
        None, lambda m: [torch.save({}, m / f"{k}_scales_0.pt") for k in ("fp8", "int4")], "scales of two kinds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, spoil, message = WRONG[case]
    folder(tmp_path / "m", TINY_TEXT, 2, change)
    if spoil:
        spoil(tmp_path / "m")
    with pytest.raises(HerdError, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert isinstance(caught.value, BadCheckpoint | BadConfig | NotFound)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", TINY_TEXT, 1) / "consolidated.00.pth"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with open_checkpoint(tmp_path / "m") as checkpoint, pytest.raises(BadCheckpoint, match="not what was written"):
        checkpoint.verify()


def test_a_file_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    with open_checkpoint(folder(tmp_path / "m", TINY_TEXT, 1)) as checkpoint:
        checkpoint.check_unchanged()
        (tmp_path / "m" / "consolidated.00.pth").write_bytes(b"")
        with pytest.raises(BadCheckpoint, match="changed while in use"):
            checkpoint.check_unchanged()
