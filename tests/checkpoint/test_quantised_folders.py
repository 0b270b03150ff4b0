"""Whole folders in each quantised form, experts in each layout: logits are transformers' over the decoded floats.

Codes are drawn and packed here as the forms are written down; scales are powers of two, so that decoded weights are
exact in bfloat16 and nothing but the order of sums may differ.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_hf_quantised import Tensors, folder, matrices, own

from helpers import TINY_DENSE, TINY_TEXT, op_set
from herd.batch import packed
from herd.checkpoint import open_checkpoint
from herd.checkpoint.hf.names import file_name, style_of
from herd.checkpoint.walk import walk
from herd.config import Llama4Config
from herd.convert import convert
from herd.errors import BadCheckpoint
from herd.model import forward, place_weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

DENSE = replace(TINY_DENSE, num_layers=2)
MOE = replace(TINY_TEXT, num_layers=2)
IDS = np.random.default_rng(5).integers(0, 250, 24)
Made = tuple[dict[str, np.ndarray], np.ndarray]
"""Tensors by ending; the matrix that they are."""


def stream(q: np.ndarray, bits: int) -> np.ndarray:
    """Codes [n, count] -> int32 [n, count * bits / 32], low bits first."""
    single = (q[..., None] >> np.arange(bits)) & 1
    return np.packbits(single.astype(np.uint8).reshape(len(q), -1), axis=1, bitorder="little").view(np.int32)


def powers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.ldexp(np.float32(1), rng.integers(-8, -5, shape))


def gptq(rng: np.random.Generator, rows: int, columns: int, bits: int = 4) -> Made:
    """Groups in an order of their own, zero points less one, and a bias of zeros."""
    q, zero = rng.integers(0, 2**bits, (rows, columns)), rng.integers(1, 2**bits, (rows, columns // 32))
    scale, group = powers(rng, rows, columns // 32), rng.permutation(np.arange(columns) // 32)
    parts = {
        ".qweight": stream(q, bits).T,
        ".qzeros": stream((zero - 1).T, bits),
        ".scales": scale.T.astype(np.float16),
        ".g_idx": group.astype(np.int32),
        ".bias": np.zeros(rows, np.float16),
    }
    return parts, (q - zero[:, group]) * scale[:, group]


def awq(rng: np.random.Generator, rows: int, columns: int) -> Made:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    q, zero, scale = (
        rng.integers(0, 16, (rows, columns)),
        rng.integers(0, 16, (rows, columns // 32)),
        powers(rng, rows, columns // 32),
    )
    words = [stream(x.T.reshape(-1, rows // 8, 8)[:, :, order].reshape(-1, rows), 4) for x in (q, zero)]
    parts = {".qweight": words[0], ".qzeros": words[1], ".scales": scale.T.astype(np.float16)}
    return parts, (q - np.repeat(zero, 32, 1)) * np.repeat(scale, 32, 1)


def nf4(rng: np.random.Generator, rows: int, columns: int) -> Made:
    table = (np.arange(-8, 8) / 8).astype(np.float32)
    q, scale = rng.integers(0, 16, rows * columns), powers(rng, rows * columns // 64) * 8
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]})
    parts = {
        ".weight": ((q[::2] << 4) | q[1::2]).astype(np.uint8)[:, None],
        ".weight.absmax": scale,
        ".weight.quant_map": table,
        ".weight.quant_state.bitsandbytes__nf4": np.array(list(state.encode()), np.uint8),
    }
    return parts, (table[q] * np.repeat(scale, 64)).reshape(rows, columns)


def zero_points(rng: np.random.Generator, rows: int, columns: int) -> Made:
    q, zero, scale = (
        rng.integers(0, 16, (rows, columns)),
        rng.integers(0, 16, (rows, columns // 32)),
        powers(rng, rows, columns // 32),
    )
    parts = {
        ".weight_packed": stream(q, 4),
        ".weight_zero_point": stream(zero.T, 4).T,
        ".weight_scale": scale,
        ".weight_shape": np.array([rows, columns]),
    }
    return parts, (q - np.repeat(zero, 32, 1)) * np.repeat(scale, 32, 1)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def nvfp4(rng: np.random.Generator, rows: int, columns: int) -> Made:
    q, exponent = rng.integers(0, 16, (rows, columns)), rng.integers(-3, 0, (rows, columns // 16))
    parts = {
        ".weight": (q[:, ::2] | (q[:, 1::2] << 4)).astype(np.uint8),
        ".weight_scale": torch.from_numpy(((exponent + 7) << 3).astype(np.uint8)).view(torch.float8_e4m3fn),
        ".weight_scale_2": np.float32(2.0**-5),
        ".input_scale": np.float32(1),
    }
    return parts, E2M1[q] * np.repeat(np.ldexp(2.0**-5, exponent), 16, 1)


def mlx(rng: np.random.Generator, rows: int, columns: int) -> Made:
    q, scale = rng.integers(0, 16, (rows, columns)), powers(rng, rows, columns // 32)
    base = -scale * rng.integers(0, 16, scale.shape)
    parts = {".weight": stream(q, 4).view(np.uint32), ".scales": scale, ".biases": base.astype(np.float32)}
    return parts, q * np.repeat(scale, 32, 1) + np.repeat(base, 32, 1)


def floats(rng: np.random.Generator, rows: int, columns: int) -> Made:
    exact = powers(rng, rows, columns) * rng.integers(-8, 8, (rows, columns)).astype(np.float32)
    return {".weight": exact}, exact


@dataclass(frozen=True)
class Form:
    """What makes a matrix of it, what config.json says, and how experts are named."""

    make: Callable[[np.random.Generator, int, int], Made]
    settings: dict[str, Any]
    experts: str = "one by one"
    all: bool = False
    """Router, embeddings and head, too."""
    config: Llama4Config = field(default=MOE)


COMPRESSED = {
    "quant_method": "compressed-tensors", "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "symmetric": False}}},
}  # fmt: skip
FORMS = {
    "compressed-tensors": Form(zero_points, COMPRESSED),
    "gptq": Form(gptq, {"quant_method": "gptq", "bits": 4, "desc_act": True}),
    "gptq, llama": Form(gptq, {"quant_method": "gptq", "bits": 4, "desc_act": True}, config=DENSE),
    "awq": Form(awq, {"quant_method": "awq", "version": "gemm"}),
    "awq, llama": Form(awq, {"quant_method": "awq"}, config=DENSE),
    "bitsandbytes": Form(nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}, "linearised"),
    "modelopt": Form(nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "fused"),
    "mlx": Form(mlx, {"group_size": 32, "bits": 4}, "stacked", all=True),
    "mlx, floats": Form(floats, {}, "stacked"),
    "linearised floats": Form(floats, {}, "linearised"),
    "mlx, llama": Form(mlx, {"group_size": 32, "bits": 4}, all=True, config=DENSE),
}


def stored_experts(layout: str, stem: str, made: dict[str, list[Made]]) -> dict[str, Any]:
    """The tensors of the experts at `stem`, in one of the ways that files have them."""
    found: dict[str, Any] = {}
    for which, experts in made.items():
        for e, (parts, _) in enumerate(experts):
            name = {"one by one": f"{e}.{which}", "linearised": f"{which}s.{e}"}.get(layout)
            found |= {f"{stem}.{name}{k}": v for k, v in parts.items() if name}
        if layout == "stacked":
            for k in experts[0][0]:
                found[f"{stem}.{which}{k}"] = np.stack([parts[k] for parts, _ in experts])
    if layout == "fused":
        for fused, halves in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
            for k in (".weight", ".weight_scale"):
                stacks = [torch.stack([torch.as_tensor(parts[k]).T for parts, _ in made[h]]) for h in halves]
                ending = k.removeprefix(".weight")
                found[f"{stem}.{fused}{'_weight' if ending else ''}{ending}"] = joined(stacks)
            found[f"{stem}.{fused}_weight_scale_2"] = np.float32(2.0**-5)
            found[f"{stem}.{fused}_input_scale"] = np.float32(1)
    return found


def joined(stacks: list[Any]) -> Any:
    """Gate columns, then up columns; torch joins no float8."""
    if stacks[0].dtype != torch.float8_e4m3fn:
        return torch.cat(stacks, 2)
    return torch.cat([s.view(torch.uint8) for s in stacks], 2).view(torch.float8_e4m3fn)


def both(path: Path, form: Form) -> tuple[Path, Path]:
    """A folder in this form, and one of the floats that it stands for."""
    c, rng, plain = form.config, np.random.default_rng(3), {}
    style = style_of(c)
    wanted = matrices(c)
    if form.all:
        wanted += [w for w in walk(c) if w.kind == "matrix" and w not in wanted]

    def change(tensors: Tensors) -> None:
        for w in wanted:
            name = file_name(w.name, style)
            parts, plain[name + ".weight"] = form.make(rng, *w.shape)
            del tensors[name + ".weight"]
            tensors.update({name + k: torch.as_tensor(v) for k, v in parts.items()})
        for w in (w for w in walk(c) if w.kind == "experts" and "gate_up" in w.name):
            stem, (count, inputs, outputs) = file_name(w.name, style).rpartition(".")[0], w.shape
            wide, narrow = (outputs // 2, inputs), (inputs, outputs // 2)
            shapes = {"gate_proj": wide, "up_proj": wide, "down_proj": narrow}
            made = {k: [form.make(rng, *shape) for _ in range(count)] for k, shape in shapes.items()}
            exact = {k: np.stack([x.T for _, x in v]) for k, v in made.items()}
            plain[f"{stem}.gate_up_proj"] = np.concatenate([exact["gate_proj"], exact["up_proj"]], 2)
            plain[f"{stem}.down_proj"] = exact["down_proj"]
            del tensors[f"{stem}.gate_up_proj"], tensors[f"{stem}.down_proj"]
            new = stored_experts(form.experts, stem, made)
            tensors.update({k: torch.as_tensor(v) for k, v in new.items()})

    def decoded(tensors: Tensors) -> None:
        tensors.update({k: torch.tensor(v, dtype=torch.float32) for k, v in plain.items()})

    folder(path / "quantised", c, form.settings, change)
    folder(path / "plain", c, {}, decoded)
    for name in ("quantised", "plain"):
        file = path / name / "config.json"
        data = json.loads(file.read_text())
        said = data.pop("quantization_config")
        key = "quantization_config" if "quant_method" in said else "quantization"
        file.write_text(json.dumps({**data, key: said} if said else data))
    return path / "quantised", path / "plain"


def logits(path: Path, ops_name: str, ids: np.ndarray = IDS) -> np.ndarray:
    ops = op_set(ops_name)
    with open_checkpoint(path) as checkpoint:
        weights = place_weights(ops, checkpoint.load())
        found = forward(ops, checkpoint.config, weights, ids, ops.place(packed([len(ids)], checkpoint.config.chunk)))
        return np.asarray(ops.numpy(found))


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    quantised, plain = both(tmp_path, form)
    kind = transformers.LlamaForCausalLM if form.config is DENSE else transformers.Llama4ForCausalLM
    model = kind.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        want = model(torch.tensor(IDS[None])).logits[0].numpy()
    np.testing.assert_allclose(logits(quantised, "torch"), want, rtol=0, atol=2e-3 * float(want.std()))


def test_a_folder_of_experts_runs_natively_and_converts_whole(tmp_path: Path) -> None:
    """Kernels round activations; a GGUF of the same values is the same numbers."""
    quantised, plain = both(tmp_path, FORMS["mlx, llama"])
    exact = logits(plain, "native")
    np.testing.assert_allclose(logits(quantised, "native"), exact, rtol=0, atol=0.2 * float(exact.std()))
    convert(quantised, tmp_path / "m.gguf", "f32")
    np.testing.assert_allclose(logits(tmp_path / "m.gguf", "native"), exact, rtol=0, atol=1e-4 * float(exact.std()))


def test_hf_quant_config_beside_a_config_that_says_nothing(tmp_path: Path) -> None:
    quantised, _ = both(tmp_path, FORMS["modelopt"])
    data = json.loads((quantised / "config.json").read_text())
    del data["quantization_config"]
    (quantised / "config.json").write_text(json.dumps(data))
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (quantised / "hf_quant_config.json").write_text(json.dumps(said))
    with open_checkpoint(quantised) as checkpoint:
        assert own(checkpoint, "model.layers.0.self_attn.q_proj").w.shape == (128, 64)
        assert ["--kv" in note for note in checkpoint.source().notes] == [True]  # type: ignore[attr-defined]


def test_quantize_config_beside_a_config_that_says_nothing_as_old_gptq_folders_have_it(tmp_path: Path) -> None:
    quantised, plain = both(tmp_path, FORMS["gptq, llama"])
    data = json.loads((quantised / "config.json").read_text())
    said = {name: value for name, value in data.pop("quantization_config").items() if name != "quant_method"}
    (quantised / "config.json").write_text(json.dumps(data))
    (quantised / "quantize_config.json").write_text(json.dumps(said))
    np.testing.assert_array_equal(logits(quantised, "torch"), logits(plain, "torch"))


def test_the_older_name_of_the_key_is_read_and_a_form_of_the_cache_is_told(tmp_path: Path) -> None:
    quantised, _ = both(tmp_path, FORMS["compressed-tensors"])
    data = json.loads((quantised / "config.json").read_text())
    said = {**data.pop("quantization_config"), "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    (quantised / "config.json").write_text(json.dumps({**data, "compression_config": said}))
    with open_checkpoint(quantised) as checkpoint:
        assert own(checkpoint, "model.layers.0.self_attn.q_proj").format == "q5_0"
        assert ["--kv" in note for note in checkpoint.source().notes] == [True]  # type: ignore[attr-defined]


def test_a_stack_of_another_number_of_experts_is_refused_whatever_its_size(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.layers.1.feed_forward.experts.gate_proj.weight"] = torch.zeros(1 << 40, 0)

    folder(tmp_path / "m", MOE, {"quant_method": "gptq"}, change)
    with pytest.raises(BadCheckpoint, match=r"unknown to the config .*gate_proj.weight"):
        open_checkpoint(tmp_path / "m")


def one_expert_again(tensors: Tensors) -> None:
    """The first expert of each stack, by its own name, too."""
    for name in [n for n in tensors if ".experts.gate_proj" in n]:
        tensors[name.replace(".experts.", ".experts.0.")] = tensors[name][0] * 0


def apart_again(tensors: Tensors) -> None:
    """The same experts under their other name, of other numbers."""
    for name in [n for n in tensors if ".experts.gate_projs.0." in n]:
        tensors[name.replace("gate_projs.0", "0.gate_proj")] = tensors[name] * 0


def floats_beside(tensors: Tensors) -> None:
    for name in [n for n in tensors if n.endswith("q_proj.weight_packed")]:
        tensors[name.removesuffix("_packed")] = torch.zeros(128, 64)


def one_output_more(tensors: Tensors) -> None:
    """Gate and up in stacks that have no half."""
    for name in [n for n in tensors if "gate_up_proj" in n and tensors[n].ndim == 3]:
        wide = tensors[name].view(torch.uint8)
        tensors[name] = torch.cat([wide, wide[..., :1]], 2).view(tensors[name].dtype)


MEANT_TWICE = {
    "mlx": (one_expert_again, r"two tensors mean one: got .*gate_proj.* and .*gate_proj"),
    "bitsandbytes": (apart_again, "two tensors mean one: got .*gate_projs?.* and .*gate_projs?"),
    "compressed-tensors": (floats_beside, "two tensors mean one: got .*weight and .*weight_packed"),
    "modelopt": (one_output_more, "gate_up_proj: got U8"),
}


@pytest.mark.parametrize("name", MEANT_TWICE)
def test_numbers_that_may_be_two_things_are_refused(tmp_path: Path, name: str) -> None:
    change, message = MEANT_TWICE[name]
    quantised, _ = both(tmp_path, FORMS[name])
    tensors = safetensors_torch.load_file(quantised / "model.safetensors")
    change(tensors)
    safetensors_torch.save_file({k: v.contiguous() for k, v in tensors.items()}, quantised / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(quantised)


def test_a_small_file_makes_no_millions_of_tensors(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors.clear()
        tensors.update({f"model.layers.0.feed_forward.experts.up_proj.x{n}": torch.zeros(4096, 0) for n in range(200)})

    folder(tmp_path / "m", MOE, {"quant_method": "gptq"}, change)
    data = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**data, "num_local_experts": 4096}))
    with pytest.raises(BadCheckpoint, match="tensors of all experts: got"):
        open_checkpoint(tmp_path / "m")


@pytest.mark.parametrize("name", ["bitsandbytes", "mlx", "modelopt"])
def test_what_an_exporter_wrote_gives_its_logits(name: str) -> None:
    written = Path(__file__).parent.parent / "fixtures" / "quantised" / name
    want = np.load(written / "logits.npy")
    got = logits(written, "torch", np.arange(12) * 7 % 60 + 3)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-3 * float(want.std()))


REFUSED = {
    "awq": ({"quant_method": "awq", "version": "gemv"}, "version of AWQ: got gemv.*AutoAWQ writes"),
    "gptq": ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "GPTQ: got marlin.*GPTQModel writes"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "got W4A8_AWQ.*modelopt writes"),
    "mlx": ({"group_size": 32, "bits": 4, "mode": "fp2"}, "mode .*got fp2.*mlx_lm.convert writes"),
    "compressed-tensors": ({**COMPRESSED, "format": "marlin-24"}, "got marlin-24.*llm-compressor writes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_is_not_read_names_the_tool_that_writes_one_that_is(tmp_path: Path, name: str) -> None:
    settings, message = REFUSED[name]
    quantised, _ = both(tmp_path, replace(FORMS[name], settings=settings))
    with pytest.raises(BadCheckpoint, match=message):
        open_checkpoint(quantised)
