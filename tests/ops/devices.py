"""Devices that tests of the torch op set run on: the CPU, and CUDA, which is skipped by name where there is no card."""

import pytest

try:
    import torch

    CUDA = torch.cuda.is_available()
except ImportError:
    CUDA = False

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA card at hand")]),
]
