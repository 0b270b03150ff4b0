"""Tasks as data: a TOML file that says what is asked and how it is judged, beside a JSONL of items.

    name = "capitals"
    kind = "answer"                        bits_per_byte, choices, answer
    items = "capitals.jsonl"               a file beside it, one item a line; or [[item]] tables
    prompt = "Capital of {country}?"       fields of an item in braces
    checker = "includes"                   of an `answer` task, with `options` (`herd.evals.checkers`);
                                           or a .py file beside it (`herd.evals.programs`)

Limits come first: bytes, items, depth; a line that is broken is one error with its number. What it is not: a program.
Nothing is run here.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from herd.disk.small_files import parse_object, read_toml, safe_path
from herd.errors import BadFile, HerdError, NotFound, fail
from herd.evals import bfcl, needles, programs, reasoning
from herd.evals.checkers import CHECKERS, options_of
from herd.evals.needles import Needles
from herd.evals.programs import Program
from herd.evals.templates import Item, filled, parts
from herd.value_checks import nearest

MAX_TASK = 1 << 20
"""Bytes of a task's own file."""
MAX_FILE = 256 << 20
"""Bytes of a file of items."""
MAX_LINE = 1 << 20
"""Bytes of one item."""
MAX_ITEMS = 100_000
MAX_VALUES = 4_000_000
"""Values of all items, fields that nothing asks for included: each takes some 60 bytes of memory."""
MAX_CHOICES = 64
MAX_IMAGES = 16
"""Images of an item."""
MAX_IMAGE = 20 << 20
"""Bytes of an image."""
MAX_NAME = 200
"""Bytes of a name, which a folder is called after."""
BUILT_IN = Path(str(package_files("herd.evals").joinpath("smoke")))
METRICS: dict[str, tuple[str, ...]] = {
    "bits_per_byte": ("bits_per_byte",),
    "choices": ("accuracy", "accuracy_per_byte", "accuracy_per_token"),
    "answer": ("accuracy",),
}
"""What each kind is measured in; the first unless the task says."""


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task's file says, items aside."""

    name: str
    kind: Literal["bits_per_byte", "choices", "answer"]
    metric: str = ""
    prompt: str = ""
    separator: str = " "
    """What stands between the prompt and a choice."""
    system: str = ""
    shots: int = 0
    """Worked examples before each item, the same ones, drawn by the seed."""
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    checker: str = ""
    options: dict[str, Any] = {}
    licence: str = ""
    source: str = ""


