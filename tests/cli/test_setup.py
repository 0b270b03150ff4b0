"""`scripts/setup`: what it installs, when, and that an installation that is a copy does not pass for one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PYTHON = """\
#!/usr/bin/env bash
# Stands in for an interpreter: it notes what pip is told, and says yes to whatever it is asked.
case "$*" in
    *"-m pip"*)
        echo "$*" >>"$NOTED"
        info=.venv/lib/python3.12/site-packages/llama_herd-0.1.0.dist-info
        mkdir -p .venv/bin $info
        touch .venv/bin/herd && chmod +x .venv/bin/herd
        case "$*" in *--editable*) is=true ;; *) is=false ;; esac
        echo "{\\"dir_info\\": {\\"editable\\": $is}}" >$info/direct_url.json
        ;;
esac
"""


class Setup:
    """A folder with scripts/setup in it and an environment that only says what it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.noted = folder, folder / "noted"
        for name in ("scripts/setup", "pyproject.toml", "constraints.txt", "CMakeLists.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, folder / name)
        (folder / "native").mkdir()
        (folder / ".venv/bin").mkdir(parents=True)
        for path in (folder / "python", folder / ".venv/bin/python"):
            path.write_text(PYTHON)
            path.chmod(0o755)

    def __call__(self, *arguments: str) -> list[str]:
        """What pip is told of Herd itself by this call."""
        self.noted.write_text("")
        environment = {**os.environ, "PYTHON": str(self.folder / "python"), "CXX": "true", "NOTED": str(self.noted)}
        done = subprocess.run(
            ["bash", "scripts/setup", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [
            line.partition("--editable ")[2] for line in self.noted.read_text().splitlines() if "--editable" in line
        ]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_the_hub_s_extra_is_installed_beside_the_sources_and_stays(setup: Setup) -> None:
    assert setup() == ["."]
    assert setup("--hub") == [".[hub]"]
    assert setup("--hub") == [] and setup() == [], "nothing has changed"
    (setup.folder / "native/new.cpp").write_text("new")
    assert setup() == [".[hub]"], "what was asked for once is kept"


def test_both_extras_are_kept_whichever_comes_first(setup: Setup) -> None:
    for first, second in (("--hub", "--hosts"), ("--hosts", "--hub")):
        (setup.folder / "native/new.cpp").write_text(first)
        (setup.folder / ".venv/herd-stamp").unlink(missing_ok=True)
        assert setup(first) == [f".[{first[2:]}]"]
        assert setup(second) == [".[hub,hosts]"]
        assert setup(first) == setup(second) == setup() == []
        (setup.folder / "native/new.cpp").write_text(second + first)
        assert setup() == [".[hub,hosts]"]


def test_an_environment_for_developers_has_it_too(setup: Setup) -> None:
    [told] = setup("--dev")
    assert told.startswith(".[dev,hub,hosts,torch]")
    assert setup("--hub") == setup("--hosts") == setup() == []


def test_a_copy_in_the_place_of_the_sources_is_seen(setup: Setup) -> None:
    for mode in ((), ("--hub",), ("--hosts",), ("--dev",)):
        assert setup(*mode)
        assert setup(*mode) == []
        [direct] = setup.folder.glob(".venv/lib/*/site-packages/*/direct_url.json")
        direct.write_text('{"dir_info": {}, "url": "file:///somewhere"}')
        assert setup(*mode), mode
        assert setup(*mode) == []


def test_an_unknown_mode_is_refused_by_name(setup: Setup) -> None:
    done = subprocess.run(["bash", "scripts/setup", "--all"], cwd=setup.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "setup: --all: unknown; --hub, --hosts, --dev, --test, --core or nothing\n"
