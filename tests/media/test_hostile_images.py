"""Hostile images: refused by magic, by what they declare, or by their own structure; never decoded in part."""

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import bmp, chunk, gif_header, jpeg_header, noise, png, png_bomb, riff, saved, segment, vp8x
from PIL import Image

from herd.errors import BadMedia, UsageError
from herd.media import ImageLimits, TiledImage, load_image

KINDS = ["png", "jpeg", "webp", "gif", "bmp"]


def refused(data: bytes, message: str, **options: object) -> None:
    with pytest.raises(BadMedia, match=message) as error:
        load_image(data, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


# -- magic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG or another markup"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?><svg/>", "SVG or another markup"),
        (b"<!DOCTYPE svg>", "SVG or another markup"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "EPS"),
        (b"\xc5\xd0\xd3\xc6", "EPS"),
        (b"8BPS\0\1", "PSD"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (b"SIMPLE  =                    T", "FITS"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
        (b"%PDF-1.7", "PDF"),
        (b"\0\0\0\x1cftypavif", "AVIF, HEIC or a video"),
        (b"\0\0\1\0\1\0", "ICO"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"RIFF\0\0\0\0AVI LIST", "bytes 52 49 46 46"),
        (b"\x89PNG\n\x1a\n\0", "bytes 89 50 4e 47"),
        (b"P6 1 1 255 abc", "bytes 50 36"),
        (b"\0" * 64, "bytes 00 00"),
        (b"x", "bytes 78"),
        (b"", "no bytes"),
    ],
)
def test_other_formats_are_refused_by_their_first_bytes(start: bytes, what: str, tmp_path: Path) -> None:
    refused(start + b"\0" * 100 if len(start) > 1 else start, re.escape(f"image: got {what}"))
    (tmp_path / "photo.png").write_bytes(start)
    with pytest.raises(BadMedia, match=re.escape(f"photo.png: got {what}") + ".*expected PNG, JPEG, WebP, GIF or BMP"):
        load_image(tmp_path / "photo.png")


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PDF", "EPS", "ICO", "PPM", "TGA", "PCX", "SGI"])
def test_files_that_pillow_writes_in_other_formats_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(noise(8, 8)).save(path, kind)
    with pytest.raises(BadMedia, match="expected PNG, JPEG, WebP, GIF or BMP"):
        load_image(path)


# -- limits, on what is declared ----------------------------------------------------------------------------------

HUGE = {
    "png": png_bomb(50_000, 50_000),
    "png, nothing behind it": png(50_000, 50_000, 8, 0, b""),
    "jpeg": jpeg_header(65_500, 65_500) + segment(0xDA, b"\1\1\0\0\x3f\0") + b"\xff\xd9",
    "gif": gif_header(65_535, 65_535) + b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\2\2\x4c\1\0;",
    "gif, picture wider than the screen": gif_header(1, 1)
    + b","
    + struct.pack("<HHHHB", 9, 9, 65_000, 9_000, 0)
    + b"\2\0",
    "webp": riff(vp8x(1 << 14, 1 << 14), (b"ANIM", b"\0" * 6)),
    "webp, lossless": riff((b"VP8L", b"\x2f" + struct.pack("<I", 16_383 << 14 | 16_383) + b"\0" * 8)),
    "webp, lossy": riff((b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + b"\0" * 8)),
    "bmp": bmp(60_000, 60_000),
    "bmp, upside down": bmp(60_000, -60_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_pictures_are_refused_on_their_header(name: str) -> None:
    refused(HUGE[name], r"\d+ x \d+ pixels, expected at most 40000000 in all")


@pytest.mark.parametrize(
    "data",
    [riff(vp8x(1 << 24, 4)), png(1 << 31, 1, 8, 0, b""), png(1, 100_001, 8, 0, b""), bmp(2_000_000_000, 1)],
    ids=["webp", "png", "png, one too high", "bmp"],
)
def test_a_side_has_a_limit_of_its_own(data: bytes) -> None:
    refused(data, r"image: side: got \d+, expected at most 100000 pixels")


def test_pictures_at_the_limits_pass_and_one_above_does_not() -> None:
    limits = ImageLimits(pixels=64, file_bytes=400)
    data = saved(noise(8, 8), "png")
    assert load_image(data, image_size=8, limits=limits).num_tiles == 1
    refused(saved(noise(9, 8), "png"), "9 x 8 pixels, expected at most 64", limits=limits)
    refused(data, f"{len(data)} bytes, expected at most {len(data) - 1}", limits=ImageLimits(file_bytes=len(data) - 1))
    assert load_image(data, image_size=8, limits=ImageLimits(file_bytes=len(data))).num_tiles == 1
    with pytest.raises(BadMedia, match="9 x 8 pixels"):
        load_image(noise(9, 8), limits=limits)


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    with open(path, "wb") as f:
        f.truncate(1 << 40)  # sparse: a terabyte that nobody could read
    with pytest.raises(BadMedia, match=r"long\.png: got 1099511627776 bytes, expected at most 20971520"):
        load_image(path)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_pictures_without_pixels_are_refused(size: tuple[int, int]) -> None:
    w, h = size
    for data in (png(w, h, 8, 0, b""), jpeg_header(w, h) + b"\xff\xd9", bmp(w, h), gif_header(w, h)):
        refused(data, "pixels, expected at least one|truncated")
    with pytest.raises(BadMedia, match="expected at least one"):
        load_image(np.zeros((h, w, 3), np.uint8))


def test_a_request_is_limited_before_any_image_is_read() -> None:
    limits = ImageLimits()
    limits.check_request([4 << 20] * 16)
    with pytest.raises(BadMedia, match="images in one request: got 10000, expected at most 16"):
        limits.check_request([1] * 10_000)
    with pytest.raises(BadMedia, match="images of one request: got 67108865 bytes, expected at most 67108864"):
        limits.check_request([1, 64 << 20])
    with pytest.raises(UsageError, match="image limit pixels: got 0"):
        ImageLimits(pixels=0)


# -- bombs inside allowed sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("lenient", [False, True], ids=["pillow strict", "pillow told to accept truncated files"])
@pytest.mark.parametrize(("kind", "head"), [(b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")])
def test_text_and_profile_bombs_in_a_small_png_are_refused(
    kind: bytes, head: bytes, place: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", lenient)
    bomb = chunk(kind, head + zlib.compress(bytes(64 << 20), 9))
    assert len(bomb) < 100_000
    refused(
        png(8, 8, 8, 0, bytes(64), **{place: bomb}), "not a readable PNG: got ValueError: Decompressed data too large"
    )


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    scan = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\x12\x34"
    small = jpeg_header(64, 64, 0xC2)
    refused(small + scan * 101 + b"\xff\xd9", r"JPEG scans: got 101 or more")
    large = jpeg_header(6000, 6000, 0xC2)
    refused(large + scan * 28 + b"\xff\xd9", r"JPEG scans: got 28 or more over \(6000, 6000\)")


def test_countless_blocks_are_refused() -> None:
    limits = ImageLimits(blocks=50)
    refused(png(8, 8, 8, 0, bytes(64), chunk(b"tEXt", b"a\0b") * 60), "PNG chunks: got more than 50", limits=limits)
    refused(b"\xff\xd8" + segment(0xFE, b"hi") * 60, "JPEG segments: got more than 50", limits=limits)
    refused(gif_header(8, 8) + b"!\xfe\0" * 60 + b";", "GIF extensions: got more than 50", limits=limits)
    refused(riff(vp8x(8, 8), *[(b"XXXX", b"")] * 60), "WebP chunks: got more than 50", limits=limits)


def test_an_animation_of_100_000_frames_costs_one_frame_or_is_refused() -> None:
    frame = b"!\xf9\x04\0\0\0\0\0," + struct.pack("<HHHHB", 0, 0, 2, 2, 0) + b"\2\2\x4c\1\0"
    picture = load_image(gif_header(2, 2) + frame * 100_000 + b";", image_size=2)
    assert picture.num_tiles == 1
    control = chunk(b"fcTL", bytes(26))
    refused(png(2, 2, 8, 0, bytes(4), after=control * 70_000), "PNG chunks: got more than 65536")


@pytest.mark.slow
def test_nothing_hostile_takes_much_memory_or_time(tmp_path: Path) -> None:
    """All of the above in a fresh process, whose peak of memory is its own."""
    for i, data in enumerate(HUGE.values()):
        (tmp_path / f"{i}.bin").write_bytes(data)
    script = """
import resource, sys, time
from pathlib import Path
from herd.errors import BadMedia
from herd.media import load_image
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
files = [p.read_bytes() for p in sorted(Path(sys.argv[1]).glob("*.bin"))]
before = peak()
for data in files:
    began_s = time.process_time()
    try:
        load_image(data)
        sys.exit("taken")
    except BadMedia:
        pass
    if time.process_time() - began_s > 2:
        sys.exit("slow")
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10, "kilobytes"


# -- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lenient", [False, True], ids=["pillow strict", "pillow told to accept truncated files"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_never_shown_in_part(kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a caller has set for the whole process."""
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    data = saved(noise(40, 30), kind)
    whole = load_image(data, image_size=28).digest
    for length in range(0, len(data), 7):
        try:
            assert load_image(data[:length], image_size=28).digest == whole, length
        except BadMedia:
            continue
    refused(data[: len(data) // 2], "truncated", image_size=28)


def test_every_wrong_checksum_of_a_png_is_found() -> None:
    data = bytearray(saved(noise(12, 9), "png"))
    for at in range(8, len(data)):
        data[at] ^= 0x10
        refused(bytes(data), "checksum|truncated|first PNG chunk|pixels|no picture|side", image_size=28)
        data[at] ^= 0x10


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_refused_or_decoded_never_worse(kind: str) -> None:
    original = saved(Image.fromarray(noise(12, 9)).resize((24, 18)), kind)
    rng = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        data = bytearray(original)
        for at in rng.integers(0, len(data), rng.integers(1, 6)):
            data[at] = rng.integers(0, 256)
        try:
            tiled = load_image(bytes(data), image_size=28)
        except BadMedia as error:
            outcomes.add(type(error))
            continue
        outcomes.add(TiledImage)
        assert np.abs(tiled.tiles_I3SS).max() <= 1
    assert BadMedia in outcomes


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"x"), "first PNG chunk: got b'IDAT'"),
        (png(8, 8, 8, 0, bytes(64)).replace(b"IDAT", b"IDAX"), "a wrong checksum"),
        (
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) + chunk(b"IEND", b""),
            "no picture",
        ),
        (png(8, 8, 8, 0, bytes(10)), "not a readable PNG"),
        (png(8, 8, 7, 0, bytes(64)), "not a readable PNG"),
        (b"\xff\xd8\xff\xd9", "no picture"),
        (jpeg_header(8, 8, 0xC3) + b"\xff\xd9", "process 3, 8 bits, expected one frame"),
        (jpeg_header(8, 8, 0xC1, 12) + b"\xff\xd9", "process 1, 12 bits"),
        (jpeg_header(8, 8) + jpeg_header(9, 9)[2:] + b"\xff\xd9", "two frames"),
        (b"\xff\xd8\xff\xe0\0\0", "truncated"),
        (gif_header(8, 8) + b";", "no picture"),
        (bmp(8, 8, compression=1, bits=8, rows=bytes(64)), "compression 1, 8 bits"),
        (bmp(8, 8, compression=4, rows=bytes(192)), "compression 4"),
        (bmp(8, 8, header=64, rows=bytes(192)).replace(b"@\0\0\0\x08", b"\x0d\0\0\0\x08"), "BMP header: got 13 bytes"),
        (bmp(8, 8), "truncated"),
        (bmp(-8, 8, rows=bytes(192)), "-8 x 8 pixels"),
        (riff((b"JUNK", b"")), "first WebP chunk: got b'JUNK'"),
        (riff(vp8x(8, 8)), "not a readable WEBP"),
    ],
)
def test_malformed_containers_are_refused_with_the_reason(data: bytes, message: str) -> None:
    refused(data, re.escape(message))


def test_a_webp_whose_picture_is_larger_than_its_canvas_is_refused() -> None:
    inner = saved(noise(64, 64), "webp")
    refused(riff((b"VP8X", b"\0\0\0\0\x07\0\0\x07\0\0"), (b"VP8 ", inner[20:])), "not a readable WEBP")
