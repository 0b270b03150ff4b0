"""The conversation in the terminal: its rules in this process, its keys in a process behind a pseudo-terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import talker
from test_run import driver, picture

from helpers import PATIENCE_S
from herd.cli.interactive import Session, read_chat
from herd.errors import BadFile, ContextTooLong, HerdError, NotFound, UsageError


@pytest.fixture
def session() -> Session:
    return Session(talker.talker(talker.ECHO), quiet=True)


def test_turns_add_up(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.take("one")
    session.take("two")
    assert capsys.readouterr().out == "one\ntwo\n"
    assert [(m["role"], m["content"]) for m in session.messages] == [
        ("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two"),
    ]  # fmt: skip
    session.take("/clear")
    assert session.messages == []
    session.take("   ")
    assert session.messages == []


def test_the_model_is_shown_the_whole_dialog(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(talker.talker("answer"), system="be brief", quiet=True)
    shown: list[Any] = []
    real = session.llm.stream

    def spy(messages: Any, **arguments: Any) -> Any:
        shown.append((list(messages), arguments))
        return real(messages, **arguments)

    monkeypatch.setattr(session.llm, "stream", spy)
    session.take("/set temperature 0.5")
    session.take("one")
    session.take("two")
    messages, arguments = shown[1]
    assert [m["content"] for m in messages] == ["one", "answer", "two"]
    assert arguments["system"] == "be brief"
    assert arguments["temperature"] == 0.5


def test_a_question_that_cannot_be_asked_is_taken_back() -> None:
    session = Session(talker.talker("x", context=64), quiet=True)
    session.take("hi")
    with pytest.raises(ContextTooLong):
        session.take("y" * 100)
    assert len(session.messages) == 2


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("/set temperature 0.7", "temperature", 0.7),
        ("/set top-k 5", "top_k", 5),
        ("/set stop END", "stop", ("END",)),
        ('/set stop ["a", "b"]', "stop", ("a", "b")),
        ('/set logit_bias {"5": -1}', "logit_bias", {5: -1}),
        ("/set seed null", "seed", None),
    ],
)
def test_set_checks_and_keeps(session: Session, line: str, name: str, value: object) -> None:
    session.take(line)
    assert session.options[name] == value
    session.take(f"/set {name}")
    assert name not in session.options


@pytest.mark.parametrize(
    "line",
    [
        "/set logprobs 2",
        "/set temperature hot",
        "/set temperature -1",
        "/set nonsense 1",
        "/set nonsense",
        "/nonsense",
        "/save",
    ],
)
def test_what_makes_no_sense_changes_nothing(session: Session, line: str) -> None:
    with pytest.raises(UsageError) as error:
        session.take(line)
    assert "\n" not in str(error.value)
    assert session.options == {}
    assert session.messages == []


def test_set_alone_and_show_tell_the_state(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    session.take("/set system You are a cow.")
    session.take("/set")
    out = capsys.readouterr().out
    assert "temperature" in out
    assert "You are a cow." in out
    session.take("hi")
    session.take("/show")
    out = capsys.readouterr().out
    assert "talker" in out
    assert "of 4096 tokens, 2 messages" in out
    session.take("/?")
    assert "/save" in capsys.readouterr().out


def test_a_path_is_no_command(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("")
    session.take(f"{path} is a file")
    assert session.messages[0]["content"] == f"{path} is a file"


def test_save_and_load_keep_everything(session: Session, tmp_path: Path) -> None:
    session.take("/set system be nice")
    session.take('/set logit_bias {"5": -1}')
    session.take("/set stop END")
    session.take("Grüße")
    path = tmp_path / "a chat.json"
    session.take(f"/save {path}")
    other = Session(talker.talker(talker.ECHO), quiet=True)
    other.take(f"/load {path}")
    assert other.messages == session.messages
    assert other.system == "be nice"
    assert other.llm.defaults.with_(other.options) == session.llm.defaults.with_(session.options)
    other.take("more")
    assert len(other.messages) == 4


@pytest.mark.parametrize("content", [b"", b"notes of mine", b'{"herd": "chat", "version": 99}', None])
def test_save_replaces_nothing_but_a_kept_conversation(
    session: Session, tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    session.take("one")
    path = tmp_path / "notes.txt"
    path.mkdir() if content is None else path.write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"notes\.txt is there and is no kept conversation; /save under another name"):
        session.take(f"/save {path}")
    assert sorted(tmp_path.rglob("*")) == before and (content is None or path.read_bytes() == content)
    session.take(f"/save {tmp_path / 'chat'}")
    session.take("two")
    session.take(f"/save {tmp_path / 'chat'}")
    assert len(read_chat(tmp_path / "chat")[2]) == 4


def test_a_full_context_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(talker.talker("x" * 500, context=96))
    session.take("hi")
    said = capsys.readouterr().err
    assert "the context of 96 tokens is full; /save FILE keeps the conversation, /clear makes room" in said
    assert "begin with --ctx auto" in said
    with pytest.raises(ContextTooLong, match=r"2 messages before; /save FILE keeps .*, /clear makes room; begin with"):
        session.take("and more?")
    session.take("/clear")
    with pytest.raises(ContextTooLong, match=r"the context holds 96; begin with --ctx auto, or up to"):
        session.take("y" * 200)
    session.take("/set max_tokens 3")
    session.take("hi")
    assert "a larger max_tokens allows more, /set max_tokens N" in capsys.readouterr().err
    session.llm.config = replace(session.llm.config, max_context=96)
    with pytest.raises(ContextTooLong, match="the model holds no more"):
        Session(session.llm).take("y" * 200)


def good_chat() -> dict[str, Any]:
    return {"herd": "chat", "version": 1, "system": None, "options": {}, "messages": []}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "[" * 100_000,
        json.dumps({**good_chat(), "version": 2}),
        json.dumps({**good_chat(), "messages": "hi"}),
        json.dumps({**good_chat(), "messages": [{"role": "system", "content": "x"}]}),
        json.dumps({**good_chat(), "messages": [{"role": "user"}]}),
        json.dumps({**good_chat(), "messages": [{"role": "user", "content": "x", "tool": 1}]}),
        json.dumps({**good_chat(), "options": {"temperature": -1}}),
        json.dumps({**good_chat(), "options": {"system": "x"}}),
        json.dumps({**good_chat(), "system": 5}),
    ],
)
def test_a_file_that_is_no_conversation_is_refused(session: Session, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    session.take("before")
    with pytest.raises(HerdError) as error:
        session.take(f"/load {path}")
    assert isinstance(error.value, BadFile | UsageError)
    assert "\n" not in str(error.value)
    assert len(session.messages) == 2
    with pytest.raises(NotFound):
        read_chat(tmp_path / "nowhere")


def test_images_in_a_question_are_attached(tmp_path: Path) -> None:
    session = Session(talker.talker(talker.ECHO, sees=True), quiet=True)
    path = picture(tmp_path / "a.png")
    session.take(f"what is {path}")
    assert session.messages[0]["content"] == [
        {"type": "image", "image": str(path)},
        {"type": "text", "text": "what is"},
    ]
    session.take("and now?")
    assert session.messages[3]["content"] == "and now?"


def test_a_kept_conversation_still_shows_its_images(tmp_path: Path) -> None:
    session = Session(talker.talker(talker.ECHO, sees=True), quiet=True)
    path = picture(tmp_path / "a.png")
    session.take(f"what is {path}")
    session.take(f"/save {tmp_path / 'chat.json'}")
    other = Session(talker.talker(talker.ECHO, sees=True), quiet=True)
    other.take(f"/load {tmp_path / 'chat.json'}")
    other.take("and now?")
    other.take("/show")
    assert len(other.messages) == 4
    path.unlink()
    with pytest.raises(NotFound, match="no image"):
        other.take("and after that?")
    assert len(other.messages) == 4


# -- keys ---------------------------------------------------------------------------------------------------------


class Terminal:
    """A process behind a pseudo-terminal, and what it has shown so far."""

    def __init__(self, command: list[str], home: Path) -> None:
        environment = {**os.environ, "TERM": "xterm", "HERD_HOME": str(home), "NO_COLOR": "1"}
        environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody here answers where the cursor is
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.shown = b""
        self.status: int | None = None

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait_for(self, text: str, after: int = 0, timeout_s: float = PATIENCE_S) -> int:
        """Read until `text` stands beyond position `after`; the position behind it."""
        end = time.monotonic() + timeout_s
        while (found := self.shown.find(text.encode(), after)) < 0:
            assert time.monotonic() < end, f"no {text!r} in {self.shown[after:].decode()!r}"
            if not select.select([self.fd], [], [], 0.2)[0]:
                continue
            try:
                piece = os.read(self.fd, 1 << 16)
            except OSError:  # the other end is closed
                piece = b""
            assert piece, f"ended without {text!r}: {self.shown[after:].decode()!r}"
            self.shown += piece
        return found + len(text.encode())

    def end(self, timeout_s: float = PATIENCE_S) -> int:
        """The exit status, once it has ended by itself."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 1 << 16)
                except OSError:
                    break
        pid, status = os.waitpid(self.pid, 0)
        assert pid == self.pid
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(answer: str | None, *arguments: str, delay_s: float = 0.0) -> Terminal:
        opened.append(Terminal([*driver(answer, delay_s), *arguments], tmp_path / "home"))
        return opened[-1]

    yield start
    for one in opened:
        one.kill()


