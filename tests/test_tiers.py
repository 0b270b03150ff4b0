"""Which tests a call of pytest runs: `tests/conftest.py` leaves the slow ones out where nobody asks for them, and in
the core's run those that are the same with torch and without."""

from pathlib import Path
from types import SimpleNamespace

import pytest

TESTS = Path(__file__).parent


def expression(config: pytest.Config, markexpr: str, *arguments: str) -> str:
    """The expression of marks that a call with these arguments ends with."""
    call = SimpleNamespace(option=SimpleNamespace(markexpr=markexpr), args=list(arguments))
    config.pluginmanager.get_plugin(str(TESTS / "conftest.py")).pytest_configure(call)
    return str(call.option.markexpr)


@pytest.mark.parametrize("arguments", [(), ("tests",), ("tests/faults", "tests/cli/test_run.py")])
def test_without_marks_the_slow_tests_are_left_out(pytestconfig: pytest.Config, arguments: tuple[str, ...]) -> None:
    assert expression(pytestconfig, "", *arguments) == "not slow"


@pytest.mark.parametrize("marks", ["slow", "slow or not slow", "gpu"])
def test_marks_that_are_given_hold(pytestconfig: pytest.Config, marks: str) -> None:
    assert expression(pytestconfig, marks, "tests") == marks


def test_a_test_that_is_named_runs_whatever_it_is(pytestconfig: pytest.Config) -> None:
    assert expression(pytestconfig, "", "tests/cli/test_run.py::test_one") == ""


def test_the_cores_run_has_what_torch_or_the_wheel_has_a_part_in(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERD_CORE_TESTS", "yes")
    is_left_out = pytestconfig.pluginmanager.get_plugin(str(TESTS / "conftest.py")).pytest_ignore_collect
    found = {str(file.relative_to(TESTS)): is_left_out(file) for file in TESTS.rglob("test_*.py")}
    assert not [name for name, left_out in found.items() if left_out and name.startswith(("ops/", "cli/", "model/"))]
    some = ("test_doctor.py", "test_device.py", "llm/test_llm.py", "server/test_process.py", "server/test_page.py")
    assert not [name for name in some if found[name]], "where torch is asked for, and files that are no Python"
    assert found["grammar/test_json_schema.py"] and found["server/test_dialects.py"]
