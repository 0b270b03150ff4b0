"""Packed attention of the torch op set: its gradient, its forms, and that it waits for no device."""

from typing import Any

import numpy as np
import pytest

from herd.batch import Segments, segments

torch = pytest.importorskip("torch")
from devices import DEVICES  # noqa: E402

from herd.ops import torch_attention as attention  # noqa: E402
from herd.ops import torch_kv  # noqa: E402
from herd.ops.torch import TorchOps  # noqa: E402

N, K, H = 4, 2, 8
CPU = torch.device("cpu")
BORDERS = torch.tensor([[0, 3, 3, 4, 9], [0, 3, 3, 9, 20]])
"""Segments without a past, empty, of one row with a past, of five with a past."""


def arrays(dtype: Any = torch.float64) -> list[Any]:
    torch.manual_seed(0)
    shapes = (9, N, H), (20, K, H), (20, K, H)
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def stand_in(
    q: Any, k: Any, v: Any, q_starts: Any, k_starts: Any, most_q: int, most_k: int, *, window_size: Any, enable_gqa: Any
) -> Any:
    """What PyTorch documents of `varlen_attn`, head by head."""
    assert enable_gqa
    assert q_starts.dtype == k_starts.dtype == torch.int32
    assert (most_q, most_k) == (int(q_starts.diff().max()), int(k_starts.diff().max()))
    out = torch.zeros_like(q)
    for s in range(len(q_starts) - 1):
        (a, b), (c, d) = q_starts[s : s + 2].tolist(), k_starts[s : s + 2].tolist()
        for t in range(a, b):
            seen = slice(c, d - (b - 1 - t) if window_size == (-1, 0) else d)
            for n in range(q.shape[1]):
                kv = n * k.shape[1] // q.shape[1]
                p = (k[seen, kv] @ q[t, n] / q.shape[-1] ** 0.5).softmax(0)
                out[t, n] = p @ v[seen, kv]
    return out


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block", [2, 256])
def test_gradients_are_those_of_finite_differences(causal: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    assert torch.autograd.gradcheck(lambda *x: attention.packed(*x, BORDERS, causal), arrays(), fast_mode=True)


@pytest.mark.parametrize("causal", [True, False])
def test_it_is_what_pytorch_asks_of_an_operation(causal: bool) -> None:
    torch.library.opcheck(attention.packed, (*arrays(torch.float32), BORDERS, causal))


@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_is_asked_for_the_same(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in: no card is needed to see what it is given."""
    s = Segments(*(x.numpy() for x in (BORDERS[0], BORDERS[1].diff())))
    placed = attention.place(s, CPU)
    q, k, v = (x.detach() for x in arrays())
    wanted = attention.attend(q, k, v, placed, causal)
    monkeypatch.setattr(attention, "varlen", lambda: stand_in)
    monkeypatch.setattr(attention, "_can_flash", lambda _: True)
    torch.testing.assert_close(attention.attend(q, k, v, placed, causal), wanted)


def test_pytorchs_flash_attention_takes_what_it_is_given() -> None:
    from torch._subclasses import FakeTensorMode

    flash = attention.varlen()
    if flash is None:
        pytest.skip("this PyTorch has none")
    placed = attention.place(segments([3, 6]), CPU)
    with FakeTensorMode(allow_non_fake_inputs=True):
        q, k = torch.empty(9, N, H, dtype=torch.bfloat16), torch.empty(9, K, H, dtype=torch.bfloat16)
        numbers = placed.starts, placed.key_starts, placed.most_rows, placed.most_keys
        assert flash(q, k, k, *numbers, window_size=(-1, 0), enable_gqa=True).shape == q.shape


@pytest.mark.parametrize("exact", [False, True])
def test_slots_of_keys_are_those_of_their_pages(exact: bool) -> None:
    """Against one key after another."""
    rng, Z = np.random.default_rng(2), 4
    lens = np.array([1, 9, 4, 12])
    pages, pairs = rng.integers(0, 50, (4, 3)), rng.integers(0, 50, (4, 2)) if exact else None
    s = Segments(np.arange(5), lens, pages, np.arange(4), Z, pairs)
    placed = attention.place(s, CPU)
    wanted = []
    for n, length in enumerate(lens):
        for i in range(length):
            page, is_exact = pages[n, i // Z], False
            if pairs is not None and i // Z in (0, (length - 1) // Z):
                page, is_exact = pairs[n, 0 if i < Z else 1], True
            wanted.append((page * Z + i % Z, is_exact))
    assert placed.keys_at is not None
    assert placed.keys_at.tolist() == [slot for slot, _ in wanted]
    assert (placed.is_exact.tolist() if placed.is_exact is not None else None) == (
        [flag for _, flag in wanted] if exact else None
    )


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8", "int4"])
def test_a_pass_over_a_cache_reads_no_device_array_back(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host lie the borders alone; whatever reads another array's values is heard."""
    read: list[Any] = []
    for name in ("tolist", "item", "numpy", "nonzero", "__bool__", "__int__", "__index__"):
        own = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda x, *a, own=own: (read.append(x.shape), own(x, *a))[1])
    ops, Z = TorchOps(), torch_kv.PAGE
    kv = ops.new_kv(4 * Z, K, H, dtype, exact_slots=4 * Z)
    pairs, closing = (np.array([[0, 2], [1, 1]]), np.array([[2, 3]])) if dtype == "int4" else (None, None)
    s = Segments(
        np.array([0, 2, 3]), np.array([2 * Z, 1]), np.array([[0, 2], [1, 1]]), np.array([5, 6, 0]), Z, pairs, closing
    )
    placed = attention.place(s, CPU)
    q, k = torch.randn(3, N, H), torch.randn(3, K, H)
    assert ops.attend(q, k, k, placed, kv).isfinite().all()
    assert read[:-1] == [placed.borders.shape] and read[-1] == ()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_a_device_gives_what_float64_gives(device: str, dtype: Any, causal: bool) -> None:
    s = Segments(BORDERS[0].numpy(), BORDERS[1].diff().numpy())
    inputs = [x.detach().to(dtype) for x in arrays()]
    exact = [x.double().requires_grad_() for x in inputs]
    given = [x.to(device).requires_grad_() for x in inputs]
    wanted = attention.packed(*exact, BORDERS, causal)
    found = attention.attend(*given, attention.place(s, torch.device(device)), causal)
    wanted.sum().backward()
    found.sum().backward()
    # probabilities and values of size 1 to 3, a few roundings each
    limit = {"rtol": 0, "atol": 16 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found.double().cpu(), wanted, **limit)
    for a, b in zip(given, exact, strict=True):
        torch.testing.assert_close(a.grad.double().cpu(), b.grad, **limit)
