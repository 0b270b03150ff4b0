"""Images -> tiles, limits before any decode. Names below are imported when first used: they need numpy and Pillow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herd.media.images import ImageSource as ImageSource
    from herd.media.images import TiledImage as TiledImage
    from herd.media.images import load_image as load_image
    from herd.media.limits import IMAGE_LIMITS as IMAGE_LIMITS
    from herd.media.limits import ImageLimits as ImageLimits

_LAZY = {
    "IMAGE_LIMITS": "herd.media.limits",
    "ImageLimits": "herd.media.limits",
    "ImageSource": "herd.media.images",
    "TiledImage": "herd.media.images",
    "load_image": "herd.media.images",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'herd.media' has no attribute {name!r}")
