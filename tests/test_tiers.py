"""Which tests a call of pytest runs: `tests/conftest.py` leaves the slow ones out where nobody asks for them."""

from pathlib import Path
from types import SimpleNamespace

import pytest


def expression(config: pytest.Config, markexpr: str, *arguments: str) -> str:
    """The expression of marks that a call with these arguments ends with."""
    call = SimpleNamespace(option=SimpleNamespace(markexpr=markexpr), args=list(arguments))
    config.pluginmanager.get_plugin(str(Path(__file__).parent / "conftest.py")).pytest_configure(call)
    return str(call.option.markexpr)


@pytest.mark.parametrize("arguments", [(), ("tests",), ("tests/faults", "tests/cli/test_run.py")])
def test_without_marks_the_slow_tests_are_left_out(pytestconfig: pytest.Config, arguments: tuple[str, ...]) -> None:
    assert expression(pytestconfig, "", *arguments) == "not slow"


@pytest.mark.parametrize("marks", ["slow", "slow or not slow", "gpu"])
def test_marks_that_are_given_hold(pytestconfig: pytest.Config, marks: str) -> None:
    assert expression(pytestconfig, marks, "tests") == marks


def test_a_test_that_is_named_runs_whatever_it_is(pytestconfig: pytest.Config) -> None:
    assert expression(pytestconfig, "", "tests/cli/test_run.py::test_one") == ""
