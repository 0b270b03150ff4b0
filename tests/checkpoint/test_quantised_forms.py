"""Matrices that each form's own package quantised (tests/fixtures/quantised): Herd decodes them to the same numbers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from herd.checkpoint.coded import node_of
from herd.checkpoint.hf.forms.form import Form
from herd.checkpoint.hf.kinds import FORMS
from herd.checkpoint.hf.stored import Stored, Tensor
from herd.containers.safetensors import SafeFile
from herd.containers.safetensors_header import DTYPES
from herd.errors import BadCheckpoint
from herd.formats import bf16_from_float32, decode, to_float32
from herd.weights import Packed

FILES = sorted((Path(__file__).parent.parent / "fixtures" / "quantised").glob("*.safetensors"))
CASES = [
    pytest.param(path, variant, id=f"{path.stem}-{variant}")
    for path in FILES
    for variant in json.loads(SafeFile(path).metadata["variants"])
]
LOSSLESS = {
    "w4_symmetric": "q4_0", "w4_zero_points": "q5_0", "w4_channel_zero_points": "q5_0", "w8_packed": "q8_0",
    "int8_channel": "q8_0", "int8_naive": "q8_0", "mxfp4": "mxfp4",
    "b2_zeros": "q4_0", "b3_zeros": "q4_0", "b4_symmetric": "q4_0", "b4_zeros": "q5_0", "b8_symmetric": "q8_0",
    "group_32": "q5_0", "group_128": "q5_0",
    "affine_2": "q4_1", "affine_3": "q4_1", "affine_4": "q4_1", "affine_5": "q5_1",
}  # fmt: skip
"""Variant -> the block format that holds it; the others become floats."""


def stored(path: Path) -> tuple[Stored, dict[str, Any], SafeFile]:
    file = SafeFile(path)
    return Stored(path, {name: (file, name) for name in file.entries}), json.loads(file.metadata["variants"]), file


def narrowed(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rounded once to the dtype that the package decodes to."""
    if dtype == "BF16":
        return to_float32(bf16_from_float32(x))
    return x.astype(np.float16).astype(np.float32) if dtype == "F16" else x


@pytest.mark.parametrize(("path", "variant"), CASES)
def test_a_matrix_is_what_its_package_decodes_it_to(path: Path, variant: str) -> None:
    tensors, variants, file = stored(path)
    said = variants[variant]
    outputs, inputs = said["shape"]
    coded = FORMS[said["settings"]["quant_method"]](tensors, said["settings"]).coded(variant, outputs, inputs)
    assert coded is not None
    of_it = {n for n in file.entries if n.startswith(variant + ".")} - {f"{variant}.decoded"}
    assert tensors.asked == of_it  # or a folder would be refused for a tensor too many
    want = to_float32(file.array(f"{variant}.decoded"))
    got = coded.floats(0, outputs)
    assert np.array_equal(narrowed(got, file.entries[f"{variant}.decoded"].dtype), want)
    assert np.array_equal(coded.floats(3, 14), got[3:14])
    node = node_of([coded], outputs, inputs, variant, stack=False)
    assert (node.format if isinstance(node, Packed) else None) == LOSSLESS.get(variant)
    if isinstance(node, Packed):
        assert np.array_equal(decode(node.format, np.asarray(node.codes), inputs), got)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("path", "variant"), CASES)
