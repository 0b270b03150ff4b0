"""`herd service`: the unit's text, its files, and what is asked of systemd."""

import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE_S, TINY_TEXT, hf_folder
from herd.cli import main
from herd.errors import UsageError
from herd.integrations import systemd
from herd.store import stored

KEY = "a-key-that-is-long-enough"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HERD_API_KEY", raising=False)
    return tmp_path


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what systemctl and journalctl were asked; these here only write it down, and fail at `status`."""
    programs, log = tmp_path / "bin", tmp_path / "asked"
    programs.mkdir()
    for name in ("systemctl", "journalctl"):
        script = programs / name
        script.write_text(
            f'#!/bin/sh\necho {name} "$@" >> {shlex.quote(str(log))}\n'
            'for word in "$@"; do [ "$word" = status ] && exit 3; done\nexit 0\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return log


@pytest.fixture(autouse=True)
def _model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model to serve, without which nothing is installed."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "store"))
    stored.import_path(hf_folder(tmp_path / "model", TINY_TEXT), "smollm2")


def test_a_life(asked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["service", "status"]) == 3
    assert "herd service install" in capsys.readouterr().err
    monkeypatch.setenv("HERD_API_KEY", KEY)
    assert main(["service", "install", "smollm2", "--port", "9000"]) == 0
    text = systemd.unit_path().read_text()
    assert f'ExecStart="{sys.executable}" "-m" "herd" "serve" "smollm2" "--port" "9000"\n' in text
    assert KEY not in text
    secrets = systemd.environment_path()
    assert f'HERD_API_KEY="{KEY}"' in secrets.read_text()
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    assert main(["service", "status"]) == 3
    assert main(["service", "logs", "-n", "5"]) == 0
    assert main(["service", "remove"]) == 0
    assert not systemd.unit_path().exists() and not secrets.exists()
    assert list(secrets.parent.iterdir()) == [] == list(systemd.unit_path().parent.iterdir())
    assert asked.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now herd",
        "systemctl --user --no-pager status herd",
        "journalctl --user --lines=5 --no-pager -u herd",
        "systemctl --user disable --now herd",
        "systemctl --user daemon-reload",
    ]


def test_only_with_a_file_of_keys_can_it_be_told_to_read_it_again(tmp_path: Path) -> None:
    for arguments in (["--keys", "k.toml"], ["--keys=k.toml"]):
        assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in systemd.unit(arguments, tmp_path)
    assert "ExecReload" not in systemd.unit(["smollm2"], tmp_path)


def test_without_systemd_one_line_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["service", "install"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "systemctl --user enable --now herd" in said[1]
    assert main(["service", "logs"]) == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--api-key", KEY], "set HERD_API_KEY"),
        (["--api-key=" + KEY], "set HERD_API_KEY"),
        (["--port", "x"], "--port"),
        (["--prot", "9000"], "--prot"),
        (["--limits"], "--limits"),
        (["smollm2", "--ctx", "100M"], "--ctx"),
        (["smollm2", "--chat-format", "x"], "--chat-format"),
        (["--host", "203.0.113.7"], "without a key"),
        (["a\nExecStartPre=b"], "argument"),
    ],
)
def test_what_serve_would_refuse_is_refused_now(
    asked: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "install", *arguments]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1 and KEY not in said
    assert not systemd.unit_path().exists() and not asked.exists()


def test_values_stay_values() -> None:
    assert systemd.quoted('a "b" $HOME %h \\n') == '"a \\"b\\" $$HOME %%h \\\\n"'
    assert systemd.environment({"HERD_API_KEY": 'a$b"c\\d`e', "PATH": "/bin"}) == 'HERD_API_KEY="a\\$b\\"c\\\\d\\`e"\n'
    with pytest.raises(UsageError, match="HERD_HOME"):
        systemd.environment({"HERD_HOME": "a\nLD_PRELOAD=x"})


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_without_an_absolute_config_home_it_is_the_users(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    assert systemd.config_home() == Path.home() / ".config"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
@pytest.mark.parametrize("arguments", [[], ["a model", '100% "$sure"', "--keys", "k.toml"]])
def test_systemd_finds_nothing_wrong_with_it(arguments: list[str], tmp_path: Path) -> None:
    systemd.install(arguments, tmp_path, {"HERD_API_KEY": KEY})
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "verify", str(systemd.unit_path())]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")
def test_systemd_would_find_a_mistake(tmp_path: Path) -> None:
    systemd.install([], tmp_path, {})
    path = systemd.unit_path()
    path.write_text(path.read_text().replace("LockPersonality", "LockPersonalty"))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "--user", "verify", str(path)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert "LockPersonalty" in found.stderr
