"""`herd run` and `herd chat`: one prompt answered as a stream, or a conversation in the terminal."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli import console, options
from herd.cli.checks import check_flags, for_model
from herd.cli.replies import after, find_images, while_reading
from herd.cli.wrapping import on_screen
from herd.errors import BadFile, Interrupted, NotFound, UsageError, fail

if TYPE_CHECKING:
    from herd.events import Event, Reply
    from herd.llm import LLM
    from herd.llm.loading import Opened

MAX_PROMPT_BYTES = 64 << 20


def _shared(command: options.F) -> options.F:
    """Flags that `run` and `chat` have in common."""
    for option in (
        click.option("--leave", is_flag=True, help="With a backend outside of the house: let what is asked leave it."),
        click.option("-q", "--quiet", is_flag=True, help="No notes."),
        click.option("--verbose", is_flag=True, help="Counts and rates after each answer."),
        click.option("--trace", type=click.Path(), metavar="FILE", help="Write which experts each token chose."),
        click.option("-s", "--system", metavar="TEXT", help="What the model is told before the conversation."),
    ):
        command = option(command)
    return options.sampling(options.loading(command))


@click.command("run")
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("-f", "--file", "files", multiple=True, type=click.Path(), help="Put this file's text before the prompt.")
@click.option("-i", "--image", "images", multiple=True, type=click.Path(), help="Show an image.")
@click.option(
    "--raw",
    is_flag=True,
    help="Go on with the text as it is, without a chat format; control tokens may be spelt in it.",
)
@click.option("--json", "as_json", is_flag=True, help="The whole answer as one JSON object.")
@_shared
def run(
    model: str,
    prompt: Sequence[str],
    files: Sequence[str],
    images: Sequence[str],
    raw: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Answer PROMPT with MODEL (a name, a path, or a backend) and stop; without a prompt, chat.

    Piped input and files go before the prompt. The answer goes to stdout, everything else to stderr. backend:NAME is
    another engine or a host (herd backend), NAME/MODEL another model there; outside of the house it wants --leave.
    """
    from herd.cli import elsewhere

    typed = " ".join(prompt)
    text = assemble(typed, files)
    if (named := elsewhere.named(model)) is not None:
        if text.strip() or images or as_json or not _is_interactive():
            _elsewhere(model, named, text, images, as_json, values)
        else:
            _chat_elsewhere(model, named, values)
        return
    if values["leave"]:
        fail(UsageError, "--leave", got=f"a model of files, {model}", do="leave it out: nothing is sent anywhere")
    if not text.strip() and not images:
        if as_json or raw or not _is_interactive():
            fail(UsageError, "no prompt", do='herd run MODEL "PROMPT", or pipe one in')
        _chat(model, values)
        return
    if raw and (images or values["system"]):
        fail(UsageError, "--raw takes neither images nor a system text", do="leave --raw out")
    chosen = check_flags(values, images, as_json=as_json)
    check = for_model(chosen, images=images, trace=values["trace"], text=text, raw=raw)
    with _load(model, values, check) as llm:
        if not raw:
            text, images = _with_images(llm, text, typed, images, quiet=values["quiet"])
        _one_shot(llm, text, images, raw, as_json, values)


def _elsewhere(
    word: str, named: tuple[str, str], text: str, images: Sequence[str], as_json: bool, values: Mapping[str, Any]
) -> None:
    """Have a backend answer."""
    from herd.backends.gate import Said, strictest
    from herd.backends.routes import named as by_name
    from herd.cli import elsewhere
    from herd.llm import by_ids as llm_by_ids

    elsewhere.check(word, text, images)
    chosen = check_flags(values, images, as_json=as_json)
    found = by_name(*named, by_ids=llm_by_ids)
    model, decision = found.model, strictest(Said(values["leave"] or None), found.said)
    turns = elsewhere.dialog_of(text, values["system"], images)
    events = elsewhere.events_of(model, turns, {**values, "leave": decision.leave})
    reply = follow(while_reading(events, quiet=values["quiet"]), show=not as_json)
    if as_json:
        console.print_json("run", {"model": word, **reply.to_dict()})
    else:
        after(reply, model, verbose=values["verbose"], quiet=values["quiet"], most=chosen.max_tokens)


@click.command("chat")
@click.argument("model")
@_shared
def chat(model: str, **values: Any) -> None:
    """Chat with MODEL in the terminal. /? lists what can be typed beside questions.

    backend:NAME is another engine or a host (herd backend); outside of the house it wants --leave.
    """
    from herd.cli import elsewhere

    if not _is_interactive():
        fail(UsageError, "chat needs a terminal", do='for pipes: herd run MODEL "PROMPT"')
    if (named := elsewhere.named(model)) is not None:
        _chat_elsewhere(model, named, values)
        return
    if values["leave"]:
        fail(UsageError, "--leave", got=f"a model of files, {model}", do="leave it out: nothing is sent anywhere")
    _chat(model, values)


