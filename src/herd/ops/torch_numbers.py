"""Widths of numbers that the torch op set's parts share."""

import torch
from torch import Tensor


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """At least float32; float64 stays, so that gradients can be checked."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """The same values in the wide type."""
    return x.to(wide_type(x.dtype))
