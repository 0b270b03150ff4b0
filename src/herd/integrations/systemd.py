"""The service as a systemd user unit: its text, its file, and the file with its secrets. systemd.service(5), .exec(5).

    ~/.config/systemd/user/herd.service   the unit: a command line, which anybody on the machine can see in ps
    ~/.config/herd/service.env            HERD_API_KEY and HERD_HOME, mode 600

XDG_CONFIG_HOME stands for ~/.config where it is set.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from herd.disk.atomic import make_folders, new_file
from herd.errors import UsageError, fail
from herd.server.limits import Limits

NAME = "herd"
CARRIED = ("HERD_API_KEY", "HERD_HOME")
"""Variables of whoever installs it that the service gets as well."""
STOP_S = 15
"""Seconds on top of the drain, before systemd kills."""
UNIT = """\
[Unit]
Description=Herd: language models over HTTP
After=network.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
{reload}WorkingDirectory=-{folder}
EnvironmentFile=-{environment}
# a wrong flag stays wrong (2), a model that does not fit stays too large (4)
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=2 4
# the signal goes to the service alone, which drains; what computes ends with it
KillMode=mixed
TimeoutStopSec={stop_s}
# what an unprivileged manager can enforce, without namespaces of its own
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=default.target
"""
RELOAD = """\
# reads the file of keys again; without one the signal would end it
ExecReload=/bin/kill -HUP $MAINPID
"""


def config_home() -> Path:
    """Where a user's settings lie (XDG base directories; a relative path there counts as none)."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return given if given.is_absolute() else Path.home() / ".config"


def unit_path() -> Path:
    """The path of the unit."""
    return config_home() / "systemd" / "user" / f"{NAME}.service"


def environment_path() -> Path:
    """The path of the file with its secrets."""
    return config_home() / "herd" / "service.env"


def unit(arguments: Sequence[str], folder: Path, limits: Limits | None = None) -> str:
    """The unit's text. arguments: of `herd serve`; folder: what relative paths in them begin at. Raises UsageError."""
    words = [sys.executable, "-m", "herd", "serve", *arguments]
    has_file = any(word == "--keys" or word.startswith("--keys=") for word in arguments)
    return UNIT.format(
        reload=RELOAD if has_file else "",
        command=" ".join(quoted(word) for word in words),
        folder=plain(str(folder)),
        environment=plain(str(environment_path())),
        stop_s=(limits or Limits()).drain_s + STOP_S,
    )


def quoted(word: str) -> str:
    """A word of a command line: nothing in it is a variable, a specifier or the end of the word."""
    text = plain(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{text}"'


def plain(text: str) -> str:
    """A value without specifiers. Raises UsageError for what would end the line."""
    if not text.isprintable():
        fail(UsageError, "argument", got=text, expected="printable characters, which a unit can hold")
    return text.replace("%", "%%")


def environment(variables: Mapping[str, str]) -> str:
    """The text of an environment file: the variables that are carried."""
    lines = []
    for name in CARRIED:
        value = variables.get(name, "")
        if not value.isprintable():
            fail(UsageError, name, got="a character that is not printable", expected="printable ones")
        if value:
            for special in '\\"$`':
                value = value.replace(special, "\\" + special)
            lines.append(f'{name}="{value}"\n')
    return "".join(lines)


def install(arguments: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
    """Write both files, each whole or not at all; the secrets first, with no moment at which others may read them."""
    text, secrets = unit(arguments, folder), environment(variables)
    for path, content, mode in ((environment_path(), secrets, 0o600), (unit_path(), text, 0o644)):
        make_folders(path.parent)
        with new_file(path, overwrite=True) as temporary:
            temporary.chmod(mode)
            temporary.write_text(content, encoding="utf-8")


def remove() -> bool:
    """Delete both; whether there was a unit."""
    found = unit_path().exists()
    unit_path().unlink(missing_ok=True)
    environment_path().unlink(missing_ok=True)
    return found
