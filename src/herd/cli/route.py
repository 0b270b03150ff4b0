"""`herd route`: backends in order under one name: add, list, rm."""

from collections.abc import Sequence

import click

from herd.cli import console

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


@click.group("route", no_args_is_help=False)
def route() -> None:
    """Backends in order: the first that can answers, before its first token the next ones where it cannot."""


@route.command("add")
@click.argument("name")
@click.argument("members", nargs=-1, required=True, metavar="BACKEND...")
@click.option("--private", is_flag=True, help="What it is asked stays in the house, whoever asks.")
def add(name: str, members: Sequence[str], private: bool) -> None:
    """Call BACKENDs, the first one first, by one NAME."""
    from herd.backends.routes import Routes

    Routes().add(name, members, private=private)
    console.note(f"{name}: {', then '.join(members)}{'; stays in the house' if private else ''}")


@route.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Show the routes."""
    from herd.backends.routes import Routes

    records = Routes().read()
    for name, broken in records.broken.items():
        console.note(f"{name}: its record in routes.json is broken ({broken.why}); herd route rm {name} forgets it")
    if as_json:
        told = {name: {"members": one.members, "private": one.private} for name, one in records.good.items()}
        console.print_json("route list", {"routes": told})
    elif records.good:
        rows = [(n, ", ".join(one.members), "yes" if one.private else "no") for n, one in sorted(records.good.items())]
        console.table(("NAME", "BACKENDS", "PRIVATE"), rows)
    else:
        console.note("no routes yet; herd route add NAME BACKEND...")


@route.command("rm")
@click.argument("name")
def rm(name: str) -> None:
    """Forget a route; its backends stay."""
    from herd.backends.routes import Routes

    Routes().remove(name)
    console.note(f"removed {name}")
