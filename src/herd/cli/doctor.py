"""`herd doctor`: prints what this machine has for Herd, and what is missing, each with its remedy."""

from dataclasses import asdict

import click

from herd.cli import console


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--no-bandwidth", is_flag=True, help="Do not measure how fast memory reads (half a second).")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, no_bandwidth: bool) -> None:
    """Show processor, instruction sets, memory, speed, store and optional parts. Status 1 when something is missing."""
    from herd.doctor import examine

    found = examine(bandwidth=not no_bandwidth)
    if as_json:
        console.print_json("doctor", {"findings": [asdict(f) for f in found]})
    else:
        for f in found:
            remedy = f"; {f.remedy}" if f.remedy else ""
            console.line(f"{'ok     ' if f.ok else 'MISSING'}  {f.subject:<13}{f.fact}{remedy}", 22)
    if not all(f.ok for f in found):
        ctx.exit(1)
