"""Biases of attention and MLP: transformers' logits from every form of a file, over both op sets, with adapters too."""

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import OP_SETS, TINY_DENSE, TINY_TEXT, op_set
from herd.batch import packed
from herd.checkpoint import RandomSource, open_checkpoint, random_model, save_hf
from herd.checkpoint.gguf.write import write_gguf
from herd.config import Llama4Config
from herd.containers.gguf import open_gguf
from herd.convert import convert
from herd.errors import BadCheckpoint, UsageError
from herd.model import forward, place_weights
from herd.quantize import quantize
from herd.weights import Dense, LoRA, Model

BOTH = replace(TINY_DENSE, attention_bias=True, mlp_bias=True, tied_embeddings=False)
CONFIGS = {
    "attention": replace(BOTH, mlp_bias=False),
    "mlp": replace(BOTH, attention_bias=False),
    "both": BOTH,
    "llama4": replace(TINY_TEXT, attention_bias=True),
}
IDS = np.arange(1, 49) * 5 % 320
Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("biases")
    return {name: save_hf(parent / name, c, RandomSource(c, 4)) for name, c in CONFIGS.items()}


@cache
def theirs(folder: Path) -> Any:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model(torch.tensor(IDS[None])).logits[0].numpy()


def logits(ops: Any, c: Llama4Config, model: Model) -> Any:
    return ops.numpy(forward(ops, c, place_weights(ops, model), IDS, ops.place(packed([len(IDS)], c.chunk))))


def ours(path: Path, ops_name: str = "native") -> Any:
    with open_checkpoint(path) as checkpoint:
        return logits(op_set(ops_name), checkpoint.config, checkpoint.load())


def close(got: Any, want: Any, to: float = 3e-5) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=to * float(want.std()))


@pytest.mark.parametrize("ops_name", OP_SETS)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(folders: dict[str, Path], name: str, ops_name: str) -> None:
    close(ours(folders[name], ops_name), theirs(folders[name]))


