"""What an answer and a conversation on the terminal share: images that a text names, what is told while a prompt is
read, and after a reply."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from herd.cli import console

if TYPE_CHECKING:
    from herd.backends.remote import Remote
    from herd.chat_model import ChatModel
    from herd.events import Event, Reply
    from herd.llm import LLM

IMAGE_PATH = re.compile(
    r"""'([^'\n]+\.(?:png|jpe?g|webp|gif|bmp))'|"([^"\n]+\.(?:png|jpe?g|webp|gif|bmp))\"|"""
    r"""(?<!\S)(?<!\\[^\S\n])((?:\\.|[^\s\\])+\.(?:png|jpe?g|webp|gif|bmp))(?=\s|$)""",
    re.IGNORECASE,
)
"""A path in a prompt: quoted, or with spaces escaped, as terminals paste a dropped file. The latter begins after a
space that is not escaped: no word is looked at from its middle."""

ROOM = "/save FILE keeps the conversation, /clear makes room"
"""What to do in any conversation whose context is full."""


def while_reading(events: "Iterator[Event]", *, quiet: bool) -> "Iterator[Event]":
    """The events of an answer but for those of progress: of these, a terminal has a line that says how much of the
    prompt is read, and that is gone when the answer begins."""
    try:
        with console.fleeting(quiet=quiet) as show:
            for event in events:
                if event.type == "progress":
                    read = f"reading {event.read_tokens:,} of {event.prompt_tokens:,}"
                    show(console.dim(read, sys.stderr))
                else:
                    show("")
                    yield event
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            close()


def after(
    reply: "Reply",
    llm: "LLM | ChatModel | Remote",
    *,
    verbose: bool,
    quiet: bool,
    most: int | None = None,
    chat: bool = False,
) -> None:
    """What the person may want to know once the answer is there. most: the max_tokens that held, None: no other than
    the context; chat: it is a conversation."""
    if reply.finish_reason == "length":
        console.note(
            f"(cut off after {reply.usage.output_tokens} tokens: {_why_cut(reply, llm, most, chat)})", quiet=quiet
        )
    if verbose:
        u, t = reply.usage, reply.timings
        cached = f" ({u.cached_tokens} of them kept from before)" if u.cached_tokens else ""
        console.note(f"load    {t.load_s:.2f} s")
        console.note(
            f"prompt  {u.prompt_tokens} tokens{cached}, {t.prefill_s:.2f} s, {t.prefill_tps:.1f} tokens/s; "
            f"first token after {t.first_token_s:.2f} s"
        )
        console.note(f"answer  {u.output_tokens} tokens, {t.decode_s:.2f} s, {t.decode_tps:.1f} tokens/s")
        console.note(f"seed    {reply.seed}")


def _why_cut(reply: "Reply", llm: "LLM | ChatModel | Remote", most: int | None, chat: bool) -> str:
    if most is not None and reply.usage.output_tokens >= most:
        return "a larger max_tokens allows more, /set max_tokens N" if chat else "a larger --max-tokens allows more"
    full = f"the context of {llm.context} tokens is full; "
    if is_of_files(llm):
        return full + (room_in_chat(llm) if chat else more_context(llm.context, llm.config.max_context))
    return full + (ROOM if chat else "ask for less, or a backend with a larger one")


def is_of_files(model: "LLM | ChatModel | Remote") -> "TypeGuard[LLM]":
    """Whether a model runs here: what another one holds is the other side's matter."""
    return hasattr(model, "config")


def room_in_chat(llm: "LLM | Remote") -> str:
    """What to do in a conversation whose context is full."""
    if not is_of_files(llm):
        return ROOM
    more = f"; {more_context(llm.context, llm.config.max_context)}" if llm.context < llm.config.max_context else ""
    return f"{ROOM}{more}"


def more_context(context: int, most: int) -> str:
    """What to do for a context larger than so many tokens, of a model that holds `most`."""
    if context >= most:
        return "the model holds no more"
    return f"begin with --ctx auto, or up to --ctx {most}, for more"


def find_images(text: str) -> list[tuple[str, str]]:
    """Paths of existing image files in a text: as written there, and as a path."""
    found = []
    for match in IMAGE_PATH.finditer(text):
        plain = match[1] or match[2] or re.sub(r"\\(.)", r"\1", match[3])
        path = Path(plain).expanduser()
        if path.is_file():
            found.append((match[0], str(path)))
    return found
