"""Makes `helpers` importable: pytest puts this folder on the path because this file is in it."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# A shell without job control starts what runs in its background with interrupts ignored, and children inherit that:
# tests that interrupt a child would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that what fails is what changed. HERD_RANDOM=1 draws others, to look for more.
# How long one takes, or drawing it, is never a failure: the machine may be busy.
_QUIET = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=_QUIET)
hypothesis.settings.register_profile("others", deadline=None, suppress_health_check=_QUIET)
hypothesis.settings.load_profile("others" if os.environ.get("HERD_RANDOM") else "same")


OF_THE_CORE = re.compile(
    r"torch|op_set|OP_SETS|herd\.ops|hf_folder|herd\.load|herd\.cli|herd\.convert|herd\.doctor|placed\(|sys\.executable|resources"
)
"""What a file of tests names in which it matters that torch is not installed, or that Herd is a wheel: op sets,
checkpoints on disk and those who load them, processes of their own, files of the package beside Python."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Where HERD_CORE_TESTS is set (scripts/test --core), no other files are run again."""
    if "HERD_CORE_TESTS" not in os.environ or collection_path.suffix != ".py":
        return None
    return None if OF_THE_CORE.search(collection_path.read_text()) else True


def pytest_configure(config: pytest.Config) -> None:
    """By hand, `pytest FOLDER` leaves the slow tests out; with -m it does what that says, and a test that is named
    (FILE::TEST) runs whatever it is."""
    if not config.option.markexpr and not any("::" in argument for argument in config.args):
        config.option.markexpr = "not slow"


@pytest.fixture(autouse=True, scope="session")
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests know no model of this machine and leave none there: what they load is packed into a store of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERD_HOME", str(tmp_path_factory.mktemp("herd_home")))
        yield