def test_a_block_format_holds_what_scales_of_any_bits_make(path: Path, variant: str) -> None:
    """NaN, infinity and the ends of the range, too, where it is chosen; where it is not, floats hold them."""
    tensors, variants, _ = stored(path)
    said, rng = variants[variant], np.random.default_rng(3)
    outputs, inputs = said["shape"]
    for name, tensor in list(tensors.tensors.items()):
        if name.startswith(variant + ".") and name.endswith(("scale", "scales", "scale_2", "biases", "absmax", "SCB")):
            array = tensor.read()
            bits = rng.choice([0, 1, 127, 128, 254, 255], (*array.shape, array.dtype.itemsize)).astype(np.uint8)
            made = np.ascontiguousarray(bits).view(array.dtype).reshape(array.shape)
            tensors.tensors[name] = Tensor(tensor.dtype, array.shape, lambda made=made: made, tensor.stored)
    with np.errstate(all="ignore"):
        coded = FORMS[said["settings"]["quant_method"]](tensors, said["settings"]).coded(variant, outputs, inputs)
        assert coded is not None
        want = coded.floats(0, outputs)
    node = node_of([coded], outputs, inputs, variant, stack=False, floats="f32")
    np.testing.assert_array_equal(np.asarray(node.w), want)  # type: ignore[union-attr]
    for format in coded.formats:
        with np.errstate(all="ignore"):
            got = decode(format, coded.blocks(format, 0, outputs), inputs)
        np.testing.assert_array_equal(got, want)


def test_every_form_has_a_file_of_its_package() -> None:
    have = {path.stem for path in FILES}
    assert {method.replace("-", "_") for method in FORMS} - {"fbgemm_fp8"} <= have
    for path in FILES:
        assert SafeFile(path).metadata["package"].split()[1]


@pytest.mark.parametrize("shape", [(200, 300), (128, 128), (5, 7), (129, 1)])
def test_blocks_of_fp8_that_do_not_fill_a_matrix_have_a_scale_too(shape: tuple[int, int]) -> None:
    """As published: blocks of 128 by 128, the last ones cut; in float64, each weight by its own place."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(shape[0])
    codes = torch.from_numpy(rng.normal(size=shape).astype(np.float32)).to(torch.float8_e4m3fn)
    scales = rng.uniform(1e-4, 2, (-(-shape[0] // 128), -(-shape[1] // 128))).astype(np.float32)
    said = {"a.weight": ("F8_E4M3", codes.view(torch.uint8).numpy()), "a.weight_scale_inv": ("F32", scales)}
    tensors = {n: Tensor(dtype, x.shape, lambda x=x: x, n) for n, (dtype, x) in said.items()}
    stored = Stored(Path("a"), {})
    stored.tensors.update(tensors)
    coded = FORMS["fp8"](stored, {"quant_method": "fp8"}).coded("a", *shape)
    assert coded is not None
    rows, columns = np.indices(shape)
    want = codes.double().numpy() * scales.astype(np.float64)[rows // 128, columns // 128]
    np.testing.assert_array_equal(coded.floats(0, shape[0]), want.astype(np.float32))
    np.testing.assert_array_equal(coded.floats(1, 5), want[1:5].astype(np.float32))


OPTIONAL = (".weight_shape", ".weight_zero_point", "g_idx", ".weight_format")
"""Endings of tensors without which a matrix is another one, or the same."""
WHOLE = (".weight_shape", "g_idx", ".weight_format")
"""Endings of those that any whole numbers may hold."""


def refused(form: Form, name: str, outputs: int, inputs: int) -> None:
    with pytest.raises(BadCheckpoint, match=name):
        form.coded(name, outputs, inputs)


@pytest.mark.parametrize(("path", "variant"), CASES)
def test_a_tensor_that_is_missing_cut_or_of_another_type_is_refused(path: Path, variant: str) -> None:
    tensors, variants, file = stored(path)
    said = variants[variant]
    form = FORMS[said["settings"]["quant_method"]](tensors, said["settings"])
    outputs, inputs = said["shape"]
    names = [n for n in file.entries if n.startswith(variant + ".") and not n.endswith(".decoded")]
    for name in names:
        whole = tensors.tensors.pop(name)
        wrong = [] if name.endswith(WHOLE) else [Tensor("I64", whole.shape, whole.read, name)]
        if whole.shape and whole.shape != (1,):
            wrong.append(whole.part(lambda x: x[:-1], (whole.shape[0] - 1, *whole.shape[1:])))
        if name.endswith(".qweight"):
            assert form.coded(variant, outputs, inputs) is None  # as if it were plain: its weight is missing
        elif not name.endswith(OPTIONAL):
            refused(form, variant, outputs, inputs)
        for tensors.tensors[name] in wrong:
            refused(form, variant, outputs, inputs)
        tensors.tensors[name] = whole
    for shape in ((outputs - 4, inputs), (outputs, inputs - 8), (outputs + 8, inputs)):
        refused(form, variant, *shape)


ODD = (None, True, 0, -1, 5, 10**400, 1e300, "x", [], [1], {}, {"a": 5}, {"a": {"weights": None}})
"""What a hostile file may say in place of anything."""
OPTIONS = {
    "modelopt": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {"quant_algo": "FP8"}}, "quantization": {}},
    "compressed-tensors": {"sparsity_config": {"format": "dense"}, "transform_config": {"config_groups": {}}},
    "gptq": {"checkpoint_format": "gptq"}, "awq": {"version": "gemm", "bits": 4}, "mlx": {"mode": "affine"},
}  # fmt: skip
"""Settings that are read and that not every package writes."""


def changed(tree: Any) -> Iterator[Any]:
    """A tree of JSON with one value after the other left out, by another name, or replaced by each of ODD."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield {k: v for k, v in tree.items() if k != key}
        yield {**{k: v for k, v in tree.items() if k != key}, 3000 * "a\n": value}
        yield from ({**tree, key: odd} for odd in (*ODD, *changed(value)))


