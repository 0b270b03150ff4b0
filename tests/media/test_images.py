"""Right RGB of every ordinary kind of file, tiles in order, digests that tell shapes apart."""

import struct
from pathlib import Path

import numpy as np
import pytest
from image_files import chunk, noise, png, saved
from PIL import Image, ImageOps

from herd.config import SCOUT, TINY
from herd.errors import NotFound, UsageError
from herd.media import TiledImage, load_image


def rgb(tiled: TiledImage) -> np.ndarray:
    """The pixels [H, W, 3] of an image that fills its one tile, back as grey levels."""
    assert tiled.tiles_I3SS.shape[0] == 1
    return np.rint((tiled.tiles_I3SS[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


def seen(source: object, side: int = 8) -> np.ndarray:
    """An image of side x side, as the model sees it: one tile of that side, no resize."""
    return rgb(load_image(source, image_size=side))


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_lossless_files_keep_their_pixels(kind: str) -> None:
    pixels = noise(8, 8)
    np.testing.assert_array_equal(seen(saved(pixels, kind)), pixels)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp"])
def test_every_allowed_kind_by_bytes_and_by_path_whatever_its_name(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(noise(90, 60))
    data = saved(image, kind)
    path = tmp_path / "misleading.tiff"
    path.write_bytes(data)
    by_path, by_bytes = (load_image(x, image_size=28) for x in (path, data))
    assert by_path.digest == by_bytes.digest == load_image(str(path), image_size=28).digest
    assert by_bytes.digest == load_image(bytearray(data), image_size=28).digest
    assert (by_bytes.tiles_wide, by_bytes.tiles_high, by_bytes.num_tiles) == (4, 3, 13)
    decoded = np.asarray(Image.open(path).convert("RGB"))
    assert by_bytes.digest == load_image(decoded, image_size=28).digest


def test_webp_lossless_keeps_its_pixels() -> None:
    pixels = noise(8, 8)
    np.testing.assert_array_equal(seen(saved(pixels, "webp", lossless=True)), pixels)


def test_a_progressive_jpeg_is_read_as_a_baseline_one() -> None:
    image = Image.fromarray(noise(40, 30)).resize((200, 150))
    plain, progressive = (saved(image, "jpeg", progressive=p) for p in (False, True))
    assert progressive.count(b"\xff\xda") > 5
    np.testing.assert_array_equal(load_image(plain).tiles_I3SS, load_image(progressive).tiles_I3SS)


def test_a_missing_file_a_folder_and_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object) -> None:
        raise AssertionError("a network address was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(NotFound, match=r"no image .*nothing\.png"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="a folder, device or pipe, expected a file"):
        load_image(tmp_path)
    for address in ("http://169.254.169.254/x.png", "file:///etc/passwd", "data:image/png;base64,AAAA"):
        with pytest.raises(UsageError, match="no address is opened here"):
            load_image(address)
    with pytest.raises(UsageError, match="image: got int"):
        load_image(7)  # type: ignore[arg-type]


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="a folder, device or pipe"):
        load_image(tmp_path / "pipe.png")


# -- colour -------------------------------------------------------------------------------------------------------


def test_grey_and_arrays_become_rgb() -> None:
    grey = noise(8, 8, 1)[..., 0]
    np.testing.assert_array_equal(seen(saved(grey, "png")), np.repeat(grey[..., None], 3, 2))
    np.testing.assert_array_equal(seen(grey), np.repeat(grey[..., None], 3, 2))
    pixels = noise(8, 8)
    np.testing.assert_array_equal(seen(pixels), pixels)
    np.testing.assert_array_equal(seen(np.asfortranarray(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels", [np.zeros((8, 8, 2), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros(8, np.uint8)]
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"expected uint8 \[H, W\], \[H, W, 3\] or \[H, W, 4\]"):
        load_image(pixels)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    a = alpha[..., None] / 255
    return colour * a + 255 * (1 - a)


@pytest.mark.parametrize("kind", ["png", "webp", "array"])
def test_what_is_transparent_lies_on_white(kind: str) -> None:
    pixels = noise(8, 8, 4)
    source = (
        pixels
        if kind == "array"
        else saved(pixels, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    )
    assert np.abs(seen(source) - on_white(pixels[..., :3], pixels[..., 3])).max() <= 1


def test_grey_with_alpha() -> None:
    pixels = noise(8, 8, 2)
    image = Image.merge("LA", [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in (0, 1)])
    expected = on_white(np.repeat(pixels[..., :1], 3, 2), pixels[..., 1])
    assert np.abs(seen(saved(image, "png")) - expected).max() <= 1


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_palette_with_transparency(kind: str) -> None:
    index = noise(8, 8, 1)[..., 0] % 4
    palette = np.array([[10, 200, 30], [0, 0, 0], [250, 5, 5], [9, 9, 90]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    alpha = np.array([255, 0, 255, 255])
    options = {"transparency": 1}
    if kind == "png":
        alpha = np.array([255, 0, 128, 200])
        options = {"transparency": bytes(alpha.tolist())}
    assert np.abs(seen(saved(image, kind, **options)) - on_white(palette[index], alpha[index])).max() <= 1


def test_a_transparent_colour_of_true_colour_and_of_grey() -> None:
    colours = np.array([[1, 2, 3], [1, 2, 4], [200, 100, 0]], np.uint8)[noise(8, 8, 1)[..., 0] % 3]
    key = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    expected = np.where((colours == [1, 2, 3]).all(-1, keepdims=True), 255, colours)
    np.testing.assert_array_equal(seen(png(8, 8, 8, 2, colours.tobytes(), key)), expected)
    grey = np.array([5, 6, 77], np.uint8)[noise(8, 8, 1)[..., 0] % 3]
    expected = np.where(grey == 5, 255, grey)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(seen(png(8, 8, 8, 0, grey.tobytes(), chunk(b"tRNS", struct.pack(">H", 5)))), expected)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_keep_the_high_byte(colour: int, channels: int) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (8, 8, channels)).astype(np.uint16)
    high = (deep >> 8).astype(np.uint8)
    rgb = high[..., :1].repeat(3, 2) if channels < 3 else high[..., :3]
    alpha = high[..., -1] if channels in (2, 4) else np.full((8, 8), 255)
    got = seen(png(8, 8, 16, colour, deep.astype(">u2").tobytes()))
    assert np.abs(got - on_white(rgb, alpha)).max() <= 1
    assert channels in (2, 4) or (got == rgb).all()


def test_a_transparent_grey_of_sixteen_bits_is_one_value() -> None:
    deep = np.array([0x1234, 0x1235, 0xFFFF], np.uint16)[noise(8, 8, 1)[..., 0] % 3]
    key = chunk(b"tRNS", struct.pack(">H", 0x1234))
    expected = np.where(deep == 0x1234, 255, deep >> 8)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(seen(png(8, 8, 16, 0, deep.astype(">u2").tobytes(), key)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_span_black_to_white(bits: int) -> None:
    rows = noise(8, 8 * bits // 8, 1)[..., 0].reshape(8, -1)
    levels = np.unpackbits(rows, axis=1).reshape(8, 8, bits) @ (1 << np.arange(bits)[::-1])
    expected = (levels * 255 // (2**bits - 1))[..., None].repeat(3, 2)
    np.testing.assert_array_equal(seen(png(8, 8, bits, 0, rows.tobytes())), expected)


def test_cmyk_is_inked_paper() -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 255), (60, 120, 180, 90)]
    for ink in inks:
        got = seen(saved(Image.new("CMYK", (8, 8), ink), "jpeg", quality=100))
        expected = (255 - np.array(ink[:3])) * (255 - ink[3]) / 255
        assert np.abs(got - expected).max() <= 3, ink


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation: int, kind: str) -> None:
    blocks = noise(3, 2, seed=5).repeat(8, 0).repeat(8, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    data = saved(blocks, kind, exif=exif.tobytes(), **options)
    got = load_image(data, image_size=28)
    from io import BytesIO

    upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    assert upright.size == ((24, 16) if orientation < 5 else (16, 24))
    np.testing.assert_array_equal(got.tiles_I3SS, load_image(np.asarray(upright), image_size=28).tiles_I3SS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_metadata_does_not_hide_the_picture() -> None:
    pixels = noise(8, 8)
    broken = saved(pixels, "png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    np.testing.assert_array_equal(seen(broken), pixels)
    profile = saved(pixels, "png", icc_profile=b"no profile at all")
    np.testing.assert_array_equal(seen(profile), pixels)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "webp" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    np.testing.assert_array_equal(seen(data), np.asarray(frames[0]))


# -- tiles --------------------------------------------------------------------------------------------------------


def test_values_are_normalised_exactly() -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    got = load_image(grey, image_size=16).tiles_I3SS[0, 0].ravel()
    expected = ((np.arange(256) / 255) - 0.5) / 0.5
    assert np.abs(got - expected).max() <= 2.0**-23
    assert got[0] == -1
    assert got[255] == 1


def test_tiles_go_row_by_row_and_the_global_one_is_last() -> None:
    """A 3 x 2 canvas whose tiles have one colour each, so that nothing depends on the resize."""
    side = 28
    colours = np.arange(6).reshape(2, 3) * 40
    pixels = colours.repeat(side, 0).repeat(side, 1).astype(np.uint8)
    got = load_image(pixels, image_size=side)
    assert (got.tiles_wide, got.tiles_high, got.num_tiles) == (3, 2, 7)
    for i in range(6):
        np.testing.assert_allclose(got.tiles_I3SS[i], (i * 40 / 255 - 0.5) / 0.5, rtol=0, atol=2.0**-23)
    shrunk = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.rint((got.tiles_I3SS[6, 0] + 1) * 127.5), shrunk)


def test_the_rest_of_the_canvas_is_black() -> None:
    got = load_image(np.full((40, 30, 3), 200, np.uint8), image_size=28)
    assert (got.tiles_wide, got.tiles_high) == (2, 2)
    canvas = got.tiles_I3SS[:4].reshape(2, 2, 3, 28, 28).transpose(0, 3, 1, 4, 2).reshape(56, 56, 3)
    assert (canvas[40:] == -1).all()
    assert (canvas[:, 30:] == -1).all()
    np.testing.assert_allclose(canvas[:40, :30], (200 / 255 - 0.5) / 0.5, rtol=0, atol=2.0**-23)


@pytest.mark.parametrize("size", [(1, 1), (1, 100_000), (100_000, 1), (2, 5000)])
def test_extreme_shapes_have_bounded_tiles(size: tuple[int, int]) -> None:
    pixels = np.full((size[1], size[0], 3), 90, np.uint8)
    got = load_image(pixels)
    assert got.num_tiles <= 17
    assert got.tiles_I3SS.shape == (got.num_tiles, 3, 336, 336)
    np.testing.assert_array_equal(got.tiles_I3SS, load_image(saved(pixels, "png")).tiles_I3SS)


@pytest.mark.parametrize("config", [TINY, SCOUT], ids=["tiny", "scout"])
def test_tiles_fit_the_tower_of_the_config(config: object) -> None:
    side = config.vision.image_size  # type: ignore[attr-defined]
    got = load_image(noise(500, 300), image_size=side, max_tiles=4)
    assert got.tiles_I3SS.shape == (got.num_tiles, 3, side, side)
    assert got.num_tiles <= 5
    assert load_image(noise(500, 300), image_size=side, max_tiles=1).num_tiles == 1


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(UsageError, match="max_tiles: got 0, expected 1 or more"):
        load_image(noise(8, 8), max_tiles=0)
    with pytest.raises(UsageError, match="image_size: got 0, expected 1 or more"):
        load_image(noise(8, 8), image_size=0)


def test_equal_digests_mean_equal_features() -> None:
    pixels = noise(8, 8)
    digest = load_image(pixels, image_size=8).digest
    assert digest == load_image(saved(pixels, "png"), image_size=8).digest, "whatever the file"
    other = pixels.copy()
    other[7, 7, 2] ^= 1
    different = [
        load_image(other, image_size=8).digest,
        load_image(pixels.reshape(4, 16, 3), image_size=8).digest,
        load_image(pixels.reshape(16, 4, 3), image_size=8).digest,
        load_image(pixels, image_size=4).digest,
        load_image(np.zeros((8, 16, 3), np.uint8), image_size=8).digest,
        load_image(np.zeros((16, 8, 3), np.uint8), image_size=8).digest,
    ]
    assert len({digest, *different}) == 7
