"""Where code of a model runs: canaries that see what is not held, a refusal where nothing holds, and attacks."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from helpers import until
from herd.errors import BadFile, PassFailed, Unsupported
from herd.evals import Task, find, judging, sandbox
from herd.evals.children import Late
from herd.evals.sandbox import Way
from herd.events import Reply, Timings, Usage

HEAD = 'name = "code"\nkind = "answer"\nprompt = "{q}"\nchecker = "code"\n'
SHORT = "[options]\nseconds = 4\n"
ADD = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(2, 3) == 5\nassert add('a', 'b') == 'ab'\n"


@cache
def held() -> list[Way]:
    """The ways that hold here."""
    return [way for way in sandbox.ways() if not sandbox.refusal(way)]


def names_of_ways() -> list[str]:
    return ["bubblewrap", "namespaces"]


@pytest.fixture(params=names_of_ways())
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    """Each way that holds here; skipped with the reason where it does not."""
    found = {one.name: one for one in sandbox.ways()}
    if request.param not in found:
        pytest.skip(f"no {request.param} here")
    if found[request.param] not in held():
        pytest.skip(f"{request.param} {sandbox.refusal(found[request.param])}")
    monkeypatch.setattr(sandbox, "ways", lambda extra=(): [found[request.param]])
    return found[request.param]


def task_of(folder: Path, tests: str = TESTS, head: str = HEAD + SHORT) -> Task:
    (folder / "code.toml").write_text(head + f"[[item]]\nq = 'add'\ntests = {json.dumps(tests)}\n")
    return find(str(folder / "code.toml"))


def reply_of(code: str) -> Reply:
    return Reply(f"Here it is:\n```python\n{code}\n```\nDone.", "stop", Usage(1, 1), Timings())


def values(task: Task, codes: Sequence[str]) -> list[float]:
    with judging.opened(task) as judge:
        return [judge.value(reply_of(code), task.items[0]) for code in codes]


CODES = {
    ADD: 1.0,
    "import math, json, re, dataclasses, collections, itertools, decimal\n" + ADD: 1.0,
    "print('x' * 1000000)\n" + ADD: 1.0,
    "import tempfile\nopen(tempfile.gettempdir() + '/x', 'w').write('x')\n" + ADD: 1.0,
    "def add(a, b):\n    return a - b\n": 0.0,
    "def add(a, b:\n": 0.0,
    "": 0.0,
    "raise SystemExit(0)": 0.0,
    "import os\nos._exit(0)": 0.0,
    "def add(a, b):\n    import os\n    os._exit(0)\n": 0.0,
    "def add(a, b):\n    raise SystemExit\n": 0.0,
    "while True: pass": 0.0,
    "def add(a, b):\n    return bytearray(2 << 30)\n": 0.0,
    "def add(a, b):\n    return add(a, b)\n": 0.0,
    'import os\nos.write(3, b\'{"loaded": true}\\n{"passed": "x"}\\n\')\n' + ADD.replace("+", "-"): 0.0,
    "import os\nwhile True: os.write(3, b'x' * 65536)": 0.0,
    "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\nwhile True: pass": 0.0,
    "import threading\nfor _ in range(100): threading.Thread(target=threading.Event().wait).start()": 0.0,
}


def test_code_is_right_where_the_tests_pass_and_wrong_whatever_else_it_does(tmp_path: Path, way: Way) -> None:
    expected = {
        code: float(value and (way.name == "namespaces" or "tempfile" not in code)) for code, value in CODES.items()
    }
    assert dict(zip(CODES, values(task_of(tmp_path), list(CODES)), strict=True)) == expected


PRELUDE = """
import ctypes, os, socket, subprocess, sys, mmap, time, signal
libc = ctypes.CDLL(None, use_errno=True)
def refused(work, *rest):
    try:
        work(*rest)
    except (OSError, PermissionError, subprocess.SubprocessError):
        return True
    return False
def call(number, *values):
    return libc.syscall(number, *values) == -1 and ctypes.get_errno() in (1, 38, 97)