def _chat_elsewhere(word: str, named: tuple[str, str], values: Mapping[str, Any]) -> None:
    """Chat with a backend or a route; once, at the beginning, it is told where what is said goes."""
    from herd.backends.gate import Said, strictest
    from herd.backends.members import hosts_outside, require_some
    from herd.backends.remote import Remote
    from herd.backends.routes import named as by_name
    from herd.cli import elsewhere
    from herd.cli.interactive import Session
    from herd.llm import by_ids

    elsewhere.check_flags(word)
    check_flags(values)
    found = by_name(*named, by_ids=by_ids)
    decision = strictest(Said(values["leave"] or None), found.said)
    with decision.explained():
        require_some(found.model, leave=decision.leave)
    if decision.leave and (hosts := hosts_outside(found.model)):
        console.note(f"what is said here goes to {', or '.join(hosts)}")
    chosen = options.given(values)
    with Remote(found.model, leave=decision.leave) as model:
        Session(model, system=values["system"], options=chosen, verbose=values["verbose"], quiet=values["quiet"]).loop()


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _load(model: str, values: Mapping[str, Any], check: "Callable[[Opened], None]") -> "LLM":
    from herd.llm import load

    with console.progress(quiet=values["quiet"]) as progress:
        return load(model, **options.load_arguments(values), progress=progress, check=check)


def _chat(model: str, values: Mapping[str, Any]) -> None:
    from herd.cli.interactive import Session

    check = for_model(check_flags(values), trace=values["trace"])
    with _load(model, values, check) as llm:
        Session(
            llm,
            system=values["system"],
            options=options.given(values),
            trace=values["trace"],
            verbose=values["verbose"],
            quiet=values["quiet"],
        ).loop()


def _one_shot(
    llm: "LLM", text: str, images: Sequence[str], raw: bool, as_json: bool, values: Mapping[str, Any]
) -> None:
    chosen, trace, system = options.given(values), values["trace"], values["system"]
    told = console.is_live(quiet=values["quiet"]) and llm.tells_progress
    if raw:
        if left := " ".join(dict.fromkeys(llm.spellings(text, raw=True))):
            console.note(f"{left} stay text: images are shown without --raw", quiet=values["quiet"])
        events = llm.stream_complete(text, trace=trace, raw=True, progress=told, **chosen)
    else:
        paths = [Path(image) for image in images]
        events = llm.stream(text, system=system, images=paths, trace=trace, progress=told, **chosen)
    reply = follow(while_reading(events, quiet=values["quiet"]), show=not as_json)
    if as_json:
        console.print_json("run", {"model": llm.name, **reply.to_dict()})
    else:
        most = llm.defaults.with_(chosen).max_tokens
        after(reply, llm, verbose=values["verbose"], quiet=values["quiet"], most=most)
    if reply.finish_reason == "interrupted":
        raise Interrupted("interrupted")


def follow(events: "Iterator[Event]", *, show: bool) -> "Reply":
    """Print a stream as it comes and give back the whole reply; the answer always ends its line."""
    last, screen = "\n", on_screen(sys.stdout)
    try:
        for event in events:
            if event.type == "done":
                return event.reply
            if show and event.type == "text" and event.text:
                last = event.text
                screen.add(last)
    finally:
        if not isinstance(sys.exception(), OSError):
            screen.end()
            print("" if last.endswith("\n") else "\n", end="", flush=True)
    raise AssertionError("a stream ended without its DoneEvent")


# -- the prompt ---------------------------------------------------------------------------------------------------


def assemble(typed: str, files: Sequence[str]) -> str:
    """Piped input, files and the typed prompt, in this order, a blank line between them."""
    parts = [_piped() if typed != "-" or not sys.stdin.isatty() else "", *(_read(Path(f)) for f in files)]
    parts.append("" if typed == "-" else _utf8(typed, "the prompt"))
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _piped() -> str:
    """All of stdin, when something is piped or redirected into it; a terminal, /dev/null or a socket is not read."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):  # closed, or not a file at all
        return ""
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return ""
    data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    return _text(data, "stdin")


def _read(path: Path) -> str:
    if not path.is_file():
        fail(NotFound, f"no file {path}")
    with open(path, "rb") as f:
        return _text(f.read(MAX_PROMPT_BYTES + 1), str(path))


def _text(data: bytes, what: str) -> str:
    if len(data) > MAX_PROMPT_BYTES:
        fail(UsageError, what, got="more", expected=f"at most {MAX_PROMPT_BYTES >> 20} MiB of text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        return fail(BadFile, f"{what} is not UTF-8 text", got=f"byte {e.object[e.start]:#04x} at {e.start}")


def _utf8(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        fail(UsageError, f"{what} is not UTF-8 text", do="check the terminal's locale")
    return text


def _with_images(llm: "LLM", text: str, typed: str, images: Sequence[str], *, quiet: bool) -> tuple[str, Sequence[str]]:
    """Take the paths of images out of the typed prompt, when the model can see."""
    found = find_images(typed)
    if not found:
        return text, images
    if llm.config.vision is None:
        console.note(f"{llm.name} cannot see images: {', '.join(p for _, p in found)} stays text", quiet=quiet)
        return text, images
    for written, _ in found:
        text = text.replace(written, "", 1)
    console.note(f"images: {', '.join(p for _, p in found)}", quiet=quiet)
    return text.strip(), (*images, *(p for _, p in found))