class _File(Head, frozen=True, kw_only=True, forbid_unknown_fields=True):
    items: str = ""
    item: list[dict[str, Any]] = []
    needles: Needles | None = None
    example: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Task:
    """A task with its items, checked."""

    head: Head
    items: tuple[Item, ...]
    shots: tuple[Item, ...]
    """The worked examples that were drawn."""
    digest: str
    """SHA-256 of what is asked, of which items, and how it is judged."""
    program: Program | None = None
    """The checker, where it is a file of the person's own."""
    images: Mapping[str, Path] = field(default_factory=dict)
    """The files of images that items name."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.head.name

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.head.kind != "bits_per_byte"

    @property
    def options(self) -> Any:
        """Options of its checker, where it has one."""
        return options_of(self.head.checker, self.head.options)

    def chosen(self, limit: int | None = None) -> list[int]:
        """Numbers of the items that are asked where only so many are; a larger limit chooses these and more."""
        numbers = list(range(len(self.items)))
        if limit is None or limit >= len(numbers):
            return numbers
        random.Random(self.head.seed).shuffle(numbers)
        return numbers[:limit]


def built_in() -> list[str]:
    """Names of the tasks that come with Herd."""
    return sorted(path.stem for path in BUILT_IN.glob("*.toml"))


def find(name: str) -> Task:
    """A task by the name of one that comes with Herd, or by the path of its file. Raises NotFound, BadFile."""
    if name in built_in():
        return read(BUILT_IN / f"{name}.toml")
    source, colon, kind = name.partition(":")
    if colon and source == "bfcl":
        said = _File(name=f"bfcl-{kind}", kind="answer", prompt="{question}", checker="tool_call_any", max_tokens=1024)
        return _task(said, name, None, bfcl.items(kind))
    if colon and source == "reasoning-gym":
        kind, _, seed = kind.partition(":")
        if not seed.isdecimal() and seed:
            fail(NotFound, f"no task {name}", expected="reasoning-gym:NAME or reasoning-gym:NAME:SEED, a number")
        number = int(seed[:10] or 0)
        options = {"name": kind, "seed": number, "size": reasoning.SIZE}
        said = _File(
            name=f"reasoning-gym-{kind}",
            kind="answer",
            prompt="{question}\n\nEnd with the answer alone, between <answer> and </answer>.",
            checker="reasoning_gym",
            max_tokens=2048,
            options=options,
        )
        return _task(said, name, None, reasoning.items(kind, number))
    if not name.endswith(".toml"):
        near = nearest(name, built_in())
        do = f"did you mean {near}?" if near else "give one of these, or the path of a .toml file"
        fail(NotFound, f"no task {name}", expected=", ".join(built_in()), do=do)
    return read(Path(name))


def read(path: Path) -> Task:
    """The task of a file. Raises NotFound, and BadFile naming the file and line for what is none."""
    table = read_toml(path, path.name, max_bytes=MAX_TASK)
    if unknown := [one for one in table if one not in _File.__struct_fields__]:
        near = nearest(unknown[0], _File.__struct_fields__)
        known = near or ", ".join(_File.__struct_fields__)
        fail(BadFile, f"{path.name}: a field", got=unknown[0][:64], expected=known)
    if "kind" in table and table["kind"] not in list(METRICS):
        fail(BadFile, f"{path.name}: kind", got=str(table["kind"])[:64], expected=", ".join(METRICS))
    try:
        said = msgspec.convert(table, _File)
    except msgspec.ValidationError as error:
        fail(BadFile, f"{path.name}: {error}")
    return _task(said, path.name, path, _places(path, said))


def _task(said: _File, name: str, path: Path | None, places: Iterable[tuple[str, Item]]) -> Task:
    """A task of what its file says. path: of the file, which other files lie beside. Raises BadFile, NotFound."""
    program = None
    with _named(name):
        head = _checked(said)
        check = _checks(head)
        if path is not None and head.checker.endswith(programs.ENDING):
            program = programs.read(path.parent, head.checker)
    items = []
    images: dict[str, Path] = {}
    values = 0
    for place, item in places:
        with _named(place):
            check(item)
            for one in images_of(item):
                if head.kind != "answer" or path is None:
                    fail(BadFile, "image", got=one, expected="none: only answers are about images")
                images[one] = images.get(one) or _image(path, one)
        values += _values(item)
        if values > MAX_VALUES:
            fail(BadFile, place, got="more values in all", expected=f"at most {MAX_VALUES}")
        items.append(item)
    if not items:
        fail(BadFile, f"{name}: no items", do="name a file of them as items, or write [[item]] tables")
    for i, example in enumerate(said.example):
        with _named(f"{name}: example {i + 1}"):
            check(example)
            if head.kind == "answer" and "answer" not in example:
                fail(BadFile, "answer", got="none", expected="what a worked example says")
    shots = random.Random(head.seed).sample(said.example, head.shots)
    return Task(head, tuple(items), tuple(shots), _digest(head, items, shots, program, images), program, images)


@contextmanager
def _named(place: str) -> Iterator[None]:
    """A context whose errors name a place."""
    try:
        yield
    except BadFile as error:
        raise BadFile(f"{place}: {error}") from None


def _checked(said: _File) -> Head:
    """The head of a task, each field as it may be."""
    head = msgspec.convert({name: getattr(said, name) for name in Head.__struct_fields__}, Head)
    if (
        not 0 < len(head.name.encode()) <= MAX_NAME
        or len(head.name) > 64
        or not all(c.isalnum() or c in "-_" for c in head.name)
    ):
        fail(BadFile, "name", got=head.name, expected="1 to 64 letters, digits, - and _")
    metrics = METRICS[head.kind]
    if head.metric not in ("", *metrics):
        fail(BadFile, "metric", got=head.metric, expected=", ".join(metrics))
    for name, value, low, high in (
        ("shots", head.shots, 0, len(said.example)),
        ("max_tokens", head.max_tokens, 1, 1 << 20),
        ("seed", head.seed, 0, 1 << 31),
        ("temperature", head.temperature, 0, 2),
    ):
        if not low <= value <= high:
            fail(BadFile, name, got=value, expected=f"from {low} to {high}")
    if head.kind == "bits_per_byte":
        for name in ("prompt", "shots", "system", "checker"):
            if getattr(head, name):
                fail(BadFile, f"{name} of bits_per_byte", got=getattr(head, name), expected="documents alone")
    elif not head.prompt:
        fail(BadFile, "prompt", got="none", expected="a text with fields of an item in braces")
    known_checker = head.checker in ("", *CHECKERS) or head.checker.endswith(programs.ENDING)
    if (head.kind == "answer") != bool(head.checker) or not known_checker:
        names = ", ".join(CHECKERS) + ", or a file such as mine.py"
        known = names if head.kind == "answer" else "none: only answers are checked"
        fail(BadFile, "checker", got=head.checker or "none", expected=known)
    if head.checker in ("tool_call", "tool_call_any") and head.shots:
        fail(BadFile, "shots", got=head.shots, expected="none: an example says a text, and calls nothing")
    parts(head.prompt)
    if head.checker:
        options_of(head.checker, head.options)
    elif head.options:
        fail(BadFile, "options", got=", ".join(head.options), expected="none without a checker")
    return msgspec.structs.replace(head, metric=head.metric or metrics[0])


def _checks(head: Head) -> Callable[[Item], None]:
    """What refuses an item that is none of such a task."""
    if head.kind == "bits_per_byte":
        return _document

    def check(item: Item) -> None:
        _plain(item)
        filled(head.prompt, item)
        if head.kind == "choices":
            _choices(item)
        elif head.checker in CHECKERS:
            CHECKERS[head.checker].check(item)

    return check


def _plain(item: Item) -> None:
    """Raise BadFile for what no JSON can say: half a character, a number of thousands of digits."""
    try:
        msgspec.json.encode(item)
    except (ValueError, RecursionError) as error:
        fail(BadFile, "an item", got=str(error), expected="values that can be written as JSON")


def _document(item: Item) -> None:
    _plain(item)
    if not isinstance(item.get("text"), str) or not item["text"]:
        fail(BadFile, "text", got=item.get("text"), expected="a document")


def _choices(item: Item) -> None:
    given, answer = item.get("choices"), item.get("answer")
    if not isinstance(given, list) or not 2 <= len(given) <= MAX_CHOICES:
        fail(BadFile, "choices", got=given, expected=f"a list of 2 to {MAX_CHOICES} texts")
    if not all(isinstance(one, str) and one for one in given):
        fail(BadFile, "choices", got=given, expected="texts that are not empty")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(given):
        fail(BadFile, "answer", got=answer, expected=f"the number of a choice, from 0 to {len(given) - 1}")


def _places(path: Path, said: _File) -> Iterator[tuple[str, Item]]:
    """(where it stands, item) of each item."""
    if bool(said.items) + bool(said.item) + bool(said.needles) > 1:
        fail(BadFile, f"{path.name}: items", got="a file and tables", expected="one of items, [[item]] and [needles]")
    if said.needles is not None:
        with _named(f"{path.name}: needles"):
            made = needles.items(said.needles, _text(path, said.needles.text), said.seed)
            yield from ((f"{path.name}: item {i + 1}", item) for i, item in enumerate(made))
        return
    if not said.items:
        yield from ((f"{path.name}: item {i + 1}", item) for i, item in enumerate(said.item))
        return
    try:
        file = safe_path(path.absolute().parent, said.items)
    except HerdError as error:
        _no_items(path, error)
    if file.stat().st_size > MAX_FILE:
        fail(BadFile, f"{file.name}: size", got=f"{file.stat().st_size} bytes", expected=f"at most {MAX_FILE}")
    with file.open("rb") as opened:
        for number, line in enumerate(iter(lambda: opened.readline(MAX_LINE + 1), b""), 1):
            place = f"{file.name}, line {number}"
            if number > MAX_ITEMS:
                fail(BadFile, place, got="more items", expected=f"at most {MAX_ITEMS}")
            if len(line) > MAX_LINE:
                fail(BadFile, place, got="a longer line", expected=f"at most {MAX_LINE} bytes")
            if line.strip():
                yield place, parse_object(line, place)


def images_of(item: Item) -> list[str]:
    """The names of an item's images. Raises BadFile for what is none."""
    given = item.get("image", [])
    names = given if isinstance(given, list) else [given]
    if len(names) > MAX_IMAGES or not all(isinstance(one, str) and one for one in names):
        fail(BadFile, "image", got=given, expected=f"the name of a file, or a list of at most {MAX_IMAGES}")
    return names


