"""What parts of the torch op set share: widths of numbers, and how an operation is made known to PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LIBRARY: Any = torch.library.Library("herd", "FRAGMENT")  # type: ignore[no-untyped-call]


def operation(
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    cpu: Callable[..., Any] | None = None,
    gradient: tuple[Callable[..., Any], Callable[..., None]] | None = None,
) -> Any:
    """An operation of the kernel's name and annotations, which a compiler takes as one: `torch.ops.herd.NAME`.

    fake: shapes and types of what it gives. cpu: the kernel there, when it is another. gradient: backward(ctx, *grads),
    setup(ctx, inputs, output). As `torch.library.custom_op`, whose calls would load the compiler (1.5 s) for everybody.
    """
    name = kernel.__name__
    schema = torch.library.infer_schema(kernel, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    if cpu is not None:
        _LIBRARY.impl(name, cpu, "CPU")
    torch.library.register_fake(f"herd::{name}", fake, lib=_LIBRARY)
    if gradient is not None:
        backward, setup = gradient
        torch.library.register_autograd(f"herd::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.herd, name)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """At least float32; float64 stays, so that gradients can be checked."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """These values in the wide type."""
    return x.to(wide_type(x.dtype))
