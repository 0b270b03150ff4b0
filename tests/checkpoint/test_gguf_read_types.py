"""GGUF files of the number formats that are read and not written: the gguf package writes them, of random codes."""

from pathlib import Path

import numpy as np
import pytest
from test_gguf_logits import ONE_ROUNDING, C, load, make_gguf, off, run

from helpers import OP_SETS, op_set
from herd import formats
from herd.checkpoint import open_checkpoint
from herd.convert import convert
from herd.errors import UsageError
from random_blocks import random_codes

READ = sorted(set(formats.FORMATS) - set(formats.WRITTEN))
gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module", params=READ)
def written(request, tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """A llama4 file whose matrices, table and experts among them, are of one format; their rows of codes."""
    make, shape, rng = make_gguf(), "llama4-pure", np.random.default_rng(5)
    codes = {
        name: random_codes(request.param, rng, w.shape, float(w.std()))
        for name, w in make.weights(shape).items()
        if w.ndim > 1 and "ffn_gate_inp" not in name
    }
    path = tmp_path_factory.mktemp("read") / f"llama4-{request.param}.gguf"
    kind = gguf.GGMLQuantizationType[request.param.upper()]
    make.write(path, shape, {name: (rows, kind) for name, rows in codes.items()})
    return path, codes


def test_every_matrix_is_what_the_gguf_package_decodes(written):
    path, codes = written
    kind = path.stem.split("-")[1]
    file = load(path)[0]
    assert any(rows.ndim == 3 for rows in codes.values())
    for name, rows in codes.items():
        assert file.info(name).format == kind
        want = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind.upper()])
        np.testing.assert_array_equal(file.decoded(name), want)


@pytest.mark.skipif("native" not in OP_SETS or "torch" not in OP_SETS, reason="needs both op sets")
def test_native_kernels_give_the_logits_of_the_reference(written):
    path, _ = written
    ids = make_gguf().prompt("pure")
    want, got = (run(op_set(name), path, ids) for name in ("torch", "native"))
    rounding = ONE_ROUNDING["q4_0" if formats.get(path.stem.split("-")[1]).block == 32 else "q4_k"]
    limit = C * rounding * (4 * load(path)[1].num_layers + 1) ** 0.5
    # of random models some positions choose their expert by a hair: most count
    assert np.median(off(got, want)) < limit
    assert np.median(off(np.roll(got, 1, axis=0), want)) > 3 * limit


def test_such_a_file_becomes_a_folder_of_floats_and_no_gguf_of_its_own_type(written, tmp_path):
    path, _ = written
    with pytest.raises(UsageError, match=f"type of a GGUF file: got {path.stem.split('-')[1]}, expected f32"):
        convert(path, tmp_path / "m.gguf")
    convert(path, tmp_path / "hf", "f32")
    c = load(path)[1]
    w = open_checkpoint(tmp_path / "hf").source().matrix("model.layers.3.self_attn.o_proj", c.width, c.width).w
    np.testing.assert_array_equal(w, load(path)[0].decoded("blk.3.attn_output.weight"))