def _image(path: Path, name: str) -> Path:
    """The file of an image beside a task's file. Raises BadFile, NotFound."""
    try:
        file = safe_path(path.absolute().parent, name)
    except HerdError as error:
        raise BadFile(f"image: {error}") from None
    if file.stat().st_size > MAX_IMAGE:
        fail(BadFile, f"{name}: size", got=f"{file.stat().st_size} bytes", expected=f"at most {MAX_IMAGE}")
    return file


def _text(path: Path, name: str) -> str:
    """A text beside a task's file. Raises BadFile, NotFound."""
    if not name:
        return ""
    file = safe_path(path.absolute().parent, name)
    if file.stat().st_size > needles.MAX_TEXT:
        fail(BadFile, f"{name}: size", got=f"{file.stat().st_size} bytes", expected=f"at most {needles.MAX_TEXT}")
    try:
        found = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        fail(BadFile, f"{name}: not UTF-8 at byte {error.start}")
    if not found.strip(" .\n\r\t"):
        fail(BadFile, name, got="nothing", expected="a text")
    return found


def _no_items(path: Path, error: HerdError) -> NoReturn:
    fail(NotFound if isinstance(error, NotFound) else BadFile, f"{path.name}: items: {error}")


def _values(value: Any) -> int:
    """How many values one holds, itself among them."""
    held = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_values, held))


def _digest(
    head: Head, items: Sequence[Item], shots: Sequence[Item], program: Program | None, images: Mapping[str, Path]
) -> str:
    told = {name: getattr(head, name) for name in Head.__struct_fields__ if name not in ("licence", "source")}
    parts: list[Any] = [told, items, shots, *([program.digest] if program else [])]
    if images:
        parts.append({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in images.items()})
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
