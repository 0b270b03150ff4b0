"""Checkers of a person's own: run once they are trusted, until they change; whatever one does, its item alone fails."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_chat_model import OnlyChats
from helpers import PATIENCE_S, hf_folder, until
from herd.cli import main
from herd.errors import BadFile, HerdError, Interrupted, MissingExtra, PassFailed, TimedOut, UsageError
from herd.evals import Task, find, judging, programs, run
from herd.evals.results import Result
from herd.events import Reply, Timings, Usage
from herd.messages import ToolCall

HEAD = 'name = "own"\nkind = "answer"\nprompt = "{q}"\nchecker = "mine.py"\n'
SHORT = "[options]\nseconds = 0.5\n"
RIGHT = 'def check(reply, item):\n    return reply["text"] == item["wanted"]\n'


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))


def task_of(folder: Path, source: str | bytes, head: str = HEAD, items: int = 2, *, trusted: bool = True) -> Task:
    (folder / "mine.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    rows = "".join(f'[[item]]\nq = "{i}"\nwanted = "{i}"\n' for i in range(items))
    (folder / "own.toml").write_text(head + rows)
    task = find(str(folder / "own.toml"))
    if trusted:
        assert task.program is not None
        programs.trust(task.program)
    return task


def reply_of(text: str, *calls: ToolCall) -> Reply:
    return Reply(text, "stop", Usage(1, 1), Timings(), tool_calls=calls)


def value(task: Task, text: str) -> float:
    with judging.opened(task) as judge:
        return judge.value(reply_of(text), task.items[0])


def test_a_checker_says_how_right_an_answer_is(tmp_path: Path) -> None:
    task = task_of(tmp_path, RIGHT)
    with judging.opened(task) as judge:
        assert [judge.value(reply_of(text), task.items[0]) for text in ("0", "1", "0")] == [1.0, 0.0, 1.0]
    half = 'def check(reply, item):\n    return len(reply["calls"][0]["arguments"]) / 2\n'
    with judging.opened(task_of(tmp_path, half)) as judge:
        assert judge.value(reply_of("", ToolCall("f", {"a": 1}, "x")), {}) == 0.5


def test_it_is_asked_for_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nobody has trusted, expected code that you know.*give --trust \(its SHA"):
        value(task_of(tmp_path, RIGHT, trusted=False), "0")
    assert value(task_of(tmp_path, RIGHT), "0") == 1.0
    assert value(task_of(tmp_path, RIGHT, trusted=False), "0") == 1.0
    with pytest.raises(UsageError, match="a file that changed since it was trusted"):
        value(task_of(tmp_path, RIGHT + "\n", trusted=False), "0")


def test_what_runs_is_what_was_read_and_trusted(tmp_path: Path) -> None:
    task = task_of(tmp_path, RIGHT)
    (tmp_path / "mine.py").write_text("def check(reply, item):\n    return 0.25\n")
    assert value(task, "0") == 1.0


def test_another_checker_is_another_task(tmp_path: Path) -> None:
    digests = {task_of(tmp_path, RIGHT + "#" * i).digest for i in range(3)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def check(reply, item:\n", "SyntaxError: .*line 1"),
        ("check = 3\n", "it defines no function check"),
        ("import no_such_module\n", r"ModuleNotFoundError: .* \(line 1\)"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import os\nos._exit(3)\n", "a process that ended with status 3"),
        (b"\xff", "mine.py: not UTF-8 at byte 0"),
        (b"#" * (1 << 20) + b"\n", "mine.py: size"),
    ],
)
def test_a_file_that_cannot_be_run_is_told_before_a_model_is_asked(
    tmp_path: Path, source: str | bytes, says: str
) -> None:
    with pytest.raises(BadFile, match=says) as told:
        value(task_of(tmp_path, source), "0")
    assert "\n" not in str(told.value) and "mine.py" in str(told.value)


@pytest.mark.parametrize("name", ["../mine.py", "other.py", "/mine.py", ".py"])
def test_a_checker_lies_beside_its_task(tmp_path: Path, name: str) -> None:
    with pytest.raises(HerdError, match="checker"):
        task_of(tmp_path, RIGHT, HEAD.replace("mine.py", name))


BAD: dict[str, tuple[str, type[HerdError], str]] = {
    "loops": ("while True: pass", TimedOut, r"mine\.py: got no verdict in 0\.5 s"),
    "sleeps": ("import time; time.sleep(60)", TimedOut, "no verdict"),
    "loops in C": ("sum(range(10**18))", TimedOut, "no verdict"),
    "raises": ("return {}['x']", PassFailed, r"KeyError: 'x' \(line 4\)"),
    "says nothing": ("print('right'); return", PassFailed, "got None, expected True, False or a number from 0 to 1"),
    "says a text": ("return 'right'", PassFailed, "got 'right', expected"),
    "says too much": ("return 7", PassFailed, "got 7, expected"),
    "says no number": ("return float('nan')", PassFailed, "got nan, expected"),
    "has no words": ("class A:\n            __repr__ = None\n        return A()", PassFailed, "TypeError"),
    "exits": ("import sys; sys.exit(0)", PassFailed, "SystemExit: 0"),
    "dies": ("import os; os._exit(4)", PassFailed, "a process that ended with status 4"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", PassFailed, "a process that ended by signal 9"),
    "takes all memory": ("return len(bytearray(3 << 30)) > 0", PassFailed, "MemoryError"),
    "recurses": ("return check(reply, item)", PassFailed, "RecursionError"),
    "floods": (
        "import os\n        while True: os.write(3, b'x' * 4096); os.write(4, b'y' * 4096)",
        PassFailed,
        "mine.py",
    ),
    "answers nonsense": ("import os; os.write(4, b'[]\\n'); return True", PassFailed, "no JSON object"),
    "answers far off": ("import os; os.write(4, b'{\"value\": 9}\\n'); return True", PassFailed, "from 0 to 1"),
    "fills the disk": ("open('x', 'wb').write(bytes(100 << 20)); return True", PassFailed, "signal 25|OSError"),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_that_misbehaves_costs_its_item_alone(tmp_path: Path, kind: str) -> None:
    body, error, says = BAD[kind]
    before = "def check(reply, item):\n    print('x' * 100_000)\n    if reply['text'] == 'bad':\n        "
    source = f"{before}{body}\n    return True\n"
    task = task_of(tmp_path, source, HEAD + SHORT)
    with judging.opened(task) as judge:
        assert judge.value(reply_of("good"), {}) == 1.0
        with pytest.raises(error, match=says) as told:
            judge.value(reply_of("bad"), {})
        assert "\n" not in str(told.value)
        assert judge.value(reply_of("good"), {}) == 1.0


def test_a_run_goes_on_after_checkers_that_loop(tmp_path: Path) -> None:
    source = "def check(reply, item):\n    while item['q'] == '3': pass\n    return True\n"
    found: dict[int, Result] = {}
    task = task_of(tmp_path, source, HEAD + SHORT, items=8)
    run(OnlyChats(), task, lambda one: found.update({one.item: one}))
    assert {i: one.value for i, one in found.items()} == {i: None if i == 3 else 1.0 for i in range(8)}
    assert found[3].error == "timed_out" and "mine.py" in found[3].why


def test_it_sees_no_keys_and_no_files_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERD_API_KEY", "secret")
    monkeypatch.setenv("DEEPINFRA_TOKEN", "secret")
    source = (
        "import os\ndef check(reply, item):\n"
        "    assert 'secret' not in os.environ.values()\n"
        "    return sorted(os.listdir('/proc/self/fd')) <= sorted('01234567')\n"
    )
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert value(task_of(tmp_path, source), "") == 1.0


SCHEMAS: list[tuple[dict[str, Any], str, bool]] = [
    ({"type": "object", "required": ["a"]}, ' {"a": 1} ', True),
    ({"type": "object", "required": ["a"]}, "{}", False),
    ({"type": "object"}, "Here it is: {}", False),
    ({"type": "object"}, "[" * 100_000, False),
    ({"$defs": {"n": {"minimum": 3}}, "$ref": "#/$defs/n"}, "2", False),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}, "3", False),
]


def test_answers_are_valid_against_a_schema_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jsonschema")
    head = HEAD.replace("mine.py", "json_schema") + SHORT.replace("0.5", "2")
    (tmp_path / "s.toml").write_text(head + '[[item]]\nq = "x"\nschema = {type = "object"}\n')
    task = find(str(tmp_path / "s.toml"))
    with judging.opened(task) as judge:
        for schema, text, right in SCHEMAS:
            assert judge.value(reply_of(text), {"schema": schema}) == float(right), (schema, text)
        with pytest.raises(PassFailed, match="SchemaError"):
            judge.value(reply_of("{}"), {"schema": {"type": "objekt"}})
        with pytest.raises(PassFailed, match="Unresolvable"):
            judge.value(reply_of("{}"), {"schema": {"$ref": "http://127.0.0.1:1/x.json"}})
        with pytest.raises(TimedOut, match="no verdict in 2 s"):
            judge.value(reply_of('"' + "a" * 40 + '!"'), {"schema": {"pattern": "^(a+)+$"}})
    monkeypatch.setattr(judging, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"llama-herd\[evals\]"), judging.opened(task):
        pass


def test_closing_ends_one_that_loops_at_once(tmp_path: Path) -> None:
    source = "def check(reply, item):\n    open(item['begun'], 'w').close()\n    while True: pass\n"
    task = task_of(tmp_path, source, HEAD + "[options]\nseconds = 600\n")
    told: list[BaseException] = []

    def ask(judge: judging.Judge) -> None:
        try:
            judge.value(reply_of("x"), {"begun": str(tmp_path / "begun")})
        except HerdError as error:
            told.append(error)

    with judging.opened(task) as judge:
        threads = [threading.Thread(target=ask, args=(judge,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until("a checker at work", (tmp_path / "begun").exists)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [type(one) for one in told] == [Interrupted] * 3


ORPHAN = """
import sys, threading
from pathlib import Path
from test_own_checkers import HEAD, task_of, judging, reply_of
source = "import os\\ndef check(reply, item):\\n    open(item['pid'], 'w').write(str(os.getpid()))\\n"
source += "    while True: pass\\n"
task = task_of(Path(sys.argv[1]), source, HEAD + "[options]\\nseconds = 0.6\\n")
with judging.opened(task) as judge:
    threading.Thread(target=judge.value, args=(reply_of("x"), {"pid": sys.argv[1] + "/pid"})).start()
    threading.Event().wait()