def bent(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor with other numbers of axes and rows, and other types; a JSON text with other values."""
    array = tensor.read()
    flat = array.reshape(-1)
    shapes = [flat[:1].reshape(()), flat[:0], flat, array[None], array[..., None], array.T, flat[:-1], array[None][:0]]
    for other in shapes:
        yield Tensor(tensor.dtype, other.shape, lambda other=other: other, tensor.stored)
    for dtype in ("F32", "U8", "I8", "I32", "F8_E4M3"):
        yield Tensor(dtype, array.shape, lambda dtype=dtype: np.ones(array.shape, DTYPES[dtype]), tensor.stored)
    for said in changed(json.loads(array.tobytes())) if "quant_state" in tensor.stored else ():
        data = np.frombuffer(json.dumps(said).encode(), np.uint8)
        yield Tensor("U8", data.shape, lambda data=data: data, tensor.stored)


def read_or_refused(make: type[Form], tensors: Stored, settings: dict[str, Any], name: str, shape: list[int]) -> None:
    """Whatever is said, a matrix is read whole, in its shape, or refused."""
    told = ""
    try:
        coded = make(tensors, settings).coded(name, *shape)
        assert coded is None or coded.floats(0, 3).shape == (3, shape[1])
    except BadCheckpoint as error:
        told = str(error)
    assert told.isprintable() and len(told) < 10_000


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("path", "variant"), CASES)
def test_whatever_a_file_says_it_is_read_or_refused(path: Path, variant: str) -> None:
    tensors, variants, _ = stored(path)
    shape, settings = variants[variant]["shape"], variants[variant]["settings"]
    method = settings["quant_method"]
    makes = [FORMS[method], *([FORMS["fbgemm_fp8"]] if method == "compressed-tensors" else [])]
    for make in makes:
        for said in changed({**settings, **OPTIONS.get(method, {})}):
            read_or_refused(make, tensors, said, variant, shape)
        for name, tensor in list(tensors.tensors.items()):
            if not name.startswith(variant + ".") or name.endswith(".decoded"):
                continue
            for other in bent(tensor):
                tensors.tensors[name] = other
                read_or_refused(make, tensors, settings, variant, shape)
            del tensors.tensors[name]
            read_or_refused(make, tensors, settings, variant, shape)
            tensors.tensors[name] = tensor
