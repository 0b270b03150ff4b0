"""Commands about files: convert, tokenize."""

from pathlib import Path

import click

from herd.cli import console
from herd.cli.run import assemble
from herd.errors import UsageError, fail
from herd.store import stored


@click.command("convert")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST", type=click.Path())
@click.option("--type", "type_", help="Element type: f32, f16, bf16, q8_0, q4_0, ...; the source's own otherwise.")
@click.option("--mmproj", metavar="FILE", type=click.Path(), help="The vision part of a GGUF SRC.")
@click.option("--imatrix", metavar="FILE", type=click.Path(), help="llama.cpp's importance matrix, for block formats.")
@click.option("--overwrite", is_flag=True, help="Replace DST.")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def convert(
    source: str,
    target: str,
    type_: str | None,
    mmproj: str | None,
    imatrix: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write the model SRC (a name or a path) to DST: a .gguf file, or a folder of safetensors."""
    from herd.convert import convert as write

    with console.progress(quiet=quiet) as tell:

        def written(_tensor: str, done: int, total: int) -> None:
            tell("write", done, total)

        made = write(
            stored.resolve(source),
            Path(target),
            type=type_,
            mmproj=mmproj,
            imatrix=imatrix,
            overwrite=overwrite,
            progress=written,
        )
    for line in made.notes:
        console.note(line, quiet=quiet)
    if as_json:
        data = {"path": str(made.path), "type": made.type, "size_bytes": made.num_bytes, "notes": list(made.notes)}
        console.print_json("convert", data)
    else:
        console.note(f"{made.path}: {made.type}, {console.size(made.num_bytes)}", quiet=quiet)


@click.command("tokenize")
@click.argument("model")
@click.argument("text", nargs=-1)
@click.option("-f", "--file", "files", multiple=True, type=click.Path(), help="Put this file's text before TEXT.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def tokenize(model: str, text: tuple[str, ...], files: tuple[str, ...], as_json: bool) -> None:
    """Show TEXT (or what is piped in) as MODEL's tokens: an id and its piece a line.

    Nothing special is added, and text that spells a special token stays text.
    """
    from herd.checkpoint import open_checkpoint

    given = assemble(" ".join(text), files)
    if not given:
        fail(UsageError, "no text", do='herd tokenize MODEL "TEXT", or pipe one in')
    with open_checkpoint(stored.resolve(model)) as checkpoint:
        tokenizer = checkpoint.load_tokenizer()
    ids = tokenizer.encode(given)
    pieces = [tokenizer.token_bytes(i) for i in ids]
    if as_json:
        shown = [piece.decode("utf-8", "replace") for piece in pieces]
        console.print_json("tokenize", {"ids": ids, "pieces": shown, "count": len(ids)})
        return
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i:>8}  {_shown(piece)}")
    console.note(f"{len(ids)} tokens")


def _shown(piece: bytes) -> str:
    """A token's bytes, quoted: text where they are whole characters, \\x otherwise."""
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return repr(piece)[1:]
