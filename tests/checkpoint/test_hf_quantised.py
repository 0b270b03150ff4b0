"""FP8 and int4 folders of others: their numbers are what torch and the written-down packing say, or refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT
from herd.checkpoint import RandomSource, open_checkpoint, save_hf
from herd.checkpoint.coded import E4M3
from herd.checkpoint.hf.names import file_name, style_of
from herd.checkpoint.opened import Checkpoint
from herd.checkpoint.walk import walk
from herd.config import TINY, Llama4Config
from herd.containers.lazy_rows import LazyArray
from herd.convert import convert
from herd.errors import BadCheckpoint
from herd.formats import bf16_from_float32, decode, encode, to_float32
from herd.formats.strips import to_strips
from herd.store.auto_pack import packed_for
from herd.store.packed_over import PackedOver
from herd.weights import Dense, Experts, Packed, Pair, apart

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

WIDE = replace(TINY_TEXT, width=128, expert_width=128, dense_width=256)
WIDE_LLAMA = replace(TINY_DENSE, width=128, dense_width=256)

FP8 = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
        }
    },
}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}

Tensors = dict[str, Any]
Wanted = dict[str, np.ndarray]


def fp8(w: Any, axis: int = 1) -> tuple[Any, Any, np.ndarray]:
    """Codes, scales and the values that they stand for, float32, by torch. One scale along `axis`."""
    scale = (w.abs().amax(axis, keepdim=True) / 448).float()
    codes = (w / scale).to(torch.float8_e4m3fn)
    return codes, scale, (codes.float() * scale).numpy()


def int4(w: Any, group: int, scales: Any) -> tuple[Any, Any, np.ndarray]:
    """compressed-tensors' packing as its documentation has it: element by element, by hand."""
    q = np.clip(np.rint(w.numpy() / np.repeat(to_float32(scales), group, axis=1)), -8, 7).astype(int)
    words = np.zeros((w.shape[0], -(-w.shape[1] // 8)), np.uint32)
    for o in range(q.shape[0]):
        for i in range(q.shape[1]):
            words[o, i // 8] |= np.uint32((int(q[o, i]) + 8) << 4 * (i % 8))
    return torch.from_numpy(words.view(np.int32)), q, q * np.repeat(to_float32(scales), group, axis=1)


def folder(path: Path, config: Llama4Config, quantized: dict[str, Any], change: Callable[[Tensors], None]) -> Path:
    """A float folder of `config` whose tensors `change` has been at."""
    save_hf(path, config, RandomSource(config, 3, "bfloat16"), "bfloat16")
    tensors = safetensors_torch.load_file(path / "model.safetensors")
    change(tensors)
    safetensors_torch.save_file({k: v.contiguous() for k, v in tensors.items()}, path / "model.safetensors")
    data = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**data, "quantization_config": quantized}))
    (path / "herd.manifest.json").unlink()
    return path


def matrices(config: Llama4Config) -> list[Any]:
    return [
        w for w in walk(config)
        if w.kind == "matrix" and "embed" not in w.name and "lm_head" not in w.name and "router" not in w.name
        and "vision" not in w.name and "projector" not in w.name
    ]  # fmt: skip


def values(node: Any) -> np.ndarray:
    """What a node's matrices hold, float32, output-major."""
    if isinstance(node, Packed):
        return decode(node.format, np.asarray(node.codes), node.shape[-1])
    assert isinstance(node, Dense | Experts)
    w = to_float32(np.asarray(node.w))
    return w if isinstance(node, Dense) else w.swapaxes(-1, -2)


def own(checkpoint: Checkpoint, name: str) -> Any:
    w = next(w for w in walk(checkpoint.config) if w.name == name)
    source = checkpoint.source()
    return source.matrix(name, *w.shape) if w.kind == "matrix" else source.experts(name, *w.shape)


def as_bf16(x: np.ndarray) -> np.ndarray:
    return to_float32(bf16_from_float32(x.astype(np.float32)))


def split_experts(tensors: Tensors, config: Llama4Config, each: Callable[[str, Any], None]) -> None:
    """Fused stacks -> one matrix an expert, output-major, handed to `each`."""
    prefix = file_name("", style_of(config))
    for i, layer in enumerate(config.layers):
        if layer.moe:
            stem = f"{prefix}model.layers.{i}.feed_forward.experts"
            gate_up, down = tensors.pop(f"{stem}.gate_up_proj"), tensors.pop(f"{stem}.down_proj")
            for e in range(config.num_experts):
                gate, up = gate_up[e].T.chunk(2)
                each(f"{stem}.{e}.gate_proj", gate)
                each(f"{stem}.{e}.up_proj", up)
                each(f"{stem}.{e}.down_proj", down[e].T)


def test_every_code_of_e4m3_is_torchs() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    assert np.array_equal(E4M3, codes.view(torch.float8_e4m3fn).float().numpy(), equal_nan=True)


@pytest.mark.parametrize("config", [TINY, TINY_TEXT, TINY_DENSE], ids=["vision", "text", "llama"])
@pytest.mark.parametrize("scale_dtype", ["float32", "bfloat16"])
def test_compressed_tensors_fp8(tmp_path: Path, config: Llama4Config, scale_dtype: str) -> None:
    want: Wanted = {}
    style = style_of(config)

    def change(tensors: Tensors) -> None:
        def put(stored: str, w: Any) -> None:
            codes, scale, _ = fp8(w.float())
            scale = scale.to(getattr(torch, scale_dtype))
            tensors[stored + ".weight"], tensors[stored + ".weight_scale"] = codes, scale
            want[stored] = (codes.float() * scale.float()).numpy()

        for w in matrices(config):
            put(file_name(w.name, style), tensors[file_name(w.name + ".weight", style)])
        split_experts(tensors, config, put)

    folder(tmp_path / "m", config, FP8, change)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        for w in matrices(config):
            got, exact = values(own(checkpoint, w.name)), want[file_name(w.name, style)]
            if style == "llama" and w.name.endswith(("q_proj", "k_proj")):
                exact = exact.reshape(-1, 2, config.head_size // 2, exact.shape[1]).swapaxes(1, 2).reshape(exact.shape)
            assert np.array_equal(got, as_bf16(exact)), w.name
        for w in (w for w in walk(config) if w.kind == "experts"):
            node = own(checkpoint, w.name)
            stem = file_name(w.name, style).rpartition(".")[0]
            for which, part in (
                zip(("gate_proj", "up_proj"), (node.gate, node.up), strict=True)
                if isinstance(node, Pair) else [("down_proj", node)]
            ):  # fmt: skip
                exact = np.stack([want[f"{stem}.{e}.{which}"] for e in range(config.num_experts)])
                assert np.array_equal(values(part), as_bf16(exact))
        plain = own(checkpoint, "model.embed_tokens")
        assert np.array_equal(plain.w, RandomSource(config, 3, "bfloat16").matrix("model.embed_tokens",
                              config.vocab_size, config.width).w)  # fmt: skip
        checkpoint.check_finite()
        assert checkpoint.load().blocks


def test_fbgemm_fp8_with_fused_experts(tmp_path: Path) -> None:
    config, want = TINY_TEXT, {}

    def change(tensors: Tensors) -> None:
        for w in matrices(config):
            codes, scale, want[w.name] = fp8(tensors[w.name + ".weight"].float())
            tensors[w.name + ".weight"], tensors[w.name + ".weight_scale"] = codes, scale
        for w in (w for w in walk(config) if w.kind == "experts"):
            codes, scale, want[w.name] = fp8(tensors[w.name].float())  # over the inputs, axis 1
            E, _, outputs = w.shape
            shape = (E, 1, outputs) if "gate_up" in w.name else (E, outputs, 1)
            tensors[w.name], tensors[w.name + "_scale"] = codes, scale.reshape(shape)

    folder(tmp_path / "m", config, FBGEMM, change)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        for name, exact in want.items():
            got = np.concatenate([values(part) for part in apart(own(checkpoint, name))], axis=-2)
            assert np.array_equal(got if exact.ndim == 2 else got.swapaxes(-1, -2), as_bf16(exact)), name


@pytest.mark.parametrize("config", [TINY_TEXT, TINY_DENSE], ids=["text", "llama"])
def test_fp8_with_a_scale_a_block(tmp_path: Path, config: Llama4Config) -> None:
    """Blocks of 24 by 20 divide no matrix: the last ones are cut. What activations are scaled by is passed over."""
    want, style = Wanted(), style_of(config)

    def change(tensors: Tensors) -> None:
        def put(stored: str, w: Any) -> None:
            codes = (w.float() * 100).to(torch.float8_e4m3fn)
            scale = torch.rand(-(-w.shape[0] // 24), -(-w.shape[1] // 20)) / 100
            every = scale.double().repeat_interleave(24, 0).repeat_interleave(20, 1)[: w.shape[0], : w.shape[1]]
            tensors[stored + ".weight"], tensors[stored + ".weight_scale_inv"] = codes, scale
            tensors[stored + ".activation_scale"] = torch.ones(())
            want[stored] = (codes.double() * every).float().numpy()

        for w in matrices(config):
            put(file_name(w.name, style), tensors[file_name(w.name + ".weight", style)])
        split_experts(tensors, config, put)

    said = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": [24, 20]}
    folder(tmp_path / "m", config, said, change)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        for w in matrices(config):
            got, exact = values(own(checkpoint, w.name)), want[file_name(w.name, style)]
            if style == "llama" and w.name.endswith(("q_proj", "k_proj")):
                exact = exact.reshape(-1, 2, config.head_size // 2, exact.shape[1]).swapaxes(1, 2).reshape(exact.shape)
            assert np.array_equal(got, as_bf16(exact)), w.name
        for w in (w for w in walk(config) if w.kind == "experts" and "down" in w.name):
            stem = file_name(w.name, style).rpartition(".")[0]
            exact = np.stack([want[f"{stem}.{e}.down_proj"] for e in range(config.num_experts)])
            assert np.array_equal(values(own(checkpoint, w.name)), as_bf16(exact))
        assert checkpoint.load().blocks


@pytest.mark.parametrize("group", [32, 128, "channel"])
@pytest.mark.parametrize("family", ["llama4", "llama"])
def test_compressed_tensors_int4_becomes_q4_0_without_loss(tmp_path: Path, group: Any, family: str) -> None:
    config = WIDE if family == "llama4" else WIDE_LLAMA
    config = replace(config, num_layers=2, nope_interval=0, vocab_size=320)
    want, style = Wanted(), style_of(config)

    def change(tensors: Tensors) -> None:
        def put(stored: str, w: Any) -> None:
            size = w.shape[1] if group == "channel" else group
            peak = w.float().reshape(w.shape[0], -1, size).abs().amax(2) / 7.5
            scales = peak.to(torch.bfloat16)
            packed, _, want[stored] = int4(w.float(), size, scales.view(torch.int16).numpy().view(np.uint16))
            tensors.pop(stored + ".weight", None)
            tensors[stored + ".weight_packed"], tensors[stored + ".weight_scale"] = packed, scales
            tensors[stored + ".weight_shape"] = torch.tensor(w.shape)

        for w in matrices(config):
            put(file_name(w.name, style), tensors[file_name(w.name + ".weight", style)])
        split_experts(tensors, config, put)

    folder(tmp_path / "m", config, INT4, change)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        for w in matrices(config):
            node, exact = own(checkpoint, w.name), want[file_name(w.name, style)].astype(np.float32)
            if style == "llama" and w.name.endswith(("q_proj", "k_proj")):
                exact = exact.reshape(-1, 2, config.head_size // 2, exact.shape[1]).swapaxes(1, 2).reshape(exact.shape)
            assert isinstance(node, Packed)
            assert node.format == "q4_0"
            assert isinstance(node.codes, LazyArray)
            assert np.array_equal(values(node), exact), w.name
        for w in (w for w in walk(config) if w.kind == "experts"):
            node, stem = own(checkpoint, w.name), w.name.rpartition(".")[0]
            for which, part in (
                zip(("gate_proj", "up_proj"), (node.gate, node.up), strict=True)
                if isinstance(node, Pair) else [("down_proj", node)]
            ):  # fmt: skip
                exact = np.stack([want[f"{stem}.{e}.{which}"] for e in range(config.num_experts)])
                assert isinstance(part, Packed)
                assert np.array_equal(values(part), exact.astype(np.float32))


def test_scales_that_float16_cannot_hold_give_bfloat16(tmp_path: Path) -> None:
    """Never in silence another number: what q4_0 cannot hold exactly is not made q4_0."""
    config = replace(WIDE_LLAMA, num_layers=1)
    name = "model.layers.0.self_attn.o_proj"
    exact = np.empty(0)

    def change(tensors: Tensors) -> None:
        nonlocal exact
        w = tensors.pop(name + ".weight").float()
        scales = torch.full((w.shape[0], 4), 1e-3)  # float32: 24 bits of mantissa
        packed, _, exact = int4(w * 0.02, 32, scales.numpy())
        tensors[name + ".weight_packed"], tensors[name + ".weight_scale"] = packed, scales

    folder(tmp_path / "m", config, INT4, change)
    node = own(open_checkpoint(tmp_path / "m"), name)
    assert isinstance(node, Dense)
    assert np.array_equal(values(node), as_bf16(exact))


def test_int4_is_packed_into_the_store_and_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    config, want = replace(WIDE, num_layers=2, nope_interval=0), Wanted()

    def change(tensors: Tensors) -> None:
        def put(stored: str, w: Any) -> None:
            scales = (w.float().reshape(w.shape[0], -1, 32).abs().amax(2) / 7.5).half()
            packed, _, want[stored] = int4(w.float(), 32, scales.numpy())
            tensors[stored + ".weight_packed"], tensors[stored + ".weight_scale"] = packed, scales

        split_experts(tensors, config, put)

    folder(tmp_path / "m", config, INT4, change)
    stem = "model.layers.1.feed_forward.experts"
    exact = {w: np.stack([want[f"{stem}.{e}.{w}_proj"] for e in range(4)]).astype("f4") for w in ("gate", "up", "down")}
    with packed_for(open_checkpoint(tmp_path / "m")) as over:
        assert isinstance(over, PackedOver)
        node = own(over, f"{stem}.gate_up_proj")
        assert node.gate.layout == "strips"
        assert node.gate.shape == (4, 128, 128)
    convert(tmp_path / "m", tmp_path / "f32", "f32")
    plain = own(open_checkpoint(tmp_path / "f32"), f"{stem}.gate_up_proj")
    assert np.array_equal(values(plain), np.concatenate([exact["gate"], exact["up"]], axis=1))
    convert(tmp_path / "m", tmp_path / "m.gguf", "q4_0")
    node = own(open_checkpoint(tmp_path / "m.gguf"), f"{stem}.down_proj")
    assert node.format == "q4_0"
    assert np.array_equal(values(node), exact["down"])  # copied, not quantised again


NAME = "model.layers.0.self_attn.o_proj"


def with_fp8(extra: Callable[[Tensors], None]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        codes, scale, _ = fp8(tensors[NAME + ".weight"].float())
        tensors[NAME + ".weight"], tensors[NAME + ".weight_scale"] = codes, scale
        extra(tensors)

    return change


def with_int4(extra: Callable[[Tensors], None]) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        rows, columns = tensors.pop(NAME + ".weight").shape
        tensors[NAME + ".weight_packed"] = torch.zeros(rows, columns // 8, dtype=torch.int32)
        tensors[NAME + ".weight_scale"] = torch.ones(rows, columns // 32)
        tensors[NAME + ".weight_shape"] = torch.tensor([rows, columns])
        extra(tensors)

    return change


def weights(**changes: Any) -> dict[str, Any]:
    group = INT4["config_groups"]["group_0"]  # type: ignore[index]
    return {**INT4, "config_groups": {"group_0": {**group, "weights": {**group["weights"], **changes}}}}


WRONG: dict[str, tuple[dict[str, Any], Callable[[Tensors], None], str]] = {
    "another method": ({"quant_method": "aqlm"}, lambda t: None, "is quantised: got aqlm.*llm-compressor"),
    "another format": ({**FP8, "format": "marlin-24"}, lambda t: None, "format of compressed-tensors.*llm-compressor"),
    "no groups": ({**FP8, "config_groups": []}, lambda t: None, "config_groups"),
    "two bits": (weights(num_bits=2), lambda t: None, "got int of 2 bits"),
    "blocks of another size": (
        FP8, with_fp8(lambda t: t.update({NAME + ".weight_scale": torch.ones(2, 2)})), r"scales .*got \[2, 2\]",
    ),
    "sparse": ({**FP8, "sparsity_config": {"format": "sparse-24-bitmask"}}, lambda t: None, "sparsity"),
    "zero points that are floats": (
        INT4, with_int4(lambda t: t.update({NAME + ".weight_zero_point": torch.zeros(1)})), "zero_point: got F32",
    ),
    "a group that is not there": (
        INT4, with_int4(lambda t: t.update({NAME + ".weight_g_idx": torch.full((128,), 4)})), "g_idx: got 4",
    ),
    "transforms": (
        {**INT4, "transform_config": {"config_groups": {"R1": {}}}}, lambda t: None, "transform_config.*llm-compressor",
    ),
    "no scale": (FP8, with_fp8(lambda t: t.pop(NAME + ".weight_scale")), "missing: got .*weight_scale"),
    "too few scales": (
        FP8, with_fp8(lambda t: t.update({NAME + ".weight_scale": torch.ones(3, 1)})), r"scales .*got \[3, 1\]",
    ),
    "scales of integers": (
        FP8, with_fp8(lambda t: t.update({NAME + ".weight_scale": torch.ones(64, dtype=torch.int32)})), "I32",
    ),
    "words too few": (
        INT4, with_int4(lambda t: t.update({NAME + ".weight_packed": torch.zeros(64, 3, dtype=torch.int32)})), "I32",
    ),
    "groups that divide nothing": (
        INT4, with_int4(lambda t: t.update({NAME + ".weight_scale": torch.ones(64, 7)})), "groups of",
    ),
    "another shape said": (
        INT4, with_int4(lambda t: t.update({NAME + ".weight_shape": torch.tensor([64, 512])})), "weight_shape",
    ),
    "a norm in FP8": (
        FP8, lambda t: t.update({"model.norm.weight": torch.zeros(64).to(torch.float8_e4m3fn)}), "dtype of model.norm",
    ),
    "a norm that is missing": (FP8, lambda t: t.pop("model.norm.weight"), "missing: got model.norm.weight"),
    "a scale too many": (
        FP8, with_fp8(lambda t: t.update({NAME + ".weight_global_scale": torch.ones(1)})), "unknown to the config",
    ),
    "two names of one": (
        FP8, lambda t: t.update({f"model.layers.1.feed_forward.experts.{n}.weight": torch.zeros(1)
                                 for n in ("0.up_proj", "up_projs.0")}), "two tensors mean one",
    ),
    "a bias that adds something": (
        FP8, with_fp8(lambda t: t.update({NAME + ".bias": torch.ones(64)})), "unknown to the config",
    ),
    "a tensor too many": (FP8, lambda t: t.update(more=torch.zeros(1)), r"unknown to the config \(more\)"),
    "an expert that is missing": (
        FP8,
        lambda t: split_experts(t, TINY_TEXT, lambda n, w: None if ".2.down" in n else t.update({n + ".weight": w})),
        "missing: got .*experts.2.down_proj.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_read_is_refused_by_name(tmp_path: Path, case: str) -> None:
    quantized, change, message = WRONG[case]
    folder(tmp_path / "m", TINY_TEXT, quantized, change)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        open_checkpoint(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_plain_experts_one_by_one_are_a_stack(tmp_path: Path) -> None:
    """What an FP8 release keeps in bfloat16 may still be split."""
    want = Wanted()

    def change(tensors: Tensors) -> None:
        def put(stored: str, w: Any) -> None:
            tensors[stored + ".weight"] = w
            want[stored] = w.float().numpy()

        split_experts(tensors, TINY_TEXT, put)

    folder(tmp_path / "m", TINY_TEXT, FP8, change)
    stem = "model.layers.1.feed_forward.experts"
    node = own(open_checkpoint(tmp_path / "m"), f"{stem}.down_proj")
    assert np.array_equal(values(node), np.stack([want[f"{stem}.{e}.down_proj"] for e in range(4)]))


def test_a_lazy_array_is_the_array() -> None:
    x = np.arange(2 * 5 * 3, dtype=np.float32).reshape(2, 5, 3)
    lazy = LazyArray(x.shape, x.dtype, lambda at, i, j: x[at[0], i:j])
    assert np.array_equal(lazy, x)
    assert np.array_equal(lazy[1], x[1])
    assert np.array_equal(lazy[-1][1:3], x[1, 1:3])
    assert lazy[0][4:2].shape == (0, 3)
    assert np.array_equal(lazy[1, 1:4, 2], x[1, 1:4, 2])
    assert np.array_equal(lazy[0, :, 1:], x[0, :, 1:])
    assert np.array_equal(lazy[:, 1], x[:, 1])
    assert (len(lazy), lazy.ndim, lazy.nbytes) == (2, 3, x.nbytes)
    with pytest.raises(IndexError):
        lazy[2]


def test_fp8_quantizes_into_the_packed_form(tmp_path: Path) -> None:
    """Encoders get the values that the checkpoint stands for, fused and split."""
    from herd.quantize import quantize

    name = "model.layers.1.feed_forward.experts.gate_up_proj"
    exact = np.empty(0)

    def change(tensors: Tensors) -> None:
        nonlocal exact
        codes, scale, exact = fp8(tensors[name].float())
        tensors[name], tensors[name + "_scale"] = codes, scale

    folder(tmp_path / "m", TINY_TEXT, FBGEMM, change)
    quantize(tmp_path / "m", tmp_path / "q", "q8_0", pure=True, compare=False, threads=1)
    node = own(open_checkpoint(tmp_path / "q"), name)
    assert isinstance(node, Pair)
    for part, want in zip((node.gate, node.up), np.split(as_bf16(exact), 2, axis=2), strict=True):
        codes = encode("q8_0", want.swapaxes(1, 2))
        assert np.array_equal(part.codes, to_strips("q8_0", codes))  # type: ignore[union-attr]
