"""The files that llama.cpp quantised give llama.cpp's logits, over both op sets.

Tolerance, relative to the size of a position's logits (root mean square of the difference / of the logits). Weights are
the same numbers on both sides. llama.cpp rounds the input of every matrix to what its kernel wants: float16 and
bfloat16 for such weights, int8 in blocks of 32 or (two-level formats) 256 otherwise; one rounding of Gaussian-like
numbers makes an error of (largest / 127) / sqrt(12), 0.55% of their size in blocks of 32 and 0.66% in blocks of 256.
Such errors are independent, and a path has 4 a layer and one at the head: n = 4 L + 1 of them add to sqrt(n) of one.
`c` = 3 covers what norms and softmax add, and a second op set that rounds its own way. Wrong mathematics is off by 1.
"""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from helpers import OP_SETS, op_set
from herd import formats
from herd.batch import packed
from herd.checkpoint.gguf.source import GgufSource, config_from_gguf
from herd.containers.gguf import open_gguf
from herd.model import forward, place_weights
from herd.weights import Dense, Packed, build

FIXTURES = Path(__file__).parent.parent / "fixtures"
FILES = sorted((FIXTURES / "gguf").glob("*.gguf"))
C = 3.0
ONE_ROUNDING = {
    "f32": 2.0**-24 * 256**0.5,  # a sum of 256 products in float32
    "f16": 2.0**-12,
    "bf16": 2.0**-9,
    **dict.fromkeys(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"), 0.0055),
    **dict.fromkeys(("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs"), 0.0066),
}


def make_gguf():
    """The script that made the fixtures, for its shapes and weights."""
    spec = importlib.util.spec_from_file_location("make_gguf", FIXTURES / "make_gguf.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_gguf"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def load(path: Path):
    file = open_gguf(path)
    config = config_from_gguf(file)
    return file, config, build(config, GgufSource(file, config))


def run(ops, path: Path, ids) -> np.ndarray:
    _, config, model = load(path)
    context = ops.place(packed([len(ids)], config.chunk))
    return ops.numpy(forward(ops, config, place_weights(ops, model), np.asarray(ids, np.int64), context))


def kept_logits(path: Path) -> tuple[list[int], np.ndarray]:
    """The ids of a file's prompt and llama.cpp's logits for them."""
    make = make_gguf()
    return make.prompt(make.FORMATS[path.stem.split("-")[1]][0]), np.load(FIXTURES / "gguf" / "logits.npz")[path.stem]


def ops_for(ops_name: str, path: Path):
    """An op set; skips the test, naming the format, where the native module has no kernels for it."""
    ops, kind = op_set(ops_name), path.stem.split("-")[1]
    f = formats.get(kind)
    if f.packed and ops_name == "native":
        from herd.ops import native_weights

        try:
            native_weights.weight(Packed(kind, np.zeros((1, f.block_bytes), np.uint8), (1, f.block)))
        except ValueError as e:
            if f"weight format: got {kind}," not in str(e):
                raise
            pytest.skip(f"the native module has no kernels for {kind}")
    return ops


def off(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Relative difference per position."""
    return np.sqrt(((got - want) ** 2).mean(axis=1) / (want**2).mean(axis=1))


def allowed(path: Path, layers: int) -> float:
    return C * ONE_ROUNDING[path.stem.split("-")[1]] * (4 * layers + 1) ** 0.5


@pytest.mark.parametrize("ops_name", OP_SETS)
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_file_quantized_by_llama_cpp_gives_its_logits(path, ops_name):
    ids, want = kept_logits(path)
    got = run(ops_for(ops_name, path), path, ids)
    _, config, _ = load(path)
    limit = allowed(path, config.num_layers)
    assert off(got, want).max() < limit
    if ONE_ROUNDING[path.stem.split("-")[1]] < 1e-3:
        assert (got.argmax(axis=1) == want.argmax(axis=1)).all()
    # The measure can tell a wrong answer: the logits of the neighbouring position are far outside.
    assert off(np.roll(got, 1, axis=0), want).min() > 3 * limit


def test_every_number_format_is_covered_for_both_architectures():
    names = {(p.stem.split("-")[0], p.stem.split("-")[1]) for p in FILES}
    assert {name for arch, name in names if arch == "llama4"} == set(formats.WRITTEN)
    # Attention and norms of the other architecture are checked enough without the large files.
    assert {name for arch, name in names if arch == "llama"} == set(formats.WRITTEN) - {
        "q2_k",
        "q3_k",
        "q5_k",
        "iq4_xs",
    }
    for path in FILES:
        used = {t.format for t in open_gguf(path).tensors.values()}
        assert path.stem.split("-")[1] in used
        assert path.stat().st_size < 2 << 20


def test_the_llama4_files_hold_every_kind_of_layer():
    for path in FILES:
        if path.stem.startswith("llama4"):
            layers = load(path)[1].layers
            assert [x.rope for x in layers] == [True, True, True, False]
            assert [x.qk_norm for x in layers] == [True, True, True, False]
            assert {x.moe for x in layers} == {True, False}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_decoded_weights_are_the_ones_that_were_quantized(path):
    # Against the script's numbers, drawn again from the seed: root mean square error by format, 1.3 times what a
    # Gaussian of this block size gives (short rows of few blocks vary).
    limits = {
        "f32": 0.0,
        "f16": 3e-4,
        "bf16": 2.4e-3,
        "q4_0": 0.11,
        "q4_1": 0.1,
        "q5_0": 0.056,
        "q5_1": 0.05,
        "q8_0": 7e-3,
        "iq4_nl": 0.099,
        "q2_k": 0.39,
        "q3_k": 0.196,
        "q4_k": 0.093,
        "q5_k": 0.047,
        "q6_k": 0.023,
        "iq4_xs": 0.1,
    }
    arch, name = path.stem.split("-")
    make = make_gguf()
    file = open_gguf(path)
    want = make.weights(f"{arch}-{make.FORMATS[name][0]}")
    assert set(want) == set(file.tensors)
    for tensor, values in want.items():
        got = file.decoded(tensor)
        assert got.shape == values.shape
        error = np.sqrt(np.mean((got - values) ** 2) / np.mean(values**2))
        assert error <= limits[file.info(tensor).format], tensor


@pytest.mark.parametrize("ops_name", OP_SETS)
def test_a_mistake_in_a_weight_shows(ops_name, tmp_path):
    # The shared gates of two layers change places, by name alone: nothing but the tolerance can notice.
    path = FIXTURES / "gguf" / "llama4-q8_0.gguf"
    content = path.read_bytes()
    one, two = b"blk.3.ffn_gate_shexp.weight", b"blk.1.ffn_gate_shexp.weight"
    swapped = content.replace(one, b"?" * len(one)).replace(two, one).replace(b"?" * len(one), two)
    wrong = tmp_path / path.name
    wrong.write_bytes(swapped)
    ids, want = kept_logits(path)
    assert off(run(op_set(ops_name), wrong, ids), want).max() > 2 * allowed(path, 4)


# -- the next token: K types and iq4_xs ---------------------------------------------------------------------------


def divergence(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """KL(got || want) of the next token's distribution, per position, in float64."""
    a, b = (x.astype(np.float64) - x.max(axis=1, keepdims=True) for x in (got, want))
    a, b = (x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (a, b))
    return (np.exp(a) * (a - b)).sum(axis=1)


def rounding_ops():
    """The op set of torch with activations rounded to int8 as docs/formats.md says kernels do, in plain steps."""
    torch = pytest.importorskip("torch")
    from herd.ops.torch import TorchOps

    def rounded(x, node):
        node = node.gate if node.kind == "pair" else node
        if node.kind != "packed":
            return x
        groups = x.reshape(-1, formats.get(node.format).block)
        a = groups.abs().amax(1, keepdim=True) / 127
        return (torch.round(groups / a) * a).nan_to_num(0).reshape(x.shape)

    class Rounding(TorchOps):
        def linear(self, x_TI, w, extras=None):
            return super().linear(rounded(x_TI, w), w, extras)

        def grouped(self, x_RI, ends, w, extras, rows_R):
            return super().grouped(rounded(x_RI, w), ends, w, extras, rows_R)

    return Rounding()


SUPER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs")


@pytest.mark.parametrize("ops_name", ["rounding", "native"])
@pytest.mark.parametrize("name", SUPER)
def test_the_next_token_is_distributed_as_llama_cpp_distributes_it(name, ops_name):
    # llama.cpp rounds activations to the same grid: most positions agree within float32's rounding (3e-7), until an
    # activation lies so near the border of two codes that the order of a sum decides; then 2e-2 from there on.
    path = FIXTURES / "gguf" / f"llama4-{name}.gguf"
    ids, want = kept_logits(path)
    got = run(rounding_ops() if ops_name == "rounding" else ops_for(ops_name, path), path, ids)
    print(divergence(got, want).mean(), (got.argmax(axis=1) == want.argmax(axis=1)).mean(), off(got, want).max())
    assert divergence(got, want).mean() <= 1e-3
    assert (got.argmax(axis=1) == want.argmax(axis=1)).mean() >= 0.99
    # The measure can tell: the distribution of the neighbouring position is far away.
    assert divergence(np.roll(got, 1, axis=0), want).mean() > 0.1


@pytest.mark.parametrize("name", [name for name in formats.WRITTEN if formats.get(name).packed])
def test_the_plain_op_set_computes_with_exactly_the_decoded_weights(name):
    path = FIXTURES / "gguf" / f"llama4-{name}.gguf"
    ids, _ = kept_logits(path)
    ops = op_set("torch")
    _, config, model = load(path)

    def decoded(node):
        if isinstance(node, tuple):
            return tuple(decoded(x) for x in node)
        if isinstance(node, Packed):
            return Dense(formats.decode(node.format, node.codes, node.shape[-1]), node.bias, node.name)
        if not dataclasses.is_dataclass(node):
            return node
        return type(node)(**{f.name: decoded(getattr(node, f.name)) for f in dataclasses.fields(node)})

    context = ops.place(packed([len(ids)], config.chunk))
    want = ops.numpy(forward(ops, config, place_weights(ops, decoded(model)), np.asarray(ids, np.int64), context))
    np.testing.assert_array_equal(run(ops, path, ids), want)
