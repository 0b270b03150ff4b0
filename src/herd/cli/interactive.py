"""A conversation in the terminal: turns, settings, and lines that begin with a slash.

Ctrl-C stops an answer and keeps what was said; at the prompt it only gives a hint. Ctrl-D leaves.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.cli import console, options
from herd.cli.checks import refuse_logprobs
from herd.cli.replies import after, find_images, is_of_files, more_context, room_in_chat, while_reading
from herd.cli.wrapping import on_screen
from herd.disk.atomic import new_file
from herd.engine.request import SamplingOptions
from herd.errors import BadFile, ContextTooLong, HerdError, NotFound, UsageError, fail
from herd.store import registry

if TYPE_CHECKING:
    from herd.backends.remote import Remote
    from herd.events import Reply
    from herd.llm import LLM

CHAT_VERSION = 1
MAX_CHAT_BYTES = 256 << 20
ROLES = ("user", "assistant")
HELP_INDENT = 18
HELP = """\
/set NAME VALUE   change an option (temperature, top_p, max_tokens, ...) or the system text; /set alone lists them
/show             the model, its settings, and how full the context is
/save FILE        keep this conversation        /load FILE   go on with a kept one
/clear            forget the conversation       /bye         leave (also Ctrl-D)
\"\"\"               begin and end a text of several lines
Paths of images in a question are shown to models that can see. Ctrl-C stops an answer."""


class Session:
    """One conversation with one model."""

    def __init__(
        self,
        llm: "LLM | Remote",
        *,
        system: str | None = None,
        options: dict[str, Any] | None = None,
        trace: str | None = None,
        verbose: bool = False,
        quiet: bool = False,
    ) -> None:
        self.llm = llm
        self.system = system
        self.options = dict(options or {})
        self.chosen  # noqa: B018 (a wrong flag is told before the first question)
        self.trace = trace
        self.verbose = verbose
        self.quiet = quiet
        self.messages: list[dict[str, Any]] = []
        self.commands: dict[str, Callable[[str], None]] = {
            "/set": self.set,
            "/show": self.show,
            "/save": self.save,
            "/load": self.load,
            "/clear": self.clear,
            "/?": self.help,
            "/help": self.help,
        }

    @property
    def chosen(self) -> SamplingOptions:
        """Options of the next answer. Raises UsageError."""
        return (self.llm.defaults if is_of_files(self.llm) else SamplingOptions()).with_(self.options)

    @property
    def sees_images(self) -> bool:
        """Whether the model can be shown any."""
        return self.llm.config.vision is not None if is_of_files(self.llm) else self.llm.capabilities.images

    # -- reading --------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Ask and answer until Ctrl-D or /bye."""
        ask = _prompter()
        console.note(f"{self.llm.name}; /? for help, Ctrl-D to leave", quiet=self.quiet)
        while True:
            try:
                line = _whole_text(ask)
            except KeyboardInterrupt:
                console.note("(Ctrl-D or /bye to leave)", quiet=self.quiet)
                continue
            except EOFError:
                return
            if line.strip() in ("/bye", "/exit", "/quit"):
                return
            try:
                self.take(line)
            except HerdError as e:
                console.note(str(e))
            except OSError as e:
                console.note(f"{e.filename}: {e.strerror}" if e.filename else str(e))

    def take(self, line: str) -> None:
        """Do what one typed text asks for."""
        if not line.strip():
            return
        word, _, rest = line.strip().partition(" ")
        if word in self.commands:
            self.commands[word](rest.strip())
        elif word.startswith("/") and not Path(word).exists() and "/" not in word[1:]:
            fail(UsageError, "command", got=word, expected=", ".join(self.commands) + " or /bye")
        else:
            self._answer_or_say_what_to_do(line)

    def _answer_or_say_what_to_do(self, text: str) -> None:
        try:
            self.answer(text)
        except ContextTooLong as error:
            what = str(error).partition("; ")[0]
            if not self.messages and is_of_files(self.llm):
                most = self.llm.config.max_context
                fail(ContextTooLong, what, do=more_context(self.llm.context, most))
            fail(ContextTooLong, f"{what}, with {len(self.messages)} messages before", do=room_in_chat(self.llm))

    # -- answering ------------------------------------------------------------------------------------------------

    def answer(self, text: str) -> None:
        """One turn. A question that could not be asked is taken back; a part of an answer is kept."""
        turn: dict[str, Any] = {"role": "user", "content": text}
        found = find_images(text)
        if found and self.sees_images:
            for written, _ in found:
                text = text.replace(written, "", 1)
            parts = [{"type": "image", "image": path} for _, path in found]
            turn["content"] = [*parts, {"type": "text", "text": text.strip()}]
            console.note(f"images: {', '.join(path for _, path in found)}", quiet=self.quiet)
        elif found:
            names = ", ".join(path for _, path in found)
            console.note(f"{self.llm.name} cannot see images: {names} stays text", quiet=self.quiet)
        said: list[str] = []
        screen = on_screen(sys.stdout)
        reply: Reply | None = None
        turns = _seen([*self.messages, turn])
        more: dict[str, Any] = {}
        if is_of_files(self.llm):
            told = console.is_live(quiet=self.quiet) and self.llm.tells_progress
            more = {"trace": self.trace, "progress": told}
        stream = self.llm.stream(turns, system=self.system, **more, **self.options)
        events = while_reading(stream, quiet=self.quiet)
        try:
            for event in events:
                if event.type == "done":
                    reply = event.reply
                elif event.type == "text":
                    said.append(event.text)
                    screen.add(event.text)
        except KeyboardInterrupt:
            # Ctrl-C between two pieces; inside one, the stream ends by itself as "interrupted".
            close = getattr(events, "close", None)
            if close is not None:
                close()
        finally:
            screen.end()
        answer = reply.text if reply is not None else "".join(said)
        if not answer.endswith("\n"):
            print(flush=True)
        if reply is None or reply.finish_reason == "interrupted":
            console.note("(stopped)", quiet=self.quiet)
        self.messages += [turn, {"role": "assistant", "content": answer}]
        if reply is not None:
            most = self.chosen.max_tokens
            after(reply, self.llm, verbose=self.verbose, quiet=self.quiet, most=most, chat=True)

    # -- slash commands -------------------------------------------------------------------------------------------

    def set(self, rest: str) -> None:
        """/set [NAME [VALUE]]"""
        name, _, value = rest.partition(" ")
        name, value = name.replace("-", "_"), value.strip()
        if not name:
            for field in SamplingOptions.__struct_fields__:
                print(f"{field:<20}{getattr(self.chosen, field)}")
            print(f"{'system':<20}{self.system or ''}")
        elif name == "system":
            self.system = value or None
        elif name == "logprobs" and value:
            refuse_logprobs()
        elif not value:
            if name not in SamplingOptions.__struct_fields__:
                SamplingOptions().with_({name: None})
            self.options.pop(name, None)
            default = f", {getattr(self.llm.defaults, name)}" if is_of_files(self.llm) else ""
            console.note(f"{name}: the model's default{default}", quiet=self.quiet)
        else:
            self.options[name] = options.parse_setting(name, value)

    def show(self, _rest: str) -> None:
        """/show"""
        print(f"{'model':<12}{self.llm.name}")
        if is_of_files(self.llm):
            system = [{"role": "system", "content": self.system}] if self.system else []
            used = self.llm.count(_seen([*system, *self.messages])) if self.messages else 0
            print(f"{'context':<12}{used} of {self.llm.context} tokens, {len(self.messages)} messages")
            print(f"{'format':<12}{self.llm.chat_format}" + (f" ({self.llm.chat_note})" if self.llm.chat_note else ""))
        else:  # the other side alone counts tokens
            print(f"{'context':<12}{self.llm.context} tokens, {len(self.messages)} messages")
        print(f"{'options':<12}" + (", ".join(f"{k} {v}" for k, v in self.options.items()) or "the model's defaults"))
        print(f"{'system':<12}{self.system or ''}")

    def save(self, rest: str) -> None:
        """/save FILE"""
        path = _path("/save", rest)
        _check_replaceable(path)
        chat = {
            "herd": "chat",
            "version": CHAT_VERSION,
            "model": self.llm.name,
            "system": self.system,
            "options": self.options,
            "messages": self.messages,
        }
        with new_file(path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(chat, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        console.note(f"kept {len(self.messages)} messages in {path}", quiet=self.quiet)

    def load(self, rest: str) -> None:
        """/load FILE"""
        path = _path("/load", rest)
        self.system, self.options, self.messages = read_chat(path)
        console.note(f"{len(self.messages)} messages from {path}", quiet=self.quiet)

    def clear(self, _rest: str) -> None:
        """/clear"""
        self.messages = []
        console.note("(forgotten)", quiet=self.quiet)

    def help(self, _rest: str) -> None:
        """/?"""
        console.line(HELP, HELP_INDENT)


def _seen(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the model takes them: images, which a conversation keeps as texts, become paths."""
    return [
        {**m, "content": [_part(part) for part in m["content"]]} if isinstance(m["content"], list) else m
        for m in messages
    ]


def _part(part: Any) -> Any:
    is_image = isinstance(part, dict) and part.get("type") == "image" and isinstance(part.get("image"), str)
    return {**part, "image": Path(part["image"])} if is_image else part


def read_chat(path: Path) -> tuple[str | None, dict[str, Any], list[dict[str, Any]]]:
    """System text, options and messages of a kept conversation. Raises NotFound, BadFile, UsageError."""
    if not path.is_file():
        fail(NotFound, f"no file {path}")
    if path.stat().st_size > MAX_CHAT_BYTES:
        fail(BadFile, str(path), got=f"{path.stat().st_size} bytes", expected=f"at most {MAX_CHAT_BYTES}")
    try:
        chat = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        fail(BadFile, str(path), got=str(e), expected="a conversation kept with /save")
    if not isinstance(chat, dict) or chat.get("herd") != "chat" or chat.get("version") != CHAT_VERSION:
        fail(BadFile, str(path), got="another kind of file", expected="a conversation kept with /save")
    system, chosen, messages = chat.get("system"), chat.get("options"), chat.get("messages")
    if not (system is None or isinstance(system, str)) or not isinstance(chosen, dict):
        fail(BadFile, f"{path}: system or options", expected="a text, and names with values")
    if not isinstance(messages, list):
        fail(BadFile, f"{path}: messages", got=type(messages).__name__, expected="a list")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES or set(message) != {"role", "content"}:
            fail(BadFile, f"{path}: message {i}", got=message, expected="a role (user or assistant) and a content")
    if isinstance(chosen.get("logit_bias"), dict):
        chosen["logit_bias"] = {int(k): v for k, v in chosen["logit_bias"].items() if k.lstrip("-").isdigit()}
    SamplingOptions().with_(chosen)
    return system, chosen, messages


def _check_replaceable(path: Path) -> None:
    """Raise UsageError where something else than a kept conversation would be lost."""
    if not os.path.lexists(path):
        return
    try:
        read_chat(path)
    except HerdError:
        fail(UsageError, f"{path} is there and is no kept conversation", do="/save under another name")


def _path(command: str, rest: str) -> Path:
    if not rest:
        fail(UsageError, command, got="no file", expected=f"{command} FILE")
    return Path(rest).expanduser()


def _whole_text(ask: Callable[[str], str]) -> str:
    """One line, or several between triple quotes."""
    line = ask(">>> ")
    if not line.lstrip().startswith('"""'):
        return line
    lines = [line.lstrip()[3:]]
    while not lines[-1].rstrip().endswith('"""'):
        lines.append(ask("... "))
    return "\n".join(lines).rstrip()[:-3].strip("\n")


def _prompter() -> Callable[[str], str]:
    """A line editor with history kept in the store's folder, readable by its owner alone."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    history = registry.home() / "history"
    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_CREAT | os.O_APPEND, 0o600))
    session: PromptSession[str] = PromptSession(history=FileHistory(str(history)))
    return lambda mark: session.prompt(mark)