@pytest.mark.parametrize("name", ["attention", "mlp", "both"])
def test_a_gguf_and_what_is_made_of_it_keep_them(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    convert(folders[name], tmp_path / "m.gguf", "f32")
    convert(tmp_path / "m.gguf", tmp_path / "back", "f32")
    assert np.array_equal(ours(tmp_path / "m.gguf"), ours(folders[name]))
    assert np.array_equal(ours(tmp_path / "back"), ours(folders[name]))
    close(theirs(tmp_path / "back"), theirs(folders[name]))


def test_a_gguf_has_the_names_and_the_order_of_llama_cpp(folders: dict[str, Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    safetensors = pytest.importorskip("safetensors")
    convert(folders["both"], tmp_path / "m.gguf", "f32")
    found = {t.name: t.data for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, BOTH.num_layers)
    with safetensors.safe_open(folders["both"] / "model.safetensors", "np") as file:
        for name in (n for n in file.keys() if n.endswith(".bias")):  # noqa: SIM118 (no mapping)
            want = file.get_tensor(name)
            if name.endswith(("q_proj.bias", "k_proj.bias")):  # a head's two halves become its pairs
                heads = want.reshape(-1, 2, BOTH.head_size // 2)
                want = np.stack([heads[:, 0], heads[:, 1]], -1).reshape(-1)
            assert np.array_equal(found[names.get_name(name, (".bias",))], want), name


@pytest.mark.parametrize("target", ["packed", "m.gguf"])
def test_quantised_forms_keep_them_exactly(folders: dict[str, Path], tmp_path: Path, target: str) -> None:
    made = quantize(folders["both"], tmp_path / target, "q8_0", compare=False)
    if target == "m.gguf":
        assert made.plan.num_bytes == sum(x.num_bytes for x in open_gguf(tmp_path / target).tensors.values())
    with open_checkpoint(tmp_path / target) as checkpoint:
        block, whole = checkpoint.load().blocks[1], random_model(BOTH, 4).blocks[1]
    have: Any = {x: getattr(block, x) for x in "qkvo"} | {x: getattr(block.ffn, x) for x in ("gate", "up", "down")}
    want: Any = {x: getattr(whole, x) for x in "qkvo"} | {x: getattr(whole.ffn, x) for x in ("gate", "up", "down")}
    for x, node in have.items():
        assert node.kind == "packed"
        assert np.array_equal(node.bias, want[x].bias), x
    want = theirs(folders["both"])
    # 8 bits a weight and an activation: four layers of some thousandths each
    assert np.sqrt(np.square(ours(tmp_path / target) - want).mean()) < 0.06 * want.std()


@pytest.mark.parametrize("ops_name", OP_SETS)
def test_an_adapter_beside_a_bias_is_that_of_the_sum(ops_name: str) -> None:
    rng = np.random.default_rng(2)
    model, c = random_model(BOTH, 4), BOTH
    base: Any = model.blocks[1].q
    down, up = (rng.standard_normal(shape, np.float32) for shape in ((3, c.width), (base.w.shape[0], 3)))

    def with_q(node: Any) -> Model:
        blocks = list(model.blocks)
        blocks[1] = replace(blocks[1], q=node)
        return replace(model, blocks=tuple(blocks))

    ops = op_set(ops_name)
    added = logits(ops, c, with_q(LoRA(base, down, up, 0.1, Q)))
    close(added, logits(ops, c, with_q(Dense(base.w + np.float32(0.1) * up @ down, base.bias, Q))), 1e-4)


def test_a_kind_that_no_layer_has_is_zero_and_one_that_a_layer_lacks_is_named(tmp_path: Path) -> None:
    c = replace(BOTH, mlp_bias=False)
    full = random_model(c, 4)
    gguf = pytest.importorskip("gguf")
    write_gguf(tmp_path / "full.gguf", c, full, {}, "f32")

    def without(target: str, left_out: tuple[str, ...], more: str = "") -> Path:
        reader = gguf.GGUFReader(tmp_path / "full.gguf")
        writer = gguf.GGUFWriter(tmp_path / target, "llama")
        for key, field in reader.fields.items():
            if key.startswith("llama."):
                writer.add_key_value(key, field.contents(), field.types[0])
        for tensor in reader.tensors:
            if not tensor.name.endswith(left_out):
                writer.add_tensor(tensor.name, tensor.data)
        if more:
            writer.add_tensor(more, np.zeros(4, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / target

    blocks = [replace(b, o=replace(b.o, bias=np.zeros_like(b.o.bias))) for b in full.blocks]  # type: ignore[type-var,union-attr]
    want = logits(op_set("native"), c, replace(full, blocks=tuple(blocks)))
    assert np.array_equal(ours(without("no-o.gguf", ("attn_output.bias",))), want)
    with pytest.raises(BadCheckpoint, match=r"1 tensors are missing \(blk\.0\.attn_output\.bias\)"):
        open_checkpoint(without("some-o.gguf", ("0.attn_output.bias",)))
    for odd in ("blk.bias", "blk..bias", "blk.0.bias", "blk.0..bias", "blk.0.attn_q.0.bias", ".bias"):
        with pytest.raises(BadCheckpoint, match="1 tensors are unknown to the config"):
            open_checkpoint(without("odd.gguf", ("no such",), odd))


def test_what_a_form_cannot_say_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="GGUF cannot say attention_bias"):
        convert(folders["llama4"], tmp_path / "m.gguf")
    folder = Path(shutil.copytree(folders["both"], tmp_path / "m"))
    plain = {**json.loads((folder / "config.json").read_text()), "attention_bias": False, "mlp_bias": False}
    (folder / "config.json").write_text(json.dumps(plain))
    with pytest.raises(BadCheckpoint, match="28 tensors are unknown to the config"):
        open_checkpoint(folder)
