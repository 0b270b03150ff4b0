"""`head_loss` of both op sets against cross-entropy in float64; its gradient; what it holds."""

from typing import Any

import numpy as np
import pytest

from helpers import OP_SETS, op_set
from herd.model import place_weights
from herd.ops.contract import Adapters, Extras, LowRank
from herd.weights import Dense, LoRA, Norm

T, D, V = 64, 32, 1000


def case(seed: int = 3) -> tuple[np.ndarray, Norm, Dense, np.ndarray]:
    rng = np.random.default_rng(seed)
    norm = Norm((1 + 0.1 * rng.normal(size=D)).astype(np.float32), None, 1e-3)
    head = Dense(rng.normal(size=(V, D)).astype(np.float32), None, "lm_head")
    targets = rng.integers(0, V, T)
    targets[[0, 5, 63]] = -1
    return rng.normal(size=(T, D)).astype(np.float32), norm, head, targets


def plain(x: np.ndarray, norm: Norm, w_VD: np.ndarray, targets: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    logits = (norm.w * x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps)) @ w_VD.astype(np.float64).T
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(T), targets]
    return np.where(targets < 0, 0, losses)


@pytest.mark.parametrize("name", OP_SETS)
def test_the_loss_is_the_cross_entropy_of_each_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.ops.native.LOSS_ROWS", 7)
    if name == "torch":
        op_set(name)
        monkeypatch.setattr("herd.ops.torch.LOGITS", 7 * V)
    ops = op_set(name)
    x, norm, head, targets = case()
    found = ops.numpy(ops.head_loss(ops.array(x), place_weights(ops, norm), place_weights(ops, head), targets))
    # logits of size sqrt(D) * 4: eps 6e-8 * 32 * 23
    np.testing.assert_allclose(found, plain(x, norm, head.w, targets), rtol=0, atol=5e-5)
    assert not found[targets < 0].any()
    assert ops.head_loss(ops.array(x[:0]), place_weights(ops, norm), place_weights(ops, head), []).shape == (0,)


@pytest.mark.parametrize("name", OP_SETS)
def test_adapters_follow_their_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ops = op_set(name)
    monkeypatch.setattr("herd.ops.native.LOSS_ROWS", 9)
    if name == "torch":
        monkeypatch.setattr("herd.ops.torch.LOGITS", 9 * V)
    x, norm, head, targets = case()
    rng = np.random.default_rng(1)
    down, up = rng.normal(size=(2, D)).astype(np.float32), rng.normal(size=(V, 2)).astype(np.float32)
    rows_T = np.where(np.arange(T) % 3, 0, -1)
    extras = Extras(Adapters({"lm_head": [LowRank(ops.array(down), ops.array(up), 0.2)]}, rows_T))
    args = ops.array(x), place_weights(ops, norm), place_weights(ops, head), targets
    found = ops.numpy(ops.head_loss(*args, extras))
    wanted = [plain(x, norm, w, targets) for w in (head.w, head.w + 0.2 * up @ down)]
    np.testing.assert_allclose(found, np.where(rows_T < 0, *wanted), rtol=0, atol=1e-4)


torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from herd.ops.torch import TorchOps  # noqa: E402


@pytest.mark.parametrize("adapted", [False, True])
def test_gradients_are_those_of_finite_differences(adapted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.ops.torch.LOGITS", 3 * 11)
    ops = TorchOps(dtype=torch.float64)
    torch.manual_seed(0)
    x, w, scale = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((8, 6), (11, 6), (6,)))
    down, up = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 6), (11, 2)))
    targets = torch.tensor([3, 10, -1, 0, 5, 5, -1, 1])

    def loss(x: Any, w: Any, scale: Any, down: Any, up: Any) -> Any:
        head: Any = LoRA(Dense(w), down, up, 0.5) if adapted else Dense(w)
        return ops.head_loss(x, Norm(scale, None, 1e-3), head, targets)

    assert torch.autograd.gradcheck(loss, (x, w, scale, down, up), fast_mode=True)


def test_loss_and_gradients_are_those_of_plain_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.ops.torch.LOGITS", 7 * V)
    x, norm, head, targets = case()
    ops = TorchOps(dtype=torch.float64)
    found = []
    for is_whole in (False, True):
        x_TD, w_VD, w_D = (torch.from_numpy(a).double().requires_grad_() for a in (x, head.w, norm.w))
        nodes = Norm(w_D, None, norm.eps), Dense(w_VD)
        if is_whole:
            wanted = torch.from_numpy(np.where(targets < 0, -100, targets))
            loss = torch.nn.functional.cross_entropy(ops.head(x_TD, *nodes), wanted, reduction="sum")
        else:
            loss = ops.head_loss(x_TD, *nodes, targets).sum()
        loss.backward()
        found.append([loss.detach(), x_TD.grad, w_VD.grad, w_D.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


def test_nothing_of_rows_times_vocabulary_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("herd.ops.torch.LOGITS", 8 * V)
    x, norm, head, targets = case()
    ops = TorchOps()
    x_TD, w_VD = (torch.from_numpy(a).requires_grad_() for a in (x, head.w))
    nodes = Norm(torch.from_numpy(norm.w), None, norm.eps), Dense(w_VD)
    with Largest() as seen:
        ops.head_loss(x_TD, *nodes, targets).sum().backward()
    assert seen.elements == V * D, "the head itself and its gradient; eight rows of logits are fewer"
    with Largest() as seen:
        torch.nn.functional.cross_entropy(ops.head(x_TD, *nodes), torch.zeros(T, dtype=torch.int64)).backward()
    assert seen.elements == T * V, "what the watch sees of the plain way"