"""
X86 = platform.machine() == "x86_64"
ATTACKS = {
    "a link to a file outside": "refused(os.symlink, SECRET, '/tmp/l')\nheld = refused(open, '/tmp/l')",
    "a link in place of its folder": "refused(os.symlink, '/', '/tmp/r')\nheld = not os.path.exists('/tmp/r' + SECRET)",
    "a hard link": "held = refused(os.link, '/usr/bin/python3', '/tmp/h') or True\nheld &= not os.path.exists(SECRET)",
    "the way up": "held = not os.path.exists('/tmp/../../../..' + SECRET) and os.listdir('/..') == os.listdir('/')",
    "the root of another process": "held = not any(os.path.exists(f'/proc/{i}') for i in (1, 'self', 'sys'))",
    "the old root": "held = refused(os.listdir, '/oldroot') and refused(os.listdir, '/newroot')",
    "mounting proc": "held = call(165, b'proc', b'/tmp', b'proc', 0, None)",
    "leaving by chroot": "held = refused(os.chroot, '/tmp') and call(155, b'/tmp', b'/tmp')",
    "a namespace of its own": "held = call(272, 0x10000000) and call(272, 0x20000) and call(435, 0, 0)",
    "a namespace by clone": "held = call(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "unmounting": "held = libc.umount2(b'/usr', 2) != 0 and libc.umount2(b'/', 2) != 0",
    "writing again": "held = libc.mount(None, b'/usr', None, 32 | 4096, None) != 0 and refused(open, '/usr/x', 'w')",
    "files of the system": "held = all(refused(open, f, 'r+b') for f in (sys.executable, '/usr/bin/env', '/x'))",
    "a device": "held = refused(os.mknod, '/tmp/d', 0o60600, os.makedev(254, 0)) and not os.path.exists('/dev/vda')",
    "tracing": "held = call(101, 16, 1, 0, 0) and call(310, 1, 0, 0, 0, 0, 0)",
    "another's memory": "held = refused(open, '/proc/1/mem') and refused(open, '/dev/mem')",
    "an abstract socket": "s = socket.socket(socket.AF_UNIX)\nheld = refused(s.connect, '\\0' + ABSTRACT)",
    "a socket by its path": "s = socket.socket(socket.AF_UNIX)\nheld = refused(s.connect, DOOR)",
    "the network": "held = all(refused(socket.socket, f, t) for f in (2, 10, 16, 17, 38, 40) for t in (1, 2, 3))",
    "a datagram": "held = refused(lambda: socket.socket(2, 2).sendto(b'x', ('127.0.0.1', PORT)))",
    "a name": "held = refused(socket.getaddrinfo, 'example.org', 80)",
    "a program with more rights": "found = [os.path.join('/usr/bin', f) for f in os.listdir('/usr/bin')]\n"
    "found = [f for f in found if os.path.isfile(f) and os.stat(f).st_mode & 0o4000]\n"
    "held = os.statvfs('/usr').f_flag & 2 and os.getresuid() == (65534,) * 3 and libc.prctl(39, 0, 0, 0, 0) == 1",
    "becoming root": "held = refused(os.setuid, 0) and refused(os.setresuid, 0, 0, 0) and refused(os.setgroups, [0])",
    "what it inherits": "held = not [v for v in os.environ.values() if 'canary' in v]\n"
    "held &= all(refused(os.fstat, i) for i in range(5, 1024))",
    "the process that started it": "held = refused(os.kill, PROCESS, 0) and os.getppid() in (0, 1)",
    "limits raised": "import resource\n"
    "def up(kind):\n    try:\n        resource.setrlimit(kind, (1 << 40, 1 << 40))\n"
    "    except (ValueError, OSError):\n        return False\n    return True\n"
    "held = not any(map(up, (resource.RLIMIT_AS, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE)))",
    "a full disk": "def fill():\n    for i in range(9):\n        open(f'/tmp/{i}', 'wb').write(bytes(8 << 20))\n"
    "held = refused(fill)",
    "many files": "def fill():\n    for i in range(9999):\n        open(f'/tmp/f{i}', 'x').close()\n"
    "held = refused(fill)",
    "memory of the kernel's": "held = call(29, 0, 1 << 26, 0o1600) and call(319, b'x', 0) and call(425, 8, 0)",
    "keys": "held = call(250, 0, 0, 0) and call(248, b'user', b'x', b'y', 1, -3)",
    "calls of another width": "held = call(0x40000000 | 101, 16, 1, 0, 0)",
    "the mode of a device": "held = refused(os.chmod, '/dev/null', 0o666)",
    "signals to its group": "held = os.getpgid(0) > 0 and os.getsid(0) > 0",
    "process 1": "os.kill(1, signal.SIGINT)\nos.kill(1, signal.SIGKILL)\ntime.sleep(0.2)\nheld = os.getpid() > 1",
    "another's signal": "held = refused(os.kill, -1, signal.SIGCONT) or True\nheld &= not os.path.exists(SECRET)",
}
NUMBERED = [name for name, code in ATTACKS.items() if "call(" in code]


@pytest.fixture
def doors(tmp_path: Path) -> Iterator[dict[str, socket.socket]]:
    port, door, abstract = (socket.socket(family) for family in (socket.AF_INET, socket.AF_UNIX, socket.AF_UNIX))
    with port, door, abstract:
        port.bind(("127.0.0.1", 0))
        door.bind(str(tmp_path / "door"))
        abstract.bind("\0herd-attack-" + tmp_path.name + str(os.getpid()))
        for one in (port, door, abstract):
            one.listen()
            one.setblocking(False)
        yield {"port": port, "door": door, "abstract": abstract}


def test_attacks_are_held(
    tmp_path: Path, way: Way, doors: dict[str, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("a canary")
    monkeypatch.setenv("HERD_API_KEY", "a canary")
    told = {
        "SECRET": str(tmp_path / "secret"),
        "DOOR": str(tmp_path / "door"),
        "ABSTRACT": "herd-attack-" + tmp_path.name + str(os.getpid()),
        "PORT": doors["port"].getsockname()[1],
        "PROCESS": os.getpid(),
    }
    before = PRELUDE + "".join(f"{name} = {value!r}\n" for name, value in told.items())
    tried = [name for name in ATTACKS if X86 or name not in NUMBERED]
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        found = values(task_of(tmp_path, "assert held"), [before + ATTACKS[name] for name in tried])
    assert [name for name, value in zip(tried, found, strict=True) if value != 1.0] == []
    for door in doors.values():
        with pytest.raises(BlockingIOError):
            door.accept()
    assert {one.name for one in tmp_path.iterdir()} == {"secret", "door", "open", "code.toml"}


@pytest.mark.skipif(not X86, reason="machine code of another processor")
def test_calls_in_the_form_of_32_bits_end_the_process(tmp_path: Path, way: Way) -> None:
    code = PRELUDE + (
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
        "at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(at)()\nheld = True\n"
    )
    assert values(task_of(tmp_path, "assert held"), [code]) == [0.0]


def test_nothing_goes_on_after_its_verdict(tmp_path: Path, way: Way) -> None:
    code = (
        "import os, time, ctypes\nbegun, end = os.pipe()\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        ctypes.CDLL(None).prctl(15, b'herd-left-over', 0, 0, 0)\n        os.close(end)\n"
        "        time.sleep(600)\n    os._exit(0)\n"
        "os.close(end)\ndone = os.read(begun, 1) == b''\n"
    )
    assert values(task_of(tmp_path, "assert done"), [code]) == [1.0]
    until("the end of what it left", lambda: "herd-left-over" not in commands())


UNTIED = (
    "import ctypes, os, time\nlibc = ctypes.CDLL(None)\n"
    "try:\n    os.setsid()\nexcept OSError:\n    pass\n"
    "libc.prctl(1, 0, 0, 0, 0)\nlibc.prctl(15, NAME, 0, 0, 0)\ntime.sleep(600)\n"
)
"""Of a group of its own, and without the signal that ends it with its parent."""
HERE = f"herd-{os.getpid()}"
"""A name of a process that nothing else has, nor had in an earlier run."""


def test_nothing_outlives_its_time(way: Way) -> None:
    with pytest.raises(Late), way.started("sandbox_answer.py", 60) as child:
        child.exchange({"code": UNTIED.replace("NAME", f"b'{HERE}-u'")}, 0.7)
    until("the end of what took too long", lambda: f"{HERE}-u" not in commands())


def test_nothing_outlives_a_run_that_is_killed(way: Way) -> None:
    code = UNTIED.replace("NAME", f"b'{HERE}-o'")
    script = f"""if True:
        from herd.evals.sandbox import Way
        with Way({way.name!r}).started("sandbox_answer.py", 60) as child:
            child.exchange({{"code": {code!r}}}, 60)
    """
    with subprocess.Popen([sys.executable, "-c", script]) as run:
        until("the begin of what is left", lambda: f"{HERE}-o" in commands())
        run.kill()
    until("its end", lambda: f"{HERE}-o" not in commands())


def commands() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            found.add(path.read_text().strip())
        except OSError:
            continue
    return found


def test_canaries_see_what_is_not_held(tmp_path: Path) -> None:
    """Each of them, in a process without walls and without limits."""
    script = Path(sandbox.__file__).with_name("sandbox_canaries.py")
    with socket.create_server(("127.0.0.1", 0)) as port:
        told = {
            "secret": str(script),
            "home": str(tmp_path),
            "seen": [],
            "outside": str(tmp_path),
            "port": port.getsockname()[1],
            "unix": "",
            "abstract": "",
            "process": os.getpid(),
            "processes": sandbox.PROCESSES,
        }
        code = (
            "import json, sys; space = {'__name__': 'x'}; exec(open(sys.argv[1]).read(), space);"
            "print(json.dumps(space['tried'](json.loads(sys.argv[2]))))"
        )
        command = [sys.executable, "-c", code, str(script), json.dumps(told)]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert [name for name, how in found.items() if not how] == []
    assert "secret" not in found and len(found) == 7


class Plain(Way):
    """No walls."""

    def command(self, inner: Sequence[str], seconds: float) -> list[str]:
        return list(inner)


class Ending(Way):
    """Walls that do not stand."""

    def command(self, inner: Sequence[str], seconds: float) -> list[str]:
        return [sys.executable, "-c", 'print(\'{"broken": "unshare: Operation not permitted"}\')']


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([], "no namespaces and no bubblewrap on this system"),
        ([Ending("namespaces")], "namespaces unshare: Operation not permitted"),
        ([Plain("bubblewrap")], r"bubblewrap does not hold reading files \("),
        ([Plain("bubblewrap"), Ending("namespaces")], r"writing outside \(.*namespaces unshare"),
    ],
)
def test_a_task_is_refused_by_name_where_nothing_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Way], says: str
) -> None:
    monkeypatch.setattr(sandbox, "ways", lambda extra=(): found)
    with pytest.raises(Unsupported, match=says) as told, judging.opened(task_of(tmp_path)):
        pass
    assert str(told.value).startswith("task code: ") and "\n" not in str(told.value)


def test_the_way_that_bounds_files_too_comes_first() -> None:
    assert [one.name for one in sandbox.ways()][:1] == (["namespaces"] if sys.platform == "linux" else [])


def test_a_way_that_does_not_hold_is_passed_over(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "ways", lambda extra=(): [Plain("bubblewrap"), way])
    assert sandbox.chosen("x") is way


def test_a_sandbox_that_does_not_start_is_the_items_failure(
    tmp_path: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(tmp_path)
    with judging.opened(task) as judge:
        monkeypatch.setattr(Way, "command", Ending.command)
        with pytest.raises(PassFailed, match="the sandbox: got unshare: Operation not permitted"):
            judge.value(reply_of(ADD), task.items[0])


def test_tests_that_are_no_python_are_told_before_anything_is_asked(tmp_path: Path, way: Way) -> None:
    with pytest.raises(BadFile, match="item 0: tests: got SyntaxError"), judging.opened(task_of(tmp_path, "assert (")):
        pass


def test_a_python_that_lies_around_the_home_folder_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(Path.home().parent))
    for one in sandbox.ways():
        assert "holds the home folder, too" in sandbox.refusal(one)


def test_packages_that_lie_around_the_home_folder_are_not_shown() -> None:
    for one in sandbox.ways([str(Path.home().parent)]):
        assert "holds the home folder, too" in sandbox.refusal(one)


@pytest.mark.parametrize("home", ["/", "/tmp"])
def test_a_home_that_is_a_folder_of_the_system_is_no_reason_to_refuse(
    home: str, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    assert sandbox.refusal(way) == ""
