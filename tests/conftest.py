"""Makes `helpers` importable: pytest puts this folder on the path because this file is in it."""

import signal
from collections.abc import Iterator

import pytest

# A shell without job control starts what runs in its background with interrupts ignored, and children inherit that:
# tests that interrupt a child would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests know no model of this machine and leave none there: what they load is packed into a store of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HERD_HOME", str(tmp_path_factory.mktemp("herd_home")))
        yield
