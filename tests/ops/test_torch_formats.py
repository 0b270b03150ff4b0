"""Packed weights on a device: the values are those of `herd.formats`, bit for bit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from devices import DEVICES  # noqa: E402

import random_blocks  # noqa: E402
from herd import formats  # noqa: E402
from herd.errors import BadCheckpoint  # noqa: E402
from herd.formats import strips  # noqa: E402
from herd.ops import torch_formats  # noqa: E402
from herd.ops.torch import TorchOps  # noqa: E402
from herd.weights import Packed  # noqa: E402

NAMES = sorted(strips.UNITS)


def random_codes(name: str, *shape: int) -> np.ndarray:
    """Random bytes of rows [..., I], each half float of them made finite."""
    rng = np.random.default_rng(len(name) + sum(shape))
    codes = random_blocks.random_codes(name, rng, shape)
    block = formats.get(name).block_bytes
    noise = rng.integers(0, 256, codes.shape, np.uint8).reshape(-1, block)
    noise[:] = np.where(np.isfinite(formats.decode(name, noise, formats.get(name).block)).all(1)[:, None], noise, 0)
    mixed = codes.reshape(-1, block)
    mixed[::2] = noise[::2]
    return mixed.reshape(codes.shape)


def test_every_block_format_has_a_decoder():
    assert set(strips.UNITS) | {"f32", "f16", "bf16"} == set(torch_formats.DECODERS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_formats_bit_for_bit(name, device):
    codes = random_codes(name, 3, 20, 512)
    want = formats.decode(name, codes, 512)
    got = torch_formats.decode(name, torch.from_numpy(codes).to(device), 512).cpu().numpy()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.int32), want.view(np.int32))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_strips_are_unpacked_on_the_device(name, device):
    rows = random_codes(name, 2, 37, 256)
    packed = torch.from_numpy(strips.to_strips(name, rows)).to(device)
    np.testing.assert_array_equal(torch_formats.from_strips(name, packed, 37).cpu().numpy(), rows)
    at = torch.tensor([36, 0, 17, 17, 5], device=device)
    np.testing.assert_array_equal(torch_formats.pick_rows(name, packed[1], at).cpu().numpy(), rows[1][at.cpu().numpy()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["rows", "strips"])
def test_a_product_over_packed_weights_is_that_of_their_values(device, layout):
    rows = random_codes("q4_k", 40, 512)
    codes = rows if layout == "rows" else strips.to_strips("q4_k", rows)
    ops = TorchOps(device=device)
    w = Packed("q4_k", ops.array(codes), (40, 512), None, "w", layout)
    assert w.codes.device.type == torch.device(device).type
    x = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    want = x.astype(np.float64) @ formats.decode("q4_k", rows, 512).astype(np.float64).T
    got = ops.numpy(ops.linear(ops.array(x), w))
    np.testing.assert_allclose(got, want, atol=4 * np.finfo(np.float32).eps * np.abs(want).max() * 512**0.5)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(BadCheckpoint, match=r"q4_0 row of 64 weights: got 35 bytes, expected 36"):
        torch_formats.decode("q4_0", torch.zeros(2, 35, dtype=torch.uint8), 64)
    with pytest.raises(BadCheckpoint, match="format of a weight"):
        torch_formats.decode("q9_9", torch.zeros(2, 35, dtype=torch.uint8), 64)