def test_a_conversation_with_several_lines_history_and_ctrl_d(terminal: Any, tmp_path: Path) -> None:
    t = terminal(talker.ECHO, "chat", "m")
    at = t.wait_for(">>>")
    t.type("first question\r")
    at = t.wait_for("reading 0 of ", at)
    at = t.wait_for("\r\x1b[Kfirst question\r\n", at)  # that line has gone, and the answer stands in its place
    at = t.wait_for(">>>", at)
    t.type('"""one\r')
    at = t.wait_for("...", at)
    t.type('two"""\r')
    at = t.wait_for("one\r\ntwo\r\n", at)
    at = t.wait_for(">>>", at)
    t.type("/nonsense\r")
    at = t.wait_for("command: got /nonsense", at)
    at = t.wait_for(">>>", at)
    t.type("\x1b[A\x1b[A\x1b[A\x1b[A\r")  # up, to the oldest
    at = t.wait_for("first question\r\n", at)
    at = t.wait_for(">>>", at)
    t.type("\x04")
    assert t.end() == 0
    history = tmp_path / "home" / "history"
    assert "first question" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0  # nobody else's business


def test_ctrl_c_stops_an_answer_keeps_it_and_goes_on(terminal: Any, tmp_path: Path) -> None:
    t = terminal("abcdefghij" * 300, "run", "m", delay_s=0.01)
    at = t.wait_for(">>>")
    t.type("talk\r")
    at = t.wait_for("abcdefghijabc", at)
    t.type("\x03")
    at = t.wait_for("(stopped)", at)
    at = t.wait_for(">>>", at)
    t.type("\x03")
    at = t.wait_for("Ctrl-D or /bye", at)
    at = t.wait_for(">>>", at)
    t.type(f"/save {tmp_path}/chat\r")
    at = t.wait_for("kept 2 messages", at)
    at = t.wait_for(">>>", at)
    t.type("/bye\r")
    assert t.end() == 0
    kept = json.loads((tmp_path / "chat").read_text())["messages"]
    assert kept[0] == {"role": "user", "content": "talk"}
    assert kept[1]["content"].startswith("abcdefghijabc")
    assert len(kept[1]["content"]) < 3000


def test_words_wrap_at_the_margin_of_the_terminal_as_it_is_now(terminal: Any) -> None:
    words = [*(f"word{'s' * (i % 9)}" for i in range(60)), "end."]
    t = terminal(" ".join(words), "chat", "m")
    at = t.wait_for(">>>")
    for columns in (30, 50):
        t.resize(columns)
        t.type("say it\r")
        begin = t.wait_for("word words", at) - len("word words")
        at = t.wait_for("end.\r\n", begin)
        lines = t.shown[begin:at].decode().split("\r\n")
        assert " ".join(lines).split() == words
        assert columns - 14 < max(map(len, lines)) < columns
        at = t.wait_for(">>>", at)
    t.type("\x04")
    assert t.end() == 0
