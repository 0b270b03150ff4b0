"""Image -> tiles: magic bytes, limits, decode, RGB, tiles of the vision tower, in that order.

The one door for images. It opens no network address and starts no program; only five decoders can be reached, each
named here, and none through a registry that a plugin could extend. Colour profiles are not applied and nothing is
sharpened: the tower was trained on values as they are stored.
"""

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from herd.errors import BadMedia, NotFound, UsageError, fail
from herd.media.headers import Size, declared_size, sniff
from herd.media.limits import IMAGE_LIMITS, ImageLimits
from herd.media.room import ROOM
from herd.media.tiling import MAX_TILES, plan

Pixels: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Pixels
"""A path, a file's bytes, or pixels [H, W], [H, W, 3] (RGB) or [H, W, 4] (RGBA)."""

_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "png": PngImageFile,
    "jpeg": JpegImageFile,
    "webp": WebPImageFile,
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}
_PILLOW = threading.Lock()
_ORIENTATION = 0x0112
_UPRIGHT = {
    # what an EXIF orientation asks for, TIFF 6.0 section 8
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class TiledImage:
    """What the vision tower sees of one image, and where the tiles lie."""

    tiles_I3SS: npt.NDArray[np.float32]
    """Row by row, -1 to 1; the global tile last when there are several."""
    tiles_wide: int
    tiles_high: int
    digest: str
    """SHA-256 of the pixels of all tiles and of their layout: equal digests have equal features."""

    @property
    def num_tiles(self) -> int:
        """I: local tiles, and the global one when they are several."""
        return len(self.tiles_I3SS)


def load_image(
    source: ImageSource, *, image_size: int = 336, max_tiles: int = MAX_TILES, limits: ImageLimits = IMAGE_LIMITS
) -> TiledImage:
    """Tiles of an image, as the tower of a model with `image_size` (S) wants them.

    Raises BadMedia (not an allowed image, damaged, above a limit), NotFound (no such file), UsageError (a web address,
    a source of another type, numbers below 1).
    """
    for what, number in (("image_size", image_size), ("max_tiles", max_tiles)):
        if number < 1:
            fail(UsageError, what, got=number, expected="1 or more")
    cut = (max_tiles + 1) * image_size * image_size
    if isinstance(source, np.ndarray):
        with ROOM.take(source.size + cut):
            return _tile(_from_pixels(source, limits), image_size, max_tiles)
    name, data = _read(source, limits)
    kind = sniff(data, name)
    size = declared_size(kind, data, name, limits)
    with ROOM.take(size[0] * size[1] + cut):
        return _tile(_decode(data, name, kind, size), image_size, max_tiles)


# -- bytes --------------------------------------------------------------------------------------------------------


def _read(source: str | os.PathLike[str] | bytes | bytearray | memoryview, limits: ImageLimits) -> tuple[str, bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        # a memoryview of wider items counts items, not bytes
        limits.check_bytes("image", source.nbytes if isinstance(source, memoryview) else len(source))
        return "image", bytes(source)
    if not isinstance(source, str | os.PathLike):
        fail(UsageError, "image", got=type(source).__name__, expected="a path, bytes, or an array of pixels")
    text = os.fspath(source)
    if "://" in text or text.startswith("data:"):
        fail(UsageError, "image", got=text, expected="a file", do="no address is opened here; give the bytes instead")
    name = Path(text).name
    try:
        status = os.stat(text)
        if not stat.S_ISREG(status.st_mode):
            fail(BadMedia, name, got="a folder, device or pipe", expected="a file")
        limits.check_bytes(name, status.st_size)
        with open(text, "rb") as file:
            # one more than allowed, in case it grows meanwhile
            data = file.read(limits.file_bytes + 1)
    except FileNotFoundError:
        fail(NotFound, f"no image {text}")
    except (OSError, ValueError) as e:
        fail(BadMedia, name, got=str(e), expected="a readable file")
    limits.check_bytes(name, len(data))
    return name, data


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Pillow as it comes: a library in this process may have told it to accept damaged files, for everybody."""
    with _PILLOW:
        lenient = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _decode(data: bytes, name: str, kind: str, size: Size) -> Image.Image:
    try:
        with _strict_pillow(), _DECODERS[kind](BytesIO(data)) as image:
            _same_size(image.size, size, name)
            image.load()
            _same_size(image.size, size, name)
            turned = _UPRIGHT.get(_orientation(image))
            rgb = _to_rgb(image)
    except BadMedia:
        raise
    except MemoryError:
        fail(BadMedia, name, got=f"{size[0]} x {size[1]} pixels", expected="an image that fits into memory")
    except Exception as e:  # whatever a decoder raises on a hostile file is the file's fault
        fail(BadMedia, f"{name} is not a readable {kind.upper()}", got=f"{type(e).__name__}: {e}")
    return rgb if turned is None else rgb.transpose(turned)


def _same_size(got: Size, declared: Size, name: str) -> None:
    """Two readers of one file must not disagree about what was allowed."""
    if got != declared:
        fail(BadMedia, f"{name}: decoded size", got=got, expected=f"{declared}, as declared")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # broken metadata of a whole picture: show it as it is stored
        return 1
    return value if isinstance(value, int) else 1


def _from_pixels(pixels: Pixels, limits: ImageLimits) -> Image.Image:
    deep = pixels.ndim == 3 and pixels.shape[-1] in (3, 4)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or deep):
        got = f"{pixels.dtype} of shape {pixels.shape}"
        fail(UsageError, "pixels", got=got, expected="uint8 [H, W], [H, W, 3] or [H, W, 4]")
    limits.check_size("pixels", pixels.shape[1], pixels.shape[0])
    return _to_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


# -- colour -------------------------------------------------------------------------------------------------------


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of any mode that the decoders give; what is transparent lies on white."""
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(layered, mask=layered.getchannel("A"))
        return white
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey: the high byte (a plain convert would clip at 255)."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    key = image.info.get("transparency")
    if isinstance(key, int):
        # the one value that is transparent is compared at 16 bits
        grey.paste(255, mask=Image.fromarray(((values == key) * 255).astype(np.uint8)))
    return grey


# -- tiles --------------------------------------------------------------------------------------------------------


def _tile(image: Image.Image, side: int, max_tiles: int) -> TiledImage:
    p = plan(image.width, image.height, side, max_tiles)
    wide, high = p.tiles_wide, p.tiles_high
    canvas = np.zeros((high * side, wide * side, 3), np.uint8)
    canvas[: p.height, : p.width] = _resized(image, p.width, p.height)
    tiles = canvas.reshape(high, side, wide, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, side, side)
    if wide * high > 1:
        whole = _resized(image, side, side).transpose(2, 0, 1)
        tiles = np.concatenate([tiles, whole[None]])
    digest = hashlib.sha256(f"herd tiles 1: {wide} x {high} of {side}, {len(tiles)}\n".encode())
    digest.update(np.ascontiguousarray(tiles).data)
    return TiledImage(_normalised(tiles), wide, high, digest.hexdigest())


def _resized(image: Image.Image, width: int, height: int) -> Pixels:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _normalised(tiles: Pixels) -> npt.NDArray[np.float32]:
    """x / 255, then mean 0.5 and deviation 0.5, in float32: the 256 values once, then a lookup."""
    grey = np.arange(256, dtype=np.float32) / np.float32(255)
    return ((grey - np.float32(0.5)) / np.float32(0.5))[tiles]
