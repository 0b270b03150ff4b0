"""The lazy group of commands, and the one place where an error becomes a line on stderr and an exit status."""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from herd.cli import ALIASES, COMMANDS
from herd.cli.wrapping import for_screen
from herd.errors import HerdError, Interrupted

INTERRUPTED = 130
PIPE_CLOSED = 141
"""128 + SIGPIPE: what a shell shows for any program whose reader went away."""


class LazyGroup(click.Group):
    """Commands out of the registry, each imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the registry's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module, now that it is wanted."""
        return _command(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Refuse an unknown command with the nearest ones."""
        if args and args[0] not in COMMANDS and args[0] not in ALIASES and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], [*COMMANDS, *ALIASES], n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. Ctrl-C becomes Herd's error here, before click would write an empty line about it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections from the registry alone."""
        for section in dict.fromkeys(row.section for row in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl([(n, row.help) for n, row in COMMANDS.items() if row.section == section])


def _command(name: str) -> click.Command | None:
    """The command of a name, its module imported; None: there is none."""
    row = COMMANDS.get(ALIASES.get(name, name))
    if row is None:
        return None
    module, _, target = row.target.partition(":")
    command = getattr(import_module(module), target)
    assert isinstance(command, click.Command), f"{row.target} is a {type(command).__name__}"
    return command


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from herd import __version__

        click.echo(f"herd {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def herd(ctx: click.Context) -> None:
    """The Llama 4 family, whole, on your own machines.

    \b
    herd pull smollm2
    herd run smollm2 "What is photosynthesis?"
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises what a user, a file or a machine caused."""
    _open_standard_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        # imported here, where few calls are open: within click's, imports crossed a border of Python 3.11's stack again
        # and again, with a system call each time: 35 ms in all
        _command(words[0] if words else "")
        status = herd.main(args=words, prog_name="herd", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", INTERRUPTED)
    except HerdError as e:
        return _say(str(e), e.exit_status)
    except click.ClickException as e:
        return _say(_click_line(e), 2)
    except SystemExit as e:  # click's own way out of a closed pipe
        return _quiet() if e.code == 1 else int(e.code or 0)
    except BrokenPipeError:
        return _quiet()
    except MemoryError:
        return _say("out of memory; choose a smaller model, type or --ctx", 4)
    except OSError as e:
        return _say(_os_line(e), {errno.ENOENT: 3, errno.ENOSPC: 4, errno.EDQUOT: 4}.get(e.errno or 0, 1))


def _open_standard_streams() -> None:
    """Give stdin, stdout and stderr that a shell closed (`2>&-`) to the null device: the next file or socket that is
    opened would get the number, and what is written for people or inherited by a child would go there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            assert opened == number, f"the lowest free descriptor is {opened}, not {number}"
            os.set_inheritable(number, True)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _say(line: str, status: int) -> int:
    try:
        print(for_screen("herd: " + " ".join(line.split()), sys.stderr), file=sys.stderr, flush=True)
    except OSError:
        return status
    return status


def _quiet() -> int:
    # What is still buffered has nowhere to go; without this the interpreter complains about it at exit.
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return PIPE_CLOSED


def _click_line(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    line = error.format_message().rstrip(".")
    return f"{line}; see {ctx.command_path} --help" if ctx is not None else line


def _os_line(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
