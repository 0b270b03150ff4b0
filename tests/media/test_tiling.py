"""The plan of tiles and their pixels, against the preprocessing that Meta publishes with the model."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from herd.media import load_image
from herd.media.tiling import TilePlan, plan

SIDE = 336


@pytest.fixture(scope="module")
def meta() -> Any:
    """Meta's preprocess module, with the few functions of torchvision that it calls on PIL images given by us."""
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("llama_models")
    from PIL import Image, ImageFile

    vision, transforms, functional = (
        ModuleType(f"torchvision{part}") for part in ("", ".transforms", ".transforms.functional")
    )

    def to_tensor() -> Any:
        return lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    def normalize(mean: Any, std: Any, inplace: bool) -> Any:
        mean, std = (torch.tensor(x)[:, None, None] for x in (mean, std))
        return lambda x: x.sub(mean).div(std)

    def resize(image: Any, size: Any, interpolation: Any = None) -> Any:
        return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)

    def compose(steps: Any) -> Any:
        def run(x: Any) -> Any:
            for step in steps:
                x = step(x)
            return x

        return run

    transforms.ToTensor, transforms.Normalize, transforms.Compose = to_tensor, normalize, compose
    transforms.Resize = lambda size: lambda image: resize(image, size)
    transforms.InterpolationMode = type("InterpolationMode", (), {"BILINEAR": "bilinear"})
    transforms.functional, functional.resize, vision.transforms = functional, resize, transforms
    path = Path(package.__path__[0]) / "llama4" / "preprocess.py"
    spec = importlib.util.spec_from_file_location("meta_llama4_preprocess", path)
    module = importlib.util.module_from_spec(spec)
    truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.MonkeyPatch.context() as patch:
        for stub in (vision, transforms, functional):
            patch.setitem(sys.modules, stub.__name__, stub)
        spec.loader.exec_module(module)
    ImageFile.LOAD_TRUNCATED_IMAGES = truncated  # the module sets it for the whole process
    return module


def sizes(count: int, seed: int) -> list[tuple[int, int]]:
    """Mostly ordinary sizes; some long, some around multiples of the tile."""
    rng = np.random.default_rng(seed)
    ordinary = rng.integers(1, 3000, (count // 2, 2))
    long = np.exp(rng.uniform(0, np.log(20000), (count // 4, 2))).astype(np.int64)
    rest = (count - len(ordinary) - len(long), 2)
    near = rng.integers(1, 18, rest) * SIDE + rng.integers(-1, 2, rest)
    return [(int(w), int(h)) for w, h in np.maximum(np.concatenate([ordinary, long, near]), 1)]


def slow_plan(w: int, h: int, tile: int, most: int) -> tuple[int, int, Fraction]:
    """By fractions, word for word: canvas, and the scale that fits the image to its bound."""
    shapes = [(a, b) for a in range(1, most + 1) for b in range(1, most + 1) if a * b <= most]
    scales = {s: min(Fraction(tile * s[0], w), Fraction(tile * s[1], h)) for s in shapes}
    up = [x for x in scales.values() if x >= 1]
    best = min(up) if up else max(scales.values())
    a, b = min((s for s in shapes if scales[s] == best), key=lambda s: s[0] * s[1])
    return a, b, min(Fraction(min(max(w, tile), tile * a), w), Fraction(min(max(h, tile), tile * b), h))


def test_6000_plans_are_metas(meta: Any) -> None:
    """Its scaling is in floats, which are one pixel short now and then; there the exact one is checked instead."""
    torch = pytest.importorskip("torch")
    transform = meta.VariableSizeImageTransform(SIDE)
    canvases = torch.tensor(transform.find_supported_resolutions(max_num_chunks=16, patch_size=SIDE))
    off = []
    for w, h in sizes(6000, seed=4):
        mine = plan(w, h, SIDE)
        canvas = transform.get_best_fit((w, h), canvases)
        assert (mine.tiles_wide * SIDE, mine.tiles_high * SIDE) == canvas, (w, h)
        bound = min(max(w, SIDE), canvas[0]), min(max(h, SIDE), canvas[1])
        scaled = transform.get_max_res_without_distortion((w, h), bound)
        if (mine.width, mine.height) != tuple(max(x, 1) for x in scaled):
            off.append((w, h, mine, scaled))
    assert len(off) < 20
    for w, h, mine, scaled in off:
        *_, scale = slow_plan(w, h, SIDE, 16)
        assert (mine.width, mine.height) == (max(int(w * scale), 1), max(int(h * scale), 1))
        assert max(abs(mine.width - scaled[0]), abs(mine.height - scaled[1])) == 1


@pytest.mark.parametrize("max_tiles", [1, 4, 16, 25])
@pytest.mark.parametrize("tile", [28, 336])
def test_plans_are_the_rule_in_fractions(tile: int, max_tiles: int) -> None:
    for w, h in sizes(150, seed=tile + max_tiles):
        a, b, scale = slow_plan(w, h, tile, max_tiles)
        expected = TilePlan(a, b, max(int(w * scale), 1), max(int(h * scale), 1))
        assert plan(w, h, tile, max_tiles) == expected, (w, h)
        assert expected.num_tiles <= max_tiles + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 1), TilePlan(1, 1, 336, 336)),
        ((336, 336), TilePlan(1, 1, 336, 336)),
        ((337, 336), TilePlan(2, 1, 337, 336)),
        ((1, 100_000), TilePlan(1, 16, 1, 5376)),
        ((100_000, 1), TilePlan(16, 1, 5376, 1)),
        ((6324, 6324), TilePlan(4, 4, 1344, 1344)),
        ((300, 800), TilePlan(1, 3, 300, 800)),
        # exactly 987; floats give 986, since 1081 * (1680 / 1840) comes out below it
        ((1081, 1840), TilePlan(3, 5, 987, 1680)),
    ],
)
def test_plans_at_the_edges(size: tuple[int, int], expected: TilePlan) -> None:
    assert plan(*size, SIDE) == expected


@pytest.mark.parametrize("max_tiles", [1, 4, 16])
@pytest.mark.parametrize("size", [(50, 70), (336, 336), (500, 340), (1500, 300), (90, 1200), (1700, 1500), (3, 700)])
def test_pixels_are_metas_to_a_grey_level(size: tuple[int, int], max_tiles: int, meta: Any) -> None:
    from PIL import Image

    w, h = size
    rng = np.random.default_rng([w, h])
    smooth = np.add.outer(np.arange(h) * 255 / h, np.arange(w) * 255 / w)[..., None] / 2
    pixels = (smooth * [1, 0.7, 0.4] + rng.integers(0, 60, (h, w, 3))).astype(np.uint8)
    image = Image.fromarray(pixels)
    local, shape = meta.VariableSizeImageTransform(SIDE)(image, max_tiles)
    expected = local.numpy()
    if len(expected) > 1:
        whole = meta.ResizeNormalizeImageTransform(SIDE, SIDE)(image).numpy()
        expected = np.concatenate([expected, whole[None]])
    got = load_image(pixels, max_tiles=max_tiles)
    assert (got.tiles_high, got.tiles_wide) == tuple(shape)
    assert got.tiles_I3SS.shape == expected.shape
    assert got.tiles_I3SS.dtype == np.float32
    assert np.abs(got.tiles_I3SS - expected).max() < 1 / 127.5
