"""The grouped product of experts: both of its ways against float64, its gradient, and that it waits for no device."""

from typing import Any

import numpy as np
import pytest

from herd import formats
from herd.formats import strips
from herd.model import place_weights
from herd.weights import Dense, Experts, LoRA, Mlp, Moe, Norm, Packed, Pair

torch = pytest.importorskip("torch")
from devices import DEVICES  # noqa: E402
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode  # noqa: E402

from herd.ops import torch_experts as experts  # noqa: E402
from herd.ops.torch import TorchOps  # noqa: E402

E, I, O = 5, 32, 48  # noqa: E741
ENDS = {"many rows": [4, 4, 9, 13, 13], "few rows": [0, 1, 1, 1, 3], "one": [0, 0, 0, 1, 1], "none": [0] * 5}
DENSE = experts.DENSE, "", 0, 0, False


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def plain(x_RI: np.ndarray, ends: list[int], w_EIO: np.ndarray) -> np.ndarray:
    """Row by row."""
    owner = [e for e, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) for _ in range(a, b)]
    return np.stack([x @ w_EIO[e] for x, e in zip(x_RI, owner, strict=True)]) if owner else np.zeros((0, O))


def forms(values_EOI: np.ndarray) -> dict[str, tuple[Any, ...]]:
    """A stack in each form, as arguments of the operation, and its values."""
    codes = formats.encode("q4_0", values_EOI.astype(np.float32))
    exact = formats.decode("q4_0", codes, I).astype(np.float64)
    dense = torch.from_numpy(values_EOI)
    return {
        "output-major": (dense.mT, *DENSE, values_EOI.swapaxes(1, 2)),
        "input-major": (dense.mT.contiguous(), *DENSE, values_EOI.swapaxes(1, 2)),
        "rows": (torch.from_numpy(codes), "q4_0", "rows", O, I, False, exact.swapaxes(1, 2)),
        "strips": (
            torch.from_numpy(strips.to_strips("q4_0", codes)), "q4_0", "strips", O, I, False, exact.swapaxes(1, 2)
        ),
    }  # fmt: skip


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("form", ["output-major", "input-major", "rows", "strips"])
@pytest.mark.parametrize("way", [experts.grouped, experts.grouped_product], ids=["cpu", "device"])
def test_each_row_meets_its_experts_matrix(way: Any, form: str, ends: list[int], rng: np.random.Generator) -> None:
    *w, values = forms(rng.normal(size=(E, O, I)))[form]
    x = rng.normal(size=(ends[-1], I))
    found = way(torch.from_numpy(x), torch.tensor(ends), *w)
    np.testing.assert_allclose(found, plain(x, ends, values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("way", [experts.weight_gradients, experts.grouped_weight_gradients], ids=["cpu", "device"])
def test_weight_gradients_are_sums_of_outer_products(way: Any, ends: list[int], rng: np.random.Generator) -> None:
    x, g = rng.normal(size=(ends[-1], I)), rng.normal(size=(ends[-1], O))
    found = way(torch.from_numpy(x), torch.from_numpy(g), torch.tensor(ends))
    wanted = [x[a:b].T @ g[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-12, atol=1e-12)


def test_pytorchs_grouped_product_is_asked_for_the_same(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CPU form, as a card's bfloat16 would be computed."""
    monkeypatch.setattr(experts, "_has_kernel", lambda *_: True)
    ends = torch.tensor(ENDS["many rows"])
    x, w, g = (torch.from_numpy(rng.normal(size=s)).float() for s in ((13, I), (E, I, O), (13, O)))
    torch.testing.assert_close(experts.grouped_product(x, ends, w, *DENSE), experts.grouped(x, ends, w, *DENSE))
    torch.testing.assert_close(experts.grouped_weight_gradients(x, g, ends), experts.weight_gradients(x, g, ends))
    turned = experts.grouped_product(g, ends, w.mT, *DENSE)
    torch.testing.assert_close(turned, experts.grouped(g, ends, w.mT, *DENSE))


@pytest.mark.parametrize("ends", [[2, 2, 5], [0, 0, 2]])
def test_gradients_are_those_of_finite_differences(ends: list[int], rng: np.random.Generator) -> None:
    x, w = (torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in ((ends[-1], 4), (3, 4, 6)))
    marks = torch.tensor(ends)
    assert torch.autograd.gradcheck(lambda x, w: experts.grouped(x, marks, w, *DENSE), (x, w))
    assert torch.autograd.gradcheck(
        lambda x, w: experts.grouped(x, marks, w.mT, *DENSE), (x, w.mT.detach().requires_grad_())
    )


@pytest.mark.parametrize("form", ["rows", "strips"])
def test_the_gradient_goes_through_packed_experts(form: str, rng: np.random.Generator) -> None:
    ends = ENDS["few rows"]
    *w, values = forms(rng.normal(size=(E, O, I)))[form]
    x = torch.from_numpy(rng.normal(size=(3, I))).requires_grad_()
    g = rng.normal(size=(3, O))
    experts.grouped(x, torch.tensor(ends), *w).backward(torch.from_numpy(g))
    np.testing.assert_allclose(x.grad, plain(g, ends, values.swapaxes(1, 2)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["input-major", "rows"])
def test_it_is_what_pytorch_asks_of_an_operation(form: str, rng: np.random.Generator) -> None:
    *w, _ = forms(rng.normal(size=(E, O, I)))[form]
    if w[0].is_floating_point():
        w[0].requires_grad_()
    x = torch.from_numpy(rng.normal(size=(13, I))).requires_grad_()
    torch.library.opcheck(experts.grouped, (x, torch.tensor(ENDS["many rows"]), *w))
    torch.library.opcheck(
        experts.weight_gradients, (x.detach(), torch.randn(13, O, dtype=x.dtype), torch.tensor(ENDS["many rows"]))
    )


@pytest.mark.parametrize("num_rows", [2, 13])
@pytest.mark.parametrize("form", ["input-major", "rows", "strips"])
def test_the_way_on_a_device_reads_nothing_back(form: str, num_rows: int, rng: np.random.Generator) -> None:
    """Over tensors without contents, whatever asks for a value, or for a size that hangs on one, raises."""
    *w, _ = forms(rng.normal(size=(E, O, I)))[form]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        x, ends = torch.empty(num_rows, I), torch.empty(E, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            ends[0].item()
        assert experts.grouped_product(x, ends, mode.from_tensor(w[0]), *w[1:]).shape == (num_rows, O)
        assert experts.grouped_weight_gradients(x, torch.empty(num_rows, O), ends).shape == (E, I, O)


@pytest.mark.parametrize("wrapped", ["input-major", "apart", "packed", "lora"])
def test_the_whole_operation_reads_nothing_back(wrapped: str, rng: np.random.Generator) -> None:
    def stack(outputs: int, inputs: int) -> Any:
        w_EOI = rng.normal(size=(E, outputs, inputs)).astype(np.float32)
        if wrapped == "packed":
            return Packed("q8_0", formats.encode("q8_0", w_EOI), (E, outputs, inputs))
        base = Experts(w_EOI.swapaxes(1, 2).copy())
        if wrapped == "lora":
            return LoRA(base, np.ones((E, 2, inputs), np.float32), np.ones((E, outputs, 2), np.float32), 0.5)
        return (
            Pair(*(Dense(half) for half in np.split(w_EOI, 2, 1))) if wrapped == "apart" and outputs == 2 * I else base
        )

    def dense(outputs: int, inputs: int) -> Dense:
        return Dense(rng.normal(size=(outputs, inputs)).astype(np.float32))

    moe = Moe(dense(E, I), stack(2 * I, I), stack(I, I), Mlp(dense(I, I), dense(I, I), dense(I, I)))
    ops = TorchOps()
    norm, moe = place_weights(ops, Norm(np.ones(I, np.float32), None, 1e-5)), place_weights(ops, moe)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert ops.moe_add(torch.empty(7, I), norm, moe, E, 2).shape == (7, I)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_device_gives_what_float64_gives(device: str, dtype: Any, rng: np.random.Generator) -> None:
    x, w, g = (torch.from_numpy(rng.normal(size=s)).to(device, dtype) for s in ((13, I), (E, I, O), (13, O)))
    x, w, ends = x.requires_grad_(), w.requires_grad_(), torch.tensor(ENDS["many rows"], device=device)
    y = experts.grouped(x, ends, w, *DENSE)
    y.backward(g)
    exact = [t.detach().double().cpu().numpy() for t in (x, w, g)]
    wanted = plain(exact[0], ENDS["many rows"], exact[1])
    # one rounding of the result; sums of I products in at least float32
    np.testing.assert_allclose(y.detach().double().cpu(), wanted, rtol=0, atol=torch.finfo(dtype).eps * 64)
    assert x.grad is not None
    assert w.grad is not None
    gx = plain(exact[2], ENDS["many rows"], exact[1].swapaxes(1, 2))
    np.testing.assert_allclose(x.grad.double().cpu(), gx, rtol=0, atol=torch.finfo(dtype).eps * 64)
