"""Fixtures of the native op set's tests."""

import pytest

from herd import _native


@pytest.fixture(params=_native.isa_info()["available"])
def isa(request):
    """Every instruction set that this processor and build have, one after another."""
    chosen = _native.isa_info()["chosen"]
    _native.set_isa_for_tests(request.param)
    yield request.param
    _native.set_isa_for_tests(chosen)


@pytest.fixture
def ops(isa):
    """The native op set on two threads, on each instruction set."""
    from herd.ops.native import NativeOps

    return NativeOps(2)
