"""What an image may cost, checked on what it declares before any of it is decoded. Numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass

from herd.errors import BadMedia, UsageError, fail


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image and of all images of one request. Raises UsageError for a limit below 1."""

    file_bytes: int = 20 << 20
    """An image as it comes: the file, or the bytes of a request."""
    pixels: int = 40_000_000
    side: int = 100_000
    """Longest side: a resize keeps weights for every pixel of it."""
    scans: int = 100
    """Passes over the picture in a progressive JPEG; an ordinary one has about ten."""
    scanned_pixels: int = 1_000_000_000
    """Pixels times passes: what decoding such a file costs."""
    blocks: int = 65_536
    """Chunks, segments or extensions in a file's container."""
    request_images: int = 16
    request_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                fail(UsageError, f"image limit {name}", got=value, expected="1 or more")

    def check_size(self, name: str, width: int, height: int) -> None:
        """Raise BadMedia for a picture without pixels, or with too many."""
        if width < 1 or height < 1:
            fail(BadMedia, name, got=f"{width} x {height} pixels", expected="at least one")
        if max(width, height) > self.side:
            fail(BadMedia, f"{name}: side", got=max(width, height), expected=f"at most {self.side} pixels")
        if width * height > self.pixels:
            fail(
                BadMedia,
                name,
                got=f"{width} x {height} pixels",
                expected=f"at most {self.pixels} in all",
                do="make it smaller: the model sees at most 16 tiles",
            )

    def check_bytes(self, name: str, num_bytes: int) -> None:
        """Raise BadMedia for a file that is too long."""
        if num_bytes > self.file_bytes:
            fail(BadMedia, name, got=f"{num_bytes} bytes", expected=f"at most {self.file_bytes}")

    def check_request(self, sizes_bytes: Sequence[int]) -> None:
        """Raise BadMedia for too many images in one request, or too many bytes of them; before any is read."""
        if len(sizes_bytes) > self.request_images:
            fail(BadMedia, "images in one request", got=len(sizes_bytes), expected=f"at most {self.request_images}")
        if sum(sizes_bytes) > self.request_bytes:
            fail(
                BadMedia,
                "images of one request",
                got=f"{sum(sizes_bytes)} bytes",
                expected=f"at most {self.request_bytes}",
            )


IMAGE_LIMITS = ImageLimits()
"""The defaults."""
PIXELS_AT_ONCE = 80_000_000
"""Pixels of all images that are decoded at one time in this process; whoever came first goes first."""
PIXEL_BYTES = 16
"""Bytes that decoding and cutting a pixel takes at most, whatever the format (measured: 9 to 12, WebP with alpha)."""
