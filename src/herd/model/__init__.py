"""Llama 4, written once over an op set: embedding, blocks, vision tower, head. No device, no file, no batch axis."""

from herd.model.same import check_same
from herd.model.text import forward, hidden
from herd.model.tree import place_weights
from herd.model.vision import encode_images

__all__ = ["check_same", "encode_images", "forward", "hidden", "place_weights"]
