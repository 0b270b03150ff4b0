"""`herd service`: `herd serve` as a systemd user unit, started with the session and again when it fails."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from herd.cli import console
from herd.errors import NotFound, UsageError, fail


@click.group("service", no_args_is_help=False)
def service() -> None:
    """Run `herd serve` in the background, as a systemd user unit."""


@service.command("install", context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[SERVE ARGUMENTS]...")
def install(arguments: Sequence[str]) -> None:
    """Write the unit and start it. ARGUMENTS: those of `herd serve`.

    An API key comes from HERD_API_KEY and goes to a file that only you can read.
    """
    from herd.integrations import systemd

    systemd.unit(arguments, Path.cwd())  # words that no unit can hold
    check(arguments)
    systemd.install(arguments, Path.cwd(), os.environ)
    console.note(f"wrote {systemd.unit_path()}")
    if systemctl("daemon-reload") and systemctl("enable", "--now", systemd.NAME):
        console.note("running; herd service logs shows what it says; loginctl enable-linger keeps it without a login")
    else:
        console.note(
            "no user manager of systemd answers here; run: systemctl --user daemon-reload && "
            f"systemctl --user enable --now {systemd.NAME}"
        )


@service.command("status")
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show whether it runs; systemctl's own exit status."""
    ctx.exit(shown("systemctl", "--user", "--no-pager", "status"))


@service.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True)
@click.pass_context
def logs(ctx: click.Context, follow: bool, lines: int) -> None:
    """Show what it has said."""
    ctx.exit(shown("journalctl", "--user", f"--lines={lines}", *(["--follow"] if follow else ["--no-pager"]), "-u"))


@service.command("remove")
def remove() -> None:
    """Stop it, and delete the unit and its key."""
    from herd.integrations import systemd

    installed()
    systemctl("disable", "--now", systemd.NAME)
    systemd.remove()
    systemctl("daemon-reload")
    console.note(f"removed {systemd.unit_path()}")


def check(arguments: Sequence[str]) -> None:
    """Raise what `herd serve` would say of its arguments now, not in a log line after the start."""
    from herd.cli.serve import prepared, serve

    if any(word.startswith("--api-key") for word in arguments):
        fail(UsageError, "--api-key in a unit would show the key to everybody", do="set HERD_API_KEY and install again")
    with serve.make_context("herd serve", list(arguments)) as parsed:
        if parsed.params["show_limits"]:
            fail(UsageError, "--limits prints and stops", do="install without it")
        prepared(parsed.params["models"], parsed.params)


def systemctl(*words: str) -> bool:
    """Whether the user's manager did it."""
    if shutil.which("systemctl") is None:
        return False
    return subprocess.run(["systemctl", "--user", *words], capture_output=True, check=False).returncode == 0


def shown(program: str, *words: str) -> int:
    """Run a program of systemd's about the unit, on this terminal; its exit status. Raises NotFound."""
    from herd.integrations import systemd

    installed()
    if shutil.which(program) is None:
        fail(NotFound, f"{program}: not on this machine", do="herd serve runs without systemd")
    return subprocess.run([program, *words, systemd.NAME], check=False).returncode


def installed() -> None:
    """Raise NotFound where there is no unit."""
    from herd.integrations import systemd

    if not systemd.unit_path().exists():
        fail(NotFound, f"no unit at {systemd.unit_path()}", do="herd service install")