"""


def test_one_that_loops_ends_even_where_its_run_was_killed(tmp_path: Path) -> None:
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run_of_it = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path)], env=paths)
    pid_file = tmp_path / "pid"
    until("a checker at work", lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    run_of_it.send_signal(signal.SIGKILL)
    run_of_it.wait(PATIENCE_S)
    until("the end of the checker", lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_wants_trust_once_and_says_what_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task_of(tmp_path, RIGHT, trusted=False)
    task, model = str(tmp_path / "own.toml"), str(hf_folder(tmp_path / "tiny"))
    assert main(["eval", str(tmp_path / "no-model"), task]) == 2
    assert "give --trust" in capsys.readouterr().err
    assert main(["eval", model, task, "--trust", "--limit", "1"]) == 0
    assert f"runs {tmp_path}/mine.py (SHA-256 " in capsys.readouterr().err
    assert main(["eval", model, task, "--limit", "1", "-q"]) == 0
    (tmp_path / "mine.py").write_text("def check(reply, item):\n    return None\n")
    assert main(["eval", model, task]) == 2
    assert "changed since it was trusted" in capsys.readouterr().err
    assert main(["eval", model, task, "--trust", "--limit", "1", "-q"]) == 1
    assert "no item of own was answered" in capsys.readouterr().err
