"""llama.cpp itself reads what our writer wrote: logits of text, features of images. Needs llama-cpp-python."""

import ctypes
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import TINY_DENSE, TINY_TEXT, op_set
from herd.batch import packed
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.checkpoint.gguf.write import write_gguf
from herd.checkpoint.random_weights import RandomSource
from herd.config import TINY
from herd.containers.gguf import open_gguf
from herd.model import encode_images, forward, place_weights
from herd.weights import build

llama_cpp = pytest.importorskip("llama_cpp")

FIXTURES = Path(__file__).parent.parent / "fixtures"
# What llama.cpp computes for llama4, whatever a file says.
FIXED = {"chunk": 8192, "floor_scale": 8192, "max_context": 8192}
MOE = replace(TINY_TEXT, width=256, num_heads=8, dense_width=256, expert_width=256, **FIXED)


@pytest.fixture(scope="module")
def make():
    """The script of the fixtures, for its prompt and its way to run llama.cpp."""
    spec = importlib.util.spec_from_file_location("make_gguf", FIXTURES / "make_gguf.py")
    module = sys.modules["make_gguf"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def vocabulary() -> dict:
    keys = open_gguf(FIXTURES / "gguf" / "llama4-f32.gguf").keys
    return {k: keys[k] for k in keys if k.startswith("tokenizer.")}


def load(ops, path, mmproj=None):
    file, second = open_gguf(path), open_gguf(mmproj) if mmproj else None
    config = config_from_gguf(file, second)
    return config, place_weights(ops, build(config, GgufSource(file, config, second)))


def off(got, want):
    return np.sqrt(((got - want) ** 2).mean(axis=1) / (want**2).mean(axis=1))


@pytest.mark.parametrize("config", [MOE, TINY_DENSE], ids=["llama4", "llama"])
@pytest.mark.parametrize(
    ("kind", "limit"), [("f32", 1e-5), ("bf16", 0.02), ("q4_0", 0.04), ("q8_0", 0.04), ("q4_k", 0.05)]
)
def test_llama_cpp_gives_our_logits_for_our_file(config, kind, limit, make, tmp_path):
    written = write_gguf(tmp_path / "m.gguf", config, RandomSource(config), vocabulary(), kind)
    assert written.notes == []
    ids = make.prompt("small")
    want = make.logits(written.path, ids)
    ops = op_set("native")
    back, model = load(ops, written.path)
    got = ops.numpy(forward(ops, back, model, np.asarray(ids, np.int64), ops.place(packed([len(ids)], back.chunk))))
    # A choice of expert may flip within the noise of rounded activations: then one position is off, the rest are not.
    assert np.median(off(got, want)) < limit


def test_llama_cpp_sees_our_features_in_its_own_order(tmp_path):
    # llama.cpp (mtmd, October 2026) numbers the tokens of a tile down its columns; transformers, Meta and Herd along
    # its rows. Its GELU is the tanh form and its attention rounds to float16: up to 1e-3 apart.
    from llama_cpp import mtmd_cpp as mtmd

    vision = replace(TINY.vision, norm_eps=1e-5)
    config = replace(TINY, vision=vision, **FIXED)
    text, mmproj = tmp_path / "t.gguf", tmp_path / "v.gguf"
    write_gguf(text, config, RandomSource(config), vocabulary(), "f32", mmproj=mmproj)
    params = llama_cpp.llama_model_default_params()
    peer_model = llama_cpp.llama_model_load_from_file(str(text).encode(), params)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads = False, 1
    context = mtmd.mtmd_init_from_file(str(mmproj).encode(), peer_model, params)
    assert context, "llama.cpp does not take the mmproj file"

    size = vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    bitmap = mtmd.mtmd_bitmap_init(size, size, pixels.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
    chunks, marker = mtmd.mtmd_input_chunks_init(), mtmd.mtmd_default_marker()
    prompt = mtmd.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(prompt), (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0
    image = mtmd.mtmd_input_chunks_get(chunks, 1)  # between image_start and image_end
    n = mtmd.mtmd_input_chunk_get_n_tokens(image)
    assert n == vision.tokens_per_tile == 4
    assert mtmd.mtmd_encode_chunk(context, image) == 0
    want = np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(context), (n * config.width,)).reshape(n, -1).copy()
    mtmd.mtmd_free(context)
    llama_cpp.llama_model_free(peer_model)

    ops = op_set("native")
    back, model = load(ops, text, mmproj)
    planes = ((pixels.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
    got = ops.numpy(encode_images(ops, back.vision, model.vision, ops.array(np.ascontiguousarray(planes))))
    assert off(got.reshape(2, 2, -1).transpose(1, 0, 2).reshape(n, -1), want).max() < 2e-3
    assert off(got, want).max() > 0.5
